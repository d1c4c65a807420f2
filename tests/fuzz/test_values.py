"""Secrets' values: every format of design section 5, whole, damaged and made up (P3, P6, P7)."""

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rotators.connection_secret import MAXIMUM_BYTES, ConnectionSecret, parse
from rotators.credential import Credential, Password
from rotators.databases.postgresql import PostgreSQLEngine
from rotators.errors import PolicyError, SecretFormatError
from rotators.permissions import check_address
from tests.fuzz.inputs import (
    PASSWORD,
    any_json,
    as_json,
    assert_tells_nothing,
    attempt,
    damaged,
    deep_json,
    examples,
    near,
    odd_text,
)

WHOLE = (
    f"postgresql://app:{PASSWORD}@db.example.com:5432/d?sslmode=require",
    f"postgres://app:{PASSWORD}@db/d?__extra__={quote(as_json({'sslmode': 'verify-full', 'keepalives': 1}))}",
    f"postgresql://app:{PASSWORD}@h1:1,[::1]:2/d?target_session_attrs=read-write&options=-c%20a%3Db",
    f"postgresql://h/d?user=app&password={PASSWORD}",
    f"postgresql+psycopg2://app:{PASSWORD}@/d?host=h1:1&host=h2:2&sslmode=require",
    f"host=h1,h2 port=1,2 user='app' password='{PASSWORD}' dbname = d connect_timeout=3",
    as_json({"conn_type": "postgres", "login": "app", "password": PASSWORD, "host": "h", "port": 5432, "schema": "d"}),
    as_json(
        {
            "conn_type": "postgresql",
            "login": "app",
            "password": PASSWORD,
            "host": "h",
            "extra": '{"sslmode": "require"}',
        }
    ),
    as_json({"engine": "postgres", "username": "app", "password": PASSWORD, "host": "h", "port": 5432, "dbname": "d"}),
    PASSWORD,
)
ADDRESSES = ("db.example.com:5432/d?sslmode=require", "postgresql://db/d")
RESOURCE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.DBforPostgreSQL/flexibleServers/db/databases/d"


@st.composite
def documents(draw: st.DrawFn) -> str:
    """JSON with the right keys and anything behind them, in any order, some of them twice."""
    kind = draw(
        st.sampled_from([("conn_type", "postgres", "login", "schema"), ("engine", "postgres", "username", "dbname")])
    )
    engine, name, user, database = kind
    values: dict[str, st.SearchStrategy[Any]] = {  # Any: JSON
        engine: st.just(name) | any_json,
        user: st.just("app") | any_json,
        "password": st.just(PASSWORD) | any_json,
        "host": st.just("h") | any_json,
        "port": st.just(5432) | any_json,
        database: st.just("d") | any_json,
        "extra": st.just({}) | any_json | any_json.map(as_json),
        "sslmode": st.just("require") | any_json,
    }
    keys = draw(st.permutations([*values, *draw(st.lists(odd_text, max_size=2))]))
    pairs = [f"{as_json(key)}: {as_json(draw(values.get(key, any_json)))}" for key in keys[: draw(st.integers(3, 10))]]
    return "{" + ", ".join(pairs) + "}"


any_value: st.SearchStrategy[str] = st.one_of(
    damaged(st.sampled_from(WHOLE)),
    documents(),
    deep_json,
    deep_json.map(lambda text: f'{{"conn_type": "postgres", "password": "{PASSWORD}", "extra": {as_json(text)}}}'),
    odd_text,
    # As long as Key Vault takes, and longer: what a reader goes through twice for each character takes for ever.
    st.builds(
        lambda start, text: (start + text * 26_000)[:26_000], st.sampled_from(WHOLE), odd_text.map(lambda t: t or "a")
    ),
)
tags = st.fixed_dictionaries({}, optional={"CredentialId": near("app"), "ProviderAddress": near(*ADDRESSES, RESOURCE)})
credentials = st.builds(Credential, near("app_alt"), near("n3w-passw0rd").map(Password))


@given(value=any_value, tags=tags, credential=credentials)
@example(value=f"postgresql://app:{PASSWORD}@h/d%00", tags={}, credential=Credential("a", Password("b")))
@example(value=f"host=a..b user=app password={PASSWORD}", tags={}, credential=Credential("a", Password("b")))
@example(value='{"conn_type": ' + "[" * 25_000, tags={}, credential=Credential("a", Password("b")))
@examples(300)
def test_any_value_is_read_or_refused(value: str, tags: dict[str, str], credential: Credential) -> None:
    """What is read can be handed to libpq as it is, and takes another credential, or says why not; nothing leaks."""
    connection = attempt(SecretFormatError, lambda: parse(Password(value), secret="warehouse", tags=tags))
    if isinstance(connection, SecretFormatError):
        assert str(connection).startswith("secret 'warehouse': ")
        assert "; " in str(connection) or "nothing that is understood: an Airflow" in str(connection)
        assert_tells_nothing(str(connection))
        return
    assert connection.render().reveal() == value
    assert len(value.encode()) <= MAXIMUM_BYTES
    assert_tells_nothing(repr(connection))
    texts = [connection.credential.user, connection.database or "", *connection.options.values()]
    for text in (*texts, *(address.host for address in connection.addresses)):
        assert "\0" not in text
        text.encode()
    for address in connection.addresses:
        assert 0 < address.port < 2**16

    def check(connection: ConnectionSecret = connection) -> None:
        PostgreSQLEngine().check(connection, secret="warehouse")
        check_address("warehouse", connection, trusted=connection.addresses, allowed_hosts=(), min_sslmode="require")

    assert_tells_nothing(str(attempt(PolicyError, check)))
    assert connection.with_credential(connection.credential) == connection
    changed = attempt(SecretFormatError, lambda: connection.with_credential(credential))
    if isinstance(changed, SecretFormatError):
        assert_tells_nothing(str(changed))
        return
    assert changed.credential == credential
    assert changed == replace(connection, credential=credential)


@pytest.mark.parametrize("value", WHOLE)
def test_what_is_damaged_here_was_right(value: str) -> None:
    """Else the test above would try refusals only."""
    tags = {"CredentialId": "app", "ProviderAddress": ADDRESSES[0]}
    connection = parse(Password(value), secret="warehouse", tags=tags)
    assert connection.credential == Credential("app", Password(PASSWORD))
