"""Render self-contained HTML pages, readable offline and without scripts, from the templates in `data_cards/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.storage.cards import CARDS

_FILTERS: dict[str, Callable[..., Any]] = {
    "number": "{:,}".format,
    "decimals": "{:.3f}".format,
    "signed": "{:+.3f}".format,
    "share": "{:.1%}".format,
}


def render_page(template: str, values: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
    """Return the page as HTML, with the shared style sheet as `css`. Every printed string is cleaned, truncated to 4,000
    characters with a note, and escaped; pass HTML as `Markup`. Raises `jinja2.UndefinedError` for a missing value."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS | filters)
    css = Markup((CARDS / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=css, **values)


def _printed(value: object) -> object:
    return figures.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
