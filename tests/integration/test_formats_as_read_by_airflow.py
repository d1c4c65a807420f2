"""What Airflow's own Connection classes read from the values that we render, and from those that we only read."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotators.connection_secret import ConnectionSecret, parse
from rotators.credential import Credential, Password
from rotators.errors import SecretFormatError

AIRFLOW_PYTHON = Path(__file__).parents[2] / ".sandbox/airflow/bin/python"
EXAMPLES = settings(max_examples=150, deadline=None)

# The scheduler reads with the first class, a task with the second. Both go through AzureKeyVaultBackend's method.
READER = """
import json, os, sys
answers, sys.stdout = sys.stdout, sys.stderr
from airflow.models.connection import Connection as ServerConnection
from airflow.providers.microsoft.azure.secrets.key_vault import AzureKeyVaultBackend
from airflow.sdk import Connection as TaskConnection
def read(connection_class, value):
    backend = AzureKeyVaultBackend(vault_url="https://vault.invalid")
    backend._set_connection_class(connection_class)
    try:
        connection = backend.deserialize_connection("warehouse", value)
        fields = ("conn_type", "login", "password", "host", "port", "schema", "extra")
        return {field: getattr(connection, field) for field in fields}
    except Exception as error:
        return {"error": type(error).__name__}
for line in sys.stdin:
    value = json.loads(line)
    print(json.dumps([read(ServerConnection, value), read(TaskConnection, value)]), file=answers, flush=True)
"""

type Reading = dict[str, Any]  # a connection's fields: JSON from another process
type Airflow = Callable[[str], list[Reading]]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Ask the process in Airflow's environment what both of its classes read from a value."""
    home = tmp_path_factory.mktemp("airflow")
    isolated = {"AIRFLOW_HOME": str(home), "HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    with (
        (home / "stderr").open("w") as errors,
        subprocess.Popen(  # noqa: S603 (our own program)
            [AIRFLOW_PYTHON, "-c", READER],
            env=inherited | isolated,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        questions, answers = process.stdin, process.stdout

        def ask(value: str) -> list[Reading]:
            questions.write(json.dumps(value) + "\n")
            questions.flush()
            answer: list[Reading] = json.loads(answers.readline())
            return answer

        yield ask


TEXTS = st.one_of(
    st.text("@:/?#%&=+'\"\\ é~aA0", min_size=1, max_size=12),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
)
CREDENTIALS = st.builds(Credential, TEXTS, st.builds(Password, TEXTS))
EXTRAS: list[dict[str, Any]] = [
    {},
    {"sslmode": "require", "application_name": "a + b = ä"},
    {"sslmode": "require", "keepalives": 1, "nested": {"user": "x", "a": [1.50, None]}},
]


@st.composite
def uris(draw: st.DrawFn) -> str:
    user, password = (quote(draw(TEXTS), safe="") for _ in range(2))
    host = draw(st.sampled_from(["db", "DB.example.com:6432", "[::1]:6432", "%2Frun%2FPostgres"]))
    schema = draw(st.sampled_from(["", "/", "/s%C3%A4les", "/a%2Fb"]))
    extra = draw(st.sampled_from(EXTRAS))
    query = "?__extra__=" + quote_plus(json.dumps(extra)) if extra else ""
    query = draw(st.sampled_from([query, "?sslmode=require&connect_timeout=3&application_name=a+b", "#fragment"]))
    margin = draw(st.sampled_from(["", "\n", " "]))
    return (
        f"{margin}{draw(st.sampled_from(['postgres', 'postgresql']))}://{user}:{password}@{host}{schema}{query}{margin}"
    )


@st.composite
def documents(draw: st.DrawFn) -> str:
    extra = draw(st.sampled_from(EXTRAS))
    fields = {
        "conn_type": draw(st.sampled_from(["postgres", "postgresql"])),
        "login": draw(TEXTS),
        "password": draw(TEXTS),
        "host": draw(st.sampled_from(["db", "DB.example.com", "::1", "h1,h2"])),
        "port": draw(st.sampled_from([None, 6432, "6432"])),
        "schema": draw(st.sampled_from([None, "", "sälés"])),
        "description": 'a "password": "b"',
        "extra": draw(st.sampled_from([extra, json.dumps(extra), None])),
    }
    document = {name: fields[name] for name in draw(st.permutations(list(fields)))}
    indent, margin = draw(st.sampled_from([None, 2])), draw(st.sampled_from(["", "\n"]))
    return json.dumps(document, ensure_ascii=draw(st.booleans()), indent=indent) + margin


def read(value: str) -> ConnectionSecret:
    return parse(Password(value), secret="airflow-connections-warehouse", tags={})


@EXAMPLES
@given(st.one_of(uris(), documents()), CREDENTIALS)
def test_airflow_reads_the_new_credential_and_all_else_as_before(
    airflow: Airflow, value: str, credential: Credential
) -> None:
    """For any user and password without NUL, in the scheduler and in a task."""
    connection = read(value)
    assert connection.format in {"airflow-uri", "airflow-json"}
    rendered = connection.with_credential(credential).render().reveal()
    for before, after in zip(airflow(value), airflow(rendered), strict=True):
        agree(connection, before)
        assert after == before | {"login": credential.user, "password": credential.password.reveal()}


RAW = st.lists(
    st.sampled_from([*":/?#@%&=[],' \\+a1\n", "%40", "%2F", "@h", "@h/d", "u:p@h", "host=i", "__extra__=%7B%7D"])
)


@settings(EXAMPLES, max_examples=400)
@given(RAW, st.sampled_from(["", "@h/d", "@h:1,i", "@[::1]/d?a=@b"]))
def test_a_value_that_nobody_encoded_is_read_as_airflow_reads_it(airflow: Airflow, raw: list[str], end: str) -> None:
    """Whatever we take for Airflow's, Airflow takes, and for the same."""
    value = "postgresql://" + "".join(raw) + end
    try:
        connection = read(value)
    except SecretFormatError:
        return
    if connection.format == "airflow-uri":
        for reading in airflow(value):
            agree(connection, reading)


def agree(connection: ConnectionSecret, reading: Reading) -> None:
    """What PostgresHook makes of the fields: extras come after, and instead of, them."""
    assert (connection.credential.user, connection.credential.password.reveal()) == (
        reading["login"],
        reading["password"],
    )
    extra = json.loads(reading["extra"] or "{}")
    fields = {"host": reading["host"], "port": reading["port"], "dbname": reading["schema"]} | extra
    hosts = str(fields["host"]).split(",")
    assert [address.host for address in connection.addresses] == [
        host if host.startswith("/") else host.lower() for host in hosts
    ]
    assert {address.port for address in connection.addresses} == {fields["port"] or 5432}
    assert connection.database == (fields["dbname"] or None)
    options = {name: str(value) for name, value in fields.items() if name in connection.options}
    assert connection.options == options
