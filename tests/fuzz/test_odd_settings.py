"""App settings: the environment, right, damaged and made up (P3, P7)."""

import socket
import time
from collections.abc import Mapping
from typing import NoReturn

import pytest
from azure.keyvault.secrets._shared import HttpChallengeCache
from hypothesis import example, given
from hypothesis import strategies as st

import function_app
from rotators import api
from rotators.errors import RotationError, SettingsError, TransientError
from rotators.events import EventOut
from rotators.settings import DEFAULT_SWEEP_SCHEDULE, read_settings, sweep_schedule
from rotators.systems import Systems, connect
from tests.fuzz.inputs import PASSWORD, any_text, assert_tells_nothing, attempt, damaged, examples, near, odd_text

VAULT = "https://rotation.vault.azure.net"
# Nobody listens there, and nobody is asked who that is.
NOWHERE = ("https://127.0.0.1:1", "https://[::1]:1/", "http://127.0.0.1:1/api/events")

urls = near(VAULT, *NOWHERE, f"https://u:{PASSWORD}@h", "https://[::1]", "https://a.b:443/x?y#z")
secret_texts = st.one_of(st.just(PASSWORD), damaged(st.just(PASSWORD)), any_text.map(lambda text: PASSWORD + text))
SECRETS = ("AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "EVENT_GRID_TOPIC_KEY")
environments: st.SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {"KEY_VAULT_URL": urls},
    optional={
        "AZURE_CLIENT_ID": near("0f8fad5b-d9cb-469f-a165-70867728950e"),
        "AZURE_TOKEN_CREDENTIALS": near("ManagedIdentityCredential"),
        "AIRFLOW_URL": urls,
        "AIRFLOW_AUTH": near("password", "token", "entra"),
        "AIRFLOW_USERNAME": near("rotation"),
        "AIRFLOW_PASSWORD_SECRET": near("airflow-login"),
        "AIRFLOW_ENTRA_SCOPE": near("api://airflow/.default"),
        "AIRFLOW_CONNECTIONS": near("clear", "update", "keep"),
        "AIRFLOW_LOOKBACK": near("24h"),
        "AIRFLOW_MAX_EXAMINED": near("2000"),
        "AIRFLOW_CONNECTIONS_PREFIX": near("airflow-connections"),
        "EVENT_GRID_TOPIC_ENDPOINT": urls,
        "ROTATION_SWEEP_SCHEDULE": near(DEFAULT_SWEEP_SCHEDULE, "0 0 2 * * 1-5", "* * * * * *"),
        "ROTATION_CONCURRENCY": near("4"),
        "ROTATION_ALLOWED_HOSTS": near("db,db:5432,*.example.com,[::1]:5432"),
        "ROTATION_MIN_SSLMODE": near("require", "verify-full"),
        "ROTATION_TRUST_PRINCIPAL": near("true", "false"),
        **dict.fromkeys(SECRETS, secret_texts),
    },
)


@given(environ=environments)
@examples(200)
def test_any_environment_is_settings_or_all_complaints(environ: dict[str, str]) -> None:
    """Each complaint names a setting, once, and shows none that is a secret; the timer has a schedule in any case."""
    settings = attempt(SettingsError, lambda: read_settings(environ))
    schedule = sweep_schedule(environ)
    assert len(schedule.split()) == 6
    if not isinstance(settings, SettingsError):
        assert schedule in (environ.get("ROTATION_SWEEP_SCHEDULE", "").strip(), DEFAULT_SWEEP_SCHEDULE)
        assert_tells_nothing(repr(settings))
        assert_is_usable(settings.vault_url)
        return
    names = [complaint.split(" ")[0] for complaint in settings.complaints]
    assert len(set(names)) == len(names) > 0
    assert all(name.isupper() and name.isascii() for name in names)
    assert_tells_nothing(str(settings), api.error_answer(settings).text)
    str(settings).encode()


def assert_is_usable(url: str) -> None:
    url.encode("ascii").decode("idna")
    assert "@" not in url


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without a wire, and clients that give up at once."""

    def no_address(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for name in ("AZURE_TOKEN_CREDENTIALS", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name, raising=False)


right = {
    "KEY_VAULT_URL": st.sampled_from([VAULT, NOWHERE[0]]),
    "AIRFLOW_USERNAME": near("rotation"),
    "AIRFLOW_AUTH": st.sampled_from(["password", "token"]),
}


@given(
    environ=st.fixed_dictionaries(
        {**right, "AIRFLOW_URL": urls, "EVENT_GRID_TOPIC_ENDPOINT": urls, **dict.fromkeys(SECRETS, secret_texts)},
        optional={"AZURE_CLIENT_ID": odd_text},
    )
)
@example(environ={"KEY_VAULT_URL": "https://a..b"})
@example(
    environ={
        "KEY_VAULT_URL": VAULT,
        "AIRFLOW_URL": "http://127.0.0.1:1",
        "AIRFLOW_AUTH": "token",
        "AIRFLOW_TOKEN": f"{PASSWORD}\n{PASSWORD}",
    }
)
@examples(20)
@pytest.mark.usefixtures("nobody_answers")
def test_settings_that_are_taken_can_be_used(environ: Mapping[str, str]) -> None:
    """P3: what no library of ours can send is found at the start, not in an exception that shows it."""
    systems = attempt(SettingsError, lambda: connect(environ))
    if isinstance(systems, SettingsError):
        return
    HttpChallengeCache.clear()
    for error in (
        attempt(RotationError, lambda: systems.vault.current("warehouse")),
        attempt(RotationError, lambda: ask_airflow(systems)),
        attempt(RotationError, lambda: tell(systems)),
    ):
        assert error is None or isinstance(error, TransientError), error
        assert_tells_nothing(str(error))


def ask_airflow(systems: Systems) -> None:
    if systems.airflow is not None:
        systems.airflow.check()


def tell(systems: Systems) -> None:
    if systems.topic is not None:
        systems.topic.publish(EventOut("Failed", "warehouse", {}))


def test_without_settings_every_route_says_what_is_missing() -> None:
    """P7: the complaint is kept and answered; what was set is not."""

    def broken() -> api.Answer:
        connect({"KEY_VAULT_URL": f"https://u:{PASSWORD}@h", "AIRFLOW_URL": PASSWORD})
        raise AssertionError("connected")

    answer = function_app.answering(broken)
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    text = answer.get_body().decode()
    assert "KEY_VAULT_URL is not a URL" in text
    assert_tells_nothing(text)
