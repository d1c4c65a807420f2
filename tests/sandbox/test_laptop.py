"""What `make sandbox` leaves for `make start`."""

import json
from pathlib import Path

import pytest

from sandbox import laptop
from sandbox.laptop import Laptop


@pytest.mark.parametrize("is_installed", [True, False])
def test_func_needs_no_azurite(is_installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timer would, so it is off; the sandbox's own host has no storage, and a timer."""
    monkeypatch.setattr(laptop, "ROOT", tmp_path)
    monkeypatch.setattr(Laptop, "settings", lambda _: {"KEY_VAULT_URL": "https://v"})
    monkeypatch.setenv("PATH", str(tmp_path))
    if is_installed:
        (tmp_path / "func").touch(mode=0o755)
    values = json.loads(Laptop().write_local_settings().read_text())["Values"]
    assert values["KEY_VAULT_URL"] == "https://v"
    assert values.get("AzureWebJobs.rotation_sweep.Disabled") == ("true" if is_installed else None)
