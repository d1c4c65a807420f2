"""AWS's rotation function for PostgreSQL with two users, written anew from its steps.

The steps, their order and what each asks are those of `SecretsManagerRDSPostgreSQLRotationMultiUser` in
aws-samples/aws-secrets-manager-rotation-lambdas, in the steady state: both users exist. `one_rotation` counts what it
asks for. AWS's runs on PyGreSQL, of which there is no wheel; psycopg2 sits on the same libpq and begins transactions as
that does, and `_Session` asks for types as that does.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import boto3
import psycopg2
from psycopg.conninfo import conninfo_to_dict

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
_CLONE = "_clone"
_CURRENT, _PENDING = "AWSCURRENT", "AWSPENDING"
_NEEDED = {"engine", "host", "username", "password"}
_TYPE_QUERY = "SELECT oid, typname, typlen, typtype, typcategory, typdelim, typrelid FROM pg_type WHERE oid = %s"


class StepFailedError(Exception):
    """A step could not be done."""


def rotate(endpoint: str, secret: str, token: str, *, tries_pending_first: bool = True) -> None:
    """Do all steps, each as an invocation of its own, as Secrets Manager asks for them.

    Args:
        endpoint: the address of Secrets Manager.
        secret: the ARN.
        token: the id of the version that is pending.
        tries_pending_first: log in with the pending password before it is set, which fails but on a second try.

    Raise StepFailedError if a step can't be done.
    """
    function = _Function(endpoint, secret, token, tries_pending_first)
    for step in STEPS:
        function.invoke(step)


@dataclass(frozen=True, slots=True)
class _Function:
    endpoint: str
    secret: str
    token: str
    tries_pending_first: bool

    def invoke(self, step: str) -> None:
        client = boto3.client("secretsmanager", endpoint_url=self.endpoint)
        described = client.describe_secret(SecretId=self.secret)
        if not described.get("RotationEnabled", True):
            raise StepFailedError("the secret is not under rotation")
        stages = described["VersionIdsToStages"].get(self.token, ())
        if _CURRENT in stages:
            return
        if _PENDING not in stages:
            raise StepFailedError("the version is not pending")
        do = {"createSecret": self._create, "setSecret": self._set, "testSecret": self._test}
        do.get(step, self._finish)(client)

    def _create(self, client: Any) -> None:
        value = self._read(client, _CURRENT)
        try:
            self._read(client, _PENDING)
        except client.exceptions.ResourceNotFoundException:
            value["username"] = other_user(value["username"])
            value["password"] = client.get_random_password(ExcludeCharacters=":/@\"'\\", PasswordLength=32)[
                "RandomPassword"
            ]
            client.put_secret_value(
                SecretId=self.secret,
                ClientRequestToken=self.token,
                SecretString=json.dumps(value),
                VersionStages=[_PENDING],
            )

    def _set(self, client: Any) -> None:
        current, pending = self._read(client, _CURRENT), self._read(client, _PENDING)
        if self.tries_pending_first and (session := _log_in(pending)) is not None:
            session.close()
            return
        if (pending["username"], pending["host"]) != (other_user(current["username"]), current["host"]):
            raise StepFailedError("the pending version is of another user or host")
        session = _log_in(current)
        if session is None:
            raise StepFailedError("the current credential does not log in")
        session.close()
        admin = self._read(client, _CURRENT, secret=current["masterarn"]) | {"dbname": current["dbname"]}
        if admin["host"] != current["host"]:
            raise StepFailedError("the admin's secret is of another host")
        session = _log_in(admin)
        if session is None:
            raise StepFailedError("the admin does not log in")
        with closing(session):
            ((name,),) = session.rows("SELECT quote_ident(%s)", pending["username"])
            session.rows("SELECT quote_ident(%s)", current["username"])
            if not session.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", pending["username"]):
                raise StepFailedError("the second user is not there: this is no steady state")
            session.rows(f"ALTER USER {name} WITH PASSWORD %s", pending["password"])
            session.commit()

    def _test(self, client: Any) -> None:
        session = _log_in(self._read(client, _PENDING))
        if session is None:
            raise StepFailedError("the pending credential does not log in")
        with closing(session):
            session.rows("SELECT now()")
            session.commit()

    def _finish(self, client: Any) -> None:
        versions = client.describe_secret(SecretId=self.secret)["VersionIdsToStages"]
        current = next(version for version, stages in versions.items() if _CURRENT in stages)
        client.update_secret_version_stage(
            SecretId=self.secret, VersionStage=_CURRENT, MoveToVersionId=self.token, RemoveFromVersionId=current
        )

    def _read(self, client: Any, stage: str, *, secret: str | None = None) -> dict[str, Any]:  # Any: JSON
        which = {"VersionId": self.token} if stage == _PENDING else {}
        answer = client.get_secret_value(SecretId=secret or self.secret, VersionStage=stage, **which)
        value: dict[str, Any] = json.loads(answer["SecretString"])
        if missing := _NEEDED - value.keys():
            raise StepFailedError(f"the secret lacks {', '.join(sorted(missing))}")
        return value


class _Session:
    """A session that asks the server what PyGreSQL's would."""

    def __init__(self, connection: Any) -> None:  # psycopg2 has no types
        self._connection = connection
        self._known_types: set[int] = set()

    def rows(self, statement: str, *parameters: str) -> Sequence[tuple[Any, ...]]:
        """Run and return the rows; each type that comes back for the first time is looked up in the catalogue."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            if cursor.description is None:
                return ()
            found: Sequence[tuple[Any, ...]] = cursor.fetchall()
            for oid in {column.type_code for column in cursor.description} - self._known_types:
                cursor.execute(_TYPE_QUERY, (oid,))
                self._known_types.add(oid)
        return found

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


def _log_in(value: dict[str, Any]) -> _Session | None:
    """Return a session, or None when the server refuses."""
    try:
        return _Session(
            psycopg2.connect(
                host=value["host"],
                port=int(value["port"]),
                user=value["username"],
                password=value["password"],
                dbname=value["dbname"],
                connect_timeout=5,
                sslmode="disable",
            )
        )
    except psycopg2.OperationalError:
        return None


def other_user(user: str) -> str:
    """Return the user whose turn it is after this one."""
    return user.removesuffix(_CLONE) if user.endswith(_CLONE) else user + _CLONE


def value_of(uri: str) -> dict[str, object]:
    """Return user, password and database of a libpq URI as Secrets Manager's JSON has them."""
    parts = conninfo_to_dict(uri)
    return {"username": parts["user"], "password": parts["password"], "dbname": parts["dbname"]}


def uri_of(value: Mapping[str, Any]) -> str:  # Any: JSON
    """Return a libpq URI for what a secret says."""
    user, password = (quote(value[name], safe="") for name in ("username", "password"))
    return f"postgresql://{user}:{password}@{value['host']}:{value['port']}/{value['dbname']}?sslmode=disable"
