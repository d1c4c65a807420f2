"""What a benchmark gives: its part of the results, and the plots that it shows there."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class BenchmarkError(Exception):
    """A contestant did not do what it is measured for, so its time says nothing."""


@dataclass(frozen=True, slots=True)
class Section:
    """Markdown that begins with a heading of the second level, and SVG by file name.

    The text names a plot as `plots/<file name>`.
    """

    text: str
    plots: Mapping[str, str] = field(default_factory=dict)
