"""The outside world of a rotation, made from the settings once in a process."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

from rotators.airflow import Airflow
from rotators.credential import Password
from rotators.databases import Engine
from rotators.databases.postgresql import PostgreSQLEngine
from rotators.errors import SettingsError, TransientError
from rotators.events import Topic
from rotators.retries import forget_retry_after
from rotators.settings import Settings, read_settings
from rotators.vault import SecretVersion, Vault

# azure-core waits five minutes for an identity that does not answer; Event Grid waits half a minute for us.
_CONNECTION_TIMEOUT_SECONDS = 5
_READ_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Systems:
    """Settings, clients, the clock, and `token`: a token of the managed identity for a scope.

    `admin_secrets` are the admins' secrets as they were read last, by name.
    """

    settings: Settings
    vault: Vault
    engines: Mapping[str, Engine]
    airflow: Airflow | None
    topic: Topic | None
    now: Callable[[], datetime]
    token: Callable[[str], Password]
    admin_secrets: dict[str, SecretVersion] = field(default_factory=dict)


def connect(environ: Mapping[str, str] = os.environ) -> Systems:
    """Return the systems that the app settings name; nothing is asked of them yet.

    Raise SettingsError with every complaint when a setting is missing or wrong.
    """
    settings = read_settings(environ)
    credential = _credential(settings)
    vault = Vault(settings.vault_url, credential)

    def token(scope: str) -> Password:
        try:
            return Password(credential.get_token(scope).token)
        except (AzureError, ValueError, TypeError, AttributeError):
            # It may not answer either, or with what is no token.
            failure = TransientError(f"the managed identity gave no token for {scope}; look at the app's identity")
        raise failure

    topic = None
    if settings.topic_endpoint is not None:
        topic = Topic(settings.topic_endpoint, settings.topic_key or credential)
    return Systems(
        settings=settings,
        vault=vault,
        engines={"postgresql": PostgreSQLEngine()},
        airflow=Airflow(settings.airflow, _airflow_password(settings, vault, token)) if settings.airflow else None,
        topic=topic,
        now=lambda: datetime.now(UTC),
        token=token,
    )


def _credential(settings: Settings) -> TokenCredential:
    """In production one identity and no other: a chain could fall silently to another one.

    `AZURE_TOKEN_CREDENTIALS`, azure-identity's own setting, names something else on a laptop (`dev`).
    """
    if settings.credential_name.lower() == "managedidentitycredential":
        return ManagedIdentityCredential(
            client_id=settings.client_id,
            connection_timeout=_CONNECTION_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
            # Of its own it would repeat ten times, for minutes.
            retry_total=2,
            raw_response_hook=forget_retry_after,
        )
    try:
        return DefaultAzureCredential(managed_identity_client_id=settings.client_id)
    except ValueError:
        complaint = "AZURE_TOKEN_CREDENTIALS is no name that azure-identity knows, such as AzureCliCredential or dev"
    raise SettingsError((complaint,))


def _airflow_password(settings: Settings, vault: Vault, token: Callable[[str], Password]) -> Callable[[], Password]:
    """Return what is called at each login at Airflow, so that a changed password or token is noticed."""
    if settings.airflow_secret is not None and settings.airflow is not None and settings.airflow.auth == "password":
        name = settings.airflow_secret
        return lambda: vault.current(name).value
    if settings.airflow_entra_scope is not None and settings.airflow is not None and settings.airflow.auth == "entra":
        scope = settings.airflow_entra_scope
        return lambda: token(scope)
    return lambda: settings.airflow_password
