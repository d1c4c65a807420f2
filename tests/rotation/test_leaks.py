"""P3: no password or token in a log line, an exception, an outcome, an event, a tag or the server's log."""

import base64
import json
import logging
import traceback
from urllib.parse import quote

import psycopg
import pytest

from rotators.credential import Password
from rotators.dispatch import deliver, sweep
from rotators.errors import RotationError
from rotators.rotation import rotate
from rotators.vault import Vault
from tests.world import ADMIN_SECRET, World


class Kept:
    """Everything that comes out of the program in a test."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self._log = log
        self.texts: list[str] = []

    def exception(self, error: BaseException) -> None:
        """Keep its text, its attributes, and the locals of every frame that it came through."""
        for origin in (error.__cause__, error.__context__):
            # A library's error holds the request, or the whole connection string, wherever its text may say nothing.
            assert origin is None or isinstance(origin, RotationError)
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.texts += shown.format()
        self.texts += [repr(vars(error)), repr(error.__context__), repr(error.__cause__)]

    def everything(self) -> str:
        return "\n".join([*self.texts, *(record.getMessage() for record in self._log.records), self._log.text])


@pytest.fixture
def kept(caplog: pytest.LogCaptureFixture) -> Kept:
    caplog.set_level(logging.DEBUG)
    return Kept(caplog)


def secrets_of(here: World) -> set[str]:
    """Return every password that any version ever held, and every token that was handed out."""
    values = [v.value for s in here.vault.client().list_properties_of_secrets() for v in here.versions(s.name or "")]
    passwords = {str(psycopg.conninfo.conninfo_to_dict(value)["password"]) for value in values}
    return passwords | set(here.vault.identity.issued)


def spellings(secret: str) -> set[str]:
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {secret, quote(secret, safe=""), encoded, json.dumps(secret)[1:-1], secret[:16]}


def found(secrets: set[str], text: str) -> list[str]:
    return [secret for secret in secrets for spelling in spellings(secret) if spelling in text]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("strategy", ["alternating", "single", "self"])
def test_nothing_is_found_after_rotations_that_work_and_that_fail(here: World, kept: Kept, strategy: str) -> None:
    """P3: at DEBUG, with a fault at each of the vault's answers and a database that says no."""
    here.admin()

    def make() -> str:
        if strategy == "alternating":
            return here.alternating()
        return here.single(rotation_admin=ADMIN_SECRET if strategy == "single" else "self")

    name = make()
    for fault in (
        {"status": 503, "times": 1},
        {"method": "PUT", "drop": True, "when": "after"},
        {"method": "PUT", "drop": True, "when": "before"},
        {"method": "PUT", "status": 400, "code": "BadParameter"},
        {"method": "GET", "status": 403, "code": "Forbidden"},
    ):
        here.vault.fail(**fault)
        try:
            kept.texts.append(json.dumps(rotate(here.systems, here.trigger(name, force=True)).as_json()))
        except RotationError as error:
            kept.exception(error)
    here.server.execute(f'ALTER ROLE "{here.user_of(name)}" NOLOGIN')
    for trigger in (here.trigger(name, force=True), here.trigger(make()), here.trigger(name, revoke=True, force=True)):
        try:
            kept.texts.append(repr(rotate(here.systems, trigger)))
        except RotationError as error:
            kept.exception(error)
    here.make_due()
    deliver(here.systems, here.near_expiry(make()))
    sweep(here.app(topic=None).systems)
    kept.texts += [repr(event) for event in here.topic.events]
    kept.texts += [repr(here.tags(name)), repr(here.systems), here.server.log()]
    secrets = secrets_of(here)
    assert len(secrets) > 5
    assert "ALTER ROLE" in kept.everything()
    assert found(secrets, kept.everything()) == []


def test_an_error_that_nobody_foresaw_says_where_and_not_what(
    here: World, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: a fault of ours, with a password in its text, ends as a line of code."""
    name = here.single(rotation_admin="self")
    value = here.value(name)

    def break_down(_self: Vault, _before: object, published: Password, **_: object) -> None:
        raise ValueError(published.reveal())

    monkeypatch.setattr(Vault, "publish", break_down)
    with pytest.raises(RotationError, match=r"ValueError at test_leaks\.py") as caught:
        rotate(here.systems, here.trigger(name))
    monkeypatch.undo()
    kept.texts.append(str(caught.value))
    kept.texts.append(repr(caught.value.__context__))
    assert here.logs_in(value)
    assert found(secrets_of(here), kept.everything()) == []


def test_a_password_does_not_print_itself() -> None:
    password = Password("open sesame")
    assert "sesame" not in f"{password} {password!r} {[password]} {password!s:>20}"
    with pytest.raises(TypeError):
        json.dumps(password)
