"""The figures of `make bench`, from samples whose answer is known."""

import re

import pytest

from benchmarks.figures import Goal, Ratio, ratio_of_medians, round_trips_waited_for, spread_of, table
from benchmarks.one_rotation_told import AWS, AWS_WITHOUT, LOOKED_AT, NAIVE, OURS, Asked, section
from benchmarks.slow_network import Traffic

ASKED = Asked({"GET": 4, "PUT": 1}, 0, 0, 2, 0, 9, Traffic(2, 15, 0.01), Traffic(0, 5, 0.01))


def test_a_ratio_says_how_many_times_as_long_theirs_takes() -> None:
    assert ratio_of_medians([6.0, 6.0, 60.0], [2.0, 2.0, 2.0]).value == 3


def test_a_ratio_without_noise_has_no_spread() -> None:
    assert ratio_of_medians([3.0] * 9, [1.0] * 9) == Ratio(3, 3, 3)


def test_what_slows_a_round_slows_both_and_widens_nothing() -> None:
    """That is what rounds are for: on a machine that is busy for a while the ratio stays what it is."""
    ours = [1.0, 1.1, 5.0, 1.2, 7.0, 1.3, 1.4]
    paired = ratio_of_medians([3 * seconds for seconds in ours], ours)
    assert paired.low == pytest.approx(3) == paired.high
    shuffled = ratio_of_medians([3 * seconds for seconds in (ours[3:] + ours[:3])], ours)
    assert shuffled.high - shuffled.low > 1


def test_the_spread_holds_the_ratio_and_is_the_same_each_time() -> None:
    theirs, ours = [float(n % 7 + 10) for n in range(40)], [float(n % 5 + 4) for n in range(40)]
    ratio = ratio_of_medians(theirs, ours)
    assert ratio.low < ratio.value < ratio.high
    assert ratio_of_medians(theirs, ours) == ratio


@pytest.mark.parametrize(("theirs", "ours"), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_that_do_not_pair_are_no_comparison(theirs: list[float], ours: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no rounds|shorter|longer"):
        ratio_of_medians(theirs, ours)


def test_round_trips_are_what_a_delay_adds() -> None:
    """Seven that follow one another, whatever else takes time."""
    seconds = {delay: [0.1 + 7 * delay] * 3 for delay in (0.0, 0.005, 0.02)}
    assert round_trips_waited_for(seconds) == pytest.approx(7)
    with pytest.raises(ValueError, match="one delay alone"):
        round_trips_waited_for({0.0: [1.0]})


def test_the_spread_of_samples_leaves_outliers_out() -> None:
    assert spread_of([10.0] * 6 + [1.0, 99.0]) == 0
    assert spread_of([9.0, 9.0, 10.0, 11.0, 11.0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("goal", "ratio", "verdict"),
    [
        (Goal(3), Ratio(3.4, 3.1, 3.6), "met (at least 3)"),
        (Goal(3), Ratio(3.1, 2.9, 3.3), "met by its middle only (at least 3)"),
        (Goal(3), Ratio(2.4, 2.3, 3.2), "missed by 20% (at least 3)"),
        (Goal(1.2, is_most=True), Ratio(1.1, 1.0, 1.2), "met (at most 1.2)"),
        (Goal(1.2, is_most=True), Ratio(1.1, 1.0, 1.3), "met by its middle only (at most 1.2)"),
        (Goal(1.2, is_most=True), Ratio(1.5, 1.1, 1.6), "missed by 25% (at most 1.2)"),
    ],
)
def test_a_goal_is_met_by_the_whole_spread(goal: Goal, ratio: Ratio, verdict: str) -> None:
    assert goal.verdict(ratio) == verdict


def test_a_table_keeps_its_columns_whatever_is_in_them() -> None:
    lines = table(("", "a|b"), [("x", 1.5), ("y", "|")]).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert lines[1] == "| --- | ---: |"


def test_the_section_compares_with_ours_and_judges_where_the_goals_are() -> None:
    """Each of the others by its own samples, and no time of anybody."""
    seconds = {OURS: 0.2, AWS: 0.7, AWS_WITHOUT: 0.5, NAIVE: 0.1}
    samples = {delay: {name: [of + delay] * 4 for name, of in seconds.items()} for delay in (0.0, LOOKED_AT, 0.02)}
    samples[LOOKED_AT] = {name: [of] * 4 for name, of in seconds.items()}
    text = section(samples, dict.fromkeys(seconds, ASKED), {"read": 0.25})
    assert f"| {AWS} | 3.50 (3.50 to 3.50) | 3.50 (3.50 to 3.50) | 3.27 (3.27 to 3.27) |" in text
    assert f"- {AWS}: met (at least 3)" in text
    assert f"- {NAIVE}: missed by 50% (at least 1)" in text
    assert f"| {OURS} | 5 | 0 | 0 | 2 | 9 | 5 | 17 | 1.0 | 10% |" in text
    assert "| read | 25% |" in text
    assert "200" not in text
