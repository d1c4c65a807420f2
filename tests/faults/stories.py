"""What a process is in the middle of when something happens to it, and how the world has to look afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

from rotators.policy import read_state
from tests.faults.conftest import Outside, What, connection_of
from tests.faults.instance import Instance
from tests.world import user_of


def first_rotation(outside: Outside, _: Instance, name: str) -> What:
    outside.here.make_due()
    return outside.here.near_expiry(name)


def later_rotation(outside: Outside, instance: Instance, name: str) -> What:
    outside.rotate(instance, name)
    return first_rotation(outside, instance, name)


def by_hand(outside: Outside, instance: Instance, name: str) -> What:
    """A person writes a version whose password the database does not know, and drops every tag."""
    outside.rotate(instance, name)
    value = outside.here.value(name)
    outside.here.vault.put(name, value.replace(value.split(":")[2].split("@")[0], "written-by-hand-and-wrong"))
    return outside.here.event("Microsoft.KeyVault.SecretNewVersionCreated", name)


def revoked(outside: Outside, instance: Instance, name: str) -> What:
    outside.rotate(instance, name)
    outside.here.make_due()
    return outside.request(name, revoke=True)


def retired(outside: Outside, instance: Instance, name: str) -> What:
    outside.rotate(instance, name)
    outside.airflow.recover(connection_of(name))
    outside.here.make_due(2)
    return None


def rolled_back(outside: Outside, instance: Instance, name: str) -> What:
    """Only `alternating-users` can go back."""
    outside.rotate(instance, name)
    return outside.request(name, kind="rollback")


type Story = Callable[[Outside, Instance, str], What]
STORIES: tuple[Story, ...] = (first_rotation, later_rotation, by_hand, revoked, retired, rolled_back)
# What is asked for by hand is not done by the sweep when it died before anything was published.
ASKED_FOR = (revoked, rolled_back)


@dataclass(frozen=True)
class Case:
    """A new secret in the middle of its story; `what` is what comes now."""

    outside: Outside
    strategy: str
    story: Story
    name: str
    what: What
    versions_before: int

    @classmethod
    def begin(cls, outside: Outside, instance: Instance, kind: tuple[str, str], story: Story) -> "Case":
        name = outside.secret(*kind)
        outside.suffer(name)
        what = story(outside, instance, name)
        return cls(outside, kind[0], story, name, what, len(outside.here.versions(name)))

    @property
    def is_published(self) -> bool:
        return len(self.outside.here.versions(self.name)) > self.versions_before

    @property
    def is_healed(self) -> bool:
        return self.outside.airflow.is_healed(connection_of(self.name))

    @property
    def is_managed(self) -> bool:
        return "rotation-strategy" in self.outside.here.tags(self.name)

    def check_in_between(self, where: str) -> None:
        """P1, P2, before anybody mends anything."""
        if self.story is by_hand:
            return  # what a person wrote does not log in until it is reconciled
        if self.strategy == "alternating-users":
            assert self.outside.here.logs_in(self.name), where
        assert self.outside.any_version_logs_in(self.name), where

    def check_in_the_end(self, where: str) -> None:
        """P1, P2, P4, P5: the job is done, once, and nobody is locked out who should not be."""
        here = self.outside.here
        *_, old, current = here.versions(self.name)
        assert here.logs_in(current.value), where
        assert current.enabled, where
        state = read_state(current.tags)
        assert state is not None, where
        assert not state.is_unfinished, (where, state)
        made = len(here.versions(self.name)) - self.versions_before
        assert made == (0 if self.story in (by_hand, retired) else 1), where
        states = [read_state(version.tags) for version in here.versions(self.name)]
        assert [other.id for other in states if other].count(state.id) == 1, where
        assert self.is_healed, where
        if self.story in (revoked, retired):
            assert not old.enabled, where
            assert state.retired is not None, where
            assert not here.logs_in(old.value), where
        elif self.story is not by_hand:
            assert old.enabled, where
            assert here.logs_in(old.value) == (user_of(old.value) != user_of(current.value)), where

    def end(self) -> None:
        self.outside.forget(self.name)
