"""What can go wrong, as a person on call needs it: which secret, what is wrong, how to mend it.

Two kinds. After a `TransientError` the same call may succeed later: an event is given back to Event Grid
by raising. After a `PermanentError` it would fail again, lock accounts and bury the message: it is reported
once and nothing is retried. No message holds a password, and none of these has a cause or context that
does: whoever translates a library's error raises outside the `except` block.
"""

from datetime import timedelta
from http import HTTPStatus


class RotationError(Exception):
    """Base of all errors of this program; its text may be shown to anybody who may know the secret's name."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Rotation failed"


class PermanentError(RotationError):
    """Trying again changes nothing: somebody has to mend something."""


class TransientError(RotationError):
    """An outside system is not reachable or busy for now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Temporarily unavailable"

    def __init__(self, message: str, *, retry_after: timedelta = timedelta(seconds=30)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ThrottledError(TransientError):
    """Key Vault takes no more for now, and has not done what it was asked for."""


class LockHeldError(TransientError):
    """Another invocation is rotating this secret."""

    status = HTTPStatus.CONFLICT
    title = "Rotation in progress"


class SettingsError(PermanentError):
    """An app setting is missing or wrong; `complaints` lists all of them."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "App settings are wrong"

    def __init__(self, complaints: tuple[str, ...]) -> None:
        super().__init__("app settings: " + "; ".join(complaints))
        self.complaints = complaints


class BadRequestError(PermanentError):
    """A body, name or event that is not what the contract says."""

    status = HTTPStatus.BAD_REQUEST
    title = "Bad request"


class CrossSiteError(PermanentError):
    """A form that this program's page did not make, or made too long ago."""

    status = HTTPStatus.FORBIDDEN
    title = "Not asked from this page"


class SecretNotFoundError(PermanentError):
    """The vault has no such secret."""

    status = HTTPStatus.NOT_FOUND
    title = "No such secret"


class PolicyError(PermanentError):
    """The secret's tags, or what section 7 of the design forbids."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Policy unusable"


class SecretFormatError(PermanentError):
    """The value is not a connection this program can read: where reading stopped, never what was read."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Secret unusable"


class VaultRefusedError(PermanentError):
    """Key Vault answered, and said no."""

    status = HTTPStatus.BAD_GATEWAY
    title = "Key Vault refused"


class DatabaseRefusedError(PermanentError):
    """The database answered, and said no."""

    status = HTTPStatus.BAD_GATEWAY
    title = "Database refused"


class LoginRefusedError(DatabaseRefusedError):
    """The database does not let this user in with this password."""


class AirflowRefusedError(PermanentError):
    """Airflow answered, and said no."""

    status = HTTPStatus.BAD_GATEWAY
    title = "Airflow refused"


class UnexpectedError(RotationError):
    """A fault of this program; names where it happened, not what was at hand there."""

    title = "Unexpected fault"


class UnfinishedError(TransientError):
    """A version was published, and then an outside system failed: what is pending can be resumed at once."""
