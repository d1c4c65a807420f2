"""How strong the tests of the pure modules are: break the program in small ways and see whether a test notices each.

`make mutants`. mutmut makes the mutants inside functions (`[tool.mutmut]` in pyproject.toml names the modules and the
tests). It changes nothing at the top of a module and no property, so tests/mutants.toml has breaks by hand for those.
That file also says, for each mutant that no test can notice, why the program is as good with it.
"""

import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

MUTMUT = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutmut"]
TABLE = tomllib.loads(Path("tests/mutants.toml").read_text())
# The goal of the tests' strength: fewer than this share survive, in all and in each module, and none without a reason.
TOLERATED = 0.05


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a mutant is no fault: in the function `where`, `was` may become each of `becomes`."""

    where: str
    was: str
    becomes: tuple[str, ...]
    why: str

    def changes(self, line: str) -> list[str]:
        return [line.replace(self.was, new, 1) for new in self.becomes] if self.was in line else []


@dataclass(frozen=True, slots=True)
class Survivor:
    where: str
    verdict: str
    before: str
    after: str

    def is_explained_by(self, explanation: Explanation) -> bool:
        return self.where == explanation.where and self.after in explanation.changes(self.before)


@dataclass(frozen=True, slots=True)
class Module:
    """What became of the mutants of one module."""

    name: str
    mutants: int
    survivors: tuple[Survivor, ...]


def run_mutmut() -> None:
    """Make all mutants anew and try them; raise CalledProcessError if the tests fail without any."""
    shutil.rmtree("mutants", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "mutmut", "run"], check=True, stdout=sys.stderr)


def read_module(path: Path) -> Module:
    tried = SourceFileMutationData(path=path)
    tried.load()
    verdicts = {name: status_by_exit_code[code] for name, code in tried.exit_code_by_key.items()}
    survivors = tuple(
        read_survivor(path, name, verdict)
        for name, verdict in verdicts.items()
        # An endless loop is noticed too.
        if verdict not in ("killed", "timeout")
    )
    return Module(path.stem, len(verdicts), survivors)


def read_survivor(path: Path, name: str, verdict: str) -> Survivor:
    function, class_name = orig_function_and_class_names_from_key(name)
    where = ".".join(part for part in (path.stem, class_name, function) if part)
    lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in ("-", "+"))
    return Survivor(where, verdict, before, after)


def try_by_hand(breaks: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return those of `breaks` that no test notices; mutmut has seen before that the tests pass without."""
    with TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ("rotators", "tests"):
            shutil.copytree(name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("pyproject.toml", here)
        unnoticed = []
        for attempt in breaks:
            path = here / "rotators" / f"{attempt['module']}.py"
            sound = path.read_text()
            if sound.count(attempt["was"]) != 1:
                raise SystemExit(f"tests/mutants.toml: {attempt['was']!r} is not once in {path.name}: correct it")
            path.write_text(sound.replace(attempt["was"], attempt["becomes"]))
            if tests_pass(here, attempt["module"]):
                unnoticed.append(attempt)
            path.write_text(sound)
    return unnoticed


def tests_pass(folder: Path, module: str) -> bool:
    """Whether the module's own tests pass; raise SystemExit if they can't be run, which notices nothing."""
    command = [sys.executable, "-B", "-m", "pytest", "-xq", *MUTMUT["pytest_add_cli_args"]]
    command += [f"tests/unit/test_{module}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests can't be run:\n{done.stdout[-2000:]}")
    return done.returncode == 0


def report(modules: list[Module], explanations: list[Explanation]) -> bool:
    """Print a row for each module and what is unexplained; return whether the tests are strong enough."""
    used: Counter[Explanation] = Counter()
    unexplained = []
    is_strong = True
    print(f"{'module':20}{'mutants':>9}{'killed':>9}{'survived':>10}{'share':>8}{'explained':>11}{'unexplained':>13}")
    for module in [*modules, Module("all", sum(m.mutants for m in modules), sum((m.survivors for m in modules), ()))]:
        left = []
        for survivor in module.survivors:
            reason = next((each for each in explanations if survivor.is_explained_by(each)), None)
            if reason is None:
                left.append(survivor)
            else:
                used[reason] += 1
        total, survived = module.mutants, len(module.survivors)
        print(
            f"{module.name:20}{total:9}{total - survived:9}{survived:10}{survived / total:8.1%}"
            f"{survived - len(left):11}{len(left):13}"
        )
        is_strong &= not left and survived < TOLERATED * total
        unexplained = left
    for survivor in unexplained:
        print(f"\n{survivor.where}: {survivor.verdict}\n- {survivor.before}\n+ {survivor.after}")
    for each in explanations:
        if each not in used:
            print(f"\ntests/mutants.toml explains what did not survive: {each.where}: {each.was}; take it out")
            is_strong = False
    return is_strong


def main() -> int:
    explanations = [Explanation(**each | {"becomes": tuple(each["becomes"])}) for each in TABLE["explained"]]
    breaks: list[dict[str, Any]] = TABLE["by_hand"]
    run_mutmut()
    is_strong = report([read_module(Path(path)) for path in MUTMUT["only_mutate"]], explanations)
    unnoticed = try_by_hand(breaks)
    print(f"\nbreaks by hand: {len(breaks)}, noticed: {len(breaks) - len(unnoticed)}")
    for each in unnoticed:
        print(f"\n{each['module']}: survived\n- {each['was']}\n+ {each['becomes']}")
    return 0 if is_strong and not unnoticed else 1


if __name__ == "__main__":
    sys.exit(main())
