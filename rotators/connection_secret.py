"""The formats of a secret's value: read it, put another user and password into it, leave every other byte alone. Pure.

Each reader yields the parts of the value under libpq's names, in the order in which they stand. What comes later
wins, as for libpq, for Airflow's PostgresHook (extras replace the connection's fields) and for SQLAlchemy (so does
the query); only the user and the password must stand there once, or a copy would go stale.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from rotators.credential import Credential, Password
from rotators.errors import SecretFormatError

CREDENTIAL_TAG = "CredentialId"
ADDRESS_TAG = "ProviderAddress"
DEFAULT_PORT = 5432
# Key Vault's limit for a value.
MAXIMUM_BYTES = 25_600
# psycopg.pq.Conninfo.get_defaults() with libpq 18 (PQconninfoOptions in fe-connect.c); a test compares them.
LIBPQ_KEYWORDS = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port replication require_auth requirepeer scram_client_key
    scram_server_key service sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
    sslnegotiation sslpassword sslrootcert sslsni ssl_max_protocol_version ssl_min_protocol_version
    target_session_attrs tcp_user_timeout user
    """.split()  # noqa: SIM905 (a list would take a screen)
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. A host that begins with `/` is the directory of a Unix socket."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ConnectionSecret:
    """A connection as the consumers of the secret read it.

    Attributes:
        engine: the kind of database server; so far always `postgresql`.
        addresses: the servers in the order in which they are tried; names in lower case, IPv6 without brackets.
        database: None when the value names none (libpq would take the user's name).
        credential: who logs in.
        options: libpq's other parameters: `sslmode`, `target_session_attrs`, `hostaddr`, `service`, …
        format: a short name for people: `airflow-uri`, `airflow-json`, `libpq-uri`, `libpq-keywords`, `aws-json`,
            `sqlalchemy-url`, `bare-password`. What Airflow can read as well as libpq is called Airflow's.
    """

    engine: str
    addresses: tuple[Address, ...]
    database: str | None
    credential: Credential
    options: Mapping[str, str] = field(hash=False)
    format: str = field(compare=False)
    _value: Password = field(repr=False, compare=False)
    _places: tuple["_Place", ...] = field(repr=False, compare=False)
    _secret: str = field(repr=False, compare=False)
    _tags: Mapping[str, str] = field(repr=False, compare=False)

    def with_credential(self, credential: Credential) -> "ConnectionSecret":
        """Return the same connection for another user or password; the text of an unchanged one stays as it is.

        Raise SecretFormatError if this format can't hold the credential: what is returned has been read back from
        what it renders to.
        """
        if problem := _credential_problem(credential):
            raise SecretFormatError(f"secret {self._secret!r}: {problem}; take letters and digits for both")
        # The tag is read with a bare password only.
        tags = {**self._tags, CREDENTIAL_TAG: credential.user}
        again = parse(self._replaced(credential), secret=self._secret, tags=tags)
        if again != replace(self, credential=credential):
            raise SecretFormatError(
                f"secret {self._secret!r}: with the new user or password its value would be read as something else; "
                "take letters and digits for both, or percent-encode the special characters in the rest of the value"
            )
        return again

    def render(self) -> Password:
        """Return the secret's value."""
        return self._value

    def tags(self) -> Mapping[str, str]:
        """Return the tags that have to accompany the value: the user, when the value itself doesn't name it."""
        return {CREDENTIAL_TAG: self.credential.user} if self.format == _BARE else {}

    def _replaced(self, credential: Credential) -> Password:
        text = self._value.reveal()
        for place in sorted(self._places, key=lambda place: place.start, reverse=True):
            old, new = (_text(credential, place.name) for credential in (self.credential, credential))
            if new != old:
                text = text[: place.start] + place.encode(new) + text[place.end :]
        return Password(text)


def parse(value: Password, *, secret: str, tags: Mapping[str, str]) -> ConnectionSecret:
    """Read the value of `secret`, whose tags are `tags`.

    Raise SecretFormatError, which says where the reader stopped and not what it read, if the value isn't a
    complete connection in a format that is understood.
    """
    connection = _read_or_explain(value, secret, tags)
    if isinstance(connection, str):
        # Raised here and not where it was found: those frames and exceptions hold the value.
        raise SecretFormatError(f"secret {secret!r}: {connection}")
    return connection


def _text(credential: Credential, name: str) -> str:
    return credential.user if name == "user" else credential.password.reveal()


class _UnreadableError(Exception):
    """What is wrong and how to mend it; never leaves this module."""


class _Place(NamedTuple):
    """Where the user or the password stands in the value, and how another one is written there."""

    name: str
    start: int
    end: int
    encode: Callable[[str], str]


class _Part(NamedTuple):
    """A parameter under libpq's name; without a place when it is not a text of its own in the value."""

    name: str
    text: str
    place: _Place | None = None


class _Options(dict[str, str]):
    """`sslpassword`, `oauth_client_secret` and the like are among them: `repr` shows the names alone."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


_BARE = "bare-password"
_CREDENTIAL = ("user", "password")
_ENGINES = frozenset(("postgresql", "postgres"))
# What AWS's own rotation function for PostgreSQL takes.
_AWS_ENGINES = _ENGINES | {"aurora-postgresql"}
# Other engines that are named in the complaint; any other word might be a piece of a password.
_OTHER_ENGINES = frozenset(("db2", "mariadb", "mongodb", "mssql", "mysql", "oracle", "redis", "redshift", "sqlite"))
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_UNDERSTOOD = (
    "an Airflow connection (URI or JSON), a libpq URI or key=value string, the JSON of AWS Secrets Manager, a "
    "SQLAlchemy URL, or a bare password with its user in the tag CredentialId and its server in ProviderAddress"
)


def _read_or_explain(value: Password, secret: str, tags: Mapping[str, str]) -> ConnectionSecret | str:
    try:
        return _read(value, secret, tags)
    except _UnreadableError as error:
        return str(error)
    except json.JSONDecodeError as error:
        return f"its JSON breaks off at line {error.lineno}, column {error.colno}; correct it there"
    except (ValueError, RecursionError):
        return f"its value can't be read; write it as {_UNDERSTOOD}"


def _read(value: Password, secret: str, tags: Mapping[str, str]) -> ConnectionSecret:
    text = value.reveal()
    if not text.strip():
        raise _UnreadableError(f"its value is empty; write a connection into it: {_UNDERSTOOD}")
    if (at := _unusable_character(text)) is not None:
        raise _UnreadableError(f"its value has a NUL or half a surrogate pair at character {at + 1}; take it out")
    if (size := len(text.encode())) > MAXIMUM_BYTES:
        raise _UnreadableError(f"its value has {size} bytes, and Key Vault takes {MAXIMUM_BYTES}; shorten it")
    form, parts = _parts(text, tags)

    credential = _credential(parts)
    parameters = {
        part.name: part.text
        for part in parts
        if part.text and (part.name in LIBPQ_KEYWORDS or part.name == "ssl") and part.name not in _CREDENTIAL
    }
    if any(_unusable_character(text) is not None for text in parameters.values()):
        raise _UnreadableError("a parameter in it has a NUL or half a surrogate pair, as \\u0000 or %00; take it out")
    hosts = parameters.pop("host", None) or parameters.get("hostaddr", "")
    addresses = _addresses(hosts, parameters.pop("port", ""))
    database = parameters.pop("dbname", None)
    # The word of AWS, of asyncpg and, for JDBC's sake, of libpq's URIs.
    ssl = parameters.pop("ssl", "")
    ssl = {"true": "require", "false": "disable"}.get(ssl.lower(), ssl)
    if ssl in _SSLMODES:
        parameters.setdefault("sslmode", ssl)
    if _has_copy(credential, parts):
        raise _UnreadableError(
            "its password stands in its value a second time, among the options, and would be out of date there; "
            "take it out of them"
        )
    return ConnectionSecret(
        engine="postgresql",
        addresses=addresses,
        database=database,
        credential=credential,
        options=MappingProxyType(_Options(parameters)),
        format=form,
        _value=value,
        _places=tuple(part.place for part in parts if part.place is not None and part.name in _CREDENTIAL),
        _secret=secret,
        _tags=MappingProxyType(dict(tags)),
    )


def _parts(text: str, tags: Mapping[str, str]) -> tuple[str, list[_Part]]:
    """Tell the format by how the value begins, and read it: the format's name, and all that it says."""
    start = text.lstrip()
    if start.startswith("{"):
        return _read_json(text)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+._-]*)://", start):
        return _read_uri(text, scheme[1])
    if (word := re.match(r"(\w+)\s*=", start, re.ASCII)) and word[1] in LIBPQ_KEYWORDS:
        return "libpq-keywords", list(_read_keywords(text))
    if tags.get(CREDENTIAL_TAG) and tags.get(ADDRESS_TAG):
        return _BARE, list(_read_bare_password(text, tags))
    raise _UnreadableError(f"its value is, from the first character on, nothing that is understood: {_UNDERSTOOD}")


def _credential(parts: list[_Part]) -> Credential:
    found = {}
    for name in _CREDENTIAL:
        texts = [part.text for part in parts if part.name == name]
        if len(texts) > 1:
            raise _UnreadableError(f"its value names the {name} twice; keep one, before the host if it is a URI")
        if not texts or not texts[0]:
            raise _UnreadableError(f"its value names no {name}; write it into it")
        found[name] = texts[0]
    credential = Credential(found["user"], Password(found["password"]))
    if problem := _credential_problem(credential):
        raise _UnreadableError(f"{problem}; choose others")
    return credential


def _credential_problem(credential: Credential) -> str | None:
    if not credential.user or not credential.password:
        return "the user or the password is empty"
    if any(_unusable_character(text) is not None for text in (credential.user, credential.password.reveal())):
        return "the user or the password has a NUL or half a surrogate pair in it"
    return None


def _unusable_character(text: str) -> int | None:
    """PostgreSQL has no NUL, and half a surrogate pair has no UTF-8; return where the first one is."""
    match = re.search("[\0\ud800-\udfff]", text)
    return match.start() if match else None


def _addresses(hosts: str, ports: str) -> tuple[Address, ...]:
    """Pair lists as libpq does: one port is for all hosts, an empty one is the default."""
    if not hosts:
        raise _UnreadableError("its value names no host; write it into it")
    names = hosts.split(",")
    numbers = [port.strip() or str(DEFAULT_PORT) for port in ports.split(",")]
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names):
        raise _UnreadableError(f"its value names {len(names)} hosts and {len(numbers)} ports; name one port for each")
    for name in names:
        if not _is_host(name):
            raise _UnreadableError(
                "a host in its value is empty or no host's name; write one, and in a URI percent-encode the "
                "special characters of user and password ('@' is %40, '/' is %2F)"
            )
    for number in numbers:
        if not re.fullmatch(r"[0-9]{1,5}", number) or not 0 < int(number) < 2**16:
            raise _UnreadableError("a port in its value is no number from 1 to 65535; correct it")
    return tuple(
        Address(name if name.startswith("/") else name.lower(), int(number))
        for name, number in zip(names, numbers, strict=True)
    )


# A socket's directory, a name or IPv4 address, an IPv6 address.
_HOST = re.compile(r"/[^\0-\x1f]*|[^\s:/@?#%\[\]\0-\x1f]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:%[\w.-]+)?")


def _is_host(name: str) -> bool:
    if not _HOST.fullmatch(name):
        return False
    try:
        # As when it is looked up: psycopg lets through what Python raises there for a label that is empty or too long.
        return name.startswith("/") or bool(name.encode("idna"))
    except UnicodeError:
        return False


def _has_copy(credential: Credential, parts: list[_Part]) -> bool:
    """Whether the options hold the password too. A short one, or a name such as `postgres`, may be there by chance."""
    password = credential.password.reveal()
    names = [part.text for part in parts if part.name in ("user", "host", "dbname")]
    if len(password) < 8 or any(password in name for name in (*names, "postgresql", "password")):  # noqa: PLR2004
        return False
    forms = (password, quote(password, safe=""), quote_plus(password), json.dumps(password)[1:-1])
    others = [part.text for part in parts if part.name not in _CREDENTIAL]
    return any(form in text for form in forms for text in others)


def _check_engine(engine: str, accepted: Collection[str] = _ENGINES) -> None:
    if engine not in accepted:
        shown = f"engine {engine}" if engine in _OTHER_ENGINES else "the engine that its value names"
        raise _UnreadableError(f"{shown} is not supported yet; supported: postgresql")


# -- URIs --------------------------------------------------------------------------------------------------------


class _UriReader(NamedTuple):
    """How one of the consumers takes a URI apart.

    Attributes:
        format: its name.
        pattern: finds user, password, hosts, database and query.
        decode: how a text in the query is decoded; elsewhere all three take `+` for itself.
        every_host_has_a_port: whether `h1:1,h2:2` is a list, and `h1,h2:2` leaves the default to the first.
    """

    format: str
    pattern: re.Pattern[str]
    decode: Callable[..., str]
    every_host_has_a_port: bool = False


# urlsplit: the authority ends at the first of `/?#`; the last `@` in it ends the password, the first `:` the user.
# It may refuse a bracket before the host.
_AIRFLOW_URI = _UriReader(
    "airflow-uri",
    re.compile(
        r"[a-z]+://(?:(?P<user>[^/?#:\[\]]*)(?::(?P<password>[^/?#\[\]]*))?@)?"
        r"(?P<hosts>(?:\[[^/?#@\[\]]*\]|[^/?#@:\[\]]*)(?::[0-9]*)?)"
        r"(?:/(?P<database>[^?#]*))?(?:\?(?P<query>[^#]*))?(?:#.*)?",
        re.DOTALL,
    ),
    unquote_plus,
)
# conninfo_uri_parse_options() in fe-connect.c: an `@` before any `/` ends the password, the first `:` the user.
_LIBPQ_URI = _UriReader(
    "libpq-uri",
    re.compile(
        r"[a-z]+://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
        r"(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
        re.DOTALL,
    ),
    unquote,
    every_host_has_a_port=True,
)
# sqlalchemy.engine.url._parse_url(): the first `@` ends the password, whatever stands before it.
_SQLALCHEMY_URL = _UriReader(
    "sqlalchemy-url",
    re.compile(
        r"[\w+]+://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
        r"(?P<hosts>(?:\[[^/?]+\]|[^/:?]+)?(?::[^/?]*)?)"
        r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
        re.DOTALL,
    ),
    unquote_plus,
)
_URI_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")


def _read_uri(text: str, scheme: str) -> tuple[str, list[_Part]]:
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    engine, plus, _ = scheme.partition("+")
    _check_engine(engine, {"postgresql"} if plus else _ENGINES)
    reader = _SQLALCHEMY_URL if plus else _LIBPQ_URI
    if not plus and text.count("://") == 1:
        # Airflow reads most of what libpq reads, and the same of it; what differs is read as Airflow does. A
        # second `://` is a host with a protocol for it. Users in the query and several ports are libpq's alone.
        match = _AIRFLOW_URI.pattern.fullmatch(text, start, end)
        if match and match["user"] and match["password"]:
            reader = _AIRFLOW_URI
    # Raw blanks are dropped or refused by libpq, as its version is.
    unusable = re.compile(r"[\0-\x20\x7f]" if reader is _LIBPQ_URI else r"[\0-\x1f\x7f]")
    if found := unusable.search(text, start, end):
        raise _UnreadableError(
            f"its URI has a blank or control character at character {found.start() + 1}; percent-encode it"
        )
    return reader.format, list(_uri_parts(text, start, end, reader))


def _uri_parts(text: str, start: int, end: int, reader: _UriReader) -> Iterator[_Part]:
    match = reader.pattern.fullmatch(text, start, end)
    if match is None:
        raise _UnreadableError("the driver that its URI names is no word; write it as in postgresql+psycopg2://")
    for name in _CREDENTIAL:
        if match[name] is not None:
            yield _Part(name, _decoded(match[name], unquote), _Place(name, *match.span(name), _encode_uri))
    items = match["hosts"].split(",") if reader.every_host_has_a_port else [match["hosts"]]
    found = [_URI_HOST.fullmatch(item) for item in items]
    if not all(found):
        raise _UnreadableError(
            f"the host of its URI can't be read from character {match.start('hosts') + 1} on; write host:port, and "
            "percent-encode the special characters of user and password before it ('@' is %40, '/' is %2F)"
        )
    hosts = [(host["ipv6"] or host["name"], host["port"] or "") for host in found if host]
    host_list = ",".join(host for host, _ in hosts)
    yield _Part("host", host_list if reader is _SQLALCHEMY_URL else _decoded(host_list, unquote))
    yield _Part("port", ",".join(port for _, port in hosts))
    if match["database"]:
        yield _Part("dbname", _decoded(match["database"], unquote))
    query = list(_query_parts(match["query"] or "", match.start("query"), reader.decode))
    extra = [part.text for part in query if part.name == "__extra__"]
    if reader is _AIRFLOW_URI and extra:
        yield from _extra_parts(extra[-1])
        query = [part._replace(name="") for part in query]  # Airflow ignores the others
    elif reader is _SQLALCHEMY_URL:
        query = _with_libpq_hosts(query)
    yield from query


def _query_parts(query: str, start: int, decode: Callable[..., str]) -> Iterator[_Part]:
    for item in query.split("&"):
        name, _, raw = item.partition("=")
        begin = start + len(name) + 1
        name = _decoded(name, decode)
        yield _Part(name, _decoded(raw, decode), _Place(name, begin, begin + len(raw), _encode_uri))
        start += len(item) + 1


def _with_libpq_hosts(query: list[_Part]) -> list[_Part]:
    """Write SQLAlchemy's list of hosts, `host=h1:1&host=h2:2`, as libpq's."""
    hosts = [part.text for part in query if part.name == "host"]
    if len(hosts) < 2 and not re.fullmatch(r"[A-Za-z0-9.-]*:[0-9]*", "".join(hosts)):  # noqa: PLR2004 (a list has two)
        return query
    names, _, ports = zip(*(host.partition(":") for host in hosts), strict=True)
    return [*query, _Part("host", ",".join(names)), _Part("port", ",".join(ports))]


def _decoded(raw: str, decode: Callable[..., str]) -> str:
    try:
        return decode(raw, errors="strict")
    except UnicodeDecodeError:
        raise _UnreadableError("a percent-encoded text in its URI is not UTF-8; encode it as UTF-8") from None


def _encode_uri(text: str) -> str:
    return quote(text, safe="")


# -- libpq's key=value -------------------------------------------------------------------------------------------

# conninfo_parse() in fe-connect.c: blanks may stand around `=`, a backslash takes the next character as it is.
_KEYWORD_PAIR = re.compile(
    r"\s*+(?P<name>[^=\s]+)\s*+=\s*+(?P<value>'(?:[^'\\]|\\.)*+'|(?!')(?:[^\s\\]|\\.)*+\\?)\s*+", re.ASCII | re.DOTALL
)


def _read_keywords(text: str) -> Iterator[_Part]:
    position = 0
    while position < len(text):
        pair = _KEYWORD_PAIR.match(text, position)
        if pair is None or pair["name"] not in LIBPQ_KEYWORDS:
            raise _UnreadableError(
                f"its key=value string can't be read from character {position + 1} on: there is no parameter of "
                "libpq, or a quote is not closed; quote a value with blanks, and escape ' and \\ with a \\"
            )
        name, raw = pair["name"], pair["value"]
        quoted = raw.startswith("'")
        unescaped = re.sub(r"\\(.?)", r"\1", raw[1:-1] if quoted else raw)
        yield _Part(name, unescaped, _Place(name, *pair.span("value"), _encode_quoted if quoted else _encode_keyword))
        position = pair.end()


def _encode_keyword(text: str) -> str:
    return text if re.fullmatch(r"[\w.~-]+", text, re.ASCII) else _encode_quoted(text)


def _encode_quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"


# -- JSON --------------------------------------------------------------------------------------------------------

_AIRFLOW_NAMES = {"login": "user", "password": "password", "host": "host", "port": "port", "schema": "dbname"}
_AWS_NAMES = {"username": "user"} | {name: name for name in LIBPQ_KEYWORDS | {"ssl"}}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise _UnreadableError("its JSON has the same key twice in one object; keep one of them")
    return names


# Numbers stay the texts that they are.
_JSON = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=str)


def _read_json(text: str) -> tuple[str, list[_Part]]:
    members = list(_json_members(text))
    document = {name: value for name, value, _, _ in members}
    if "conn_type" in document:
        _check_engine(str(document["conn_type"]))
        return "airflow-json", list(_json_parts(text, members, _AIRFLOW_NAMES)) + list(
            _extra_parts(document.get("extra"))
        )
    if "engine" in document:
        _check_engine(str(document["engine"]), _AWS_ENGINES)
        # AWS: "dbname: if not specified, defaults to postgres".
        return "aws-json", [_Part("dbname", "postgres"), *_json_parts(text, members, _AWS_NAMES)]
    raise _UnreadableError(
        "its JSON has neither the key conn_type (Airflow's) nor engine (AWS's); add the one that fits"
    )


def _json_parts(text: str, members: list[tuple[str, Any, int, int]], names: Mapping[str, str]) -> Iterator[_Part]:
    for key, value, start, end in members:
        name = names.get(key, "")
        if name in _CREDENTIAL and value is not None and not text.startswith('"', start):
            raise _UnreadableError(f"the value of its key {key} is no JSON string; write it as one")
        if value is not None:
            yield _Part(name, _json_text(value), _Place(name, start, end, json.dumps))


def _extra_parts(extra: Any) -> Iterator[_Part]:  # Any: JSON
    """Airflow's extra, an object or the text of one. PostgresHook hands each of its keys to libpq."""
    if isinstance(extra, str) and extra:
        try:
            extra = _JSON.decode(extra)
        except json.JSONDecodeError as error:
            raise _UnreadableError(f"its extra is no JSON from its character {error.pos + 1} on; correct it") from None
    if not extra:
        return
    if not isinstance(extra, dict):
        raise _UnreadableError("its extra is no JSON object, which Airflow demands; write it as one")
    for name, value in extra.items():
        if name in _CREDENTIAL:
            raise _UnreadableError(
                f"its extra has the key {name}, which Airflow's PostgresHook would take instead of the connection's "
                "own; take it out of extra"
            )
        if value is not None:
            yield _Part(name, _json_text(value))


def _json_text(value: Any) -> str:  # Any: JSON
    return value if isinstance(value, str) else json.dumps(value)


def _json_members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield key, value and where the value stands, for each member of the object."""
    position = text.index("{")
    _, end = _JSON.raw_decode(text, position)  # It is sound: the walk below need not look
    if rest := text[end:].lstrip():
        raise _UnreadableError(
            f"its JSON is followed by something at character {len(text) - len(rest) + 1}; take it out"
        )
    position = _skip_blanks(text, position + 1)
    while text[position] != "}":
        key, position = cast("tuple[str, int]", _JSON.raw_decode(text, position))
        start = _skip_blanks(text, _skip_blanks(text, position) + 1)
        value, end = _JSON.raw_decode(text, start)
        yield key, value, start, end
        position = _skip_blanks(text, end)
        if text[position] == ",":
            position = _skip_blanks(text, position + 1)


def _skip_blanks(text: str, position: int) -> int:
    while text[position] in " \t\n\r":
        position += 1
    return position


# -- A bare password ---------------------------------------------------------------------------------------------

_RESOURCE_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.(?P<service>[A-Za-z]+)"
    r"/(?:flexibleServers|servers)/(?P<server>[A-Za-z0-9-]+)(?:/databases/(?P<database>[^/]+))?/?",
    re.IGNORECASE,
)
_AZURE_SERVICES = {"dbforpostgresql": "postgresql", "dbformysql": "mysql", "dbformariadb": "mariadb", "sql": "mssql"}


def _read_bare_password(text: str, tags: Mapping[str, str]) -> Iterator[_Part]:
    """The password is the value but for a newline at its end, which `az keyvault secret set --file` leaves there."""
    password = text.rstrip("\r\n")
    if control := re.search(r"[\0-\x1f\x7f]", password):
        raise _UnreadableError(f"its password has a control character at character {control.start() + 1}; take it out")
    yield _Part("user", tags[CREDENTIAL_TAG])
    yield _Part("password", password, _Place("password", 0, len(password), str))

    address = tags[ADDRESS_TAG].strip()
    if resource := _RESOURCE_ID.fullmatch(address):
        _check_engine(_AZURE_SERVICES.get(resource["service"].lower(), ""))
        yield _Part("host", f"{resource['server']}.postgres.database.azure.com")
        # A resource id has no room for it, and Azure's servers take no unencrypted session by default.
        yield _Part("sslmode", "require")
        if resource["database"]:
            yield _Part("dbname", resource["database"])
        return
    uri = address if "://" in address else f"postgresql://{address}"
    _check_engine(uri.partition("://")[0])
    for part in _uri_parts(uri, 0, len(uri), _LIBPQ_URI):
        if part.name in _CREDENTIAL:
            raise _UnreadableError(
                f"its tag {ADDRESS_TAG} names a {part.name}, and tags are no place for one; take it out, and if it "
                "was a password in use, change it"
            )
        yield part
