"""What "cold start" found, as a section of the results: pure."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Goal, ratio_of_medians, spread_of, table

GOAL = Goal(1.15, is_most=True)
NEEDED = ("azure.identity", "azure.keyvault.secrets", "psycopg")
"""What a rotation cannot do without, in the order in which it is imported."""
LATE = ("azure.eventgrid", "airflow_client.client")
"""What is to cost nothing until it is used."""
COMPILING = "compiling the program's own modules"

_INTRODUCTION = """\
## Cold start

From the start of a worker process, on Microsoft's own library, until it has done its first rotation, by an event for a
secret that is due: two users that take turns, both there, Airflow and a topic aside. Against the sum of what that
cannot do without:

- the same process with an app whose one function does nothing, until it has done that (*bare*);
- the imports of azure-identity, azure-keyvault-secrets and psycopg, made there afterwards;
- a warm rotation: the program's next ones, in the same process.

Each process is a fresh one, with its files in the page cache and compiled, and both kinds take turns. Each event has to
make one version, and the first rotation may not have loaded airflow-client or azure-eventgrid, or there are no results.

How many times as much as that sum the cold start takes. *Resident*: all memory that the process has; *unique*: what no
other process has as well.
"""
_SHARES = """\
Where it goes, as parts of the whole. *Around it*: the program's own modules and what else they import, thirteen
functions in the place of one, the clients; less what is saved by not looking for garbage meanwhile, which the bare
imports do. *The trusted authorities*: a file of them, which the first TLS connection reads. *Else the first time*: TLS,
the token, and what libraries put off until they are used.
"""
_LATE = """\
What would come on top, as parts of the same: these imports, were they made at the start; and compiling, where the
package holds no bytecode and nothing can be written beside it.
"""
_IMPORTS = """\
What is imported until the first rotation is done, by `python -X importtime`, each package without what it imports:
"""
_FAIRNESS = """\
Not measured: the real worker's channel to the host, which a bare app has too and which would bring the ratios nearer to
1; unpacking the package; a network. Key Vault and PostgreSQL run beside it, and Key Vault's authority stands among all
those that are trusted on Azure.
"""

_NAMES: Mapping[str, Sequence[str]] = {
    "this program": ("function_app", "rotators"),
    "the worker": ("azure_functions_runtime", "azure.functions", "sandbox", "benchmarks"),
    "psycopg": ("psycopg", "psycopg_binary"),
    "Python's own library": tuple(sys.stdlib_module_names),
}
_NAME_OF = {package: name for name, packages in _NAMES.items() for package in packages}
_LEAST_SHOWN = 0.03
_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, and memory in kibibytes: resident, and what of it no other process has."""

    seconds: float
    resident: float
    unique: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.resident + other.resident, self.unique + other.unique)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.resident - other.resident, self.unique - other.unique)


_MEASURES: Mapping[str, Callable[[Cost], float]] = {
    "time": lambda cost: cost.seconds,
    "resident memory": lambda cost: cost.resident,
    "unique memory": lambda cost: cost.unique,
}


@dataclass(frozen=True, slots=True)
class Round:
    """One process of each kind, and what each of its parts has cost.

    Attributes:
        bare_loaded: the bare app's, from the start until its function is there.
        bare: from the start until that has run.
        imports: what each of `NEEDED` has added then.
        trust: what reading the trusted authorities has added then.
        loaded: the program's, from the start until its functions are there.
        ours: from the start until the first rotation is done.
        warm: what a later rotation has added.
    """

    bare_loaded: Cost
    bare: Cost
    imports: Mapping[str, Cost]
    trust: Cost
    loaded: Cost
    ours: Cost
    warm: Cost

    @property
    def needed(self) -> Cost:
        """What a cold start cannot do without."""
        return sum(self.imports.values(), self.bare + self.warm)

    @property
    def parts(self) -> Mapping[str, Cost]:
        """What `ours` is the sum of."""
        imports = sum(self.imports.values(), Cost(0, 0, 0))
        return {
            "bare": self.bare,
            **{f"import of {name}": cost for name, cost in self.imports.items()},
            "around it": self.loaded - self.bare_loaded - imports,
            "a warm rotation": self.warm,
            "the trusted authorities": self.trust,
            "else the first time": (self.ours - self.loaded) - (self.bare - self.bare_loaded) - self.warm - self.trust,
        }


@dataclass(frozen=True, slots=True)
class Late:
    """A cold start, and what each of `LATE` adds where it is imported after all, and `COMPILING`."""

    ours: Cost
    added: Mapping[str, Cost]


def section(rounds: Sequence[Round], late: Sequence[Late], imported: Sequence[Mapping[str, float]]) -> str:
    """Return the section. `imported`: the `parts_of_imports` of some processes."""
    ratios = {
        name: ratio_of_medians([of(r.ours) for r in rounds], [of(r.needed) for r in rounds])
        for name, of in _MEASURES.items()
    }
    head = ("", *_MEASURES)
    parts = [(part, *_shares((r.parts[part], r.ours) for r in rounds)) for part in rounds[0].parts]
    on_top = [(name, *_shares((process.added[name], process.ours) for process in late)) for name in late[0].added]
    return "\n".join(
        [
            _INTRODUCTION,
            table(head, [("the cold start", *ratios.values())]),
            "Goals:\n",
            *(f"- {name}: {GOAL.verdict(ratio)}" for name, ratio in ratios.items()),
            "",
            _SHARES,
            table(head, parts),
            _LATE,
            table(head, on_top),
            _IMPORTS,
            table(("", "of the imports"), [(name, f"{part:.0%}") for name, part in _told(imported).items()]),
            _FAIRNESS,
            _how_quiet(rounds),
        ]
    )


def _how_quiet(rounds: Sequence[Round]) -> str:
    ours, bare = spread_of([r.ours.seconds for r in rounds]), spread_of([r.bare.seconds for r in rounds])
    return (
        "How quiet it was: half the width of the middle half of the samples, as a part of their median: "
        f"{ours:.1%} for the cold start, {bare:.1%} for the bare app ({len(rounds)} rounds).\n"
    )


def _shares(costs: Iterable[tuple[Cost, Cost]]) -> list[str]:
    """Return the median of what the one is of the other, in one process: one for each measure."""
    pairs = list(costs)
    return [f"{median(of(part) / of(whole) for part, whole in pairs):.0%}" for of in _MEASURES.values()]


def median_of(costs: Sequence[Cost]) -> Cost:
    """Return the median of each measure."""
    return Cost(
        median(cost.seconds for cost in costs),
        median(cost.resident for cost in costs),
        median(cost.unique for cost in costs),
    )


def parts_of_imports(printed: str) -> dict[str, float]:
    """Return each package's part of the time that `python -X importtime` says, without what it imports in turn."""
    microseconds = Counter[str]()
    for own, module in _IMPORT.findall(printed):
        microseconds[_package_of(module)] += int(own)
    return {package: own / microseconds.total() for package, own in microseconds.items()}


def _package_of(module: str) -> str:
    # What is called azure is many packages.
    first, *rest = module.split(".")
    package = ".".join([first, *rest[:1]]) if first == "azure" else first
    return _NAME_OF.get(package, package)


def _told(imported: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the medians, the greatest first; what is small is summed up."""
    parts = {name: median(of.get(name, 0) for of in imported) for name in {name for of in imported for name in of}}
    shown = {name: part for name, part in parts.items() if part >= _LEAST_SHOWN}
    others = sum(parts.values()) - sum(shown.values())
    return {**dict(sorted(shown.items(), key=lambda item: -item[1])), "others": others}
