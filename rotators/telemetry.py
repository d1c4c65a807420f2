"""OpenTelemetry: spans, metrics and log attributes, where the host has it turned on; docs/telemetry.md has the list.

Whoever turns it on, the Functions worker, imports the SDK before it loads this app. So we look whether it is there, as
azure-core does, and import nothing ourselves: off costs a look into a dictionary. No exception is recorded, since
its text and its stack are not known to be free of secrets (P3): its class says enough, and our log line the rest.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from rotators.decision import Trigger
from rotators.errors import PermanentError, TransientError
from rotators.outcome import Outcome

if TYPE_CHECKING:
    from opentelemetry.metrics import (
        Counter,
        Histogram,
        _Gauge,  # the specification's name for it is not exported yet
    )
    from opentelemetry.trace import Span, Tracer

_NAME = "rotators"
_OFF: AbstractContextManager[None] = nullcontext()
# A rotation takes tens of milliseconds in the database, and seconds where a lock or Airflow is waited for.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


def is_on() -> bool:
    return "opentelemetry.sdk" in sys.modules


def step(name: str) -> AbstractContextManager[None]:
    """Return a span for one step, inside that of its rotation."""
    return _step(name) if is_on() else _OFF


@contextmanager
def flow(name: str, trigger: Trigger) -> Iterator[Callable[[Outcome], None]]:
    """Make a span for what one trigger does, and record how long it took; yield what is to be told the outcome.

    Telemetry must be on. What is raised counts as `failed`, `delayed` (transient) or `fault` (of this program).
    """
    status, cause, strategy = "nothing", str(trigger.kind), "unknown"
    attributes = {
        "rotation.secret": trigger.secret,
        "rotation.id": trigger.id,
        "rotation.trigger": trigger.kind,
        "rotation.by": trigger.by,
    }
    started = time.monotonic()
    with _span(name, attributes) as span:

        def tell(outcome: Outcome) -> None:
            nonlocal status, cause, strategy
            status, cause, strategy = outcome.status, outcome.cause, outcome.strategy or strategy
            span.set_attributes({f"rotation.{key}": value for key, value in _scalars(outcome.as_json()).items()})

        try:
            yield tell
        except PermanentError:
            status = "failed"
            raise
        except TransientError:
            status = "delayed"
            raise
        except Exception:
            status = "fault"
            raise
        finally:
            span.set_attribute("rotation.status", status)
            labels = {"status": status, "cause": cause, "strategy": strategy}
            _instruments().durations(name).record(time.monotonic() - started, labels)


def count(outcome: Outcome) -> None:
    """Count an outcome that was reported, and the tasks that Airflow runs again because of it."""
    if not is_on():
        return
    instruments = _instruments()
    labels = {"status": outcome.status, "cause": outcome.cause, "strategy": outcome.strategy or "unknown"}
    instruments.outcomes.add(1, labels)
    if outcome.airflow is not None and outcome.airflow.retried:
        instruments.retried_tasks.add(sum(len(run.tasks) for run in outcome.airflow.retried))


def measure_secrets(by_state: Mapping[str, int], *, overdue: int) -> None:
    """Set how many secrets are in each state; who has none of a state says 0, or the last figure would stand."""
    if not is_on():
        return
    for state, number in by_state.items():
        _instruments().by_state.set(number, {"state": state})
    _instruments().overdue.set(overdue)


def log_attributes(line: Mapping[str, object]) -> dict[str, object] | None:
    """Return a log line's plain fields as attributes, which Application Insights shows as custom dimensions."""
    return {f"rotation.{name}": value for name, value in _scalars(line).items()} if is_on() else None


def _scalars(fields: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in fields.items() if isinstance(value, str | int | float | bool)}


@contextmanager
def _step(name: str) -> Iterator[None]:
    with _span(name, {}):
        yield


@contextmanager
def _span(name: str, attributes: Mapping[str, str]) -> Iterator["Span"]:
    """Make a span that says of an exception its class, and nothing that the exception says."""
    from opentelemetry.context import get_current  # noqa: PLC0415 (only where it is loaded already)
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    with _instruments().tracer.start_as_current_span(
        name,
        # The Azure Monitor distro's sampler looks for the parent's decision only in a context that is given: without
        # one it decides anew for each span, and drops steps out of the middle of a rotation.
        context=get_current(),
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


@dataclass(frozen=True, slots=True)
class _Instruments:
    tracer: "Tracer"
    durations: Callable[[str], "Histogram"]
    outcomes: "Counter"
    retried_tasks: "Counter"
    overdue: "_Gauge"
    by_state: "_Gauge"


@cache
def _instruments() -> _Instruments:
    from opentelemetry import metrics, trace  # noqa: PLC0415 (only where it is loaded already)

    meter = metrics.get_meter(_NAME)
    return _Instruments(
        tracer=trace.get_tracer(_NAME),
        durations=cache(
            lambda name: meter.create_histogram(
                f"{name}.duration",
                unit="s",
                description="how long one trigger took for one secret",
                explicit_bucket_boundaries_advisory=_SECONDS,
            )
        ),
        outcomes=meter.create_counter("rotation.outcomes", unit="{outcome}", description="what was reported"),
        retried_tasks=meter.create_counter(
            "airflow.retried_tasks", unit="{task}", description="task instances cleared so that they run again"
        ),
        overdue=meter.create_gauge(
            "secrets.overdue", unit="{secret}", description="due, possible, and not rotated for an hour"
        ),
        by_state=meter.create_gauge("secrets.by_state", unit="{secret}", description="as GET /api/secrets says it"),
    )
