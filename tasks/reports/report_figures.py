"""Figures of the reports: inline SVG, coloured by the page's style sheet. The same data always give the same text.

No figure is wider than `WIDTH` units, so that a phone of 390 pixels shows its text, of 11 units and more, at 10 pixels or more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from markupsafe import Markup, escape

from tasks.text import counted, visible

MAX_TEXT = 4000  # characters; longer texts are truncated in a report
WIDTH = 360  # units of the widest figure
_PLOT, _LEFT = (
    290,
    52,
)  # width of the plots on [0, 1], and space for the numbers and the name of their vertical axis


def shown(text: str, limit: int = MAX_TEXT) -> str:
    """Make the controls of `text` visible, and truncate it to its first `limit` characters with a note. Does not escape."""
    clean = visible(text[:limit])
    return clean if len(text) <= limit else f"{clean} [... truncated; {len(text):,} characters in total]"


def stacked_bar(parts: Sequence[tuple[str, str, float]], scale: float) -> Markup:
    """Draw a horizontal bar of (style class, label, size) segments; `scale` is the size that fills the full width."""
    drawn, left = [], 0.0
    for style, label, size in parts:
        width = 400.0 * size / scale if scale > 0 else 0.0
        if width > 0:
            rect = f'<rect class="{_style(style)}" x="{left:.2f}" y="0" width="{width:.2f}" height="14">'
            drawn.append(f"{rect}<title>{_label(label)}</title></rect>")
        left += width
    return Markup(
        '<svg class="bar" viewBox="0 0 400 14" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(Markup("".join(drawn)))


def histogram(
    values: Sequence[float], *, top: float, tallest: float, style: str, title: str, bins: int = 16
) -> Markup:
    """Draw the share of `values` in each of `bins` bins on [0, top], with a line at the mean; `tallest` is the share of a bar
    of full height."""
    shares = bin_shares(values, top, bins)
    width, height, left, base = 240, 150, 8, 124
    step, rise = (width - 2 * left) / bins, 100.0
    parts = [_line(left, base, width - left, base, "axis")]
    for index, share in enumerate(shares):
        tall = rise * share / tallest if tallest > 0 else 0.0
        edges = f"{top * index / bins:.2f} to {top * (index + 1) / bins:.2f} nats"
        tip = f"{edges}: {counted(round(share * len(values)), 'problem')}, {share:.1%}"
        parts.append(_rect(left + index * step + 1, base - tall, step - 2, tall, f"fill {style}", tip))
    if values:
        middle = left + (width - 2 * left) * float(np.mean(values)) / top
        parts += [_line(middle, base - rise - 6, middle, base, "mean")]
    parts += [_text(left, 141, "0", "start"), _text(width - left, 141, f"ln N = {top:.2f}", "end")]
    parts += [_text(width / 2, 141, "nats", "middle")]
    return _svg(width, height, parts, title)


def bin_shares(values: Sequence[float], top: float, bins: int = 16) -> list[float]:
    """Return the share of `values` in each bin of [0, top]; values outside (by rounding) count in the nearest bin."""
    if not values:
        return [0.0] * bins
    places = np.clip((np.asarray(values, dtype=float) / top * bins).astype(int), 0, bins - 1)
    return [float(count) / len(values) for count in np.bincount(places, minlength=bins)]


def interval_rows(
    rows: Sequence[tuple[str, str, float, float, float]],
    *,
    title: str = "Mean weight by tier with 95% intervals",
    axis: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """Draw one line per row of (style class, label, mean, low, high): a dot with its interval, on `axis`, below its label."""
    left, span, height = 14, WIDTH - 28, 40 * len(rows) + 30

    def at(value: float) -> float:
        return left + span * (value - axis[0]) / (axis[1] - axis[0])

    parts = []
    for step in range(5):
        tick = axis[0] + (axis[1] - axis[0]) * step / 4
        parts += [
            _line(at(tick), 6, at(tick), height - 24, "grid"),
            _text(at(tick), height - 8, f"{tick:.3g}", "middle"),
        ]
    for number, (style, label, mean, low, high) in enumerate(rows):
        line = 40 * number + 30
        tip = f"{label}: {mean:.3f} ({low:.3f} to {high:.3f})"
        parts.append(_text(left, line - 14, label, "start", "name"))
        parts.append(_text(left + span, line - 14, f"{mean:.3f}", "end"))
        parts.append(_line(at(low), line, at(high), line, f"whisker {style}"))
        dot = f'<circle class="fill {_style(style)}" cx="{at(mean):.2f}" cy="{line}" r="6">'
        parts.append(f"{dot}<title>{_label(tip)}</title></circle>")
    return _svg(WIDTH, height, parts, title)


def roc_curve(scores: Sequence[float], positives: Sequence[bool], what: str = "majorities") -> Markup:
    """Draw the ROC curve of `scores` (both classes are required), with the diagonal of a random score. `what` names the items
    that are classified."""
    size, left, top = _PLOT, _LEFT, 10
    points = roc_points(scores, positives)
    path = " ".join(f"{left + size * x:.2f},{top + size * (1 - y):.2f}" for x, y in points)
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"></rect>']
    parts.append(_line(left, top + size, left + size, top, "diagonal"))
    parts.append(f'<polyline class="curve" points="{path}"></polyline>')
    for tick in (0, 0.5, 1):
        parts.append(_text(left + size * tick, top + size + 18, f"{tick:g}", "middle"))
        parts.append(_text(left - 8, top + size * (1 - tick) + 4, f"{tick:g}", "end"))
    parts += _axis_names(left, top, size, size, f"correct {what} flagged", f"wrong {what} flagged")
    return _svg(WIDTH, top + size + 44, parts, "ROC curve of semantic entropy")


def roc_points(
    scores: Sequence[float], positives: Sequence[bool], most: int = 200
) -> list[tuple[float, float]]:
    """Return the points (false positive rate, true positive rate) from (0, 0) to (1, 1), about `most` at most."""
    values, marks = np.asarray(scores, dtype=float), np.asarray(positives, dtype=bool)
    order = np.argsort(-values, kind="stable")
    values, marks = values[order], marks[order]
    ends = np.append(
        np.flatnonzero(np.diff(values)), len(values) - 1
    )  # last row of every run of equal scores
    if len(ends) > most:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).round().astype(int))]
    true, false = np.cumsum(marks)[ends] / marks.sum(), np.cumsum(~marks)[ends] / (~marks).sum()
    return [(0.0, 0.0), *zip(false.tolist(), true.tolist(), strict=True)]


def wrong_by_entropy(scores: Sequence[float], wrong: Sequence[bool], *, top: float, bins: int = 8) -> Markup:
    """Draw the share of wrong majority answers in each bin of semantic entropy; bins without problems stay empty."""
    values, marks = np.asarray(scores, dtype=float), np.asarray(wrong, dtype=bool)
    places = np.clip((values / top * bins).astype(int), 0, bins - 1)
    left, base, rise = 44, 262, 240.0
    right = WIDTH - 18
    step = (right - left) / bins
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line(left, base - rise * tick, right, base - rise * tick, "grid"))
        parts.append(_text(left - 8, base - rise * tick + 4, f"{tick:.0%}", "end"))
    for index in range(bins):
        here = marks[places == index]
        middle = left + step * (index + 0.5)
        if len(here):
            tall, tip = rise * float(here.mean()), f"{int(here.sum())} of {len(here)} wrong"
            parts.append(_rect(left + index * step + 3, base - tall, step - 6, tall, "fill wrong", tip))
            parts.append(_text(middle, base - tall - 5, f"{len(here):,}", "middle"))
    parts.extend(
        _text(left + step * tick, base + 18, f"{top * tick / bins:.2f}", "middle")
        for tick in range(0, bins + 1, 2)
    )
    parts.append(
        _text(
            (left + right) / 2,
            base + 36,
            "semantic entropy (nats)",
            "middle",
            "name",
        )
    )
    return _svg(WIDTH, base + 44, parts, "Share of wrong majority answers by semantic entropy")


def risk_coverage(scores: Sequence[float], wrong: Sequence[int], totals: Sequence[int]) -> Markup:
    """Draw the share of wrong members among those kept, from the lowest score up; the dashed line is the overall share."""
    left, top, width, height = _LEFT, 10, _PLOT, _PLOT
    points = risk_points(scores, wrong, totals)
    share = sum(wrong) / sum(totals)
    ceiling = max([0.01, share, *(risk for _, risk in points)])

    def down(risk: float) -> float:
        return top + height * (1 - risk / ceiling)

    path = " ".join(f"{left + width * x:.2f},{down(y):.2f}" for x, y in points)
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"></rect>']
    parts.append(_line(left, down(share), left + width, down(share), "diagonal"))
    parts.append(f'<polyline class="curve" points="{path}"></polyline>')
    for tick in (0, 0.5, 1):
        parts.append(_text(left + width * tick, top + height + 18, f"{tick:.0%}", "middle"))
        parts.append(_text(left - 8, down(ceiling * tick) + 4, f"{ceiling * tick:.0%}", "end"))
    parts += _axis_names(left, top, width, height, "share kept, most certain first", "share wrong among kept")
    return _svg(WIDTH, top + height + 44, parts, "Risk-coverage curve of semantic entropy")


def risk_points(
    scores: Sequence[float], wrong: Sequence[int], totals: Sequence[int], most: int = 200
) -> list[tuple[float, float]]:
    """Return the points (coverage, share of wrong members) at 0 and after each run of rows with equal scores, in ascending
    order, about `most` at most. Rows of equal score cannot be ranked, so the share is constant within the first run."""
    values, bad, size = (np.asarray(each, dtype=float) for each in (scores, wrong, totals))
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    if len(ends) > most:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).round().astype(int))]
    kept = np.cumsum(size[order])[ends]
    risk = np.cumsum(bad[order])[ends] / kept
    return [(0.0, float(risk[0])), *zip((kept / size.sum()).tolist(), risk.tolist(), strict=True)]


def _unit_square(size: int, left: int, top: int, scale: str) -> list[str]:
    """Draw frame, diagonal and ticks of a plot of [0, 1] against [0, 1]; `scale` formats the numbers of the vertical axis."""
    down = top + size
    parts = [
        f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"></rect>',
        _line(left, down, left + size, top, "diagonal"),
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left + size * tick, down + 18, f"{tick:g}", "middle"))
        parts.append(_text(left - 8, down - size * tick + 4, scale.format(tick), "end"))
    return parts


def _axis_names(left: int, top: int, width: int, height: int, across: str, upward: str) -> list[str]:
    """Write the names of a plot's horizontal and vertical axis."""
    middle = top + height / 2
    turn = f'transform="rotate(-90 12 {middle:.0f})"'
    return [
        _text(left + width / 2, top + height + 36, across, "middle", "name"),
        _text(12, middle, upward, "middle", "name", turn),
    ]


def reliability_curve(bins: Sequence[tuple[float, float, float, float, float, int]]) -> Markup:
    """Draw accuracy by weight from one tuple per bin: mean weight, share of correct majorities, the ends of its interval, share
    of correct samples, number of problems."""
    size, left, top = _PLOT, _LEFT, 10
    down = top + size
    parts = _unit_square(size, left, top, "{:.0%}")
    for weight, majority, low, high, sample, problems in bins:
        x = left + size * weight
        correct = f"{majority:.1%} of majorities, {sample:.1%} of samples correct"
        tip = f"{counted(problems, 'problem')}, mean weight {weight:.3f}: {correct}"
        parts.append(_line(x, down - size * low, x, down - size * high, "whisker kept"))
        dot = f'<circle class="kept" cx="{x:.2f}" cy="{down - size * majority:.2f}" r="5">'
        parts.append(f"{dot}<title>{_label(tip)}</title></circle>")
        ring = f'<circle class="ring" cx="{x:.2f}" cy="{down - size * sample:.2f}" r="4">'
        parts.append(f"{ring}<title>{_label(tip)}</title></circle>")
    parts += _axis_names(left, top, size, size, "mean weight of the bin", "share correct")
    return _svg(WIDTH, down + 44, parts, "Accuracy by weight")


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high) of values in [0, 1], with the normal 95% interval clipped to [0, 1]; for a single value the
    interval has zero width."""
    mean = fmean(values)
    error = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, max(0.0, mean - error), min(1.0, mean + error)


def weight_scatter(points: Sequence[tuple[float, float, str, str]]) -> Markup:
    """Draw (old weight, new weight, style class, label) of every row on the unit square; unchanged rows are on the diagonal."""
    size, left, top = _PLOT, _LEFT, 10
    down = top + size
    parts = _unit_square(size, left, top, "{:g}")
    for old, new, style, tip in points:
        dot = f'<circle class="fill point {_style(style)}" cx="{left + size * old:.2f}" cy="{down - size * new:.2f}" r="3.5">'
        parts.append(f"{dot}<title>{_label(tip)}</title></circle>")
    parts += _axis_names(left, top, size, size, "old weight", "new weight")
    return _svg(WIDTH, down + 44, parts, "New weight against old weight")


def change_histogram(changes: Sequence[float], bins: int = 20) -> Markup:
    """Draw the number of `changes` of a weight in each of `bins` bins on [-1, 1]."""
    left, base, rise = 14, 306, 250.0
    span, counts = WIDTH - 2 * left, change_bins(changes, bins)
    step, tallest = span / bins, max(1, *counts)
    parts = [_line(left, base, left + span, base, "axis")]
    for index, count in enumerate(counts):
        low, high = -1 + 2 * index / bins, -1 + 2 * (index + 1) / bins
        if count:
            tall = rise * count / tallest
            tip = f"{low:+.1f} to {high:+.1f}: {counted(count, 'row')}"
            parts.append(_rect(left + index * step + 1, base - tall, step - 2, tall, "fill kept", tip))
            x, y = left + (index + 0.5) * step + 4, base - tall - 5
            parts.append(_text(x, y, f"{count:,}", "start", extra=f'transform="rotate(-90 {x:.2f} {y:.2f})"'))
    parts.append(_line(left + span / 2, base - rise - 40, left + span / 2, base, "diagonal"))
    parts.extend(
        _text(left + span * (tick + 1) / 2, base + 18, f"{tick:+g}" if tick else "0", "middle")
        for tick in (-1, -0.5, 0, 0.5, 1)
    )
    parts.append(_text(left + span / 2, base + 36, "new weight minus old weight", "middle", "name"))
    return _svg(WIDTH, base + 44, parts, "Change of the weight")


def change_bins(changes: Sequence[float], bins: int = 20) -> list[int]:
    """Return the number of changes in each bin of [-1, 1]. The upper middle bin starts at 0 and includes unchanged rows."""
    places = np.clip(((np.asarray(changes, dtype=float) + 1) / 2 * bins).astype(int), 0, bins - 1)
    return [int(count) for count in np.bincount(places, minlength=bins)]


# --- SVG elements ------------------------------------------------------------------------------------------------


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> Markup:
    head = f'<svg class="figure" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{_label(title)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{_style(style)}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"></line>'


def _rect(x: float, y: float, width: float, height: float, style: str, tip: str) -> str:
    rect = f'<rect class="{_style(style)}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" rx="1.5">'
    return f"{rect}<title>{_label(tip)}</title></rect>"


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick", extra: str = "") -> str:
    head = f'<text class="{_style(style)}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" {extra}>'
    return f"{head}{_label(text)}</text>"


def _label(text: str) -> str:
    return str(escape(shown(text, 120)))


def _style(name: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", name)
