"""A Key Vault on 127.0.0.1 that the unmodified `azure-keyvault-secrets` talks to.

It is held to what the service is known to answer, by `tests/key_vault` and the SDK's own live tests; what could
not be found out is marked UNVERIFIED where it is decided.
"""

import base64
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from sandbox.certificates import certificates
from sandbox.clock import Clock
from sandbox.faults import Dropped, Fault, Faults, LoggedRequest, RequestLog, Tap
from sandbox.http_service import HttpService, Request, Response
from sandbox.identity import Identity, Token
from sandbox.key_vault_events import Event, KeyVaultEvents, Ticker
from sandbox.secret_api import Permission, SecretApi, as_response, error, service_headers
from sandbox.secret_store import KeyVaultError, Properties, SecretStore, SecretVersion

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.keyvault.secrets import SecretClient

__all__ = ["Denial", "Event", "KeyVault", "KeyVaultError", "Permission", "SecretVersion"]

TENANT = "11111111-2222-3333-4444-555555555555"
THROTTLING_WINDOW = timedelta(seconds=10)


@dataclass(slots=True, eq=False)
class Denial:
    """What `deny` returns: `fired` tells how often it happened, `remove()` ends it."""

    permission: Permission
    name: re.Pattern[str]
    client_id: str | None
    active: bool = True
    fired: int = 0

    def remove(self) -> None:
        """Allow it again."""
        self.active = False


class KeyVault:
    """A vault and the identity that opens it, from `with` (or `start`) to its end (or `close`).

    Args:
        folder: where the certificates are, or are made.
        clock: moves `created`, expiry events, throttling and settling. Tokens have their own, see `Identity`.
        name: the vault's name in events.
        port: of the vault, and `identity_port` of the token endpoint; 0 takes a free one.
        address: where clients come to, `https://127.0.0.1:PORT`, when something stands in between; `port` is then
            the one that this passes on to.
        on_event: called with each event, one after the other, in a thread of its own.
        live: look for due expiries each second; else `tick()` does.
        token_lifetime: of the tokens that the identity hands out.
        settling: how long deleting, recovering and purging take; seconds on Azure.
    """

    def __init__(  # noqa: PLR0913 (all but the folder by keyword, all with a default)
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        name: str = "sandbox",
        port: int = 0,
        identity_port: int = 0,
        address: str = "",
        on_event: Callable[[Event], object] | None = None,
        live: bool = False,
        token_lifetime: timedelta = timedelta(hours=24),
        settling: timedelta = timedelta(0),
    ) -> None:
        self.name = name
        self.clock = clock or Clock()
        made = certificates(folder)
        self.ca_file = made.ca
        self._service = HttpService(self._answer, port=port, tls=made.tls())
        self.port = self._service.port
        self.url = address or self._service.url
        # The SDK wants the vault's host to end with "." and the resource's host: ".0.0.1:PORT" does that for
        # 127.0.0.1:PORT, so that its check needs not be switched off.
        self.resource = f"https://0.0.1:{self.url.rpartition(':')[2]}"
        self.identity = Identity(lifetime=token_lifetime, port=identity_port)
        self._events = KeyVaultEvents(name, self.url, self.clock, on_event)
        self._store = SecretStore(self.clock, settling, self._events.announce)
        self._api = SecretApi(self._store, self.url)
        self._log = RequestLog()
        self._faults = Faults(error)
        self._throttle: _Throttle | None = None
        self._denials: list[Denial] = []
        self._ticker = Ticker(self.tick) if live else None

    def start(self) -> Self:
        """Answer from now on."""
        self._events.start()
        self.identity.start()
        self._service.start()
        if self._ticker:
            self._ticker.start()
        return self

    def close(self) -> None:
        """End, connections included; events not yet called back are."""
        if self._ticker:
            self._ticker.close()
        self._service.close()
        self.identity.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # For clients

    def environment(self) -> dict[str, str]:
        """Return what a process needs for production code to come here (`SSL_CERT_FILE` too, if it uses aiohttp).

        REQUESTS_CA_BUNDLE takes the place of the public authorities, so the process reaches nothing else by TLS.
        """
        return {
            "KEY_VAULT_URL": self.url,
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            **self.identity.environment(),
        }

    def client(self, **options: Any) -> "SecretClient":  # Any: SecretClient's own keywords
        """Return a real client that needs no environment; the caller closes it."""
        from azure.keyvault.secrets import SecretClient  # noqa: PLC0415 (0.3 s, and seldom used)

        return SecretClient(self.url, _OwnCredential(self.identity), connection_verify=str(self.ca_file), **options)

    # For arranging and looking, without HTTP

    def put(  # noqa: PLR0913 (what set_secret takes)
        self,
        name: str,
        value: str,
        *,
        tags: Mapping[str, str] | None = None,
        content_type: str | None = None,
        enabled: bool | None = None,
        not_before: datetime | None = None,
        expires_on: datetime | None = None,
        silent: bool = False,
    ) -> str:
        """Write a version and return its id; `silent` raises no event ever, like one older than the subscription."""
        properties = Properties(
            content_type, dict(tags) if tags else None, enabled, _whole(not_before), _whole(expires_on)
        )
        return self._store.write(name, value, properties, silent=silent).version

    def update(  # noqa: PLR0913 (what update_secret_properties takes)
        self,
        name: str,
        version: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        content_type: str | None = None,
        enabled: bool | None = None,
        not_before: datetime | None = None,
        expires_on: datetime | None = None,
    ) -> SecretVersion:
        """Change what is named; `tags={}` takes all tags away."""
        tags = None if tags is None else dict(tags)
        properties = Properties(content_type, tags, enabled, _whole(not_before), _whole(expires_on))
        return self._store.update(name, version, properties)

    def current(self, name: str) -> SecretVersion:
        """Return the current version, disabled or not. Raise KeyVaultError if there is no such secret."""
        return self._store.find(name)

    def versions(self, name: str) -> tuple[SecretVersion, ...]:
        """Return all versions in the order of writing; none for an unknown name."""
        return tuple(self._store.versions(name))

    def delete(self, name: str) -> None:
        """Delete softly."""
        self._store.delete(name)

    # For making trouble

    def fail(self, **how: Any) -> Fault:  # Any: the keywords of Faults.add
        """Make authorized requests fail; see `Faults.add`. A request without a good token is always challenged."""
        return self._faults.add(**how)

    def watch(self, tap: Tap | None) -> None:
        """Let `tap` see each authorized request, and interfere; None ends it."""
        self._faults.tap = tap

    def deny(self, permission: Permission, name: str = ".*", *, client_id: str | None = None) -> Denial:
        """Answer 403 ForbiddenByRbac for names that match as a whole, to one identity or to all."""
        if permission not in get_args(Permission):
            raise ValueError(f"permission {permission!r}, expected one of {', '.join(get_args(Permission))}")
        denial = Denial(permission, re.compile(name, re.IGNORECASE), client_id)
        self._denials.append(denial)
        return denial

    def throttle(self, *, creates: int = 300, others: int = 4_000, retry_after: int | None = None) -> None:
        """Answer 429 beyond so many requests in 10 s of the clock; refused ones do not count. Azure's numbers.

        Whether the service sends Retry-After is UNVERIFIED: by default none is sent.
        """
        self._throttle = _Throttle(self.clock, creates, others, retry_after)

    # For counting

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """All requests so far, those that were only challenged (401) too."""
        return self._log.since()

    def requests_since(self, mark: int = 0, *, method: str | None = None, path: str = "") -> tuple[LoggedRequest, ...]:
        """Return the requests after the first `mark` (a former `len(vault.requests)`), filtered."""
        return self._log.since(mark, method=method, path=path)

    # Events

    @property
    def events(self) -> tuple[Event, ...]:
        """All events raised so far, in order."""
        return self._events.raised

    def tick(self) -> tuple[Event, ...]:
        """Raise the expiry events that are due, and return them.

        SecretNearExpiry 30 days before `exp` (not configurable for secrets), so at once when it is nearer, and
        SecretExpired: each once for a version, and only for the current one.
        """
        return tuple(self._events.announce(event, version) for event, version in self._store.due_events())

    def flush(self, seconds: float = 10) -> None:
        """Wait until `on_event` has returned for all events so far. Raise TimeoutError when it does not."""
        self._events.flush(seconds)

    # HTTP

    def _answer(self, request: Request) -> Response:
        try:
            response = self._authorized(request)
        except KeyVaultError as refusal:
            response = as_response(refusal)
        except Dropped:
            self._log.add(request, None)
            raise
        self._log.add(request, response.status)
        return Response(response.status, response.body, (*response.headers, *service_headers(request)))

    def _authorized(self, request: Request) -> Response:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self.identity.check(value) if scheme == "Bearer" else "missing"
        if not isinstance(token, Token):
            return self._challenge(token)
        # Airflow and others may ask for the public cloud's audience by name.
        if token.resource.rstrip("/") not in (self.resource, "https://vault.azure.net"):
            return self._challenge("unknown")
        return self._faults.around(request, lambda request: self._serve(request, token))

    def _challenge(self, why: str) -> Response:
        authority = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}"'
        if why == "revoked":
            # Continuous access evaluation: only claims make a credential pass its cache.
            claims = json.dumps({"access_token": {"nbf": {"essential": True, "value": str(int(time.time()))}}})
            encoded = base64.b64encode(claims.encode()).decode()
            challenge = f'{authority}, error="insufficient_claims", claims="{encoded}"'
        else:
            challenge = f'{authority}, resource="{self.resource}"'
        message = "AKV10000: Request is missing a Bearer, PoP, or MTLS_POP token."
        if why != "missing":
            message = f"The token is {why}."  # UNVERIFIED
        return error(401, "Unauthorized", {"WWW-Authenticate": challenge}, message)

    def _serve(self, request: Request, token: Token) -> Response:
        if self._throttle and not self._throttle.admits(request):
            return self._throttle.refusal()
        return self._api.serve(request, lambda permission, name: self._check_permission(permission, name, token))

    def _check_permission(self, permission: Permission, name: str, token: Token) -> None:
        for denial in self._denials:
            if (
                denial.active
                and denial.permission == permission
                and denial.name.fullmatch(name)
                and denial.client_id in (None, token.client_id)
            ):
                denial.fired += 1
                action = f"Microsoft.KeyVault/vaults/secrets/{permission}/action"
                message = f"Caller is not authorized to perform action on resource.\r\nAction: '{action}'"
                raise KeyVaultError(HTTPStatus.FORBIDDEN, "Forbidden", message, "ForbiddenByRbac")


class _Throttle:
    def __init__(self, clock: Clock, creates: int, others: int, retry_after: int | None) -> None:
        self._clock = clock
        self._limits = {True: creates, False: others}
        self._admitted: dict[bool, deque[datetime]] = {True: deque(), False: deque()}
        self._retry_after = retry_after
        self._lock = threading.Lock()

    def admits(self, request: Request) -> bool:
        creates = request.method == "PUT"
        with self._lock:
            admitted, now = self._admitted[creates], self._clock.now()
            while admitted and admitted[0] <= now - THROTTLING_WINDOW:
                admitted.popleft()
            if len(admitted) >= self._limits[creates]:
                return False
            admitted.append(now)
            return True

    def refusal(self) -> Response:
        message = (
            "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
        )
        headers = {} if self._retry_after is None else {"Retry-After": str(self._retry_after)}
        return error(429, "Throttled", headers, message)


class _OwnCredential:
    """A credential that takes its tokens without HTTP."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def get_token(self, *scopes: str, **_: Any) -> "AccessToken":  # Any: azure-core's options, not looked at
        from azure.core.credentials import AccessToken  # noqa: PLC0415 (see KeyVault.client)

        token = self._identity.issue(scopes[0].removesuffix("/.default"))
        return AccessToken(token.value, int(token.expires_on.timestamp()))


def _whole(time: datetime | None) -> datetime | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone")
    return time.replace(microsecond=0)
