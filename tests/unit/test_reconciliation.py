"""Whose policy a version without tags inherits."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from rotators.credential import Password
from rotators.policy import STATE_TAG, RotationState
from rotators.reconciliation import managed_before, versions_before
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def version(name: str, *, is_managed: bool, is_edited: bool = False, is_enabled: bool = True) -> SecretVersion:
    tags = {"rotation-strategy": "single-user"} if is_managed else {}
    return SecretVersion("a", name, Password(""), tags, None, is_enabled, NOW, None, is_edited)


def before(listed: list[SecretVersion]) -> list[SecretVersion]:
    systems = SimpleNamespace(vault=SimpleNamespace(versions=lambda _: listed))
    return versions_before(systems, version("3", is_managed=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("turn", [1, -1])
def test_tags_that_were_taken_away_count_though_another_version_came_in_the_same_second(turn: int) -> None:
    """P6: Key Vault lists versions in no order, and tells their time in whole seconds."""
    listed = [version("1", is_managed=True), version("2", is_managed=False, is_edited=True)][::turn]
    assert managed_before(before(listed)) is None


@pytest.mark.parametrize("turn", [1, -1])
def test_what_was_retired_is_older_than_another_version_of_the_same_second(turn: int) -> None:
    """P6: the program disables the version of before and never the newest, so its state does not speak for the one."""
    state = RotationState("1", "reconcile", "key", None, NOW).as_tag()
    retired = version("1", is_managed=True, is_edited=True, is_enabled=False)
    retired = replace(retired, tags={**retired.tags, STATE_TAG: state})
    listed = [retired, version("2", is_managed=False, is_edited=True)][::turn]
    assert managed_before(before(listed)) is None
