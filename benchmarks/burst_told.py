"""What "a burst" found, as a section of the results: pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from benchmarks.figures import Goal, Ratio, table

SECRETS = 300
WINDOW = 10.0
"""Seconds in which Key Vault counts; its limits hold for each."""
LIMIT = 300
"""Writes that it takes in a window; of all else it takes more than thirteen times as much."""
THREADS = 5
"""What an instance runs at once: min(32, cores + 4), and Flex Consumption gives an instance of 2 GB one core."""
SESSIONS = 2
"""Those that a rotation has at most: the admin's, and the one that proves the new credential."""
MAX_CONNECTIONS = 100
"""What PostgreSQL takes by default."""
NARROWED = 10
"""By this the limits are divided where it is shown how they become the wall."""
FEWER = 45
"""Secrets there: half as many again as go into a window."""
DELAY, SLOW = 0.005, 0.08
"""Seconds that a round trip takes longer, and where the limits are narrowed."""

_PROCESS = re.compile(r"\[\d+\]")
CONNECTIONS_GOAL = Goal(MAX_CONNECTIONS / 5, is_most=True)

_INTRODUCTION = f"""\
## A burst

{SECRETS} near-expiry events at once for {SECRETS} secrets of two users each, a later rotation, without Airflow, with a
topic that outcomes go to; every round trip takes {DELAY * 1000:g} ms longer. An instance is a process of Microsoft's
worker with the {THREADS} threads that it has on Azure. Key Vault refuses what is beyond {LIMIT} writes and 4,000 other
calls in {WINDOW:g} s. Event Grid spreads the events evenly, waits 30 s for an answer, and brings again what was refused
after 10 s, then 30 s, and so on; the events of the new versions come too.

A time is from the first event until the last is answered with success, what was brought again included. It is told in
windows of {WINDOW:g} s: in 1.00 the vault takes {LIMIT} writes. There are no results unless each secret has exactly one
new version, of the other user, that logs in, with one `Completed` and no `Failed` for it, and no event is lost.
"""
SHARE = f"{1 / NARROWED:.0%} of the limits"
_NARROWED = f"""\
{SECRETS} writes fit into one window: no limit is met unless others have used it up, and with more instances this
machine would be the wall. So that the vault is, {FEWER} secrets met one with {SHARE}, with {SLOW * 1000:g} ms more for
each round trip: after the first {LIMIT // NARROWED} writes nothing goes for a window, and 1.00 is the least that can be
had. By events, and by a sweep, which finds what is due and hands it out through the topic:
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of processor time: of the instances with their host, PostgreSQL, and all other stand-ins."""

    program: float
    database: float
    stand_ins: float

    @property
    def total(self) -> float:
        return self.program + self.database + self.stand_ins

    def __add__(self, other: Self) -> "Effort":
        return Effort(self.program + other.program, self.database + other.database, self.stand_ins + other.stand_ins)

    def __sub__(self, before: Self) -> "Effort":
        return Effort(self.program - before.program, self.database - before.database, self.stand_ins - before.stand_ins)


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst, done as it has to be.

    Attributes:
        instances: over which the events were spread.
        seconds: until the last event was answered with success.
        lasted: seconds until there was nothing left to do; `effort` is over these.
        throttled: requests that Key Vault refused with 429.
        brought_again: deliveries beyond one for each event.
        connections: to PostgreSQL at the same time, at most.
        memory: MiB of the first instance before it, at most in it, and after it.
    """

    instances: int
    seconds: float
    lasted: float
    throttled: int
    brought_again: int
    connections: int
    effort: Effort
    memory: tuple[float, float, float]

    @property
    def windows(self) -> float:
        return self.seconds / WINDOW


@dataclass(frozen=True, slots=True)
class Bursts:
    """All that were measured; of each the rounds, by instances.

    Attributes:
        fresh: of a vault whose limits nobody has used.
        used_up: of one whose writes of the window others had used up a moment before.
        narrowed: of one with a tenth of the limits, by events; `swept`, by a sweep.
        processors: of this machine.
    """

    fresh: Mapping[int, Sequence[Burst]]
    used_up: Mapping[int, Sequence[Burst]]
    narrowed: Mapping[int, Sequence[Burst]]
    swept: Mapping[int, Sequence[Burst]]
    processors: int


def most_at_once(log: Iterable[str]) -> int:
    """Return how many sessions were open at the same time, from the server's log with its connections in it.

    Those that were refused are sessions until then.
    """
    open_now: set[str] = set()
    most = 0
    for line in log:
        if (process := _PROCESS.search(line)) is None:
            continue
        if "connection received:" in line:
            open_now.add(process[0])
        elif "disconnection: session time" in line or " FATAL: " in line:
            open_now.discard(process[0])
        most = max(most, len(open_now))
    return most


def section(bursts: Bursts, plot: str) -> str:
    """Return the section; `plot` is the name of its plot's file."""
    alone = bursts.fresh[min(bursts.fresh)]
    return "\n".join(
        [
            _INTRODUCTION,
            table(
                ("", "windows", "refused by the vault", "brought again", "connections at peak", "processors busy"),
                [
                    *(_row(_instances(number), rounds, bursts) for number, rounds in bursts.fresh.items()),
                    *(
                        _row(f"{_instances(number)}, limit used up before", rounds, bursts)
                        for number, rounds in bursts.used_up.items()
                    ),
                ],
            ),
            _connections(bursts),
            _memory(alone),
            _whose_work(bursts),
            _NARROWED,
            table(
                ("", *map(_instances, bursts.narrowed)),
                [
                    ("events", *map(windows, bursts.narrowed.values())),
                    ("a sweep", *(windows(bursts.swept.get(number, ())) for number in bursts.narrowed)),
                ],
            ),
            f"![Time by instances](plots/{plot})\n",
            f"In brackets the lowest and the highest of {len(alone)} rounds, where there are several.\n",
        ]
    )


def windows(rounds: Sequence[Burst]) -> str:
    """Return the time of these rounds in windows: the median, and the lowest and highest of several."""
    if not rounds:
        return ""
    ordered = sorted(burst.windows for burst in rounds)
    ratio = Ratio(median(ordered), ordered[0], ordered[-1])
    return str(ratio) if len(ordered) > 1 else f"{ratio.value:.2f}"


def line(rounds_by_instances: Mapping[int, Sequence[Burst]]) -> list[tuple[float, float]]:
    """Return the points of a plot: instances, and windows."""
    return [(instances, median(burst.windows for burst in rounds)) for instances, rounds in rounds_by_instances.items()]


def _row(name: str, rounds: Sequence[Burst], bursts: Bursts) -> tuple[object, ...]:
    busy = sum(burst.effort.total for burst in rounds) / sum(burst.lasted for burst in rounds) / bursts.processors
    return (
        name,
        windows(rounds),
        round(median(burst.throttled for burst in rounds)),
        round(median(burst.brought_again for burst in rounds)),
        max(burst.connections for burst in rounds),
        f"{busy:.0%}",
    )


def _connections(bursts: Bursts) -> str:
    peaks = {
        instances: max(burst.connections for burst in [*rounds, *bursts.used_up.get(instances, ())])
        for instances, rounds in bursts.fresh.items()
    }
    alone, bound = peaks[1], SESSIONS * THREADS
    is_kept = all(peak <= bound * instances for instances, peak in peaks.items())
    return (
        f"Connections to PostgreSQL at the same time are bounded by what runs at once, {SESSIONS} for each thread, so "
        f"{bound} for each instance, whatever the number of events: {'kept' if is_kept else 'not kept'}. "
        f"One instance had {alone} of the {MAX_CONNECTIONS} that PostgreSQL takes by default: "
        f"{CONNECTIONS_GOAL.verdict(Ratio(alone, alone, alone))}.\n"
    )


def _memory(rounds: Sequence[Burst]) -> str:
    before, most, after = rounds[0].memory
    again = rounds[-1].memory[2] - after
    return (
        f"Memory of an instance that {SECRETS} events came to at once: {most / before:.2f} times what it was before, "
        f"{most - before:.0f} MiB more, at its peak; {after - before:.0f} MiB of them stayed"
        + (f", and {again:+.0f} MiB after {len(rounds)} bursts" if len(rounds) > 1 else "")
        + ". The host stand-in, with a thread for each event that waits, lives in the same process and is in these "
        "figures; on Azure it is a process of its own.\n"
    )


def _whose_work(bursts: Bursts) -> str:
    alone, *_ = bursts.fresh.values()
    whole = sum((burst.effort for burst in alone), Effort(0, 0, 0))
    shares = (
        ("the instances", whole.program), ("PostgreSQL", whole.database), ("the other stand-ins", whole.stand_ins)
    )  # fmt: skip
    return (
        "Whose work it was, of the processor time with one instance: "
        + ", ".join(f"{name} {share / whole.total:.0%}" for name, share in shares)
        + f". Where the {bursts.processors} processors are busy, they are the wall, and not the program or the vault; "
        "each instance on Azure has its own.\n"
    )


def _instances(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"
