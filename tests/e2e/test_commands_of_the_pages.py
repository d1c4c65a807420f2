"""Each curl command in the pages does what it is there for, as it stands there, on the Functions host."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotators.rotation import rotate
from sandbox.functions_host import FunctionsHost
from tests.e2e.test_end_to_end import APP
from tests.world import World

ROOT = Path(APP)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
# The names that the pages have for what is here.
SECRET, SERVER = "airflow-connections-warehouse", "db.example.com"
# Stops at what curl would only print, and knows what Debian has in a package of its own.
PRELUDE = "set -euo pipefail; uuidgen() { cat /proc/sys/kernel/random/uuid; }; "


def commands() -> list[tuple[str, str]]:
    """Return each command with the page that it is in: a line, and those that it goes on in."""
    found = {
        (page.name, re.sub(r"\n\s+", "\n", command)): None
        for page in PAGES
        for command in re.findall(r"^ *(curl (?:.*(?:\\|\|)\n)*.*)$", page.read_text(), re.MULTILINE)
    }
    return list(found)


@pytest.fixture
def host(here: World) -> Iterator[FunctionsHost]:
    with FunctionsHost(APP, environment=here.vault.environment()) as started:
        yield started


def test_every_curl_command_is_answered_well(here: World, host: FunctionsHost, tmp_path: Path) -> None:
    """P7 begins with what people copy: no option, route, body or filter in it is mistyped."""
    if missing := [program for program in ("bash", "curl", "jq") if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)}: not installed, so the commands of the pages are not tried")
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    environment = {
        **os.environ,
        "CURL_HOME": str(tmp_path),
        "APP": f"http://127.0.0.1:{host.port}",
        "KEY": host.function_key,
    }
    tried = commands()
    assert len(tried) > 10
    for page, command in tried:
        name = here.alternating()
        if "/rollback" in command:
            rotate(here.systems, here.trigger(name))
        text = command.replace(SECRET, name).replace(SERVER, "127.0.0.1")
        done = subprocess.run(  # noqa: S603 (what the pages say)
            [shutil.which("bash") or "", "-c", PRELUDE + text],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{page}: {command}\n{done.stdout}"
        assert done.stdout.strip(), f"{page}: {command}"
        assert "jq" not in command or not re.search(r"\bnull\b", done.stdout), f"{page}: {command}\n{done.stdout}"
