"""What a browser asks of the page, and what is done about it: look, ask what would happen, then do it.

Every button is a form with one signed token that says what it does: the page that offered it is the only one that can
make it so. First comes a question that says what will happen, from a dry run of that very thing; then the act, which
answers 303, so that loading the page again does not do it again.
"""

import base64
import hashlib
import hmac
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from rotators import dashboard
from rotators.access import Managed, logged_in, look_up
from rotators.api import LONGEST_BODY_BYTES, caller, check_secret_name
from rotators.dashboard import Button, Checked, Links, Notice, Question, Shown, TaskList
from rotators.databases import UserSession
from rotators.decision import LONGEST_REASON, Trigger
from rotators.diagnosis import Finding, Result
from rotators.doctor import examine
from rotators.errors import BadRequestError, CrossSiteError, RotationError, SecretNotFoundError, TransientError
from rotators.history import in_order
from rotators.pause import set_enabled
from rotators.policy import RotationState, read_policy
from rotators.rotation import rotate, rotated_connection
from rotators.standing import Standing, clock, stand
from rotators.systems import Systems
from rotators.vault import SecretVersion

# A page left open longer asks again: what it said may no longer be so.
OFFERED_FOR = timedelta(hours=1)
# Between two instances.
_CLOCKS_DIFFER = timedelta(minutes=1)
# Of a notice, which travels in an address.
_MOST_LINES = 8
_LONGEST_LINE = 300

Act = Literal["rotate", "force", "dry-run", "pause", "resume", "check"]


@dataclass(frozen=True, slots=True)
class BrowserRequest:
    """What a browser sent; `headers` are looked up without regard to case."""

    method: str
    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """What goes back to a browser."""

    status: HTTPStatus
    text: str
    headers: Mapping[str, str]
    content_type: str = "text/html"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a button does. `is_confirmed`: the question was asked, and this is the answer.

    `id` is the rotation's, chosen when the question is asked: however often the answer is sent, it rotates once.
    """

    act: Act
    secret: str
    by: str
    is_confirmed: bool = False
    id: str = ""


class Seal:
    """Signs what travels through the browser and comes back.

    The key is the function key of the request: every instance knows it, whoever may call this page has it, and another
    site does not. Where the host asks for no key (`func start`), anybody could sign; then it is `check_same_site` alone
    that keeps other sites out.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def seal(self, purpose: str, content: Mapping[str, object], now: datetime) -> str:
        text = json.dumps({**content, "at": now.timestamp()}, separators=(",", ":")).encode()
        return f"{_base64(text)}.{self._mac(purpose, text)}"

    def open(self, purpose: str, sealed: str, now: datetime) -> Mapping[str, object]:
        """Return the content. Raise CrossSiteError if it was not sealed with this key, or too long ago."""
        encoded, _, mac = sealed.partition(".")
        try:
            text = base64.urlsafe_b64decode(encoded)
        except ValueError:
            text = b""
        if not hmac.compare_digest(mac.encode(), self._mac(purpose, text).encode()):
            raise CrossSiteError(
                "this was not offered by this page, or with another function key; open it and begin again"
            )
        content = json.loads(text)
        if not -_CLOCKS_DIFFER <= now - datetime.fromtimestamp(content.pop("at"), UTC) <= OFFERED_FOR:
            raise CrossSiteError("this was offered more than an hour ago; open the secret's page and begin again")
        return dict(content)

    def _mac(self, purpose: str, text: bytes) -> str:
        return _base64(hmac.digest(self._key, purpose.encode() + b"\0" + text, hashlib.sha256))


@dataclass(frozen=True, slots=True)
class _Visit:
    """One request, and what answers to it need."""

    systems: Systems
    request: BrowserRequest
    seal: Seal
    links: Links
    now: datetime

    @classmethod
    def of(cls, systems: Systems, request: BrowserRequest) -> Self:
        return cls(systems, request, Seal(_key(request)), _links(request), systems.now())

    @property
    def by(self) -> str:
        return caller(self.request.headers, trust_principal=self.systems.settings.trust_principal)

    def offer(self, label: str, offer: Offer, *, is_main: bool = False) -> Button:
        return Button(label, self.seal.seal("offer", asdict(offer), self.now), is_main)

    def standing(self, version: SecretVersion) -> Standing | None:
        settings = self.systems.settings
        return stand(version, prefix=settings.connections_prefix, now=self.now, sweeps=settings.sweeps)


def answer(systems: Callable[[], Systems], request: BrowserRequest) -> Page:
    """Return the page that a browser asks for; what is wrong is a page as well."""
    secret = request.query.get("secret", "")
    try:
        visit = _Visit.of(systems(), request)
        if request.method == "POST":
            return _act(visit)
        return _show_secret(visit, secret) if secret else _overview(visit)
    except RotationError as error:
        headers = {}
        if isinstance(error, TransientError):
            headers["Retry-After"] = str(math.ceil(error.retry_after.total_seconds()))
        text = dashboard.trouble_page(
            error.title, str(error), secret=secret, links=_links(request), now=datetime.now(UTC)
        )
        return _page(text, status=error.status, headers=headers)


# -- look -----------------------------------------------------------------------------------------------------


def _overview(visit: _Visit) -> Page:
    """The list with its tags is enough: 25 secrets a request, and none for a secret."""
    standings = [s for version in visit.systems.vault.secrets() if (s := visit.standing(version)) is not None]
    prefix, shown = visit.systems.settings.connections_prefix, _shown(visit.request.query)
    return _page(dashboard.overview_page(standings, shown, prefix=prefix, links=visit.links, now=visit.now))


def _shown(query: Mapping[str, str]) -> Shown:
    """Read what is to be shown; what makes no sense is as good as not asked for."""
    state, sort, page = query.get("state", ""), query.get("sort", ""), query.get("page", "")
    try:
        day = date.fromisoformat(query.get("day", ""))
    except ValueError:
        day = None
    return Shown(
        words=query.get("q", "")[:200],
        state=state if state in (dashboard.NEEDS_A_HAND, *dashboard.STATES) else "",
        day=day,
        sort=sort if sort in ("due", "name") else "urgency",
        page=int(page) if page.isdecimal() and 0 < len(page) < 5 and int(page) else 1,  # noqa: PLR2004
    )


def _show_secret(visit: _Visit, secret: str, *, checked: Checked | None = None) -> Page:
    check_secret_name(secret)
    versions = versions_of(visit.systems, secret)
    standing = visit.standing(versions[0])
    notice = None
    if (said := visit.request.query.get("said")) is not None:
        notice = _notice(visit, secret, said)
    text = dashboard.secret_page(
        secret,
        standing,
        versions,
        buttons=_buttons(visit, secret, standing),
        checked=checked,
        notice=notice,
        links=visit.links,
        now=visit.now,
    )
    return _page(text)


def _buttons(visit: _Visit, secret: str, standing: Standing | None) -> list[Button]:
    def button(label: str, act: Act, *, is_main: bool = False) -> Button:
        return visit.offer(label, Offer(act, secret, visit.by), is_main=is_main)

    if standing is None:
        return []
    buttons = [button("Check", "check")]
    if standing.policy is not None:
        buttons = [
            button("Rotate…", "rotate", is_main=True),
            button("Dry run", "dry-run"),
            button("Pause…", "pause") if standing.policy.enabled else button("Resume…", "resume"),
            *buttons,
        ]
    return buttons


def _notice(visit: _Visit, secret: str, said: str) -> Notice | None:
    """Read what an act has left to say; only this page can make such words, and for a while only."""
    try:
        content = visit.seal.open("said", said, visit.now)
    except CrossSiteError:
        return None
    if content["secret"] != secret:
        return None
    lines = content["lines"]
    return Notice(
        str(content["title"]), tuple(map(str, lines)) if isinstance(lines, list) else (), content["good"] is True
    )


# -- act ------------------------------------------------------------------------------------------------------


def check_same_site(request: BrowserRequest) -> None:
    """Raise CrossSiteError unless the browser says that a page of this very site sent the form.

    `Sec-Fetch-Site` cannot be set by a page, and is right behind every proxy. An old browser sends `Origin` alone.
    """
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = request.headers.get("origin", "").lower()
        # As browsers write it: a scheme and a host, and no path.
        is_ours = bool(origin) and origin.partition("://")[2] == urlsplit(request.url).netloc.lower()
    else:
        is_ours = site == "same-origin"
    if not is_ours:
        raise CrossSiteError(
            "a form of another site, or of no site, asked for this, so nothing was done; open this page yourself, or "
            "use the HTTP API"
        )


def _act(visit: _Visit) -> Page:
    """Do what a button says, or ask before it."""
    check_same_site(visit.request)
    form = _read_form(visit.request)
    offer = Offer(**visit.seal.open("offer", form.get("token", ""), visit.now))  # type: ignore[arg-type]  # we made it
    if offer.by != visit.by:
        raise CrossSiteError("this was offered to somebody else; open the secret's page and begin again")
    match offer.act, offer.is_confirmed:
        case "check", _:
            checked = check(visit.systems, offer.secret)
            return _show_secret(visit, offer.secret, checked=checked)
        case (("rotate" | "force" | "dry-run"), False):
            return _ask_rotation(visit, offer)
        case (("rotate" | "force"), True):
            return _rotate(visit, offer, form.get("reason", ""))
        case (("pause" | "resume"), False):
            return _ask_pause(visit, offer)
        case (("pause" | "resume"), True):
            is_resumed = offer.act == "resume"
            set_enabled(visit.systems, offer.secret, enabled=is_resumed, by=visit.by)
            title = f"{'Resumed' if is_resumed else 'Paused'}, {visit.now:%H:%M:%S} UTC"
            return _said(visit, offer.secret, Notice(title))
        case _:
            raise BadRequestError("this button does nothing; open the secret's page and begin again")


def _read_form(request: BrowserRequest) -> dict[str, str]:
    if len(request.body) > LONGEST_BODY_BYTES:
        raise BadRequestError(f"the form has more than {LONGEST_BODY_BYTES} bytes")
    try:
        fields = parse_qs(request.body.decode(), max_num_fields=10)
    except ValueError:
        fields = {}
    return {name: values[0] for name, values in fields.items()}


def _ask_rotation(visit: _Visit, offer: Offer) -> Page:
    """Plan it, and say what will happen; where it is refused, say why, and offer to force what can be forced."""
    is_forced = offer.act == "force"
    plan = rotate(visit.systems, _trigger(offer, "dry run from the dashboard", dry_run=True))
    policy = read_policy(
        offer.secret, versions_of(visit.systems, offer.secret)[0].tags, prefix=visit.systems.settings.connections_prefix
    )
    title = "Dry run" if offer.act == "dry-run" else "Rotate now?" if plan.status == "planned" else "Not now"
    confirmed = Offer(
        "force" if is_forced else "rotate", offer.secret, offer.by, is_confirmed=True, id=str(uuid.uuid4())
    )
    buttons: list[Button] = []
    warnings = list(plan.warnings)
    lines: tuple[str, ...] = (f"It cannot be rotated now: {plan.reason}.",)
    if plan.status == "planned" and policy is not None and plan.version is None:
        airflow = visit.systems.settings.airflow
        lines = dashboard.plan_lines(plan, policy, airflow=airflow.connections if airflow else None, now=visit.now)
        buttons = [visit.offer("Rotate now", confirmed, is_main=True)]
    elif plan.status == "planned":
        lines = (f"What an earlier rotation left is finished: {plan.reason}.",)
        buttons = [visit.offer("Finish it now", confirmed, is_main=True)]
    elif plan.obstacle in ("paused", "in grace"):
        buttons = [visit.offer("Plan it with force…", Offer("force", offer.secret, offer.by))]
    if is_forced:
        title = "Rotate now, with force?"
        warnings.append(
            "With force it is rotated although it is paused or the other user is in its grace: who still uses that "
            "user's password can log in no more."
        )
    question = Question(
        offer.secret, title, lines, tuple(warnings), tuple(buttons), asks_reason=plan.status == "planned"
    )
    return _page(dashboard.question_page(question, links=visit.links, now=visit.now))


def _rotate(visit: _Visit, offer: Offer, reason: str) -> Page:
    outcome = rotate(visit.systems, _trigger(offer, reason.strip()[:LONGEST_REASON]))
    return _said(visit, offer.secret, dashboard.outcome_notice(outcome, now=visit.systems.now()))


def _trigger(offer: Offer, reason: str, *, dry_run: bool = False) -> Trigger:
    return Trigger(
        kind="http",
        secret=offer.secret,
        id=offer.id or str(uuid.uuid4()),
        by=offer.by,
        force=offer.act == "force",
        dry_run=dry_run,
        reason=reason,
        is_repeatable=offer.is_confirmed,
    )


def _ask_pause(visit: _Visit, offer: Offer) -> Page:
    if offer.act == "pause":
        title, label = "Pause its rotation?", "Pause"
        lines = [
            "The tag rotation-enabled of the current version becomes false. Nothing else changes.",
            "From then on events and the sweep pass it over: nothing is rotated, retired or refreshed in Airflow.",
            "It goes on working, and expires when it expires.",
        ]
    else:
        title, label = "Resume its rotation?", "Resume"
        lines = [
            "The tag rotation-enabled of the current version becomes true. Nothing else changes.",
            "What is due, pending or to be retired is done by the next sweep.",
        ]
    confirmed = Offer(offer.act, offer.secret, offer.by, is_confirmed=True)
    question = Question(offer.secret, title, tuple(lines), buttons=(visit.offer(label, confirmed, is_main=True),))
    return _page(dashboard.question_page(question, links=visit.links, now=visit.now))


def _said(visit: _Visit, secret: str, notice: Notice) -> Page:
    """Send the browser to the secret's page, with what there is to say."""
    lines = [line[:_LONGEST_LINE] for line in notice.lines[:_MOST_LINES]]
    said = visit.seal.seal(
        "said", {"secret": secret, "title": notice.title, "lines": lines, "good": notice.is_good}, visit.now
    )
    return _page("", status=HTTPStatus.SEE_OTHER, headers={"Location": visit.links.to(secret=secret, said=said)})


# -- what other modules know, in the words of this page ----------------------------------------------------------


def versions_of(systems: Systems, secret: str) -> Sequence[SecretVersion]:
    """Return a secret's versions, newest first; no value is read. Raise SecretNotFoundError if it has none."""
    versions = systems.vault.versions(secret)
    if not versions:
        raise SecretNotFoundError(
            f"secret {secret!r} was not found in the key vault; look for it among the deleted ones"
        )
    return in_order(versions)


def check(systems: Systems, secret: str) -> Checked:
    """Ask live what the tags do not tell. Nothing is changed; what cannot be asked is a finding as well."""
    findings = list(examine(systems, secret).checks)
    tasks: tuple[TaskList, ...] = ()
    try:
        managed = _look_up(systems, secret)
        if managed is not None and managed.secret.state is not None:
            findings.append(_who_uses_the_old_one(managed, managed.secret.state, systems))
            found, tasks = _what_became_of_tasks(systems, managed, managed.secret.state)
            findings += found
    except RotationError as error:
        findings.append(Finding("old-credential", "not tried", str(error)))
    return Checked(systems.now(), tuple(findings), tasks)


def _look_up(systems: Systems, name: str) -> Managed | None:
    secret = systems.vault.current(name)
    policy = read_policy(name, secret.tags, prefix=systems.settings.connections_prefix)
    return None if policy is None else look_up(systems, secret, policy)


def _who_uses_the_old_one(managed: Managed, state: RotationState, systems: Systems) -> Finding:
    """One login of the admin, and one look at the sessions."""
    with logged_in(systems, managed) as admin:
        if managed.policy.strategy == "alternating-users":
            user = managed.other_user
            sessions = admin.sessions(user)
        else:
            # The user is the same, so that only the time tells which password let a session in.
            user = managed.user
            sessions = tuple(s for s in admin.sessions(user) if s.since is not None and s.since < state.at)
    if not sessions:
        return Finding("old-credential", "fine", f"no open session uses the old credential of {user!r}")
    return Finding("old-credential", "remark", _in_words(user, sessions))


def _what_became_of_tasks(
    systems: Systems, managed: Managed, state: RotationState
) -> tuple[list[Finding], tuple[TaskList, ...]]:
    """Ask Airflow: it keeps a note on each task that was retried, and the logs of those that failed."""
    rotated = rotated_connection(managed, state)
    if systems.airflow is None or rotated is None:
        return [], ()
    try:
        look = systems.airflow.look(rotated)
    except RotationError as error:
        return [Finding("airflow-tasks", "not tried", str(error))], ()
    counts = f"{len(look.retried)} retried, {len(look.suspected)} suspected, {len(look.unknown)} unknown"
    result: Result = "mend" if look.failed else "remark" if look.suspected or look.unknown else "fine"
    detail = (
        f"since {clock(look.since)} UTC: {counts}, {len(look.failed)} failed on the old credential and not retried yet"
    )
    findings = [Finding("airflow-tasks", result, detail)]
    findings += [Finding("airflow-tasks", "remark", warning) for warning in look.warnings]
    lists = (
        TaskList("Retried by this rotation", look.retried),
        TaskList("Failed on the old credential, not retried yet", look.failed),
        TaskList("Suspected: clear them by hand where they need it", look.suspected),
        TaskList("Unknown: no cause was found", look.unknown),
    )
    return findings, tuple(one for one in lists if one.tasks)


def _in_words(user: str, sessions: Sequence[UserSession]) -> str:
    who = sorted({(s.application or "unnamed") + (f" at {s.address}" if s.address else "") for s in sessions})
    since = f", the oldest since {clock(sessions[0].since)}" if sessions[0].since else ""
    return f"{len(sessions)} open sessions still use the old credential of {user!r}{since}: {', '.join(who[:10])}"


# -- answers ---------------------------------------------------------------------------------------------------


def _page(text: str, *, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Page:
    return Page(
        status,
        text,
        {
            **(headers or {}),
            "Content-Security-Policy": dashboard.content_security_policy(),
            # The address may hold the function key. `no-referrer` would keep it as safe, but makes browsers send
            # `Origin: null` with our own forms, and an old one has nothing else to tell them from another site's.
            "Referrer-Policy": "same-origin",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def _key(request: BrowserRequest) -> str:
    return request.headers.get("x-functions-key") or request.query.get("code", "")


def _links(request: BrowserRequest) -> Links:
    return Links(request.query.get("code", ""))


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()
