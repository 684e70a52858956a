"""The table of an experiment as Markdown, CSV and LaTeX. Pure.

Every line names the cell files that its numbers come from. A number that is missing is a dash with the number of seeds that were
found, as in `- (0 of 3)`. Published values stand on lines of their own, marked with a dagger.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

from tasks.text import visible
from training.evaluation.metrics import Estimate
from training.experiments.columns import Measure
from training.experiments.stored import CellResult
from training.experiments.summary import Line, Table

__all__ = ["csv_table", "latex_table", "markdown_table", "metrics_csv", "metrics_table"]

DAGGER = "\N{DAGGER}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
UNSHOWN = ("learning_rate", "overlap", "seconds", "share_", "step", "tokens")
"""Beginnings of metrics that are costs or settings, which no table of metrics shows."""


def markdown_table(table: Table, link: str) -> str:
    """Return the table and its notes. `link`: the address of the folder of cells, relative to the page."""
    experiment = table.experiment
    rows = [
        [*_texts(table, line, escape=_markdown, strong="**{}**".format), _links(line.cells, link)]
        for line in table.lines
    ]
    return "\n".join(
        [
            f"**{_markdown(experiment.title)}** ({_markdown(experiment.source)})",
            "",
            *_grid([*map(_markdown, _headers(table)), "cells"], rows, texts=_text_columns(table)),
            "",
            *(f"- {_markdown(note)}" for note in _legend(table)),
            "",
        ]
    )


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> Iterator[str]:
    """Return the lines of a Markdown table whose first `texts` columns are texts, all others numbers."""
    yield f"| {' | '.join(headers)} |"
    yield "|" + "|".join("---" if place < texts else "---:" for place in range(len(headers))) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _links(cells: Mapping[int, CellResult], link: str) -> str:
    """Return a link to the file of each cell, named after its seed."""
    return " ".join(f"[{seed}]({link}/{cell.key}.json)" for seed, cell in cells.items())


# --- columns of all three forms ----------------------------------------------------------------------------------


def _has_setting(table: Table) -> bool:
    return any(line.setting for line in table.lines)


def _needs(table: Table) -> list[str]:
    """Return which of labels and solutions a cell of the table uses."""
    return [
        need for need in ("labels", "solutions") if any(line.sources(need) for line in table.lines)
    ]  # fmt: skip


def _compared(table: Table) -> list[Measure]:
    """Return the measures that have a difference in some line."""
    return [one for one in table.measures if any(one.name in line.differences for line in table.lines)]


def _text_columns(table: Table) -> int:
    return 1 + _has_setting(table) + len(_needs(table))


def _headers(table: Table) -> list[str]:
    return [
        "method",
        *(["setting"] if _has_setting(table) else []),
        *_needs(table),
        *(one.header for one in table.measures),
        *(f"{one.header} - {table.experiment.compare_to}" for one in _compared(table)),
        *table.published,
    ]


def _texts(
    table: Table, line: Line, *, escape: Callable[[str], str], strong: Callable[[str], str]
) -> list[str]:
    """Return the cells of a line without its links."""
    published = line.kind == "published"
    return [
        escape(line.label) + (f" {DAGGER}" if published else ""),
        *([escape(line.setting)] if _has_setting(table) else []),
        *(escape(line.sources(need)) for need in ("labels", "solutions") if need in _needs(table)),
        *(_number(line, one, strong, escape) for one in table.measures),
        *(_difference(line.differences.get(one.name), one) for one in _compared(table)),
        *(escape(line.published.get(name, "")) for name in table.published),
    ]


def _number(line: Line, measure: Measure, strong: Callable[[str], str], escape: Callable[[str], str]) -> str:
    if line.kind == "published":
        return escape(line.published.get(measure.name, ""))
    number = line.numbers[measure.name]
    if number.mean is None:
        return f"- (0 of {number.wanted})"
    text = measure.shown(number.mean)
    text += "" if number.deviation is None else f" {PLUS_MINUS} {measure.shown(number.deviation)}"
    text = strong(text) if measure.name in line.bold else text
    return text if number.found == number.wanted else f"{text} ({number.found} of {number.wanted})"


def _difference(found: Estimate | None, measure: Measure) -> str:
    if found is None:
        return ""
    value, low, high = (measure.shown(one, sign=True) for one in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _legend(table: Table) -> list[str]:
    """Return how the numbers are to be read, and the notes of the table."""
    experiment, found = table.experiment, []
    if table.cells:
        seeds = len(experiment.seeds)
        found.append(
            f"mean {PLUS_MINUS} sample standard deviation over {seeds} seeds; bold: the best of the trained students, and those"
            " whose paired 95% interval to it contains 0"
        )
    if _compared(table):
        found.append(
            f"difference to {experiment.compare_to} with its 95% interval, paired by problem and seed, bootstrap over problems"
        )
    if experiment.published:
        found.append(
            f"{DAGGER} published in {experiment.source}: other models and problems, not measured here"
        )
    return [*found, *table.notes]


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    clean = " ".join(visible(text).split())
    return "".join(f"\\{one}" if one in r"\`*_{}[]<>|#" else one for one in clean)


# --- CSV ---------------------------------------------------------------------------------------------------------


def csv_table(table: Table) -> str:
    """Return one line per row and column: the unrounded numbers, the difference with its interval, and the keys of the cells."""
    sink = io.StringIO()
    write = csv.writer(sink, lineterminator="\n").writerow
    write(
        ["method", "kind", "setting", "labels", "solutions", "column", "mean", "deviation", "seeds", "seeds wanted",
         "compared to", "difference", "low", "high", "cells"]
    )  # fmt: skip
    for line in table.lines:
        keys = " ".join(cell.key for cell in line.cells.values())
        for name, number in line.numbers.items():
            gap = line.differences.get(name)
            write(
                [visible(line.label), line.kind, line.setting, line.sources("labels"), line.sources("solutions"), name,
                 _exact(number.mean), _exact(number.deviation), number.found, number.wanted,
                 "" if gap is None else table.experiment.compare_to,
                 *(("", "", "") if gap is None else map(_exact, (gap.value, gap.low, gap.high))), keys]
            )  # fmt: skip
        for name, value in line.published.items():
            write([visible(line.label), line.kind, "", "", "", name, visible(value), *[""] * 8])
    return sink.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))


# --- LaTeX -------------------------------------------------------------------------------------------------------


def latex_table(table: Table) -> str:
    r"""Return a table environment for booktabs; a comment after each line names the files of its cells."""
    texts = _text_columns(table)
    headers = _headers(table)
    body = []
    for line in table.lines:
        columns = _texts(table, line, escape=_latex, strong=r"\textbf{{{}}}".format)
        keys = ", ".join(cell.key for cell in line.cells.values())
        body.append(" & ".join(map(_signs, columns)) + r" \\" + (f" % cells: {keys}" if keys else ""))
    experiment = table.experiment
    caption = f"{_latex(experiment.title)} ({_latex(experiment.source)})."
    notes = " ".join(f"{_signs(_latex(note))}." for note in _legend(table))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(headers) - texts)}}}",
            r"\toprule",
            " & ".join(map(_latex, headers)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption} {notes}}}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _latex(text: str) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(one, one) for one in " ".join(visible(text).split()))


def _signs(text: str) -> str:
    return text.replace(PLUS_MINUS, r"$\pm$").replace(DAGGER, r"$\dagger$")


# --- metrics -----------------------------------------------------------------------------------------------------


def metrics_table(table: Table, link: str) -> str:
    """Return the metrics of the last steps, by which one sees why a method learns or not, as Markdown: one line per metric, one
    column per trained row, means over seeds."""
    lines = _with_metrics(table)
    rows = [
        [
            _markdown(name),
            *(_mean_text([cell.metrics.get(name) for cell in line.cells.values()]) for line in lines),
        ]
        for name in _metric_names(lines)
    ]
    rows.append(["cells", *(_links(line.cells, link) for line in lines)])
    return "\n".join([*_grid(["metric", *(_markdown(line.label) for line in lines)], rows, texts=1), ""])


def metrics_csv(table: Table) -> str:
    """Return the metrics of the last steps, one line per row, seed and metric."""
    sink = io.StringIO()
    write = csv.writer(sink, lineterminator="\n").writerow
    write(["method", "seed", "metric", "value", "cell"])
    for line in _with_metrics(table):
        for seed, cell in line.cells.items():
            for name in sorted(cell.metrics):
                write([visible(line.label), seed, name, _exact(cell.metrics[name]), cell.key])
    return sink.getvalue()


def _with_metrics(table: Table) -> list[Line]:
    return [line for line in table.lines if any(cell.metrics for cell in line.cells.values())]


def _metric_names(lines: Sequence[Line]) -> list[str]:
    names = {name for line in lines for cell in line.cells.values() for name in cell.metrics}
    return sorted(name for name in names if not name.startswith(UNSHOWN))


def _mean_text(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{sum(found) / len(found):.4g}" if found else ""
