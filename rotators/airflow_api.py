"""Airflow's REST API, as `apache-airflow-client` carries it: logged in, with time-outs, with retries of our own.

Of the client its transport is used: TLS, proxies, quoting, authentication. Its typed operations are not: each of
their models belongs to one version of Airflow, sends that version's defaults, which an older one answers with 422,
and refuses what a newer one adds.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from rotators.credential import Password
from rotators.errors import AirflowRefusedError, TransientError

if TYPE_CHECKING:
    from airflow_client.client import ApiClient  # 1.4 s: loaded when Airflow is called
    from airflow_client.client.api_client import RequestSerialized

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
MOST_BYTES = 32 * 2**20
PAGE_SIZE = 100
HAS_CURSORS = (3, 2)
EVERY_DAG = EVERY_RUN = "~"
NOT_THERE = HTTPStatus.NOT_FOUND

# What is slept in one operation for the sake of 429 and 503; beyond that another day is better.
MOST_SLEPT_SECONDS = 10.0
ATTEMPTS = 4
LEAST_RETRY_SECONDS = 30
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

READ_TASKS = "can_read on DAGs, DAG Runs and Task Instances"
READ_LOGS = "can_read on Task Logs"
CLEAR_TASKS = "can_edit on DAGs (or this one), DAG Runs and Task Instances"
CHANGE_CONNECTIONS: Mapping[str, str] = {
    "clear": "can_read and can_delete on Connections",
    "update": "can_read and can_edit on Connections",
    "keep": "can_read on Connections",
}


@dataclass(frozen=True, slots=True)
class AirflowAccess:
    """Where Airflow is, and how this program behaves there.

    Attributes:
        url: of the API server.
        auth: how to log in: with `username` and a password, or with a token, given or from Entra.
        connections: what to do with copies of a connection in the metastore.
        lookback: how far back failed tasks are looked for.
        max_examined: how many of them are examined in one search.
    """

    url: str
    auth: Literal["password", "token", "entra"]
    username: str | None
    connections: Literal["clear", "update", "keep"]
    lookback: timedelta
    max_examined: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What Airflow answered; `body` is its JSON, whose shape is Airflow's affair."""

    status: int
    body: Any

    @property
    def is_good(self) -> bool:
        return self.status // 100 == 2  # noqa: PLR2004 (200 to 299)


class AirflowApi:
    """One Airflow. Many threads may share it; a login is kept until Airflow takes it no longer."""

    def __init__(self, access: AirflowAccess, password: Callable[[], Password]) -> None:
        self.access = access
        self._password = password
        self._lock = threading.Lock()
        self._opened: ApiClient | None = None
        self._token: Password | None = None
        self._version: tuple[int, int] | None = None

    def open(self) -> "Session":
        """Return a session for one operation.

        Raise AirflowRefusedError if this is no Airflow 3 or the login is refused, TransientError if it is out of
        reach.
        """
        with self._lock:
            session = Session(self, self._client())
            if self.access.auth != "password":
                self._token = self._password()  # a proxy may answer an expired one with a redirect to its login page
            if self._version is None:
                self._version = session.version()
            session.supports = self._version
            if self._token is None:
                self._token = session.log_in(self._password())
            return session

    @property
    def token(self) -> Password | None:
        return self._token

    def renew(self, session: "Session", rejected: Password) -> bool:
        """Log in again, unless another thread has; False when there is nothing better than what was rejected."""
        with self._lock:
            if self._token == rejected:
                password = self._password()
                self._token = session.log_in(password) if self.access.auth == "password" else password
            return self._token != rejected

    def _client(self) -> "ApiClient":
        if self._opened is None:
            from airflow_client.client import ApiClient, Configuration  # noqa: PLC0415 (1.4 s)

            # Its own retries would sleep for hours when told to. Whom TLS trusts is the system's affair: OpenSSL
            # reads SSL_CERT_FILE and SSL_CERT_DIR.
            self._opened = ApiClient(Configuration(host=self.access.url, retries=False))
            self._opened.user_agent = "airflow-credential-rotation"
        return self._opened


@dataclass(slots=True)
class Session:
    """The calls of one operation, which together have one patience. `supports` is Airflow's version."""

    api: AirflowApi
    client: "ApiClient"
    supports: tuple[int, int] = (3, 0)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _slept: float = 0.0

    def version(self) -> tuple[int, int]:
        """Return Airflow's version. Raise AirflowRefusedError unless it is 3 or later."""
        answer = self._exchange("GET", "/api/v2/version", self.api.token, expecting=(HTTPStatus.NOT_FOUND,))
        try:
            major, minor, *_ = (int(part) for part in answer.body["version"].split(".")[:2])
        except (KeyError, TypeError, ValueError, AttributeError):
            major, minor = 0, 0
        if major < 3:  # noqa: PLR2004 (Airflow 3)
            raise AirflowRefusedError(
                "Airflow 3 is needed: there is no /api/v2/version at AIRFLOW_URL, as in Airflow 2 or where no "
                "Airflow is; upgrade it, correct AIRFLOW_URL, or remove it to rotate without Airflow"
            )
        return major, minor

    def log_in(self, password: Password) -> Password:
        """Return a token. Raise AirflowRefusedError if the login is refused."""
        login = {"username": self.api.access.username, "password": password.reveal()}
        refusals = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
        answer = self._exchange("POST", "/auth/token", None, body=login, expecting=refusals)
        if answer.status in refusals[:2]:
            raise AirflowRefusedError(
                f"Airflow refused the login of {self.api.access.username!r}: correct AIRFLOW_USERNAME and the password "
                "(in the secret that AIRFLOW_PASSWORD_SECRET names, or in AIRFLOW_PASSWORD)"
            )
        if not answer.is_good or not isinstance(answer.body, dict) or "access_token" not in answer.body:
            raise AirflowRefusedError(
                "Airflow gives no token at /auth/token, its auth manager may not know passwords: set AIRFLOW_AUTH to "
                "'token' or 'entra'"
            )
        return Password(str(answer.body["access_token"]))

    def call(  # noqa: PLR0913 (what an HTTP request has, and what it needs)
        self,
        method: str,
        path: str,
        *,
        rights: str,
        expecting: Collection[int] = (),
        body: object = None,
        query: Mapping[str, object] | None = None,
    ) -> Answer:
        """Call `/api/v2<path>`, logging in once more when the token is rejected.

        Raise TransientError if Airflow does not answer, or with a 429 or 5xx that is not in `expecting`, and
        AirflowRefusedError if it answers with any other error that is not; `rights` says what a 403 lacks.
        """
        renewed = False
        while True:
            token = self.api.token
            refusals = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            answer = self._exchange(
                method, f"/api/v2{path}", token, expecting=(*expecting, *refusals), body=body, query=query
            )
            if answer.status not in refusals:
                return answer
            rejected = answer.status == HTTPStatus.UNAUTHORIZED or "Invalid JWT token" in json.dumps(answer.body)
            if not rejected:
                raise AirflowRefusedError(
                    f"Airflow lets us in but not do this ({method} {path}): give our user {rights}; with the simple "
                    "auth manager the role op"
                )
            if renewed or token is None or not self.api.renew(self, token):
                raise AirflowRefusedError(
                    "Airflow rejects the token that it is given: "
                    + {
                        "password": "its API servers may not share one [api_auth] jwt_secret",
                        "token": "make a new one and put it in AIRFLOW_TOKEN",
                        "entra": "its auth manager, or the proxy before it, has to take tokens for AIRFLOW_ENTRA_SCOPE",
                    }[self.api.access.auth]
                )
            renewed = True

    def pages(
        self, path: str, key: str, *, rights: str, query: Mapping[str, object], by_cursor: bool = False
    ) -> Iterator[Any]:  # Any: JSON
        """Return what a list has under `key`, page by page.

        With `by_cursor` each page begins after the last row of the one before, where Airflow can do that: the list
        may grow and shrink meanwhile, and Airflow need not count its way to a page that is far behind.
        """
        offset = 0
        place: dict[str, object] = {"cursor": ""} if by_cursor and self.supports >= HAS_CURSORS else {}
        while True:
            where = {"limit": PAGE_SIZE, "offset": offset, **place}
            answer = self.call("GET", path, rights=rights, query={**query, **where})
            with understood():
                rows = answer.body[key]
                # Airflow silently gives fewer than asked for, when its maximum_page_limit says so.
                offset += len(rows)
                # The first 3.2 had no cursors, and does not look at what it does not know.
                following = {"cursor": answer.body["next_cursor"]} if place and "next_cursor" in answer.body else {}
                if following and following == place:
                    raise ValueError("the page after this one is this one")  # for ever, else
                place = following
                is_last = place["cursor"] is None if place else offset >= answer.body["total_entries"]
            yield from rows
            if not rows or is_last:
                return

    # -- one request -------------------------------------------------------------------------------------------

    def _exchange(  # noqa: PLR0913 (what an HTTP request has)
        self,
        method: str,
        path: str,
        token: Password | None,
        *,
        expecting: Collection[int],
        body: object = None,
        query: Mapping[str, object] | None = None,
    ) -> Answer:
        """Send a request, again while Airflow is busy, and return its answer if it is good or expected."""
        request = self.client.param_serialize(
            method,
            path,
            query_params=[
                (name, one)
                for name, value in (query or {}).items()
                for one in (value if isinstance(value, tuple) else (value,))
            ],
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["HTTPBearer"] if token else None,
            _request_auth=_bearer(token) if token else None,
        )
        for attempt in range(1, ATTEMPTS + 1):
            status, retry_after, content = self._send(request)
            if status not in BUSY or status in expecting:
                break
            pause = retry_after if retry_after is not None else timedelta(seconds=2 ** (attempt - 1))
            if attempt == ATTEMPTS or not self._sleep(pause):
                raise TransientError(
                    f"Airflow is busy ({status})", retry_after=max(pause, timedelta(seconds=LEAST_RETRY_SECONDS))
                )
        answer = Answer(status, _parsed(content))
        if answer.is_good or status in expecting:
            return answer
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise TransientError(f"Airflow failed with {status} on {method} {path}")
        # Its text is left out: a 422 repeats what was sent.
        raise AirflowRefusedError(
            f"Airflow answered {status} to {method} {path}: look whether AIRFLOW_URL is its API server, without a "
            "redirect, and of a version that this program knows (3.3)"
        )

    def _send(self, request: "RequestSerialized") -> tuple[int, timedelta | None, bytes]:
        from airflow_client.client.exceptions import ApiException  # noqa: PLC0415 (1.4 s)
        from urllib3.exceptions import HTTPError, ProtocolError  # noqa: PLC0415

        failure: TransientError | AirflowRefusedError
        for may_repeat in (True, False):
            try:
                # urllib3's errors hold the connection and the request: they end here, and no other has them as cause.
                sent = self.client.call_api(*request, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
                answer = sent.response
                content = answer.read(MOST_BYTES + 1, decode_content=True)
                if len(content) > MOST_BYTES:
                    answer.close()
                    content = b""
                answer.release_conn()
                return answer.status, _retry_after(answer.headers), content
            except ProtocolError as error:
                # It closes idle connections, possibly at this moment. All that we send may be sent twice.
                failure = TransientError(f"Airflow broke off the connection ({type(error).__name__})")
                if may_repeat:
                    continue
            except HTTPError as error:
                failure = TransientError(f"Airflow does not answer ({type(error).__name__})")
            except ApiException:
                failure = AirflowRefusedError(
                    "Airflow's TLS certificate is not trusted: have AIRFLOW_URL name the host in it, and its CA in "
                    "the file that SSL_CERT_FILE names"
                )
            break
        raise failure

    def _sleep(self, pause: timedelta) -> bool:
        """Sleep, unless our patience ends before."""
        with self._lock:
            if self._slept + pause.total_seconds() > MOST_SLEPT_SECONDS:
                return False
            self._slept += pause.total_seconds()
        time.sleep(pause.total_seconds())
        return True


def path_of(*parts: object) -> str:
    """Return `/dags/my_dag/...` of its parts, each quoted."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


@contextmanager
def understood() -> Iterator[None]:
    """Raise TransientError if an answer is not what Airflow gives: a proxy's page, or cut off."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    else:
        return
    raise TransientError("Airflow's answer is not what Airflow 3 gives; look at the proxy before it, if there is one")


def _bearer(token: Password) -> dict[str, str]:
    return {"type": "bearer", "in": "header", "key": "Authorization", "value": f"Bearer {token.reveal()}"}


def _parsed(content: bytes) -> Any:  # Any: JSON
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # brackets in brackets, without end
        return None


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Return what Retry-After asks for, in seconds or as a date."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():  # "²" is a digit, and no number
        return timedelta(seconds=int(value[:9]))
    try:
        return max(parsedate_to_datetime(value) - datetime.now(UTC), timedelta())
    except (TypeError, ValueError):
        return None
