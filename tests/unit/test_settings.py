"""App settings: read and checked, every complaint at once."""

from datetime import timedelta
from typing import Any

import pytest

from rotators.airflow import AirflowAccess
from rotators.credential import Password
from rotators.errors import SettingsError
from rotators.settings import DEFAULT_SWEEP_SCHEDULE, Settings, read_settings, sweep_schedule
from rotators.systems import connect

URL = "https://rotation.vault.azure.net"
VAULT = {"KEY_VAULT_URL": URL}
TOPIC = "https://topic.westeurope-1.eventgrid.azure.net/api/events"
AIRFLOW = {"AIRFLOW_URL": "https://airflow", "AIRFLOW_USERNAME": "rotation", "AIRFLOW_PASSWORD_SECRET": "airflow-login"}


def complaints(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        read_settings(environ)
    assert all(complaint in str(caught.value) for complaint in caught.value.complaints)
    return caught.value.complaints


def test_a_vault_is_enough() -> None:
    """What is left open has the defaults of the contract."""
    assert read_settings(VAULT) == Settings(
        vault_url=URL,
        client_id=None,
        credential_name="ManagedIdentityCredential",
        airflow=None,
        airflow_secret=None,
        airflow_password=Password(""),
        airflow_entra_scope=None,
        connections_prefix="airflow-connections",
        topic_endpoint=None,
        topic_key=None,
        concurrency=4,
        allowed_hosts=(),
        min_sslmode="require",
        trust_principal=False,
    )
    assert sweep_schedule(VAULT) == DEFAULT_SWEEP_SCHEDULE == "0 */15 * * * *"


def test_an_airflow_has_defaults_of_its_own() -> None:
    """With its address and a login, the rest is as the contract says."""
    assert read_settings({**VAULT, **AIRFLOW}).airflow == AirflowAccess(
        url="https://airflow",
        auth="password",
        username="rotation",
        connections="clear",
        lookback=timedelta(hours=24),
        max_examined=2000,
    )


@pytest.mark.parametrize(
    ("environ", "attribute", "expected"),
    [
        ({"KEY_VAULT_URL": f" {URL}/ "}, "vault_url", URL),
        ({"KEY_VAULT_URL": "https://127.0.0.1:8443"}, "vault_url", "https://127.0.0.1:8443"),
        ({"AZURE_CLIENT_ID": "id"}, "client_id", "id"),
        ({"AZURE_TOKEN_CREDENTIALS": "dev"}, "credential_name", "dev"),
        ({"AIRFLOW_CONNECTIONS_PREFIX": "team-connections"}, "connections_prefix", "team-connections"),
        # AzureKeyVaultBackend leaves the separator at its end out.
        ({"AIRFLOW_CONNECTIONS_PREFIX": "team-connections-"}, "connections_prefix", "team-connections"),
        ({"EVENT_GRID_TOPIC_ENDPOINT": TOPIC}, "topic_endpoint", TOPIC),
        ({"EVENT_GRID_TOPIC_ENDPOINT": TOPIC, "EVENT_GRID_TOPIC_KEY": "k"}, "topic_key", Password("k")),
        ({"ROTATION_CONCURRENCY": "16"}, "concurrency", 16),
        (
            {"ROTATION_ALLOWED_HOSTS": "DB, db:5433, *.Example.com, *.a.b:1, [::1], [::1]:5432,"},
            "allowed_hosts",
            ("db", "db:5433", "*.example.com", "*.a.b:1", "[::1]", "[::1]:5432"),
        ),
        ({"ROTATION_MIN_SSLMODE": "Verify-Full"}, "min_sslmode", "verify-full"),
        ({"ROTATION_TRUST_PRINCIPAL": "true"}, "trust_principal", True),
        ({"ROTATION_TRUST_PRINCIPAL": "True"}, "trust_principal", True),
        ({"ROTATION_TRUST_PRINCIPAL": "false"}, "trust_principal", False),
        ({"AIRFLOW_ENTRA_SCOPE": "api://airflow/.default"}, "airflow_entra_scope", "api://airflow/.default"),
        (AIRFLOW, "airflow_secret", "airflow-login"),
        ({"AIRFLOW_PASSWORD": "p"}, "airflow_password", Password("p")),
        ({"AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": "t", "AIRFLOW_PASSWORD": "p"}, "airflow_password", Password("t")),
    ],
)
def test_each_setting_is_read(environ: dict[str, str], attribute: str, expected: object) -> None:
    """Each setting of the contract sets what it says; the portal's stray blanks do no harm."""
    assert getattr(read_settings({**VAULT, **environ}), attribute) == expected


@pytest.mark.parametrize(
    ("environ", "attribute", "expected"),
    [
        ({"AIRFLOW_URL": "http://localhost:8080/"}, "url", "http://localhost:8080"),
        ({"AIRFLOW_CONNECTIONS": "update"}, "connections", "update"),
        ({"AIRFLOW_CONNECTIONS": "Keep"}, "connections", "keep"),
        ({"AIRFLOW_LOOKBACK": "36h"}, "lookback", timedelta(hours=36)),
        ({"AIRFLOW_MAX_EXAMINED": "50"}, "max_examined", 50),
        ({"AIRFLOW_USERNAME": "x"}, "username", "x"),
        ({"AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": "t"}, "auth", "token"),
        ({"AIRFLOW_AUTH": "entra", "AIRFLOW_ENTRA_SCOPE": "s"}, "auth", "entra"),
    ],
)
def test_each_setting_of_airflow_is_read(environ: dict[str, str], attribute: str, expected: object) -> None:
    """As above, for what is asked only where there is an Airflow."""
    assert getattr(read_settings({**VAULT, **AIRFLOW, **environ}).airflow, attribute) == expected


WRONG = [
    ({"KEY_VAULT_URL": ""}, "KEY_VAULT_URL is missing: set it to a URL like https://..."),
    ({"KEY_VAULT_URL": "rotation"}, "KEY_VAULT_URL is not a URL that starts with https://"),
    ({"KEY_VAULT_URL": "http://rotation.vault.azure.net"}, "KEY_VAULT_URL is not a URL that starts with https://"),
    ({"KEY_VAULT_URL": "https://"}, "KEY_VAULT_URL is not a URL that starts with https://"),
    ({"KEY_VAULT_URL": "https://v:99999"}, "KEY_VAULT_URL is not a URL that starts with https://"),
    ({"KEY_VAULT_URL": "https://["}, "KEY_VAULT_URL is not a URL that starts with https://"),
    ({"AIRFLOW_URL": "airflow:8080"}, "AIRFLOW_URL is not a URL that starts with https:// or http://"),
    ({"AIRFLOW_URL": "ftp://airflow"}, "AIRFLOW_URL is not a URL that starts with https:// or http://"),
    *(
        ({name: f"https://{rest}"}, f"{name} is not a URL that starts with https://")
        for name in ("KEY_VAULT_URL", "AIRFLOW_URL", "EVENT_GRID_TOPIC_ENDPOINT")
        # What the libraries of the three would pass on, or raise errors of their own about.
        for rest in (":pw@h", "u:pw@h", "h?key=pw", "h#x", "a b", "a..b", ".", "a" * 64, "a." * 127 + "a", "%00", "*")
    ),
    *(
        ({name: f"https://{rest}"}, f"{name} is not a URL that starts with https://")
        for name in ("KEY_VAULT_URL", "AIRFLOW_URL", "EVENT_GRID_TOPIC_ENDPOINT")
        for rest in ("\u00e9.com", "\u2100.com", "[v1.a]", "h\\x", "h:\u0663", "h/\u00e9")
    ),
    ({"AIRFLOW_URL": "https://h\x01"}, "AIRFLOW_URL has a character that is not a printable one; copy it again"),
    (
        {"AIRFLOW_PASSWORD_SECRET": "", "AIRFLOW_PASSWORD": "p\udc80"},
        "AIRFLOW_PASSWORD has a character that is not a printable one; copy it again",
    ),
    # An HTTP library's complaint about a header would show what is in it.
    *(
        (
            {"AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": f"token{odd}x"},
            "AIRFLOW_TOKEN has a character that is not an ASCII",
        )
        for odd in ("\n", "\u4e00", "\u00e9", "\udc80")
    ),
    *(
        (
            {"EVENT_GRID_TOPIC_ENDPOINT": TOPIC, "EVENT_GRID_TOPIC_KEY": f"key{odd}x"},
            "EVENT_GRID_TOPIC_KEY has a character that is not an ASCII letter, digit or sign; copy it again",
        )
        for odd in ("\n", "\u4e00", "\u00e9", "\udc80")
    ),
    ({"AIRFLOW_PASSWORD_SECRET": "air_flow/../x"}, "AIRFLOW_PASSWORD_SECRET is no secret's name: 1 to 127 letters"),
    ({"AIRFLOW_AUTH": "basic"}, "AIRFLOW_AUTH is not one of password, token, entra"),
    ({"AIRFLOW_CONNECTIONS": "drop"}, "AIRFLOW_CONNECTIONS is not one of clear, update, keep"),
    ({"AIRFLOW_LOOKBACK": "yesterday"}, "AIRFLOW_LOOKBACK is not a duration like 15m, 36h or 60d"),
    ({"AIRFLOW_LOOKBACK": "0h"}, "AIRFLOW_LOOKBACK is not a duration like 15m, 36h or 60d"),
    ({"AIRFLOW_MAX_EXAMINED": "all"}, "AIRFLOW_MAX_EXAMINED is not a whole number from 1 on"),
    ({"AIRFLOW_CONNECTIONS_PREFIX": "air_flow"}, "AIRFLOW_CONNECTIONS_PREFIX has characters that a secret's name"),
    ({"AIRFLOW_USERNAME": ""}, "AIRFLOW_USERNAME is missing: AIRFLOW_AUTH is 'password'"),
    ({"AIRFLOW_PASSWORD_SECRET": ""}, "AIRFLOW_PASSWORD_SECRET or AIRFLOW_PASSWORD, exactly one of them, must be set"),
    ({"AIRFLOW_PASSWORD": "p"}, "AIRFLOW_PASSWORD_SECRET or AIRFLOW_PASSWORD, exactly one of them, must be set"),
    ({"AIRFLOW_AUTH": "token"}, "AIRFLOW_TOKEN is missing: AIRFLOW_AUTH is 'token'"),
    ({"AIRFLOW_AUTH": "entra"}, "AIRFLOW_ENTRA_SCOPE is missing: AIRFLOW_AUTH is 'entra'"),
    ({"EVENT_GRID_TOPIC_ENDPOINT": "topic", "EVENT_GRID_TOPIC_KEY": "k"}, "EVENT_GRID_TOPIC_ENDPOINT is not a URL"),
    ({"EVENT_GRID_TOPIC_KEY": "k"}, "EVENT_GRID_TOPIC_ENDPOINT is missing, but EVENT_GRID_TOPIC_KEY is set"),
    ({"EVENT_GRID_TOPIC_ENDPOINT": "http://topic"}, "EVENT_GRID_TOPIC_ENDPOINT must be https: without a key a token"),
    ({"EVENT_GRID_TOPIC_ENDPOINT": "HTTP://topic"}, "EVENT_GRID_TOPIC_ENDPOINT must be https: without a key a token"),
    ({"AIRFLOW_CONNECTIONS_PREFIX": "-"}, "AIRFLOW_CONNECTIONS_PREFIX has characters that a secret's name cannot"),
    ({"ROTATION_SWEEP_SCHEDULE": "*/15 * * * *"}, "ROTATION_SWEEP_SCHEDULE is not an NCRONTAB expression of six"),
    ({"ROTATION_SWEEP_SCHEDULE": "often"}, "ROTATION_SWEEP_SCHEDULE is not an NCRONTAB expression of six"),
    ({"ROTATION_CONCURRENCY": "0"}, "ROTATION_CONCURRENCY is not a whole number from 1 on"),
    ({"ROTATION_CONCURRENCY": "-1"}, "ROTATION_CONCURRENCY is not a whole number from 1 on"),
    ({"ROTATION_CONCURRENCY": "2.5"}, "ROTATION_CONCURRENCY is not a whole number from 1 on"),
    ({"ROTATION_ALLOWED_HOSTS": "*"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port and"),
    ({"ROTATION_ALLOWED_HOSTS": "a,https://b"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port"),
    ({"ROTATION_ALLOWED_HOSTS": "a.*.b"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port and"),
    *(
        ({"ROTATION_ALLOWED_HOSTS": f"a:{port}"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port")
        for port in ("0", "65536", "99999", "\u0663")
    ),
    ({"ROTATION_ALLOWED_HOSTS": "a b"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port and"),
    ({"ROTATION_ALLOWED_HOSTS": "a:x"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port and"),
    ({"ROTATION_ALLOWED_HOSTS": "::1"}, "ROTATION_ALLOWED_HOSTS has an entry that is none of name, name:port and"),
    ({"ROTATION_MIN_SSLMODE": "tls"}, "ROTATION_MIN_SSLMODE is not one of disable, allow, prefer, require, verify-ca"),
    ({"ROTATION_TRUST_PRINCIPAL": "yes"}, "ROTATION_TRUST_PRINCIPAL is not one of true, false"),
]


@pytest.mark.parametrize(("environ", "complaint"), WRONG)
def test_a_wrong_setting_is_named_with_what_it_should_be(environ: dict[str, str], complaint: str) -> None:
    """P7: one complaint, which names the setting."""
    (only,) = complaints({**VAULT, **AIRFLOW, **environ})
    assert only.startswith(complaint)


def test_a_missing_vault_is_a_complaint() -> None:
    """P7: the one setting without which nothing works."""
    assert complaints({}) == ("KEY_VAULT_URL is missing: set it to a URL like https://...",)


def test_all_wrong_settings_are_named_at_once() -> None:
    """P7: who mends one does not find the next behind it."""
    wrong = {
        "AIRFLOW_URL": "x",
        "AIRFLOW_AUTH": "x",
        "AIRFLOW_CONNECTIONS": "x",
        "AIRFLOW_LOOKBACK": "x",
        "AIRFLOW_MAX_EXAMINED": "x",
        "AIRFLOW_CONNECTIONS_PREFIX": "_",
        "EVENT_GRID_TOPIC_ENDPOINT": "x",
        "EVENT_GRID_TOPIC_KEY": "x",
        "ROTATION_SWEEP_SCHEDULE": "x",
        "ROTATION_CONCURRENCY": "x",
        "ROTATION_ALLOWED_HOSTS": "/",
        "ROTATION_MIN_SSLMODE": "x",
        "ROTATION_TRUST_PRINCIPAL": "x",
    }
    named = {complaint.partition(" ")[0] for complaint in complaints(wrong)}
    assert named == {"KEY_VAULT_URL", *wrong} - {"EVENT_GRID_TOPIC_KEY"}


@pytest.mark.parametrize("name", sorted({"AIRFLOW_TOKEN"}.union(*(environ for environ, _ in WRONG))))
def test_a_complaint_does_not_repeat_what_was_set(name: str) -> None:
    """P3: a password that was put into the wrong setting must not get into logs and answers."""
    environ = {**VAULT, **AIRFLOW, "AIRFLOW_AUTH": "password", name: "hunter2 /"}
    try:
        read_settings(environ)
    except SettingsError as error:
        assert "hunter2" not in repr((error, error.complaints))  # noqa: PT017 (not every setting can be wrong)
    else:
        assert name in {"AIRFLOW_USERNAME", "AIRFLOW_PASSWORD_SECRET", "AIRFLOW_TOKEN"}


def test_settings_do_not_show_their_secrets() -> None:
    """P3: they may be printed."""
    environ = {
        **VAULT,
        "AIRFLOW_PASSWORD": "hunter2",
        "EVENT_GRID_TOPIC_ENDPOINT": TOPIC,
        "EVENT_GRID_TOPIC_KEY": "k3y",
    }
    shown = repr(read_settings(environ))
    assert "hunter2" not in shown
    assert "k3y" not in shown


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_setting_counts_as_missing(blank: str) -> None:
    """In the portal a setting is emptied more easily than removed."""
    names = [*{name for environ, _ in WRONG for name in environ} - {"KEY_VAULT_URL"}, "AZURE_TOKEN_CREDENTIALS"]
    assert read_settings({**VAULT, **dict.fromkeys(names, blank)}) == read_settings(VAULT)
    assert sweep_schedule({"ROTATION_SWEEP_SCHEDULE": blank}) == DEFAULT_SWEEP_SCHEDULE


@pytest.mark.parametrize("schedule", ["0 0 2 * * *", "*/30 * * * * *", "0 0,30 8-18 * * 1-5", "0 0 0 1 Jan Sun"])
def test_a_schedule_that_the_host_understands_is_taken(schedule: str) -> None:
    """NCRONTAB: six fields, seconds first."""
    assert sweep_schedule({"ROTATION_SWEEP_SCHEDULE": schedule}) == schedule
    assert read_settings({**VAULT, "ROTATION_SWEEP_SCHEDULE": schedule}).vault_url == URL


@pytest.mark.parametrize(
    "schedule",
    [
        "often",
        "*/15 * * * *",
        "0 */15 * * * * *",
        "0 60 * * * *",
        "0 * 24 * * *",
        "x * * * * *",
        "60 * * * * *",
        "- * * * * *",
        "0 0 2 * * 7",
        "0 0 2 L * *",
        "0 0 2 * * 1#5",
        "0 0 0 30 2 *",
        "0 0 0 30 2 1",
    ],
)
def test_a_schedule_that_the_host_would_not_understand_is_replaced_and_complained_about(schedule: str) -> None:
    """P2, P7: a timer whose schedule the host cannot read does not exist, and the sweep with it.

    NCrontab, which the host uses, has seconds to 59, weekdays from 0 to 6, and neither L nor #.
    """
    assert sweep_schedule({"ROTATION_SWEEP_SCHEDULE": schedule}) == DEFAULT_SWEEP_SCHEDULE
    (only,) = complaints({**VAULT, "ROTATION_SWEEP_SCHEDULE": schedule})
    assert only.startswith("ROTATION_SWEEP_SCHEDULE ")


def test_an_unknown_credential_is_a_complaint_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """P7: azure-identity raises ValueError for a name that it does not know, which would take every function away."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "managed-identity")
    with pytest.raises(SettingsError, match="AZURE_TOKEN_CREDENTIALS"):
        connect({**VAULT, "AZURE_TOKEN_CREDENTIALS": "managed-identity"})


@pytest.mark.parametrize("auth", [{"AIRFLOW_AUTH": "token", "AIRFLOW_TOKEN": "t"}, AIRFLOW])
def test_airflow_is_given_what_its_auth_asks_for(monkeypatch: pytest.MonkeyPatch, auth: dict[str, str]) -> None:
    """P3: the password that a secret holds is not sent as a token because somebody left its setting there."""
    monkeypatch.setattr("rotators.systems.Airflow", lambda _, password: password)
    monkeypatch.setattr("rotators.vault.Vault.current", lambda _, name: pytest.fail(f"{name} was read"))
    password: Any = connect({**VAULT, **AIRFLOW, **auth}).airflow  # Any: in the place of Airflow
    if auth is AIRFLOW:
        with pytest.raises(pytest.fail.Exception, match="airflow-login was read"):
            password()
    else:
        assert password() == Password("t")
