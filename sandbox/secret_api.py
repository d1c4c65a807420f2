"""The REST interface of a Key Vault for secrets: requests to `SecretStore`, its answers as the service words them.

Held to recordings of the real service. What could not be found out is marked UNVERIFIED.
"""

import base64
import binascii
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal

from sandbox.faults import path_of
from sandbox.http_service import Request, Response
from sandbox.secret_store import (
    DeletedSecret,
    KeyVaultError,
    Properties,
    SecretStore,
    SecretVersion,
    bad_parameter,
)

Permission = Literal["getSecret", "setSecret", "update", "list", "delete", "recover", "purge", "backup", "restore"]
"""The data actions of role-based access; `list` is readMetadata."""

PAGE = 25


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose path was understood; `name` and `version` are empty where the path has none."""

    request: Request
    path: str
    name: str = ""
    version: str = ""

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the body. Raise KeyVaultError if it is none."""
        try:
            body = json.loads(self.request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise bad_parameter("The request body is not a JSON object.")
        return body


class SecretApi:
    """The operations; `check` is asked before each, with the permission and the secret's name."""

    def __init__(self, store: SecretStore, url: str) -> None:
        self._store = store
        self._url = url

    def serve(self, request: Request, check: Callable[[Permission, str], None]) -> Response:
        """Answer an authorized request. Raise KeyVaultError to refuse it; see `as_response`."""
        if not request.query.get("api-version"):
            raise bad_parameter("The api-version query parameter must be specified.")  # UNVERIFIED
        path = path_of(request)
        for method, pattern, permission, operation in OPERATIONS:
            if request.method == method and (found := re.fullmatch(pattern, path)):
                call = Call(request, path, **found.groupdict(default=""))
                check(permission, call.name)
                return operation(self, call)
        if any(re.fullmatch(pattern, path) for _, pattern, _, _ in OPERATIONS):
            message = f"HTTP {request.method} not allowed"
            raise KeyVaultError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
        raise bad_parameter(f"The request URI contains an invalid path: {path}")  # UNVERIFIED

    def set_secret(self, call: Call) -> Response:
        body = call.body()
        value = body.get("value")
        if not isinstance(value, str):
            raise bad_parameter("The property 'value' is missing or not a string.")
        version = self._store.write(call.name, value, _properties(body))
        return Response.json(200, self._bundle(version))

    def get_secret(self, call: Call) -> Response:
        version = self._store.read(call.name, call.version)
        if "outContentType" in call.request.query:
            raise bad_parameter("The 'Unsupported' to 'PEM' transformation is not supported.")
        return Response.json(200, self._bundle(version))

    def update_secret(self, call: Call) -> Response:
        version = self._store.update(call.name, call.version or None, _properties(call.body()))
        return Response.json(200, self._item(version, self._id(version)))

    def list_secrets(self, call: Call) -> Response:
        size, skip = _asked_page(call)
        # One more than a page holds, so that it is known whether another one comes.
        found = self._store.current_after(skip, size + 1)
        return self._page(call, {v.name.lower(): self._item(v, self._id(v, versioned=False)) for v in found})

    def list_versions(self, call: Call) -> Response:
        # By version id, which is random: neither the order nor `created` tells which came first.
        versions = sorted(self._store.versions(call.name), key=lambda v: v.version)
        return self._page(call, {v.version: self._item(v, self._id(v)) for v in versions})

    def delete_secret(self, call: Call) -> Response:
        return Response.json(200, self._deleted_item(self._store.delete(call.name)))

    def get_deleted_secret(self, call: Call) -> Response:
        return Response.json(200, self._deleted_item(self._store.deleted(call.name)))

    def list_deleted_secrets(self, call: Call) -> Response:
        deleted = self._store.all_deleted()
        return self._page(call, {d.current.name.lower(): self._deleted_item(d, versioned=False) for d in deleted})

    def purge_secret(self, call: Call) -> Response:
        self._store.purge(call.name)
        return Response(204)

    def recover_secret(self, call: Call) -> Response:
        version = self._store.recover(call.name)
        return Response.json(200, self._item(version, self._id(version)))

    def back_up_secret(self, call: Call) -> Response:
        return Response.json(200, {"value": self._store.back_up(call.name)})

    def restore_secret(self, call: Call) -> Response:
        version = self._store.restore(str(call.body().get("value", "")))
        return Response.json(200, self._item(version, self._id(version)))

    def _page(self, call: Call, items: Mapping[str, object]) -> Response:
        """Answer the items whose key comes after the one in the skip token; `items` is sorted by key."""
        size, skip = _asked_page(call)
        keys = [key for key in items if key > skip]
        page, rest = keys[:size], keys[size:]
        link = None
        if rest:
            token = base64.urlsafe_b64encode(page[-1].encode()).decode().rstrip("=")
            version = call.request.query["api-version"]
            link = f"{self._url}{call.path}?api-version={version}&$skiptoken={token}&maxresults={size}"
        return Response.json(200, {"value": [items[key] for key in page], "nextLink": link})

    def _id(self, version: SecretVersion, *, versioned: bool = True) -> str:
        return f"{self._url}/secrets/{version.name}" + (f"/{version.version}" if versioned else "")

    def _bundle(self, version: SecretVersion) -> dict[str, object]:
        return {"value": version.value} | self._item(version, self._id(version))

    def _item(self, version: SecretVersion, identifier: str) -> dict[str, object]:
        attributes = {
            "enabled": version.enabled,
            "nbf": _epoch(version.not_before),
            "exp": _epoch(version.expires_on),
            "created": _epoch(version.created),
            "updated": _epoch(version.updated),
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": 90,
        }
        return {
            **({"contentType": version.content_type} if version.content_type is not None else {}),
            "id": identifier,
            "attributes": {name: value for name, value in attributes.items() if value is not None},
            **({"tags": version.tags} if version.tags else {}),
        }

    def _deleted_item(self, deleted: DeletedSecret, *, versioned: bool = True) -> dict[str, object]:
        return {
            "recoveryId": f"{self._url}/deletedsecrets/{deleted.current.name}",
            "deletedDate": _epoch(deleted.deleted),
            "scheduledPurgeDate": _epoch(deleted.purge),
            **self._item(deleted.current, self._id(deleted.current, versioned=versioned)),
        }


# In the order of matching: `restore`, `versions` and `backup` come before names and versions.
OPERATIONS: Sequence[tuple[str, str, Permission, Callable[[SecretApi, Call], Response]]] = (
    ("POST", "/secrets/restore", "restore", SecretApi.restore_secret),
    ("POST", "/secrets/(?P<name>[^/]+)/backup", "backup", SecretApi.back_up_secret),
    ("GET", "/secrets", "list", SecretApi.list_secrets),
    ("GET", "/secrets/(?P<name>[^/]+)/versions", "list", SecretApi.list_versions),
    ("GET", "/secrets/(?P<name>[^/]+)(/(?P<version>[^/]+))?", "getSecret", SecretApi.get_secret),
    ("PATCH", "/secrets/(?P<name>[^/]+)(/(?P<version>[^/]+))?", "update", SecretApi.update_secret),
    ("PUT", "/secrets/(?P<name>[^/]+)", "setSecret", SecretApi.set_secret),
    ("DELETE", "/secrets/(?P<name>[^/]+)", "delete", SecretApi.delete_secret),
    ("GET", "/deletedsecrets", "list", SecretApi.list_deleted_secrets),
    ("GET", "/deletedsecrets/(?P<name>[^/]+)", "getSecret", SecretApi.get_deleted_secret),
    ("DELETE", "/deletedsecrets/(?P<name>[^/]+)", "purge", SecretApi.purge_secret),
    ("POST", "/deletedsecrets/(?P<name>[^/]+)/recover", "recover", SecretApi.recover_secret),
)


def _asked_page(call: Call) -> tuple[int, str]:
    """Return how many items a page is to have, and after which key it begins."""
    size = call.request.query.get("maxresults", str(PAGE))
    if not (size.isdecimal() and 1 <= int(size) <= PAGE):
        raise bad_parameter(f"maxresults must be between 1 and {PAGE}.")
    return int(size), _decoded(call.request.query.get("$skiptoken", ""))


def _properties(body: Mapping[str, Any]) -> Properties:
    attributes = body.get("attributes") or {}
    tags, content_type, enabled = body.get("tags"), body.get("contentType"), attributes.get("enabled")
    well_formed = (
        (tags is None or (isinstance(tags, dict) and all(isinstance(v, str) for v in tags.values())))
        and isinstance(content_type, str | None)
        and isinstance(enabled, bool | None)
    )
    if not well_formed:
        raise bad_parameter("The tags, the content type or the attributes are not of the type they should be.")
    return Properties(content_type, tags, enabled, _time(attributes.get("nbf")), _time(attributes.get("exp")))


def _time(epoch: object) -> datetime | None:
    if epoch is None:
        return None
    if not isinstance(epoch, int):
        raise bad_parameter("A date is not in seconds since 1970.")
    return datetime.fromtimestamp(epoch, UTC)


def _epoch(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


def _decoded(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise bad_parameter("The skip token is not one of this vault's.") from None


def as_response(refusal: KeyVaultError) -> Response:
    return error(refusal.status, refusal.code, {}, refusal.message, refusal.inner)


def error(
    status: int, code: str, headers: Mapping[str, str], message: str | None = None, inner: str | None = None
) -> Response:
    error: dict[str, object] = {"code": code, "message": message or HTTPStatus(status).description or code}
    return Response.json(status, {"error": error | ({"innererror": {"code": inner}} if inner else {})}, headers)


def service_headers(request: Request) -> tuple[tuple[str, str], ...]:
    echo = request.headers.get("x-ms-client-request-id")
    return (
        ("Cache-Control", "no-cache"),
        ("x-ms-keyvault-region", "sandbox"),
        ("x-ms-keyvault-service-version", "1.9.3347.1"),
        ("x-ms-keyvault-network-info", "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;"),
        ("x-ms-request-id", str(uuid.uuid4())),
        *((("x-ms-client-request-id", echo),) if echo else ()),
    )
