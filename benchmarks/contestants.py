"""Who rotates, and where they meet: one PostgreSQL, one Key Vault, one Secrets Manager, each behind a slow link."""

import dataclasses
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from psycopg import sql

from benchmarks import aws_rotation, naive_rotation
from benchmarks.far_link import FarLink, far_links
from benchmarks.one_rotation_told import AWS, AWS_WITHOUT, NAIVE, OURS
from benchmarks.secrets_manager import ENVIRONMENT, SecretsManager
from rotators.decision import Trigger
from rotators.outcome import Outcome
from rotators.rotation import rotate
from sandbox.postgresql import HOST, PostgreSQL
from tests.world import ADMIN_SECRET, World, environment, world

# The wheel's server has no TLS, and nobody is to ask it each time whether it has.
_WITHOUT_TLS = "?sslmode=disable"


class Contestant(Protocol):
    """One secret, and a way to rotate it."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    def prepare(self) -> None:
        """Do what comes before a rotation and is no part of it."""

    def rotate(self) -> None:
        """Rotate: this is what is timed."""

    def current(self) -> str:
        """Return what the secret says now, as a libpq URI."""


@dataclass(slots=True)
class Ours:
    """The program as a near-expiry event finds it: clients open, tokens there, and no Airflow."""

    here: World
    secret: str
    name: str = OURS
    outcomes: list[Outcome] = field(default_factory=list)
    _version: str = ""

    def prepare(self) -> None:
        self.here.make_due()
        self._version = self.here.vault.current(self.secret).version

    def rotate(self) -> None:
        trigger = Trigger("near-expiry", self.secret, id=str(uuid.uuid4()), by="bench", version=self._version)
        self.outcomes.append(rotate(self.here.systems, trigger))

    def current(self) -> str:
        return self.here.value(self.secret)


@dataclass(slots=True)
class Aws:
    """AWS's function, on a secret of its own; Secrets Manager's own part comes before."""

    manager: SecretsManager
    endpoint: str
    secret: str
    arn: str
    name: str = AWS
    tries_pending_first: bool = True
    _token: str = ""

    def prepare(self) -> None:
        self._token = self.manager.begin_rotation(self.secret)

    def rotate(self) -> None:
        aws_rotation.rotate(self.endpoint, self.arn, self._token, tries_pending_first=self.tries_pending_first)

    def current(self) -> str:
        return aws_rotation.uri_of(self.manager.value(self.secret))


@dataclass(slots=True)
class Naive:
    """The naive sequence, with a client that stays open as ours does."""

    here: World
    client: SecretClient
    secret: str
    name: str = NAIVE

    def prepare(self) -> None:
        """Need nothing."""

    def rotate(self) -> None:
        naive_rotation.rotate(self.client, self.secret, ADMIN_SECRET)

    def current(self) -> str:
        return self.here.value(self.secret)


@dataclass(frozen=True, slots=True)
class Ring:
    """Everything that the contestants share."""

    here: World
    manager: SecretsManager
    database: FarLink
    key_vault: FarLink
    secrets_manager: FarLink
    ours: Ours
    contestants: tuple[Contestant, ...]

    def delay(self, seconds: float) -> None:
        """Let each round trip take so much longer from now on."""
        for link in (self.database, self.key_vault, self.secrets_manager):
            link.delay(seconds)


@contextmanager
def ring() -> Iterator[Ring]:
    """Start all of it; nobody has rotated yet."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgreSQL(settings={"log_statement": "none"}) as server,
        SecretsManager() as manager,
        far_links(server.port, 0, manager.port) as (database, key_vault, secrets_manager),
        environment(ENVIRONMENT),
        world(Path(folder), server, KEY_VAULT_URL=f"https://{HOST}:{key_vault.port}") as here,
    ):
        key_vault.server_port = int(here.vault.url.rpartition(":")[2])
        # The SDK wants the challenge's resource to be that of the address that it was given.
        here.vault.resource = f"https://0.0.1:{key_vault.port}"
        here.admin(_through(database, server.admin_dsn))
        endpoint = f"http://{HOST}:{secrets_manager.port}"
        ours = Ours(here, here.alternating(_through(database, here.user())))
        with closing(SecretClient(f"https://{HOST}:{key_vault.port}", ManagedIdentityCredential())) as client:
            contestants = (
                ours,
                _aws(manager, server, database, endpoint),
                dataclasses.replace(
                    _aws(manager, server, database, endpoint), name=AWS_WITHOUT, tries_pending_first=False
                ),
                _naive(here, client, database),
            )
            yield Ring(here, manager, database, key_vault, secrets_manager, ours, contestants)


def _aws(manager: SecretsManager, server: PostgreSQL, database: FarLink, endpoint: str) -> Aws:
    address: dict[str, object] = {"engine": "postgres", "host": HOST, "port": database.port}
    admin = aws_rotation.value_of(server.admin_dsn)
    master = manager.create(f"admin-{uuid.uuid4().hex}", {**address, **admin})
    user = f"aws_{uuid.uuid4().hex[:8]}"
    value = aws_rotation.value_of(_pair(server, user, aws_rotation.other_user(user)))
    secret = f"secret-{uuid.uuid4().hex}"
    arn = manager.create(secret, {**address, **value, "masterarn": master})
    return Aws(manager, endpoint, secret, arn)


def _naive(here: World, client: SecretClient, database: FarLink) -> Naive:
    user = f"naive_{uuid.uuid4().hex[:8]}"
    uri = _pair(here.server, user, naive_rotation.other_user(user))
    return Naive(here, client, here.secret(_through(database, uri), {}))


def _pair(server: PostgreSQL, first: str, second: str) -> str:
    """Make two users with the same rights, and a database; return the URI of the first."""
    uri = server.create_user(first, secrets.token_urlsafe(24), database=first)
    server.create_user(second, secrets.token_urlsafe(24))
    server.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(first), sql.Identifier(second)))
    server.create_database(first, owner=first)
    return uri


def _through(link: FarLink, uri: str) -> str:
    """Return this URI with the link's port in it."""
    host, _, database = uri.rpartition("/")
    return f"{host.rpartition(':')[0]}:{link.port}/{database}{_WITHOUT_TLS}"
