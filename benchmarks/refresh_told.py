"""What "the refresh" found, as a section of the results: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Ratio, ratio_of_medians, spread_of, table

REFRESH, AGAIN, LEAST = "a refresh", "the search after it", "the least"
PLOT = "refresh.svg"
MAX_EXAMINED = 2000
"""AIRFLOW_MAX_EXAMINED, at its default."""

type Samples = Mapping[int, Mapping[str, Sequence[float]]]
"""Seconds, by the number of failed task instances and by contestant, in the order of the rounds: the most has fewer."""

_INTRODUCTION = f"""\
## The refresh

A real Airflow in which that many task instances have failed; 1 % of them, at least one, failed on the old credential,
one in each of their runs, with a task that waits for it. Of the others nine in ten are operators that show another
connection, and one in ten is a function with a mistake of its own, whose log has to be read. A few of all these really
failed; the others are copies, made in Airflow's own metastore and log folder, and for its API all are alike. The DAGs
are paused, so that nothing runs while it is measured; before each round all is as it was.

*{LEAST.capitalize()}*: who knows already which tasks are ours lists what has failed, page by page, reads the logs of
ours and clears them with one call for each run, as many at a time as the program does, with Airflow's own client.
*{AGAIN.capitalize()}* is what each sweep does until the grace is over: what failed for another reason is there still.
There are no results unless exactly what failed on the old credential, and what waited for it, is cleared, by whoever:
all of Airflow's metastore is compared.

How many times as long as the least each takes, and how many times as long the largest takes as the others:
"""
_WHAT_IS_ASKED = """
What Airflow's API server noted of each. A run is not cleared at once: two dry runs tell what belongs to it.
"""
_SKIPPED = f"""
*Not read* are the logs of operators that show their connection (`conn_id`) and show another one than ours: such an
operator logs in nowhere else, so that what it failed on cannot be our credential. A function shows nothing, nor does an
operator whose fields Airflow no longer keeps (it keeps those of 30 runs): their logs are read. So are, in the first
search, those of functions that failed for a reason of their own; but what a log has told is not asked again as long as
the process lives, so that the later searches, until the grace is over, read only what has failed since.

The limit is AIRFLOW_MAX_EXAMINED, {MAX_EXAMINED:,} logs by default, which no search here comes to. Had all of 10,000
been functions, the refresh would have examined the newest {MAX_EXAMINED:,}, left the others as they are and said so,
and each search after it, until the grace is over, would have examined as many more.
"""
_MEMORY = """
The memory that a refresh needs at its peak, beyond what the process has before it (tracemalloc). A log is judged where
it is read, and forgotten.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What Airflow is asked for: pages of failed tasks, logs, calls that clear or say what they would clear."""

    pages: int
    logs: int
    clear: int
    others: int


@dataclass(frozen=True, slots=True)
class Seen:
    """How many logs the program read, and the bytes that it needed at its peak."""

    examined: int
    peak: int


def lines(samples: Samples) -> dict[str, list[tuple[float, float]]]:
    """Return what is drawn: times as long as the least takes for the fewest, by the number of failed tasks."""
    least = median(samples[min(samples)][LEAST])
    return {
        name: [(size, median(samples[size][name]) / least) for size in sorted(samples)] for name in (REFRESH, LEAST)
    }


def limits(samples: Samples) -> dict[str, list[tuple[float, float]]]:
    """Return what it would cost if that grew as the failed tasks do."""
    smallest = min(samples)
    return {"in proportion": [(size, size / smallest) for size in sorted(samples)]}


def section(samples: Samples, asked: Mapping[int, Mapping[str, Asked]], seen: Mapping[int, Seen]) -> str:
    """Return the section. `asked`: by the number of failed tasks and by contestant."""
    sizes = sorted(samples)
    largest = sizes[-1]
    over_the_least = {
        name: [ratio_of_medians(samples[size][name], samples[size][LEAST]) for size in sizes]
        for name in (REFRESH, AGAIN)
    }
    growth = {
        name: [*(_growth(samples[largest][name], samples[size][name]) for size in sizes[:-1]), 1]
        for name in (REFRESH, AGAIN, LEAST)
    }
    return "\n".join(
        [
            _INTRODUCTION,
            table(
                ("", *(f"{size:,} failed" for size in sizes)),
                [
                    *((f"{name}, against {LEAST}", *ratios) for name, ratios in over_the_least.items()),
                    *((f"{name} of {largest:,}, against one of so many", *ratios) for name, ratios in growth.items()),
                ],
            ),
            _WHAT_IS_ASKED,
            table(
                ("failed", "who", "pages of failed tasks", "logs", "not read", "calls to clear", "other calls"),
                [_row(size, name, asked[size][name]) for size in sizes for name in (REFRESH, AGAIN, LEAST)],
            ),
            _SKIPPED,
            _MEMORY,
            table(("failed", "MiB"), [(f"{size:,}", f"{seen[size].peak / 2**20:.1f}") for size in sizes]),
            f"![How the time grows with the number of failed tasks](plots/{PLOT})\n",
            "How quiet it was: half the width of the middle half of the samples, as a part of their median: "
            + ", ".join(
                f"{max(map(spread_of, seconds.values())):.1%} at {size:,} ({len(seconds[LEAST])} rounds)"
                for size, seconds in sorted(samples.items())
            )
            + ". Of two rounds, brackets hold what these had and no more.\n",
        ]
    )


def _growth(largest: Sequence[float], smaller: Sequence[float]) -> Ratio:
    return ratio_of_medians(largest, smaller[: len(largest)])


def _row(size: int, name: str, asked: Asked) -> tuple[object, ...]:
    return f"{size:,}", name, asked.pages, asked.logs, f"{size - asked.logs:,}", asked.clear, asked.others
