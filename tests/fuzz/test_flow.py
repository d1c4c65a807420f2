"""Through the whole flow, on real PostgreSQL and the Key Vault stand-in: what is not valid changes nothing (P6, P7)."""

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rotators.api import list_secrets, show
from rotators.connection_secret import parse
from rotators.credential import Password
from rotators.dispatch import deliver, sweep
from rotators.errors import PermanentError, RotationError, TransientError
from rotators.rotation import rotate
from tests.everything import Everything
from tests.fuzz.inputs import (
    PASSWORD,
    as_json,
    assert_tells_nothing,
    attempt,
    damaged,
    examples,
    odd_text,
)
from tests.fuzz.test_tags import any_tags, foreign_tags
from tests.fuzz.test_values import documents
from tests.world import ADMIN_SECRET, World, logs_in

NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"


class Bench:
    """One secret that can be rotated and is due, one that is somebody else's, and all that may not change."""

    def __init__(self, here: World, log: pytest.LogCaptureFixture) -> None:
        self.here = here
        self.log = log
        here.admin()
        self.value = here.server.create_user("app_fuzz", PASSWORD)
        ((self.verifier,),) = here.server.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_fuzz'")
        here.server.execute("CREATE ROLE other_fuzz LOGIN")
        self.name = here.single(self.value, rotation_admin=ADMIN_SECRET)
        self.tags = here.tags(self.name)
        self.other = here.secret(here.user(), {"owner": "finance"})
        here.make_due()

    def everything(self) -> Everything:
        self.log.clear()
        self.here.topic.events.clear()
        return Everything.of(self.here, self.name, self.other)

    def rewrite(self, value: str | None = None, tags: dict[str, str] | None = None) -> None:
        """Write a version by hand, and give its user the password that it had at first."""
        self.here.server.execute(f"ALTER ROLE app_fuzz PASSWORD '{self.verifier}'")
        self.here.vault.put(self.name, self.value if value is None else value, tags=tags or self.tags)

    def assert_nothing_told(self, *texts: object) -> None:
        told = [as_json(dict(event.data)) for event in self.here.topic.events]
        assert_tells_nothing(self.log.text, *told, *map(str, texts))


@pytest.fixture
def bench(here: World, caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.INFO, "rotators")
    yield Bench(here, caplog)
    here.server.execute("DROP ROLE IF EXISTS app_fuzz_alt, app_fuzz, other_fuzz")


# No character that Key Vault's JSON could not carry.
def sendable(text: str) -> bool:
    return len(text) <= 512 and not re.search("[\0\ud800-\udfff]", text)


tags_in_a_vault = st.builds(
    lambda foreign, ours: {name: text for name, text in (*list(foreign.items())[:5], *ours.items()) if sendable(text)},
    foreign_tags.map(lambda tags: {name: text for name, text in tags.items() if sendable(name)}),
    any_tags,
).map(lambda tags: dict(list(tags.items())[-14:]))


@given(tags=tags_in_a_vault, way=st.sampled_from(["http", "force", "event", "sweep"]))
@example(tags={"rotation-strategy": "alternating-users", "rotation-admin": ADMIN_SECRET}, way="http")
@example(tags={"rotation-strategy": "single-user", "rotation-admin": ADMIN_SECRET}, way="sweep")
@example(
    tags={
        "rotation-strategy": "alternating-users",
        "rotation-admin": ADMIN_SECRET,
        "rotation-users": "app_fuzz,other_fuzz",
    },
    way="force",
)
@examples(25)
def test_tags_rotate_as_they_say_or_change_nothing(bench: Bench, tags: dict[str, str], way: str) -> None:
    """Whatever the tags of one secret say: it is rotated once and logs in, or nothing is touched; others never are."""
    bench.rewrite(tags=tags)
    bench.here.make_due(300)
    before = bench.everything()
    try_all(bench, way)
    assert_rotated_or_unchanged(bench, before)


@given(
    value=st.one_of(damaged(st.sampled_from(["{uri}", "{uri}?sslmode=prefer", "{keywords}"])), documents(), odd_text),
    way=st.sampled_from(["http", "event", "sweep"]),
)
@example(value="{uri}", way="http")
@example(value="{keywords} connect_timeout=" + "9" * 5000, way="http")
@example(value="{keywords} client_encoding=SQL_ASCII", way="event")
@example(value="{keywords} client_encoding=none", way="event")
@example(value="{keywords} options='-c nonsense=1'", way="sweep")
@example(value="{uri}?options=%00", way="sweep")
@examples(25)
def test_a_value_is_rotated_or_refused(bench: Bench, value: str, way: str) -> None:
    """Near misses, other people's formats and rubbish: where nothing logs in, nothing is changed."""
    port = bench.here.server.port
    keywords = f"host=127.0.0.1 port={port} user=app_fuzz password={PASSWORD} dbname=postgres"
    text = value.replace("{uri}", bench.value).replace("{keywords}", keywords)
    bench.rewrite(value="".join(c for c in text if sendable(c))[:6000])
    bench.here.make_due(300)
    before = bench.everything()
    try_all(bench, way)
    assert_rotated_or_unchanged(bench, before)


def try_all(bench: Bench, way: str) -> None:
    """Ask in one way, and look in all: only our errors, and no password in them."""
    here, systems = bench.here, bench.here.app(topic=None).systems
    told: list[object] = []
    match way:
        case "http" | "force":
            trigger = here.trigger(bench.name, force=way == "force")
            told.append(attempt(RotationError, lambda: rotate(here.systems, trigger)))
        case "event":
            told.append(attempt(TransientError, lambda: deliver(here.systems, here.near_expiry(bench.name))))
        case "sweep":
            told.append(sweep(systems))
    told.append(show(systems, bench.name).text)
    told.append(list_secrets(systems, "", {}).text)
    assert all(isinstance(error, PermanentError | TransientError) for error in told if isinstance(error, RotationError))
    assert "rotation fault" not in bench.log.text
    bench.assert_nothing_told(*told)


def assert_rotated_or_unchanged(bench: Bench, before: Everything) -> None:
    here = bench.here
    current = here.versions(bench.name)[-1]
    known = before.vault[bench.name]
    assert isinstance(known, tuple)
    if current.version == known[-1].version and current.tags == known[-1].tags:
        # A login that is tried changes nothing; a claim that was committed before a refusal would.
        before.assert_unchanged(attempts=True)
        return
    assert len(here.versions(bench.name)) <= len(known) + 1
    assert here.versions(bench.other) == before.vault[bench.other]
    assert here.versions(ADMIN_SECRET) == before.vault[ADMIN_SECRET]
    credential = parse(Password(current.value), secret=bench.name, tags=current.tags).credential
    assert credential.user in ("app_fuzz", "app_fuzz_alt")
    assert logs_in(here.server.dsn(credential.user, credential.password.reveal(), "postgres"))
    # Who creates a user becomes a member of it.
    then, now = ({row[0].split(",")[1]: row for row in all_of.roles} for all_of in (before, Everything.of(here)))
    assert {user for user in then | now if then.get(user) != now.get(user)} <= {
        "app_fuzz",
        "app_fuzz_alt",
        "rotator",
    }
    here.server.execute("DROP ROLE IF EXISTS app_fuzz_alt")
    here.server.execute("COMMENT ON ROLE app_fuzz IS NULL")
