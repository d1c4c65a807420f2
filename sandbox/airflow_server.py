"""A real Airflow 3 of its own for tests and the demo: `airflow standalone` in an environment apart from ours.

Its metastore is a PostgreSQL of its own: on SQLite, the default of `standalone`, whoever writes while another does
gets an error 500 (`database is locked`). It reads its connections as in production: through the unmodified
`AzureKeyVaultBackend`, from the Key Vault stand-in, when it is given one.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox.postgresql import HOST, PostgreSQL

ROOT = Path(__file__).resolve().parent.parent
INSTALLATION = ROOT / ".sandbox" / "airflow"
REQUIREMENTS = ROOT / "sandbox" / "airflow" / "requirements.txt"
DAGS = ROOT / "sandbox" / "airflow" / "dags"

# Healthy in 20 s when the machine has nothing else to do.
START_SECONDS = 240.0
STOP_SECONDS = 5.0
REQUEST_SECONDS = 30.0
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
END_STATES = ("success", "failed")
# What the simple auth manager may be asked for; each of its roles can do more than the one before.
USERS = ("viewer", "user", "op", "admin")

BACKEND = "airflow.providers.microsoft.azure.secrets.key_vault.AzureKeyVaultBackend"
SETTINGS: Mapping[str, str] = {
    "CORE__LOAD_EXAMPLES": "false",
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "4",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
    "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{user}" for user in USERS),
    # A dozen processes share the metastore.
    "DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
    "API__HOST": HOST,
    "API__WORKERS": "1",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "SCHEDULER__ENABLE_HEALTH_CHECK": "false",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "USAGE_DATA_COLLECTION__ENABLED": "false",
}


class AirflowServerError(Exception):
    """Airflow could not be installed, did not start, or answered with an error."""


def ensure_installed() -> Path:
    """Install what `requirements.txt` says, unless that is done; return where the programs are.

    `uv` is the one that the environment variable `UV` names, else the one on the PATH, else that in `.tools`.
    """
    INSTALLATION.parent.mkdir(exist_ok=True)
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = INSTALLATION / ".installed"
    with (INSTALLATION.parent / "airflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            python = INSTALLATION / "bin" / "python"
            uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
            if not python.exists():
                _run(uv, "venv", "--quiet", "--clear", "--python", "3.13", str(INSTALLATION))
            # Compiled now, or each of Airflow's dozen processes would do it for itself.
            _run(uv, "pip", "sync", "--quiet", "--compile-bytecode", "--python", str(python), str(REQUIREMENTS))
            stamp.write_text(wanted)
    return INSTALLATION / "bin"


class AirflowServer:
    """Airflow on free ports of 127.0.0.1, with a metastore of its own, in a fresh folder.

    Attributes:
        url: of the API server.
        username: an administrator; there are `viewer`, `user` and `op` too, with the roles of their names.
        password: of all of them.
        home: AIRFLOW_HOME, everything it has.
        programs: where `airflow` is.
        variables: the environment of its processes.
    """

    def __init__(
        self,
        *,
        vault_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        dags: Path = DAGS,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            vault_url: the Key Vault whose secrets `airflow-connections-<conn-id>` are the connections.
            environment: variables for all of Airflow's processes, tasks included: those of the Key Vault stand-in
                (`KeyVault.environment()`), connections (`AIRFLOW_CONN_…`), settings (`AIRFLOW__…`).
            dags: the folder with the DAGs.
        """
        self._vault_url = vault_url
        self._environment = environment or {}
        self._dags = dags
        self._metastore = PostgreSQL(settings={"max_connections": "200", "log_statement": "none"})
        self._resources = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""
        self.programs = Path()
        self.variables: Mapping[str, str] = {}
        self.username = "admin"
        self.password = secrets.token_urlsafe(16)
        self.home = Path()
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when everything is healthy and all DAGs are read.

        Raise AirflowServerError if that does not come about.
        """
        self.programs = ensure_installed()
        self.home = Path(tempfile.mkdtemp(prefix="airflow-"))
        try:
            self._resources.enter_context(self._metastore)
            metastore = self._metastore.create_user("airflow", database="airflow")
            self._metastore.create_database("airflow", owner="airflow")
            self._launch(metastore)
            self._await_healthy()
            self._await_dags()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all of its processes and remove its folder. Nothing happens if it is stopped."""
        if self._process is not None:
            # `standalone` leaves its children behind, and some of them do not heed SIGTERM.
            for sign in (signal.SIGTERM, signal.SIGKILL):
                _signal_group(self._process.pid, sign)
                if comes_about(lambda: not self.processes(), STOP_SECONDS):
                    break
            for stray in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stray, signal.SIGKILL)
            comes_about(lambda: not self.processes(), STOP_SECONDS)
            self._process.wait()
            self._process = None
        self._resources.close()
        if self.home != Path():
            shutil.rmtree(self.home, ignore_errors=True)

    def processes(self) -> list[int]:
        """Return the ids of its processes: its group, and whoever left the group but still works for it."""
        if self._process is None:
            return []
        # Most of them overwrite their environment with their title, but stay in their folder; shells do the opposite.
        self._process.poll()
        return [pid for pid in _process_ids() if _belongs(pid, self._process.pid, str(self.home))]

    def output(self) -> str:
        """Return what all of its components have printed."""
        file = self.home / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    # -- what tests and the demo ask of it ---------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Call the REST API as the administrator and return the answer's JSON (its shape is Airflow's affair).

        Raise AirflowServerError with the answer's text if it is an error.
        """
        if not self._token:
            self._token = self.token()
        return self._request(method, f"/api/v2/{path}", body, self._token, query)

    def token(self, username: str | None = None) -> str:
        """Log a user in."""
        login = {"username": username or self.username, "password": self.password}
        return str(self._request("POST", "/auth/token", login)["access_token"])

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None) -> str:
        """Start a run of a DAG and return its id."""
        answer = self.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        return str(answer["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.call("GET", f"dags/{dag_id}/dagRuns/{_quoted(run_id)}")["state"])

    def wait(self, dag_id: str, run_id: str, *, seconds: float = 120.0) -> str:
        """Wait until a run is over; return its state. Raise AirflowServerError if it takes longer."""
        if not comes_about(lambda: self.run_state(dag_id, run_id) in END_STATES, seconds):
            raise AirflowServerError(f"run {run_id} of {dag_id} is not over: {self.states(dag_id, run_id)}")
        return self.run_state(dag_id, run_id)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
        """Wait until something is so. Raise AirflowServerError if it takes longer."""
        if not comes_about(condition, seconds):
            raise AirflowServerError(f"it did not come about in {seconds:.0f} s")

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, *states: str, map_index: int = -1, seconds: float = 120.0
    ) -> str:
        """Wait until a task instance is in one of these states; return which."""

        def state() -> str | None:
            return self.states(dag_id, run_id).get((task_id, map_index))

        if not comes_about(lambda: state() in states, seconds):
            raise AirflowServerError(f"task {task_id} of run {run_id} of {dag_id} is {state()}, not {states}")
        return str(state())

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, as Airflow describes them."""
        answer = self.call("GET", f"dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances", limit=100)
        return list(answer["task_instances"])

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return one of them."""
        return next(t for t in self.tasks(dag_id, run_id) if (t["task_id"], t["map_index"]) == (task_id, map_index))

    def states(self, dag_id: str, run_id: str) -> dict[tuple[str, int], str | None]:
        """Return the state of each task instance of a run, by task id and map index."""
        return {(t["task_id"], t["map_index"]): t["state"] for t in self.tasks(dag_id, run_id)}

    def set_note(self, dag_id: str, run_id: str, task_id: str, note: str) -> None:
        """Leave a note on a task instance, as a person would."""
        path = f"dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}"
        self.call("PATCH", path, {"note": note}, update_mask="note")

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int = 1, map_index: int = -1) -> Any:
        """Return the log of a try, as the REST API gives it."""
        path = f"dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/logs/{attempt}"
        return self.call("GET", path, map_index=map_index)

    def create_connection(self, connection_id: str, **fields: object) -> None:
        """Write a connection into the metastore: `conn_type`, `host`, `port`, `schema`, `login`, `password`."""
        self.call("POST", "connections", {"connection_id": connection_id, "conn_type": "postgres", **fields})

    def connection(self, connection_id: str) -> dict[str, Any] | None:
        """Return a connection of the metastore, its password masked; None if there is none."""
        listed = self.call("GET", "connections", limit=100)["connections"]
        return next((c for c in listed if c["connection_id"] == connection_id), None)

    def delete_connection(self, connection_id: str) -> None:
        """Remove a connection from the metastore, if it is there."""
        if self.connection(connection_id) is not None:
            self.call("DELETE", f"connections/{connection_id}")

    def import_errors(self) -> list[str]:
        """Return why DAG files could not be read."""
        return [e["stack_trace"] for e in self.call("GET", "importErrors")["import_errors"]]

    # -- starting ----------------------------------------------------------------------------------------------

    def _launch(self, metastore: str) -> None:
        api_port, worker_log_port, trigger_log_port = free_ports(3)
        self.url = f"http://{HOST}:{api_port}"
        passwords = self.home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(dict.fromkeys(USERS, self.password)))
        settings = {
            **SETTINGS,
            "CORE__DAGS_FOLDER": str(self._dags),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "DATABASE__SQL_ALCHEMY_CONN": metastore.replace("://", "+psycopg2://", 1),
            "API__PORT": str(api_port),
            "API__BASE_URL": self.url,
            "LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log_port),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log_port),
        }
        if self._vault_url is not None:
            settings["SECRETS__BACKEND"] = BACKEND
            settings["SECRETS__BACKEND_KWARGS"] = json.dumps(
                {
                    "connections_prefix": "airflow-connections",
                    "vault_url": self._vault_url,
                    "variables_prefix": None,
                    "config_prefix": None,
                }
            )
        self.variables = {
            # Nothing of ours: PYTHONDONTWRITEBYTECODE alone would cost each process seconds.
            "PATH": os.pathsep.join([str(self.programs), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "NO_COLOR": "1",
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            **self._environment,
        }
        with (self.home / "output.log").open("wb") as output:
            self._process = subprocess.Popen(
                [self.programs / "airflow", "standalone"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=self.home, env=self.variables, process_group=0,
            )  # fmt: skip

    def _await_healthy(self) -> None:
        def healthy() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise AirflowServerError(f"Airflow ended while starting:\n{self.output()[-4000:]}")
            try:
                health = self._request("GET", "/api/v2/monitor/health")
            except (AirflowServerError, OSError, http.client.HTTPException):
                return False
            return all(health.get(component, {}).get("status") == "healthy" for component in COMPONENTS)

        if not comes_about(healthy, START_SECONDS):
            raise AirflowServerError(f"Airflow did not become healthy:\n{self.output()[-4000:]}")

    def _await_dags(self) -> None:
        # By the same mark Airflow decides which files to read at all (`safe_mode`).
        wanted = {f.name for f in self._dags.glob("*.py") if b"airflow" in (text := f.read_bytes()) and b"dag" in text}

        def read() -> bool:
            if errors := self.import_errors():
                raise AirflowServerError(f"Airflow cannot read the DAGs:\n{errors[0]}")
            listed = self.call("GET", "dags", limit=100)["dags"]
            return wanted <= {Path(dag["fileloc"]).name for dag in listed}

        if not comes_about(read, START_SECONDS):
            raise AirflowServerError(f"Airflow did not read the DAGs:\n{self.output()[-4000:]}")

    def _request(
        self, method: str, path: str, body: object = None, token: str = "", query: Mapping[str, object] | None = None
    ) -> Any:
        parameters = urllib.parse.urlencode(query or {}, doseq=True)
        request = urllib.request.Request(  # noqa: S310 (our own server)
            f"{self.url}{path}?{parameters}" if parameters else self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"}
            | ({"Authorization": f"Bearer {token}"} if token else {}),
        )
        # The proxies of the environment are not for 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=REQUEST_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            raise AirflowServerError(f"{method} {path}: {error.code} {text.decode(errors='replace')}") from None
        return json.loads(text) if text else None


def comes_about(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so, or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _quoted(run_id: str) -> str:
    return urllib.parse.quote(run_id, safe="")


def free_ports(count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and with it the group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
            break
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, sign)


def _process_ids() -> Iterator[int]:
    if Path("/proc/self").exists():
        yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    else:
        yield from map(int, subprocess.run(["ps", "-axo", "pid="], capture_output=True, check=True).stdout.split())


def _belongs(pid: int, group: int, home: str) -> bool:
    process = Path("/proc") / str(pid)
    try:
        if not process.exists():  # not Linux: what left the group is not found
            return os.getpgid(pid) == group
        if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # over, and only waiting for its parent to notice
        return (
            os.getpgid(pid) == group
            or str((process / "cwd").readlink()) == home
            or f"AIRFLOW_HOME={home}\0".encode() in (process / "environ").read_bytes()
        )
    except OSError:
        return False


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AirflowServerError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
