"""How long a service of Azure may have us wait before a request is repeated."""

from datetime import timedelta
from typing import Any

from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.policies import RetryPolicy
from azure.core.rest import HttpRequest, HttpResponse

# Event Grid waits 30 s for an answer: rather give the event back than sleep through that.
LONGEST_WAIT = timedelta(seconds=5)


class BoundedRetry(RetryPolicy[HttpRequest, HttpResponse]):
    """Retries as azure-core does, but gives up where the service asks for a longer wait than an event has."""

    def is_retry(self, settings: dict[str, Any], response: PipelineResponse[Any, Any]) -> bool:
        wait = self.get_retry_after(response) or 0
        return wait <= LONGEST_WAIT.total_seconds() and bool(super().is_retry(settings, response))

    def get_retry_after(self, response: PipelineResponse[Any, Any]) -> float | None:
        try:
            return super().get_retry_after(response)
        except ValueError:  # azure-core's, for what is neither a number nor a date
            return None


def forget_retry_after(response: PipelineResponse[Any, Any]) -> None:
    """Take out of an answer how long azure-core should sleep, maybe an hour: it makes its own short pauses then.

    For `raw_response_hook` of the clients that make their own RetryPolicy.
    """
    for name in ("Retry-After", "retry-after-ms", "x-ms-retry-after-ms"):
        response.http_response.headers.pop(name, None)
