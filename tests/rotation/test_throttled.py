"""Key Vault says 429: what it refuses does not count, and a write that waits a little gets a place."""

from datetime import timedelta

import pytest

from rotators.databases.postgresql import _PostgreSQLSession
from rotators.dispatch import deliver
from rotators.errors import TransientError
from rotators.policy import read_state
from rotators.reconciliation import LONGEST_WRITE
from rotators.rotation import rotate
from tests.world import World


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotators.rotation._PAUSES_OF_THE_THROTTLED", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("strategy", ["alternating", "single"])
def test_a_write_that_is_refused_for_a_moment_is_made_in_the_same_delivery(here: World, strategy: str) -> None:
    """P4: one version, and it logs in."""
    name = here.alternating() if strategy == "alternating" else here.single(rotation_admin="self")
    here.make_due()
    fault = here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, times=3)
    deliver(here.systems, here.near_expiry(name))
    assert (fault.fired, len(here.versions(name)), here.logs_in(name)) == (3, 2, True)


@pytest.mark.parametrize("strategy", ["alternating", "single"])
def test_a_vault_that_stays_throttled_is_given_back_to_event_grid(here: World, strategy: str) -> None:
    """P1, P2: nothing has changed, and the next delivery does it."""
    name = here.alternating() if strategy == "alternating" else here.single(rotation_admin="self")
    here.make_due()
    event = here.near_expiry(name)
    fault = here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, times=None)
    with pytest.raises(TransientError, match="429"):
        deliver(here.systems, event)
    assert (fault.fired, len(here.versions(name)), here.logs_in(name)) == (4, 1, True)
    fault.remove()
    deliver(here.systems, event)
    assert (len(here.versions(name)), here.logs_in(name)) == (2, True)


def test_a_write_that_has_waited_is_not_taken_for_a_late_one(here: World) -> None:
    """P4: else the event of its own version would have it verified and refreshed once more."""
    name = here.alternating()
    here.make_due()
    waited = timedelta(seconds=11)
    here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, run=lambda: here.clock.advance(waited))
    deliver(here.systems, here.near_expiry(name))
    state, version = read_state(here.tags(name)), here.vault.current(name)
    assert state is not None
    assert version.created - state.at < LONGEST_WRITE < waited


def test_what_was_written_although_a_gateway_says_429_is_not_written_again(here: World) -> None:
    """P4: it is read back before it is written once more."""
    name = here.alternating()
    fault = here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, when="after", times=None)
    rotate(here.systems, here.trigger(name))
    assert (fault.fired, len(here.versions(name)), here.logs_in(name)) == (1, 2, True)


def test_what_cannot_be_read_back_is_not_written_again(here: World) -> None:
    """P4: whether it was written is not known then."""
    name = here.alternating()
    written = here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, when="after", times=None)

    def forbid_reading() -> None:
        here.vault.fail(method="GET", path=f"/secrets/{name}", status=429, times=None)

    written.run = forbid_reading
    with pytest.raises(TransientError, match="429"):
        rotate(here.systems, here.trigger(name))
    assert (written.fired, len(here.versions(name))) == (1, 2)


def test_nothing_is_written_when_the_lock_was_lost_while_it_waited(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: another may have it by then."""
    name = here.alternating()
    asked = 0
    is_locked = _PostgreSQLSession.assert_locked

    def lose(session: _PostgreSQLSession, key: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:  # once in the moment of verify, once before each write
            raise TransientError("lost")
        is_locked(session, key)

    monkeypatch.setattr(_PostgreSQLSession, "assert_locked", lose)
    monkeypatch.setattr("rotators.rotation.LOCK_IS_KNOWN_FOR", timedelta(0))
    fault = here.vault.fail(method="PUT", path=f"/secrets/{name}", status=429, times=1)
    with pytest.raises(TransientError, match="lost"):
        rotate(here.systems, here.trigger(name))
    assert (fault.fired, len(here.versions(name))) == (1, 1)
