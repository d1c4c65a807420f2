"""What "one rotation" found, as a section of the results: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Goal, ratio_of_medians, round_trips_waited_for, spread_of, table
from benchmarks.slow_network import Traffic

OURS, NAIVE = "this program", "the naive sequence"
AWS, AWS_WITHOUT = "AWS's function", "AWS's, its failing login left out"
LOOKED_AT = 0.005
"""Seconds that a round trip takes longer where the goals are, and the profile."""
GOALS = {AWS: Goal(3.0), NAIVE: Goal(1.0)}

type Samples = Mapping[float, Mapping[str, Sequence[float]]]
"""Seconds, by delay and contestant, in the order of the rounds."""

_INTRODUCTION = """\
## One rotation

Two users that take turns, on PostgreSQL, a later rotation, Airflow aside; the contestants take turns too, each round in
another order. What each publishes has to log in, or there are no results; nor are there if what stands for AWS's
function asks for anything else than that does: 14 calls (5 DescribeSecret, 6 GetSecretValue, 1 GetRandomPassword,
1 PutSecretValue, 1 UpdateSecretVersionStage) by a client for each of its four steps, 4 logins of which one fails, and
12 statements.

How many times as long as this program each takes, by what is added to each round trip:
"""
_WHAT_IS_ASKED = f"""
What each asks for in one rotation. *Waited for*: what a slower network adds, in round trips; those that overlap count
once. *In servers*: the part of its time in which they work, at +{LOOKED_AT * 1000:g} ms.
"""
_FAIRNESS = """\
Not the same for all: Key Vault is spoken to by TLS and Secrets Manager is not, nobody logs in to PostgreSQL by TLS, and
what Lambda needs for four invocations is not counted: all of it is in favour of AWS's function. PyGreSQL, on which that
runs, is played by psycopg2, with the same statements. The naive sequence runs its two in one transaction, as psycopg
does. The stores are stand-ins whose own time is some other than that of the real ones; it is in the table.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one rotation asks of others.

    Attributes:
        calls: to the secret store, by operation.
        clients: connections opened to the store.
        tokens: asked of the managed identity.
        logins: to PostgreSQL, those that fail included.
        failed_logins: those alone.
        statements: round trips of SQL.
        database: what passed between it and PostgreSQL.
        store: what passed between it and the store.
    """

    calls: Mapping[str, int]
    clients: int
    tokens: int
    logins: int
    failed_logins: int
    statements: int
    database: Traffic
    store: Traffic


def section(samples: Samples, asked: Mapping[str, Asked], shares: Mapping[str, float]) -> str:
    """Return the section. `shares`: the part of our time that each step takes at `LOOKED_AT`."""
    others = [name for name in asked if name != OURS]
    ratios = {
        delay: {name: ratio_of_medians(seconds[name], seconds[OURS]) for name in others}
        for delay, seconds in samples.items()
    }
    added = [f"+{delay * 1000:g} ms" for delay in samples]
    looked_at = f"+{LOOKED_AT * 1000:g} ms"
    return "\n".join(
        [
            _INTRODUCTION,
            table(("", *added), [(name, *(ratios[delay][name] for delay in samples)) for name in others]),
            f"Goals at {looked_at}:\n",
            *(f"- {name}: {goal.verdict(ratios[LOOKED_AT][name])}" for name, goal in GOALS.items()),
            _WHAT_IS_ASKED,
            table(
                ("", "calls to the store", "new clients", "tokens", "logins", "statements", "round trips to the store",
                 "to PostgreSQL", "waited for", "in servers"),
                [_row(name, asked[name], samples) for name in asked],
            ),
            f"Where this program's time goes, at {looked_at}:\n",
            table(("step", "of its time"), [(name, f"{share:.0%}") for name, share in shares.items()]),
            _FAIRNESS,
            "How quiet it was: half the width of the middle half of the samples, as a part of their median: "
            + ", ".join(
                f"{max(map(spread_of, seconds.values())):.1%} at {label} ({len(seconds[OURS])} rounds)"
                for label, seconds in zip(added, samples.values(), strict=True)
            )
            + ".\n",
        ]
    )  # fmt: skip


def _row(name: str, asked: Asked, samples: Samples) -> tuple[object, ...]:
    waited_for = round_trips_waited_for({delay: seconds[name] for delay, seconds in samples.items()})
    in_servers = (asked.database.server_seconds + asked.store.server_seconds) / median(samples[LOOKED_AT][name])
    return (
        name,
        sum(asked.calls.values()),
        asked.clients,
        asked.tokens,
        f"{asked.logins}, {asked.failed_logins} fails" if asked.failed_logins else asked.logins,
        asked.statements,
        asked.store.round_trips,
        asked.database.round_trips,
        f"{waited_for:.1f}",
        f"{in_servers:.0%}",
    )
