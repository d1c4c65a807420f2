"""HTTP: requests -> triggers, and outcomes, secrets and errors -> answers. Pure but for `health`."""

import base64
import binascii
import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from rotators.decision import Current, Resume, Rotate, Skip, Trigger, decide, due_at
from rotators.doctor import examine
from rotators.errors import BadRequestError, PermanentError, PolicyError, RotationError, SettingsError, TransientError
from rotators.journal import guarded
from rotators.outcome import Outcome, timestamp
from rotators.policy import (
    POLICY_TAGS,
    RotationPolicy,
    cause_id,
    is_secret_name,
    read_policy,
)
from rotators.systems import Systems
from rotators.vault import SecretVersion

LONGEST_BODY_BYTES = 16_384
LONGEST_REASON = 200
LONGEST_IDEMPOTENCY_KEY = 255


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
    check_secret_name(secret)
    asked = _read_body(body, {"force": bool, "dryRun": bool, "revoke": bool, "reason": str})
    reason = str(asked.get("reason", ""))
    if len(reason) > LONGEST_REASON:
        raise BadRequestError(f"the body's 'reason' has more than {LONGEST_REASON} characters")
    key = headers.get("idempotency-key", "").strip()
    if len(key) > LONGEST_IDEMPOTENCY_KEY:
        raise BadRequestError(f"the header Idempotency-Key has more than {LONGEST_IDEMPOTENCY_KEY} characters")
    return Trigger(
        kind="http",
        secret=secret,
        id=cause_id(key) if key else str(uuid.uuid4()),
        by=caller(headers, trust_principal=trust_principal),
        force=asked.get("force") is True,
        dry_run=asked.get("dryRun") is True,
        revoke=asked.get("revoke") is True,
        reason=reason,
        is_repeatable=bool(key),
    )


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
        return _problem(status, f"Not rotated: {outcome.obstacle}", _how_to_go_on(outcome), outcome.as_json())
    is_pending = outcome.airflow is not None and outcome.airflow.status in ("pending", "refused")
    return Answer(HTTPStatus.ACCEPTED if is_pending else HTTPStatus.OK, outcome.as_json())


def error_answer(error: RotationError) -> Answer:
    """Return the problem (RFC 9457) that an error is."""
    answer = _problem(error.status, error.title, str(error))
    if isinstance(error, SettingsError):
        return Answer(answer.status, {**answer.body, "complaints": list(error.complaints)})
    if isinstance(error, TransientError):
        return Answer(answer.status, answer.body, {"Retry-After": str(math.ceil(error.retry_after.total_seconds()))})
    return answer


def describe(secret: SecretVersion, *, prefix: str, now: datetime) -> dict[str, object]:
    """Return a secret's policy, state, due date and next step; never a value.

    Works for what a list gives as well, which has no version.
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
    except PolicyError as error:
        return {**description, "managed": True, "status": "unusable policy", "nextStep": str(error)}
    current = Current(secret.version, secret.created, secret.expires, secret.state)
    trigger = Trigger(kind="sweep", secret=secret.name, id="", by="")
    status: str
    match decide(trigger, current, policy, now):
        case Skip(obstacle, reason):
            status, next_step = ("fresh" if obstacle == "not due" else obstacle), reason
        case Resume(steps, reason):
            status, next_step = "pending", f"{reason}: {', '.join(steps) or 'revoke'}"
        case Rotate(reason):
            status, next_step = "due", f"{reason}: the next event or sweep rotates it"
    return {
        **description,
        "managed": policy is not None,
        "status": status,
        "nextStep": next_step,
        "dueOn": timestamp(due_at(current, policy)) if policy else None,
        "policy": _policy(policy) if policy else None,
        "state": _state(secret),
    }


def show(systems: Systems, secret: str) -> Answer:
    check_secret_name(secret)
    current = systems.vault.current(secret)
    return Answer(HTTPStatus.OK, describe(current, prefix=systems.settings.connections_prefix, now=systems.now()))


def check(systems: Systems, secret: str) -> Answer:
    """Return what the doctor says: 200 also when there is something to mend."""
    check_secret_name(secret)
    return Answer(HTTPStatus.OK, examine(systems, secret).as_json())


def list_secrets(systems: Systems) -> Answer:
    """Return every secret that has a rotation tag, from the list with its tags: no request for each."""
    prefix, now = systems.settings.connections_prefix, systems.now()
    managed = [s for s in systems.vault.secrets() if "rotation-strategy" in s.tags]
    return Answer(HTTPStatus.OK, {"value": [describe(s, prefix=prefix, now=now) for s in managed]})


def health(systems: Systems) -> Answer:
    """Ask each outside system for a sign of life: 200 or 503, no names of hosts or secrets."""
    lines = {"keyVault": _is_well(systems.vault.check)}
    if systems.airflow is not None:
        lines["airflow"] = _is_well(systems.airflow.check)
    lines["eventGrid"] = "not configured" if systems.topic is None else "configured"
    lines["databases"] = "asked at each rotation"
    well = not any(line.startswith("failing") for line in lines.values())
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, {"status": "healthy" if well else "failing", "systems": lines})


def _is_well(check: Callable[[], None]) -> str:
    try:
        guarded("the health check", check)
    except PermanentError as error:
        return f"failing: {error.title}; see the log and mend its access"
    except RotationError as error:
        return f"failing: {error.title}"
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
            expected = "true or false" if fields[name] is bool else "a text"
            raise BadRequestError(f"the body's {name!r} is not {expected}")
    return asked


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values for one key no one knows which is meant: `dryRun` twice must not rotate."""
    if len(names := dict(pairs)) < len(pairs):
        raise BadRequestError("the body has the same field twice; keep one of them")
    return names


def _how_to_go_on(outcome: Outcome) -> str:
    match outcome.obstacle:
        case "not managed":
            mend = "give it the tag rotation-strategy (and rotation-admin) to put it under rotation"
        case "paused":
            mend = "set rotation-enabled to true, or rotate with force"
        case "in grace":
            mend = "wait until then, or rotate with force and break who still uses the old credential"
        case _:
            mend = "try again later"
    return f"secret {outcome.secret!r} was not rotated: {outcome.reason}; {mend}"


def _problem(status: HTTPStatus, title: str, detail: str, outcome: Mapping[str, object] | None = None) -> Answer:
    problem = {"type": "about:blank", "title": title, "status": int(status), "detail": detail}
    # An outcome has a `status` of its own, so it goes along as a member.
    return Answer(status, {**problem, "outcome": outcome} if outcome else problem)


def _policy(policy: RotationPolicy) -> dict[str, object]:
    return {
        "strategy": policy.strategy,
        "enabled": policy.enabled,
        "everySeconds": int(policy.every.total_seconds()),
        "validitySeconds": int(policy.validity.total_seconds()),
        "graceSeconds": int(policy.grace.total_seconds()),
        "window": f"{policy.window.cron} for {policy.window.length}" if policy.window else None,
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
    }
