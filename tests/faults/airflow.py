"""An Airflow with a stale copy of each connection, and a task that failed on it; small enough to be asked often."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rotators.airflow_logs import FINAL_EVENT, folded
from sandbox.faults import Faults, Tap
from sandbox.http_service import HttpService, Request, Response

USER = "rotator"
PASSWORD = "the-password-of-airflow"
RUN = "scheduled__1"


class Airflow:
    """Answers as Airflow 3.3 does, as far as the program asks; each connection has a DAG of its own name."""

    def __init__(self) -> None:
        self.copies: dict[str, dict[str, Any]] = {}  # Any: JSON
        self.failed: dict[str, dict[str, Any]] = {}  # Any: JSON
        self.logs: dict[str, str] = {}
        self.cleared: Counter[str] = Counter()
        self.notes: list[str] = []
        self.tokens: list[str] = []
        self._faults = Faults(lambda status, _code, headers: Response.json(status, {"detail": "as told"}, headers))
        self._service = HttpService(lambda request: self._faults.around(request, self._answer))

    def __enter__(self) -> Self:
        self._service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.close()

    def watch(self, tap: Tap | None) -> None:
        self._faults.tap = tap

    def settings(self) -> dict[str, str]:
        return {"AIRFLOW_URL": self._service.url, "AIRFLOW_USERNAME": USER, "AIRFLOW_PASSWORD": PASSWORD}

    def suffer(self, connection: str, user: str, port: int, *, started: datetime) -> None:
        """Let a task fail on this user's password, and leave a copy of the connection in the metastore."""
        self.cleared[connection] = 0
        address = {"host": "127.0.0.1", "port": port, "schema": "postgres"}
        self.copies[connection] = {
            "connection_id": connection, "conn_type": "postgres", "login": user, **address
        }  # fmt: skip
        self.failed[connection] = {
            "dag_id": connection,
            "dag_run_id": RUN,
            "task_id": "load",
            "map_index": -1,
            "try_number": 1,
            "start_date": started.isoformat(),
            "end_date": (started + timedelta(seconds=1)).isoformat(),
            "state": "failed",
            "note": None,
            "rendered_fields": {},
        }
        self.logs[connection] = (
            f'connection to server at "127.0.0.1", port {port} failed: '
            f'FATAL:  password authentication failed for user "{user}"'
        )

    def recover(self, connection: str) -> None:
        """Forget about this one's sufferings."""
        self.copies.pop(connection, None)
        self.failed.pop(connection, None)
        self.cleared[connection] = 1

    def is_healed(self, connection: str) -> bool:
        return connection not in self.copies and connection not in self.failed and self.cleared[connection] == 1

    def _answer(self, request: Request) -> Response:
        if request.path == "/api/v2/version":
            return Response.json(200, {"version": "3.3.2"})
        if request.path == "/auth/token":
            self.tokens.append(f"token-{len(self.tokens)}-of-airflow-{datetime.now(UTC).timestamp()}")
            return Response.json(201, {"access_token": self.tokens[-1]})
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return Response.json(401, {"detail": "Not authenticated"})
        return self._serve(request, request.path.removeprefix("/api/v2/").split("/"))

    def _serve(self, request: Request, path: list[str]) -> Response:  # noqa: PLR0911 (a table)
        match request.method, path:
            case "GET", ["connections"]:
                wanted = folded(request.query["connection_id_pattern"])
                return _page("connections", [c for c in self.copies.values() if folded(c["connection_id"]) == wanted])
            case "DELETE", ["connections", name]:
                return Response(204) if self.copies.pop(name, None) else Response.json(404, {"detail": "not found"})
            case "GET", ["dags", "~", "dagRuns", "~", "taskInstances"]:
                return _page("task_instances", list(self.failed.values()))
            case "GET", ["dags", dag, "dagRuns", _, "taskInstances", "load", "logs", _]:
                detail = [{"exc_type": "OperationalError", "exc_value": self.logs[dag]}]
                return Response.json(200, {"content": [{"event": FINAL_EVENT, "error_detail": detail}]})
            case "GET", ["dags", _, "details"]:
                return Response.json(200, {"is_stale": False, "is_paused": False})
            case "GET", ["dags", _, "dagRuns", _, "taskInstances"]:
                return _page("task_instances", [])
            case "GET", ["dags", dag, "dagRuns", _]:
                return Response.json(200, {"state": "failed" if dag in self.failed else "running"})
            case "POST", ["dags", dag, "clearTaskInstances"]:
                return self._clear(dag, request)
            case _:
                return Response.json(404, {"detail": f"{request.method} {request.path}"})

    def _clear(self, dag: str, request: Request) -> Response:
        body = json.loads(request.body)
        rows = [self.failed[dag]] if dag in self.failed else []
        if not body["dry_run"] and rows:
            self.notes.append(str(body.get("note")))
            self.cleared[dag] += 1
            del self.failed[dag]
        return Response.json(200, {"task_instances": rows, "total_entries": len(rows)})


def _page(name: str, rows: list[dict[str, Any]]) -> Response:  # Any: JSON
    return Response.json(200, {name: rows, "total_entries": len(rows)})
