"""`make bench`: runs the benchmarks and writes results.md; `python -m benchmarks --help` says how else."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import burst, cold_start, one_rotation, refresh, sweep
from benchmarks.machine import Facts, facts
from benchmarks.section import Section

RESULTS = Path(__file__).parent / "results.md"
PLOTS = Path(__file__).parent / "plots"
# The argument is the part of its rounds that is run.
BENCHMARKS: Mapping[str, Callable[[float], Section]] = {
    "one-rotation": one_rotation.run,
    "cold-start": cold_start.run,
    "burst": burst.run,
    "sweep": sweep.run,
    "refresh": refresh.run,
}
_INTRODUCTION = """\
# What a rotation costs

Made by `make bench`, which runs everything side by side and compares by ratios: times are noise on shared machines, so
none is given. A ratio is of medians; in brackets is where it lies with 95 % confidence (paired bootstrap over rounds).
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="what to run; all by default")
    parser.add_argument("--rounds", type=float, default=1.0, help="this part of the rounds, to try something: 0.1")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go; - prints them")
    asked = parser.parse_args()
    # Nobody's log is part of what is measured.
    logging.basicConfig(level=logging.ERROR)
    before = facts()
    _warn_of_noise(before)
    sections = [BENCHMARKS[name](asked.rounds) for name in asked.names or BENCHMARKS]
    text = "\n".join([_INTRODUCTION, *(section.text for section in sections), before.section()])
    if str(asked.output) == "-":
        print(text)
        return 0
    asked.output.write_text(text)
    for section in sections:
        for name, drawn in section.plots.items():
            PLOTS.mkdir(exist_ok=True)
            (PLOTS / name).write_text(drawn)
    print(f"written: {os.path.relpath(asked.output)}")
    return 0


def _warn_of_noise(now: Facts) -> None:
    if now.is_busy:
        print(f"The machine is busy ({now.busy}): the ratios will be those of a busy machine.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
