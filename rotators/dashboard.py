"""The page: where secrets stand -> HTML. Pure; `dashboard_requests` reads what a browser asks and does it."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

from rotators.diagnosis import Finding, Result
from rotators.outcome import Outcome, TaskRef, timestamp
from rotators.policy import AdminEntra, AdminSecret, AdminSelf, Cause, RotationPolicy, RotationState
from rotators.standing import Standing, State, clock
from rotators.vault import SecretVersion

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_GRAVITY: tuple[Result, ...] = ("mend", "remark", "not tried", "fine")
DAYS_AHEAD = 30
# More would be read by nobody, and weigh a megabyte.
ROWS_A_PAGE = 500
STATES = get_args(State)
NEEDS_A_HAND = "needs a hand"
_CAUSES: Mapping[Cause, str] = {
    "near-expiry": "Key Vault's near-expiry event",
    "expired": "Key Vault's expired event",
    "http": "by hand",
    "sweep": "the sweep",
    "requested": "a request over the topic",
    "reconcile": "a version written by a person, taken over",
    "rollback": "a rollback",
}


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of this page. A function key that came in the address goes along, since a link has no headers."""

    code: str = ""

    def to(self, **parts: object) -> str:
        """Return a relative address, so that it is right behind every route prefix and proxy."""
        query = {name: value for name, value in parts.items() if value}
        return "?" + urlencode({**query, **({"code": self.code} if self.code else {})})


@dataclass(frozen=True, slots=True)
class Shown:
    """What of the secrets is shown.

    Attributes:
        words: what a secret's name, tags or connection must have.
        state: a state, `NEEDS_A_HAND`, or "" for all.
        day: whose rotations, retirements and expiries.
        sort: "urgency", "due" or "name".
        page: from 1 on.
    """

    words: str = ""
    state: str = ""
    day: date | None = None
    sort: str = "urgency"
    page: int = 1


@dataclass(frozen=True, slots=True)
class TaskList:
    """Tasks that Airflow was asked about."""

    title: str
    tasks: tuple[TaskRef, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was asked live of database and Airflow; a part that did not answer says so in its findings."""

    at: datetime
    findings: tuple[Finding, ...]
    tasks: tuple[TaskList, ...] = ()

    @property
    def gravest_first(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: _GRAVITY.index(finding.result))

    @property
    def summary(self) -> str:
        """Return how many there are of each: `1 to mend, 4 remarks, 24 fine`."""
        counts = Counter(finding.result for finding in self.findings)
        words = {"mend": "to mend", "remark": "remark" if counts["remark"] == 1 else "remarks"}
        return ", ".join(f"{counts[result]} {words.get(result, result)}" for result in _GRAVITY if counts[result])


@dataclass(frozen=True, slots=True)
class Notice:
    """What a button did."""

    title: str
    lines: tuple[str, ...] = ()
    is_good: bool = True


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a secret stands between two rotations, in percent of the way."""

    gone: int
    grace: int
    label: str


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar."""

    day: date
    rotations: int
    retirements: int
    expiries: int
    height: int

    @property
    def label(self) -> str:
        parts = (
            _count(self.rotations, "rotation"),
            _count(self.retirements, "retirement"),
            _count(self.expiries, "expiry", "expiries"),
        )
        return f"{self.day:%a} {self.day.day} {self.day:%b}: {', '.join(filter(None, parts)) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Button:
    """What can be done with a secret. The token says what, and that this page offered it."""

    label: str
    token: str
    is_main: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A confirmation: what will happen, and the buttons that make it so (none where it cannot)."""

    secret: str
    title: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    buttons: tuple[Button, ...] = ()
    asks_reason: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in a secret's timeline, and what its rotation did."""

    version: SecretVersion
    is_current: bool
    title: str
    by: str
    lines: tuple[str, ...] = field(default=())


# -- the pages ------------------------------------------------------------------------------------------------


def overview_page(standings: Iterable[Standing], shown: Shown, *, prefix: str, links: Links, now: datetime) -> str:
    """Return all managed secrets: what needs a hand on top, the next 30 days, and the table.

    `prefix` is what most names begin with: it is shown small.
    """
    everything = list(standings)
    found = [s for s in everything if _has_words(s, shown.words) and _is_of_day(s, shown.day, now)]
    counts = Counter(s.state for s in found)
    rows = sorted((s for s in found if _is_of_state(s, shown.state)), key=lambda s: _order(s, shown.sort))
    first = (shown.page - 1) * ROWS_A_PAGE
    needing = [s for s in sorted(everything, key=lambda s: _order(s, "urgency")) if s.needs]
    return _render(
        "overview.html",
        links=links,
        now=now,
        shown=shown,
        prefix=prefix,
        all=len(everything),
        found=len(rows),
        rows=rows[first : first + ROWS_A_PAGE],
        pages=max(1, -(-len(rows) // ROWS_A_PAGE)),
        needing=needing,
        chips=[("", "all", len(found)), (NEEDS_A_HAND, NEEDS_A_HAND, sum(bool(s.needs) for s in found))]
        + [(state, state, counts[state]) for state in STATES],
        days=calendar(everything, now),
    )


def secret_page(  # noqa: PLR0913 (what it shows)
    name: str,
    standing: Standing | None,
    versions: Sequence[SecretVersion],
    *,
    buttons: Sequence[Button],
    checked: Checked | None,
    notice: Notice | None,
    links: Links,
    now: datetime,
) -> str:
    """Return one secret: state, policy, what can be done, and its versions, newest first, as a timeline."""
    return _render(
        "secret.html",
        links=links,
        now=now,
        name=name,
        standing=standing,
        policy=_facts(standing.policy) if standing and standing.policy else (),
        timeline=timeline(versions, now),
        buttons=buttons,
        checked=checked,
        notice=notice,
    )


def question_page(question: Question, *, links: Links, now: datetime) -> str:
    """Return what will happen, and the button that confirms it."""
    return _render("question.html", links=links, now=now, question=question)


def trouble_page(title: str, detail: str, *, secret: str, links: Links, now: datetime) -> str:
    """Return what went wrong and how to mend it."""
    return _render("trouble.html", links=links, now=now, title=title, detail=detail, secret=secret)


@cache
def content_security_policy() -> str:
    """Return the policy that the page is sent with: our style and script by their hashes, and nothing else."""
    style, script = (f"'sha256-{_hash(_text(name))}'" for name in ("page.css", "page.js"))
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


# -- what stands on them --------------------------------------------------------------------------------------


def bar(standing: Standing, now: datetime) -> Bar | None:
    """Return how much of the way from one rotation to the next is gone; None where no due date is known."""
    if standing.due is None:
        return None
    way = max(standing.due - standing.created, timedelta(seconds=1))
    gone = min(100, max(0, round(100 * ((now - standing.created) / way))))
    rotation, grace = standing.rotation, 0
    if rotation is not None and rotation.retire_at is not None and not rotation.revokes:
        grace = min(100, max(0, round(100 * ((rotation.retire_at - standing.created) / way))))
    label = f"{gone} % of the way to the next rotation"
    return Bar(gone, grace, f"{label}; the old credential is usable for the first {grace} %" if grace else label)


def last_outcome(standing: Standing) -> str:
    """Return in words what the program last did with a secret, as far as its tags tell."""
    rotation = standing.rotation
    if rotation is None:
        return "not yet"
    return f"{_CAUSES[rotation.cause]}, {_by(rotation.by)}"


def old_credential(rotation: RotationState | None, now: datetime) -> tuple[str, datetime | None]:
    """Return in words, and when, what becomes of the credential of before."""
    if rotation is None or rotation.retire_at is None:
        return "none", None
    if rotation.retired is not None:
        return ("revoked" if rotation.revokes else "retired"), rotation.retired
    if rotation.revokes:
        return "to be revoked since", rotation.retire_at
    return ("usable until" if now < rotation.retire_at else "to be retired since"), rotation.retire_at


def refresh(standing: Standing) -> str:
    """Return in words whether Airflow was refreshed, as far as the tags tell."""
    if standing.policy is None:
        return "unknown"
    if standing.policy.connection_id is None:
        return "no part in it"
    if standing.rotation is None:
        return "nothing to do yet"
    return "refresh pending" if "refresh" in standing.rotation.pending else "nothing pending"


def calendar(standings: Iterable[Standing], now: datetime) -> tuple[Day, ...]:
    """Return the next 30 days (UTC), today first; what is due already counts today."""
    days = [_day_of(now) + timedelta(days=n) for n in range(DAYS_AHEAD)]
    rotations, retirements, expiries = Counter[date](), Counter[date](), Counter[date]()
    for standing in standings:
        rotations.update(_rotates_on(standing, now))
        retirements.update(_retires_on(standing))
        expiries.update(_expires_on(standing))
    most = max((rotations[d] + retirements[d] + expiries[d] for d in days), default=0)
    return tuple(
        Day(
            d,
            rotations[d],
            retirements[d],
            expiries[d],
            -(-100 * (rotations[d] + retirements[d] + expiries[d]) // most) if most else 0,
        )
        for d in days
    )


def timeline(versions: Sequence[SecretVersion], now: datetime) -> tuple[Entry, ...]:
    """Return a secret's versions, given newest first, with what their rotations did."""
    known = {version.version for version in versions}
    return tuple(_entry(version, known, is_current=n == 0, now=now) for n, version in enumerate(versions))


def _entry(version: SecretVersion, known: set[str], *, is_current: bool, now: datetime) -> Entry:
    state, lines = version.state, []
    if version.expires is not None:
        lines.append(f"{'expires' if version.expires > now else 'expired'} {clock(version.expires)}")
    if state is None:
        return Entry(version, is_current, "written by a person", "", tuple(lines))
    if state.from_version is not None:
        gone = "" if state.from_version in known else ", which is not listed any more"
        lines.append(f"took the place of {state.from_version}{gone}")
    if state.reason:
        lines.append(f"asked for because: {state.reason}")
    if state.pending:
        steps = " and ".join(state.pending)
        lines.append(f"still to do: {steps}" if is_current else f"was overtaken with this still to do: {steps}")
    words, when = old_credential(state, now)
    if when is not None:
        overtaken = not is_current and state.retired is None
        lines.append(f"the credential of before: {words} {clock(when)}" + (" (overtaken)" if overtaken else ""))
    lines.append(f"rotation {state.id}")
    return Entry(version, is_current, _CAUSES[state.cause], _by(state.by), tuple(lines))


def plan_lines(plan: Outcome, policy: RotationPolicy, *, airflow: str | None, now: datetime) -> tuple[str, ...]:
    """Return in sentences what a rotation will do that was planned; `airflow` is what happens to copies there."""
    lines = []
    is_alternating = plan.strategy == "alternating-users"
    if is_alternating:
        lines.append(f"User {plan.user} gets a new password. The user that is in use now is not touched.")
    else:
        lines.append(f"User {plan.user} gets a new password. The one of now stops to log in; open sessions stay.")
    tried = ", after it has logged in" if is_alternating else ""
    expires = f" It expires {clock(plan.expires_on)} UTC." if plan.expires_on is not None else ""
    lines.append(f"A new version of the secret is written{tried}.{expires}")
    if airflow is not None and policy.connection_id is not None:
        copies = {"clear": "deleted", "update": "updated", "keep": "kept"}[airflow]
        lines.append(
            f"In Airflow, copies of connection {policy.connection_id} are {copies}, and the tasks that failed on the "
            "old credential run again."
        )
    if plan.retire_at is not None and plan.retire_at > now:
        what = (
            "The user of now is locked out, and its version disabled," if is_alternating else "Its version is disabled"
        )
        lines.append(f"{what} after {clock(plan.retire_at)} UTC.")
    return tuple(lines)


def outcome_notice(outcome: Outcome, *, now: datetime) -> Notice:
    """Return in sentences what a rotation did, for the page that is shown after it."""
    lines = [f"why: {outcome.reason}"]
    if outcome.version and outcome.status != "skipped":
        lines.append(
            f"version {outcome.version}, user {outcome.user}" if outcome.user else f"version {outcome.version}"
        )
    if (report := outcome.airflow) is not None and report.status != "none":
        tasks = sum(len(run.tasks) for run in report.retried)
        lines.append(
            f"Airflow: {report.status}; copy of the connection {report.connection or 'not looked at'}; {tasks} tasks "
            f"retried, {len(report.suspected)} suspected, {len(report.unknown)} unknown, {report.examined} examined"
        )
    lines += outcome.warnings
    title = {"rotated": "Rotated", "resumed": "Finished", "skipped": "Nothing was done"}.get(outcome.status, "Done")
    is_good = outcome.status in ("rotated", "resumed") and not outcome.warnings
    return Notice(f"{title}, {now.astimezone(UTC):%H:%M:%S} UTC", tuple(lines), is_good)


def _facts(policy: RotationPolicy) -> tuple[tuple[str, str], ...]:
    match policy.admin:
        case AdminSecret(name):
            admin = f"secret {name}"
        case AdminEntra(login):
            admin = f"{login}, by the managed identity"
        case AdminSelf():
            admin = "the user itself"
    window = f"{policy.window.cron} for {_length(policy.window.length)}, UTC" if policy.window else "always"
    return (
        ("Strategy", policy.strategy),
        ("Users", " and ".join(policy.users) if policy.users else "the secret's own, and the same with _alt"),
        ("Changed by", admin),
        ("Every", _length(policy.every)),
        ("A version lives", _length(policy.validity)),
        ("Grace of the old credential", _length(policy.grace)),
        ("Window", window),
        ("While sessions use it", "wait" if policy.waits_for_sessions else "proceed"),
        ("Airflow connection", policy.connection_id or "none"),
        ("Airflow DAGs", ", ".join(policy.dags) or "all"),
    )


# -- search, filter, order ------------------------------------------------------------------------------------


def _has_words(standing: Standing, words: str) -> bool:
    policy = standing.policy
    text = f"{standing.secret} {standing.next_step}"
    if policy is not None:
        text += f" {policy.strategy} {policy.connection_id or ''} {' '.join(policy.users or ())} {policy.admin}"
    return all(word in text.casefold() for word in words.casefold().split())


def _is_of_state(standing: Standing, state: str) -> bool:
    return not state or state == standing.state or (state == NEEDS_A_HAND and bool(standing.needs))


def _is_of_day(standing: Standing, day: date | None, now: datetime) -> bool:
    return day is None or day in (*_rotates_on(standing, now), *_retires_on(standing), *_expires_on(standing))


def _order(standing: Standing, sort: str) -> tuple[object, ...]:
    far = datetime.max.replace(tzinfo=UTC)
    due = standing.planned or far
    if sort == "name":
        return (standing.secret.casefold(),)
    if sort == "due":
        return due, standing.secret.casefold()
    return not standing.needs, STATES.index(standing.state), due, standing.secret.casefold()


def _rotates_on(standing: Standing, now: datetime) -> tuple[date, ...]:
    if standing.planned is None or standing.state in ("paused", "failed"):
        return ()
    return (_day_of(max(standing.planned, now)),)


def _retires_on(standing: Standing) -> tuple[date, ...]:
    rotation = standing.rotation
    if rotation is None or rotation.retire_at is None or rotation.retired is not None:
        return ()
    return (_day_of(rotation.retire_at),)


def _expires_on(standing: Standing) -> tuple[date, ...]:
    return () if standing.expires is None else (_day_of(standing.expires),)


# -- words ----------------------------------------------------------------------------------------------------


def _by(who: str) -> str:
    return "somebody with a key" if who == "key" else who or "nobody named"


def _day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _name_parts(name: str, prefix: str) -> tuple[str, str]:
    """Return what a name has in common with the others, and what tells it from them."""
    begin = len(prefix) + 1 if name.lower().startswith(f"{prefix}-".lower()) else 0
    return name[:begin], name[begin:]


def _length(duration: timedelta) -> str:
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if duration >= length and duration % length == timedelta():
            return _count(duration // length, unit)
    return _count(duration // timedelta(minutes=1), "minute")


def _distance(moment: datetime, now: datetime) -> str:
    """Return how far away a moment is, in the largest unit that says something."""
    far = abs(moment - now)
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if far >= (2 * length if unit != "minute" else length):
            words = _count(far // length, unit)
            return f"in {words}" if moment > now else f"{words} ago"
    return "now"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}" if number else ""


# -- Jinja ----------------------------------------------------------------------------------------------------


def _render(template: str, **values: Any) -> str:  # Any: what templates show
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "Environment":
    # A start by an event or the timer need not pay for it: a thirtieth, without bytecode several times that.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # what is deployed does not change
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "bar": bar,
        "name_parts": _name_parts,
        "last_outcome": last_outcome,
        "old_credential": old_credential,
        "refresh": refresh,
        # Our own files, not anybody's words: the only text that is not escaped.
        "style": Markup(_text("page.css")),  # noqa: S704
        "script": Markup(_text("page.js")),  # noqa: S704
        "sorts": ("urgency", "due", "name"),
        "choices": (NEEDS_A_HAND, *STATES),
    }
    environment.filters |= {"clock": clock, "distance": _distance, "iso": timestamp}
    return environment


@cache
def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
