"""The token endpoint of a managed identity as App Service and Functions have it (api-version 2019-08-01)."""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sandbox.clock import Clock
from sandbox.faults import Dropped, Fault, Faults, LoggedRequest, RequestLog, Tap
from sandbox.http_service import HttpService, Request, Response

PATH = "/msi/token"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was handed out; it means nothing outside of the sandbox."""

    value: str = field(repr=False)
    resource: str
    client_id: str | None
    """None is the system-assigned identity."""
    expires_on: datetime


class Identity:
    """Hands out a token for any resource and any client id to who knows the header.

    Its clock is its own, not the vault's: a client measures a token's life by real time, and msal answers from
    its cache until then. Were tokens to end because a test moves the vault's clock by sixty days, a client would
    be locked out in a way that is impossible on Azure. Move `clock` to let tokens end early.
    """

    def __init__(self, *, lifetime: timedelta = timedelta(hours=24), port: int = 0) -> None:
        self.lifetime = lifetime
        self.clock = Clock()
        self.header = secrets.token_hex(16)
        self._tokens: dict[str, Token] = {}
        self._revoked: set[str] = set()
        self.on_issue: Callable[[Token], object] | None = None
        """Told of each token before anybody has it: a database that takes tokens learns them so."""
        self._lock = threading.Lock()
        self._faults = Faults(_error)
        self._log = RequestLog()
        self._service = HttpService(self._answer, port=port)
        self.url = self._service.url + PATH

    def start(self) -> None:
        """Answer from now on."""
        self._service.start()

    def close(self) -> None:
        """End, connections included."""
        self._service.close()

    def environment(self) -> dict[str, str]:
        """Return what makes `ManagedIdentityCredential` and `DefaultAzureCredential` of a process come here."""
        return {
            "IDENTITY_ENDPOINT": self.url,
            "IDENTITY_HEADER": self.header,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }

    @property
    def issued(self) -> tuple[str, ...]:
        """All tokens handed out so far: what no log may hold."""
        with self._lock:
            return tuple(self._tokens)

    def tokens_for(self, resource: str) -> tuple[str, ...]:
        """Return the tokens handed out for one resource."""
        with self._lock:
            return tuple(t.value for t in self._tokens.values() if t.resource == resource)

    def issue(self, resource: str, client_id: str | None = None) -> Token:
        """Hand out a token without HTTP."""
        token = Token(secrets.token_urlsafe(48), resource, client_id, self.clock.now() + self.lifetime)
        with self._lock:
            self._tokens[token.value] = token
        if self.on_issue:
            self.on_issue(token)
        return token

    def revoke(self) -> None:
        """Revoke all tokens: whoever checks one asks for claims, and msal then fetches a new one."""
        with self._lock:
            self._revoked.update(self._tokens)

    def check(self, value: str) -> Token | Literal["unknown", "expired", "revoked"]:
        """Return the token with this value, or why it is not good."""
        with self._lock:
            token = self._tokens.get(value)
            if token is None:
                return "unknown"
            if value in self._revoked:
                return "revoked"
        return token if token.expires_on > self.clock.now() else "expired"

    def fail(self, **how: Any) -> Fault:  # Any: the keywords of Faults.add
        """Make requests for tokens fail; see `Faults.add`."""
        return self._faults.add(**how)

    def watch(self, tap: Tap | None) -> None:
        """Let `tap` see each request for a token, and interfere; None ends it."""
        self._faults.tap = tap

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """All requests so far."""
        return self._log.since()

    def _answer(self, request: Request) -> Response:
        try:
            response = self._faults.around(request, self._hand_out)
        except Dropped:
            self._log.add(request, None)
            raise
        self._log.add(request, response.status)
        return response

    def _hand_out(self, request: Request) -> Response:
        if (request.method, request.path) != ("GET", PATH):
            return _error(404, "there is only GET " + PATH)
        if not secrets.compare_digest(request.headers.get("X-IDENTITY-HEADER", ""), self.header):
            return _error(401, "X-IDENTITY-HEADER is missing or wrong")
        query = request.query
        if query.get("api-version") != "2019-08-01" or not query.get("resource"):
            return _error(400, "api-version=2019-08-01 and a resource are expected")
        token = self.issue(query["resource"], query.get("client_id"))
        answer = {
            "access_token": token.value,
            "expires_on": str(int(token.expires_on.timestamp())),
            "resource": token.resource,
            "token_type": "Bearer",
        }
        return Response.json(200, answer | ({"client_id": token.client_id} if token.client_id else {}))


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response.json(status, {"statusCode": status, "message": message}, headers)
