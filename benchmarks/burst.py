"""A burst: everything is due at once, and the vault takes no more than it does."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic

from benchmarks.burst_told import (
    DELAY,
    FEWER,
    LIMIT,
    NARROWED,
    SECRETS,
    SHARE,
    SLOW,
    WINDOW,
    Burst,
    Bursts,
    line,
    most_at_once,
    section,
)
from benchmarks.fleet import Fleet, fleet, users_of
from benchmarks.plot import Frame, plot
from benchmarks.section import BenchmarkError, Section
from sandbox.event_grid import EventGrid
from sandbox.event_schemas import key_vault_event
from tests.world import user_of

INSTANCES = (1, 2, 4)
SWEPT_WITH = (1, 4)
ROUNDS = 2
_OTHERS_LIMIT = 4_000
_WARM_UP = 20
_LONGEST = 300.0
_PLOT = "burst.svg"

type Start = Callable[[Fleet, EventGrid, Sequence[str]], set[str]]
"""Begins a burst of these secrets, and returns the ids of the events that are to succeed."""


def run(part: float = 1.0) -> Section:
    """Measure in this part of the rounds; return a section of the results.

    Raise BenchmarkError unless each secret was rotated, and once.
    """
    with fleet(max(INSTANCES)) as here:
        here.vault.throttle()
        here.delay(DELAY)
        # Imports, tokens, and connections to the vault: a burst comes to instances that are there.
        _burst(here, max(INSTANCES), here.names[:_WARM_UP], _near_expiry)
        fresh: dict[int, list[Burst]] = {instances: [] for instances in INSTANCES}
        for _ in range(math.ceil(ROUNDS * part)):
            for instances, rounds in fresh.items():
                here.vault.throttle()
                rounds.append(_burst(here, instances, here.names, _near_expiry))
        here.vault.throttle()
        used_up = {1: [_burst(here, 1, here.names, _near_expiry, before=here.use_up)]}
        here.delay(SLOW)
        narrowed = {instances: [_narrowed(here, instances, _near_expiry)] for instances in INSTANCES}
        swept = {instances: [_narrowed(here, instances, _sweep)] for instances in SWEPT_WITH}
    bursts = Bursts(fresh, used_up, narrowed, swept, os.cpu_count() or 1)
    return Section(section(bursts, _PLOT), {_PLOT: _drawn(bursts)})


def _narrowed(here: Fleet, instances: int, start: Start) -> Burst:
    here.vault.throttle(creates=LIMIT // NARROWED, others=_OTHERS_LIMIT // NARROWED)
    return _burst(here, instances, here.names[:FEWER], start)


def _burst(
    here: Fleet, instances: int, names: Sequence[str], start: Start, *, before: Callable[[], object] = lambda: None
) -> Burst:
    """Let all of these be due at once and wait until nothing is left to do."""
    here.make_due(names)
    first = here.instances[0]
    with here.event_grid(instances) as event_grid, _rotated_once(here, event_grid, names):
        before()
        requests, log = len(here.vault.requests), len(here.server.log())
        first.forget_peak()
        memory, effort = first.memory, here.effort()
        started, started_at = monotonic(), datetime.now(UTC)
        events = start(here, event_grid, names)
        _wait(event_grid)
        lasted = monotonic() - started
        effort = here.effort() - effort
        ended = {
            attempt.event_id: (attempt.when - started_at).total_seconds() + attempt.seconds
            for attempt in reversed(event_grid.deliveries)  # so that the first success counts
            if attempt.status == 202  # noqa: PLR2004 (HTTP)
        }
        deliveries = Counter(attempt.event_id for attempt in event_grid.deliveries)
        return Burst(
            instances=instances,
            seconds=max(ended[event] for event in events),
            lasted=lasted,
            throttled=sum(request.status == 429 for request in here.vault.requests_since(requests)),  # noqa: PLR2004
            brought_again=deliveries.total() - len(deliveries),
            connections=most_at_once(here.server.log()[log:].splitlines()),
            effort=effort,
            memory=(memory, first.peak_memory, first.memory),
        )


def _near_expiry(here: Fleet, event_grid: EventGrid, names: Sequence[str]) -> set[str]:
    events = [
        key_vault_event("SecretNearExpiry", here.identifier(name), here.vault.current(name).expires_on)
        for name in names
    ]
    for event in events:
        event_grid.publish(event)
    return {event["id"] for event in events}


def _sweep(here: Fleet, event_grid: EventGrid, names: Sequence[str]) -> set[str]:
    ended = here.instances[0].host.run_timer()
    handed_out = {event["id"] for event in event_grid.received if event["eventType"] == "SecretRotation.Requested"}
    if not ended["succeeded"] or len(handed_out) != len(names):
        raise BenchmarkError(f"the sweep handed out {len(handed_out)} secrets of {len(names)}: {ended['exception']}")
    return handed_out


def _wait(event_grid: EventGrid) -> None:
    try:
        event_grid.wait_idle(_LONGEST)
    except TimeoutError:
        raise BenchmarkError(f"events are still on their way after {_LONGEST:g} s") from None


@contextmanager
def _rotated_once(here: Fleet, event_grid: EventGrid, names: Sequence[str]) -> Iterator[None]:
    """Hold what happens inside to the contract, from outside. Raise BenchmarkError, saying what was not kept."""
    before = {name: here.vault.versions(name) for name in here.names}
    yield
    # One that was sent again has the same id.
    received = {event["id"]: (event["eventType"], event["subject"]) for event in event_grid.received}
    told = Counter(received.values())
    complaints: Mapping[str, list[str]] = {
        "not rotated once": [
            name for name in here.names if len(here.vault.versions(name)) - len(before[name]) != (name in names)
        ],
        "not given to the other user": [
            name
            for name in names
            if {user_of(version.value) for version in (before[name][-1], here.vault.current(name))}
            != set(users_of(name))
        ],
        "published, but refused by the database": here.refused(names),
        "not told of once": [name for name in names if told["SecretRotation.Completed", f"secrets/{name}"] != 1],
        "failed": [subject for kind, subject in told if kind == "SecretRotation.Failed"],
        "lost": [event["subject"] for event in event_grid.dead_letters],
    }
    if any(complaints.values()):
        found = (f"{what}: {len(which)}, {which[0]} for one" for what, which in complaints.items() if which)
        raise BenchmarkError("; ".join(found))


def _drawn(bursts: Bursts) -> str:
    lines = {
        f"{SECRETS} events, Key Vault's limits": line(bursts.fresh),
        f"{FEWER} events, {SHARE}": line(bursts.narrowed),
        f"{FEWER} secrets by a sweep, {SHARE}": line(bursts.swept),
    }
    ends = (min(INSTANCES), max(INSTANCES))
    frame = Frame("A burst, by instances", "instances", f"time, in the vault's windows of {WINDOW:g} s")
    return plot(frame, lines, {f"{SHARE}: no less": [(instances, 1.0) for instances in ends]})
