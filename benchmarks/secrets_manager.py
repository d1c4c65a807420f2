"""AWS Secrets Manager as moto has it, over HTTP, and the part of Secrets Manager itself in a rotation."""

import json
import time
import uuid
from collections import Counter
from types import TracebackType
from typing import Any, Self

from moto.secretsmanager import secretsmanager_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.test import EnvironBuilder, run_wsgi_app

from sandbox.http_service import HttpService, Request, Response

_ACCOUNT, _REGION = "123456789012", "us-east-1"
# Nothing is checked, but boto3 signs with something.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": _REGION}
_OF_THE_SERVER = ("connection", "content-length", "date", "server")


class SecretsManager:
    """Answers on a free port of 127.0.0.1 from `with` to its end.

    Attributes:
        port: where it answers.
        calls: how often each operation was called.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._app = DomainDispatcherApplication(create_backend_app)
        # moto's own server closes the connection after each answer, which AWS does not.
        self._service = HttpService(self._answer)
        self.port = self._service.port

    def __enter__(self) -> Self:
        self._service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.close()

    def create(self, name: str, value: dict[str, object]) -> str:
        """Make a secret that is under rotation; return its ARN."""
        self._backend.create_secret(
            name=name, secret_string=json.dumps(value), secret_binary=None, description=None, tags=[],
            kms_key_id=None, client_request_token=str(uuid.uuid4()), replica_regions=[],
            force_overwrite=False,
        )  # fmt: skip
        secret = self._backend.secrets[name]
        secret.rotation_enabled = True
        return str(secret.arn)

    def begin_rotation(self, name: str) -> str:
        """Do what RotateSecret does before it calls the function: a version that has no value yet is pending.

        Return its id. Versions that no stage names are gone, as on AWS.
        """
        secret = self._backend.secrets[name]
        token = str(uuid.uuid4())
        kept = {version: of for version, of in secret.versions.items() if of["version_stages"]}
        for version in kept.values():
            version["version_stages"] = [stage for stage in version["version_stages"] if stage != "AWSPENDING"]
        pending = {"createdate": int(time.time()), "version_id": token, "version_stages": ["AWSPENDING"]}
        secret.versions = {**kept, token: pending}
        return token

    def value(self, name: str) -> dict[str, Any]:  # whatever the secret's writer put there
        """Return what the current version says."""
        versions = self._backend.secrets[name].versions.values()
        return dict(json.loads(next(v["secret_string"] for v in versions if "AWSCURRENT" in v["version_stages"])))

    @property
    def _backend(self) -> Any:  # moto's own
        return secretsmanager_backends[_ACCOUNT][_REGION]

    def _answer(self, request: Request) -> Response:
        self.calls[request.headers.get("X-Amz-Target", "").partition(".")[2]] += 1
        asked = EnvironBuilder(
            path=request.target, method=request.method, headers=request.headers.items(), data=request.body
        )
        body, status, headers = run_wsgi_app(self._app, asked.get_environ(), buffered=True)
        kept = ((name, value) for name, value in headers if name.lower() not in _OF_THE_SERVER)
        return Response(int(status.split()[0]), b"".join(body), tuple(kept))
