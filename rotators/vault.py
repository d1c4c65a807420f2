"""Key Vault: the secrets, their versions and their tags."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import parse_qs, urlencode, urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.keyvault.secrets import KeyVaultSecret, SecretClient, SecretProperties

from rotators.credential import Password
from rotators.errors import (
    BadRequestError,
    PermanentError,
    PolicyError,
    SecretNotFoundError,
    ThrottledError,
    TransientError,
    VaultRefusedError,
)
from rotators.policy import STATE_TAG, RotationState, read_state
from rotators.retries import BoundedRetry

_CURSOR = "$skiptoken"
_CONNECTION_TIMEOUT_SECONDS = 5
_READ_TIMEOUT_SECONDS = 15


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A version of a secret. `version` is "" and `value` blank where a list of secrets is read."""

    name: str
    version: str
    value: Password = field(repr=False)
    tags: Mapping[str, str]
    content_type: str | None
    enabled: bool
    created: datetime
    expires: datetime | None
    is_edited: bool = False
    """Whether its tags or attributes were changed after it was written."""

    @property
    def state(self) -> RotationState | None:
        return read_state(self.tags)


class Vault:
    """The one vault of this app.

    Every method raises TransientError when Key Vault cannot be reached or is busy, SecretNotFoundError when
    there is no such secret, and VaultRefusedError when Key Vault says no.
    """

    def __init__(self, url: str, credential: TokenCredential) -> None:
        self.url = url.rstrip("/")
        self._client = SecretClient(
            self.url,
            credential,
            retry_policy=BoundedRetry(retry_total=3),
            connection_timeout=_CONNECTION_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
        )

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def identifier(self, name: str) -> str:
        """Return what names a secret in the world: `https://<vault>/secrets/<name>`, in lower case."""
        return f"{self.url}/secrets/{name}".lower()

    def identifier_of_version(self, name: str, version: str) -> str:
        """Return what names a version, as Key Vault's own events do."""
        return f"{self.url}/secrets/{name}/{version}"

    def owns(self, secret_url: str) -> bool:
        """Whether an identifier that an event carries is of this vault."""
        try:
            return _netloc(secret_url) == _netloc(self.url)
        except ValueError:
            return False

    def current(self, name: str) -> SecretVersion:
        """Return the newest version."""
        return _calling(f"secret {name!r}", lambda: _whole(name, self._client.get_secret(name)))

    def version(self, name: str, version: str) -> SecretVersion:
        return _calling(f"secret {name!r}", lambda: _whole(name, self._client.get_secret(name, version)))

    def versions(self, name: str) -> list[SecretVersion]:
        """Return all versions without their values, newest first as far as `created` (whole seconds) tells."""
        listed = _calling(
            f"secret {name!r}",
            lambda: [_version(p) for p in self._client.list_properties_of_secret_versions(name)],
        )
        return sorted(listed, key=lambda v: v.created, reverse=True)

    def secrets(self) -> Iterator[SecretVersion]:
        """Yield every secret with the tags of its newest version: no values, 25 to a request."""
        pages = self._client.list_properties_of_secrets().by_page()

        def read_page() -> list[SecretVersion] | None:
            page = next(pages, None)
            return None if page is None else [_version(properties) for properties in page]

        while (page := _calling("the list of secrets", read_page)) is not None:
            yield from page

    def page_of_secrets(self, skip_token: str = "") -> tuple[list[SecretVersion], str]:
        """Return at most 25 secrets as `secrets` does, and the token of the next page, blank after the last.

        One request. Only the token is taken from a caller: with its whole URL, ours would go wherever that says.
        """
        link = f"{self.url}/secrets?{urlencode({_CURSOR: skip_token})}" if skip_token else None
        pages = self._client.list_properties_of_secrets().by_page(link)

        def read_page() -> tuple[list[SecretVersion], str]:
            try:
                page = [_version(properties) for properties in next(pages, ())]
            except HttpResponseError as error:
                if not skip_token or error.status_code != HTTPStatus.BAD_REQUEST:
                    raise
            else:
                # The iterator that has read a page knows where the next one is, but its type does not say so.
                following = parse_qs(urlsplit(getattr(pages, "continuation_token", None) or "").query)
                return page, following.get(_CURSOR, [""])[0]
            raise BadRequestError(f"{_CURSOR} leads nowhere in the list of secrets; begin anew without it")

        return _calling("the list of secrets", read_page)

    def check(self) -> None:
        """One page of the list: the vault answers and lets us read."""
        _calling("the list of secrets", lambda: next(self.secrets(), None))

    def publish(
        self, before: SecretVersion, value: Password, *, tags: Mapping[str, str], expires: datetime
    ) -> SecretVersion:
        """Write a new version and return it. `tags` hold the state whose id tells it from any other.

        Key Vault has no compare-and-set and azure-core repeats a PUT whose answer was lost, which makes two
        versions. So it is sent once, and whatever is answered but success, the newest version is read back: a
        gateway in between may refuse, or garble, what Key Vault has done.

        Raise TransientError (ThrottledError if it may be written again at once), or what was refused, if no version of
        ours is there; then none will be current later, but for a write that takes effect after it was read back
        (`reconciliation.newcomer` is for that).
        """
        try:
            return _calling(
                f"secret {before.name!r}",
                lambda: _whole(
                    before.name,
                    self._client.set_secret(
                        before.name,
                        value.reveal(),
                        tags=dict(tags),
                        content_type=before.content_type,
                        expires_on=expires,
                        retry_total=0,
                    ),
                ),
            )
        except (TransientError, PermanentError) as error:
            failure = error
        try:
            newest = self.current(before.name)
        except PermanentError:
            # Neither writing nor reading is allowed: what was said first is what to mend.
            raise failure from None
        except ThrottledError as error:
            # That this reading did nothing does not tell what the writing did.
            raise TransientError(str(error), retry_after=error.retry_after) from None
        # The value too: two attempts of one cause in one second have the same state.
        if newest.version != before.version and newest.tags.get(STATE_TAG) == tags[STATE_TAG] and newest.value == value:
            return newest
        raise failure

    def write_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of a version."""
        _calling(
            f"secret {name!r}",
            lambda: self._client.update_secret_properties(name, version, tags=dict(tags)),
        )

    def disable(self, name: str, version: str) -> None:
        """Disable an old version. Never the newest: a GET of the secret would then answer 403."""
        _calling(
            f"secret {name!r}",
            lambda: self._client.update_secret_properties(name, version, enabled=False),
        )


def _calling[T](what: str, call: Callable[[], T]) -> T:
    """Return what `call` returns; raise our error for the SDK's, which holds the request and so the value."""
    try:
        return call()
    except AzureError as error:
        failure = _translate(what, error)
    except (ValueError, TypeError, AttributeError):
        # What the SDK raises, and may quote, when an answer is no JSON or not of a secret: a page of some gateway.
        failure = _unreadable(what)
    raise failure


def _translate(what: str, error: AzureError) -> PermanentError | TransientError:
    if isinstance(error, ResourceNotFoundError):
        return SecretNotFoundError(f"{what} was not found in the key vault; look for it among the deleted ones")
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        if error.status_code < HTTPStatus.BAD_REQUEST:
            return _unreadable(what)
        return _translate_answer(what, error, error.status_code)
    if isinstance(error, ClientAuthenticationError):
        # CredentialUnavailableError included: its text blames the configuration also when the managed identity
        # only failed for a moment, and msal repeats that answer for 5 s without asking again.
        return TransientError(
            f"{what}: the managed identity gave no token for Key Vault; if this lasts, check that the identity is "
            "assigned to the app and that AZURE_CLIENT_ID is its client id"
        )
    # An address, a path and what the network said: no request body, no token.
    return TransientError(f"{what}: Key Vault cannot be reached: {str(error)[:400]}")


def _translate_answer(what: str, error: HttpResponseError, status: int) -> PermanentError | TransientError:
    code = error.error.code if error.error else None
    inner = (getattr(error.error, "innererror", None) or {}).get("code") if error.error else None
    if status == 401:  # noqa: PLR2004 (HTTP)
        return TransientError(f"{what}: Key Vault does not take the managed identity's token (401)")
    if inner == "SecretDisabled":
        return disabled(what)
    if status == 403:  # noqa: PLR2004 (HTTP)
        return VaultRefusedError(
            f"{what}: Key Vault says {inner or code or 'Forbidden'} (403); give the app's identity get, set, update "
            "and list on secrets (a new role assignment needs some minutes), and let it through the firewall"
        )
    if status in (408, 429) or status >= 500:  # noqa: PLR2004 (HTTP)
        return (
            ThrottledError(f"{what}: Key Vault takes no more for now (429)", retry_after=_retry_after(error))
            if status == 429  # noqa: PLR2004 (HTTP)
            else TransientError(f"{what}: Key Vault is busy or failing ({status})", retry_after=_retry_after(error))
        )
    if inner in ("ObjectIsBeingDeleted", "ObjectIsBeingRecovered"):
        return TransientError(f"{what}: Key Vault says {inner} (409)")
    return VaultRefusedError(f"{what}: Key Vault says {inner or code or 'no'} ({status})")


def disabled(what: str) -> PolicyError:
    return PolicyError(
        f"{what}: its newest version is disabled, so nobody can read it; enable that version or write a new one"
    )


def _unreadable(what: str) -> TransientError:
    return TransientError(
        f"{what}: what was answered is not Key Vault's; if this lasts, look at the proxy or gateway in between"
    )


def _retry_after(error: HttpResponseError) -> timedelta:
    value = getattr(error.response, "headers", {}).get("Retry-After", "")
    return timedelta(seconds=int(value)) if re.fullmatch(r"[0-9]{1,6}", value) else timedelta(seconds=10)


def _whole(name: str, secret: KeyVaultSecret) -> SecretVersion:
    """Return the version that was answered. Raise ValueError when something that it cannot lack is not there."""
    version = _version(secret)
    if version.name.lower() != name.lower() or not version.version or secret.value is None:
        raise ValueError("not the secret that was asked for")
    return version


def _version(secret: KeyVaultSecret | SecretProperties) -> SecretVersion:
    properties = secret.properties if isinstance(secret, KeyVaultSecret) else secret
    value = secret.value if isinstance(secret, KeyVaultSecret) else None
    return SecretVersion(
        name=properties.name or "",
        version=properties.version or "",
        value=Password(value or ""),
        tags=properties.tags or {},
        content_type=properties.content_type,
        enabled=properties.enabled is not False,
        created=properties.created_on or datetime.fromtimestamp(0, UTC),
        expires=properties.expires_on,
        is_edited=properties.updated_on != properties.created_on,
    )


def _netloc(url: str) -> tuple[str, int]:
    parts = urlsplit(url.strip())
    return (parts.hostname or "").lower(), parts.port or 443
