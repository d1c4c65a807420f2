"""Events in: what Event Grid brings, read tolerantly, and refused with a clear word."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rotators.decision import Trigger, TriggerKind
from rotators.errors import BadRequestError
from rotators.events import EventIn, read_event, requested
from rotators.policy import is_secret_name

NEAR_EXPIRY = "Microsoft.KeyVault.SecretNearExpiry"
ID = "https://rotation.vault.azure.net/secrets/warehouse/0123456789abcdef0123456789abcdef"
VERSION = "0123456789abcdef0123456789abcdef"
EXAMPLES = settings(max_examples=30, deadline=None)


def event(data: object, kind: str = NEAR_EXPIRY, event_id: str = "event-1") -> EventIn:
    return EventIn(id=event_id, type=kind, data=data)


def read(data: object, kind: str = NEAR_EXPIRY) -> Trigger:
    return read_event(event(data, kind))[1]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Microsoft.KeyVault.SecretNearExpiry", "near-expiry"),
        ("Microsoft.KeyVault.SecretExpired", "expired"),
        ("Microsoft.KeyVault.SecretNewVersionCreated", "new-version"),
        ("SecretRotation.Requested", "requested"),
        (" microsoft.keyvault.SECRETNEAREXPIRY ", "near-expiry"),
    ],
)
def test_each_type_of_the_contract_is_understood(kind: str, expected: TriggerKind) -> None:
    """The four types, whatever their letters' case."""
    assert read_event(event({"Id": ID}, kind)) == (
        ID,
        Trigger(
            kind=expected,
            secret="warehouse",
            id="event-1",
            by="event-grid",
            version=VERSION,
            is_repeatable=expected == "requested",
        ),
    )


@pytest.mark.parametrize(
    "data",
    [
        {"Id": ID},
        {"id": ID},
        {" Id ": f"  {ID}\n"},
        # As Microsoft publishes it, stray blanks and numbers as texts included.
        {
            "Id": f"{ID} ",
            "VaultName": "rotation",
            "ObjectType": "Secret",
            "ObjectName ": " other",
            "Version": " ",
            "NBF": "1559081980",
            "EXP": 1559082102,
        },
        {"Id": f"{ID}/"},
        {"Id": "https://rotation.vault.azure.net:443/Secrets/warehouse/" + VERSION},
    ],
)
def test_name_and_version_come_from_the_id(data: Mapping[str, object]) -> None:
    """Whatever else stands there, and however it is written."""
    trigger = read(data)
    assert (trigger.secret, trigger.version) == ("warehouse", VERSION)


def test_a_request_of_ours_says_why_and_by_whom() -> None:
    """`Requested` carries Cause, By and Force besides."""
    data = {"Id": ID, "Cause": "a server was broken into", "By": "security", "Force": True}
    trigger = read(data, "SecretRotation.Requested")
    assert (trigger.kind, trigger.by, trigger.force) == ("requested", "security", True)
    assert trigger.reason == "a server was broken into"


@pytest.mark.parametrize(
    "asked",
    [
        Trigger(kind="requested", secret="warehouse", id="id-1", by="ann", version=VERSION, is_repeatable=True),
        Trigger(
            kind="requested",
            secret="warehouse",
            id="id-1",
            by="ann",
            version=VERSION,
            force=True,
            revoke=True,
            reason="a server was broken into",
            is_repeatable=True,
        ),
        Trigger(kind="sweep", secret="warehouse", id="id-1", by="timer", version=VERSION),
    ],
)
def test_what_is_handed_out_is_read_as_it_was_asked(asked: Trigger) -> None:
    """By whom, why, with force and revoke: nothing is lost on its way over the topic."""
    sent = requested(asked, ID)
    assert sent.type == "Requested"
    event = EventIn(id=sent.id, type=f"SecretRotation.{sent.type}", data=sent.data)
    assert read_event(event) == (ID, asked)


@pytest.mark.parametrize("kind", [NEAR_EXPIRY, "Microsoft.KeyVault.SecretNewVersionCreated"])
def test_only_a_request_of_ours_may_revoke(kind: str) -> None:
    """P6: who can make Key Vault's events locks nobody out."""
    assert not read({"Id": ID, "Revoke": True}, kind).revoke
    assert not read({"Id": ID, "Revoke": True, "Cause": "sweep"}, "SecretRotation.Requested").revoke
    assert read({"Id": ID, "Revoke": True}, "SecretRotation.Requested").revoke


def test_a_request_of_the_sweep_is_the_sweep() -> None:
    """Handed out, its work is decided on as if it were done at once: only what is due is rotated."""
    trigger = read({"Id": ID, "Cause": "sweep", "By": "timer"}, "SecretRotation.Requested")
    assert (trigger.kind, trigger.by) == ("sweep", "timer")


@pytest.mark.parametrize("force", ["true", 1, None, "yes", [True]])
def test_force_has_to_be_true_itself(force: object) -> None:
    """P4: what skips the grace period is not guessed at."""
    assert not read({"Id": ID, "Force": force}, "SecretRotation.Requested").force


@pytest.mark.parametrize("by", ["", None, 5, ["x"]])
def test_who_asks_is_a_text_or_event_grid(by: object) -> None:
    """The state and the log name somebody in any case."""
    assert read({"Id": ID, "By": by}, "SecretRotation.Requested").by == "event-grid"


def test_what_an_event_says_is_kept_as_far_as_a_log_line_needs_it() -> None:
    """P7: an event may have a megabyte; what is told of it has a line."""
    data = {"Id": ID, "Cause": "c" * 9000, "By": "b" * 9000}
    trigger = read(data, "SecretRotation.Requested")
    assert (trigger.reason, trigger.by) == ("c" * 200, "b" * 200)
    for odd in ("v" * 65, "\u00b2", "\u0663", "0-1"):
        with pytest.raises(BadRequestError) as caught:
            read_event(event({"Id": f"https://v/secrets/warehouse/{odd}"}, event_id="e" * 9000))
        assert str(caught.value).startswith(f"event {'e' * 80!r}: its Id is not https://<vault>")


def test_an_event_without_an_id_has_that_of_its_version() -> None:
    """P4: deliveries of it still make one version."""
    first, second = (read_event(event({"Id": ID}, event_id=""))[1] for _ in range(2))
    assert first.id == second.id != ""


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "Microsoft.KeyVault.KeyNearExpiry",
        "Microsoft.KeyVault.SecretNearExpiry2",
        "SecretRotation.Completed",
        "x" * 999,
    ],
)
def test_an_unknown_type_is_refused(kind: str) -> None:
    """P7: it is named, cut short."""
    with pytest.raises(BadRequestError) as caught:
        read({"Id": ID}, kind)
    assert repr(kind[:80]) in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("data", [None, "x", 5, [], [{"Id": ID}], ID, True])
def test_data_that_is_no_object_is_refused(data: object) -> None:
    """P7: the event is named, and what is wrong with it."""
    with pytest.raises(BadRequestError, match="event 'event-1': its data is not an object"):
        read(data)


@pytest.mark.parametrize("data", [{}, {"Id": None}, {"Id": ""}, {"Id": " "}, {"Id": 5}, {"Id": [ID]}, {"Name": ID}])
def test_a_missing_id_is_refused(data: Mapping[str, object]) -> None:
    """P7: without it nobody knows which secret is meant."""
    with pytest.raises(BadRequestError, match="event 'event-1': its data has no Id"):
        read(data)


MALFORMED = [
    "warehouse",
    "/",
    "https://",
    "https://[",
    "https://[::1",
    "https://vault",
    "https://vault/secrets",
    "https://vault/secrets/warehouse",
    "https://vault/secrets/warehouse/",
    "https://vault/secrets//0123",
    "https://vault/secrets/warehouse/0123/more",
    "https://vault/keys/warehouse/0123",
    "https://vault/secrets/ware_house/0123",
    "https://vault/secrets/ware house/0123",
    "https://vault/secrets/warehouse%2F..%2Fother/0123",
    "https://vault/secrets/../0123",
    "https://vault/secrets/" + "a" * 128 + "/0123",
    "https://vault/secrets/warehouse/01-23",
    "https://vault/secrets/warehouse/?x=0123",
    "https://vault/secrets/warehouse#0123",
    "https://vault/deletedsecrets/warehouse/0123",
]


@pytest.mark.parametrize("identifier", MALFORMED)
def test_a_malformed_id_is_refused(identifier: str) -> None:
    """P6, P7: what it should look like is said; nothing is guessed."""
    with pytest.raises(
        BadRequestError, match="its Id is not https://<vault>/secrets/<name>/<version>; nothing was done"
    ):
        read({"Id": identifier})


@given(
    name=st.from_regex(r"[0-9a-zA-Z-]{1,127}", fullmatch=True), version=st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
)
@EXAMPLES
def test_any_identifier_of_key_vault_is_read(name: str, version: str) -> None:
    """Every name that Key Vault takes, every version that it gives."""
    trigger = read({"Id": f"https://rotation.vault.azure.net/secrets/{name}/{version}"})
    assert (trigger.secret, trigger.version) == (name, version)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
objects = st.fixed_dictionaries({}, optional={"Id": st.sampled_from([*MALFORMED, ID]) | anything, "By": anything})


@given(
    data=objects | anything, kind=st.sampled_from([NEAR_EXPIRY, "SecretRotation.Requested", "x"]), event_id=st.text()
)
@example(data={"Id": ID}, kind=NEAR_EXPIRY, event_id="\ud800")
@EXAMPLES
def test_whatever_comes_is_read_or_refused(data: Any, kind: str, event_id: str) -> None:  # Any: JSON
    """P7: no event ends in a fault of the program, which Event Grid would bring thirty times."""
    try:
        _, trigger = read_event(event(data, kind, event_id))
    except BadRequestError:
        return
    assert is_secret_name(trigger.secret)
    assert trigger.version
    assert 0 < len(trigger.id) <= 64
