"""Tags -> RotationPolicy and RotationState, and back. Pure."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, cast, get_args

from cronsim import CronSim, CronSimError

from rotators.errors import PolicyError
from rotators.outcome import timestamp

Strategy = Literal["alternating-users", "single-user"]
Cause = Literal["near-expiry", "expired", "http", "sweep", "requested", "reconcile", "rollback"]
PendingStep = Literal["verify", "refresh"]

STATE_TAG = "rotation-state"
ADMIN_FOR_TAG = "rotation-admin-for"
POLICY_TAGS = (
    "rotation-strategy",
    "rotation-admin",
    "rotation-users",
    "rotation-every",
    "rotation-validity",
    "rotation-window",
    "rotation-grace",
    "rotation-in-use",
    "rotation-enabled",
    "airflow-conn-id",
    "airflow-dags",
)

# The tags of the Azure samples, which the format of a bare password reads.
_SAMPLE_TAGS = ("CredentialId", "ProviderAddress", "ValidityPeriodDays")

# Key Vault raises SecretNearExpiry this long before the expiry; it is not configurable.
NEAR_EXPIRY = timedelta(days=30)
# Airflow's SecretCache holds a connection for 900 s: a shorter grace would retire what it still hands out.
MINIMUM_GRACE = timedelta(minutes=15)
# A version's `created` is cut to whole seconds, and a login that begins in time may end this much later.
LOGIN_TIME = timedelta(seconds=15)
MINIMUM_EVERY = timedelta(hours=1)
# libpq's, weakest first.
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# The limits of Key Vault.
MAXIMUM_TAGS = 15
MAXIMUM_TAG_LENGTH = 512

_DURATION = re.compile(r"([0-9]{1,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_SECRET_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
_CAUSE_ID = re.compile(r"[0-9A-Za-z._:/+=@-]{1,64}")
# A version hex, a secret's name at most: what else stands there was not written by this program.
_VERSION = re.compile(r"[0-9A-Za-z-]{1,127}")
# Key Vault is younger than the first of these years, and no duration of a tag leads from the last out of the calendar.
_YEARS = range(2000, 9000)
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")
# CronSim says whether an expression is sound only when it is told where to begin.
_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_MOMENT = "2026-11-24T12:00:00Z"
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]|[\"\\]")


@dataclass(frozen=True, slots=True)
class AdminSecret:
    """The admin's connection stands in another secret of the vault."""

    name: str


@dataclass(frozen=True, slots=True)
class AdminEntra:
    """The admin logs in as `login` with a token of the managed identity."""

    login: str


@dataclass(frozen=True, slots=True)
class AdminSelf:
    """The user changes its own password."""


type Admin = AdminSecret | AdminEntra | AdminSelf


@dataclass(frozen=True, slots=True)
class Window:
    """When rotation may happen: from each time of a cron expression (UTC) on, for a duration."""

    cron: str
    length: timedelta

    def is_open(self, now: datetime) -> bool:
        # From the next minute backwards, since this very minute may be one that opens it.
        times = CronSim(self.cron, now.astimezone(UTC) + timedelta(minutes=1), reverse=True)
        opened = next(time for time in times if time <= now)
        return now < opened + self.length

    def opens_next(self, now: datetime) -> datetime:
        return next(self.openings(now))

    def openings(self, after: datetime) -> Iterator[datetime]:
        """Yield the times at which it opens."""
        yield from CronSim(self.cron, after.astimezone(UTC))

    def __str__(self) -> str:
        return f"{self.cron} for {in_words(self.length)}"


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """What people want for one secret; docs/reference.md has a row for each tag.

    `connection_id` is None when Airflow has no part in it. `users` is None until the secret's value is read:
    see `pair`.
    """

    strategy: Strategy
    admin: Admin
    users: tuple[str, str] | None
    every: timedelta
    validity: timedelta
    window: Window | None
    grace: timedelta
    waits_for_sessions: bool
    enabled: bool
    connection_id: str | None
    dags: tuple[str, ...]

    def pair(self, user: str) -> tuple[str, str]:
        """Return the two users that take turns, the owner first; `user` is the one the secret names now."""
        return self.users or (user.removesuffix("_alt"), user.removesuffix("_alt") + "_alt")


@dataclass(frozen=True, slots=True)
class RotationState:
    """What the program did, as the tag `rotation-state` of the version that it made.

    Attributes:
        id: the event's id, the idempotency key, or generated.
        cause: what asked for it.
        by: who asked.
        from_version: the version that was current before.
        at: when.
        pending: what is still to do.
        retire_at: when the old credential is to be retired; at once (`at`) means that it was revoked.
        retired: when it was.
        reason: a person's words, where one gave any, cut to what fits into the tag.
    """

    id: str
    cause: Cause
    by: str
    from_version: str | None
    at: datetime
    pending: tuple[PendingStep, ...] = ()
    retire_at: datetime | None = None
    retired: datetime | None = None
    reason: str = ""

    @property
    def revokes(self) -> bool:
        """The old credential leaked: it is locked out at once, not after a grace period."""
        return self.retire_at is not None and self.retire_at <= self.at

    @property
    def is_unfinished(self) -> bool:
        return bool(self.pending) or (self.revokes and self.retired is None)

    def usable_until(self, published: datetime) -> datetime | None:
        """Return until when the credential of before has to work; `published` is when this version was.

        A cache may be filled in the last moment before that, which is some time after `at`, and keep what it has
        for as long as the grace.
        """
        if self.retire_at is None or self.revokes:
            return self.retire_at
        return max(self.retire_at, published + (self.retire_at - self.at)) + LOGIN_TIME

    def in_grace(self, published: datetime, now: datetime) -> bool:
        until = self.usable_until(published)
        return until is not None and self.retired is None and now < until

    def as_tag(self) -> str:
        tag = {
            "id": self.id,
            "cause": self.cause,
            "by": _NOT_PRINTABLE.sub("?", self.by)[:128],
            "from": self.from_version,
            "at": timestamp(self.at),
            "pending": list(self.pending),
            "retireAt": timestamp(self.retire_at),
            "retired": timestamp(self.retired),
        }
        if self.reason:
            # Cut to the same words at each writing, whatever is noted later.
            longest = _as_json({**tag, "pending": get_args(PendingStep), "retireAt": _MOMENT, "retired": _MOMENT})
            tag["reason"] = _cut(self.reason, MAXIMUM_TAG_LENGTH - len(longest) - len(',"reason":""')) or None
        return _as_json({name: value for name, value in tag.items() if value is not None})


def _as_json(tag: Mapping[str, object]) -> str:
    return json.dumps(tag, separators=(",", ":"))


def _cut(text: str, room: int) -> str:
    """Return as much of a text as its JSON has room for."""
    while text and len(json.dumps(text)) - len('""') > room:
        text = text[:-1]
    return text


def duration(text: str) -> timedelta | None:
    """Return the duration that `15m`, `36h` or `60d` says; None if it says none."""
    match = _DURATION.fullmatch(text.strip())
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def _is_cron(text: str) -> bool:
    """Whether it is one that comes in 50 years; without seconds."""
    try:
        return len(text.split()) == 5 and next(CronSim(text, _ANY_MOMENT), None) is not None  # noqa: PLR2004 (fields)
    except (CronSimError, ValueError):
        return False


def in_words(length: timedelta) -> str:
    """Return a duration of whole minutes as the tags write it: `15m`, `36h`, `60d`."""
    minutes = length // timedelta(minutes=1)
    if minutes % (24 * 60) == 0:
        return f"{minutes // (24 * 60)}d"
    return f"{minutes}m" if minutes % 60 else f"{minutes // 60}h"


def is_secret_name(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def is_text(text: str) -> bool:
    """Whether all of its characters are whole; JSON can say halves of them (surrogates), which nothing can keep."""
    return text.encode(errors="replace").decode() == text


def cause_id(text: str) -> str:
    """Return `text` where it fits into the state tag, else a digest of it."""
    return (
        text
        if _CAUSE_ID.fullmatch(text)
        else "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:48]
    )


def read_policy(secret: str, tags: Mapping[str, str], *, prefix: str) -> RotationPolicy | None:
    """Return the policy that the tags of a secret give; None if it has no `rotation-strategy`.

    `prefix` is Airflow's: `airflow-connections` makes `warehouse` of `airflow-connections-warehouse`.
    Raise PolicyError with every complaint if a tag is wrong.
    """
    if "rotation-strategy" not in tags:
        return None
    policy, complaints = policy_and_complaints(secret, tags, prefix=prefix)
    if complaints:
        raise PolicyError(f"secret {secret!r}: {'; '.join(complaints)}; mend the tags and rotate again")
    return policy


def policy_and_complaints(
    secret: str, tags: Mapping[str, str], *, prefix: str
) -> tuple[RotationPolicy, tuple[str, ...]]:
    """Return the policy as far as it can be read, and the complaints: each begins with the name of its tag."""
    read = _TagReader(tags)
    strategy = cast("Strategy", read.choice("rotation-strategy", get_args(Strategy), ""))
    every = read.duration("rotation-every", timedelta(days=60), least=MINIMUM_EVERY)
    grace = read.duration("rotation-grace", min(timedelta(hours=24), every / 2), least=MINIMUM_GRACE)
    if grace >= every:
        read.complain("rotation-grace", f"must be shorter than rotation-every ({every})")
    policy = RotationPolicy(
        strategy=strategy,
        admin=read.admin(secret, strategy),
        users=read.users(strategy),
        every=every,
        validity=read.validity(every, grace),
        window=read.window(),
        grace=grace,
        waits_for_sessions=read.choice("rotation-in-use", ("proceed", "wait"), "proceed") == "wait",
        enabled=read.choice("rotation-enabled", ("true", "false"), "true") == "true",
        connection_id=read.connection_id(secret, prefix),
        dags=read.dags(),
    )
    read.refuse_unknown_tags()
    return policy, tuple(read.complaints)


def read_state(tags: Mapping[str, str]) -> RotationState | None:
    """Return the state in the tags; None when there is none, or what stands there was not written by us."""
    text = tags.get(STATE_TAG)
    return _state_once(text) if isinstance(text, str) else None


def _state(text: str) -> RotationState | None:
    try:
        tag = json.loads(text)
        before = tag.get("from")
        if not _CAUSE_ID.fullmatch(tag["id"]):
            return None
        return RotationState(
            id=tag["id"],
            cause=cast("Cause", tag["cause"]) if tag["cause"] in get_args(Cause) else "http",
            by=str(tag.get("by", "")),
            from_version=before if isinstance(before, str) and _VERSION.fullmatch(before) else None,
            at=_moment(tag["at"]),
            pending=tuple(step for step in get_args(PendingStep) if step in tag.get("pending", ())),
            retire_at=_moment(tag["retireAt"]) if tag.get("retireAt") else None,
            retired=_moment(tag["retired"]) if tag.get("retired") else None,
            reason=str(tag.get("reason") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


# Of one secret it is asked for several times in a row, and a sweep looks at thousands. Not by a decorator: what has one
# the mutation tests leave alone.
_state_once = lru_cache(maxsize=64)(_state)


def _moment(text: str) -> datetime:
    """Return a moment as `timestamp` writes it; one without a zone, which a person may have written, is UTC.

    Raise ValueError or OverflowError for one that the program could not calculate with.
    """
    moment = datetime.fromisoformat(text)
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if moment.year not in _YEARS:
        raise ValueError("not in this calendar")
    return moment


def policy_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that a version hands on to the next: all but the state."""
    return {name: value for name, value in tags.items() if name != STATE_TAG}


def next_tags(secret: str, tags: Mapping[str, str], state: RotationState, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of the next version. Raise PolicyError if Key Vault would not take them."""
    merged = {**policy_tags(tags), **extra, STATE_TAG: state.as_tag()}
    check_tags(secret, merged)
    return merged


def inherited_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a version that are written onto one that came without any: those this program reads."""
    return {name: value for name, value in tags.items() if name in (*POLICY_TAGS, *_SAMPLE_TAGS, ADMIN_FOR_TAG)}


def check_tags(secret: str, tags: Mapping[str, str]) -> None:
    """Raise PolicyError if Key Vault would not take these tags, among them the state."""
    count = len({*tags, STATE_TAG})
    if count > MAXIMUM_TAGS:
        raise PolicyError(
            f"secret {secret!r} would have {count} tags, {STATE_TAG!r} among them, and Key Vault allows "
            f"{MAXIMUM_TAGS}: remove {count - MAXIMUM_TAGS} and rotate again"
        )
    for name, value in tags.items():
        if len(name) > MAXIMUM_TAG_LENGTH or len(value) > MAXIMUM_TAG_LENGTH:
            raise PolicyError(
                f"secret {secret!r}: tag {name[:40]!r} is longer than the {MAXIMUM_TAG_LENGTH} characters that "
                "Key Vault allows; shorten it and rotate again"
            )


def admin_is_open_for(secret: str, admin_tags: Mapping[str, str]) -> bool:
    """Whether the admin secret's tag `rotation-admin-for` names `secret`, in full or by a prefix with `*`."""
    for entry in re.split(r"[,\s]+", admin_tags.get(ADMIN_FOR_TAG, "").lower()):
        if entry == secret.lower() or (entry.endswith("*") and secret.lower().startswith(entry[:-1])):
            return True
    return False


class _TagReader:
    """The tags of one secret, and what is wrong with them."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags = tags
        self.complaints: list[str] = []

    def complain(self, name: str, what: str) -> None:
        self.complaints.append(f"{name} {what}")

    def text(self, name: str) -> str | None:
        value = self._tags.get(name)
        if value is not None and not value.strip():
            self.complain(name, "is blank: give it a value or remove the tag")
        elif value is not None and _CONTROL.search(value.strip()):
            self.complain(name, "has a control character in it: type it again")
        return value.strip() if value and value.strip() else None

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name)
        if value is None:
            return default
        if value not in choices:
            self.complain(name, f"is {value!r}, expected {' or '.join(map(repr, choices))}")
        return value

    def duration(self, name: str, default: timedelta, *, least: timedelta) -> timedelta:
        value = self.text(name)
        if value is None:
            return default
        parsed = duration(value)
        if parsed is None:
            self.complain(name, f"is {value!r}, expected a duration like '15m', '36h' or '60d'")
            return default
        if parsed < least:
            self.complain(name, f"is {value!r}, expected at least {least}")
            return default
        return parsed

    def validity(self, every: timedelta, grace: timedelta) -> timedelta:
        days = self.text("ValidityPeriodDays")
        default = every + NEAR_EXPIRY
        if days is not None and "rotation-validity" not in self._tags:
            if not re.fullmatch(r"[1-9]\d{0,3}", days):
                self.complain("ValidityPeriodDays", f"is {days!r}, expected a whole number of days")
            else:
                default = timedelta(days=int(days))
        validity = self.duration("rotation-validity", default, least=MINIMUM_EVERY)
        if validity <= grace:
            self.complain("rotation-validity", f"must be longer than rotation-grace ({grace})")
        return validity

    def admin(self, secret: str, strategy: str) -> Admin:
        value = self.text("rotation-admin")
        if value is None:
            if strategy == "alternating-users" and "rotation-admin" not in self._tags:
                self.complain(
                    "rotation-admin",
                    "is missing: name the secret with an admin's connection, or 'entra:<login>'",
                )
            return AdminSelf()
        if value == "self":
            if strategy == "alternating-users":
                self.complain("rotation-admin", "is 'self', which only single-user can do: name an admin's secret")
            return AdminSelf()
        if value.startswith("entra:"):
            login = value.removeprefix("entra:").strip()
            if not login:
                self.complain("rotation-admin", "names no login after 'entra:'")
            return AdminEntra(login)
        if not is_secret_name(value):
            self.complain("rotation-admin", f"is {value!r}, expected a secret's name, 'self' or 'entra:<login>'")
        if value.lower() == secret.lower():
            self.complain("rotation-admin", "names this secret itself: say 'self' (single-user only)")
        return AdminSecret(value)

    def users(self, strategy: str) -> tuple[str, str] | None:
        value = self.text("rotation-users")
        if value is None or strategy == "single-user":
            return None
        names = [name.strip() for name in value.split(",")]
        if len(names) != 2 or not all(names) or names[0] == names[1]:  # noqa: PLR2004 (a pair)
            self.complain("rotation-users", f"is {value!r}, expected two different users like 'app,app_alt'")
            return None
        return names[0], names[1]

    def window(self) -> Window | None:
        value = self.text("rotation-window")
        if value is None:
            return None
        cron, _, length = value.rpartition(" for ")
        parsed = duration(length)
        if not parsed or not _is_cron(cron.strip()):
            self.complain(
                "rotation-window",
                f"is {value!r}, expected a cron expression and a duration: '0 2 * * 6 for 3h'",
            )
            return None
        return Window(cron.strip(), parsed)

    def connection_id(self, secret: str, prefix: str) -> str | None:
        value = self.text("airflow-conn-id")
        if value is not None and not re.fullmatch(r"[\w.-]{1,250}", value):
            self.complain("airflow-conn-id", f"is {value!r}, which is no connection id of Airflow")
        if value is None and secret.lower().startswith(f"{prefix}-".lower()):
            return secret[len(prefix) + 1 :] or None
        return value

    def dags(self) -> tuple[str, ...]:
        entries = tuple(e.strip() for e in (self.text("airflow-dags") or "").split(",") if e.strip())
        for entry in entries:
            if entry == "tag:":
                self.complain("airflow-dags", "has an entry 'tag:' without a DAG tag")
        return entries

    def refuse_unknown_tags(self) -> None:
        """A mistyped tag would otherwise leave its default in force without anybody noticing."""
        for name in self._tags:
            if name.startswith("rotation-") and name not in (*POLICY_TAGS, STATE_TAG, ADMIN_FOR_TAG):
                self.complain(name, "is no tag of this program")
