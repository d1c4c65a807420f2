"""Everything a rotation needs, on one laptop: Key Vault, Event Grid, PostgreSQL, Airflow, and secrets in them."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.airflow_server import ROOT, AirflowServer
from sandbox.clock import Clock
from sandbox.event_grid import EventGrid
from sandbox.key_vault import KeyVault
from sandbox.postgresql import PostgreSQL

ADMIN = "postgres-admin"
AIRFLOW_PASSWORD = "airflow-rotator-password"  # noqa: S105 (a secret's name)
WAREHOUSE = "airflow-connections-warehouse"
LAKE = "airflow-connections-lake"
CRM = "airflow-connections-crm"
# The secrets are this old when everything stands.
AGE = timedelta(days=61)


class Laptop:
    """The sandbox, from `with` to its end.

    The vault's clock begins two months back, so that `warehouse` and `lake` are due when `catch_up` is called:
    the vault then raises `SecretNearExpiry` for `warehouse` by itself. `lake` has no expiry, so that no event ever
    comes for it, and is the sweep's. `crm` has a single user that changes its own password.
    """

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="sandbox-")))
        self.postgresql = enter(PostgreSQL())
        self.postgresql.execute("GRANT pg_signal_backend TO rotator")
        self.event_grid = enter(EventGrid())
        self.vault = enter(
            KeyVault(folder, clock=Clock(behind=AGE), on_event=self.event_grid.publish, live=True, name="sandbox")
        )
        self._put_secrets()
        self.airflow = enter(AirflowServer(vault_url=self.vault.url, environment=self.vault.environment()))
        self.vault.put(AIRFLOW_PASSWORD, self.airflow.password)

    def _put_secrets(self) -> None:
        tags = {"rotation-admin-for": "airflow-connections-*"}
        self.vault.put(ADMIN, self.postgresql.admin_dsn, tags=tags)
        alternating = {"rotation-strategy": "alternating-users", "rotation-admin": ADMIN}
        expires = self.vault.clock.now() + timedelta(days=90)
        self.vault.put(
            WAREHOUSE, self._connection("warehouse"), tags={**alternating, "rotation-every": "60d"}, expires_on=expires
        )
        self.vault.put(LAKE, self._connection("lake"), tags={**alternating, "rotation-every": "61d"})
        self.vault.put(
            CRM, self._connection("crm"), tags={"rotation-strategy": "single-user", "rotation-every": "180d"}
        )

    def _connection(self, name: str) -> str:
        uri = self.postgresql.create_user(f"{name}_app", database=name)
        self.postgresql.create_database(name, owner=f"{name}_app")
        return uri

    def catch_up(self) -> None:
        """Let the vault's clock say what time it is: what is two months old is due now."""
        self.vault.clock.advance(AGE)

    def settings(self) -> Mapping[str, str]:
        """Return the app settings of a function app in this sandbox: nothing else tells it from one on Azure."""
        return {
            **self.vault.environment(),
            "AIRFLOW_URL": self.airflow.url,
            "AIRFLOW_USERNAME": self.airflow.username,
            "AIRFLOW_PASSWORD_SECRET": AIRFLOW_PASSWORD,
            "EVENT_GRID_TOPIC_ENDPOINT": self.event_grid.topic_endpoint,
            "EVENT_GRID_TOPIC_KEY": self.event_grid.topic_key,
        }

    def subscribe(self, app_url: str) -> None:
        """Let Event Grid bring the vault's events, and the topic's `Requested`, to the app.

        Raise ValueError or OSError while the app does not answer.
        """
        url = f"{app_url}/runtime/webhooks/EventGrid?functionName=rotation_event"
        self.event_grid.subscribe(url, name="key-vault")
        self.event_grid.subscribe(url, name="requested", source="topic", event_types=["SecretRotation.Requested"])

    def write_local_settings(self) -> Path:
        """Write `local.settings.json`, which `func start` and the sandbox's host read; git ignores it."""
        values = {"FUNCTIONS_WORKER_RUNTIME": "python", "AzureWebJobsStorage": "UseDevelopmentStorage=true"}
        if shutil.which("func"):
            # The real host keeps a timer's lock in a storage account; without Azurite the timer could not start.
            values["AzureWebJobs.rotation_sweep.Disabled"] = "true"
        file = ROOT / "local.settings.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"IsEncrypted": False, "Values": {**values, **self.settings()}}, indent=2) + "\n")
        return file
