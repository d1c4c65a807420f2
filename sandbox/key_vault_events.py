"""The events of a Key Vault, and when they are due."""

import queue
import threading
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from sandbox.clock import Clock
from sandbox.secret_store import EventType, SecretVersion

type Event = dict[str, Any]
"""Event Grid schema, one event; Any because it is JSON."""


class KeyVaultEvents:
    """Keeps what was raised and calls `on_event` in a thread of its own, so that no request waits for a listener."""

    def __init__(
        self, vault_name: str, vault_url: str, clock: Clock, on_event: Callable[[Event], object] | None
    ) -> None:
        self._vault_name, self._vault_url, self._clock = vault_name, vault_url, clock
        self._on_event = on_event
        self._raised: list[Event] = []
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._thread = threading.Thread(target=self._call_back, name="key-vault-events", daemon=True)

    def start(self) -> None:
        """Call back from now on; what was raised before was waiting."""
        self._thread.start()

    def close(self) -> None:
        """End, when `on_event` has been called for all that was raised."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def raised(self) -> tuple[Event, ...]:
        """All events so far, in order."""
        return tuple(self._raised)

    def announce(self, event_type: EventType, version: SecretVersion) -> Event:
        """Raise an event and return it; whoever listens is called later."""
        event = self._event(event_type, version)
        self._raised.append(event)
        if self._on_event:
            self._queue.put(event)
        return event

    def flush(self, seconds: float) -> None:
        """Wait until `on_event` has returned for all events so far. Raise TimeoutError when it does not."""
        with self._queue.all_tasks_done:
            if not self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, seconds):
                raise TimeoutError(f"on_event has not returned within {seconds} s")

    def _event(self, event_type: EventType, version: SecretVersion) -> Event:
        return {
            "id": str(uuid.uuid4()),
            "topic": "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/sandbox"
            f"/providers/Microsoft.KeyVault/vaults/{self._vault_name}",
            "subject": version.name,
            "eventType": f"Microsoft.KeyVault.{event_type}",
            "eventTime": f"{self._clock.now():%Y-%m-%dT%H:%M:%S.%f}0Z",
            "data": {
                "Id": f"{self._vault_url}/secrets/{version.name}/{version.version}",
                "VaultName": self._vault_name,
                "ObjectType": "Secret",
                "ObjectName": version.name,
                "Version": version.version,
                "NBF": version.not_before and int(version.not_before.timestamp()),
                "EXP": version.expires_on and int(version.expires_on.timestamp()),
            },
            "dataVersion": "1",
            "metadataVersion": "1",
        }

    def _call_back(self) -> None:
        while True:
            event = self._queue.get()
            try:
                if event is None:
                    return
                if self._on_event:
                    self._on_event(event)
            except Exception:  # noqa: BLE001 (a listener's error must not end the events)
                traceback.print_exc()
            finally:
                self._queue.task_done()


class Ticker:
    """Calls `tick` each second."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick = tick
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-vault-ticker", daemon=True)

    def start(self) -> None:
        """Call from now on."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._end.wait(1):
            self._tick()
