"""Plots of scale, as SVG."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

type Line = Sequence[tuple[float, float]]
"""Points, from left to right."""

# Text stays text, and the same figures give the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "credential-rotation", "font.family": "sans-serif"})


@dataclass(frozen=True, slots=True)
class Frame:
    """A title, what the axes tell with their units, and whether both are logarithmic."""

    title: str
    x: str
    y: str
    is_log: bool = False


def plot(frame: Frame, lines: Mapping[str, Line], limits: Mapping[str, Line] | None = None) -> str:
    """Return, as SVG, what was measured, by name, and what sets a limit to it, dashed."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.add_subplot(title=frame.title, xlabel=frame.x, ylabel=frame.y)
    for name, line in lines.items():
        axes.plot(*zip(*line, strict=True), marker="o", label=name)
    for name, line in (limits or {}).items():
        axes.plot(*zip(*line, strict=True), linestyle="--", color="dimgray", label=name)
    if frame.is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        # Between what was measured there may be nothing: no half instances.
        axes.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"
