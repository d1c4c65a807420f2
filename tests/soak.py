"""Long runs: `make soak` plays each part with fresh seeds until its time is over.

SOAK_MINUTES (30) is shared by the parts. `python -m tests.soak --list` names them; those named on the command line are
run alone. A failure is printed with its steps and with the command that plays it again.
"""

import argparse
import os
import secrets
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

from tests.model.bench import bench_server
from tests.model.machine import play

EXAMPLES_A_ROUND = 5
STEPS_AN_EXAMPLE = 50


def model(deadline: float, first_seed: int | None, *, shrink: bool) -> bool:
    """Play the model; see `tests/model/machine.py`. Return whether all of it held."""
    counts: Counter[str] = Counter()
    seeds: list[int] = []
    started = time.monotonic()
    held = True
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    plan = settings(
        max_examples=EXAMPLES_A_ROUND, stateful_step_count=STEPS_AN_EXAMPLE, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=phases, report_multiple_bugs=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, bench_server() as server:
        while not seeds or (first_seed is None and time.monotonic() < deadline):
            seeds.append(secrets.randbits(32) if first_seed is None else first_seed)

            try:
                play(Path(folder), server, counts, plan, seeds[-1])
            except Exception:  # noqa: BLE001 (whatever it is, it is what was looked for)
                held = False
                print(f"\nFAILED with seed {seeds[-1]}:")
                traceback.print_exc(file=sys.stdout)
                print(f"again: .venv/bin/python -m tests.soak model --seed {seeds[-1]}", flush=True)
    elapsed = time.monotonic() - started
    print(f"model: {'held' if held else 'FAILED'}; {elapsed / 60:.1f} minutes, {counts['steps'] / elapsed:.0f} steps/s")
    print(f"seeds: {' '.join(map(str, seeds))}")
    for name, count in sorted(counts.items()):
        print(f"{count:9}  {name}")
    return held


PARTS: Mapping[str, Callable[..., bool]] = {"model": model}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to run; all by default")
    parser.add_argument("--seed", type=int, help="play this seed once, and nothing else")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest way to a failure; takes minutes")
    parser.add_argument("--list", action="store_true", help="name the parts")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(PARTS))
        return 0
    parts = asked.parts or list(PARTS)
    minutes = float(os.environ.get("SOAK_MINUTES", "30")) / len(parts)
    held = [PARTS[name](time.monotonic() + minutes * 60, asked.seed, shrink=asked.shrink) for name in parts]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
