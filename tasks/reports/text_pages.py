"""Pages beside the report with the whole texts of problems and responses, `CHUNK` problems a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.reports.explorer import by_problem, clusters
from tasks.reports.mathml import Typesetter
from tasks.reports.pages import render_page
from tasks.rows import Example, Response

LONGEST = 200_000  # characters of one text; longer ones are truncated with a note


def page_name(number: int) -> str:
    """Return the file name of a page."""
    return f"{number:04d}.html"


def text_pages(
    name: str,
    examples: Sequence[Example],
    responses: Sequence[Response],
    beside: Mapping[str, int],
    typeset: Typesetter,
) -> Iterator[tuple[str, str]]:
    """Yield file name and HTML of each page. `beside` gives the page of a problem, in the order of `examples`."""
    samples = by_problem(responses)
    chosen = [row for row in examples if row.id in beside]
    for number, rows in groupby(chosen, key=lambda row: beside[row.id]):
        problems = [_problem(row, samples.get(row.id, ()), typeset) for row in rows]
        values = {
            "name": name,
            "number": number,
            "last": max(beside.values()),
            "problems": problems,
            "page_name": page_name,
        }
        yield page_name(number), render_page("texts.html.j2", values)


def _problem(row: Example, samples: Sequence[Response], typeset: Typesetter) -> dict[str, object]:
    def whole(text: str) -> Markup:
        return typeset.text(figures.shown(text, LONGEST))

    found = clusters(row)
    styles = {one.label: one.style for one in found}
    return {
        "example": row,
        "text": whole(row.problem),
        "clusters": found,
        "samples": [
            (one, styles.get(row.cluster_labels[one.index], "unread"), whole(one.text)) for one in samples
        ],
    }
