"""Airflow after a rotation: stale copies of the connection go, and what failed on the old credential runs again.

Nothing else is touched. `airflow_search.py` finds the tasks, `airflow_logs.py` tells why one failed, `airflow_runs.py`
lets them run again, which `airflow_tasks.py` puts together; `airflow_api.py` speaks to Airflow.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from rotators.airflow_api import CHANGE_CONNECTIONS, AirflowAccess, AirflowApi, Session, path_of, understood
from rotators.airflow_logs import RotatedConnection, folded
from rotators.airflow_runs import check_clearable
from rotators.airflow_search import Row, ToldBefore, check_log_readable, check_readable, missing_dags, newest_task
from rotators.airflow_tasks import AirflowLook, combined, look, retry_failed
from rotators.credential import Password
from rotators.errors import AirflowRefusedError, RotationError, TransientError
from rotators.outcome import AirflowReport, ConnectionCopy

__all__ = ["Airflow", "AirflowAccess", "AirflowLook", "Copy", "RotatedConnection", "not_a_copy"]

GONE = (HTTPStatus.NOT_FOUND,)
CONNECTION_TYPES = {"postgres": "postgresql", "postgresql": "postgresql"}
DEFAULT_PORTS = {"postgresql": 5432}


@dataclass(frozen=True, slots=True)
class Copy:
    """A connection of the metastore whose id leads to a secret; with differences it is somebody else's, no copy."""

    name: str
    login: str | None
    differences: tuple[str, ...]


class Airflow:
    """One Airflow. It may be shared by threads; all that is done can be done again without harm."""

    def __init__(self, access: AirflowAccess, password: Callable[[], Password]) -> None:
        """Prepare; nothing is called yet.

        Args:
            access: where it is and what may be done there.
            password: called at each login; returns the password, or for `token` and `entra` the token itself.
        """
        self._api = AirflowApi(access, password)
        self._told = ToldBefore()

    @property
    def treatment(self) -> Literal["clear", "update", "keep"]:
        """What becomes of copies of a connection."""
        return self._api.access.connections

    def check(self) -> None:
        """Raise TransientError if Airflow is out of reach, AirflowRefusedError if it is of no use to us."""
        check_readable(self._api.open())

    def check_logs(self) -> bool:
        """Raise as `check` if we may not read logs; False when no task has ended yet, so that nobody knows."""
        session = self._api.open()
        task = newest_task(session)
        if task is not None:
            check_log_readable(session, task)
        return task is not None

    def check_clearing(self) -> bool:
        """Raise as `check` if we may not clear tasks, by a dry run; False when no task has ended yet."""
        session = self._api.open()
        task = newest_task(session)
        if task is not None:
            check_clearable(session, task)
        return task is not None

    def missing_dags(self, dags: Sequence[str]) -> tuple[str, ...]:
        """Return those entries of the tag `airflow-dags` that name no DAG."""
        return missing_dags(self._api.open(), dags)

    def copies(self, rotated: RotatedConnection) -> tuple[Copy, ...] | None:
        """Return the connections of the metastore that a worker falls back to; None when they are kept, and hidden."""
        copies = _visible_copies(self._api.open(), rotated)
        if copies is None:
            return None
        with understood():
            return tuple(Copy(c["connection_id"], c["login"], tuple(_differences(c, rotated))) for c in copies)

    def refresh(self, rotated: RotatedConnection) -> AirflowReport:
        """Clear or update the copies of a connection, and retry the tasks that failed on its old credential.

        What did not succeed is in the report's status and warnings. Raise TransientError or AirflowRefusedError if
        nothing did.
        """
        session = self._api.open()
        try:
            connection, warnings = _refresh_copies(session, rotated)
            trouble = None
        except RotationError as error:
            connection, warnings, trouble = None, (), error
        try:
            report = retry_failed(session, [rotated], self._told)[rotated.secret]
        except RotationError as error:
            if trouble is not None:
                raise
            report = combined(AirflowReport("healed"), error)
        report = dataclasses.replace(report, connection=connection, warnings=(*warnings, *report.warnings))
        return report if trouble is None else combined(report, trouble)

    def retry_failed(self, rotated: Sequence[RotatedConnection]) -> dict[str, AirflowReport]:
        """Retry the tasks that failed on an old credential of these connections; return a report for each secret.

        Raise TransientError or AirflowRefusedError if the failed tasks cannot be looked at.
        """
        return retry_failed(self._api.open(), rotated, self._told) if rotated else {}

    def look(self, rotated: RotatedConnection) -> AirflowLook:
        """Return which tasks were retried for this rotation, and which failed on the old credential; change nothing.

        Raise TransientError or AirflowRefusedError if the tasks cannot be seen.
        """
        return look(self._api.open(), rotated, self._told)


# -- copies in the metastore ----------------------------------------------------------------------------------


def _refresh_copies(session: Session, rotated: RotatedConnection) -> tuple[ConnectionCopy | None, tuple[str, ...]]:
    """Clear, update or keep what a worker falls back to when the vault does not answer."""
    outcomes: set[ConnectionCopy] = {"absent"}
    doubted: set[str] = set()
    warnings = []
    copies = _visible_copies(session, rotated)
    if copies is None:
        return None, ()
    treatment = session.api.access.connections
    for copy in copies:
        with understood():
            name, differences = copy["connection_id"], _differences(copy, rotated)
        if differences:
            outcomes.add("different")
            warnings.append(not_a_copy(name, differences, "it was left alone"))
            continue
        path = path_of("connections", name)
        match treatment:
            case "clear":
                changed = session.call("DELETE", path, rights=CHANGE_CONNECTIONS[treatment], expecting=GONE)
                outcomes.add("cleared")
                if changed.status != HTTPStatus.NO_CONTENT:
                    doubted.add(name)
            case "update":
                login = {"login": rotated.credential.user, "password": rotated.credential.password.reveal()}
                changed = session.call(
                    "PATCH",
                    path,
                    rights=CHANGE_CONNECTIONS[treatment],
                    expecting=GONE,
                    body={"connection_id": name, "conn_type": copy["conn_type"], **login},
                    query={"update_mask": tuple(login)},
                )
                with understood():
                    if changed.is_good and changed.body["connection_id"] == name:
                        outcomes.add("updated")
                    else:
                        doubted.add(name)
            case "keep":
                outcomes.add("kept")
    if doubted:
        _check_gone(session, rotated, doubted)
    gravity: tuple[ConnectionCopy, ...] = ("cleared", "updated", "kept", "different", "absent")
    return next(outcome for outcome in gravity if outcome in outcomes), tuple(warnings)


def _check_gone(session: Session, rotated: RotatedConnection, names: Collection[str]) -> None:
    """Raise TransientError if one is still listed: then it was not Airflow that said it is gone."""
    listed = {copy["connection_id"] for copy in _same_connections(session, rotated)}
    if still := sorted(listed.intersection(names)):
        raise TransientError(
            f"Airflow lists the connection {still[0]!r}, of which it was answered that it is gone, or another one; it "
            "is tried again; if this lasts, look at the proxy before Airflow"
        )


def not_a_copy(name: str, differences: Sequence[str], treatment: str) -> str:
    """Say what to do about a connection of the metastore that is somebody else's."""
    return (
        f"Airflow's metastore has a connection {name!r} with another {' and '.join(differences)}; {treatment}, and is "
        "used when Key Vault does not answer: delete it, or give it another name"
    )


def _visible_copies(session: Session, rotated: RotatedConnection) -> list[Row] | None:
    """Return the connections whose ids lead to this secret; who keeps them needs no right to see them: None."""
    try:
        return _same_connections(session, rotated)
    except AirflowRefusedError:
        if session.api.access.connections != "keep":
            raise
        return None


def _same_connections(session: Session, rotated: RotatedConnection) -> list[Row]:
    """Return the connections whose ids lead to this secret: to Airflow's backend `my_db` and `my-db` are one."""
    # In the pattern an underscore stands for any character.
    query = {"connection_id_pattern": rotated.connection_id.replace("-", "_"), "order_by": "connection_id"}
    rights = CHANGE_CONNECTIONS[session.api.access.connections]
    listed = list(session.pages("/connections", "connections", rights=rights, query=query))
    with understood():
        return [copy for copy in listed if folded(copy["connection_id"]) == folded(rotated.connection_id)]


def _differences(copy: Row, rotated: RotatedConnection) -> list[str]:
    """Say in what a connection of the metastore is not a copy of ours; its password cannot be compared."""
    engine = CONNECTION_TYPES.get(copy["conn_type"], copy["conn_type"])
    port = copy["port"] or DEFAULT_PORTS.get(rotated.engine)
    hosts = {host.strip().casefold() for host in (copy["host"] or "").split(",")}
    same = {
        "type": engine == rotated.engine,
        "host": hosts <= set(map(str.casefold, rotated.hosts)),
        "port": port in rotated.ports,
        "schema": (copy["schema"] or None) == rotated.database,
        "login": copy["login"] in rotated.users,
    }
    return [what for what, is_same in same.items() if not is_same]
