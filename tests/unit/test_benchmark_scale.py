"""What `make bench` tells of sweeps and refreshes, from samples whose answer is known."""

import re

from benchmarks import refresh_told, sweep_told
from benchmarks.refresh_told import AGAIN, LEAST, REFRESH, Seen
from benchmarks.sweep_told import DUE, IDLE, LIST
from rotators.settings import read_settings

SWEPT = {
    size: {DUE: [size * 4e-3] * 3, IDLE: [size * 1.4e-3] * 3, LIST: [size * 1e-3] * 3} for size in (100, 1_000, 10_000)
}
ASKED = {
    100: sweep_told.Asked(5, 6, 2, 1, 1, 2),
    1_000: sweep_told.Asked(41, 60, 20, 10, 10, 20),
    10_000: sweep_told.Asked(401, 600, 200, 100, 100, 200),
}
MEMORY = {100: 2**20, 1_000: 2**20, 10_000: 2**20 + 9_000 * 48}

HEALED = {
    size: {REFRESH: [size * 3e-3] * 3, AGAIN: [size * 5e-4] * 3, LEAST: [size * 1e-3] * 3} for size in (10, 1_000)
}
CALLS = {
    size: {
        REFRESH: refresh_told.Asked(pages, logs, 3 * ours, 5),
        AGAIN: refresh_told.Asked(pages, 0, 0, 1),
        LEAST: refresh_told.Asked(pages, ours, ours, 0),
    }
    for size, pages, logs, ours in ((10, 1, 2, 1), (1_000, 10, 110, 10))
}
SEEN = {10: Seen(2, 2**19), 1_000: Seen(110, 2**20)}


def swept() -> str:
    return sweep_told.section(SWEPT, ASKED, MEMORY)


def healed() -> str:
    return refresh_told.section(HEALED, CALLS, SEEN)


def test_a_sweep_is_compared_with_the_list_alone() -> None:
    """Each size with the list of as many secrets."""
    assert f"| {DUE} | " + " | ".join(["4.00 (4.00 to 4.00)"] * 3) + " |" in swept()
    assert f"| {IDLE} | " + " | ".join(["1.40 (1.40 to 1.40)"] * 3) + " |" in swept()


def test_a_sweep_is_compared_with_itself_over_fewer_secrets() -> None:
    for name in (DUE, IDLE, LIST):
        assert f"| {name} | 100.00 (100.00 to 100.00) | 10.00 (10.00 to 10.00) |" in swept()


def test_what_a_sweep_asks_for_is_told_by_kind() -> None:
    assert "| 10,000 | 401 | 600 | 200 | 0 | 100 | 100 | 200 |" in swept()


def test_the_goals_of_a_sweep_are_judged() -> None:
    """Against itself over a tenth of the secrets."""
    assert "met (at most 11)" in swept()
    slow = {**SWEPT, 10_000: {DUE: [120.0] * 3, IDLE: [20.0] * 3, LIST: [10.0] * 3}}
    assert "missed by 173% (at most 11)" in sweep_told.section(slow, ASKED, MEMORY)


def test_what_a_sweep_keeps_of_each_secret_is_told_in_bytes() -> None:
    """From the two largest: what every sweep needs is in both."""
    assert "that is 48 bytes more for each" in swept()


def test_a_refresh_is_compared_with_the_least() -> None:
    assert f"| {REFRESH}, against {LEAST} | 3.00 (3.00 to 3.00) | 3.00 (3.00 to 3.00) |" in healed()
    assert f"| {AGAIN}, against {LEAST} | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) |" in healed()
    for name in (REFRESH, AGAIN, LEAST):
        assert f"| {name} of 1,000, against one of so many | 100.00 (100.00 to 100.00) | 1 |" in healed()


def test_the_most_may_have_fewer_rounds() -> None:
    """It is compared with the others' of the same rounds; these count in full for what they are themselves."""
    few = {name: seconds[:1] for name, seconds in HEALED[1_000].items()}
    more = {name: [seconds[0], 9 * seconds[0], 9 * seconds[0]] for name, seconds in HEALED[10].items()}
    told = refresh_told.section({10: more, 1_000: few}, CALLS, SEEN)
    assert f"| {REFRESH} of 1,000, against one of so many | 100.00 (100.00 to 100.00) | 1 |" in told
    assert "at 10 (3 rounds), 0.0% at 1,000 (1 rounds)" in told


def test_what_airflow_is_asked_for_is_told_beside_what_is_not_read() -> None:
    assert f"| 1,000 | {REFRESH} | 10 | 110 | 890 | 30 | 5 |" in healed()
    assert f"| 1,000 | {AGAIN} | 10 | 0 | 1,000 | 0 | 1 |" in healed()
    assert f"| 1,000 | {LEAST} | 10 | 10 | 990 | 10 | 0 |" in healed()


def test_the_memory_of_a_refresh_is_told_by_the_number_of_failed_tasks() -> None:
    assert "| 10 | 0.5 |\n| 1,000 | 1.0 |" in healed()


def test_what_is_left_unexamined_is_told() -> None:
    """By the limit that is in force where nobody sets another."""
    required = {
        "KEY_VAULT_URL": "https://a.vault.azure.net",
        "AIRFLOW_URL": "https://airflow.example",
        "AIRFLOW_USERNAME": "a",
        "AIRFLOW_PASSWORD": "b",
    }
    access = read_settings(required).airflow
    assert access is not None
    assert f"AIRFLOW_MAX_EXAMINED, {access.max_examined:,} logs by default" in healed()
    assert access.max_examined == refresh_told.MAX_EXAMINED


def test_what_is_drawn_are_multiples_of_the_least() -> None:
    """So that a plot shows no times either."""
    assert sweep_told.lines(SWEPT)[DUE] == [(100, 4), (1_000, 40), (10_000, 400)]
    assert sweep_told.limits(SWEPT) == {"in proportion": [(100, 1), (1_000, 10), (10_000, 100)]}
    assert [round(y, 6) for _, y in refresh_told.lines(HEALED)[REFRESH]] == [3, 300]
    assert refresh_told.limits(HEALED) == {"in proportion": [(10, 1), (1_000, 100)]}


def test_no_time_is_told() -> None:
    """Ratios and counts only."""
    for text in (swept(), healed()):
        assert not re.search(r"\d (s|ms|seconds)\b", text)
