"""What "a burst" tells of bursts whose figures are known."""

import re

import pytest

from benchmarks.burst_told import Burst, Bursts, Effort, line, most_at_once, section, windows

EFFORT = Effort(program=6, database=3, stand_ins=1)


def burst(instances: int, seconds: float, connections: int = 0, after: float = 85) -> Burst:
    return Burst(
        instances=instances,
        seconds=seconds,
        lasted=10,
        throttled=7,
        brought_again=9,
        connections=connections or 10 * instances,
        effort=EFFORT,
        memory=(80, 100, after),
    )


def bursts(connections: int = 0) -> Bursts:
    return Bursts(
        fresh={1: [burst(1, 16), burst(1, 12, after=87)], 2: [burst(2, 9, connections), burst(2, 9)]},
        used_up={1: [burst(1, 21)]},
        narrowed={1: [burst(1, 25)], 2: [burst(2, 15)]},
        swept={1: [burst(1, 26)]},
        processors=2,
    )


def test_a_time_is_told_in_windows_with_its_lowest_and_highest() -> None:
    assert windows([burst(1, 16), burst(1, 12), burst(1, 13)]) == "1.30 (1.20 to 1.60)"
    assert windows([burst(1, 16)]) == "1.60"
    assert windows([]) == ""


def test_a_line_has_a_point_for_each_number_of_instances() -> None:
    points = dict(line(bursts().fresh))
    assert points == pytest.approx({1: 1.4, 2: 0.9})


def test_sessions_that_are_open_together_are_counted_from_the_log() -> None:
    """In the order in which the server writes, whatever else it writes; who is refused has no line of its end."""

    def log(*lines: str) -> list[str]:
        return [
            f"2026-11-25 18:00:00.000 UTC [{line.partition(' ')[0]}] LOG:  {line.partition(' ')[2]}" for line in lines
        ]

    begin, end, other = "connection received: host=127.0.0.1", "disconnection: session time: 0:00", "authorized"
    assert most_at_once(log(f"1 {begin}", f"1 {other}", f"2 {begin}", f"1 {end}", f"3 {begin}", f"2 {end}")) == 2
    refused = '[1] rotator@postgres FATAL:  too many connections for role "rotator"'
    assert most_at_once([*log(f"1 {begin}"), refused, *log(f"2 {begin}"), "\tand what goes on in the next line"]) == 1
    assert most_at_once([]) == 0


def test_efforts_are_added_and_subtracted_party_by_party() -> None:
    assert EFFORT + Effort(1, 1, 1) - EFFORT == Effort(1, 1, 1)
    assert EFFORT.total == 10


def test_the_section_tells_each_burst_by_the_window_and_no_time() -> None:
    text = section(bursts(), "burst.svg")
    assert "| 1 instance | 1.40 (1.20 to 1.60) | 7 | 9 | 10 | 50% |" in text
    assert "| 2 instances | 0.90 (0.90 to 0.90) | 7 | 9 | 20 | 50% |" in text
    assert "| 1 instance, limit used up before | 2.10 | 7 | 9 | 10 | 50% |" in text
    assert "| events | 2.50 | 1.50 |" in text
    assert "| a sweep | 2.60 |  |" in text
    assert "(plots/burst.svg)" in text
    assert not re.search(r"\b(?:16|12|21|25|26|15) s\b", text)


def test_the_section_says_whose_work_it_was_and_what_memory_stayed() -> None:
    text = section(bursts(), "burst.svg")
    assert "the instances 60%, PostgreSQL 30%, the other stand-ins 10%" in text
    assert "1.25 times what it was before, 20 MiB more, at its peak; 5 MiB of them stayed, and +2 MiB after 2" in text


@pytest.mark.parametrize(("connections", "verdict"), [(20, "kept"), (21, "not kept")])
def test_the_section_holds_connections_to_two_for_each_thread(connections: int, verdict: str) -> None:
    text = section(bursts(connections), "burst.svg")
    assert f"whatever the number of events: {verdict}. One instance had 10 of the 100" in text
    assert "met (at most 20)" in text
