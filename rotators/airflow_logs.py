"""Why a try of a task failed, read from its log as Airflow's REST API gives it: pure.

A connection error carries no SQLSTATE, so its text has to do; the texts are the server's and libpq's, the same in
psycopg 2 and 3, SQLAlchemy and asyncpg. Only errors are read (`error_detail`), never what a task printed.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from rotators.credential import Credential

FINAL_EVENT = "Task failed with exception"
NOTE_PREFIX = "Credential rotation "
# Where the text of an error ends up when the error itself does not show it: a shell's output, a pool's warnings.
SECOND_HAND_LOGGERS = ("SubprocessHook", "psycopg.pool")
MASKED = "***"
# As long as anything between Airflow and the vault may keep a credential: `[secrets] cache_ttl_seconds`.
CACHED_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class RotatedConnection:
    """A connection whose credential was rotated, as far as Airflow is concerned.

    Attributes:
        secret: the secret's name.
        connection_id: the connection's id in Airflow.
        engine: as in `postgresql`.
        hosts, ports: where the database is.
        credential: the current one.
        users: every user that the secret owns, the current one among them.
        published_at: when the current version was published.
        dags: where to look for failed tasks: DAG ids and `tag:<dag tag>`; none means everywhere.
    """

    secret: str
    connection_id: str
    engine: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str | None
    credential: Credential
    users: frozenset[str]
    rotation_id: str
    version: str
    published_at: datetime
    dags: tuple[str, ...]

    @property
    def basis(self) -> tuple[object, ...]:
        """All that a verdict of `other` rests on, but for the log and the task."""
        user, users = self.credential.user, sorted(self.users)
        return self.secret, self.version, self.engine, self.hosts, self.ports, user, users, self.published_at

    @property
    def note(self) -> str:
        """What is written on a task instance that is retried; who finds it need not ask who did that."""
        return (
            f"{NOTE_PREFIX}{self.rotation_id}: failed on the old credential of connection "
            f"{self.connection_id!r}, so it was cleared to run again."
        )


@dataclass(frozen=True, slots=True)
class FailedTask:
    """The last try of a failed task instance; a map index is -1 for an unmapped task."""

    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    try_number: int
    started: datetime | None
    ended: datetime | None
    note: str | None
    connection_ids: frozenset[str]
    """What its operator shows of them; that of a function (`@task`) shows none."""
    is_open: bool
    """Whether it is an operator that uses no connection but those it shows."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:  # Any: JSON
        rendered = row.get("rendered_fields") or {}
        shown = {
            name: value
            for name, value in rendered.items()
            if name.endswith("conn_id") and isinstance(value, str) and MASKED not in value
        }
        return cls(
            dag_id=row["dag_id"],
            dag_run_id=row["dag_run_id"],
            task_id=row["task_id"],
            map_index=row["map_index"],
            try_number=row["try_number"],
            started=_moment(row["start_date"]),
            ended=_moment(row["end_date"]),
            note=row.get("note"),
            connection_ids=frozenset(shown.values()),
            # The operators of common-sql; others may show `aws_conn_id` and use a second one besides.
            is_open="conn_id" in shown,
        )

    @property
    def path(self) -> tuple[str, ...]:
        return "dags", self.dag_id, "dagRuns", self.dag_run_id, "taskInstances", self.task_id

    @property
    def run(self) -> tuple[str, str]:
        return self.dag_id, self.dag_run_id

    @property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.map_index

    @property
    def has_begun(self) -> bool:
        """Else it has no log: whom a person marks as failed before it runs gets a start, and no try."""
        return self.started is not None and self.try_number > 0

    def may_use(self, rotated: RotatedConnection) -> bool:
        """Whether its log is worth reading for this connection."""
        return not self.is_open or self.names(rotated)

    def names(self, rotated: RotatedConnection) -> bool:
        """Whether its operator says that it uses this connection."""
        return folded(rotated.connection_id) in map(folded, self.connection_ids)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ours`: failed on the credential before this one. `suspected`, `unknown`: see `why`. `other`: not our affair."""

    kind: Literal["ours", "suspected", "unknown", "other"]
    why: str = ""


OTHER = Verdict("other")


def folded(connection_id: str) -> str:
    """Return what AzureKeyVaultBackend looks for: `my_db` and `my-db` are one secret."""
    return connection_id.replace("_", "-").casefold()


def is_ours(note: str | None) -> bool:
    """Whether a note was left by us, for whichever rotation."""
    return note is not None and note.startswith(NOTE_PREFIX)


def judge(log: Sequence[Mapping[str, Any]], task: FailedTask, rotated: RotatedConnection) -> Verdict:  # Any: JSON
    """Tell whether the try with this log failed on the old credential of this connection."""
    final = next((i for i in reversed(range(len(log))) if log[i].get("event") == FINAL_EVENT), None)
    # Remote logs are uploaded after the task is marked as failed, a trigger's by another machine.
    is_incomplete = final is None
    earlier = [error for entry in log[:final] for error in _errors(entry.get("error_detail"))]
    if final is not None:
        errors = list(_errors(log[final].get("error_detail")))
        if refused := _refused_logins(errors, rotated.engine):
            return _weigh(refused, task, rotated)
        if any(error.type == "TaskDeferralError" for error in errors):
            # The trigger failed in the triggerer, whose own entry has the cause; this one says only that it did.
            trigger = next((entry for entry in reversed(log) if _is_of_trigger(entry)), None)
            is_incomplete = trigger is None
            if trigger and (refused := _refused_logins(_errors(trigger.get("error_detail")), rotated.engine)):
                return _weigh(refused, task, rotated)
    second_hand = [_Error("", str(entry.get("event"))) for entry in log if _is_second_hand(entry)]
    for errors, where in (
        (earlier, "the log has a refused login, but the task went on and failed with another error"),
        (second_hand, "the refused login is in the output of a command or in a pool's warnings only"),
    ):
        if _weigh(_refused_logins(errors, rotated.engine), task, rotated).kind in ("ours", "suspected"):
            return Verdict("suspected", where)
    if is_incomplete:
        return Verdict("unknown", "the log tells no cause (yet)")
    return OTHER


@dataclass(frozen=True, slots=True)
class _Error:
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class _RefusedLogin:
    """A server that did not let somebody in, as far as the message says who and where."""

    user: str | None
    host: str | None
    port: int | None


def _weigh(refused: Iterable[_RefusedLogin], task: FailedTask, rotated: RotatedConnection) -> Verdict:
    """Return the gravest of what these refused logins mean; with TLS, or several hosts, one error tells of several."""
    verdicts = [_verdict(login, task, rotated) for login in refused]
    return max(verdicts, key=lambda v: ("other", "unknown", "suspected", "ours").index(v.kind), default=OTHER)


def _verdict(login: _RefusedLogin, task: FailedTask, rotated: RotatedConnection) -> Verdict:
    masked = MASKED in (login.user or "")
    somebody_else = login.user is not None and login.user not in rotated.users and not masked
    began_before = task.started is not None and task.started < rotated.published_at
    used_current = login.user in (None, rotated.credential.user) and not began_before
    if _is_elsewhere(login, rotated) or somebody_else or used_current:
        return OTHER
    if masked:
        return Verdict("unknown", "the user is masked in the log, as if its name were a secret")
    if (login.user is None or login.port is None) and not task.names(rotated):
        return Verdict("suspected", f"the error does not say {'who' if login.user is None else 'where'} was refused")
    if not began_before and (doubt := _why_not_again(task, rotated)):
        return Verdict("suspected", f"refused as {login.user!r} after the rotation: {doubt}")
    return Verdict("ours")


def _why_not_again(task: FailedTask, rotated: RotatedConnection) -> str | None:
    """Tell what speaks against a retry of a try that began when the new credential was there, and used the old one.

    It had a stale copy. Whether that is gone now, one retry shows, and no more: our note remembers it. Where a
    person's note is instead, the time decides.
    """
    if task.note == rotated.note:
        return "retried once already; look for a copy of the connection that is left"
    if task.note and not is_ours(task.note) and task.started and task.started >= rotated.published_at + CACHED_FOR:
        return "a person left a note on it; clear it by hand"
    return None


def _is_elsewhere(login: _RefusedLogin, rotated: RotatedConnection) -> bool:
    """Whether the message names a server that is not ours. psycopg 3 names addresses only, never the host."""
    if login.port is None or login.host is None:
        return False
    if login.port not in rotated.ports:
        return True
    if MASKED in login.host:
        return False
    address, ours = _address(login.host), [_address(host) for host in rotated.hosts]
    if address is None:
        return login.host.casefold() not in map(str.casefold, rotated.hosts)
    return None not in ours and address not in ours


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# -- what a log looks like ------------------------------------------------------------------------------------


def _errors(detail: object) -> Iterator[_Error]:
    """Return an error, its causes, and those of each error in a group."""
    match detail:
        case list():
            for part in detail:
                yield from _errors(part)
        case {"exc_value": text, **rest}:
            yield _Error(str(rest.get("exc_type")), str(text))
            yield from _errors(rest.get("exceptions"))


def _is_of_trigger(entry: Mapping[str, Any]) -> bool:  # Any: JSON
    """Whether it is a trigger's error, in the triggerer's words; its clock may put it after the worker's entries."""
    event = str(entry.get("event"))
    return event.startswith("Trigger ") and "exited with error" in event


def _is_second_hand(entry: Mapping[str, Any]) -> bool:  # Any: JSON
    return str(entry.get("logger") or "").endswith(SECOND_HAND_LOGGERS)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- what the servers say -------------------------------------------------------------------------------------

_POSTGRESQL_ADDRESS = re.compile(r'connection to server at "([^"]*)"(?: \([^)]*\))?, port (\d+) failed')
# A name may have quotes in it, which are not escaped: it goes up to the one that ends the line or, where more follows,
# to the first after which no word goes on.
_USER = r'(?:.{0,256}(?="\s*$)|.{0,256}?(?="(?![\w"])))'
_ROLE_REFUSED = r'role "(?P<role>.{0,256}?)" (?:is not permitted to log in|does not exist)'
_POSTGRESQL_REFUSED = re.compile(
    rf'authentication failed for user "(?P<failed>{_USER})"'
    # Without FATAL it may be the answer to a statement, a GRANT to a missing role.
    rf"|FATAL:\s+{_ROLE_REFUSED}"
    r"|fe_sendauth: no password supplied",
    re.MULTILINE,
)
_ASYNCPG_REFUSED = re.compile(_ROLE_REFUSED)


def _refused_logins(errors: Iterable[_Error], engine: str) -> list[_RefusedLogin]:
    match engine:
        case "postgresql":
            return [login for error in errors for login in _refused_by_postgresql(error)]
        case _:
            return []


def _refused_by_postgresql(error: _Error) -> Iterator[_RefusedLogin]:
    addresses = list(_POSTGRESQL_ADDRESS.finditer(error.text))
    for found in _POSTGRESQL_REFUSED.finditer(error.text):
        # Each attempt has a line of its own, which begins with the address.
        host, port = next((a.groups() for a in reversed(addresses) if a.end() <= found.start()), (None, None))
        yield _RefusedLogin(found["failed"] or found["role"], host, int(port) if port else None)
    if error.type == "InvalidAuthorizationSpecificationError" and not addresses:
        for found in _ASYNCPG_REFUSED.finditer(error.text):
            yield _RefusedLogin(found["role"], None, None)
