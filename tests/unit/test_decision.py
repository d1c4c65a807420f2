"""The decision as a table: trigger and current version in, what is done out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rotators.decision import (
    Current,
    Decision,
    Resume,
    RollBack,
    Rotate,
    Skip,
    Trigger,
    TriggerKind,
    decide,
    due_at,
    missed_windows,
)
from rotators.policy import Cause, PendingStep, RotationPolicy, RotationState, read_policy
from rotators.settings import read_settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TAGS = {"rotation-strategy": "alternating-users", "rotation-admin": "postgres-admin", "rotation-every": "60d"}

EVENTS: tuple[TriggerKind, ...] = ("near-expiry", "expired", "new-version", "requested")
DUE_DECIDED: tuple[TriggerKind, ...] = ("near-expiry", "expired", "sweep")
ALL: tuple[TriggerKind, ...] = (*EVENTS, "sweep", "http", "rollback")


def policy(**tags: str) -> RotationPolicy:
    read = read_policy("airflow-connections-a", {**TAGS, **tags}, prefix="airflow-connections")
    assert read is not None
    return read


def trigger(kind: TriggerKind, **changes: object) -> Trigger:
    version = "v1" if kind in EVENTS else None
    return replace(Trigger(kind=kind, secret="a", id="cause-1", by="x", version=version), **changes)  # type: ignore[arg-type]


def version(*, age: timedelta = timedelta(days=1), state: RotationState | None = None) -> Current:
    return Current("v1", created=NOW - age, expires=NOW - age + timedelta(days=90), state=state)


def state(**changes: object) -> RotationState:
    made = RotationState(id="earlier", cause="sweep", by="timer", from_version="v0", at=NOW - timedelta(days=1))
    return replace(made, **changes)  # type: ignore[arg-type]


def obstacle(decision: Decision) -> str:
    assert isinstance(decision, Skip), decision
    assert decision.reason
    return decision.obstacle


OLD = timedelta(days=60)
PENDING: tuple[PendingStep, ...] = ("refresh",)


@pytest.mark.parametrize("kind", ALL)
def test_a_secret_without_rotation_tags_is_never_changed(kind: TriggerKind) -> None:
    """P6: only what opted in, forced or not."""
    assert obstacle(decide(trigger(kind, force=True), version(age=OLD), None, NOW)) == "not managed"


@pytest.mark.parametrize("kind", ALL)
def test_a_paused_secret_is_left_alone(kind: TriggerKind) -> None:
    """P6: rotation-enabled=false stops everything, what is pending too."""
    current = version(age=OLD, state=state(pending=PENDING))
    assert obstacle(decide(trigger(kind), current, policy(**{"rotation-enabled": "false"}), NOW)) == "paused"


@pytest.mark.parametrize("kind", ["http", "requested"])
def test_a_paused_secret_is_rotated_when_a_person_forces_it(kind: TriggerKind) -> None:
    """Over HTTP, and by the event that carries such a request to another instance."""
    decision = decide(trigger(kind, force=True), version(), policy(**{"rotation-enabled": "false"}), NOW)
    assert isinstance(decision, Rotate)


@pytest.mark.parametrize("kind", ["near-expiry", "expired", "new-version", "sweep"])
def test_force_means_nothing_but_from_a_person(kind: TriggerKind) -> None:
    decision = decide(trigger(kind, force=True), version(age=OLD), policy(**{"rotation-enabled": "false"}), NOW)
    assert obstacle(decision) == "paused"


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_for_an_older_version_is_superseded(kind: TriggerKind) -> None:
    """P4: late and out of order, an event makes no version."""
    assert obstacle(decide(trigger(kind, version="v0"), version(age=OLD), policy(), NOW)) == "superseded"


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_for_an_older_version_resumes_what_is_pending(kind: TriggerKind) -> None:
    """P2: the redelivery after a crash finds its version superseded, by its own half-done work."""
    current = version(state=state(pending=PENDING))
    assert decide(trigger(kind, version="v0"), current, policy(), NOW) == Resume(
        PENDING, "rotation earlier was left unfinished"
    )


@pytest.mark.parametrize("kind", ["near-expiry", "expired", "new-version", "requested", "sweep"])
def test_the_event_that_made_the_version_is_done(kind: TriggerKind) -> None:
    """P4: one event, one version."""
    assert obstacle(decide(trigger(kind), version(age=OLD, state=state(id="cause-1")), policy(), NOW)) == "done"


@pytest.mark.parametrize("kind", ["near-expiry", "expired", "new-version", "requested", "sweep"])
def test_the_event_that_made_the_version_resumes_what_is_pending(kind: TriggerKind) -> None:
    """P2: killed after publishing, the redelivery of the same event finishes the job, due or not."""
    current = version(age=OLD, state=state(id="cause-1", pending=PENDING))
    assert decide(trigger(kind), current, policy(), NOW) == Resume(PENDING, "rotation cause-1 was left unfinished")


def test_a_repeated_request_resumes_what_is_pending() -> None:
    """P2: the same over HTTP, when the caller sends the idempotency key again."""
    current = version(state=state(id="cause-1", cause="http", pending=PENDING))
    assert decide(trigger("http"), current, policy(), NOW) == Resume(PENDING, "rotation cause-1 was left unfinished")


def test_an_idempotency_key_that_equals_an_events_id_is_another_cause() -> None:
    made_by_event = version(state=state(id="cause-1", cause="near-expiry"))
    assert isinstance(decide(trigger("http"), made_by_event, policy(), NOW), Rotate)
    made_by_http = version(state=state(id="cause-1", cause="http"))
    assert obstacle(decide(trigger("http"), made_by_http, policy(), NOW)) == "done"


@pytest.mark.parametrize("kind", DUE_DECIDED)
def test_what_is_not_due_is_not_rotated(kind: TriggerKind) -> None:
    """P4: Key Vault raises near-expiry minutes after a short-lived version is written."""
    assert obstacle(decide(trigger(kind), version(age=timedelta(days=50)), policy(), NOW)) == "not due"


@pytest.mark.parametrize("kind", DUE_DECIDED)
def test_what_is_pending_is_resumed_when_nothing_is_due(kind: TriggerKind) -> None:
    decision = decide(trigger(kind), version(state=state(pending=("verify", "refresh"))), policy(), NOW)
    assert isinstance(decision, Resume)
    assert decision.steps == ("verify", "refresh")


@pytest.mark.parametrize("kind", [*DUE_DECIDED, "http", "requested"])
def test_what_is_due_is_rotated(kind: TriggerKind) -> None:
    assert isinstance(decide(trigger(kind), version(age=OLD), policy(), NOW), Rotate)


@pytest.mark.parametrize("kind", ["http", "requested"])
def test_who_asks_for_it_needs_not_wait_until_it_is_due(kind: TriggerKind) -> None:
    assert isinstance(decide(trigger(kind), version(), policy(), NOW), Rotate)


def test_outside_its_window_a_due_secret_waits_for_the_sweep() -> None:
    closed = policy(**{"rotation-window": "0 2 * * * for 3h"})
    assert obstacle(decide(trigger("near-expiry"), version(age=OLD), closed, NOW)) == "outside window"
    opens = NOW + timedelta(hours=14)
    assert (
        obstacle(decide(trigger("sweep"), version(age=OLD), closed, opens - timedelta(seconds=1))) == "outside window"
    )
    assert isinstance(decide(trigger("sweep"), version(age=OLD), closed, opens), Rotate)
    assert isinstance(decide(trigger("sweep"), version(age=OLD), closed, opens + timedelta(minutes=179)), Rotate)
    assert obstacle(decide(trigger("sweep"), version(age=OLD), closed, opens + timedelta(hours=3))) == "outside window"


def test_outside_its_window_what_is_pending_is_resumed() -> None:
    """P2: the window is for new versions; one that was published is finished at any time."""
    closed = policy(**{"rotation-window": "0 2 * * * for 3h"})
    decision = decide(trigger("sweep"), version(age=OLD, state=state(pending=PENDING)), closed, NOW)
    assert decision == Resume(PENDING, "rotation earlier was left unfinished")


def test_an_expired_secret_does_not_wait_for_its_window() -> None:
    """Whether its expiry says so, or Key Vault, whose clock counts: but not its late word of an expiry put off."""
    closed = policy(**{"rotation-window": "0 2 * * * for 3h"})
    assert isinstance(decide(trigger("sweep"), version(age=timedelta(days=90)), closed, NOW), Rotate)
    ahead = replace(version(age=OLD), expires=NOW + timedelta(minutes=4))
    assert isinstance(decide(trigger("expired"), ahead, closed, NOW), Rotate)
    assert isinstance(decide(trigger("near-expiry"), ahead, closed, NOW), Skip)
    assert isinstance(decide(trigger("expired"), version(age=OLD), closed, NOW), Skip)
    assert isinstance(decide(trigger("expired"), replace(ahead, expires=None), closed, NOW), Skip)
    unlimited = replace(version(age=OLD), expires=None)
    assert obstacle(decide(trigger("sweep"), unlimited, closed, NOW)) == "outside window"


def test_a_window_holds_nobody_back_who_asks_by_hand() -> None:
    closed = policy(**{"rotation-window": "0 2 * * * for 3h"})
    assert isinstance(decide(trigger("http"), version(), closed, NOW), Rotate)


def test_the_own_new_version_is_no_cause_for_anything() -> None:
    """P4: each rotation raises SecretNewVersionCreated."""
    assert obstacle(decide(trigger("new-version"), version(state=state()), policy(), NOW)) == "done"


def test_the_own_new_version_resumes_what_is_pending() -> None:
    """P2: the event of a version whose maker was killed."""
    current = version(state=state(pending=PENDING))
    assert decide(trigger("new-version"), current, policy(), NOW) == Resume(
        PENDING, "rotation earlier was left unfinished"
    )


def test_a_version_that_a_person_wrote_is_verified_and_airflow_refreshed() -> None:
    """P1: what the current version says has to log in, whoever wrote it."""
    decision = decide(trigger("new-version"), version(), policy(), NOW)
    assert isinstance(decision, Resume)
    assert decision.steps == ("verify", "refresh")


@pytest.mark.parametrize("kind", ["http", "requested", "near-expiry", "sweep"])
def test_the_other_user_is_not_touched_in_its_grace(kind: TriggerKind) -> None:
    """P1: who still uses the old credential may do so until the grace is over."""
    current = version(age=OLD, state=state(retire_at=NOW))
    login = timedelta(seconds=15)
    assert obstacle(decide(trigger(kind), current, policy(), NOW + login - timedelta(seconds=1))) == "in grace"
    assert isinstance(decide(trigger(kind), current, policy(), NOW + login), Rotate)


def test_a_grace_counts_from_when_the_version_could_be_read() -> None:
    """P1: a cache may be filled in the last moment before, and keep the old credential for as long as the grace."""
    slow = state(at=NOW - timedelta(minutes=2), retire_at=NOW + timedelta(minutes=13))
    current = replace(version(state=slow), created=NOW)
    until = NOW + timedelta(minutes=15, seconds=15)
    assert slow.usable_until(current.created) == until
    assert obstacle(decide(trigger("http"), current, policy(), until - timedelta(seconds=1))) == "in grace"
    assert isinstance(decide(trigger("http"), current, policy(), until), Rotate)


@pytest.mark.parametrize("kind", ["http", "requested"])
def test_who_forces_it_does_not_wait_for_the_grace(kind: TriggerKind) -> None:
    current = version(state=state(retire_at=NOW + timedelta(hours=1)))
    assert isinstance(decide(trigger(kind, force=True), current, policy(), NOW), Rotate)


@pytest.mark.parametrize("kind", ["http", "requested", "near-expiry", "sweep"])
def test_in_the_grace_what_is_pending_is_resumed(kind: TriggerKind) -> None:
    """P2, P5: Airflow's refresh is not forgotten because a next rotation has to wait."""
    current = version(age=OLD, state=state(pending=PENDING, retire_at=NOW + timedelta(hours=1)))
    assert decide(trigger(kind), current, policy(), NOW) == Resume(PENDING, "rotation earlier was left unfinished")


@pytest.mark.parametrize("kind", ["http", "requested"])
def test_who_revokes_is_told_of_the_grace_whatever_is_pending(kind: TriggerKind) -> None:
    """P7: that a refresh was finished must not be taken for the end of a leaked credential."""
    current = version(age=OLD, state=state(pending=PENDING, retire_at=NOW + timedelta(hours=1)))
    decision = decide(replace(trigger(kind), revoke=True), current, policy(), NOW)
    assert isinstance(decision, Skip)
    assert decision.obstacle == "in grace"
    assert isinstance(decide(replace(trigger(kind), revoke=True, force=True), current, policy(), NOW), Rotate)


def test_a_retired_user_is_free_before_its_time() -> None:
    current = version(state=state(retire_at=NOW + timedelta(hours=1), retired=NOW))
    assert isinstance(decide(trigger("http"), current, policy(), NOW), Rotate)


def test_single_user_has_no_other_user_to_wait_for() -> None:
    current = version(state=state(retire_at=NOW + timedelta(hours=1)))
    single = policy(**{"rotation-strategy": "single-user", "rotation-admin": "self"})
    assert isinstance(decide(trigger("http"), current, single, NOW), Rotate)


def test_a_revocation_that_was_cut_off_is_resumed() -> None:
    """P2: killed between publishing and locking the leaked credential out."""
    revoking = state(retire_at=NOW - timedelta(days=1))
    decision = decide(trigger("sweep"), version(state=revoking), policy(), NOW)
    assert isinstance(decision, Resume)
    assert isinstance(decide(trigger("sweep"), version(state=replace(revoking, retired=NOW)), policy(), NOW), Skip)


PAUSED = {"rotation-enabled": "false"}
DAILY_AT_TWO = {"rotation-window": "0 2 * * * for 3h"}


def test_a_secret_without_rotation_tags_is_told_which_it_lacks() -> None:
    assert decide(trigger("sweep"), version(), None, NOW).reason == "the secret has no tag rotation-strategy"


@pytest.mark.parametrize(
    ("asked", "current", "tags", "reason"),
    [
        (trigger("sweep"), version(), PAUSED, "rotation-enabled is false"),
        (trigger("expired", version="v0"), version(), {}, "version v0 is no longer current"),
        (trigger("sweep"), version(state=state(id="cause-1")), {}, "this trigger made the current version"),
        (trigger("new-version"), version(state=state()), {}, "this program made the current version"),
        (trigger("new-version"), version(), {}, "a person wrote the current version"),
        (trigger("http"), version(), {}, "asked for"),
        (trigger("http", reason="it leaked"), version(), {}, "it leaked"),
        (trigger("sweep"), version(), {}, "due at 2027-01-22T11:00:00Z"),
        (trigger("sweep"), version(age=OLD), {}, "due since 2026-11-24T11:00:00Z"),
        (
            trigger("sweep"),
            version(age=OLD),
            DAILY_AT_TWO,
            "due since 2026-11-24T11:00:00Z; rotation-window opens at 2026-11-25T02:00:00Z",
        ),
        (
            trigger("http"),
            version(state=state(retire_at=NOW + timedelta(hours=1))),
            {},
            "the other user stays usable until 2026-11-24T13:00:15Z",
        ),
    ],
)
def test_each_decision_says_why(asked: Trigger, current: Current, tags: dict[str, str], reason: str) -> None:
    """P7: the reason is all that a person reads of a decision, in answers, events and the log."""
    assert decide(asked, current, policy(**tags), NOW).reason == reason


@pytest.mark.parametrize("kind", DUE_DECIDED)
def test_it_is_due_from_the_very_moment_on(kind: TriggerKind) -> None:
    """What `due at` names is when it is rotated, not a second later."""
    due = due_at(version(), policy())
    assert obstacle(decide(trigger(kind), version(), policy(), due - timedelta(seconds=1))) == "not due"
    assert isinstance(decide(trigger(kind), version(), policy(), due), Rotate)


def test_due_is_the_age_less_some_slack() -> None:
    """Key Vault's event comes `rotation-every` after the version, give or take minutes."""
    assert due_at(version(), policy()) == version().created + timedelta(days=60, hours=-1)


def test_a_short_period_keeps_most_of_itself() -> None:
    """An hour of slack off a period of an hour would rotate at every sweep."""
    assert due_at(version(), policy(**{"rotation-every": "1h"})) == version().created + timedelta(minutes=54)


def test_due_is_30_days_before_the_expiry_when_that_is_sooner() -> None:
    current = replace(version(), expires=version().created + timedelta(days=120))
    assert due_at(current, policy(**{"rotation-every": "100d"})) == current.created + timedelta(days=90)


def test_a_version_that_lives_shortly_is_due_after_two_thirds_of_its_life() -> None:
    """Else a version that lives less than 30 days would be due at its birth, and rotation never end."""
    current = replace(version(), expires=version().created + timedelta(days=9))
    assert due_at(current, policy()) == current.created + timedelta(days=6)


def test_a_version_without_expiry_is_due_by_its_age() -> None:
    assert due_at(replace(version(), expires=None), policy()) == version().created + timedelta(days=60, hours=-1)


# -- the way back ------------------------------------------------------------------------------------------------

IN_GRACE = NOW + timedelta(hours=1)


def test_within_the_grace_a_rollback_goes_to_the_version_before() -> None:
    current = version(state=state(retire_at=IN_GRACE))
    assert decide(trigger("rollback"), current, policy(), NOW) == RollBack("v0", "asked for")
    assert decide(trigger("rollback", reason="fails"), current, policy(), NOW) == RollBack("v0", "fails")


def test_a_refresh_that_is_pending_does_not_hold_a_rollback_up() -> None:
    """The version that it makes has one of its own."""
    current = version(state=state(retire_at=IN_GRACE, pending=PENDING))
    assert isinstance(decide(trigger("rollback"), current, policy(), NOW), RollBack)


@pytest.mark.parametrize(
    "made",
    [
        None,
        state(),
        state(from_version=None, retire_at=IN_GRACE),
        state(retire_at=NOW - timedelta(seconds=15)),
        state(retire_at=IN_GRACE, retired=NOW),
        state(retire_at=NOW - timedelta(days=1)),
        state(at=NOW, retire_at=NOW),
        state(cause="rollback", retire_at=IN_GRACE),
    ],
    ids=["by hand", "no grace", "no version before", "grace over", "retired", "revoking", "revoked now", "rollback"],
)
def test_without_a_credential_that_is_kept_there_is_no_way_back(made: RotationState | None) -> None:
    """P1: only what is kept usable until then can come back."""
    assert obstacle(decide(trigger("rollback"), version(state=made), policy(), NOW)) == "no way back"


SINGLE = {"rotation-strategy": "single-user", "rotation-admin": "self"}


@pytest.mark.parametrize(
    ("made", "tags", "reason"),
    [
        (
            state(retire_at=IN_GRACE),
            SINGLE,
            "with single-user the password of before went when the current one came; rotate instead",
        ),
        (None, {}, "the current version was not made by a rotation, so none before it is known"),
        (
            state(cause="rollback", retire_at=IN_GRACE),
            {},
            "the current version is a rollback already; rotate when its grace is over",
        ),
        (
            state(at=NOW, retire_at=NOW, retired=NOW),
            {},
            "the credential of before leaked and was revoked; rotate instead",
        ),
        (
            state(at=NOW - timedelta(days=2), retire_at=NOW - timedelta(hours=1)),
            {},
            "the grace of the credential of before ended at 2026-11-24T23:00:15Z",
        ),
    ],
    ids=["single-user", "by hand", "rollback", "revoked", "over"],
)
def test_why_there_is_no_way_back_is_said_whole(made: RotationState | None, tags: dict[str, str], reason: str) -> None:
    """P7: what is so, and what to do instead."""
    current = replace(version(state=made), created=NOW - timedelta(hours=36))
    now = NOW + timedelta(days=1) if "ended" in reason else NOW
    assert decide(trigger("rollback"), current, policy(**tags), now) == Skip("no way back", reason)


def test_a_version_by_hand_that_is_resumed_is_called_one() -> None:
    by_hand, ours = state(cause="reconcile", pending=PENDING), state(pending=PENDING)
    said = [decide(trigger("sweep"), version(state=made), policy(), NOW) for made in (by_hand, ours)]
    assert said == [
        Resume(PENDING, "a person wrote the current version"),
        Resume(PENDING, "rotation earlier was left unfinished"),
    ]


def test_what_is_wrong_with_a_window_is_said_whole() -> None:
    """P7."""
    assert window_warnings("0 2 1 6 * for 3h") == (
        "rotation-window '0 2 1 6 * for 3h' does not open between the time when the version is due and its expiry at "
        "2027-02-21T12:00:00Z: then it is rotated outside the window; let the window open more often, or the version "
        "live longer (rotation-validity)"
    )
    assert window_warnings("0 2 * * * for 3h", sweeps="0 0 6 * * *") == (
        "rotation-window '0 2 * * * for 3h' is too short for the sweep, which does not run while it is open at "
        "2027-01-23T02:00:00Z; lengthen it, or let the sweep run more often (ROTATION_SWEEP_SCHEDULE)"
    )


@pytest.mark.parametrize(
    ("kind", "cause", "is_same"),
    [
        ("rollback", "rollback", True),
        ("http", "http", True),
        ("rollback", "http", False),
        ("http", "rollback", False),
        ("rollback", "near-expiry", False),
        ("near-expiry", "rollback", False),
        ("requested", "requested", True),
        ("sweep", "near-expiry", True),
    ],
)
def test_an_idempotency_key_counts_for_one_route(kind: TriggerKind, cause: Cause, *, is_same: bool) -> None:
    """P4: the same key sent to rotate and to rollback is two causes."""
    current = version(state=state(id="cause-1", cause=cause, retire_at=IN_GRACE))
    decision = decide(trigger(kind), current, policy(), NOW)
    assert (isinstance(decision, Skip) and decision.obstacle == "done") is is_same


def test_what_a_rollback_left_pending_is_resumed_by_the_same_request() -> None:
    """P2."""
    current = version(state=state(id="cause-1", cause="rollback", retire_at=IN_GRACE, pending=PENDING))
    assert isinstance(decide(trigger("rollback"), current, policy(), NOW), Resume)


# -- maintenance windows -----------------------------------------------------------------------------------------


def window_warnings(window: str, *, now: datetime = NOW, sweeps: str = "0 */15 * * * *", **tags: str) -> str:
    wanted = policy(**{"rotation-window": window, **tags})
    schedule = read_settings({"KEY_VAULT_URL": "https://v", "ROTATION_SWEEP_SCHEDULE": sweeps}).sweeps
    return "; ".join(missed_windows(version(), wanted, now, schedule))


def test_a_window_that_opens_in_time_and_long_enough_is_no_matter() -> None:
    assert window_warnings("0 2 * * 6 for 3h") == ""
    assert missed_windows(version(), policy(), NOW, lambda _: iter(())) == ()


def test_a_window_that_never_opens_before_the_expiry_is_told() -> None:
    """Due on 22 January, expired on 21 February: then it is rotated outside the window, and people should know."""
    assert "does not open between" in window_warnings("0 2 1 6 * for 3h")
    assert "2027-02-21T12:00:00Z" in window_warnings("0 2 1 6 * for 3h")
    assert window_warnings("0 2 1 2 * for 3h") == ""
    assert window_warnings("0 0 22 1 * for 24h") == ""  # open when it is due, though it opened before


def test_a_window_that_was_missed_is_told_once_it_is_late() -> None:
    """What counts is the time that is left; what has expired waits for nothing."""
    assert window_warnings("0 2 1 2 * for 3h", now=NOW + timedelta(days=80)) != ""
    expiry = NOW + timedelta(days=89)
    assert window_warnings("0 2 1 2 * for 3h", now=expiry - timedelta(seconds=1)) != ""
    assert window_warnings("0 2 1 2 * for 3h", now=expiry) == ""


@pytest.mark.parametrize(("window", "is_late"), [("59 11 21 2 * for 3h", False), ("0 12 21 2 * for 3h", True)])
def test_a_window_that_opens_with_the_expiry_opens_too_late(window: str, *, is_late: bool) -> None:
    """At 12:00 the version has expired, and is rotated then, window or not."""
    assert ("does not open between" in window_warnings(window)) is is_late


@pytest.mark.parametrize(
    ("window", "sweeps", "is_missed"),
    [
        ("5 2 * * * for 5m", "0 */15 * * * *", True),
        ("5 2 * * * for 10m", "0 */15 * * * *", True),  # 02:15 is its end
        ("5 2 * * * for 11m", "0 */15 * * * *", False),
        ("0 2 * * * for 1m", "0 */15 * * * *", False),  # 02:00 is its beginning
        ("30 2 * * * for 3h", "0 0 6 * * *", True),
        ("30 2 * * * for 4h", "0 0 6 * * *", False),
        ("0 2 * * * for 3h", "0 0 3 * * 1", True),  # the sweep runs on Mondays only
    ],
)
def test_a_window_in_which_the_sweep_does_not_run_is_told(window: str, sweeps: str, *, is_missed: bool) -> None:
    """What is due when no event comes, the sweep has to take while the window is open."""
    assert ("too short for the sweep" in window_warnings(window, sweeps=sweeps)) is is_missed
