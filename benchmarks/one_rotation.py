"""One rotation: the contestants take turns, and each is held to what it is measured for."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from benchmarks.contestants import Contestant, Ring, ring
from benchmarks.one_rotation_told import AWS, AWS_WITHOUT, LOOKED_AT, OURS, Asked, section
from benchmarks.section import BenchmarkError, Section
from benchmarks.slow_network import Traffic
from rotators.outcome import Outcome
from sandbox.http_service import Response
from sandbox.postgresql_proxy import PostgreSQLProxy
from tests.world import logs_in, user_of

ROUNDS: Mapping[float, int] = {0.0: 80, LOOKED_AT: 80, 0.02: 24}
"""How often each contestant rotates, by the seconds that a round trip takes longer."""
# The first makes our second user, and the next ones find every client open.
_WARM_UP = 3
_FAILED_LOGIN = 'FATAL:  password authentication failed for user "'
# What AWS's own function asks for in the steady state.
_CALLS_OF_AWS = {
    "DescribeSecret": 5,
    "GetSecretValue": 6,
    "GetRandomPassword": 1,
    "PutSecretValue": 1,
    "UpdateSecretVersionStage": 1,
}
_CLIENTS_OF_AWS, _LOGINS_OF_AWS, _STATEMENTS_OF_AWS = 4, 4, 12


def run(part: float = 1.0) -> Section:
    """Measure in this part of the rounds; return a section of the results.

    Raise BenchmarkError if a contestant does not do what it is measured for.
    """
    with ring() as where:
        for _ in range(_WARM_UP):
            for contestant in where.contestants:
                _rotate(where, contestant)
        asked = {contestant.name: _count(where, contestant) for contestant in where.contestants}
        _check_aws(asked[AWS], failing_logins=1)
        _check_aws(asked[AWS_WITHOUT], failing_logins=0)
        samples: dict[float, dict[str, list[float]]] = {}
        shares: Mapping[str, float] = {}
        for delay, rounds in ROUNDS.items():
            where.delay(delay)
            where.ours.outcomes.clear()
            samples[delay] = _take_turns(where, math.ceil(rounds * part))
            if delay == LOOKED_AT:
                shares = _shares_of_steps(where.ours.outcomes, samples[delay][OURS])
    return Section(section(samples, asked, shares))


def _take_turns(where: Ring, rounds: int) -> dict[str, list[float]]:
    """Return each contestant's seconds, in the order of the rounds."""
    samples: dict[str, list[float]] = {contestant.name: [] for contestant in where.contestants}
    for number in range(rounds):
        first = number % len(where.contestants)
        for contestant in where.contestants[first:] + where.contestants[:first]:
            samples[contestant.name].append(_rotate(where, contestant))
    return samples


def _rotate(where: Ring, contestant: Contestant) -> float:
    """Rotate, and return the seconds that it took. Raise BenchmarkError if no other credential logs in now."""
    contestant.prepare()
    before = contestant.current()
    started = perf_counter()
    contestant.rotate()
    seconds = perf_counter() - started
    after = contestant.current()
    # Past the link: nobody has to wait for this, and it is not counted.
    past_the_link = after.replace(f":{where.database.port}/", f":{where.here.server.port}/")
    if user_of(after) == user_of(before) or not logs_in(past_the_link):
        raise BenchmarkError(f"{contestant.name} has not published another credential that logs in")
    return seconds


def _shares_of_steps(outcomes: Sequence[Outcome], seconds: Sequence[float]) -> dict[str, float]:
    """Return the part of our time that each step takes, by the medians, and what lies between the steps."""
    whole = median(seconds)
    shares = {
        name: median(sum(s.milliseconds for s in outcome.steps if s.name == name) for outcome in outcomes)
        / 1000
        / whole
        for name in dict.fromkeys(step.name for outcome in outcomes for step in outcome.steps)
    }
    return {**shares, "between them, and after the last": 1 - sum(shares.values())}


# -- Counting -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counting:
    """Lets each call to PostgreSQL pass, and counts it."""

    calls: Counter[str] = field(default_factory=Counter)

    def __call__(self, what: str) -> "_Counting":
        self.calls["login" if what.startswith("log in as ") else "statement"] += 1
        return self

    def before(self) -> Response | None:
        """Let it pass."""

    def after(self) -> Response | None:
        """Let the answer pass."""


@contextmanager
def _read_by_a_proxy(where: Ring) -> Iterator[Counter[str]]:
    """Put a proxy that reads the protocol behind the link; it is gone when time is measured."""
    counting = _Counting()
    port = where.database.server_port
    with PostgreSQLProxy(port) as proxy:
        proxy.tap = counting
        where.database.server_port = proxy.port
        try:
            yield counting.calls
        finally:
            where.database.server_port = port


def _count(where: Ring, contestant: Contestant) -> Asked:
    vault, manager = where.here.vault, where.manager
    calls, requests, tokens = manager.calls.copy(), len(vault.requests), len(vault.identity.requests)
    failed = where.here.server.log().count(_FAILED_LOGIN)
    # Where time is measured the proxy is not, nor is its time; what passes is the same.
    with _read_by_a_proxy(where) as sessions:
        _rotate(where, contestant)
    failed = where.here.server.log().count(_FAILED_LOGIN) - failed
    calls = manager.calls - calls + Counter(request.method for request in vault.requests_since(requests))
    tokens = len(vault.identity.requests) - tokens
    database, store = where.database.traffic, _store(where)
    _rotate(where, contestant)
    database, store = where.database.traffic - database, _store(where) - store
    return Asked(calls, store.connections, tokens, sessions["login"], failed, sessions["statement"], database, store)


def _store(where: Ring) -> Traffic:
    return where.key_vault.traffic + where.secrets_manager.traffic


def _check_aws(asked: Asked, *, failing_logins: int) -> None:
    found = (asked.calls, asked.clients, asked.logins, asked.failed_logins, asked.statements)
    logins = _LOGINS_OF_AWS - 1 + failing_logins
    expected = (_CALLS_OF_AWS, _CLIENTS_OF_AWS, logins, failing_logins, _STATEMENTS_OF_AWS)
    if found != expected:
        raise BenchmarkError(f"AWS's function asks for {expected}, and what stands for it for {found}")
