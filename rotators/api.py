"""HTTP: requests -> triggers, and outcomes, secrets and errors -> answers. Pure but for `health`."""

import base64
import binascii
import json
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Literal, cast, get_args

from rotators.batch import Answered, BatchRequest
from rotators.connection_secret import parse
from rotators.decision import (
    LONGEST_REASON,
    Current,
    Resume,
    RollBack,
    Rotate,
    Schedule,
    Skip,
    Trigger,
    decide,
    due_at,
    missed_windows,
    state_of,
)
from rotators.doctor import examine
from rotators.errors import (
    BadRequestError,
    PermanentError,
    PolicyError,
    RotationError,
    SecretFormatError,
    SettingsError,
    TransientError,
)
from rotators.history import history
from rotators.journal import guarded, write_log
from rotators.openapi import document
from rotators.outcome import Outcome, timestamp
from rotators.paging import next_link, page_size, read_cursor
from rotators.pause import set_enabled
from rotators.policy import (
    POLICY_TAGS,
    RotationPolicy,
    Strategy,
    cause_id,
    check_tags,
    duration,
    is_secret_name,
    is_text,
    read_policy,
)
from rotators.settings import is_allowed_host
from rotators.systems import Systems
from rotators.vault import SecretVersion, disabled

LONGEST_BODY_BYTES = 16_384
LONGEST_IDEMPOTENCY_KEY = 255
# A vault may hold thousands of secrets that are not under rotation: so many pages of 25 are read for an answer.
_PAGES_READ = 40

_EXPECTED: Mapping[type, str] = {bool: "true or false", str: "a text", list: "a list of names"}

type ByHand = Literal["http", "rollback"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over HTTP; `body` is JSON."""

    status: HTTPStatus
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        return "application/json" if self.status < HTTPStatus.BAD_REQUEST else "application/problem+json"

    @property
    def text(self) -> str:
        return json.dumps(self.body)


def read_rotate_request(secret: str, body: bytes, headers: Mapping[str, str], *, trust_principal: bool) -> Trigger:
    """Return the trigger that `POST secrets/{name}/rotate` is. Raise BadRequestError, naming what is wrong."""
    fields = {"force": bool, "dryRun": bool, "revoke": bool, "reason": str}
    return _read_trigger("http", secret, _read_body(body, fields), headers, trust_principal=trust_principal)


def read_rollback_request(secret: str, body: bytes, headers: Mapping[str, str], *, trust_principal: bool) -> Trigger:
    """Return the trigger that `POST secrets/{name}/rollback` is. Raise BadRequestError, naming what is wrong."""
    asked = _read_body(body, {"dryRun": bool, "reason": str})
    return _read_trigger("rollback", secret, asked, headers, trust_principal=trust_principal)


def _read_trigger(
    kind: ByHand, secret: str, asked: Mapping[str, object], headers: Mapping[str, str], *, trust_principal: bool
) -> Trigger:
    check_secret_name(secret)
    reason, key = _reason(asked), _idempotency_key(headers)
    return Trigger(
        kind=kind,
        secret=secret,
        id=cause_id(key) if key else str(uuid.uuid4()),
        by=caller(headers, trust_principal=trust_principal),
        force=asked.get("force") is True,
        dry_run=asked.get("dryRun") is True,
        revoke=asked.get("revoke") is True,
        reason=reason,
        is_repeatable=bool(key),
    )


def read_rotations_request(body: bytes, headers: Mapping[str, str], *, trust_principal: bool) -> BatchRequest:
    """Return what `POST rotations` asks for. Raise BadRequestError, naming what is wrong."""
    switches = {"force": bool, "revoke": bool, "dryRun": bool, "reason": str}
    asked = _read_body(body, {"secrets": list, "strategy": str, "olderThan": str, "host": str, **switches})
    filters = [name for name in ("strategy", "olderThan", "host") if name in asked]
    if ("secrets" in asked) == bool(filters):
        raise BadRequestError(
            "the body must say which secrets: either 'secrets', a list of names, or any of 'strategy', 'olderThan' "
            "and 'host', all of which then have to be met"
        )
    older_than = duration(str(asked["olderThan"])) if "olderThan" in asked else None
    if "olderThan" in asked and older_than is None:
        raise BadRequestError("the body's 'olderThan' is not a duration like '15m', '36h' or '60d'")
    host = str(asked["host"]).strip().lower() if "host" in asked else None
    if host is not None and not is_allowed_host(host):
        raise BadRequestError("the body's 'host' is none of name, name:port and *.suffix")
    if "strategy" in asked and asked["strategy"] not in get_args(Strategy):
        raise BadRequestError(f"the body's 'strategy' is not one of {', '.join(get_args(Strategy))}")
    return BatchRequest(
        by=caller(headers, trust_principal=trust_principal),
        secrets=_names(asked["secrets"]) if "secrets" in asked else (),
        strategy=cast("Strategy | None", asked.get("strategy")),
        older_than=older_than,
        host=host,
        key=_idempotency_key(headers),
        force=asked.get("force") is True,
        revoke=asked.get("revoke") is True,
        reason=_reason(asked),
        dry_run=asked.get("dryRun") is True,
    )


def read_update_request(body: bytes) -> bool:
    """Return what `PATCH secrets/{name}` wants `enabled` to be. Raise BadRequestError, naming what is wrong."""
    asked = _read_body(body, {"enabled": bool})
    if "enabled" not in asked:
        raise BadRequestError('the body must be {"enabled": true} or {"enabled": false}')
    return asked["enabled"] is True


def _reason(asked: Mapping[str, object]) -> str:
    reason = str(asked.get("reason", ""))
    if len(reason) > LONGEST_REASON:
        raise BadRequestError(f"the body's 'reason' has more than {LONGEST_REASON} characters")
    if not is_text(reason):
        raise BadRequestError("the body's 'reason' has half of a character in it; send it as UTF-8")
    return reason


def _idempotency_key(headers: Mapping[str, str]) -> str:
    key = headers.get("idempotency-key", "").strip()
    if len(key) > LONGEST_IDEMPOTENCY_KEY:
        raise BadRequestError(f"the header Idempotency-Key has more than {LONGEST_IDEMPOTENCY_KEY} characters")
    return key


def _names(secrets: object) -> tuple[str, ...]:
    """Return the names in a list, each once: to Key Vault `A` and `a` are one."""
    names: dict[str, str] = {}
    for name in secrets if isinstance(secrets, list) else []:
        if not isinstance(name, str):
            raise BadRequestError("the body's 'secrets' is not a list of names")
        check_secret_name(name)
        names.setdefault(name.lower(), name)
    if not names:
        raise BadRequestError("the body's 'secrets' is empty")
    return tuple(names.values())


def check_secret_name(secret: str) -> None:
    if not is_secret_name(secret):
        raise BadRequestError("a secret's name has 1 to 127 letters, digits and dashes")


def caller(headers: Mapping[str, str], *, trust_principal: bool) -> str:
    """Return who called: by key nobody knows; App Service authentication says it, where it is on.

    Anybody can send these headers while it is off, so they are believed only where a setting says so.
    """
    if not trust_principal:
        return "key"
    try:
        principal = json.loads(base64.b64decode(headers.get("x-ms-client-principal", "")))
        claims = {str(c["typ"]).rpartition("/")[2]: str(c["val"]) for c in principal["claims"]}
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        claims = {}
    name = headers.get("x-ms-client-principal-name", "") or claims.get("appid", "")
    identifier = headers.get("x-ms-client-principal-id", "") or claims.get("objectidentifier") or claims.get("oid", "")
    return " ".join(part for part in (name, identifier) if part) or "key"


def outcome_answer(outcome: Outcome) -> Answer:
    """Return 200 for what is done, 202 for what is published with its refresh pending, 4xx for what was refused."""
    if outcome.status == "skipped":
        status = HTTPStatus.UNPROCESSABLE_ENTITY if outcome.obstacle == "not managed" else HTTPStatus.CONFLICT
        title = f"Not {_done(outcome)}: {outcome.obstacle}"
        return _problem(status, title, _how_to_go_on(outcome), {"outcome": outcome.as_json()})
    is_pending = outcome.airflow is not None and outcome.airflow.status in ("pending", "refused")
    return Answer(HTTPStatus.ACCEPTED if is_pending else HTTPStatus.OK, outcome.as_json())


def rotations_answer(answered: Sequence[Answered], *, dry_run: bool) -> Answer:
    """Return 202 with an id for each secret, 200 for a dry run; 404 when none matches, 409 when all were refused."""
    if not answered:
        return _problem(HTTPStatus.NOT_FOUND, "No such secret", "no secret under rotation matches; nothing was done")
    value = [it.as_json() for it in answered]
    if all(it.status == "refused" for it in answered):
        detail = "none of the secrets was rotated: 'value' says why for each"
        return _problem(HTTPStatus.CONFLICT, "Nothing rotated", detail, {"value": value})
    return Answer(HTTPStatus.OK if dry_run else HTTPStatus.ACCEPTED, {"value": value})


def error_answer(error: RotationError) -> Answer:
    """Return the problem (RFC 9457) that an error is."""
    answer = _problem(error.status, error.title, str(error))
    if isinstance(error, SettingsError):
        return Answer(answer.status, {**answer.body, "complaints": list(error.complaints)})
    if isinstance(error, TransientError):
        return Answer(answer.status, answer.body, {"Retry-After": str(math.ceil(error.retry_after.total_seconds()))})
    return answer


def describe(
    secret: SecretVersion,
    *,
    prefix: str,
    now: datetime,
    sweeps: Schedule | None = None,
) -> dict[str, object]:
    """Return a secret's policy, state, due date and next step; never a value.

    Works for what a list gives as well, which has no version. With `sweeps` it also warns of a maintenance window that
    comes too late or is too short.
    """
    description: dict[str, object] = {
        "secret": secret.name,
        "version": secret.version or None,
        "createdOn": timestamp(secret.created),
        "expiresOn": timestamp(secret.expires),
        "tags": {name: value for name, value in secret.tags.items() if name in POLICY_TAGS},
    }
    try:
        policy = read_policy(secret.name, secret.tags, prefix=prefix)
        if policy is not None:
            _check_rotatable(secret)
    except PolicyError as error:
        return {**description, "managed": True, "status": "unusable policy", "nextStep": str(error), "warnings": []}
    current = Current(secret.version, secret.created, secret.expires, secret.state)
    trigger = Trigger(kind="sweep", secret=secret.name, id="", by="")
    decision = decide(trigger, current, policy, now)
    match decision:
        case Skip(_, next_step):
            pass
        case Resume(steps, reason):
            next_step = f"{reason}: {', '.join(steps) or 'revoke'}"
        case Rotate(reason) | RollBack(_, reason):
            next_step = f"{reason}: the next event or sweep rotates it"
    return {
        **description,
        "managed": policy is not None,
        "status": state_of(decision),
        "nextStep": next_step,
        "dueOn": timestamp(due_at(current, policy)) if policy else None,
        "policy": _policy(policy) if policy else None,
        "state": _state(secret),
        "warnings": list(missed_windows(current, policy, now, sweeps)) if policy and sweeps else [],
    }


def _check_rotatable(secret: SecretVersion) -> None:
    """Raise PolicyError where a rotation would, whatever its policy."""
    if not secret.enabled:
        raise disabled(f"secret {secret.name!r}")
    check_tags(secret.name, secret.tags)


def show(systems: Systems, secret: str) -> Answer:
    check_secret_name(secret)
    return _described(systems, systems.vault.current(secret))


def check(systems: Systems, secret: str) -> Answer:
    """Return what the doctor says: 200 also when there is something to mend."""
    check_secret_name(secret)
    return Answer(HTTPStatus.OK, examine(systems, secret).as_json())


def update(systems: Systems, secret: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Pause or resume, and return the secret as it is then."""
    check_secret_name(secret)
    enabled = read_update_request(body)
    by = caller(headers, trust_principal=systems.settings.trust_principal)
    return _described(systems, set_enabled(systems, secret, enabled=enabled, by=by))


def _described(systems: Systems, secret: SecretVersion) -> Answer:
    settings = systems.settings
    description = describe(secret, prefix=settings.connections_prefix, now=systems.now(), sweeps=settings.sweeps)
    return Answer(HTTPStatus.OK, description)


def list_secrets(systems: Systems, url: str, query: Mapping[str, str]) -> Answer:
    """Return a page of the secrets that have a rotation tag, from the list with its tags: no request for each.

    As in Azure's own APIs, a page may be short, or empty, and `nextLink` leads to the rest of them.
    """
    size, (token, after) = page_size(query), read_cursor(query, parts=2)
    prefix, now = systems.settings.connections_prefix, systems.now()
    shown: list[dict[str, object]] = []
    for _ in range(_PAGES_READ):
        page, following = systems.vault.page_of_secrets(token)
        for secret in _after(page, after):
            if "rotation-strategy" not in secret.tags:
                continue
            if len(shown) == size:
                return _page_answer(url, size, shown, (token, after))
            shown.append(describe(secret, prefix=prefix, now=now))
            after = secret.name
        if not following:
            return _page_answer(url, size, shown, None)
        token, after = following, ""
    return _page_answer(url, size, shown, (token, after))


def show_history(systems: Systems, secret: str, url: str, query: Mapping[str, str]) -> Answer:
    """Return a page of a secret's versions as rotations, newest first."""
    check_secret_name(secret)
    size, (after,) = page_size(query), read_cursor(query, parts=1)
    versions = systems.vault.versions(secret)
    current, user = _current_user(systems, secret, versions)
    entries = history(versions, current, user, prefix=systems.settings.connections_prefix)
    start = next((n for n, entry in enumerate(entries, 1) if entry.version.version == after), 0)
    shown = entries[start : start + size]
    rest = (shown[-1].version.version,) if entries[start + size :] else None
    return _page_answer(url, size, [entry.as_json() for entry in shown], rest)


def _current_user(systems: Systems, secret: str, versions: Sequence[SecretVersion]) -> tuple[str, str | None]:
    """Return the newest version, and whom it names: the one value that a history reads, and never shows.

    Of a secret that is not under rotation no value is read.
    """
    if versions and "rotation-strategy" not in versions[0].tags:
        return versions[0].version, None
    try:
        current = systems.vault.current(secret)
    except PolicyError:
        # It is disabled, and just then somebody looks here.
        return versions[0].version, None
    try:
        return current.version, parse(current.value, secret=secret, tags=current.tags).credential.user
    except SecretFormatError:
        return current.version, None


def _after(page: Sequence[SecretVersion], name: str) -> Sequence[SecretVersion]:
    """Return what comes after a secret in a page; all of it when that is gone: rather twice than never."""
    names = [secret.name for secret in page]
    return page[names.index(name) + 1 :] if name in names else page


def _page_answer(url: str, size: int, value: Sequence[object], cursor: tuple[str, ...] | None) -> Answer:
    link = next_link(url, size, cursor) if cursor is not None else None
    return Answer(HTTPStatus.OK, {"value": value, "nextLink": link})


def openapi() -> Answer:
    return Answer(HTTPStatus.OK, document())


def health(systems: Systems) -> Answer:
    """Ask each outside system for a sign of life: 200 or 503, no names of hosts or secrets."""
    lines = {"keyVault": _is_well("keyVault", systems.vault.check)}
    if systems.airflow is not None:
        lines["airflow"] = _is_well("airflow", systems.airflow.check)
    lines["eventGrid"] = "not configured" if systems.topic is None else "configured"
    lines["databases"] = "asked at each rotation"
    well = not any(line.startswith("failing") for line in lines.values())
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, {"status": "healthy" if well else "failing", "systems": lines})


def _is_well(system: str, check: Callable[[], None]) -> str:
    try:
        guarded("the health check", check)
    except RotationError as error:
        # What it answers may be read by everybody; what is wrong, and how to mend it, only in the log.
        write_log(logging.WARNING, "health", system=system, reason=str(error))
        mend = "; see the log and mend its access" if isinstance(error, PermanentError) else ""
        return f"failing: {error.title}{mend}"
    return "well"


def _read_body(body: bytes, fields: Mapping[str, type]) -> Mapping[str, object]:
    if not body.strip():
        return {}
    if len(body) > LONGEST_BODY_BYTES:
        raise BadRequestError(f"the body has more than {LONGEST_BODY_BYTES} bytes")
    try:
        asked = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise BadRequestError(f"the body is not a JSON object with any of {', '.join(fields)}")
    if unknown := sorted(set(asked) - set(fields)):
        raise BadRequestError(
            f"the body has unknown fields {', '.join(map(repr, unknown))[:200]}; expected any of {', '.join(fields)}"
        )
    for name, value in asked.items():
        if not isinstance(value, fields[name]):
            raise BadRequestError(f"the body's {name!r} is not {_EXPECTED[fields[name]]}")
    return asked


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values for one key no one knows which is meant: `dryRun` twice must not rotate."""
    if len(names := dict(pairs)) < len(pairs):
        raise BadRequestError("the body has the same field twice; keep one of them")
    return names


def _how_to_go_on(outcome: Outcome) -> str:
    is_rollback = outcome.cause == "rollback"
    match outcome.obstacle:
        case "not managed":
            mend = "give it the tag rotation-strategy (and rotation-admin) to put it under rotation"
        case "paused" if is_rollback:
            mend = "resume it, roll back, and pause it again"
        case "paused":
            mend = "set rotation-enabled to true, or rotate with force"
        case "in grace":
            mend = "wait until then, or rotate with force and break who still uses the old credential"
        case "no way back":
            mend = "nothing was changed"
        case _:
            mend = "try again later"
    return f"secret {outcome.secret!r} was not {_done(outcome)}: {outcome.reason}; {mend}"


def _done(outcome: Outcome) -> str:
    return "rolled back" if outcome.cause == "rollback" else "rotated"


def _problem(status: HTTPStatus, title: str, detail: str, members: Mapping[str, object] | None = None) -> Answer:
    # What goes along is a member of its own, since an outcome, say, has a `status` too.
    return Answer(
        status, {"type": "about:blank", "title": title, "status": int(status), "detail": detail, **(members or {})}
    )


def _policy(policy: RotationPolicy) -> dict[str, object]:
    return {
        "strategy": policy.strategy,
        "enabled": policy.enabled,
        "everySeconds": int(policy.every.total_seconds()),
        "validitySeconds": int(policy.validity.total_seconds()),
        "graceSeconds": int(policy.grace.total_seconds()),
        "window": str(policy.window) if policy.window else None,
        "inUse": "wait" if policy.waits_for_sessions else "proceed",
        "users": list(policy.users) if policy.users else None,
        "connectionId": policy.connection_id,
        "dags": list(policy.dags),
    }


def _state(secret: SecretVersion) -> dict[str, object] | None:
    state = secret.state
    if state is None:
        return None
    return {
        "id": state.id,
        "cause": state.cause,
        "by": state.by,
        "from": state.from_version,
        "at": timestamp(state.at),
        "pending": list(state.pending),
        "retireAt": timestamp(state.retire_at),
        "retired": timestamp(state.retired),
        "reason": state.reason or None,
    }
