"""The doctor: each fault is told by its line, the line's advice mends it, and nothing is changed by asking."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from rotators.access import ENTRA_DATABASE_SCOPE
from rotators.airflow import Copy
from rotators.api import check
from rotators.databases.postgresql import PostgreSQLEngine
from rotators.diagnosis import Diagnosis
from rotators.doctor import examine
from rotators.errors import (
    AirflowRefusedError,
    BadRequestError,
    RotationError,
    SecretNotFoundError,
    TransientError,
    UnexpectedError,
)
from rotators.rotation import rotate
from rotators.vault import Vault
from sandbox.functions_host import FunctionsHost
from tests.everything import Everything
from tests.world import ADMIN_SECRET, World, logs_in, user_of

Make = Callable[[World], str]
Mend = Callable[[World, str, str], World | None]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "rotators")
    return caplog


def ask(here: World, name: str) -> Diagnosis:
    """Ask, and see that nothing was changed, nobody is left logged in, and no password was said or logged (P3)."""
    secrets = passwords(here, name, ADMIN_SECRET)
    before = Everything.of(here, name)
    diagnosis = examine(here.systems, name)
    before.assert_unchanged(attempts=True)
    assert not here.server.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'")
    said = json.dumps(diagnosis.as_json())
    assert not any(password in text for password in secrets for text in (said, before.log))
    assert all(one.detail for one in diagnosis.checks)
    return diagnosis


def passwords(here: World, *names: str) -> set[str]:
    values = [version.value for name in names for version in here.versions(name)]
    return {password for value in values for password in re.findall(r":([\w.-]{20,})@", value)}


def details(diagnosis: Diagnosis, result: str = "mend") -> dict[str, str]:
    """Return what is said by the lines with this result."""
    return {one.check: one.detail for one in diagnosis.checks if one.result == result}


def rotates(here: World, name: str) -> bool:
    """Whether a request, which nothing that time heals keeps off, gets a version that logs in."""
    try:
        outcome = rotate(here.systems, here.trigger(name, force=True))
    except RotationError:
        return False
    return outcome.status == "rotated" and here.logs_in(name)


# -- Nothing is wrong --------------------------------------------------------------------------------------------

WELL: Mapping[str, Make] = {
    "alternating": lambda here: here.alternating(),
    "single with an admin": lambda here: here.single(rotation_admin=ADMIN_SECRET),
    "single with self": lambda here: here.single(rotation_admin="self"),
}


@pytest.mark.parametrize("make", WELL.values(), ids=WELL)
def test_a_secret_that_is_well_is_ready_and_rotates(here: World, heard: pytest.LogCaptureFixture, make: Make) -> None:
    """Before the first rotation, after it, and at the first user's next turn: every line is fine, no log leaks (P3)."""
    heard.set_level(logging.DEBUG)
    name = make(here)
    for _ in range(3):
        diagnosis = ask(here, name)
        assert diagnosis.ready, details(diagnosis)
        assert set(details(diagnosis, "not tried")) == {"vault-write", "topic"}
        assert rotates(here, name)
    assert not any(password in heard.text for password in passwords(here, name, ADMIN_SECRET))


def test_an_admin_that_is_a_managed_identity_is_examined_with_its_token(here: World) -> None:
    """Only where ROTATION_ALLOWED_HOSTS lets the token go."""
    token = here.systems.token(ENTRA_DATABASE_SCOPE)
    login = f"identity_{here.vault.url.rpartition(':')[2]}"
    here.server.create_user(login, token.reveal())
    here.server.execute(f"ALTER ROLE {login} CREATEROLE")
    value = here.user(by_admin=False)
    here.server.execute(f'GRANT "{user_of(value)}" TO {login} WITH ADMIN OPTION')
    name = here.alternating(value, rotation_admin=f"entra:{login}")
    assert set(details(ask(here, name))) == {"address"}
    allowing = with_settings(here, allowed_hosts=("127.0.0.1",))
    assert ask(allowing, name).ready
    assert rotates(allowing, name)
    here.server.execute(f"REASSIGN OWNED BY {login} TO postgres")


# -- One fault each ----------------------------------------------------------------------------------------------


def with_settings(here: World, **changes: Any) -> World:  # Any: whatever Settings has
    return here.app(settings=dataclasses.replace(here.systems.settings, **changes))


def tagged(**tags: str) -> Mend:
    """Mend tags; a blank one is taken away."""

    def mend(here: World, name: str, _: str) -> None:
        merged = {**here.tags(name), **{tag.replace("_", "-"): value for tag, value in tags.items()}}
        here.vault.update(name, tags={tag: value for tag, value in merged.items() if value})

    return mend


def obey(here: World, _: str, detail: str) -> None:
    """Run as a superuser what the line says."""
    commands = re.search(r"(?:run|with) ((?:GRANT|ALTER ROLE) .+?)(?:, or |, else |; |$)", detail)
    assert commands, detail
    for command in commands[1].split(" and "):
        here.server.execute(command)


def add_proposed_tags(here: World, name: str, detail: str) -> None:
    """Add the tags that are proposed first."""
    proposed = dict(reversed(re.findall(r"((?:rotation|airflow)-[\w-]+)='?([^\s',;]+)", detail)))
    here.vault.update(name, tags={**here.tags(name), **proposed})


def doing(act: Callable[[World, str], object]) -> Mend:
    def mend(here: World, name: str, _: str) -> None:
        act(here, name)

    return mend


def rewritten(change: Callable[[World, str], str]) -> Mend:
    """Write a version whose value is another."""

    def mend(here: World, name: str, _: str) -> None:
        here.vault.put(name, change(here, here.value(name)), tags=here.tags(name))

    return mend


def with_admin(value: Callable[[World], str | None] = lambda _: None, open_for: str = "*") -> Mend:
    def mend(here: World, _: str, __: str) -> None:
        here.admin(value(here), open_for)

    return mend


def rotated(make: Make) -> Make:
    """Make a secret that was rotated once, and is out of its grace."""

    def made(here: World) -> str:
        name = make(here)
        rotate(here.systems, here.trigger(name))
        here.clock.advance(timedelta(days=2))
        return name

    return made


def altered(make: Make, *statements: str) -> Make:
    """Make a secret, and let a superuser do something to its users: {user} the current one, {first}, {second}."""

    def made(here: World) -> str:
        name = make(here)
        user = here.user_of(name)
        first = user.removesuffix("_alt")
        for statement in statements:
            here.server.execute(statement.format(user=user, first=first, second=f"{first}_alt"))
        return name

    return made


def alternating(**tags: str) -> Make:
    return lambda here: here.alternating(**tags)


def single(here: World) -> str:
    return here.single(rotation_admin=ADMIN_SECRET)


def beside_admin(make: Make, *, value: Callable[[World], str | None] = lambda _: None, open_for: str = "*") -> Make:
    """Make the admin's secret first."""

    def made(here: World) -> str:
        here.admin(value(here), open_for)
        return make(here)

    return made


def disabled(here: World) -> str:
    name = here.alternating()
    here.vault.update(name, enabled=False)
    return name


def with_admin_disabled(here: World) -> str:
    name = here.alternating()
    here.vault.update(ADMIN_SECRET, enabled=False)
    return name


def lost_its_tags(here: World) -> str:
    name = here.alternating(rotation_every="30d")
    here.vault.put(name, here.value(name))
    return name


def without_rights(here: World) -> str:
    here.admin()
    return here.alternating(here.user(by_admin=False))


def with_weak_admin(here: World) -> str:
    value = here.user(by_admin=False)
    weak = user_of(value).replace("app", "weak")
    here.admin(here.server.create_user(weak, by_admin=False))
    here.server.execute(f'GRANT "{user_of(value)}" TO "{weak}" WITH ADMIN OPTION')
    return here.alternating(value)


def with_a_stranger_as_second(here: World) -> str:
    value = here.user()
    here.server.create_user(f"{user_of(value)}_alt")
    return here.alternating(value)


def of_another_secret(here: World) -> str:
    theirs = single(here)
    rotate(here.systems, here.trigger(theirs))
    return here.single(here.value(theirs), rotation_admin=ADMIN_SECRET)


def forget_claim(here: World, name: str, _: str) -> None:
    here.server.execute(f'COMMENT ON ROLE "{here.user_of(name)}" IS NULL')


def without_database(value: str) -> str:
    """Libpq takes the user's name then, which is how the database is called here."""
    return re.sub(r"/\w+$", "", value)


def on_localhost(value: str) -> str:
    return value.replace("127.0.0.1", "localhost")


def denied(permission: Any, make: Make) -> Make:  # Any: a Permission of the stand-in
    def made(here: World) -> str:
        name = make(here)
        here.vault.deny(permission, name)
        return name

    return made


def allow(here: World, _: str, __: str) -> None:
    for denial in here.vault._denials:  # noqa: SLF001 (what a test denied)
        denial.remove()


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, the line that says so, and what one does about it.

    `too`: lines that complain of the same. `rotates`: the next rotation goes well all the same, and something else
    does not: one after it, its retirement, or the consumers' logins now.
    """

    check: str
    make: Make
    mend: Mend
    too: tuple[str, ...] = ()
    rotates: bool = False


FAULTS: Mapping[str, Fault] = {
    "value may not be read": Fault("vault-get", denied("getSecret", alternating()), allow),
    "newest version disabled": Fault(
        "vault-get",
        disabled,
        doing(lambda here, name: here.vault.update(name, enabled=True)),
    ),
    "versions may not be listed": Fault("vault-list", denied("list", alternating()), allow, rotates=True),
    "no rotation tags": Fault("tags", lambda here: here.secret(here.user(), {"team": "etl"}), add_proposed_tags),
    "no rotation tags, and an admin": Fault(
        "tags", beside_admin(lambda here: here.secret(here.user(), {})), add_proposed_tags
    ),
    "no rotation tags, and no database": Fault(
        "tags",
        beside_admin(lambda here: here.secret(without_database(here.user()), {})),
        add_proposed_tags,
    ),
    "tags lost": Fault("tags", lost_its_tags, add_proposed_tags),
    "tag mistyped": Fault("tags", alternating(rotation_evry="1d"), tagged(rotation_evry="")),
    "strategy mistyped": Fault(
        "tags", alternating(rotation_strategy="alternating"), tagged(rotation_strategy="alternating-users")
    ),
    "admin not named": Fault(
        "tags",
        beside_admin(lambda here: here.secret(here.user(), {"rotation-strategy": "alternating-users"})),
        tagged(rotation_admin=ADMIN_SECRET),
    ),
    "too many tags": Fault("tag-limits", alternating(**{f"note_{i}": "x" for i in range(13)}), tagged(note_0="")),
    "value unreadable": Fault(
        "format",
        lambda here: here.alternating(here.user().replace("postgresql", "mysql")),
        rewritten(lambda _, value: value.replace("mysql", "postgresql")),
    ),
    "no database": Fault(
        "next-version",
        lambda here: here.alternating(without_database(here.user())),
        rewritten(lambda _, value: f"{value}/{user_of(value)}"),
    ),
    "option that leads elsewhere": Fault(
        "options",
        lambda here: here.alternating(here.user() + "?hostaddr=127.0.0.1"),
        rewritten(lambda _, value: value.partition("?")[0]),
    ),
    "pair without the current user": Fault("pair", alternating(rotation_users="a,b"), tagged(rotation_users="")),
    "admin secret missing": Fault(
        "admin-secret", alternating(rotation_admin="gone"), tagged(rotation_admin=ADMIN_SECRET)
    ),
    "admin secret not open": Fault("admin-secret", beside_admin(alternating(), open_for="other-*"), with_admin()),
    "admin secret disabled": Fault(
        "admin-secret",
        with_admin_disabled,
        doing(lambda here, _: here.vault.update(ADMIN_SECRET, enabled=True)),
    ),
    "admin secret unreadable": Fault(
        "admin-format",
        beside_admin(alternating(), value=lambda _: "postgresql://rotator@x/postgres"),
        with_admin(),
    ),
    "admin's password wrong": Fault(
        "admin-login",
        beside_admin(alternating(), value=lambda here: here.server.dsn("rotator", "wrong-password")),
        with_admin(),
    ),
    "admin not reachable": Fault(
        "admin-login",
        beside_admin(alternating(), value=lambda here: here.server.admin_dsn.replace("/postgres", "/nowhere")),
        with_admin(),
    ),
    "another host": Fault(
        "address",
        lambda here: here.alternating(on_localhost(here.user())),
        lambda here, _, __: with_settings(here, allowed_hosts=("localhost",)),
    ),
    "password wrong before the first rotation": Fault(
        "current-login",
        lambda here: here.alternating(here.server.dsn(user_of(here.user()), "wrong-password")),
        rewritten(lambda here, _: here.user()),
    ),
    "password wrong after a rotation": Fault(
        "current-login",
        altered(rotated(alternating()), "ALTER ROLE {user} PASSWORD 'elsewhere-changed-by-hand'"),
        doing(lambda here, name: rotate(here.systems, here.trigger(name))),
        rotates=True,
    ),
    "user too strong": Fault(
        "current-user",
        altered(single, "ALTER ROLE {user} CREATEROLE"),
        doing(lambda here, name: here.server.execute(f"ALTER ROLE {here.user_of(name)} NOCREATEROLE")),
    ),
    "user of another secret": Fault("current-user", of_another_secret, forget_claim),
    "user is the admin": Fault(
        "current-user",
        lambda here: here.single(here.server.admin_dsn, rotation_admin=ADMIN_SECRET),
        rewritten(lambda here, _: here.user()),
    ),
    "second user is a stranger": Fault("other-user", with_a_stranger_as_second, obey),
    "second user too strong": Fault(
        "other-user",
        altered(with_a_stranger_as_second, "GRANT {first} TO {second}", "ALTER ROLE {second} BYPASSRLS"),
        doing(lambda here, name: here.server.execute(f"ALTER ROLE {here.user_of(name)}_alt NOBYPASSRLS")),
    ),
    "admin has no rights over the user": Fault("current-user-rights", without_rights, obey, too=("other-user-rights",)),
    "admin may not create users": Fault("current-user-rights", with_weak_admin, obey, too=("other-user-rights",)),
    "admin lost its rights over the user in use": Fault(
        "current-user-rights", altered(rotated(alternating()), "REVOKE {user} FROM rotator CASCADE"), obey, rotates=True
    ),
    "admin lost its rights over the other user": Fault(
        "other-user-rights",
        altered(rotated(alternating()), "REVOKE {first} FROM rotator CASCADE", "GRANT {first} TO {second}"),
        obey,
    ),
    "admin may not copy a setting": Fault(
        "other-user-rights", altered(alternating(), "ALTER ROLE {first} SET log_error_verbosity = terse"), obey
    ),
    "second user is out of date": Fault(
        "other-user-rights",
        altered(rotated(rotated(alternating())), "ALTER ROLE {second} VALID UNTIL '2020-01-01'"),
        obey,
    ),
    "second user may have no session": Fault(
        "other-user-rights", altered(rotated(rotated(alternating())), "ALTER ROLE {second} CONNECTION LIMIT 0"), obey
    ),
    "second user lost the first one's rights": Fault(
        "other-user-rights",
        altered(rotated(rotated(alternating())), "REVOKE {first} FROM {second} GRANTED BY rotator"),
        obey,
    ),
    "first user may not connect": Fault(
        "other-user-rights",
        altered(
            rotated(alternating()),
            "REVOKE CONNECT ON DATABASE {first} FROM PUBLIC, {first}",
            "GRANT CONNECT ON DATABASE {first} TO {second}",
        ),
        obey,
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_told_by_its_line_and_mended_by_its_advice(here: World, fault: Fault) -> None:
    """P7: that line and no other; a rotation fails until its advice is followed, and then goes well."""
    name = fault.make(here)
    diagnosis = ask(here, name)
    assert not diagnosis.ready
    assert set(details(diagnosis)) == {fault.check, *fault.too}, details(diagnosis)
    advice = details(diagnosis)[fault.check]
    if not fault.rotates:
        assert not rotates(here, name)
    there = fault.mend(here, name, advice) or here
    diagnosis = ask(there, name)
    assert fault.check in details(diagnosis, "fine")
    assert diagnosis.ready, details(diagnosis)
    assert rotates(there, name)


def test_faults_are_told_all_at_once(here: World) -> None:
    """P7: nobody mends one thing only to be told the next, as far as the next can be asked."""
    here.admin(open_for="other-*")
    name = here.alternating(
        without_database(here.user()), rotation_evry="1d", rotation_grace="1m", **{f"note_{i}": "x" for i in range(11)}
    )
    diagnosis = ask(here, name)
    assert set(details(diagnosis)) == {"tags", "tag-limits", "next-version", "admin-secret"}
    complaints = [one.detail for one in diagnosis.checks if one.check == "tags"]
    assert [complaint.partition(" ")[0] for complaint in complaints] == ["rotation-grace", "rotation-evry"]


@pytest.mark.parametrize("make", WELL.values(), ids=WELL)
def test_what_a_fault_keeps_from_being_asked_is_named(here: World, make: Make) -> None:
    """A check that is missing could be taken for one that is fine; Airflow has its say, whatever the value is."""
    there = here.app(airflow=Airflow())
    name = make(there)
    well = ask(there, name)
    here.vault.put(name, "no connection", tags=here.tags(name))
    broken = ask(there, name)
    assert {one.check for one in well.checks} == {one.check for one in broken.checks}
    assert set(details(broken)) == {"format"}
    assert {"current-login", "lock", "current-user-rights"} <= set(details(broken, "not tried"))
    assert {"airflow", "airflow-logs", "airflow-clearing"} <= set(details(broken, "fine"))


def test_a_secret_that_was_rotated_while_the_doctor_looked_is_not_tried(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: else the user of the new version would be taken for the one whose turn it is."""
    name = here.alternating()
    verify = PostgreSQLEngine.verify

    def verify_and_cross(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(PostgreSQLEngine, "verify", verify)
        rotate(here.systems, here.trigger(name))
        return verify(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgreSQLEngine, "verify", verify_and_cross)
    diagnosis = examine(here.systems, name)
    assert "is rotating it right now" in details(diagnosis, "remark")["lock"]
    assert "other-user-rights" in details(diagnosis, "not tried")


@pytest.mark.parametrize(("value", "least"), [("", "require"), ("?sslmode=require", "verify-full")])
def test_a_connection_that_could_be_read_on_the_way_is_told(here: World, value: str, least: str) -> None:
    """P6: nothing is sent there, by the admin neither."""
    here.admin(f"postgresql://rotator:made-up-password@db.invalid/postgres{value}")
    name = here.alternating(f"postgresql://app:made-up-password@db.invalid/d{value}")
    diagnosis = ask(with_settings(here, min_sslmode=least), name)
    assert set(details(diagnosis)) == {"tls", "admin-tls"}
    assert f"write 'sslmode={least}' into the secret" in details(diagnosis)["tls"]
    assert "current-login" in details(diagnosis, "not tried")


def test_an_admin_whose_password_could_be_read_on_the_way_does_not_log_in(here: World) -> None:
    """P6: also when the secret's own connection is well."""
    here.admin("postgresql://rotator:made-up-password@db.invalid/postgres")
    diagnosis = ask(with_settings(here, allowed_hosts=("127.0.0.1",)), here.alternating())
    assert set(details(diagnosis)) == {"admin-tls"}
    assert {"address", "tls"} <= set(details(diagnosis, "fine"))
    assert {"current-login", "admin-login"} <= set(details(diagnosis, "not tried"))


def test_while_it_is_not_known_whose_rights_are_used_nobody_logs_in(here: World) -> None:
    """P6: a missing rotation-admin is not taken for `self`."""
    here.admin()
    diagnosis = ask(here, here.secret(here.user(), {"rotation-strategy": "alternating-users"}))
    assert set(details(diagnosis)) == {"tags"}
    assert {"address", "current-login", "admin-login"} <= set(details(diagnosis, "not tried"))


def test_a_user_that_nobody_proved_to_own_is_not_touched(here: World) -> None:
    """P6: also for a trial that is taken back, the admin's rights are not used on another application's user."""
    victim = here.user()
    name = here.alternating(here.server.dsn(user_of(victim), "guessed-password", user_of(victim)))
    logged = len(here.server.log())
    diagnosis = ask(here, name)
    assert {"current-user-rights", "other-user-rights"} <= set(details(diagnosis, "not tried"))
    assert "ALTER ROLE" not in here.server.log()[logged:]
    assert logs_in(victim)


def test_a_secret_that_did_not_opt_in_is_read_and_no_more(here: World) -> None:
    """P6: nobody logs in with it, and no trial is made on its user."""
    here.admin()
    name = here.secret(here.user(), {})
    logged = len(here.server.log())
    diagnosis = ask(here, name)
    assert f'identity="{here.user_of(name)}"' not in here.server.log()[logged:]
    assert "ALTER ROLE" not in here.server.log()[logged:]
    assert "format" in details(diagnosis, "fine")


def test_the_proposal_names_an_admin_that_is_open_for_the_secret(here: World) -> None:
    """P7: tags to copy; for an admin's own secret, and one without a database, those that can work."""
    here.vault.put("another-admin", here.server.admin_dsn, tags={"rotation-admin-for": "billing-*"})
    proposal = details(ask(here, here.secret(here.user(), {})))["tags"]
    assert "add rotation-strategy=single-user rotation-admin=self; or" in proposal
    here.admin()
    proposal = details(ask(here, here.secret(here.user(), {})))["tags"]
    assert f"add rotation-strategy=alternating-users rotation-admin={ADMIN_SECRET}, whose" in proposal
    assert "its own rights" in details(ask(here, ADMIN_SECRET))["tags"]


# -- What goes well, and somebody should know --------------------------------------------------------------------


def remark(here: World, name: str, check_name: str) -> str:
    """Return the remark of this check, on a secret that is ready."""
    diagnosis = ask(here, name)
    assert diagnosis.ready, details(diagnosis)
    return details(diagnosis, "remark")[check_name]


def test_a_rotation_that_goes_on_right_now_is_not_disturbed(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: the doctor waits for nobody's lock, and says that what it could not try is not known."""
    name = here.alternating()
    held, leave = Event(), Event()
    publish = Vault.publish

    def publish_slowly(*args: object, **kwargs: object) -> object:
        held.set()
        leave.wait(20)
        return publish(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Vault, "publish", publish_slowly)
    rotation = Thread(target=rotate, args=(here.systems, here.trigger(name)))
    rotation.start()
    held.wait(20)
    diagnosis = examine(here.systems, name)
    leave.set()
    rotation.join()
    assert "is rotating it right now" in details(diagnosis, "remark")["lock"]
    assert {"current-user-rights", "other-user-rights"} <= set(details(diagnosis, "not tried"))
    assert not diagnosis.ready
    assert not details(diagnosis)
    assert ask(here, name).ready


@pytest.mark.parametrize(("policy", "said"), [("proceed", "goes on"), ("wait", "waits until they end")])
def test_open_sessions_of_the_other_user_are_told(here: World, policy: str, said: str) -> None:
    """Who still uses it, and what becomes of them."""
    name = here.alternating(rotation_in_use=policy)
    before = here.value(name)
    rotate(here.systems, here.trigger(name))
    with psycopg.connect(before, application_name="nightly report"):
        told = remark(here, name, "sessions")
    assert "1 open sessions" in told
    assert said in told


def test_what_keeps_a_rotation_off_for_a_time_is_told(here: World) -> None:
    """Paused, in its grace, outside its window: nothing to mend, and no rotation without force."""
    assert "rotation-enabled is false" in remark(here, here.alternating(rotation_enabled="false"), "by-hand")
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    assert "in grace" in remark(here, name, "by-hand")
    name = here.alternating(rotation_window=f"0 {(here.clock.now().hour + 12) % 24} * * * for 1h")
    here.make_due()
    assert "rotation-window opens at" in remark(here, name, "next-rotation")


def test_what_an_earlier_rotation_left_to_do_is_told(here: World, killed_before_commit: Callable[[], None]) -> None:
    """P2: killed between publishing and commit: the current version does not log in, and a request mends that."""
    name = single(here)
    killed_before_commit()
    with pytest.raises(KeyboardInterrupt):
        rotate(here.systems, here.trigger(name))
    diagnosis = ask(here, name)
    assert set(details(diagnosis)) == {"current-login"}
    assert "the next sweep finishes it (verify)" in details(diagnosis, "remark")["next-rotation"]
    assert rotates(here, name)


def test_the_password_of_an_earlier_version_is_told(here: World) -> None:
    """With `self` a version by hand that does not log in is mended with the one before."""
    name = here.single(rotation_admin="self")
    here.vault.put(name, re.sub(r":[^:@]+@", ":not-the-password@", here.value(name)), tags=here.tags(name))
    diagnosis = ask(here, name)
    assert set(details(diagnosis)) == {"current-login"}
    assert "an earlier version" in details(diagnosis, "remark")["admin-login"]
    assert rotates(here, name)


def test_a_version_that_nobody_announces_is_told(here: World) -> None:
    """The sweep rotates what has no expiry date; so has the next version."""
    name = here.alternating()
    here.vault.put(name, here.value(name), tags=here.tags(name))
    assert "without an expiry date" in remark(here, name, "near-expiry-event")
    rotate(here.systems, here.trigger(name))
    assert "near-expiry-event" in details(ask(here, name), "fine")


def test_a_state_that_is_not_ours_is_told(here: World) -> None:
    name = here.alternating(rotation_state="by hand")
    assert "was not written by this program" in remark(here, name, "state")


def test_a_second_user_whose_things_are_its_own_is_told(here: World) -> None:
    """What `verify` warns of: it does not act as the first."""
    name = rotated(alternating())(here)
    user = here.user_of(name)
    here.server.execute(f"ALTER ROLE {user} RESET role")
    assert f'run ALTER ROLE "{user}" SET role' in remark(here, name, "current-login")


def test_that_revoking_could_end_no_sessions_is_told(here: World) -> None:
    """`revoke` works without it, and says so: a remark."""
    here.server.execute("REVOKE pg_signal_backend FROM rotator")
    name = here.alternating()
    assert 'run GRANT pg_signal_backend TO "rotator"' in remark(here, name, "revoke")
    here.server.execute("GRANT pg_signal_backend TO rotator")
    try:
        assert "revoke" in details(ask(here, name), "fine")
    finally:
        here.server.execute("REVOKE pg_signal_backend FROM rotator")


def test_without_a_topic_that_is_told(here: World) -> None:
    assert "EVENT_GRID_TOPIC_ENDPOINT" in remark(here.app(topic=None), here.alternating(), "topic")


# -- Airflow -----------------------------------------------------------------------------------------------------


class Airflow:
    """Answers as it is told; the real one has tests of its own."""

    treatment = "clear"

    def __init__(self) -> None:
        self.refuses: set[str] = set()
        self.has_tasks = True
        self.missing: tuple[str, ...] = ()
        self.found: tuple[Copy, ...] | None = ()

    def _answer(self, what: str) -> None:
        if what in self.refuses:
            raise AirflowRefusedError(f"Airflow does not let us see {what}: give our user the right")

    def check(self) -> None:
        self._answer("tasks")

    def check_logs(self) -> bool:
        self._answer("logs")
        return self.has_tasks

    def check_clearing(self) -> bool:
        self._answer("clearing")
        return self.has_tasks

    def missing_dags(self, _: object) -> tuple[str, ...]:
        return self.missing

    def copies(self, _: object) -> tuple[Copy, ...] | None:
        self._answer("connections")
        return self.found


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        ("tasks", "airflow"),
        ("logs", "airflow-logs"),
        ("clearing", "airflow-clearing"),
        ("connections", "airflow-connection"),
    ],
)
def test_each_right_that_airflow_does_not_give_is_told(here: World, refused: str, line: str) -> None:
    """P5, P7: else the refresh after the rotation would find out."""
    airflow = Airflow()
    there, name = here.app(airflow=airflow), here.alternating()
    assert ask(there, name).ready
    airflow.refuses = {refused}
    diagnosis = ask(there, name)
    assert set(details(diagnosis)) == {line}
    assert not diagnosis.ready
    assert "other-user-rights" in details(diagnosis, "fine")


def test_what_airflow_has_is_told(here: World) -> None:
    """P5: copies and what becomes of them, a connection that is none, DAGs that are gone, tasks that never ran."""
    airflow = Airflow()
    there, name = here.app(airflow=airflow), here.alternating(airflow_dags="daily,tag:etl")
    assert not set(details(ask(there, name), "remark")) & {"airflow-connection", "airflow-dags"}
    airflow.found = (Copy("lake", "app", ()),)
    airflow.missing = ("daily",)
    airflow.has_tasks = False
    assert "has a copy 'lake' for user 'app'" in remark(there, name, "airflow-connection")
    assert "daily" in remark(there, name, "airflow-dags")
    assert {"airflow-logs", "airflow-clearing"} <= set(details(ask(there, name), "not tried"))
    airflow.found = (Copy("lake", "app", ("host", "login")),)
    assert "another host and login; it is left alone" in remark(there, name, "airflow-connection")


def test_a_secret_outside_airflow_is_none_of_airflows_business(here: World) -> None:
    """P5: nothing is asked there."""
    airflow = Airflow()
    airflow.refuses = {"tasks"}
    here.admin()
    here.vault.put("billing", here.user(), tags={"rotation-strategy": "single-user"})
    diagnosis = ask(here.app(airflow=airflow), "billing")
    assert diagnosis.ready
    assert not any(one.check.startswith("airflow") for one in diagnosis.checks)


# -- What cannot be examined, and HTTP ---------------------------------------------------------------------------


def test_a_secret_that_is_not_there_cannot_be_examined(here: World) -> None:
    """404, also where its value could not be read; and a name that is none is 400."""
    for _ in range(2):
        with pytest.raises(SecretNotFoundError):
            examine(here.systems, "nowhere")
        here.vault.deny("getSecret")
    with pytest.raises(BadRequestError):
        check(here.systems, "no_name")


def test_a_vault_that_is_down_is_no_diagnosis(here: World) -> None:
    """503: that is not the secret's fault."""
    name = here.alternating()
    here.vault.fail(method="GET", path=f"/secrets/{name}", status=503, times=20)
    with pytest.raises(TransientError):
        examine(here.systems, name)


def test_a_database_that_is_down_is_told(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines say so, and Airflow's are asked all the same."""

    def down(*_: object, **__: object) -> None:
        raise TransientError("the server is not reachable; look at its firewall")

    monkeypatch.setattr(PostgreSQLEngine, "verify", down)
    monkeypatch.setattr(PostgreSQLEngine, "admin", down)
    diagnosis = ask(here.app(airflow=Airflow()), here.alternating())
    assert set(details(diagnosis)) == {"current-login", "admin-login"}
    assert "airflow" in details(diagnosis, "fine")


def test_a_fault_of_ours_says_where_and_nothing_else(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P3: the text of an error that nobody foresaw may hold anything."""

    def surprise(*_: object, **__: object) -> None:
        raise KeyError("a-password-perhaps")

    monkeypatch.setattr(PostgreSQLEngine, "verify", surprise)
    with pytest.raises(UnexpectedError) as caught:
        examine(here.systems, here.alternating())
    assert "KeyError at test_doctor.py" in str(caught.value)
    assert "a-password-perhaps" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_answer_is_what_the_contract_says(here: World) -> None:
    """Through Microsoft's worker library: 200 with something to mend, 404, 400; nothing is kept anywhere."""
    here.admin()
    ready, broken = here.alternating(), here.alternating(rotation_evry="1d")
    with FunctionsHost(Path(__file__).parents[2], environment=here.vault.environment()) as host:
        for name, is_ready in ((ready, True), (broken, False)):
            status, headers, text = host.http("POST", f"/api/secrets/{name}/check")
            assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
            answer = json.loads(text)
            assert (answer["secret"], answer["ready"]) == (name, is_ready)
            assert {tuple(line) for line in answer["checks"]} == {("check", "result", "detail")}
            assert {line["result"] for line in answer["checks"]} <= {"fine", "mend", "remark", "not tried"}
            assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", line["check"]) for line in answer["checks"])
        for name, expected in (("nowhere", 404), ("no_name", 400)):
            status, headers, _ = host.http("POST", f"/api/secrets/{name}/check")
            assert (status, headers["Content-Type"]) == (expected, "application/problem+json")


def test_what_was_asked_is_in_the_log(here: World, heard: pytest.LogCaptureFixture) -> None:
    """One line: which secret, ready or not, and what is to be mended."""
    name = here.alternating(rotation_admin="gone")
    heard.clear()
    examine(here.systems, name)
    lines = [json.loads(r.getMessage()) for r in heard.records if r.name == "rotators"]
    assert lines == [{"event": "checked", "secret": name, "ready": False, "mend": ["admin-secret"]}]
