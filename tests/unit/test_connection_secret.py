"""The formats of a secret's value, judged by those who read them: libpq, SQLAlchemy and json.

What Airflow reads is tests/integration/test_formats_as_read_by_airflow.py.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from traceback import TracebackException
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from rotators.connection_secret import LIBPQ_KEYWORDS, Address, ConnectionSecret, parse
from rotators.credential import Credential, Password
from rotators.errors import SecretFormatError

PASSWORD = "c0rrect-h0rse"
NO_TAGS: Mapping[str, str] = MappingProxyType({})
AZURE_TAGS = {"CredentialId": "app", "ProviderAddress": "db"}
FLEXIBLE_SERVER = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers"
    "/Microsoft.DBforPostgreSQL/flexibleServers/Warehouse"
)
AZURE_SERVER = Address("warehouse.postgres.database.azure.com", 5432)
EXAMPLES = settings(max_examples=60, deadline=None)


def read(value: str, tags: Mapping[str, str] = NO_TAGS) -> ConnectionSecret:
    return parse(Password(value), secret="warehouse", tags=tags)


def refusal(value: Password, tags: Mapping[str, str] = NO_TAGS) -> SecretFormatError:
    """The value comes in as a Password, so that no frame from here on holds it in clear."""
    with pytest.raises(SecretFormatError) as caught:
        parse(value, secret="warehouse", tags=tags)
    return caught.value


# -- What a value says -------------------------------------------------------------------------------------------

DB, H1, H2 = Address("db", 5432), Address("h1", 1), Address("h2", 2)
REQUIRE = {"sslmode": "require"}


@pytest.mark.parametrize(
    ("value", "form", "addresses", "database", "options"),
    [
        ("postgresql://app:{}@db", "airflow-uri", [DB], None, {}),
        ("postgres://app:{}@DB.Example.com:1/sales\n", "airflow-uri", [Address("db.example.com", 1)], "sales", {}),
        ("postgres://app:{}@[2001:DB8::1]:1/", "airflow-uri", [Address("2001:db8::1", 1)], None, {}),
        ("postgresql://app:{}@%2Frun%2FPostgres/d", "airflow-uri", [Address("/run/Postgres", 5432)], "d", {}),
        ("postgresql://app:{}@db/a%2Fb?sslmode=require&cursor=x", "airflow-uri", [DB], "a/b", REQUIRE),
        ("postgresql://app:{}@db/d?options=-c+a%3Db", "airflow-uri", [DB], "d", {"options": "-c a=b"}),
        (
            "postgresql://app:{}@db/?sslmode=disable&__extra__=%7B%22sslmode%22%3A+%22require%22%2C+%22keepalives%22%3A+0%7D",
            "airflow-uri",
            [DB],
            None,
            {"sslmode": "require", "keepalives": "0"},
        ),
        ("postgresql://app:{}@db/d?options=-c+a=b", "airflow-uri", [DB], "d", {"options": "-c a=b"}),
        ("postgresql://app:{}@db/a b", "airflow-uri", [DB], "a b", {}),
        ("postgresql://app:{}@db:/d#x", "airflow-uri", [DB], "d", {}),
        ("postgresql://app:{}@db/d?sslmode=require#x", "airflow-uri", [DB], "d", REQUIRE),
        # Airflow has one port, and hands the list of hosts to libpq as it is: the port is for all.
        ("postgresql://app:{}@h1,h2:5/d", "airflow-uri", [Address("h1", 5), Address("h2", 5)], "d", {}),
        ("postgresql://app:{}@db?ssl=False", "airflow-uri", [DB], None, {"sslmode": "disable"}),
        # PostgresHook hands extra over after, and therefore instead of, the connection's own fields.
        ("postgresql://app:{}@other/d?host=db&dbname=e", "airflow-uri", [DB], "e", {}),
        (
            "postgresql://app:{}@h1:1,h2,[::1]:3/d?target_session_attrs=read-write&options=-c%20a%3Db+c&sslmode=",
            "libpq-uri",
            [H1, Address("h2", 5432), Address("::1", 3)],
            "d",
            {"target_session_attrs": "read-write", "options": "-c a=b+c"},
        ),
        # Airflow takes a second :// for a protocol of the host's, and fails.
        ("postgresql://app:{}@db/d?service=a+b://c", "libpq-uri", [DB], "d", {"service": "a+b://c"}),
        ("postgresql://db/d?user=app&password={}", "libpq-uri", [DB], "d", {}),
        ("postgresql:///d?host=db&user=app&password={}&ssl=true", "libpq-uri", [DB], "d", REQUIRE),
        (" host = db user='app'password = {} dbname=''", "libpq-keywords", [DB], None, {}),
        (
            "user=app password={} host=h1,h2 port=1,2 service='a \\'b\\\\'\n",
            "libpq-keywords",
            [H1, H2],
            None,
            {"service": "a 'b\\"},
        ),
        ("user=app password={} host=fe80::1%eth0", "libpq-keywords", [Address("fe80::1%eth0", 5432)], None, {}),
        # A directory, of which nothing is looked up, may be called what no host may.
        ("user=app password={} host=/run/a..b", "libpq-keywords", [Address("/run/a..b", 5432)], None, {}),
        ("user=app password={} hostaddr=::1", "libpq-keywords", [Address("::1", 5432)], None, {"hostaddr": "::1"}),
        ('{{"conn_type": "postgres", "login": "app", "password": "{}", "host": "db"}}', "airflow-json", [DB], None, {}),
        ('\n{{"engine":"postgres","host":"db","username":"app","password":"{}"}}', "aws-json", [DB], "postgres", {}),
        (
            """{{"password": "{}", "login": "app", "conn_type": "postgresql", "host": "h1", "port": "1", "schema": "d",
              "description": null, "extra": "{{\\"sslmode\\": \\"require\\", \\"cursor\\": \\"x\\"}}"}}\n""",
            "airflow-json",
            [H1],
            "d",
            REQUIRE,
        ),
        (
            """{{"conn_type":"postgres","login":"app","password":"{}","host":"h",
              "extra":{{"host":"db","iam":false,"sslcert":null,"keepalives_idle":30}}}}""",
            "airflow-json",
            [DB],
            None,
            {"keepalives_idle": "30"},
        ),
        # AWS: without dbname the database is postgres.
        ('{{"engine":"postgres","host":"db","username":"app","password":"{}"}}', "aws-json", [DB], "postgres", {}),
        (
            """{{"dbClusterIdentifier":"c","engine":"aurora-postgresql","host":"h1","port":1,"username":"app",
              "password":"{}","dbname":"d","ssl":true,"connect_timeout":1.50}}""",
            "aws-json",
            [H1],
            "d",
            {"sslmode": "require", "connect_timeout": "1.50"},
        ),
        ("postgresql+psycopg2://app:{}@db/d?sslmode=require&x=y", "sqlalchemy-url", [DB], "d", REQUIRE),
        ("postgresql+asyncpg://app:{}@db/d?ssl=verify-full", "sqlalchemy-url", [DB], "d", {"sslmode": "verify-full"}),
        ("postgresql+asyncpg://app:{}@[::1]:1/d?ssl=require", "sqlalchemy-url", [Address("::1", 1)], "d", REQUIRE),
        ("postgresql+psycopg://app:{}@/d?host=h1:1&host=h2:2&ssl=true", "sqlalchemy-url", [H1, H2], "d", REQUIRE),
        ("postgresql+psycopg://app:{}@/d?host=Db:1", "sqlalchemy-url", [Address("db", 1)], "d", {}),
        (
            "postgresql+psycopg://app:{}@/d?host=h1&host=h2",
            "sqlalchemy-url",
            [Address("h1", 5432), Address("h2", 5432)],
            "d",
            {},
        ),
        ("postgresql+psycopg://app:{}@h1,h2:5/d", "sqlalchemy-url", [Address("h1", 5), Address("h2", 5)], "d", {}),
        ("postgresql+psycopg://app:{}@/d?host=h1,h2&port=1,2", "sqlalchemy-url", [H1, H2], "d", {}),
    ],
)  # fmt: skip
def test_each_format_says_where_to_and_how(
    value: str, form: str, addresses: list[Address], database: str | None, options: dict[str, str]
) -> None:
    """What a consumer of the format would connect to is what is read, whatever the order and the blanks."""
    connection = read(value.format(PASSWORD))
    assert connection.credential == Credential("app", Password(PASSWORD))
    assert (connection.engine, connection.format, connection.addresses) == ("postgresql", form, tuple(addresses))
    assert (connection.database, connection.options) == (database, options)
    assert connection.tags() == {}


@pytest.mark.parametrize(
    ("address", "addresses", "database", "options"),
    [
        ("db", [DB], None, {}),
        ("h1:1", [H1], None, {}),
        ("[::1]:1/sales", [Address("::1", 1)], "sales", {}),
        ("postgresql://h1:1,h2:2/d?sslmode=require", [H1, H2], "d", REQUIRE),
        ("postgresql://h1:1/d?service=a://b", [H1], "d", {"service": "a://b"}),
        (FLEXIBLE_SERVER, [AZURE_SERVER], None, REQUIRE),
        (FLEXIBLE_SERVER.replace("flexibleServers", "servers"), [AZURE_SERVER], None, REQUIRE),
        (FLEXIBLE_SERVER.lower() + "/databases/Sales", [AZURE_SERVER], "Sales", REQUIRE),
    ],
)
def test_a_bare_password_has_its_user_and_server_in_tags(
    address: str, addresses: list[Address], database: str | None, options: dict[str, str]
) -> None:
    """As in the Azure samples; a rotation that changes the user has to write the tag too."""
    connection = read(PASSWORD + "\n", {"CredentialId": "app", "ProviderAddress": address})
    assert connection.credential == Credential("app", Password(PASSWORD))
    assert (connection.addresses, connection.database, connection.options) == (tuple(addresses), database, options)
    changed = connection.with_credential(Credential("app_alt", Password("n3w+ one")))
    assert (changed.render().reveal(), changed.tags()) == ("n3w+ one\n", {"CredentialId": "app_alt"})


@pytest.mark.parametrize(
    ("value", "user", "password"),
    [
        ("postgresql://a%40b:p@ss:w@h/d", "a@b", "p@ss:w"),  # Airflow: the last @, the first :
        ("postgresql://u@server:100%@h", "u@server", "100%"),  # Airflow: no percent-encoding, so itself
        ("postgresql://u:a+b%2B@h", "u", "a+b+"),
        ("postgresql://u:p?x#y@h/d", "u", "p?x#y"),  # libpq: only / ends the authority
        ("postgresql://u:5432?x@h", "u", "5432?x"),
        ("postgresql://a?b:p@h/d", "a?b", "p"),
        ("host=h user=u password=a\u2003b", "u", "a\u2003b"),  # libpq: an em space is no blank
        ("host=h user=u password=a\\\nb", "u", "a\nb"),
        ("postgresql+psycopg2://u:a/b?c#d:e+@h/d", "u", "a/b?c#d:e+"),  # SQLAlchemy: up to the first @
        ("host=h user=u\\ v password= x=y'z\\\\\\", "u v", "x=y'z\\"),
        ("host=h user='u v'password='it\\'s'", "u v", "it's"),
        ('{"conn_type":"postgres","host":"h","login":"\\u00e9","password":"\\"\\u003d\\n"}', "é", '"=\n'),
    ],
)
def test_a_nasty_credential_is_read_as_its_consumer_reads_it(value: str, user: str, password: str) -> None:
    """Whoever wrote the value got it past one reader; that reader's rules hold."""
    assert read(value).credential == Credential(user, Password(password))
    judges: dict[str, Callable[[str], Credential]] = {"libpq-uri": by_libpq, "libpq-keywords": by_libpq}
    judges["sqlalchemy-url"] = by_sqlalchemy
    if judge := judges.get(read(value).format):
        assert judge(value) == Credential(user, Password(password))


def test_the_keywords_are_those_of_libpq() -> None:
    """A new libpq may have more, which then are to be added."""
    assert {option.keyword.decode() for option in pq.Conninfo.get_defaults()} == LIBPQ_KEYWORDS


# -- Any value, any credential -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A value in three pieces, between which stand the user and the password or, the other way round, these."""

    format: str
    pieces: tuple[str, str, str]
    texts: tuple[str, str]
    credential: Credential
    password_first: bool = False

    @property
    def value(self) -> str:
        return self.pieces[0] + self.texts[0] + self.pieces[1] + self.texts[1] + self.pieces[2]


def texts(exclude: str = "\0") -> st.SearchStrategy[str]:
    characters = st.characters(exclude_characters=exclude, exclude_categories=["Cs"])
    return st.one_of(
        st.text("@:/?#%&=+'\"\\ é~aA0", min_size=1, max_size=12), st.text(characters, min_size=1, max_size=12)
    )


CREDENTIALS = st.builds(Credential, texts(), st.builds(Password, texts()))
HOSTS = ["db", "db:6432", "[::1]:6432"]
DATABASES = ["", "/", "/sales", "/s%C3%A4les"]
MARGINS = ["", "\n", " \r\n"]


def percent_encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def in_uri(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([quote(text, safe=""), percent_encoded(text)])


@st.composite
def airflow_uris(draw: st.DrawFn) -> Sample:
    credential = draw(CREDENTIALS)
    extra = json.dumps({"sslmode": "require", "cursor": "dictcursor", "nested": {"a": [1, "ä"]}})
    query = st.sampled_from(["", "?sslmode=require&application_name=a+b", "?__extra__=" + quote_plus(extra)])
    end = "@" + "".join(draw(st.tuples(*map(st.sampled_from, (HOSTS, DATABASES))))) + draw(query)
    pieces = (
        draw(st.sampled_from(["postgresql://", "postgres://", "\npostgres://"])),
        ":",
        end + draw(st.sampled_from(MARGINS)),
    )
    user, password = draw(in_uri(credential.user)), draw(in_uri(credential.password.reveal()))
    return Sample("airflow-uri", pieces, (user, password), credential)


@st.composite
def libpq_uris(draw: st.DrawFn) -> Sample:
    credential = draw(CREDENTIALS)
    user, password = draw(in_uri(credential.user)), draw(in_uri(credential.password.reveal()))
    hosts = draw(st.sampled_from(["h1:1,h2:2", "[::1]:1,h2", "h1:1,h2:2,h3:3"])) + draw(st.sampled_from(DATABASES))
    options = draw(
        st.sampled_from(["", "&target_session_attrs=read-write", "&application_name=a+b%2f&sslmode=require"])
    )
    if draw(st.booleans()):
        return Sample(
            "libpq-uri", ("postgresql://", ":", f"@{hosts}?connect_timeout=3{options}"), (user, password), credential
        )
    pieces = (f"postgres://{hosts}?password=", "&user=", options)
    return Sample("libpq-uri", pieces, (password, user), credential, password_first=True)


@st.composite
def libpq_keywords(draw: st.DrawFn) -> Sample:
    credential = draw(CREDENTIALS)
    equals = st.sampled_from(["=", " = ", "=\t"])
    words = []
    for text in (credential.password.reveal(), credential.user):
        escaped = re.sub(r"(['\\])", r"\\\1", text)
        words.append(draw(st.sampled_from([f"'{escaped}'", re.sub(r"([\s'\\])", r"\\\1", text, flags=re.ASCII)])))
    pieces = (
        f"host{draw(equals)}'h1',h2 port=1,2 password{draw(equals)}".replace("'h1',", "h1,"),
        f"\n\tapplication_name='it\\'s \\\\' user{draw(equals)}",
        draw(st.sampled_from([" ", " sslmode=require", "\ndbname = sales\n"])),
    )
    return Sample("libpq-keywords", pieces, (words[0], words[1]), credential, password_first=True)


@st.composite
def json_documents(draw: st.DrawFn) -> Sample:
    """Airflow's and AWS's, their keys in any order, indented or not, with and without escapes."""
    credential = draw(CREDENTIALS)
    aws = draw(st.booleans())
    user = "username" if aws else "login"
    others: dict[str, Any] = (
        {
            "engine": "postgres",
            "host": "db",
            "port": 5432,
            "dbname": "sälés",
            "ssl": True,
            "masterarn": "arn:aws:x",
            "n": [1.50],
        }
        if aws
        else {
            "conn_type": "postgres",
            "host": "db",
            "port": "6432",
            "schema": "sälés",
            "description": 'a "b" \\ {c}: d, ',
        }
        | draw(
            st.sampled_from(
                [{}, {"extra": '{"sslmode": "require"}'}, {"extra": {"sslmode": "require", "x": {"user": 1}}}]
            )
        )
    )
    keys = draw(st.permutations([user, "password", *others]))
    document = {key: others.get(key, f"<{key}>") for key in keys}
    style: dict[str, Any] = draw(
        st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"separators": (" , ", " : ")}])
    )
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), **style) + draw(st.sampled_from(MARGINS))
    escapes = draw(st.booleans())
    first, second = (user, "password") if keys.index(user) < keys.index("password") else ("password", user)
    before, rest = text.split(f'"<{first}>"')
    between, after = rest.split(f'"<{second}>"')
    found = {user: credential.user, "password": credential.password.reveal()}
    written = tuple(json.dumps(found[key], ensure_ascii=escapes) for key in (first, second))
    form = "aws-json" if aws else "airflow-json"
    return Sample(
        form, (before, between, after), (written[0], written[1]), credential, password_first=first == "password"
    )


@st.composite
def sqlalchemy_urls(draw: st.DrawFn) -> Sample:
    credential = draw(CREDENTIALS)
    scheme = "postgresql+" + draw(st.sampled_from(["psycopg2", "psycopg", "asyncpg", "psycopg_async"])) + "://"
    end = "@" + "".join(draw(st.tuples(*map(st.sampled_from, (HOSTS, DATABASES)))))
    end += draw(st.sampled_from(["", "?sslmode=require&x=a+b", "?x=1&x=2"]))
    user, password = draw(in_uri(credential.user)), draw(in_uri(credential.password.reveal()))
    return Sample("sqlalchemy-url", (scheme, ":", end), (user, password), credential)


SAMPLES = st.one_of(airflow_uris(), libpq_uris(), libpq_keywords(), json_documents(), sqlalchemy_urls())


def by_libpq(value: str) -> Credential:
    found = conninfo_to_dict(value)
    return Credential(str(found["user"]), Password(str(found["password"])))


def by_sqlalchemy(value: str) -> Credential:
    found = make_url(value)
    return Credential(str(found.username), Password(str(found.password)))


def by_json(value: str) -> Credential:
    found = json.loads(value)
    return Credential(found.get("username") or found["login"], Password(found["password"]))


@EXAMPLES
@given(SAMPLES)
def test_what_is_read_and_rendered_is_the_same_text(sample: Sample) -> None:
    """Parse then render is the identity, also when the credential that is put in is the one that is there."""
    connection = read(sample.value)
    assert (connection.format, connection.credential) == (sample.format, sample.credential)
    assert connection.render().reveal() == sample.value
    assert connection.with_credential(sample.credential).render().reveal() == sample.value


@EXAMPLES
@given(SAMPLES, CREDENTIALS)
def test_only_user_and_password_change(sample: Sample, credential: Credential) -> None:
    """Every other byte stays, and the rest is read as before."""
    connection = read(sample.value)
    changed = connection.with_credential(credential)
    pattern = "(.*)".join(re.escape(piece) for piece in sample.pieces)
    assert re.fullmatch(pattern, changed.render().reveal(), re.DOTALL)
    assert changed.credential == credential
    assert (changed.addresses, changed.options) == (connection.addresses, connection.options)
    assert read(changed.render().reveal()) == changed


@EXAMPLES
@given(SAMPLES, texts())
def test_an_unchanged_user_stays_as_it_is_written(sample: Sample, password: str) -> None:
    """A user that was percent-encoded more than needed, or not quoted, is not touched by a new password."""
    changed = read(sample.value).with_credential(Credential(sample.credential.user, Password(password)))
    before, user, after = sample.pieces[0], sample.texts[0], sample.pieces[1]
    if sample.password_first:
        before, user, after = sample.pieces[1], sample.texts[1], sample.pieces[2]
    if password != sample.credential.password.reveal():
        assert before + user + after in changed.render().reveal()


@EXAMPLES
@given(st.one_of(libpq_uris(), libpq_keywords()), CREDENTIALS)
def test_libpq_reads_the_new_credential_and_all_else_as_before(sample: Sample, credential: Credential) -> None:
    """For any user and password without NUL, judged by libpq itself."""
    value = read(sample.value).with_credential(credential).render().reveal()
    assert by_libpq(value) == credential
    own = {"user": None, "password": None}
    assert conninfo_to_dict(value) | own == conninfo_to_dict(sample.value) | own


@EXAMPLES
@given(sqlalchemy_urls(), CREDENTIALS)
def test_sqlalchemy_reads_the_new_credential_and_all_else_as_before(sample: Sample, credential: Credential) -> None:
    """For any user and password without NUL, judged by make_url."""
    value = read(sample.value).with_credential(credential).render().reveal()
    assert by_sqlalchemy(value) == credential
    assert make_url(value).set(username="", password="") == make_url(sample.value).set(username="", password="")


@EXAMPLES
@given(json_documents(), CREDENTIALS)
def test_json_holds_the_new_credential_and_all_else_as_before(sample: Sample, credential: Credential) -> None:
    """For any user and password without NUL, judged by json."""
    value = read(sample.value).with_credential(credential).render().reveal()
    assert by_json(value) == credential
    own = {"username": None, "login": None, "password": None}
    assert json.loads(value) | own == json.loads(sample.value) | own


@EXAMPLES
@given(texts(exclude="".join(map(chr, [*range(32), 127]))), texts())
def test_a_bare_password_may_be_any_text_that_is_no_other_format(password: str, user: str) -> None:
    """Nothing is encoded: the value is the password."""
    changed = read(PASSWORD, AZURE_TAGS).with_credential(Credential(user, Password("~" + password)))
    assert changed.render().reveal() == "~" + password
    assert read("~" + password, {**AZURE_TAGS, **changed.tags()}) == changed


@pytest.mark.parametrize("end", ["\r\n", "\n\n", ""])
def test_of_a_bare_password_nothing_is_lost_but_the_end_of_the_line(end: str) -> None:
    """P1: whatever letter it ends with, with that it logs in."""
    assert read(f" {PASSWORD}X {end}", AZURE_TAGS).credential == Credential("app", Password(f" {PASSWORD}X "))
    assert read(f"{PASSWORD}X{end}", AZURE_TAGS).credential == Credential("app", Password(f"{PASSWORD}X"))


def test_a_bare_password_may_look_like_a_parameter() -> None:
    """What follows the word is no blank for libpq, so it is no key=value string."""
    assert read("user\u2003=x", AZURE_TAGS).format == "bare-password"


EMPTY = "the user or the password is empty; take letters and digits for both"
UNUSABLE = "the user or the password has a NUL or half a surrogate pair in it; take letters and digits for both"
SOMETHING_ELSE = (
    "with the new user or password its value would be read as something else; "
    "take letters and digits for both, or percent-encode the special characters in the rest of the value"
)


@pytest.mark.parametrize(
    ("credential", "tags", "complaint"),
    [
        (Credential("", Password(PASSWORD)), NO_TAGS, EMPTY),
        (Credential("app", Password("")), NO_TAGS, EMPTY),
        (Credential("app", Password("nul\0" + PASSWORD)), NO_TAGS, UNUSABLE),
        (Credential("app", Password("half\ud800" + PASSWORD)), NO_TAGS, UNUSABLE),
        (
            Credential("app", Password(PASSWORD * 3000)),
            NO_TAGS,
            "its value has 39021 bytes, and Key Vault takes 25600; shorten it",
        ),
        (
            Credential("app", Password("postgresql://" + PASSWORD)),
            AZURE_TAGS,
            "its value names no user; write it into it",
        ),
        (
            Credential("app", Password("line\n" + PASSWORD)),
            AZURE_TAGS,
            "its password has a control character at character 5; take it out",
        ),
        (Credential("app", Password(PASSWORD + "\n")), AZURE_TAGS, SOMETHING_ELSE),
        (
            Credential("app", Password("{" + PASSWORD)),
            AZURE_TAGS,
            "its JSON breaks off at line 1, column 2; correct it there",
        ),
    ],
)
def test_a_credential_that_the_format_cannot_hold_is_refused(
    credential: Credential, tags: Mapping[str, str], complaint: str
) -> None:
    """What would be read as something else is never published, and not shown either (P1, P3)."""
    connection = read("0ld" if tags else "postgresql://app:0ld@h/d", tags)
    with pytest.raises(SecretFormatError) as caught:
        connection.with_credential(credential)
    assert str(caught.value) == f"secret 'warehouse': {complaint}"
    assert_hidden(caught.value)


def test_a_value_may_be_as_long_as_key_vault_takes() -> None:
    """25 600 bytes, and not one more (which is refused below)."""
    value = "postgresql://app:x@h/d?application_name="
    assert read(value + "a" * (25_600 - len(value))).format == "airflow-uri"


def test_quotes_stay_and_come_only_when_needed() -> None:
    """What stands behind a closing quote needs no blank; a plain word stays one for readers that know no quotes."""
    connection = read("user='app'password=0ld host=h")
    assert (
        connection.with_credential(Credential("b", Password("N3w_."))).render().reveal()
        == "user='b'password=N3w_. host=h"
    )
    changed = connection.with_credential(Credential("b", Password("it's")))
    assert changed.render().reveal() == "user='b'password='it\\'s' host=h"
    # libpq looks for blanks byte by byte, and in some locales half an ä is one.
    changed = connection.with_credential(Credential("b", Password("pässword")))
    assert changed.render().reveal() == "user='b'password='pässword' host=h"


# -- Refusals ----------------------------------------------------------------------------------------------------

U = "postgresql://app:" + PASSWORD
J = f'"login":"app","password":"{PASSWORD}","host":"h"'


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (PASSWORD, "from the first character on, nothing that is understood: an Airflow connection"),
        (f"Server=h;User Id=app;Password={PASSWORD}", "nothing that is understood"),
        (f"jdbc:{U}@h/d", "nothing that is understood"),
        (f"{U}@h/\0", "NUL or half a surrogate pair at character 34"),
        (f"{U}\n@h", "control character at character 31; percent-encode it"),
        (f"{U}%00@h", "NUL"),
        (f"{U}%ff@h", "not UTF-8"),
        (f"{U}@h/{'d' * 25_600}", "has 25633 bytes, and Key Vault takes 25600"),
        (f"mysql://app:{PASSWORD}@h/d", "engine mysql is not supported yet; supported: postgresql"),
        (f"mssql+pyodbc://app:{PASSWORD}@h/d", "engine mssql is not supported yet"),
        (f"{PASSWORD}://app@h/d", "the engine that its value names is not supported yet"),
        (f"PostgreSQL://app:{PASSWORD}@h/d", "the engine that its value names is not supported yet"),
        # SQLAlchemy has no dialect of that name.
        (f"postgres+psycopg2://app:{PASSWORD}@h/d", "the engine that its value names is not supported yet"),
        (f"postgresql+psycopg-2://app:{PASSWORD}@h/d", "no word; write it as in postgresql"),
        (f'{{"engine":"mysql","username":"app","password":"{PASSWORD}","host":"h"}}', "engine mysql is not"),
        (f'{{"conn_type":"{PASSWORD}",{J}}}', "the engine that its value names is not supported yet"),
        (f'{{"conn_type":["postgres"],{J}}}', "the engine that its value names is not supported yet"),
        (f"{{{J}}}", "neither the key conn_type"),
        (f'{{"conn_type":"postgres",{J}', "breaks off at line 1, column 76"),
        (f'{{"conn_type":"postgres",\n{J} "schema":"d"}}', "breaks off at line 2, column"),
        (f'{{"conn_type":"postgres",{J}}} {PASSWORD}', "followed by something at character 78"),
        (f'{{"conn_type":"postgres",{J},"login":"b"}}', "the same key twice"),
        (f'{{"conn_type":"postgres",{J},"extra":{{"a":1,"a":2}}}}', "the same key twice"),
        (f'{{"conn_type":"postgres",{J},"x":{"[" * 12_000}', "can't be read"),
        ('{"conn_type":"postgres","login":"app","password":13513135,"host":"h"}', "no JSON string"),
        ('{"conn_type":"postgres","login":"app","password":null,"host":"h"}', "names no password"),
        (f'{{"conn_type":"postgres","password":"{PASSWORD}","host":"h"}}', "names no user"),
        (f'{{"conn_type":"postgres","password":"{PASSWORD}","login":"app"}}', "names no host"),
        (f'{{"conn_type":"postgres",{J},"port":"x{PASSWORD}"}}', "no number from 1 to 65535"),
        (f'{{"conn_type":"postgres",{J},"port":65536}}', "no number from 1 to 65535"),
        (f'{{"conn_type":"postgres",{J},"port":0}}', "no number from 1 to 65535"),
        (f'{{"conn_type":"postgres",{J},"extra":"x{PASSWORD}"}}', "its extra is no JSON from its character 1"),
        (f'{{"conn_type":"postgres",{J},"extra":["{PASSWORD}"]}}', "its extra is no JSON object"),
        (f'{{"conn_type":"postgres",{J},"extra":{{"password":"x"}}}}', "its extra has the key password"),
        (f'{{"conn_type":"postgres",{J},"extra":"{{\\"user\\":\\"x\\"}}"}}', "its extra has the key user"),
        (f'{{"conn_type":"postgres",{J},"extra":{{"dsn":"{U}@h"}}}}', "a second time"),
        (f'{{"engine":"postgres","username":"app","password":"{PASSWORD}","host":"h","url":"{U}"}}', "a second time"),
        (f"{U}@h/d?__extra__=%7B%22user%22%3A%22x%22%7D", "its extra has the key user"),
        (f"{U}@h/d?__extra__=%7B%22dsn%22%3A%22{PASSWORD}%22%7D", "a second time"),
        (f"{U}@h/d?application_name={PASSWORD}", "a second time"),
        ("postgresql://app:8letters@h/d?application_name=8letters", "a second time"),
        (f"{U}@h/d?password={PASSWORD}", "names the password twice"),
        (f"{U}@h/d?user=other", "names the user twice"),
        (f"user=app password=x host=h password={PASSWORD}", "names the password twice"),
        ("postgresql://app@h/d", "names no password"),
        ("postgresql://app:@h/d", "names no password"),
        (f"postgresql://:{PASSWORD}@h/d", "names no user"),
        (f"{U}@/d", "names no host"),
        (f"{U}@h1:1,h2:x/d", "can't be read from character 32 on"),
        (f"{U}/@h/d", "can't be read from character 14 on; write host:port, and percent-encode"),
        (f"postgresql://https://app:{PASSWORD}@h/d", "names no user"),
        (f"{U}@h1:1,h2:2/a b", "has a blank or control character at"),
        (f"postgresql+psycopg2://app:{PASSWORD}@%2Frun/d", "no host's name"),
        (f"{U}@h1,,h2:1/d", "a host in its value is empty"),
        # psycopg lets Python's own errors through, with the whole connection in their frames.
        *((f"{U}@{host}/d", "no host's name") for host in ("a..b", ".", "a" * 64, "\u00e9" * 60)),
        # libpq would read as far as the NUL, and go by its defaults for the host.
        (f"{U}@h/d%00", "a parameter in it has a NUL or half a surrogate pair"),
        (f"{U}@h/d?options=%00", "a parameter in it has a NUL or half a surrogate pair"),
        *(
            (f'{{"conn_type":"postgres",{J},"schema":"{odd}"}}', "a parameter in it has a NUL or half a surrogate pair")
            for odd in ("a\\u0000", "\\ud800")
        ),
        (f'{{"conn_type":"postgres",{J},"extra":{{"sslmode":"\\udc00"}}}}', "a parameter in it has a NUL or half a"),
        (f"postgresql+psycopg2://app:x@{PASSWORD}@h/d", "a host in its value is empty or no host's name"),
        (f"host=h,i port=1,2,3 user=app password={PASSWORD}", "names 2 hosts and 3 ports"),
        (f"host=h:5432 user=app password={PASSWORD}", "no host's name"),
        (f"host=h user=app password='{PASSWORD}", "from character 17 on"),
        (f"host=h user=app pass={PASSWORD}", "from character 17 on: there is no parameter of libpq"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_to_do(value: str, complaint: str) -> None:
    """The complaint names the secret and where the reader stopped; neither it nor its traceback shows more (P3, P7)."""
    error = refusal(Password(value))
    assert re.search(complaint, str(error)), str(error)
    assert str(error).startswith("secret 'warehouse': ")
    assert_hidden(error)


def in_json(more: str) -> str:
    return f'{{"conn_type":"postgres",{J}{more}}}'


@pytest.mark.parametrize(
    ("value", "tags", "complaint"),
    [
        (f"{U}%ff@h", NO_TAGS, "a percent-encoded text in its URI is not UTF-8; encode it as UTF-8"),
        (
            f"{U}@h/d%00",
            NO_TAGS,
            "a parameter in it has a NUL or half a surrogate pair, as \\u0000 or %00; take it out",
        ),
        (f"{U}@/d", NO_TAGS, "its value names no host; write it into it"),
        (
            f"{U}/@h/d",
            NO_TAGS,
            (
                "the host of its URI can't be read from character 14 on; write host:port, and percent-encode the "
                "special characters of user and password before it ('@' is %40, '/' is %2F)"
            ),
        ),
        (
            f"{U}@h1,,h2:1/d",
            NO_TAGS,
            (
                "a host in its value is empty or no host's name; write one, and in a URI percent-encode the special "
                "characters of user and password ('@' is %40, '/' is %2F)"
            ),
        ),
        (f"{U}@h:0/d", NO_TAGS, "a port in its value is no number from 1 to 65535; correct it"),
        (
            f"postgresql+psycopg-2://app:{PASSWORD}@h/d",
            NO_TAGS,
            "the driver that its URI names is no word; write it as in postgresql+psycopg2://",
        ),
        (
            f"{U}@h/d?application_name={PASSWORD}",
            NO_TAGS,
            (
                "its password stands in its value a second time, among the options, and would be out of date there; "
                "take it out of them"
            ),
        ),
        (in_json(',"x":1,"x":2'), NO_TAGS, "its JSON has the same key twice in one object; keep one of them"),
        (
            f"{{{J}}}",
            NO_TAGS,
            "its JSON has neither the key conn_type (Airflow's) nor engine (AWS's); add the one that fits",
        ),
        (in_json(',"extra":[1]'), NO_TAGS, "its extra is no JSON object, which Airflow demands; write it as one"),
        (
            in_json(',"extra":{"password":"x"}'),
            NO_TAGS,
            (
                "its extra has the key password, which Airflow's PostgresHook would take instead of the connection's "
                "own; take it out of extra"
            ),
        ),
        (
            PASSWORD,
            {"CredentialId": "app", "ProviderAddress": "h?password=x"},
            (
                "its tag ProviderAddress names a password, and tags are no place for one; take it out, and if it was a "
                "password in use, change it"
            ),
        ),
    ],
)
def test_a_refusal_is_one_sentence_that_ends_with_how_to_mend_it(
    value: str, tags: Mapping[str, str], complaint: str
) -> None:
    """P7: the person on call reads this and nothing else."""
    assert str(refusal(Password(value), tags)) == f"secret 'warehouse': {complaint}"


def test_a_uri_that_nobody_reads_is_not_taken_for_a_bare_password() -> None:
    """Schemes are in small letters for all who read them; as a password the whole of it would be sent (P3)."""
    error = refusal(Password(f"PostgreSQL://app:{PASSWORD}@h/d"), AZURE_TAGS)
    assert "the engine that its value names is not supported yet" in str(error)


@pytest.mark.parametrize("written", [str, quote_plus, lambda text: quote(text, safe="")])
def test_a_second_copy_of_the_password_is_found_however_it_is_written(written: Callable[[str], str]) -> None:
    """What only looks like it, but for a letter at either end, is none."""
    password = "c0rrect h/rse"
    document = {"conn_type": "postgres", "login": "app", "password": password, "host": "h"}
    for text, is_copy in ((password, True), (password[1:], False), (password[:-1], False)):
        value = Password(json.dumps(document | {"extra": {"service": f"<{written(text)}>"}}))
        if is_copy:
            assert "a second time" in str(refusal(value))
        else:
            assert parse(value, secret="warehouse", tags=NO_TAGS).render() == value


@pytest.mark.parametrize(
    ("tags", "complaint"),
    [
        ({"CredentialId": "app"}, "nothing that is understood"),
        ({"CredentialId": "app", "ProviderAddress": ""}, "nothing that is understood"),
        ({"CredentialId": "app", "ProviderAddress": "h:x"}, "can't be read from character"),
        ({"CredentialId": "app", "ProviderAddress": "postgresql://app@h"}, "names a user, and tags are no place"),
        ({"CredentialId": "app", "ProviderAddress": "h/d?password=x"}, "names a password, and tags are no place"),
        ({"CredentialId": "app", "ProviderAddress": "mysql://h"}, "engine mysql is not supported"),
        (
            {"CredentialId": "app", "ProviderAddress": FLEXIBLE_SERVER.replace("PostgreSQL", "MySQL")},
            "engine mysql is not supported",
        ),
        ({"CredentialId": "app", "ProviderAddress": "/subscriptions/x/Microsoft.Web"}, "names no host"),
    ],
)
def test_a_bare_password_with_unusable_tags_is_refused(tags: dict[str, str], complaint: str) -> None:
    """Without both tags nobody knows whose password it is, and where (P7)."""
    error = refusal(Password(PASSWORD), tags)
    assert re.search(complaint, str(error)), str(error)
    assert_hidden(error)


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://airflow:airflow@postgres/airflow?application_name=airflow",
        "postgresql://app:postgres@h/d?application_name=postgres",
        "postgresql://app:1@h/d?keepalives=1",
        '{"conn_type":"postgres","login":"app","password":"password","host":"h","extra":{"x":"password"}}',
        "postgresql://warehouse:warehouse@h/d?application_name=warehouse",
        "postgresql://app:Warehouse@Warehouse/d?application_name=Warehouse",
        "postgresql://app:warehouse@h/warehouse?application_name=warehouse",
        "postgresql://app:7letter@h/d?application_name=7letter",
    ],
)
def test_a_password_may_be_the_same_word_as_something_else(value: str) -> None:
    """`airflow:airflow@…/airflow` is no second copy of a password: a short one, or the name of something."""
    assert read(value).render().reveal() == value


@EXAMPLES
@given(
    st.text(max_size=40), st.sampled_from(["", "{", "postgresql://", '{"conn_type":', "user=", "postgresql+x://a:b@"])
)
def test_any_text_is_either_read_or_refused(text: str, start: str) -> None:
    """No other exception gets out, whose text or cause could be the value (P3)."""
    for tags in (NO_TAGS, AZURE_TAGS):
        try:
            rendered = read(start + text, tags).render().reveal()
        except SecretFormatError as error:
            assert_hidden(error)
        else:
            assert rendered == start + text


def test_nothing_prints_a_password() -> None:
    """Neither the password, nor the value, nor a secret among the options is in a repr (P3)."""
    connection = read(f"host=h user=app password={PASSWORD} sslpassword=t0p-s3cret sslmode=require")
    assert connection.options["sslpassword"] == "t0p-s3cret"
    shown = f"{connection!r} {connection} {connection.options} {connection.render()} {vars_of(connection)}"
    assert not re.search(f"{PASSWORD}|t0p-s3cret", shown)
    assert "user='app'" in shown
    assert "<sslpassword, sslmode>" in shown


def vars_of(connection: ConnectionSecret) -> str:
    return repr([getattr(connection, name) for name in connection.__slots__])


def assert_hidden(error: SecretFormatError) -> None:
    assert (error.__cause__, error.__context__) == (None, None)
    shown = "".join(TracebackException.from_exception(error, capture_locals=True).format())
    assert PASSWORD not in f"{shown}{error!r}{error.args}"
