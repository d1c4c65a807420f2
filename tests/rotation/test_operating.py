"""What an operator does besides: pause and resume, look at histories and lists, live with maintenance windows."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rotators import api
from rotators.dispatch import deliver, sweep
from rotators.errors import BadRequestError, PolicyError, SecretNotFoundError, TransientError
from rotators.paging import next_link
from rotators.pause import set_enabled
from rotators.policy import read_state
from rotators.rotation import rotate
from rotators.vault import Vault
from tests.world import World

URL = "https://app.example/api/x?code=k3y"


def shown(answer: api.Answer) -> Any:  # JSON
    assert answer.status == 200
    return json.loads(answer.text)


# -- Pause and resume --------------------------------------------------------------------------------------------


def test_pausing_writes_one_tag_and_nothing_else(here: World, caplog: pytest.LogCaptureFixture) -> None:
    """P6; and who did it is in the log."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    before = here.vault.current(name)
    caplog.set_level(logging.INFO, "rotators")
    paused = set_enabled(here.systems, name, enabled=False, by="ann")
    after = here.vault.current(name)
    assert after.tags == {**before.tags, "rotation-enabled": "false"} == dict(paused.tags)
    assert (after.version, after.value, after.expires_on, after.enabled) == (
        before.version,
        before.value,
        before.expires_on,
        True,
    )
    assert json.loads(caplog.messages[-1]) == {
        "event": "paused",
        "secret": name,
        "version": after.version,
        "by": "ann",
    }
    here.make_due()
    sweep(here.app(topic=None).systems)
    assert len(here.versions(name)) == 2
    set_enabled(here.systems, name, enabled=True, by="ann")
    sweep(here.app(topic=None).systems)
    assert len(here.versions(name)) == 3


@pytest.mark.parametrize("enabled", [True, False])
def test_pausing_twice_writes_once(here: World, *, enabled: bool) -> None:
    name = here.alternating(rotation_enabled="true" if enabled else "false")
    for _ in range(2):
        set_enabled(here.systems, name, enabled=enabled, by="ann")
    assert not [request for request in here.vault.requests if request.method == "PATCH"]


def test_a_secret_whose_policy_is_wrong_can_be_paused(here: World) -> None:
    """That it is wrong is a reason to."""
    name = here.alternating(rotation_every="often", rotation_enabled="nonsense")
    assert set_enabled(here.systems, name, enabled=False, by="ann").tags["rotation-enabled"] == "false"


def test_what_is_not_under_rotation_is_not_touched(here: World) -> None:
    """P6."""
    name = here.secret(here.user(), {"owner": "finance"})
    with pytest.raises(PolicyError, match="not under rotation"):
        set_enabled(here.systems, name, enabled=False, by="ann")
    assert here.tags(name) == {"owner": "finance"}
    with pytest.raises(SecretNotFoundError):
        set_enabled(here.systems, "nobody-knows-it", enabled=False, by="ann")


def test_a_secret_without_room_for_the_tag_says_so(here: World) -> None:
    """P7: Key Vault takes 15."""
    name = here.alternating(**{f"note{n}": "x" for n in range(12)})
    with pytest.raises(PolicyError, match="16 tags"):
        set_enabled(here.systems, name, enabled=False, by="ann")


def test_a_pause_holds_although_a_rotation_crosses_it(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key Vault has no compare-and-set: the version that came meanwhile is paused too."""
    name = here.alternating()
    write = Vault.write_tags

    def cross(*args: Any) -> None:
        monkeypatch.setattr(Vault, "write_tags", write)
        rotate(here.systems, here.trigger(name))
        write(*args)

    monkeypatch.setattr(Vault, "write_tags", cross)
    set_enabled(here.systems, name, enabled=False, by="ann")
    assert len(here.versions(name)) == 2
    assert here.tags(name)["rotation-enabled"] == "false"


def test_a_pause_that_never_holds_is_not_called_done(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vault, "write_tags", lambda *_: None)
    with pytest.raises(TransientError, match="try again"):
        set_enabled(here.systems, here.alternating(), enabled=False, by="ann")


# -- History -----------------------------------------------------------------------------------------------------


def history(here: World, name: str, **query: str) -> Any:  # JSON
    return shown(api.show_history(here.systems, name, URL, query))


def test_a_history_tells_each_version_and_never_a_value(here: World) -> None:
    """When, why, by whom, which user, retired or not; P3; one list and one value are read for it."""
    name = here.alternating()
    first = here.user_of(name)
    rotate(here.systems, here.trigger(name, by="ann", reason="quarterly"))
    rotate(here.systems, here.trigger(name, "rollback", by="bob"))
    here.clock.advance(timedelta(hours=25))
    sweep(here.app(topic=None).systems)
    before = len(here.vault.requests)
    answer = history(here, name)
    assert len(here.vault.requests_since(before)) == 2
    entries = answer["value"]
    assert [(e["cause"], e["by"], e["reason"], e["user"], e["retired"]) for e in entries] == [
        ("rollback", "bob", None, first, False),
        ("http", "ann", "quarterly", f"{first}_alt", True),
        ("by hand", None, None, first, True),
    ]
    assert [e["version"] for e in entries] == [v.version for v in reversed(here.versions(name))]
    assert answer["nextLink"] is None
    for version in here.versions(name):
        assert version.value.split(":")[2].split("@")[0] not in json.dumps(answer)


def test_no_value_is_read_of_what_is_not_under_rotation(here: World) -> None:
    """P6: a history names nobody who did not opt in."""
    name = here.secret(here.user(), {})
    assert [entry["user"] for entry in history(here, name)["value"]] == [None]
    assert {request.path for request in here.vault.requests} == {f"/secrets/{name}/versions"}


def test_a_long_history_comes_in_pages(here: World) -> None:
    name = here.single(rotation_admin="self")
    for _ in range(4):
        rotate(here.systems, here.trigger(name))
    pages: list[list[str]] = []
    query = {"maxresults": "2"}
    while True:
        page = history(here, name, **query)
        pages.append([entry["version"] for entry in page["value"]])
        if page["nextLink"] is None:
            break
        assert "k3y" not in page["nextLink"]
        query = dict(parse_qsl(urlsplit(page["nextLink"]).query))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [version for page in pages for version in page] == [v.version for v in reversed(here.versions(name))]


def test_a_history_can_be_read_while_the_secret_cannot(here: World) -> None:
    """Just then somebody looks here."""
    name = here.alternating()
    rotate(here.systems, here.trigger(name))
    here.systems.vault.disable(name, here.vault.current(name).version)
    assert [entry["user"] for entry in history(here, name)["value"]] == [None, None]
    unreadable = here.alternating("not a connection")
    assert [entry["user"] for entry in history(here, unreadable)["value"]] == [None]
    with pytest.raises(SecretNotFoundError):
        history(here, "nobody-knows-it")


# -- The list ----------------------------------------------------------------------------------------------------


def listed(here: World, query: Mapping[str, str]) -> Any:  # JSON
    return shown(api.list_secrets(here.systems, URL, query))


def test_the_list_comes_in_pages_and_costs_no_request_for_each(here: World) -> None:
    """60 secrets, 50 of them under rotation: each once, and a page of the vault's is read at most twice."""
    here.admin()
    managed = {f"managed-{n:02}" for n in range(50)}
    for name in [*managed, *(f"other-{n}" for n in range(9))]:
        tags = {"rotation-strategy": "single-user"} if name in managed else {}
        here.vault.put(name, "postgresql://app:x@db/d", tags=tags)
    names: list[str] = []
    query: dict[str, str] = {"maxresults": "20"}
    before = len(here.vault.requests)
    while True:
        page = listed(here, query)
        assert len(page["value"]) <= 20
        names += [secret["secret"] for secret in page["value"]]
        if page["nextLink"] is None:
            break
        query = dict(parse_qsl(urlsplit(page["nextLink"]).query))
    assert sorted(names) == sorted(managed)
    assert len(names) == 50
    assert {request.path for request in here.vault.requests_since(before)} == {"/secrets"}
    assert len(here.vault.requests_since(before)) <= 6
    before = len(here.vault.requests)
    assert len(listed(here, {})["value"]) == 50
    assert len(here.vault.requests_since(before)) == 3


def test_a_vault_full_of_other_secrets_is_read_a_part_at_a_time(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Azure's own lists, a page may be empty and lead on."""
    monkeypatch.setattr(api, "_PAGES_READ", 1)
    for number in range(30):
        here.vault.put(f"a-{number:02}", "x")
    here.vault.put("b", "postgresql://app:x@db/d", tags={"rotation-strategy": "single-user"})
    page = listed(here, {})
    assert page["value"] == []
    rest = listed(here, dict(parse_qsl(urlsplit(page["nextLink"]).query)))
    assert [secret["secret"] for secret in rest["value"]] == ["b"]
    assert rest["nextLink"] is None


def test_a_cursor_cannot_send_our_token_elsewhere(here: World) -> None:
    """P6: what a client hands back is a part of a query of ours, never an address."""
    for token in ("https://evil.example/secrets", "&x=https://evil.example", "../deletedsecrets"):
        link = next_link(URL, 5, (token, ""))
        before = len(here.vault.requests)
        with pytest.raises(BadRequestError, match="begin anew"):
            listed(here, dict(parse_qsl(urlsplit(link).query)))
        assert {request.path for request in here.vault.requests_since(before)} == {"/secrets"}


# -- Maintenance windows -----------------------------------------------------------------------------------------


def in_window(here: World, **until: int) -> str:
    """Return a window of an hour that opens so long from now."""
    opens = here.clock.now().astimezone(UTC) + timedelta(**until)
    return f"{opens.minute} {opens.hour} * * * for 1h"


def test_an_event_outside_the_window_is_left_to_the_sweep_that_finds_it_open(here: World) -> None:
    """The whole way: skipped, skipped by the sweep before, taken by the sweep within."""
    there = here.app(topic=None)
    name = here.alternating(rotation_window=in_window(here, hours=3))
    here.make_due()
    deliver(there.systems, here.near_expiry(name))
    sweep(there.systems)
    assert len(here.versions(name)) == 1
    assert shown(api.show(here.systems, name))["status"] == "outside window"
    here.clock.advance(timedelta(hours=3, minutes=1))
    sweep(there.systems)
    assert len(here.versions(name)) == 2
    state = read_state(here.tags(name))
    assert state is not None
    assert state.cause == "sweep"


def test_by_hand_and_by_request_the_window_does_not_count(here: World) -> None:
    there = here.app(topic=None)
    name = here.alternating(rotation_window=in_window(here, hours=3))
    assert rotate(there.systems, here.trigger(name)).status == "rotated"
    assert rotate(there.systems, here.trigger(name, "rollback")).status == "rotated"
    here.clock.advance(timedelta(days=1, minutes=1))
    assert rotate(there.systems, here.trigger(name, "requested")).status == "rotated"


def test_retiring_and_finishing_do_not_wait_for_the_window(here: World) -> None:
    """P2: what was begun inside is ended outside; a grace that is over is over."""
    there = here.app(topic=None)
    name = here.alternating(rotation_window=in_window(here, hours=3))
    rotate(there.systems, here.trigger(name))
    current = here.systems.vault.current(name)
    state = read_state(here.tags(name))
    assert state is not None
    here.clock.advance(timedelta(hours=25))
    sweep(there.systems)
    assert [version.enabled for version in here.versions(name)] == [False, True]
    tags = {**here.tags(name), "rotation-state": state.as_tag().replace('"pending":[]', '"pending":["refresh"]')}
    here.systems.vault.write_tags(name, current.version, tags)
    sweep(there.systems)
    done = read_state(here.tags(name))
    assert done is not None
    assert done.pending == ()


def test_a_window_that_does_not_fit_is_a_warning_on_the_secret(here: World) -> None:
    """P7: before it is missed."""
    soon = datetime(2026, here.clock.now().month, 1, tzinfo=UTC) - timedelta(days=40)
    name = here.alternating(rotation_window=f"7 2 1 {soon.month} * for 5m")
    never, short = shown(api.show(here.systems, name))["warnings"]
    assert "does not open between" in never
    assert "too short for the sweep" in short
    assert shown(api.show(here.systems, here.alternating()))["warnings"] == []
