"""A second API server of a running Airflow, with users and roles of Flask-AppBuilder, as most installations have them.

`airflow standalone` knows no auth manager but the simple one. Both servers have the same metastore and logs.
"""

import http.client
import json
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.airflow_server import START_SECONDS, AirflowServer, AirflowServerError, comes_about, end_group, free_ports
from sandbox.postgresql import HOST

AUTH_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
# To start Airflow's program costs seconds, most of which are for imports.
_COMMANDS = """
import json, sys
from airflow.__main__ import main
commands, then = json.load(sys.stdin)
for arguments in commands:
    sys.argv = ["airflow", *arguments]
    main()
exec(then)
"""


class FabApiServer:
    """The server, from `with` to its end; `run` works before.

    Attributes:
        url: of the API.
    """

    def __init__(self, airflow: AirflowServer, *, config: Path, environment: Mapping[str, str]) -> None:
        """Prepare; nothing runs yet.

        Args:
            airflow: the Airflow that runs.
            config: its `webserver_config.py`.
            environment: what that reads.
        """
        self._airflow = airflow
        (port,) = free_ports(1)
        self.url = f"http://{HOST}:{port}"
        self._variables = {
            **airflow.variables,
            "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__FAB__CONFIG_FILE": str(config),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *commands: Sequence[str], then: str = "") -> str:
        """Run `airflow` with each of these lists of arguments, and then code; return what they print.

        Raise AirflowServerError if they fail.
        """
        done = subprocess.run(
            [self._airflow.programs / "python", "-c", _COMMANDS], input=json.dumps([commands, then]),
            text=True, check=False, capture_output=True, cwd=self._airflow.home, env=self._variables,
        )  # fmt: skip
        if done.returncode:
            raise AirflowServerError(f"{commands} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def __enter__(self) -> Self:
        log = self._airflow.home / "fab.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._airflow.programs / "airflow", "api-server"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=self._airflow.home, env=self._variables, process_group=0,
            )  # fmt: skip
        if not comes_about(self._is_up, START_SECONDS):
            self._stop()
            raise AirflowServerError(f"the API server did not start:\n{log.read_text(errors='replace')[-4000:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AirflowServerError("the API server ended while it started; fab.log in Airflow's home says why")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/api/v2/version", timeout=5) as answer:
                return bool(answer.status == http.client.OK)
        except (OSError, http.client.HTTPException):
            return False

    def _stop(self) -> None:
        if self._process is not None:
            end_group(self._process)
            self._process = None
