"""What "cold start" tells, from costs that are known."""

import pytest

from benchmarks.cold_start_told import COMPILING, LATE, NEEDED, Cost, Late, Round, median_of, parts_of_imports, section

# Needed are 2 + 3 * 1 + 0.5 seconds, and 40 + 3 * 10 + 1 of memory.
ROUND = Round(
    bare_loaded=Cost(1.75, 40_000, 30_000),
    bare=Cost(2, 40_000, 30_000),
    imports=dict.fromkeys(NEEDED, Cost(1, 10_000, 8_000)),
    trust=Cost(0.25, 1_500, 1_500),
    loaded=Cost(5.5, 72_000, 56_000),
    ours=Cost(6.6, 78_100, 60_500),
    warm=Cost(0.5, 1_000, 1_000),
)
PRINTED = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |     _io
import time:       200 |        300 |   logging
INFO:rotators:import time:       900 |        900 | rotators
import time:       300 |        300 | azure
import time:        60 |         60 |   azure.core.pipeline
import time:        40 |        100 | azure.core
import time:       150 |        150 | azure.functions.decorators
import time:       130 |        130 | rotators.rotation
import time:        20 |         20 | psycopg_binary.pq
"""


def told(*rounds: Round) -> str:
    late = Late(ROUND.ours, dict.fromkeys((*LATE, COMPILING), Cost(3.3, 7_810, 6_050)))
    return section(rounds, [late], [{"psycopg": 0.5, "tiny": 0.01, "small": 0.02, "msal": 0.47}, {"psycopg": 1.0}])


def test_the_cold_start_is_compared_with_the_sum_of_what_it_needs() -> None:
    """In time and in memory, each with its own verdict."""
    text = told(ROUND, ROUND)
    assert "| the cold start | 1.20 (1.20 to 1.20) | 1.10 (1.10 to 1.10) | 1.10 (1.10 to 1.10) |" in text
    assert "- time: missed by 4% (at most 1.15)" in text
    assert "- resident memory: met (at most 1.15)" in text
    assert "- unique memory: met (at most 1.15)" in text


def test_what_slowed_the_machine_in_a_round_is_no_spread() -> None:
    slow = Round(
        bare_loaded=twice(ROUND.bare_loaded),
        bare=twice(ROUND.bare),
        imports={name: twice(cost) for name, cost in ROUND.imports.items()},
        trust=twice(ROUND.trust),
        loaded=twice(ROUND.loaded),
        ours=twice(ROUND.ours),
        warm=twice(ROUND.warm),
    )
    assert "| the cold start | 1.20 (1.20 to 1.20) |" in told(ROUND, slow, ROUND)


def twice(cost: Cost) -> Cost:
    return cost + cost


def test_the_parts_are_the_whole() -> None:
    parts = ROUND.parts
    together = sum(parts.values(), Cost(0, 0, 0))
    assert together.seconds == pytest.approx(ROUND.ours.seconds)
    assert (together.resident, together.unique) == (ROUND.ours.resident, ROUND.ours.unique)
    assert parts["around it"].seconds == pytest.approx(5.5 - 1.75 - 3)
    assert parts["else the first time"].seconds == pytest.approx(1.1 - 0.25 - 0.5 - 0.25)


def test_a_part_is_told_as_a_part_of_the_cold_start() -> None:
    lines = told(ROUND).splitlines()
    assert "| bare | 30% | 51% | 50% |" in lines
    assert "| import of psycopg | 15% | 13% | 13% |" in lines
    assert "| airflow_client.client | 50% | 10% | 10% |" in lines
    assert f"| {COMPILING} | 50% | 10% | 10% |" in lines


def test_no_time_and_no_size_is_told() -> None:
    """They are those of one machine on one day."""
    text = told(ROUND)
    assert not [figure for figure in ("6.6", "78100", "78,100", "60500", "5.5") if figure in text]


def test_the_small_packages_are_summed_up_and_the_others_ordered() -> None:
    lines = told(ROUND).splitlines()
    place = lines.index("| psycopg | 75% |")
    assert lines[place + 1].startswith("| msal | 2")
    assert lines[place + 2] == "| others | 2% |"


def test_the_output_of_importtime_becomes_parts_by_package() -> None:
    """Each module counts with its own time; azure is many packages; lines of a log are none of it."""
    assert parts_of_imports(PRINTED) == {
        "Python's own library": pytest.approx(0.3),
        "azure": pytest.approx(0.3),
        "azure.core": pytest.approx(0.1),
        "the worker": pytest.approx(0.15),
        "this program": pytest.approx(0.13),
        "psycopg": pytest.approx(0.02),
    }


def test_the_median_of_costs_is_one_of_each_measure() -> None:
    assert median_of([Cost(1, 9, 5), Cost(2, 8, 6), Cost(9, 7, 4)]) == Cost(2, 8, 5)
