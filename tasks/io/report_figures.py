"""The report's pictures: inline SVG, coloured by the page's own style sheet, the same data always giving the same text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

MAX_TEXT = 4000  # characters of one text in the report
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def shown(text: str, limit: int = MAX_TEXT) -> str:
    """`text` fit for a page: control, direction and half characters replaced, cut at `limit` with a note. Not escaped."""
    cut = text[:limit].encode("utf-8", "replace").decode("utf-8")
    clean = _UNSHOWABLE.sub("\ufffd", cut.replace("\r\n", "\n"))
    return clean if len(text) <= limit else f"{clean} [... cut here: {len(text):,} characters in all]"


def stacked_bar(parts: Sequence[tuple[str, str, float]], scale: float) -> Markup:
    """One horizontal bar of (style class, label, size) segments; `scale` is the size that fills the whole width."""
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
    """Share of `values` in each of `bins` bins on [0, top], drawn to the share `tallest`; a tick stands at their mean."""
    shares = bin_shares(values, top, bins)
    width, height, left, base = 300, 150, 8, 124
    step, rise = (width - 2 * left) / bins, 100.0
    parts = [_line(left, base, width - left, base, "axis")]
    for index, share in enumerate(shares):
        tall = rise * share / tallest if tallest > 0 else 0.0
        edges = f"{top * index / bins:.2f} to {top * (index + 1) / bins:.2f} nats"
        tip = f"{edges}: {round(share * len(values))} problems, {share:.1%}"
        parts.append(_rect(left + index * step + 1, base - tall, step - 2, tall, f"fill {style}", tip))
    if values:
        middle = left + (width - 2 * left) * float(np.mean(values)) / top
        parts += [_line(middle, base - rise - 6, middle, base, "mean")]
    parts += [_text(left, 141, "0", "start"), _text(width - left, 141, f"ln N = {top:.2f}", "end")]
    parts += [_text(width / 2, 141, "nats", "middle")]
    return _svg(width, height, parts, title)


def bin_shares(values: Sequence[float], top: float, bins: int = 16) -> list[float]:
    """Share of `values` in each bin of [0, top]; values outside (rounding) count in the nearest bin."""
    if not values:
        return [0.0] * bins
    places = np.clip((np.asarray(values, dtype=float) / top * bins).astype(int), 0, bins - 1)
    return [float(count) / len(values) for count in np.bincount(places, minlength=bins)]


def interval_rows(rows: Sequence[tuple[str, str, float, float, float]]) -> Markup:
    """(style class, label, mean, low, high) on [0, 1], one line each: a dot with its interval."""
    width, left, right = 440, 96, 20
    height = 34 * len(rows) + 30
    span = width - left - right
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = left + span * tick
        parts += [
            _line(place, 6, place, height - 24, "grid"),
            _text(place, height - 8, f"{tick:g}", "middle"),
        ]
    for number, (style, label, mean, low, high) in enumerate(rows):
        line = 6 + 34 * number + 17
        tip = f"{label}: {mean:.3f} ({low:.3f} to {high:.3f})"
        parts.append(_text(left - 12, line + 4, label, "end", "name"))
        parts.append(_line(left + span * low, line, left + span * high, line, f"whisker {style}"))
        dot = f'<circle class="fill {_style(style)}" cx="{left + span * mean:.2f}" cy="{line}" r="6">'
        parts.append(f"{dot}<title>{_label(tip)}</title></circle>")
    return _svg(width, height, parts, "Mean weight by tier with 95% intervals")


def roc_curve(scores: Sequence[float], positives: Sequence[bool]) -> Markup:
    """The ROC curve of `scores` (needs both classes), with the diagonal of a score that knows nothing."""
    size, left, top = 260, 44, 10
    points = roc_points(scores, positives)
    path = " ".join(f"{left + size * x:.2f},{top + size * (1 - y):.2f}" for x, y in points)
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"></rect>']
    parts.append(_line(left, top + size, left + size, top, "diagonal"))
    parts.append(f'<polyline class="curve" points="{path}"></polyline>')
    for tick in (0, 0.5, 1):
        parts.append(_text(left + size * tick, top + size + 18, f"{tick:g}", "middle"))
        parts.append(_text(left - 8, top + size * (1 - tick) + 4, f"{tick:g}", "end"))
    parts.append(_text(left + size / 2, top + size + 36, "right majorities flagged", "middle", "name"))
    turn = f'transform="rotate(-90 12 {top + size / 2:.0f})"'
    parts.append(_text(12, top + size / 2, "wrong majorities found", "middle", "name", turn))
    return _svg(left + size + 12, top + size + 44, parts, "ROC curve of semantic entropy")


def roc_points(
    scores: Sequence[float], positives: Sequence[bool], most: int = 200
) -> list[tuple[float, float]]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), at most about `most` of them."""
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
    """Share of wrong majorities in each bin of semantic entropy; empty bins stay empty."""
    values, marks = np.asarray(scores, dtype=float), np.asarray(wrong, dtype=bool)
    places = np.clip((values / top * bins).astype(int), 0, bins - 1)
    width, left, base, rise = 420, 44, 270, 250.0
    right = width - 22
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
    for tick in range(0, bins + 1, 2):
        parts.append(_text(left + step * tick, base + 18, f"{top * tick / bins:.2f}", "middle"))
    parts.append(
        _text(
            (left + right) / 2,
            base + 36,
            "semantic entropy (nats); number of problems above",
            "middle",
            "name",
        )
    )
    return _svg(width, base + 44, parts, "Share of wrong majority answers by semantic entropy")


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of values in [0, 1] with its normal 95% interval, clipped to [0, 1]; without width for a single value."""
    mean = float(np.mean(values))
    error = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, max(0.0, mean - error), min(1.0, mean + error)


# --- pieces ------------------------------------------------------------------------------------------------------


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
