"""`make demo`: the main job for real, told as three stories; every outcome is checked."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from sandbox.airflow_server import ROOT
from sandbox.ending import end_when_asked
from sandbox.functions_host import FunctionsHost
from sandbox.laptop import CRM, LAKE, WAREHOUSE, Laptop

WAIT_SECONDS = 90


class Story:
    """Prints what happens, with its time, and remembers what was not as promised."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.checks: list[tuple[str, str, bool]] = []
        self._chapter = ""

    def chapter(self, title: str) -> None:
        self._chapter = title
        print(f"\n{title}", flush=True)

    def tell(self, text: str) -> None:
        print(f"  {time.monotonic() - self._started:6.1f} s  {text}", flush=True)

    def check(self, promise: str, kept: object) -> None:
        self.checks.append((self._chapter, promise, bool(kept)))
        self.tell(f"{'ok    ' if kept else 'BROKEN'}  {promise}")

    def summary(self) -> bool:
        """Print the table; return whether all was as promised."""
        print(f"\n{'':8}{'what was promised':72}")
        for chapter, promise, kept in self.checks:
            print(f"{'ok' if kept else 'BROKEN':8}{promise:72}{chapter.split('.')[0]}")
        broken = sum(not kept for _, _, kept in self.checks)
        print(
            f"\n{len(self.checks) - broken} of {len(self.checks)} as promised, {time.monotonic() - self._started:.0f} s"
        )
        return broken == 0


class Reader(threading.Thread):
    """An application that reads the secret and logs in, without pause."""

    def __init__(self, laptop: Laptop, secret: str) -> None:
        super().__init__(daemon=True)
        self._laptop = laptop
        self._secret = secret
        self._stopping = threading.Event()
        self.logins = 0
        self.failures = 0
        self.users: set[str] = set()

    def run(self) -> None:
        with self._laptop.vault.client() as client:
            while not self._stopping.is_set():
                uri = client.get_secret(self._secret).value or ""
                try:
                    with psycopg.connect(uri) as session:
                        self.users.add(session.info.user)
                        self.logins += 1
                except psycopg.OperationalError:
                    self.failures += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def main() -> int:
    end_when_asked()
    try:
        return 0 if play() else 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130  # what a shell makes of Ctrl-C


def play() -> bool:
    """Tell the stories; return whether all was as promised."""
    story = Story()
    print("Credential rotation for Airflow on Azure, on this machine: PostgreSQL and Airflow are real; Key Vault and")
    print("Event Grid are stand-ins that the unmodified Azure SDK talks to; Microsoft's worker library runs the app.")
    story.chapter("Starting (the first time installs Airflow)")
    with Laptop() as laptop:
        story.tell("PostgreSQL, Key Vault, Event Grid and Airflow are up")
        with FunctionsHost(str(ROOT), environment=laptop.settings()) as app:
            story.tell("the function app is up")
            laptop.subscribe(app.url)
            near_expiry(story, laptop, app)
            healing(story, laptop, app)
            by_hand(story, laptop, app)
            story.chapter("At the end")
            passwords = {_password(v.value) for name in (WAREHOUSE, LAKE, CRM) for v in laptop.vault.versions(name)}
            tokens = set(laptop.vault.identity.issued)
            output = app.output()
            story.check(
                "no password and no token is in the app's log", not any(s in output for s in passwords | tokens)
            )
    return story.summary()


def near_expiry(story: Story, laptop: Laptop, app: FunctionsHost) -> None:
    story.chapter("1. A near-expiry event")
    before = laptop.vault.current(WAREHOUSE)
    run = laptop.airflow.trigger("warehouse_report")
    story.check("the DAG warehouse_report succeeds", laptop.airflow.wait("warehouse_report", run) == "success")
    with reading(laptop, WAREHOUSE) as reader:
        _wait(lambda: reader.logins > 0)
        story.tell("a reader reads the secret and logs in without pause")
        laptop.catch_up()
        story.tell("two months later: the vault raises SecretNearExpiry, Event Grid brings it to the app")
        rotated = _wait(lambda: laptop.vault.current(WAREHOUSE).version != before.version)
        after = laptop.vault.current(WAREHOUSE)
        story.check(
            "the secret has a new version, with the other user", rotated and _user(after.value) != _user(before.value)
        )
        _wait(lambda: _state(laptop, WAREHOUSE).get("pending") == [])
        _tell_steps(story, app, WAREHOUSE)
        run = laptop.airflow.trigger("warehouse_report")
        story.check("the DAG succeeds again", laptop.airflow.wait("warehouse_report", run) == "success")
        identifier = f"{laptop.vault.url}/secrets/{WAREHOUSE}/{before.version}"
        (event,) = [e for e in laptop.vault.events if e["data"]["Id"] == identifier and "NearExpiry" in e["eventType"]]
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: app.post_event(dict(event))[0], range(5)))
        story.check("the same event five times more, in parallel: taken", answers == [202] * 5)
        story.check("... and no further version", len(laptop.vault.versions(WAREHOUSE)) == 2)  # noqa: PLR2004
    users = " then ".join(sorted(reader.users))
    story.check(
        f"the reader logged in {reader.logins} times, as {users}: no failure", reader.logins and not reader.failures
    )
    story.check("the old credential still logs in, in its grace", _logs_in(before.value))


def healing(story: Story, laptop: Laptop, app: FunctionsHost) -> None:
    story.chapter("2. Healing")
    airflow = laptop.airflow
    uri = psycopg.conninfo.conninfo_to_dict(laptop.vault.current(LAKE).value)
    fields = {"conn_type": "postgres", "host": uri["host"], "port": laptop.postgresql.port, "schema": uri["dbname"]}
    airflow.create_connection("lake", **fields, login=uri["user"], password="of-last-year")  # noqa: S106 (wrong on purpose)
    airflow.create_connection("elsewhere", **fields, login="somebody_else", password="wrong")  # noqa: S106 (wrong on purpose)
    story.tell("a copy of the connection with last year's password is in Airflow's metastore")
    mistake = airflow.trigger("lake_mistake")
    elsewhere = airflow.trigger("reads_elsewhere")
    story.check("a run fails for a reason of its own", airflow.wait("lake_mistake", mistake) == "failed")
    story.check("a run fails on another connection's password", airflow.wait("reads_elsewhere", elsewhere) == "failed")
    throttled = laptop.vault.fail(method="GET", path=f"/secrets/{LAKE}", status=429, code="Throttled", times=None)
    report = airflow.trigger("lake_report")
    state = airflow.wait("lake_report", report)
    throttled.remove()
    story.check("Key Vault throttles, Airflow falls back to the copy: a run fails on it", state == "failed")
    story.check(
        "... and the task behind is upstream_failed",
        airflow.states("lake_report", report)["publish", -1] == "upstream_failed",
    )
    others = {
        name: airflow.states(name, run) for name, run in (("lake_mistake", mistake), ("reads_elsewhere", elsewhere))
    }
    story.tell("no event ever comes for this secret: the sweep finds that it is due")
    story.check("the sweep ran", app.run_timer("rotation_sweep")["succeeded"])
    _wait(lambda: _state(laptop, LAKE).get("pending") == [])
    _tell_steps(story, app, LAKE)
    story.check("the copy in the metastore is gone", airflow.connection("lake") is None)
    story.check(
        "the failed run ended in success, without anybody's hand", airflow.wait("lake_report", report) == "success"
    )
    story.check(
        "every other run is as it was",
        others == {n: airflow.states(n, r) for n, r in (("lake_mistake", mistake), ("reads_elsewhere", elsewhere))},
    )
    story.check("the other connection is as it was", airflow.connection("elsewhere") is not None)


def by_hand(story: Story, laptop: Laptop, app: FunctionsHost) -> None:
    story.chapter("3. By hand")
    first = laptop.vault.current(CRM).value
    status, outcome = _rotate(app, CRM, dryRun=True)
    story.check("a dry run says what it would do", (status, outcome["status"]) == (200, "planned"))
    story.check("... and changes nothing", laptop.vault.current(CRM).value == first and _logs_in(first))
    status, outcome = _rotate(app, CRM, reason="demo")
    second = laptop.vault.current(CRM).value
    story.check("a rotation by hand is done", (status, outcome["status"]) == (200, "rotated") and _logs_in(second))
    story.check("the single user's old password is refused", not _logs_in(first))
    with psycopg.connect(second) as leaked:
        status, outcome = _rotate(app, CRM, revoke=True, reason="leaked")
        story.check("revoke: done", (status, outcome["status"]) == (200, "rotated"))
        story.check("... the leaked password is refused at once", not _logs_in(second))
        story.check("... its open session is ended", _is_ended(leaked))
    story.check("... its version is disabled", not laptop.vault.versions(CRM)[-2].enabled)
    story.check("... and the new one logs in", _logs_in(laptop.vault.current(CRM).value))


@contextmanager
def reading(laptop: Laptop, secret: str) -> Iterator[Reader]:
    reader = Reader(laptop, secret)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()


def _rotate(app: FunctionsHost, secret: str, **body: object) -> tuple[int, dict[str, Any]]:
    status, _, answer = app.http("POST", f"/api/secrets/{secret}/rotate", json=body)
    return status, json.loads(answer)


def _tell_steps(story: Story, app: FunctionsHost, secret: str) -> None:
    """Tell the steps of the last rotation, as the app logged them."""
    for line in reversed(app.output().splitlines()):
        match = re.search(r'\{"event":"rotation (rotated|resumed)".*\}', line)
        if match and (outcome := json.loads(match[0]))["secret"] == secret:
            for step in outcome["steps"]:
                story.tell(f"        {step['step']:14}{step['milliseconds']:8.1f} ms")
            for warning in outcome["warnings"]:
                story.tell(f"        {warning}")
            return


def _wait(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _state(laptop: Laptop, secret: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(laptop.vault.current(secret).tags.get("rotation-state", "{}"))
    return state


def _user(uri: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(uri)["user"])


def _password(uri: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(uri)["password"])


def _logs_in(uri: str) -> bool:
    try:
        psycopg.connect(uri, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _is_ended(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
