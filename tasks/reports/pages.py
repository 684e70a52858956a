"""Render self-contained HTML pages, readable offline and without scripts, from the templates in `data_cards/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.storage.cards import CARDS
from tasks.text import counted, visible


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Return the page as HTML, with the shared style sheet as `css`. In every printed string controls are made visible; it is
    truncated to 4,000 characters with a note, and escaped. Pass HTML as `Markup`. Raises `jinja2.UndefinedError` for a missing
    value."""
    css = Markup((CARDS / "report.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(css=css, **values)


@cache
def _environment() -> jinja2.Environment:
    """Return the environment of all pages, which keeps compiled templates: an evaluation during the training writes a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def duration(seconds: float) -> str:
    """Format a wall time in seconds: "0.4 s", "12 s", "3 min 05 s", "2 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def brief(text: str) -> str:
    """Return at most 140 characters of `text` on one line."""
    line = " ".join(visible(text[:400]).split())
    return line if len(line) <= 140 and len(text) <= 400 else line[:140].rsplit(" ", 1)[0] + " ..."


def _noun(count: int, one: str, many: str | None = None) -> str:
    return counted(count, one, many).split(" ", 1)[1]


def _printed(value: object) -> object:
    return figures.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_FILTERS: dict[str, Callable[..., Any]] = {
    "brief": brief,
    "counted": counted,
    "decimals": "{:.3f}".format,
    "duration": duration,
    "noun": _noun,
    "number": "{:,}".format,
    "share": "{:.1%}".format,
    "signed": "{:+.3f}".format,
}
