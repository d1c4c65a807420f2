"""What rotation depends on in Key Vault, held on the stand-in by name.

The client is the unmodified SecretClient with the real ManagedIdentityCredential, led here by the environment alone.
"""

import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import CredentialUnavailableError, DefaultAzureCredential, ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.keyvault.secrets._shared import HttpChallengeCache

from benchmarks.slow_network import SlowLink
from sandbox.key_vault import KeyVault, KeyVaultError

NAME = "airflow-connections-warehouse"
DAY = timedelta(days=1)
POSTGRESQL = "https://ossrdbms-aad.database.windows.net"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def vault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyVault]:
    HttpChallengeCache.clear()
    with KeyVault(folder) as vault:
        live_in(vault, monkeypatch)
        yield vault


@pytest.fixture
def slow_vault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyVault]:
    """A vault where deleting, recovering and purging take their time, on its clock."""
    HttpChallengeCache.clear()
    with KeyVault(folder, settling=timedelta(seconds=5)) as vault:
        live_in(vault, monkeypatch)
        yield vault


@pytest.fixture
def client(vault: KeyVault) -> Iterator[SecretClient]:
    with ManagedIdentityCredential() as credential, SecretClient(vault.url, credential) as client:
        yield client


@pytest.fixture
def slow_client(slow_vault: KeyVault) -> Iterator[SecretClient]:
    with ManagedIdentityCredential() as credential, SecretClient(slow_vault.url, credential) as client:
        yield client


def live_in(vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vault.environment().items():
        monkeypatch.setenv(name, value)


def code(error: HttpResponseError) -> tuple[int | None, str | None, str | None]:
    """Return status, code and inner code, which a caller can branch on."""
    assert error.error is not None
    inner: Any = error.error.innererror  # a dict, though azure-core declares it an object
    return error.status_code, error.error.code, (inner or {}).get("code")


def raw(
    vault: KeyVault, method: str, target: str, *, token: str | None = None, body: object = None
) -> tuple[int, Any, dict[str, str]]:
    """Send a request as it stands; return status, JSON (Any: it is looked into) and headers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(vault.url + target, content, headers, method=method)  # noqa: S310 (our own URL)
    try:
        with urllib.request.urlopen(  # noqa: S310 (our own URL)
            request, context=ssl.create_default_context(cafile=str(vault.ca_file))
        ) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), dict(error.headers)


# --- Authentication


def test_a_write_is_challenged_before_its_body_is_sent_and_happens_once(vault: KeyVault, client: SecretClient) -> None:
    """The SDK asks without token and body first; that request changes nothing."""
    client.set_secret(NAME, "value")
    assert [r.status for r in vault.requests] == [401, 200]
    assert len(vault.versions(NAME)) == 1


def test_behind_something_it_names_the_address_that_clients_come_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the challenge, in what leads to the next page, in identifiers and in events: none leads past it."""
    HttpChallengeCache.clear()
    with SlowLink() as link, KeyVault(folder, address=f"https://127.0.0.1:{link.port}") as vault:
        link.server_port = vault.port
        live_in(vault, monkeypatch)
        for number in range(26):
            vault.put(f"s{number}", "x")
        with SecretClient(vault.url, ManagedIdentityCredential()) as client:
            listed = [secret.id for secret in client.list_properties_of_secrets()]
        assert len({identifier for identifier in listed if f":{link.port}/" in str(identifier)}) == 26
        assert all(event["data"]["Id"].startswith(vault.url) for event in vault.events)


def test_the_challenge_names_the_tenant_and_a_resource(vault: KeyVault) -> None:
    """Without them the SDK asks for no token."""
    status, body, headers = raw(vault, "PUT", f"/secrets/{NAME}?api-version=7.6")
    assert status == HTTPStatus.UNAUTHORIZED
    assert body["error"]["code"] == "Unauthorized"
    assert re.fullmatch(
        r'Bearer authorization="https://login\.microsoftonline\.com/[0-9a-f-]{36}", resource="https://0\.0\.1:\d+"',
        headers["WWW-Authenticate"],
    )


def test_the_sdk_checks_the_vaults_domain_unmodified(vault: KeyVault) -> None:
    """The same server under a name that its resource does not cover is refused: nothing was switched off."""
    with (
        ManagedIdentityCredential() as credential,
        SecretClient(vault.url.replace("127.0.0.1", "localhost"), credential) as client,
        pytest.raises(ValueError, match="does not match the requested domain"),
    ):
        client.get_secret(NAME)


def test_an_unknown_token_is_refused(vault: KeyVault) -> None:
    """A token that the identity did not hand out opens nothing."""
    assert raw(vault, "GET", "/secrets?api-version=7.6", token="invented")[0] == HTTPStatus.UNAUTHORIZED


def test_a_token_for_another_resource_is_refused(vault: KeyVault) -> None:
    """The token for PostgreSQL does not open the vault."""
    tokens = [vault.identity.issue(resource).value for resource in (POSTGRESQL, vault.resource)]
    assert [raw(vault, "GET", "/secrets?api-version=7.6", token=token)[0] for token in tokens] == [401, 200]


def test_an_expired_token_is_refused(vault: KeyVault) -> None:
    """Tokens end by the identity's clock."""
    token = vault.identity.issue(vault.resource).value
    vault.identity.clock.advance(timedelta(hours=25))
    assert raw(vault, "GET", "/secrets?api-version=7.6", token=token)[0] == HTTPStatus.UNAUTHORIZED


def test_a_client_outlives_sixty_days_on_the_vaults_clock(vault: KeyVault, client: SecretClient) -> None:
    """Moving the vault's clock does not lock a client out: it measures its token by real time."""
    client.set_secret(NAME, "value")
    vault.clock.advance(60 * DAY)
    assert client.get_secret(NAME).value == "value"
    assert len(vault.identity.issued) == 1


def test_a_client_gets_over_revoked_tokens(vault: KeyVault, client: SecretClient) -> None:
    """A challenge with claims makes the real credential pass its cache."""
    client.set_secret(NAME, "value")
    vault.identity.revoke()
    assert client.get_secret(NAME).value == "value"
    assert len(vault.identity.issued) == 2


def test_a_write_after_revoked_tokens_carries_its_own_body(vault: KeyVault, client: SecretClient) -> None:
    """Before 4.11.1 the client's first body was written again (azure-sdk-for-python#48508)."""
    client.set_secret(NAME, "old")
    client.set_secret(NAME, "new")
    vault.identity.revoke()
    assert client.get_secret(NAME).value == "new"
    assert [v.value for v in vault.versions(NAME)] == ["old", "new"]


# --- The identity's endpoint


def test_the_default_credential_finds_the_managed_identity(vault: KeyVault) -> None:
    """By the environment alone, and without looking for anything else."""
    with DefaultAzureCredential() as credential, SecretClient(vault.url, credential) as client:
        client.set_secret(NAME, "value")
    assert len(vault.identity.requests) == 1


def test_any_resource_has_its_own_tokens(vault: KeyVault) -> None:
    """PostgreSQL and Airflow are opened by the same identity."""
    with ManagedIdentityCredential() as credential:
        token = credential.get_token(f"{POSTGRESQL}/.default")
        again = credential.get_token(f"{POSTGRESQL}/.default")
        other = credential.get_token("api://airflow/.default")
    assert vault.identity.tokens_for(POSTGRESQL) == (token.token,) == (again.token,)
    assert vault.identity.issued == (token.token, other.token)
    assert timedelta(hours=23) < datetime.fromtimestamp(token.expires_on, UTC) - datetime.now(UTC) <= DAY


def test_a_token_knows_which_identity_asked(vault: KeyVault) -> None:
    """A user-assigned identity is named by its client id."""
    with ManagedIdentityCredential(client_id="rotator") as credential:
        token = vault.identity.check(credential.get_token(f"{POSTGRESQL}/.default").token)
    assert not isinstance(token, str)
    assert token.client_id == "rotator"


def test_a_wrong_header_gets_no_token(vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """App Service's protection against requests that were talked into going there."""
    monkeypatch.setenv("IDENTITY_HEADER", "guessed")
    with ManagedIdentityCredential() as credential, pytest.raises(ClientAuthenticationError):
        credential.get_token(f"{POSTGRESQL}/.default")
    assert vault.identity.issued == ()


def test_an_identity_that_fails_is_remembered_for_some_seconds(vault: KeyVault) -> None:
    """The library answers from its memory of the failure, without asking; a new credential asks."""
    fault = vault.identity.fail(status=500)
    with ManagedIdentityCredential(retry_total=0) as credential:
        for _ in range(2):
            with pytest.raises(CredentialUnavailableError):
                credential.get_token(f"{POSTGRESQL}/.default")
    assert (fault.fired, len(vault.identity.requests)) == (1, 1)
    with ManagedIdentityCredential() as credential:
        assert credential.get_token(f"{POSTGRESQL}/.default").token


# --- Versions


def test_the_latest_is_the_one_written_last_within_a_second_too(vault: KeyVault, client: SecretClient) -> None:
    """A pointer decides, not `created`."""
    for number in range(10):
        version = client.set_secret(NAME, str(number)).properties.version
        latest = client.get_secret(NAME)
        assert (latest.value, latest.properties.version) == (str(number), version)
    assert len({v.created for v in vault.versions(NAME)}) <= 2


def test_created_and_updated_are_whole_seconds(vault: KeyVault, client: SecretClient) -> None:
    """Two versions can tie, so the version before must be carried in a tag."""
    properties = client.set_secret(NAME, "value").properties
    written = vault.current(NAME)
    assert (properties.created_on, properties.updated_on) == (written.created, written.updated)
    assert written.created.microsecond == written.updated.microsecond == 0


def test_versions_are_listed_by_their_random_id(vault: KeyVault, client: SecretClient) -> None:
    """Neither the order of a list nor `created` tells which version came first."""
    written = [vault.put(NAME, str(number)) for number in range(20)]
    listed = [p.version for p in client.list_properties_of_secret_versions(NAME)]
    assert listed == sorted(written) != written
    assert all(re.fullmatch("[0-9a-f]{32}", version) for version in written)


def test_a_new_version_inherits_nothing(vault: KeyVault, client: SecretClient) -> None:
    """Tags, content type and dates are to be written every time."""
    vault.put(NAME, "old", tags={"rotation-strategy": "single-user"}, content_type="text/plain", expires_on=soon())
    new = client.set_secret(NAME, "new").properties
    assert (new.tags, new.content_type, new.expires_on, new.enabled) == (None, None, None, True)


def test_a_version_is_answered_as_it_was_written(client: SecretClient) -> None:
    """Value, tags, content type and dates come back, of the current version and by id."""
    expires, begins = datetime(2050, 1, 1, tzinfo=UTC), datetime(2049, 1, 1, tzinfo=UTC)
    written = client.set_secret(
        NAME, "ünï", tags={"a": "1"}, content_type="text/plain", expires_on=expires, not_before=begins
    )
    for read in (client.get_secret(NAME), client.get_secret(NAME, written.properties.version), written):
        properties = read.properties
        assert (read.value, properties.tags, properties.content_type) == ("ünï", {"a": "1"}, "text/plain")
        assert (properties.expires_on, properties.not_before) == (expires, begins)
        assert (properties.recovery_level, properties.previous_version) == ("Recoverable+Purgeable", None)


def test_absent_members_are_omitted_not_null(vault: KeyVault) -> None:
    """As the service does; only nextLink may be null."""
    vault.put(NAME, "value")
    _, body, headers = raw(vault, "GET", f"/secrets/{NAME}/?api-version=7.6", token=vault_token(vault))
    assert set(body) == {"value", "id", "attributes"}
    assert set(body["attributes"]) == {"enabled", "created", "updated", "recoveryLevel", "recoverableDays"}
    assert {"x-ms-request-id", "x-ms-keyvault-region", "x-ms-keyvault-service-version"} <= set(headers)


def test_an_older_version_stays_readable(vault: KeyVault, client: SecretClient) -> None:
    """By its id, until it is disabled."""
    old = vault.put(NAME, "old")
    vault.put(NAME, "new")
    assert client.get_secret(NAME, old).value == "old"
    vault.update(NAME, old, enabled=False)
    with pytest.raises(HttpResponseError) as caught:
        client.get_secret(NAME, old)
    assert code(caught.value) == (403, "Forbidden", "SecretDisabled")


def test_a_disabled_newest_version_is_not_skipped(vault: KeyVault, client: SecretClient) -> None:
    """403, not the version before and not a 404: so Airflow's backend fails."""
    vault.put(NAME, "old")
    vault.put(NAME, "new", enabled=False)
    with pytest.raises(HttpResponseError) as caught:
        client.get_secret(NAME)
    assert code(caught.value) == (403, "Forbidden", "SecretDisabled")
    assert not isinstance(caught.value, ResourceNotFoundError)


def test_creating_a_disabled_version_answers_its_value(client: SecretClient) -> None:
    """The writer sees it, nobody afterwards."""
    created = client.set_secret(NAME, "value", enabled=False)
    assert (created.value, created.properties.enabled) == ("value", False)


def test_neither_an_expired_nor_a_future_version_is_withheld(vault: KeyVault, client: SecretClient) -> None:
    """`exp` and `nbf` never block a read, so they cannot stage a password."""
    vault.put(NAME, "expired", expires_on=soon(-1))
    assert client.get_secret(NAME).value == "expired"
    vault.put(NAME, "not yet", not_before=soon(10))
    assert client.get_secret(NAME).value == "not yet"


def test_an_unknown_secret_is_not_found(client: SecretClient) -> None:
    """404, but its list of versions is empty."""
    with pytest.raises(ResourceNotFoundError) as caught:
        client.get_secret(NAME)
    assert code(caught.value) == (404, "SecretNotFound", None)
    assert list(client.list_properties_of_secret_versions(NAME)) == []


def test_an_unknown_version_is_not_found(vault: KeyVault, client: SecretClient) -> None:
    """404 for reading and for changing."""
    vault.put(NAME, "value")
    for ask in (client.get_secret, client.update_secret_properties):
        with pytest.raises(ResourceNotFoundError):
            ask(NAME, "0" * 32)


def test_names_are_the_same_in_any_case(vault: KeyVault, client: SecretClient) -> None:
    """`A` and `a` are one secret."""
    client.set_secret(NAME, "one")
    client.set_secret(NAME.upper(), "two")
    assert client.get_secret(NAME).value == "two"
    assert len(vault.versions(NAME)) == 2


# --- Changing properties


def test_a_change_touches_only_what_it_names(vault: KeyVault, client: SecretClient) -> None:
    """The rest stays, `updated` moves, `created` does not."""
    expires = soon(90)
    version = vault.put(NAME, "value", tags={"a": "1", "b": "2"}, content_type="text/plain", expires_on=expires)
    before = vault.current(NAME)
    vault.clock.advance(timedelta(seconds=2))
    client.update_secret_properties(NAME, version, enabled=False)
    after = vault.current(NAME)
    assert (after.tags, after.content_type, after.expires_on) == ({"a": "1", "b": "2"}, "text/plain", expires)
    assert (after.enabled, after.created, after.value) == (False, before.created, "value")
    assert after.updated > before.updated


def test_a_change_of_tags_replaces_all_of_them(vault: KeyVault, client: SecretClient) -> None:
    """To keep a tag it is written again."""
    vault.put(NAME, "value", tags={"a": "1", "b": "2"})
    assert client.update_secret_properties(NAME, tags={"a": "3"}).tags == {"a": "3"}
    client.update_secret_properties(NAME, tags={})
    assert vault.current(NAME).tags == {}


def test_a_change_is_answered_without_the_value(vault: KeyVault) -> None:
    """Who may change properties does not learn the secret."""
    version = vault.put(NAME, "value")
    status, body, _ = raw(
        vault,
        "PATCH",
        f"/secrets/{NAME}/{version}?api-version=7.6",
        token=vault_token(vault),
        body={"tags": {"a": "1"}},
    )
    assert (status, body["tags"]) == (200, {"a": "1"})
    assert "value" not in body


def test_an_old_and_a_disabled_version_can_be_changed(vault: KeyVault, client: SecretClient) -> None:
    """How an old version is retired after its grace, and brought back."""
    old = vault.put(NAME, "old", enabled=False)
    vault.put(NAME, "new")
    client.update_secret_properties(NAME, old, enabled=True)
    assert client.get_secret(NAME, old).value == "old"
    assert client.get_secret(NAME).value == "new"


def test_a_change_without_a_version_is_of_the_current_one(vault: KeyVault, client: SecretClient) -> None:
    """The SDK sends an empty path segment."""
    vault.put(NAME, "old")
    new = vault.put(NAME, "new")
    assert client.update_secret_properties(NAME, content_type="x").version == new
    assert [v.content_type for v in vault.versions(NAME)] == [None, "x"]


# --- Lists


def test_lists_come_in_pages_of_25(vault: KeyVault, client: SecretClient) -> None:
    """Sixty versions are three requests; none is lost or doubled."""
    written = {vault.put(NAME, str(number)) for number in range(60)}
    pages = [[p.version for p in page] for page in client.list_properties_of_secret_versions(NAME).by_page()]
    assert [len(page) for page in pages] == [25, 25, 10]
    assert {version for page in pages for version in page} == written
    assert len(vault.requests_since(method="GET", path="/versions$")) == 4  # the first was challenged


def test_a_page_can_be_smaller_but_not_larger(vault: KeyVault, client: SecretClient) -> None:
    """26 is refused."""
    for number in range(7):
        vault.put(f"secret-{number}", "value")
    assert [len(list(page)) for page in client.list_properties_of_secrets(max_page_size=3).by_page()] == [3, 3, 1]
    with pytest.raises(HttpResponseError) as caught:
        list(client.list_properties_of_secrets(max_page_size=26))
    assert code(caught.value) == (400, "BadParameter", None)


def test_the_next_page_is_an_absolute_address_with_the_port(vault: KeyVault) -> None:
    """On the last page it is null."""
    for name in ("a", "b"):
        vault.put(name, "value")
    token = vault_token(vault)
    _, first, _ = raw(vault, "GET", "/secrets?api-version=7.6&maxresults=1", token=token)
    assert first["nextLink"].startswith(f"{vault.url}/secrets?api-version=7.6&$skiptoken=")
    _, last, _ = raw(vault, "GET", first["nextLink"].removeprefix(vault.url), token=token)
    assert last["nextLink"] is None
    assert [item["id"] for item in first["value"] + last["value"]] == [f"{vault.url}/secrets/{n}" for n in "ab"]


def test_the_list_of_secrets_shows_the_current_tags_and_no_value(vault: KeyVault) -> None:
    """Tags can be read with the right to list: a sweep needs no values. The id names no version."""
    vault.put(NAME, "old", tags={"a": "1"})
    vault.put(NAME, "confidential", tags={"a": "2"}, content_type="text/plain", enabled=False)
    _, body, _ = raw(vault, "GET", "/secrets?api-version=7.6", token=vault_token(vault))
    (item,) = body["value"]
    assert (item["id"], item["tags"], item["contentType"]) == (f"{vault.url}/secrets/{NAME}", {"a": "2"}, "text/plain")
    assert item["attributes"]["enabled"] is False
    assert "confidential" not in json.dumps(body)


def test_a_list_goes_on_while_secrets_are_added(vault: KeyVault, client: SecretClient) -> None:
    """A page begins after the last item of the one before, wherever that is by then."""
    for number in range(4):
        vault.put(f"b-{number}", "value")
    pages = client.list_properties_of_secrets(max_page_size=2).by_page()
    first = [p.name for p in next(pages)]
    vault.put("a-before", "value")
    assert first + [p.name for page in pages for p in page] == ["b-0", "b-1", "b-2", "b-3"]


# --- Deleting


def test_a_deleted_name_is_taken(vault: KeyVault, client: SecretClient) -> None:
    """Reading is 404, writing 409, until it is recovered or purged."""
    vault.put(NAME, "value")
    client.begin_delete_secret(NAME).wait()
    with pytest.raises(ResourceNotFoundError):
        client.get_secret(NAME)
    assert list(client.list_properties_of_secrets()) == []
    with pytest.raises(ResourceExistsError) as caught:
        client.set_secret(NAME, "new")
    assert code(caught.value) == (409, "Conflict", "ObjectIsDeletedButRecoverable")


def test_recovering_brings_back_every_version(vault: KeyVault, client: SecretClient) -> None:
    """With ids, values and tags."""
    versions = [vault.put(NAME, value, tags={"a": value}) for value in ("old", "new")]
    client.begin_delete_secret(NAME).wait()
    assert [s.name for s in client.list_deleted_secrets()] == [NAME]
    client.begin_recover_deleted_secret(NAME).wait()
    assert [client.get_secret(NAME, version).value for version in versions] == ["old", "new"]
    assert client.get_secret(NAME).properties.tags == {"a": "new"}


def test_a_deleted_secret_tells_when_it_will_be_purged(vault: KeyVault, client: SecretClient) -> None:
    """90 days later."""
    vault.put(NAME, "value")
    deleted = client.begin_delete_secret(NAME).result()
    assert deleted.recovery_id == f"{vault.url}/deletedsecrets/{NAME}"
    assert deleted.scheduled_purge_date is not None
    assert deleted.deleted_date is not None
    assert deleted.scheduled_purge_date - deleted.deleted_date == 90 * DAY


def test_a_purged_name_is_free(vault: KeyVault, client: SecretClient) -> None:
    """And its versions are gone."""
    vault.put(NAME, "old")
    client.begin_delete_secret(NAME).wait()
    client.purge_deleted_secret(NAME)
    client.set_secret(NAME, "new")
    assert [v.value for v in vault.versions(NAME)] == ["new"]


def test_what_is_not_deleted_cannot_be_recovered_or_purged(vault: KeyVault, client: SecretClient) -> None:
    """404 of the deleted collection."""
    vault.put(NAME, "value")
    for act in (client.get_deleted_secret, client.begin_recover_deleted_secret, client.purge_deleted_secret):
        with pytest.raises(ResourceNotFoundError, match="Deleted Secret not found"):
            act(NAME)


def test_deleting_recovering_and_purging_take_a_while(slow_vault: KeyVault, slow_client: SecretClient) -> None:
    """Meanwhile the name is busy: 409 that says so; nothing can be polled after a purge."""
    slow_vault.put(NAME, "value")

    def refused() -> str | None:
        with pytest.raises(ResourceExistsError) as caught:
            slow_client.set_secret(NAME, "new")
        return code(caught.value)[2]

    slow_client.begin_delete_secret(NAME)
    assert refused() == "ObjectIsBeingDeleted"
    with pytest.raises(ResourceNotFoundError):
        slow_client.get_deleted_secret(NAME)
    slow_vault.clock.advance(timedelta(seconds=5))
    assert slow_client.get_deleted_secret(NAME).name == NAME
    slow_client.begin_recover_deleted_secret(NAME)
    assert refused() == "ObjectIsBeingRecovered"
    slow_vault.clock.advance(timedelta(seconds=5))
    assert slow_client.get_secret(NAME).value == "value"
    slow_client.begin_delete_secret(NAME)
    slow_vault.clock.advance(timedelta(seconds=5))
    slow_client.purge_deleted_secret(NAME)
    assert refused() == "ObjectIsBeingDeleted"
    slow_vault.clock.advance(timedelta(seconds=5))
    slow_client.set_secret(NAME, "new")


def test_a_backup_restores_all_versions_once_the_name_is_free(vault: KeyVault, client: SecretClient) -> None:
    """409 while it is not, without an inner code; a blob that is not one is 400."""
    versions = [vault.put(NAME, value) for value in ("old", "new")]
    backup = client.backup_secret(NAME)
    with pytest.raises(ResourceExistsError) as caught:
        client.restore_secret_backup(backup)
    assert code(caught.value) == (409, "Conflict", None)
    client.begin_delete_secret(NAME).wait()
    client.purge_deleted_secret(NAME)
    client.restore_secret_backup(backup)
    assert [v.version for v in vault.versions(NAME)] == versions
    assert client.get_secret(NAME).value == "new"
    with pytest.raises(HttpResponseError) as malformed:
        client.restore_secret_backup(b"invented")
    assert code(malformed.value) == (400, "Malformed backup blob", None)


# --- Limits


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("v" * 25_600, {}),
        ("ü" * 12_800, {}),
        ("v", {"content_type": "c" * 255}),
        ("v", {"tags": {f"t{number}": "" for number in range(15)}}),
        ("v", {"tags": {"n" * 512: "v" * 512}}),
    ],
    ids=["value", "value-in-bytes", "content-type", "tags", "tag"],
)
def test_what_is_within_the_limits_is_written(
    vault: KeyVault, client: SecretClient, value: str, options: dict[str, Any]
) -> None:
    """25,600 bytes, 255 characters of content type, 15 tags of 512 characters."""
    client.set_secret(NAME, value, **options)
    assert vault.current(NAME).value == value


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("v" * 25_601, {}),
        ("ü" * 12_801, {}),
        ("v", {"content_type": "c" * 256}),
        ("v", {"tags": {f"t{number}": "" for number in range(16)}}),
        ("v", {"tags": {"n" * 513: ""}}),
        ("v", {"tags": {"n": "v" * 513}}),
    ],
    ids=["value", "value-in-bytes", "content-type", "tags", "tag-name", "tag-value"],
)
def test_what_is_beyond_a_limit_is_refused(
    vault: KeyVault, client: SecretClient, value: str, options: dict[str, Any]
) -> None:
    """400, and nothing is written: not even a secret without versions."""
    with pytest.raises(HttpResponseError) as caught:
        client.set_secret(NAME, value, **options)
    assert code(caught.value) == (400, "BadParameter", None)
    assert vault.versions(NAME) == ()
    assert list(client.list_properties_of_secrets()) == []


def test_a_change_keeps_to_the_limits_too(vault: KeyVault, client: SecretClient) -> None:
    """The sixteenth tag is refused, and the others stay."""
    vault.put(NAME, "value", tags={"a": "1"})
    with pytest.raises(HttpResponseError):
        client.update_secret_properties(NAME, tags={f"t{number}": "" for number in range(16)})
    assert vault.current(NAME).tags == {"a": "1"}


@pytest.mark.parametrize("name", ["with_underscore", "a.b", "n" * 128])
def test_a_name_has_letters_digits_and_dashes_only(client: SecretClient, name: str) -> None:
    """At most 127 of them. Airflow turns `_` in connection ids into `-`."""
    with pytest.raises(HttpResponseError, match="invalid name") as caught:
        client.set_secret(name, "value")
    assert code(caught.value) == (400, "BadParameter", None)


def test_what_is_no_operation_is_refused(vault: KeyVault) -> None:
    """A write without a name is 405; a body that is no JSON, and a missing api-version, are 400."""
    token = vault_token(vault)
    assert raw(vault, "PUT", "/secrets/?api-version=7.6", token=token)[1]["error"]["code"] == "MethodNotAllowed"
    assert raw(vault, "PUT", f"/secrets/{NAME}?api-version=7.6", token=token)[0] == HTTPStatus.BAD_REQUEST
    assert raw(vault, "PUT", f"/secrets/{NAME}", token=token, body={"value": "v"})[0] == HTTPStatus.BAD_REQUEST
    assert raw(vault, "PUT", f"/secrets/{NAME}?api-version=7.6", token=token, body={"value": 1})[0] == 400
    assert vault.versions(NAME) == ()


# --- Refusals on demand


def test_a_permission_can_be_denied_by_name(vault: KeyVault, client: SecretClient) -> None:
    """403 ForbiddenByRbac; other names and permissions go on."""
    vault.put(NAME, "value")
    denial = vault.deny("setSecret", "airflow-connections-.*")
    with pytest.raises(HttpResponseError) as caught:
        client.set_secret(NAME, "new")
    assert code(caught.value) == (403, "Forbidden", "ForbiddenByRbac")
    assert client.get_secret(NAME).value == "value"
    client.set_secret("other", "value")
    denial.remove()
    client.set_secret(NAME, "new")
    assert denial.fired == 1


@pytest.mark.parametrize(
    ("permission", "ask"),
    [
        ("getSecret", lambda client: client.get_secret(NAME)),
        ("list", lambda client: list(client.list_properties_of_secrets())),
        ("list", lambda client: list(client.list_properties_of_secret_versions(NAME))),
        ("update", lambda client: client.update_secret_properties(NAME, enabled=True)),
        ("delete", lambda client: client.begin_delete_secret(NAME)),
        ("backup", lambda client: client.backup_secret(NAME)),
    ],
)
def test_each_operation_has_its_permission(
    vault: KeyVault, client: SecretClient, permission: Any, ask: Callable[[SecretClient], object]
) -> None:
    """A denied one is refused before it has an effect."""
    vault.put(NAME, "value")
    vault.deny(permission)
    with pytest.raises(HttpResponseError) as caught:
        ask(client)
    assert code(caught.value) == (403, "Forbidden", "ForbiddenByRbac")


def test_one_identity_can_be_denied_what_another_may(vault: KeyVault) -> None:
    """Airflow reads, the rotator writes."""
    vault.deny("setSecret", client_id="airflow")
    with ManagedIdentityCredential(client_id="rotator") as rotator, SecretClient(vault.url, rotator) as client:
        client.set_secret(NAME, "value")
    with ManagedIdentityCredential(client_id="airflow") as airflow, SecretClient(vault.url, airflow) as client:
        assert client.get_secret(NAME).value == "value"
        with pytest.raises(HttpResponseError, match="not authorized"):
            client.set_secret(NAME, "new")


def test_throttling_counts_writes_and_other_requests_apart(vault: KeyVault, client: SecretClient) -> None:
    """429 Throttled beyond the limit within ten seconds; what was refused does not count."""
    vault.throttle(creates=2, others=3)
    for _ in range(2):
        client.set_secret(NAME, "value")
    for _ in range(5):
        with pytest.raises(HttpResponseError) as caught:
            client.set_secret(NAME, "value", retry_total=0)
        assert code(caught.value) == (429, "Throttled", None)
    assert client.get_secret(NAME).value == "value"
    vault.clock.advance(timedelta(seconds=10))
    client.set_secret(NAME, "value")
    assert len(vault.versions(NAME)) == 3


# --- Faults


def test_a_failure_before_the_commit_leaves_nothing(vault: KeyVault, client: SecretClient) -> None:
    """The SDK repeats the request, so one version is made."""
    fault = vault.fail(method="PUT", path=NAME, status=503)
    client.set_secret(NAME, "value")
    assert (fault.fired, len(vault.versions(NAME))) == (1, 1)


@pytest.mark.parametrize("how", [{"status": 503}, {"drop": True}])
def test_a_failure_after_the_commit_makes_the_sdk_write_twice(
    vault: KeyVault, client: SecretClient, how: dict[str, Any]
) -> None:
    """Writing is not idempotent and the SDK repeats it."""
    fault = vault.fail(method="PUT", path=NAME, when="after", **how)
    client.set_secret(NAME, "value")
    assert (fault.fired, len(vault.versions(NAME))) == (1, 2)


@pytest.mark.parametrize("how", [{"status": 503}, {"drop": True}])
def test_without_repeating_a_lost_answer_leaves_one_version(
    vault: KeyVault, client: SecretClient, how: dict[str, Any]
) -> None:
    """The caller does not know, and reads back."""
    vault.fail(method="PUT", path=NAME, when="after", **how)
    with pytest.raises(AzureError):
        client.set_secret(NAME, "value", retry_total=0)
    assert client.get_secret(NAME).value == "value"
    assert len(vault.versions(NAME)) == 1


def test_a_dropped_request_before_the_commit_leaves_nothing(vault: KeyVault, client: SecretClient) -> None:
    """The log knows of it, without a status."""
    vault.fail(method="PUT", drop=True)
    with pytest.raises(AzureError):
        client.set_secret(NAME, "value", retry_total=0)
    assert vault.versions(NAME) == ()
    assert vault.requests[-1].status is None


def test_a_slow_answer_runs_into_the_clients_time_out(vault: KeyVault, client: SecretClient) -> None:
    """And the write has happened."""
    vault.fail(method="PUT", delay=0.3, when="after")
    with pytest.raises(AzureError):
        client.set_secret(NAME, "value", retry_total=0, read_timeout=0.1)
    assert len(vault.versions(NAME)) == 1


def test_a_request_that_is_late_takes_effect_when_it_lands(vault: KeyVault, client: SecretClient) -> None:
    """A write that its client has given up, and that another has overtaken."""
    late = vault.fail(method="PUT", when="later", drop=True)
    with pytest.raises(AzureError):
        client.set_secret(NAME, "late", retry_total=0)
    client.set_secret(NAME, "in time")
    assert [version.value for version in vault.versions(NAME)] == ["in time"]
    assert late.land() == 1
    assert [version.value for version in vault.versions(NAME)] == ["in time", "late"]
    assert late.land() == 0


def test_a_gateways_page_is_no_answer(vault: KeyVault, client: SecretClient) -> None:
    """With a status that says success, too: the SDK's error is not one of its own then."""
    vault.fail(method="PUT", status=200, body="<html>", when="after")
    with pytest.raises(json.JSONDecodeError):
        client.set_secret(NAME, "value")
    assert vault.current(NAME).value == "value"


def test_a_fault_is_met_only_where_and_as_often_as_it_was_asked_for(vault: KeyVault, client: SecretClient) -> None:
    """By method, path, number, and after some that pass; the SDK's first, challenged request never meets one."""
    fault = vault.fail(method="GET", path="/secrets/b$", status=403, times=2, skip=1)
    for name in ("a", "b"):
        client.set_secret(name, name)
        client.get_secret(name)
    for _ in range(2):
        with pytest.raises(HttpResponseError) as caught:
            client.get_secret("b")
        assert code(caught.value) == (403, "Forbidden", None)
    assert client.get_secret("b").value == "b"
    assert fault.fired == 2


def test_a_lasting_fault_ends_when_it_is_removed(vault: KeyVault, client: SecretClient) -> None:
    """An outage."""
    vault.put(NAME, "value")
    outage = vault.fail(status=503, times=None)
    for _ in range(3):
        with pytest.raises(HttpResponseError):
            client.get_secret(NAME, retry_total=0)
    outage.remove()
    assert client.get_secret(NAME).value == "value"
    assert outage.fired == 3


def test_a_fault_carries_headers_and_a_code(vault: KeyVault, client: SecretClient) -> None:
    """The SDK obeys Retry-After."""
    vault.put(NAME, "value")
    vault.fail(status=429, headers={"Retry-After": "1"})
    assert client.get_secret(NAME).value == "value"
    vault.fail(status=409, code="Conflict")
    with pytest.raises(ResourceExistsError) as caught:
        client.get_secret(NAME)
    assert code(caught.value) == (409, "Conflict", None)


def test_another_writer_can_come_in_between(vault: KeyVault, client: SecretClient) -> None:
    """Right after our write and before its answer."""
    vault.fail(method="PUT", when="after", run=lambda: vault.put(NAME, "theirs"))
    written = client.set_secret(NAME, "ours")
    assert written.value == "ours"
    assert client.get_secret(NAME).value == "theirs"


def test_a_refused_write_is_no_commit(vault: KeyVault, client: SecretClient) -> None:
    """A fault after the commit waits for a request that succeeds."""
    fault = vault.fail(method="PUT", status=503, when="after")
    with pytest.raises(HttpResponseError):
        client.set_secret("in_valid", "value")
    vault.throttle(creates=0)
    with pytest.raises(HttpResponseError):
        client.set_secret(NAME, "value", retry_total=0)
    assert fault.fired == 0


# --- The log


def test_the_log_holds_neither_values_nor_tokens(vault: KeyVault, client: SecretClient) -> None:
    """Method, path and status are all; nor does a version print its value."""
    client.set_secret(NAME, "confidential", tags={"a": "b"})
    client.get_secret(NAME)
    told = repr((vault.requests, vault.identity.requests, vault.versions(NAME), vault.current(NAME), vault.events))
    assert vault.identity.issued
    assert not any(secret in told for secret in ("confidential", *vault.identity.issued))


def test_requests_are_counted_from_a_mark(vault: KeyVault, client: SecretClient) -> None:
    """By method and path, the slash of an omitted version taken away."""
    client.set_secret(NAME, "value")
    mark = len(vault.requests)
    client.get_secret(NAME)
    (request,) = vault.requests_since(mark)
    assert (request.method, request.path, request.status) == ("GET", f"/secrets/{NAME}", 200)
    assert vault.requests_since(mark, method="PUT") == vault.requests_since(mark, path="other") == ()


def test_without_http_the_same_rules_hold(vault: KeyVault) -> None:
    """Arranging a test cannot make what the service would not allow."""
    vault.put(NAME, "value")
    vault.delete(NAME)
    with pytest.raises(KeyVaultError, match="recoverable"):
        vault.put(NAME, "new")
    with pytest.raises(KeyVaultError, match="not found"):
        vault.current(NAME)


# --- Events


def test_a_new_version_is_announced(vault: KeyVault, client: SecretClient) -> None:
    """With the fields of Event Grid's schema, under the names that the service gives them."""
    expires = soon(90)
    version = client.set_secret(NAME, "value", expires_on=expires).properties.version
    (event,) = vault.events
    assert set(event) == {
        *("id", "topic", "subject", "eventType", "eventTime", "data", "dataVersion", "metadataVersion"),
    }
    assert event["subject"] == NAME
    assert event["eventType"] == "Microsoft.KeyVault.SecretNewVersionCreated"
    assert event["topic"].endswith("/providers/Microsoft.KeyVault/vaults/sandbox")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", event["eventTime"])
    assert event["data"] == {
        "Id": f"{vault.url}/secrets/{NAME}/{version}",
        "VaultName": "sandbox",
        "ObjectType": "Secret",
        "ObjectName": NAME,
        "Version": version,
        "NBF": None,
        "EXP": int(expires.timestamp()),
    }


def test_near_expiry_is_raised_once_thirty_days_before(vault: KeyVault) -> None:
    """Day 60 of 90: one SecretNearExpiry; day 90: one SecretExpired."""
    vault.put(NAME, "value", expires_on=soon(90))
    seen = []
    for _ in range(10):
        vault.clock.advance(10 * DAY)
        seen.append(kinds(vault.tick()))
    assert seen == [[], [], [], [], [], ["SecretNearExpiry"], [], [], ["SecretExpired"], []]


def test_a_near_expiry_date_is_raised_at_once(vault: KeyVault) -> None:
    """A version that ends within thirty days: who rotates on it without looking loops."""
    vault.put(NAME, "value", expires_on=soon(1))
    assert kinds(vault.tick()) == ["SecretNearExpiry"]
    assert kinds(vault.tick()) == []
    vault.put(NAME, "value", expires_on=soon(1))
    assert kinds(vault.tick()) == ["SecretNearExpiry"]


def test_only_the_current_version_expires(vault: KeyVault) -> None:
    """An older version raises nothing; nor does a deleted secret."""
    vault.put(NAME, "old", expires_on=soon(40))
    vault.put(NAME, "new")
    vault.put("deleted", "value", expires_on=soon(40))
    vault.delete("deleted")
    vault.clock.advance(50 * DAY)
    assert kinds(vault.tick()) == []


def test_a_disabled_version_expires_too(vault: KeyVault) -> None:
    """As users found (azure-docs#63553)."""
    vault.put(NAME, "value", expires_on=soon(1), enabled=False)
    assert kinds(vault.tick()) == ["SecretNearExpiry"]


def test_a_version_older_than_the_subscription_is_silent(vault: KeyVault) -> None:
    """Only the sweep finds it."""
    vault.put(NAME, "value", expires_on=soon(1), silent=True)
    vault.clock.advance(2 * DAY)
    assert vault.tick() == vault.events == ()


def test_a_new_expiry_date_raises_anew(vault: KeyVault) -> None:
    """UNVERIFIED on Azure: the stand-in assumes that changing `exp` re-arms the events; changing tags does not."""
    vault.put(NAME, "value", expires_on=soon(1))
    vault.tick()
    vault.update(NAME, tags={"a": "b"})
    assert kinds(vault.tick()) == []
    vault.update(NAME, expires_on=soon(2))
    assert kinds(vault.tick()) == ["SecretNearExpiry"]


def test_no_request_waits_for_who_listens(folder: Path) -> None:
    """The listener is called in a thread of its own, in order, and may itself ask the vault; its errors end nothing."""
    listening, heard = threading.Event(), []

    def listen(event: dict[str, Any]) -> None:
        listening.wait(10)
        heard.append((event["subject"], opened.current(event["subject"]).value))
        if event["subject"] == "a":
            raise LookupError("a listener's own error")

    with KeyVault(folder, on_event=listen) as opened, opened.client() as client:
        client.set_secret("a", "1")
        client.set_secret("b", "2")
        assert heard == []
        with pytest.raises(TimeoutError):
            opened.flush(seconds=0.05)
        listening.set()
        opened.flush()
        assert heard == [("a", "1"), ("b", "2")]


def test_a_live_vault_looks_at_its_clock_by_itself(folder: Path) -> None:
    """Each second."""
    heard = threading.Event()

    def listen(event: dict[str, Any]) -> None:
        if event["eventType"].endswith("SecretNearExpiry"):
            heard.set()

    with KeyVault(folder, on_event=listen, live=True) as opened:
        opened.put(NAME, "value", expires_on=soon(1))
        assert heard.wait(5)


# --- Cost


def test_a_request_takes_milliseconds(vault: KeyVault, client: SecretClient) -> None:
    """Nagle's algorithm would make it 44 ms each, and a suite slow."""
    client.set_secret(NAME, "value")
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        client.get_secret(NAME)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.02
    assert len(vault.identity.issued) == 1


def test_writers_at_the_same_time_lose_nothing(vault: KeyVault) -> None:
    """Eight clients, each with a connection of its own; the last written is the latest."""

    def write(writer: int) -> None:
        with vault.client() as client:
            for number in range(5):
                client.set_secret(NAME, f"{writer}-{number}")

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {v.value for v in vault.versions(NAME)} == {f"{w}-{n}" for w in range(8) for n in range(5)}
    assert vault.current(NAME) == vault.versions(NAME)[-1]


def soon(days: float = 1) -> datetime:
    """Return a time so many days from now, in whole seconds."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


def kinds(events: tuple[dict[str, Any], ...]) -> list[str]:
    return [event["eventType"].removeprefix("Microsoft.KeyVault.") for event in events]


def vault_token(vault: KeyVault) -> str:
    return vault.identity.issue(vault.resource).value
