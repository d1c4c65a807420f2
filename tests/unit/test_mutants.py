"""The table of `make mutants` speaks of the program as it is: that run is long, a stale row is seen here at once."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = tomllib.loads((ROOT / "tests/mutants.toml").read_text())


def source(module: str) -> str:
    return (ROOT / "rotators" / f"{module}.py").read_text()


@pytest.mark.parametrize("row", TABLE["by_hand"], ids=lambda row: row["module"])
def test_a_break_by_hand_has_one_place_in_the_program(row: dict[str, str]) -> None:
    """Else nobody knows what was broken, or nothing was."""
    assert source(row["module"]).count(row["was"]) == 1
    assert row["becomes"] != row["was"]


@pytest.mark.parametrize("row", TABLE["explained"], ids=lambda row: row["where"])
def test_an_explained_mutant_is_one_of_a_function_that_there_is(row: dict[str, str]) -> None:
    """A reason that outlives its code could excuse another mutant."""
    module, *_, function = row["where"].split(".")
    _, found, rest = source(module).partition(f"def {function}(")
    assert found
    assert row["was"] in rest
    assert row["why"]
