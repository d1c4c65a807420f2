"""What is deployed: the files that .funcignore leaves."""

import os
import shutil
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parents[2]


def packaged(root: Path = ROOT, *, bytecode: bool = False) -> list[str]:
    """Return the paths of all files that go into the package, as `azd` and `func` choose them.

    Without bytecode, unless asked: what there is of it in a working tree comes and goes.
    """
    ignored = GitIgnoreSpec.from_lines((root / ".funcignore").read_text().splitlines())
    found = []
    for folder, folders, names in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not ignored.match_file(f"{inside / name}/")]
        if not bytecode:
            folders[:] = [name for name in folders if name != "__pycache__"]
        found += [str(inside / name) for name in names if not ignored.match_file(inside / name)]
    return sorted(found)


def unpack(target: Path) -> None:
    """Lay the package out in a folder."""
    for path in packaged():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target / path)
