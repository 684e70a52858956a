"""Figures of an experiment from stored cells: learning curves, pass@k, and a measure against the rows. SVG and PNG.

The same cells always give the same SVG. A band or a bar is the 95% interval of the mean over seeds by Student's t; a single seed
has none.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.evaluation.statistics import pass_values, spread
from training.experiments.columns import Measure
from training.experiments.stored import CellResult, Point, grades_of
from training.experiments.summary import Line, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Mark", "curve_points", "png", "seed_interval", "svg"]

LEVEL = 0.95
AXES = {"step": "steps", "tokens": "response tokens", "seconds": "seconds of training"}
ENTROPIES = {
    "entropy_mean": "policy entropy (nats)",
    "high_entropy_share": "share of high-entropy tokens",
    "forward_kl_high_entropy": "forward KL at high entropy (nats)",
}
"""Optional numbers of a point of the curve, and their names in a figure."""

Value = Callable[[CellResult, Point], float | None]
"""A cell and a point of its curve -> a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point of a row's curve: the place on the axis, the mean over `seeds` seeds, and its interval (None for one seed)."""

    x: float
    mean: float
    low: float | None
    high: float | None
    seeds: int


def seed_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean over seeds and the ends of its 95% interval by Student's t; None for a single value."""
    from scipy.stats import t

    found = spread(values)
    if found.deviation is None:
        return found.mean, None, None
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * found.deviation / math.sqrt(len(values))
    return found.mean, found.mean - half, found.mean + half


def curve_points(cells: Mapping[int, CellResult], axis: str, value: Value) -> list[Mark]:
    """Return the curve of a row: one point per step at which an evaluation was made, the mean over the seeds that have it. The
    place on the axis is the mean over these seeds, too. Points without the value are left out."""
    found: dict[int, list[tuple[float, float]]] = {}
    for cell in cells.values():
        for point in cell.curve:
            if (number := value(cell, point)) is not None:
                found.setdefault(point.step, []).append((float(getattr(point, axis)), number))
    points = []
    for _, pairs in sorted(found.items()):
        mean, low, high = seed_interval([number for _, number in pairs])
        place = float(np.mean([place for place, _ in pairs]))
        points.append(Mark(x=place, mean=mean, low=low, high=high, seeds=len(pairs)))
    return points


# --- figures -----------------------------------------------------------------------------------------------------


def learning_curves(table: Table) -> Figure | None:
    """Draw each accuracy of the table against steps, tokens and seconds; None without a trained cell."""
    lines = [line for line in table.lines if line.cells]
    measures = [one for one in table.measures if one.problems is not None]
    if not measures or not any(line.kind == "algorithm" for line in lines):
        return None
    figure = _figure(4.2 * len(AXES), 3.4 * len(measures) + 0.6)
    grid = figure.subplots(len(measures), len(AXES), squeeze=False, sharey="row")
    for row, measure in zip(grid, measures, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            _draw_curves(axes, lines, axis, _accuracy(measure))
            axes.set(xlabel=AXES[axis], ylabel=measure.header if axis == "step" else "")
    _legend(figure, grid[0, 0])
    return figure


def entropy_curves(table: Table) -> Figure | None:
    """Draw the entropies of the samples against steps, tokens and seconds; None where no cell has measured them."""
    lines = [line for line in table.lines if line.cells]
    names = [
        name for name in ENTROPIES if any(curve_points(one.cells, "step", _field(name)) for one in lines)
    ]
    if not names:
        return None
    figure = _figure(4.2 * len(names), 4.0)
    grid = figure.subplots(1, len(names), squeeze=False)
    for axes, name in zip(grid[0], names, strict=True):
        _draw_curves(axes, lines, "step", _field(name))
        axes.set(xlabel=AXES["step"], ylabel=ENTROPIES[name])
    _legend(figure, grid[0, 0])
    return figure


def pass_curves(table: Table) -> Figure | None:
    """Draw pass@k of every line for k from 1 to the number of samples; None without a cell."""
    lines = [line for line in table.lines if line.cells]
    if not lines:
        return None
    figure = _figure(6.0, 4.4)
    axes = figure.subplots()
    for place, line in enumerate(lines):
        found = [
            (k, *seed_interval([_pass(cell, k) for cell in line.cells.values()]))
            for k in range(1, 1 + min(int(cell.evaluation["samples"]) for cell in line.cells.values()))
        ]
        points = [Mark(x=k, mean=mean, low=low, high=high, seeds=0) for k, mean, low, high in found]
        _draw(axes, points, line.label, f"C{place % 10}", "--" if line.kind == "baseline" else "-")
    axes.set(xlabel="k", ylabel="pass@k", xscale="log")
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def row_figure(table: Table) -> Figure | None:
    """Draw each measure of the table for its trained rows, in their order, as for the values of one setting; None without a
    cell."""
    lines = [line for line in table.lines if line.kind == "algorithm"]
    measures = [
        one for one in table.measures if any(one.value(cell) is not None for cell in table.cells.values())
    ]
    if not measures or not any(line.cells for line in lines):
        return None
    across = min(3, len(measures))
    figure = _figure(4.2 * across, 3.4 * -(-len(measures) // across))
    grid = figure.subplots(-(-len(measures) // across), across, squeeze=False).flatten()
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    for axes, measure in zip(grid, measures, strict=False):
        _draw_rows(axes, lines, measure)
    return figure


FIGURES: Mapping[str, Callable[[Table], Figure | None]] = {
    "curves": learning_curves,
    "entropy_curves": entropy_curves,
    "pass_curves": pass_curves,
    "rows": row_figure,
}
"""The figures by the names of `views` of an experiment."""


# --- parts of figures --------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _accuracy(measure: Measure) -> Value:
    def value(cell: CellResult, point: Point) -> float | None:
        found = None if measure.problems is None else measure.problems(cell, point)
        return None if found is None else float(found.mean())

    return value


def _field(name: str) -> Value:
    return lambda _cell, point: getattr(point, name)


def _pass(cell: CellResult, k: int) -> float:
    return float(pass_values(grades_of(cell.curve[-1], int(cell.evaluation["samples"])), k).mean())


def _draw_curves(axes: Axes, lines: Sequence[Line], axis: str, value: Value) -> None:
    """Draw the curve of every trained line, and a level of every baseline."""
    for place, line in enumerate(lines):
        points, color = curve_points(line.cells, axis, value), f"C{place % 10}"
        if line.kind == "baseline" and points:
            axes.axhline(points[-1].mean, color=color, linestyle="--", linewidth=1.0, label=line.label)
        elif points:
            _draw(axes, points, line.label, color, "-")
    axes.grid(alpha=0.3)


def _draw(axes: Axes, points: Sequence[Mark], label: str, color: str, style: str) -> None:
    places = [point.x for point in points]
    axes.plot(
        places,
        [point.mean for point in points],
        color=color,
        linestyle=style,
        linewidth=1.2,
        marker=".",
        label=label,
    )
    low = [point.mean if point.low is None else point.low for point in points]
    high = [point.mean if point.high is None else point.high for point in points]
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_rows(axes: Axes, lines: Sequence[Line], measure: Measure) -> None:
    for place, line in enumerate(lines):
        values = [value for cell in line.cells.values() if (value := measure.value(cell)) is not None]
        if not values:
            continue
        mean, low, high = seed_interval(values)
        axes.plot([place] * len(values), values, ".", color="0.6")
        bars = None if low is None or high is None else [[mean - low], [high - mean]]
        axes.errorbar([place], [mean], bars, fmt="o", color="C0", capsize=3)
    axes.set_xticks(range(len(lines)), [line.label for line in lines], rotation=30, ha="right")
    axes.set_title(measure.header, fontsize=10)
    axes.grid(alpha=0.3)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))), fontsize=8)


# --- files -------------------------------------------------------------------------------------------------------


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "sure-math", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return b"\n".join(line.rstrip() for line in buffer.getvalue().split(b"\n"))


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
