"""What "a sweep" found, as a section of the results: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Goal, ratio_of_medians, spread_of, table

DUE, IDLE, LIST = "a sweep, 1 % due", "a sweep, nothing due", "only the list"
PLOT = "sweep.svg"
# A tenth for noise.
PER_TENFOLD = Goal(11, is_most=True)

type Samples = Mapping[int, Mapping[str, Sequence[float]]]
"""Seconds, by the number of secrets and by what was done, in the order of the rounds."""

_INTRODUCTION = f"""\
## A sweep

All secrets of a vault are under rotation, and 1 % of them are due: these are really rotated, two users each on
PostgreSQL, four secrets at a time, the credentials of before retired first; the others have been rotated before and
have the tags of that. No topic, so that the sweep does it all by itself; no Airflow. *{IDLE.capitalize()}* comes right
after it. *{LIST.capitalize()}* is the least that can be asked: the same pages, read by Azure's own client, and nothing
done with them. There are no results if one that is due has not got exactly one new version that logs in as the other
user, if any other has got one, or if a value of any other is read.

How many times as long as only the list each takes:
"""
_GROWTH = """
How many times as long the largest takes as the smaller ones:
"""
_WHAT_IS_ASKED = f"""
What each sweep asks of Key Vault. A page has 25 secrets, with their tags and without their values, so that the list
alone says what is due; all else is asked for what is due. *{DUE.capitalize()}*:
"""
_MEMORY = """
What a sweep needs at its peak, beyond what a process has before it (tracemalloc, in a process of its own). One page of
the list is there at a time; what is kept of a secret that has nothing to do is a count, and of one that is due its
name, and what was done about it.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sweep asks of Key Vault: pages of the list, values read, and so on."""

    pages: int
    values: int = 0
    admin: int = 0
    versions: int = 0
    written: int = 0
    tagged: int = 0


def lines(samples: Samples) -> dict[str, list[tuple[float, float]]]:
    """Return what is drawn: times as long as listing the smallest takes, by the number of secrets."""
    least = median(samples[min(samples)][LIST])
    return {
        name: [(size, median(samples[size][name]) / least) for size in sorted(samples)] for name in (DUE, IDLE, LIST)
    }


def limits(samples: Samples) -> dict[str, list[tuple[float, float]]]:
    """Return what a list costs that grows as its secrets do."""
    smallest = min(samples)
    return {"in proportion": [(size, size / smallest) for size in sorted(samples)]}


def section(samples: Samples, asked: Mapping[int, Asked], memory: Mapping[int, int]) -> str:
    """Return the section. `asked`: by size, of a sweep that has work; `memory`: bytes at the peak."""
    sizes = sorted(samples)
    largest = sizes[-1]
    over_the_list = {
        name: [ratio_of_medians(samples[size][name], samples[size][LIST]) for size in sizes] for name in (DUE, IDLE)
    }
    growth = {
        name: [ratio_of_medians(samples[largest][name], samples[size][name]) for size in sizes[:-1]]
        for name in (DUE, IDLE, LIST)
    }
    before, last = sizes[-2:]
    kept = (memory[last] - memory[before]) / (last - before)
    return "\n".join(
        [
            _INTRODUCTION,
            table(("", *(f"{size:,} secrets" for size in sizes)), [(n, *rs) for n, rs in over_the_list.items()]),
            _GROWTH,
            table(
                ("", *(f"{largest:,}, against {size:,}" for size in sizes[:-1])),
                [(name, *ratios) for name, ratios in growth.items()],
            ),
            "The cost is to grow with the list, and no faster:\n",
            f"- {DUE}, ten times as many secrets: {PER_TENFOLD.verdict(growth[DUE][-1])}",
            _WHAT_IS_ASKED,
            table(
                ("secrets", "pages of the list", "values of what is due", "of their admin", "of others",
                 "lists of versions", "versions written", "tags written"),
                [(f"{size:,}", a.pages, a.values, a.admin, 0, a.versions, a.written, a.tagged)
                 for size, a in sorted(asked.items())],
            ),
            f"*{IDLE.capitalize()}* asks for the same pages, and for nothing else.",
            _MEMORY,
            table(("secrets", "MiB"), [(f"{size:,}", f"{memory[size] / 2**20:.1f}") for size in sizes]),
            f"From {before:,} to {last:,} secrets that is {kept:,.0f} bytes more for each.\n",
            f"![How the time grows with the number of secrets](plots/{PLOT})\n",
            "How quiet it was: half the width of the middle half of the samples, as a part of their median: "
            + ", ".join(f"{max(map(spread_of, samples[size].values())):.1%} at {size:,}" for size in sizes)
            + f" ({len(samples[largest][LIST])} rounds).\n",
        ]
    )  # fmt: skip
