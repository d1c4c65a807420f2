"""The custom role of infra/ against what real rotations ask of Key Vault."""

from datetime import timedelta

from rotators import api
from rotators.dispatch import deliver, sweep
from rotators.rotation import rotate
from sandbox.faults import LoggedRequest
from tests.infra.test_contract import ROTATOR, SECRETS
from tests.world import World

NEW_VERSION = "Microsoft.KeyVault.SecretNewVersionCreated"


def data_action(request: LoggedRequest) -> str:
    """Return what a request has to be allowed, by Key Vault's table of operations."""
    parts = [part for part in request.path.split("/") if part]
    match request.method, parts:
        case "GET", ["secrets"] | ["secrets", _, "versions"]:
            action = "readMetadata"
        case "GET", ["secrets", _] | ["secrets", _, _]:
            action = "getSecret"
        case "PUT", ["secrets", _]:
            action = "setSecret"
        case "PATCH", ["secrets", _, _]:
            action = "update"
        case _:
            action = f"{request.method} {request.path}"
    return f"{SECRETS}/{action}/action"


def everything_that_is_done_to_a_vault(here: World) -> None:
    name = here.alternating()
    deliver(here.systems, here.near_expiry(name))
    here.make_due()
    deliver(here.systems, here.near_expiry(name))
    here.clock.advance(timedelta(hours=25))
    sweep(here.systems)  # retires: the old version is disabled
    here.vault.put(name, here.value(name))  # by hand, without tags: they are inherited
    deliver(here.systems, here.event(NEW_VERSION, name))
    rotate(here.systems, here.trigger(here.single(), revoke=True, force=True))
    api.update(here.systems, name, b'{"enabled": false}', {})
    api.show(here.systems, name)
    api.show_history(here.systems, name, "https://app/api", {})
    api.list_secrets(here.systems, "https://app/api", {})
    api.check(here.systems, name)
    api.health(here.systems)


def test_the_role_allows_what_the_program_asks_of_the_vault_and_no_more(here: World) -> None:
    """An action too few and a rotation fails half-way; one too many and a stolen token can do it too (P6)."""
    mark = len(here.vault.requests)
    everything_that_is_done_to_a_vault(here)
    assert {data_action(request) for request in here.vault.requests_since(mark)} == ROTATOR
