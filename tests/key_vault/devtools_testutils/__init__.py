"""What the SDK's own tests import from Microsoft's unpublished `devtools_testutils`, for live runs without a recorder.

Whatever prepares recordings does nothing. Clients are made as production code makes them: a real managed identity
and no option, so the environment (`KeyVault.environment`) alone leads them to the stand-in.
"""

import asyncio
import functools
import itertools
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

__all__ = [
    "AzureMgmtPreparer",
    "AzureRecordedTestCase",
    "add_body_key_sanitizer",
    "add_general_regex_sanitizer",
    "add_oauth_response_sanitizer",
    "add_remove_header_sanitizer",
    "is_live",
    "recorded_by_proxy",
    "remove_batch_sanitizers",
    "set_custom_default_matcher",
    "test_proxy",
]

_numbers = itertools.count(1)


def is_live() -> bool:
    return True


@pytest.fixture(scope="session")
def test_proxy() -> None:
    """No recorder runs."""


def recorded_by_proxy[Test: Callable[..., Any]](test: Test) -> Test:
    return test


def _no_recording(*_args: object, **_options: object) -> None:
    pass


add_body_key_sanitizer = _no_recording
add_general_regex_sanitizer = _no_recording
add_oauth_response_sanitizer = _no_recording
add_remove_header_sanitizer = _no_recording
remove_batch_sanitizers = _no_recording
set_custom_default_matcher = _no_recording


class AzureRecordedTestCase:
    is_live = True

    @staticmethod
    def await_prepared_test(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        """Let a plain test await the asynchronous one."""

        @functools.wraps(test)
        def run(*arguments: object, **options: object) -> None:
            asyncio.run(test(*arguments, **options))

        return run

    def get_resource_name(self, name: str) -> str:
        """Return a name that no other test uses; the service would keep it for 90 days."""
        return f"{name}{next(_numbers)}{uuid.uuid4().hex[:8]}"

    def get_credential(self, _client: type, *, is_async: bool = False) -> Any:  # Any: azure-identity is not ours here
        if is_async:
            from azure.identity.aio import ManagedIdentityCredential as AsyncCredential  # noqa: PLC0415 (needs aiohttp)

            return AsyncCredential()
        from azure.identity import ManagedIdentityCredential  # noqa: PLC0415 (beside its sibling)

        return ManagedIdentityCredential()

    def create_client_from_credential(self, client: Callable[..., Any], credential: object, **options: Any) -> Any:
        return client(credential=credential, **{"logging_enable": True} | options)

    def fail(self, reason: str) -> None:
        pytest.fail(reason)


class AzureMgmtPreparer:
    """Imported by a helper that no test uses."""
