"""The model: what may happen to secrets under rotation, in any order, and what holds after each of it.

Three secrets, one for each way to rotate, a secret without tags and a user of another application. Events, requests and
sweeps come in any order; Key Vault, the database and Airflow fail; people write versions, change tags and lock users
out; processes die; the clock jumps. After each step:

- P1: what the current version says logs in. The exceptions are the members of `Until`, each with what ends it.
- P1: without force, revocation or a person, the credential of before logs in until its grace is over.
- P3: no password in what the program logs, publishes, answers and raises.
- P4: a cause makes one version, and a version has a cause.
- P6: what did not opt in, or is another's, is as it was.

And when everything works again and what was raised has been delivered (P2, P5): what is current logs in, nothing is
pending, nobody is locked out, the newest version is enabled, Airflow knows it, and what is old is retired in its time.
"""

import dataclasses
import enum
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rotators.decision import Trigger
from rotators.dispatch import deliver, sweep
from rotators.errors import AirflowRefusedError, PermanentError, TransientError, UnexpectedError
from rotators.events import EventIn
from rotators.outcome import Outcome
from rotators.policy import STATE_TAG, read_state
from rotators.rotation import rotate
from rotators.systems import Systems
from sandbox.faults import Fault
from sandbox.key_vault import SecretVersion
from sandbox.postgresql import PostgreSQL
from tests.boundaries import Killed, kill
from tests.model.bench import FOREIGN, Bench, RoleState, policy
from tests.world import user_of

KINDS = ("alternating", "single", "self")
NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"
# Where `self` looks for a password that still logs in; see access.py.
VERSIONS_TRIED = 3


class Until(enum.Enum):
    """Until when a current version need not log in."""

    ANY = "single-user, cut off between publishing and commit: the next delivery, request or sweep"
    ITS_EVENT = "written by a person, or landed late: its own event is delivered"
    ROTATION = "a person locked its user out, or changed its password: a rotation, or whatever verifies it"
    PERSON = "names a user that is not this secret's, or leaves `self` no way in: a person mends it"


@dataclass(slots=True)
class Grace:
    """The credential of before, which nobody has a reason to break."""

    uri: str
    until: datetime


@dataclass(slots=True)
class Watched:
    """What the model knows of one secret."""

    name: str
    seen: dict[str, str] = field(default_factory=dict)
    """The versions so far, and what made each: a cause's id, or "" for a person."""
    excused: dict[str, Until] = field(default_factory=dict)
    """By version."""
    locked_by_person: set[str] = field(default_factory=set)
    grace: Grace | None = None
    opted_out: tuple[SecretVersion, ...] | None = None
    """The versions as they were when a person took the tags away."""
    late: Counter[str] = field(default_factory=Counter)
    """By cause, the writes that are on their way or have landed late."""


secret_index = st.integers(0, len(KINDS) - 1)
any_index = st.integers(0, 40)
BOUNDARY = st.integers(0, 80)
JUMPS = (
    timedelta(seconds=1), timedelta(minutes=5), timedelta(hours=1), timedelta(hours=23), timedelta(hours=25),
    timedelta(days=31), timedelta(days=60), timedelta(days=61), timedelta(days=95), timedelta(days=400),
)  # fmt: skip
TAG_EDITS = {
    "pause": {"rotation-enabled": "false"},
    "resume": {"rotation-enabled": "true"},
    "every": {"rotation-every": "2h", "rotation-grace": "15m"},
    "grace": {"rotation-grace": "20m"},
    "wait": {"rotation-in-use": "wait"},
    "validity": {"rotation-validity": "3d"},
}


class Model(RuleBasedStateMachine):
    """See the module; `play` gives it its parts."""

    def __init__(self, folder: Path, server: PostgreSQL, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts
        self.bench = Bench(folder, server, counts)
        self.secrets: list[Watched] = []
        self.requested: list[EventIn] = []
        self.keys: list[tuple[str, str]] = []
        self.late: list[tuple[Watched, Fault]] = []
        self.trouble: list[Fault] = []
        self.meddled = 0
        self.since_calm = 0
        self.disturbed = False
        self.forced = False
        self.foreign_user = ""
        self.foreign: tuple[RoleState, tuple[SecretVersion, ...]] | None = None

    # -- arranging

    @initialize(rotated=st.lists(st.booleans(), min_size=len(KINDS), max_size=len(KINDS)))
    def begin(self, rotated: list[bool]) -> None:
        bench = self.bench
        for kind in KINDS:
            name = f"airflow-connections-{kind}"
            tags = {**policy(kind), "team": kind}
            bench.vault.put(name, bench.user(), tags=tags, expires_on=bench.clock.now() + timedelta(days=90))
            self.secrets.append(Watched(name, {bench.current(name).version: ""}))
        foreign = bench.user()
        self.foreign_user = user_of(foreign)
        bench.vault.put(FOREIGN, foreign, tags={"team": "another"})
        self.foreign = bench.roles()[self.foreign_user], bench.versions(FOREIGN)
        for watched, is_rotated in zip(self.secrets, rotated, strict=True):
            if is_rotated:
                self._request(watched, self._trigger(watched.name))
                self.bench.clock.advance(timedelta(days=2))

    # -- what comes in

    @rule(by=st.sampled_from((timedelta(days=31), timedelta(days=61))))
    def due(self, by: timedelta) -> None:
        """Time passes, and Event Grid delivers what that raises."""
        before = len(self._raised())
        self.bench.clock.advance(by)
        self.bench.vault.tick()
        for event in self._raised()[before:]:
            self._deliver(event)

    @rule(index=any_index, times=st.integers(1, 2))
    def event(self, index: int, times: int) -> None:
        """Any event that was ever raised: late, out of order, again."""
        self.bench.vault.tick()
        events = [*self._raised(), *self._handed_out()]
        event = events[-1 - index % len(events)]
        for _ in range(times):
            self._deliver(event)

    @rule(which=secret_index, kind=st.sampled_from(("SecretNearExpiry", "SecretExpired", "Requested")), old=any_index)
    def made_event(self, which: int, kind: str, old: int) -> None:
        """An event for the current version, or for an old one."""
        watched = self.secrets[which]
        versions = self.bench.versions(watched.name)
        version = versions[-1 if old < 30 else -1 - old % len(versions)].version
        data = {"Id": f"{self.bench.vault.url}/secrets/{watched.name}/{version}", "ObjectName": watched.name}
        prefix = "SecretRotation." if kind == "Requested" else "Microsoft.KeyVault."
        event = EventIn(str(uuid.uuid4()), prefix + kind, data)
        self.requested.append(event)
        self._deliver(event)

    @rule(
        which=secret_index,
        key=st.none() | any_index,
        force=st.booleans(),
        dry_run=st.integers(0, 5),
        revoke=st.integers(0, 4),
    )
    def request(self, which: int, key: int | None, force: bool, dry_run: int, revoke: int) -> None:
        """By HTTP; a key may have been used before."""
        watched = self.secrets[which]
        trigger = self._trigger(watched.name, force=force, dry_run=dry_run == 0, revoke=revoke == 0)
        is_fresh = True
        if key is not None:
            used = [k for name, k in self.keys if name == watched.name]
            if key < len(used):
                trigger, is_fresh = dataclasses.replace(trigger, id=used[key]), False
            trigger = dataclasses.replace(trigger, is_repeatable=True)
            self.keys.append((watched.name, trigger.id))
        is_well = self._is_well(watched) and not self._has_trouble()
        self.forced = force or trigger.revoke
        outcome = self._request(watched, trigger)
        self.forced = False
        if is_well and is_fresh and force:
            assert isinstance(outcome, Outcome), f"{trigger}: {outcome}"
            assert outcome.status == ("planned" if trigger.dry_run else "rotated"), outcome

    @rule(with_topic=st.booleans())
    def sweep(self, with_topic: bool) -> None:
        """The timer; with a topic its work comes back as events."""
        self._sweep(with_topic=with_topic)

    @rule(by=st.sampled_from(JUMPS))
    def time_passes(self, by: timedelta) -> None:
        self.bench.clock.advance(by)
        self.bench.vault.tick()

    @rule()
    def restart(self) -> None:
        self.bench.restart()

    # -- trouble, for the next invocations

    @rule(
        which=secret_index,
        method=st.sampled_from(("GET", "PUT", "PATCH")),
        status=st.sampled_from((None, 400, 401, 403, 404, 408, 409, 429, 500, 503, 200)),
        when=st.sampled_from(("before", "after")),
        skip=st.integers(0, 6),
        times=st.integers(1, 5),
    )
    def vault_fails(  # noqa: PLR0913, PLR0917 (what a fault has; Hypothesis names them)
        self, which: int, method: str, status: int | None, when: str, skip: int, times: int
    ) -> None:
        how: dict[str, Any] = {"drop": True} if status is None else {"status": status}
        if status == 200:
            how["body"] = "<html>"
        if method != "PUT":
            # What is asked of the test itself is not asked by HTTP, so all is the program's.
            how["skip"] = skip
        self.trouble.append(self.bench.vault.fail(method=method, when=when, times=times, **how))
        self._provoke(which)

    @rule(which=secret_index, answer=st.sampled_from(({"drop": True}, {"status": 503}, {"status": 403})))
    def write_is_late(self, which: int, answer: dict[str, Any]) -> None:
        """The next write of a version takes effect much later."""
        watched = self.secrets[which]
        fault = self.bench.vault.fail(method="PUT", path=f"/secrets/{watched.name}$", when="later", **answer)
        self.late.append((watched, fault))
        self.trouble.append(fault)
        self._provoke(which)

    @precondition(lambda self: any(fault.on_their_way for _, fault in self.late))
    @rule()
    def write_lands(self) -> None:
        self._land()

    @rule(at=BOUNDARY, which=secret_index)
    def killed(self, at: int, which: int) -> None:
        self._meddle(at, kill, "killed")
        self._provoke(which)

    @rule(at=BOUNDARY, which=secret_index)
    def sessions_end(self, at: int, which: int) -> None:
        self._meddle(at, lambda _: self.bench.end_sessions(), "sessions ended")
        self._provoke(which)

    @rule(at=BOUNDARY)
    def another_instance_comes(self, at: int) -> None:
        """While one is at work, a sweep begins elsewhere."""
        self._meddle(at, lambda _: sweep(self.bench.systems), "another instance")

    @rule(at=BOUNDARY, which=secret_index, value=st.sampled_from(("good", "wrong", "old")))
    def person_writes_meanwhile(self, at: int, which: int, value: str) -> None:
        self._meddle(at, lambda _: self._write_by_hand(self.secrets[which], value, "policy"), "written meanwhile")
        self._provoke(which)

    @rule(at=BOUNDARY, by=st.sampled_from(JUMPS))
    def time_passes_meanwhile(self, at: int, by: timedelta) -> None:
        self._meddle(at, lambda _: self.bench.clock.advance(by), "time passed meanwhile")

    @rule(failure=st.sampled_from((None, "down", "refuses")))
    def airflow_is(self, failure: str | None) -> None:
        errors = {"down": TransientError("Airflow is down"), "refuses": AirflowRefusedError("Airflow says no")}
        self.bench.airflow.failure = errors[failure] if failure else None

    # -- what people do

    @rule(
        which=secret_index,
        value=st.sampled_from(("good", "wrong", "old", "other user", "foreign user")),
        tags=st.sampled_from(("none", "policy", "all")),
    )
    def person_writes(self, which: int, value: str, tags: str) -> None:
        """A version by hand: its password set, or wrong, or an old one; with tags, without, with a copied state."""
        self.bench.clock.advance(timedelta(seconds=1))
        self._write_by_hand(self.secrets[which], value, tags)

    @rule(which=secret_index, edit=st.sampled_from(tuple(TAG_EDITS)))
    def person_edits_tags(self, which: int, edit: str) -> None:
        name = self.secrets[which].name
        tags = self.bench.current(name).tags
        if "rotation-strategy" in tags:
            self.bench.vault.update(name, tags={**tags, **TAG_EDITS[edit]})

    @rule(which=secret_index)
    def person_switches_strategy(self, which: int) -> None:
        watched = self.secrets[which]
        tags = self.bench.current(watched.name).tags
        if tags.get("rotation-admin", "self") != "self" and "rotation-strategy" in tags:
            other = {"alternating-users": "single-user", "single-user": "alternating-users"}[tags["rotation-strategy"]]
            self.bench.vault.update(watched.name, tags={**tags, "rotation-strategy": other})
            watched.grace = None

    @rule(which=secret_index)
    def person_drops_state(self, which: int) -> None:
        watched = self.secrets[which]
        version = self.bench.current(watched.name)
        if STATE_TAG not in version.tags:
            return
        self.bench.vault.update(
            watched.name, tags={name: value for name, value in version.tags.items() if name != STATE_TAG}
        )
        watched.grace = None
        watched.seen[version.version] = ""  # what is not written anywhere is not known: its cause may come again
        if version.version in watched.excused:
            watched.excused[version.version] = Until.PERSON

    @rule(which=secret_index)
    def person_opts_out(self, which: int) -> None:
        """All tags are taken away, on purpose."""
        watched = self.secrets[which]
        self.bench.clock.advance(timedelta(minutes=1))
        self.bench.vault.update(watched.name, tags={})
        watched.seen[self.bench.current(watched.name).version] = ""
        watched.grace = None
        watched.opted_out = self.bench.versions(watched.name)

    @rule(which=secret_index)
    def person_opts_in(self, which: int) -> None:
        watched = self.secrets[which]
        if watched.opted_out is not None:
            self.bench.vault.update(watched.name, tags=policy(KINDS[which]))
            watched.opted_out = None

    @rule(which=secret_index, how=st.sampled_from(("NOLOGIN", "password")), current=st.booleans())
    def person_locks_out(self, which: int, how: str, current: bool) -> None:
        """In the database, without a word to anybody."""
        watched = self.secrets[which]
        versions = self.bench.versions(watched.name)
        user = user_of(versions[-1 if current else 0].value)
        if user == self.foreign_user or user not in self.bench.roles():
            return
        if how == "NOLOGIN":
            self.bench.lock_out(user)
        else:
            # Without LOGIN: who is retired stays so.
            self.bench.set_password(user, f"by-hand-{uuid.uuid4().hex}", "ALTER ROLE {} PASSWORD {}")
        watched.locked_by_person.add(user)
        watched.grace = None

    # -- all is well again

    @precondition(lambda self: self.since_calm > 10)
    @rule()
    def calm(self) -> None:
        self._calm()

    def teardown(self) -> None:
        try:
            if self.secrets:
                self._calm()
        finally:
            self.counts["examples"] += 1
            self.bench.close()

    def _calm(self) -> None:
        """P2, P5: no more trouble, everything that was raised is delivered, and two sweeps."""
        bench = self.bench
        self.since_calm = 0
        self._end_trouble()
        bench.airflow.failure = None
        self._land()
        self._deliver_everything()
        # Now, since a version may have inherited the pause.
        for watched in self.secrets:
            tags = bench.current(watched.name).tags
            if tags.get("rotation-enabled") == "false":
                bench.vault.update(watched.name, tags={**tags, "rotation-enabled": "true"})
        self._deliver_everything()
        for watched in self.secrets:
            if watched.opted_out is None:
                self._mend_by_hand(watched)
        self._deliver_everything()
        self.holds()
        bench.clock.advance(timedelta(hours=25))
        self._deliver_everything()
        self.holds()
        for watched in self.secrets:
            if watched.opted_out is None and "rotation-strategy" in bench.current(watched.name).tags:
                self._is_finished(watched)

    def _deliver_everything(self) -> None:
        """What is current has its events, and the timer comes, until nothing new is raised."""
        delivered: set[str] = set()
        for _ in range(5):
            self.bench.vault.tick()
            current = {self.bench.current(watched.name).version for watched in self.secrets}
            events = [e for e in self._raised() if e.id not in delivered and version_of(e) in current]
            for event in events:
                self._deliver(event)
                delivered.add(event.id)
            self._sweep(with_topic=False)
            self.holds()
            if not events:
                return
        raise AssertionError("it goes on and on")

    def _mend_by_hand(self, watched: Watched) -> None:
        """What only a person can mend, a person mends: the user of the first version, and a password that is set."""
        version = self.bench.current(watched.name)
        user = user_of(version.value)
        if watched.excused.get(version.version) is Until.PERSON:
            user = user_of(self.bench.versions(watched.name)[0].value)
            self._write_by_hand(watched, "good", "policy", user=user)
        elif user in watched.locked_by_person:
            password = str(psycopg.conninfo.conninfo_to_dict(version.value)["password"])
            self.bench.set_password(user, password)
        watched.locked_by_person.clear()

    def _is_finished(self, watched: Watched) -> None:
        version, roles = self.bench.current(watched.name), self.bench.roles()
        state = read_state(version.tags)
        assert version.enabled, "P2: the newest version is never disabled"
        assert not watched.excused.get(version.version), "P2: everything was delivered"
        if state is None:
            return
        assert not state.is_unfinished, f"P2: pending is {state.pending}"
        assert version.version in self.bench.airflow.refreshed, "P5: the refresh is never forgotten"
        until = state.usable_until(version.created)
        if until is None or state.from_version is None or self.bench.clock.now() < until:
            return
        assert state.retired is not None, "P2: what is old is retired"
        before = {v.version: v for v in self.bench.versions(watched.name)}[state.from_version]
        assert not before.enabled, "P2: the old version is disabled"
        old = user_of(before.value)
        if version.tags.get("rotation-admin", "self") != "self" and old != user_of(version.value):
            claim = (roles[old].comment or "") if old in roles else ""
            # It may have its login again, for a rotation that was killed: with a password that nobody knows.
            is_ours = claim.endswith(f"/{watched.name}]")
            assert not is_ours or not self.bench.logs_in(before.value, roles), "P2: the old credential is locked out"

    # -- invariants

    @invariant()
    def holds(self) -> None:
        """P1, P3, P4, P6."""
        if not self.secrets:
            return
        self.counts["steps"] += 1
        self.since_calm += 1
        roles = self.bench.roles()
        for watched in self.secrets:
            self._logs_in(watched, roles)
            self._opted_in(watched)
        assert self.foreign == (roles[self.foreign_user], self.bench.versions(FOREIGN)), "P6: another's is as it was"
        said = self.bench.texts()
        for password in set(self.bench.passwords()):
            assert password not in said, "P3: a password was said"

    def _logs_in(self, watched: Watched, roles: dict[str, RoleState]) -> None:
        version = self.bench.current(watched.name)
        user = user_of(version.value)
        if self.bench.logs_in(version.value, roles):
            watched.excused.pop(version.version, None)
            watched.locked_by_person.discard(user)
        else:
            excuse = watched.excused.get(version.version)
            if excuse is None and user in watched.locked_by_person:
                excuse = Until.ROTATION
            said = "\n".join(line for line in self.bench.log.last if watched.name in line)
            assert excuse is not None, f"P1: {watched.name} does not log in with {version.version}; it said\n{said}"
            self.counts[f"excused: {excuse.name}"] += 1
        if watched.grace is not None:
            if self.bench.clock.now() >= watched.grace.until:
                watched.grace = None
            else:
                assert self.bench.logs_in(watched.grace.uri, roles), f"P1: {watched.name}: its grace was cut short"

    def _opted_in(self, watched: Watched) -> None:
        if watched.opted_out is not None:
            for now, then in zip(self.bench.versions(watched.name), watched.opted_out, strict=True):
                assert now == then, f"P6: {watched.name} had opted out"

    # -- invocations

    def _trigger(self, name: str, **changes: Any) -> Trigger:
        return dataclasses.replace(Trigger(kind="http", secret=name, id=str(uuid.uuid4()), by="key"), **changes)

    def _raised(self) -> list[EventIn]:
        return [EventIn(e["id"], e["eventType"], e["data"]) for e in self.bench.vault.events]

    def _handed_out(self) -> list[EventIn]:
        return [*self.requested, *self.bench.topic.handed_out]

    def _deliver(self, event: EventIn) -> None:
        assert isinstance(event.data, dict)
        name = event.data["ObjectName"]
        about = [watched for watched in self.secrets if watched.name == name]
        new = version_of(event) if event.type == NEW_VERSION else None
        self._invoke(lambda systems: deliver(systems, event), about, new=new)

    def _request(self, watched: Watched, trigger: Trigger) -> object:
        return self._invoke(lambda systems: rotate(systems, trigger), [watched], dry_run=trigger.dry_run)

    def _sweep(self, *, with_topic: bool) -> None:
        if with_topic:
            # Handing out is not doing: nothing is owed by it.
            self._invoke(lambda _: sweep(self.bench.with_topic()), self.secrets, dry_run=True)
        else:
            self._invoke(sweep, self.secrets)

    def _invoke(
        self,
        what: Callable[[Systems], object],
        about: list[Watched],
        *,
        new: str | None = None,
        dry_run: bool = False,
    ) -> object:
        """Let the program do one thing, with the trouble that was made for it; return its outcome or its error."""
        self.counts["invocations"] += 1
        could_log_in = {w.name: self.bench.logs_in(self.bench.current(w.name).value, self.bench.roles()) for w in about}
        mendable = {w.name: self._is_mendable(w) for w in about}
        fired, meddled = self._fired(), self.meddled
        result: object
        try:
            result = what(self.bench.systems)
        except Killed as error:
            result = error
        except (TransientError, PermanentError) as error:
            result = error
            self.bench.log.texts.append(str(error))
        except UnexpectedError as error:
            raise AssertionError(f"a fault of the program: {error}") from error
        if isinstance(result, Outcome):
            self.bench.log.texts.append(json.dumps(result.as_json()))
        self.counts["faults"] += self._fired() - fired
        self.disturbed = (self._fired(), self.meddled) != (fired, meddled)
        if isinstance(result, TransientError) and not self.disturbed and self.bench.airflow.failure is None:
            raise AssertionError(f"undisturbed, and yet: {result}") from result
        for watched in self.secrets:
            self._note_versions(watched, could_log_in=could_log_in.get(watched.name, False))
        if not self.disturbed and not dry_run:
            for watched in about:
                self._owe(watched, new=new, is_mendable=mendable[watched.name])
        return result

    def _owe(self, watched: Watched, *, new: str | None, is_mendable: bool) -> None:
        """Take away the excuse that an undisturbed invocation ends."""
        version = self.bench.current(watched.name)
        if version.tags.get("rotation-enabled") == "false" or watched.opted_out is not None:
            return
        match watched.excused.get(version.version):
            case Until.ANY:
                ends = True
            case Until.ITS_EVENT:
                ends = new == version.version
            case _:
                ends = False
        if ends and is_mendable:
            del watched.excused[version.version]
        elif ends:
            watched.excused[version.version] = Until.PERSON

    def _note_versions(self, watched: Watched, *, could_log_in: bool) -> None:
        """P4: what was made has a cause that came, and it is the only version of that cause."""
        versions = self.bench.versions(watched.name)
        for version in versions:
            if version.version in watched.seen:
                continue
            self.counts["versions"] += 1
            state = read_state(version.tags)
            assert state is not None, "P4: a version without a cause"
            watched.seen[version.version] = state.id
            watched.opted_out = None
            # What is retired in the same invocation was made in another.
            made = [v for v, cause in watched.seen.items() if cause == state.id]
            allowed = 1 + watched.late[state.id]
            assert len(made) <= allowed, f"P4: cause {state.id} made {len(made)} versions"
            is_single = version.tags["rotation-strategy"] == "single-user"
            if is_single and self.disturbed:
                watched.excused[version.version] = Until.ANY
            watched.grace = None
            if not is_single and not self.forced and not self.disturbed and could_log_in and state.retire_at:
                before = [v for v in versions if v.version == state.from_version]
                if before and user_of(before[0].value) not in watched.locked_by_person:
                    watched.grace = Grace(before[0].value, state.retire_at)
        for fault in [fault for w, fault in self.late if w is watched and fault.on_their_way]:
            self._note_late(watched, fault)

    def _note_late(self, watched: Watched, fault: Fault) -> None:
        for request in fault.on_their_way:
            body = json.loads(request.args[0].body)  # type: ignore[attr-defined]  # a functools.partial
            state = read_state(body["tags"])
            assert state is not None
            watched.late[state.id] = max(watched.late[state.id], 1)

    def _land(self) -> None:
        for watched, fault in self.late:
            if not fault.on_their_way:
                continue
            self.counts["landed late"] += fault.land()
            version = self.bench.current(watched.name)
            watched.opted_out = None
            watched.grace = None
            state = read_state(version.tags)
            watched.seen[version.version] = state.id if state else ""
            is_single = version.tags["rotation-strategy"] == "single-user"
            watched.excused[version.version] = Until.ANY if is_single else Until.ITS_EVENT

    def _provoke(self, which: int) -> None:
        """A rotation meets the trouble, when the grace of the one before is over."""
        watched = self.secrets[which]
        self.bench.clock.advance(timedelta(hours=25))
        trigger = dataclasses.replace(self._trigger(watched.name), is_repeatable=True)
        self.keys.append((watched.name, trigger.id))
        self._request(watched, trigger)

    def _meddle(self, at: int, do: Callable[[str], object], what: str) -> None:
        def meddle(where: str) -> None:
            self.counts[what] += 1
            self.meddled += 1
            do(where)

        self.bench.boundaries.at = 2 * len(self.bench.boundaries.calls) + at
        self.bench.boundaries.do = meddle

    def _fired(self) -> int:
        return sum(fault.fired for fault in self.trouble)

    def _has_trouble(self) -> bool:
        return any(fault.times != 0 for fault in self.trouble) or self.bench.boundaries.at is not None

    def _end_trouble(self) -> None:
        for fault in self.trouble:
            fault.remove()
        self.bench.boundaries.at = None

    # -- people

    def _write_by_hand(self, watched: Watched, value: str, tags: str, *, user: str | None = None) -> None:
        bench = self.bench
        current = bench.current(watched.name)
        user = user or user_of(current.value)
        password = f"by-hand-{uuid.uuid4().hex}"
        if value == "foreign user":
            user = self.foreign_user
        elif value == "other user":
            user = user.removesuffix("_alt") if user.endswith("_alt") else f"{user}_alt"
        written = bench.uri(user, password)
        if value == "old":
            versions = bench.versions(watched.name)
            written = versions[-2 % len(versions)].value
        elif value == "good" and user != self.foreign_user and user in bench.roles():
            bench.set_password(user, password)
        kept = dict(current.tags)
        if tags == "policy":
            kept.pop(STATE_TAG, None)
        elif tags == "none":
            kept = {}
        expires = current.expires_on if tags == "all" else None
        version = bench.vault.put(watched.name, written, tags=kept, expires_on=expires)
        watched.seen[version] = ""
        watched.grace = None
        watched.excused[version] = Until.ITS_EVENT
        if watched.opted_out is not None:
            watched.opted_out = bench.versions(watched.name)
            watched.excused[version] = Until.PERSON

    def _is_mendable(self, watched: Watched) -> bool:
        """Whether the program may and can make the current version log in."""
        bench, roles = self.bench, self.bench.roles()
        versions = bench.versions(watched.name)
        current = versions[-1]
        user = user_of(current.value)
        if bench.logs_in(current.value, roles):
            return True
        role = roles.get(user)
        if role is None or user == self.foreign_user:
            return False
        if current.tags.get("rotation-admin", policy_before(versions)) != "self":
            return bool(re.search(rf"/{watched.name}\]", role.comment or ""))
        state = read_state(current.tags)
        earlier = [v for v in reversed(versions[:-1]) if v.enabled]
        earlier.sort(key=lambda v: v.version != (state.from_version if state else None))
        return any(user_of(v.value) == user and bench.logs_in(v.value, roles) for v in earlier[:VERSIONS_TRIED])

    def _is_well(self, watched: Watched) -> bool:
        """Whether nothing but the program's own doing has come over this secret, so that a rotation must succeed."""
        bench, roles = self.bench, self.bench.roles()
        version = bench.current(watched.name)
        if not bench.logs_in(version.value, roles) or "rotation-strategy" not in version.tags:
            return False
        if user_of(version.value) == self.foreign_user or watched.locked_by_person:
            return False
        pair = [
            role
            for name, role in roles.items()
            if name.removesuffix("_alt") == user_of(version.value).removesuffix("_alt")
        ]
        is_claimed = all(role.comment for role in pair)
        return is_claimed or not user_of(version.value).endswith("_alt")


def play(folder: Path, server: PostgreSQL, counts: Counter[str], plan: settings, number: int | None = None) -> None:
    """Play the model as often as the plan says, from a seed. Raise AssertionError when something does not hold."""

    def begin() -> Model:
        return Model(folder, server, counts)

    factory: Any = begin if number is None else seed(number)(begin)  # Any: Hypothesis says that it takes only classes
    run_state_machine_as_test(factory, settings=plan)


def version_of(event: EventIn) -> str:
    assert isinstance(event.data, dict)
    return str(event.data["Id"]).rpartition("/")[2]


def policy_before(versions: tuple[SecretVersion, ...]) -> str:
    """Return the admin that a version without tags inherits."""
    for version in reversed(versions[:-1]):
        if "rotation-strategy" in version.tags:
            return version.tags.get("rotation-admin", "self")
    return "self"
