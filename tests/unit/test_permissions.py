"""Who may make the program do what."""

from dataclasses import replace

import pytest

from rotators.connection_secret import Address, ConnectionSecret, parse
from rotators.credential import Password
from rotators.databases import Role
from rotators.errors import PolicyError
from rotators.permissions import check_address, check_admin_secret, check_user

NAME = "airflow-connections-warehouse"
IDENTIFIER = f"https://vault/secrets/{NAME}"
ADMINS = (Address("db.example.com", 5432),)
PASSWORD = "c0rrect-h0rse"


def connection(host: str = "db.example.com", port: int = 5432, sslmode: str | None = "require") -> ConnectionSecret:
    keywords = f"host='{host}' port={port} dbname=d user=app password={PASSWORD}"
    value = keywords + (f" sslmode={sslmode}" if sslmode else "")
    return parse(Password(value), secret=NAME, tags={})


def check(
    to: ConnectionSecret, *, trusted: tuple[Address, ...] = (), allowed: tuple[str, ...] = (), least: str = "require"
) -> None:
    check_address(NAME, to, trusted=trusted, allowed_hosts=allowed, min_sslmode=least)


# -- The admin's secret ------------------------------------------------------------------------------------------


def test_an_admin_secret_has_to_be_opened_for_the_secret() -> None:
    """P6, P7: the tag that opens it is named, and what to write into it."""
    check_admin_secret(NAME, "postgres-admin", {"rotation-admin-for": NAME})
    with pytest.raises(PolicyError) as caught:
        check_admin_secret(NAME, "postgres-admin", {"rotation-admin-for": "another"})
    for said in (NAME, "postgres-admin", "rotation-admin-for", "add"):
        assert said in str(caught.value)


# -- Hosts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("db.example.com", 5432, ()),
        ("DB.Example.COM", 5432, ()),
        ("other.example.com", 5432, ("other.example.com",)),
        ("Other.Example.com", 5433, ("other.example.com",)),
        ("other.example.com", 5433, ("other.example.com:5433",)),
        ("a.example.com", 5432, ("x", "*.example.com")),
        ("a.b.example.com", 5432, ("*.example.com",)),
        ("a.example.com", 6432, ("*.example.com:6432",)),
        ("2001:db8::1", 5432, ("[2001:db8::1]",)),
        ("2001:db8::1", 5433, ("[2001:db8::1]:5433",)),
    ],
)
def test_a_credential_goes_to_the_admins_server_and_where_it_is_allowed(
    host: str, port: int, allowed: tuple[str, ...]
) -> None:
    """P6: a name, a name with a port, a suffix; without a port any port."""
    check(connection(host, port), trusted=ADMINS, allowed=allowed)


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("evil.example.net", 5432, ()),
        ("db.example.com", 5433, ()),
        ("db.example.com.evil.net", 5432, ()),
        ("db.example.com.", 5432, ()),
        ("other.example.com", 5432, ("other.example.com:5433",)),
        ("example.com", 5432, ("*.example.com",)),
        ("evilexample.com", 5432, ("*.example.com",)),
        ("a.example.com.evil.net", 5432, ("*.example.com", "a.example.com")),
        ("a.example.com", 5432, ("*.example.com:6432",)),
        ("xother.example.com", 5432, ("other.example.com",)),
        ("2001:db8::2", 5432, ("[2001:db8::1]",)),
        ("2001:db8::1", 5432, ("[2001:db8::1]:5433",)),
        ("/var/run/postgresql", 5432, ("localhost",)),
    ],
)
def test_a_credential_goes_nowhere_else(host: str, port: int, allowed: tuple[str, ...]) -> None:
    """P6, P7: the secret, the host and the setting that would allow it are named; the password is not (P3)."""
    with pytest.raises(PolicyError) as caught:
        check(connection(host, port), trusted=ADMINS, allowed=allowed)
    for said in (NAME, f"{host}:{port}", "ROTATION_ALLOWED_HOSTS"):
        assert said in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_each_of_several_hosts_has_to_be_allowed() -> None:
    """P6: libpq tries them one after the other; one of an attacker's among them would get the credential."""
    with pytest.raises(PolicyError, match=r"evil\.net:5432"):
        check(connection("db.example.com,evil.net", 5432), trusted=ADMINS)
    check(connection("db.example.com,b.example.com", 5432), trusted=ADMINS, allowed=("b.example.com",))


def test_without_a_trusted_server_only_the_setting_counts() -> None:
    """P6: a token of the managed identity (`entra:`) goes to ROTATION_ALLOWED_HOSTS alone."""
    with pytest.raises(PolicyError):
        check(connection(), trusted=())
    check(connection(), trusted=(), allowed=("db.example.com:5432",))


# -- Encryption --------------------------------------------------------------------------------------------------

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@pytest.mark.parametrize("least", MODES)
@pytest.mark.parametrize("sslmode", [*MODES, None])
def test_an_sslmode_below_the_least_is_refused(sslmode: str | None, least: str) -> None:
    """P6: libpq's default is `prefer`, which falls back to an unencrypted session."""
    to = connection(sslmode=sslmode)
    if MODES.index(sslmode or "prefer") >= MODES.index(least):
        check(to, trusted=ADMINS, least=least)
        return
    with pytest.raises(PolicyError) as caught:
        check(to, trusted=ADMINS, least=least)
    for said in (NAME, repr(sslmode or "prefer"), f"write 'sslmode={least}'", "ROTATION_MIN_SSLMODE"):
        assert said in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "::1", "/var/run/postgresql"])
def test_on_loopback_nothing_has_to_be_encrypted(host: str) -> None:
    """What never leaves the machine needs no TLS."""
    to = connection(host, sslmode=None)
    check(to, trusted=to.addresses, least="verify-full")


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.evil.net", "127.0.0.1.evil.net", "::2", "127.0.0.1,10.0.0.1"])
def test_what_only_looks_like_loopback_has_to_be_encrypted(host: str) -> None:
    """P6: one host of several that is not loopback is enough."""
    to = connection(host, sslmode=None)
    with pytest.raises(PolicyError, match="sslmode"):
        check(to, trusted=to.addresses)


@pytest.mark.parametrize("host", ["db.example.com", "127.0.0.1"])
def test_an_unknown_sslmode_is_refused(host: str) -> None:
    """P7: the known ones are named, what stands there is not: it might be anything."""
    to = connection(host, sslmode="required")
    with pytest.raises(PolicyError, match="use one of disable, allow, prefer, require, verify-ca, verify-full"):
        check(to, trusted=to.addresses)


# -- Users -------------------------------------------------------------------------------------------------------

ROLE = Role("app", can_login=True, privileges=frozenset(), claimed_by=None, member_of=frozenset())


@pytest.mark.parametrize("claimed_by", [None, IDENTIFIER])
def test_a_plain_user_that_is_nobodys_or_the_secrets_own_may_be_changed(claimed_by: str | None) -> None:
    """Who owns a user is proven before it is claimed; see the flow."""
    check_user(NAME, IDENTIFIER, replace(ROLE, claimed_by=claimed_by), "rotator")


def test_a_user_of_another_secret_is_refused() -> None:
    """P6, P7: whose it is, and the two ways out."""
    with pytest.raises(PolicyError) as caught:
        check_user(NAME, IDENTIFIER, replace(ROLE, claimed_by="https://vault/secrets/other"), "rotator")
    for said in (NAME, "'app'", "https://vault/secrets/other", "a user of its own", "remove the comment"):
        assert said in str(caught.value)


@pytest.mark.parametrize("privilege", ["superuser", "createrole", "replication", "bypassrls"])
@pytest.mark.parametrize("claimed_by", [None, IDENTIFIER])
def test_a_strong_user_is_refused(privilege: str, claimed_by: str | None) -> None:
    """P6: no admin's rights for what would be an admin itself, claimed or not."""
    with pytest.raises(PolicyError) as caught:
        check_user(NAME, IDENTIFIER, replace(ROLE, privileges=frozenset({privilege}), claimed_by=claimed_by), "rotator")
    for said in (NAME, "'app'", privilege, "'self'"):
        assert said in str(caught.value)


def test_the_admin_itself_is_refused() -> None:
    """P6, P7: an admin's own secret is rotated with `self`, and the message says so."""
    with pytest.raises(PolicyError, match=r"is the admin itself.*rotation-admin 'self'"):
        check_user(NAME, IDENTIFIER, replace(ROLE, name="rotator"), "rotator")
