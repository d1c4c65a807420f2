"""Whose policy a version without tags inherits."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from rotators.credential import Password
from rotators.reconciliation import managed_before, versions_before
from rotators.vault import SecretVersion

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def version(name: str, *, is_managed: bool, is_edited: bool = False) -> SecretVersion:
    tags = {"rotation-strategy": "single-user"} if is_managed else {}
    return SecretVersion("a", name, Password(""), tags, None, True, NOW, None, is_edited)


@pytest.mark.parametrize("turn", [1, -1])
def test_tags_that_were_taken_away_count_though_another_version_came_in_the_same_second(turn: int) -> None:
    """P6: Key Vault lists versions in no order, and tells their time in whole seconds."""
    listed = [version("1", is_managed=True), version("2", is_managed=False, is_edited=True)][::turn]
    systems = SimpleNamespace(vault=SimpleNamespace(versions=lambda _: listed))
    before = versions_before(systems, version("3", is_managed=False))  # type: ignore[arg-type]
    assert managed_before(before) is None
