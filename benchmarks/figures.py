"""From samples to figures: pure. A ratio of two things that ran side by side says more than any time of one."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Enough for two digits of the ends.
_RESAMPLES = 2_000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long as ours theirs takes, and between which values that lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio is to reach, or with `is_most` not to go beyond."""

    value: float
    is_most: bool = False

    def verdict(self, ratio: Ratio) -> str:
        """Say whether it is met; "by its middle only" where the spread reaches to the other side."""
        goal = f"({'at most' if self.is_most else 'at least'} {self.value:g})"
        sign = -1 if self.is_most else 1
        if sign * min(ratio.low, ratio.high, key=lambda end: sign * end) >= sign * self.value:
            return f"met {goal}"
        if sign * ratio.value >= sign * self.value:
            return f"met by its middle only {goal}"
        return f"missed by {abs(self.value - ratio.value) / self.value:.0%} {goal}"


def ratio_of_medians(theirs: Sequence[float], ours: Sequence[float], *, seed: int = 0) -> Ratio:
    """Return the ratio of the medians with its spread, by a paired bootstrap: rounds are drawn, not samples.

    What slowed the machine in a round slowed both, so that they stay together. The same samples give the same spread.
    Raise ValueError if there are no rounds, or not as many of one as of the other.
    """
    rounds = list(zip(theirs, ours, strict=True))
    if not rounds:
        raise ValueError("no rounds to compare")
    draw = random.Random(seed)  # noqa: S311 (statistics)
    drawn = sorted(_ratio(draw.choices(rounds, k=len(rounds))) for _ in range(_RESAMPLES))
    outside = int(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Ratio(_ratio(rounds), drawn[outside], drawn[-1 - outside])


def _ratio(rounds: Sequence[tuple[float, float]]) -> float:
    theirs, ours = zip(*rounds, strict=True)
    return float(median(theirs) / median(ours))


def round_trips_waited_for(seconds_by_delay: Mapping[float, Sequence[float]]) -> float:
    """Return how many round trips follow one another: what one second more for each adds to the median, in seconds.

    Those that overlap count once. Between the smallest and the largest delay; raise ValueError if there is only one.
    """
    near, far = min(seconds_by_delay), max(seconds_by_delay)
    if near == far:
        raise ValueError("one delay alone does not show what a delay costs")
    return (median(seconds_by_delay[far]) - median(seconds_by_delay[near])) / (far - near)


def spread_of(samples: Sequence[float]) -> float:
    """Return half the middle half's width, as a part of the median: how quiet the machine was."""
    ordered = sorted(samples)
    quarter = math.floor(len(ordered) / 4)
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"
