"""Render Markdown cards from the templates in data_cards/. Every value that a template prints is escaped."""

from __future__ import annotations

import re

import jinja2

from tasks.config import PROJECT_ROOT
from tasks.text import counted, visible

__all__ = ["CARDS", "MAX_CELL", "Markdown", "escape_markdown", "render_card"]

CARDS = PROJECT_ROOT / "data_cards"
MAX_CELL = 300  # characters; longer values are truncated on a card


class Markdown(str):
    """Text that is already Markdown and is printed unescaped."""

    __slots__ = ()


def render_card(template: str, /, **values: object) -> str:
    """Render a template; the same values give the same text.

    Filters: `number` (1,234), `counted` (1 problem), `decimals` (0.123), `percent` (12.3%), `points` (+12.3), `minutes` (from
    seconds), `code` (for code spans), `repo_id` (the same with slashes) and `plain` (for code blocks). Raises
    `jinja2.UndefinedError` for a missing value.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        undefined=jinja2.StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: `_printed` escapes instead
    )
    environment.filters.update(
        counted=counted,
        number="{:,}".format,
        decimals="{:.3f}".format,
        percent="{:.1%}".format,
        points=lambda share: f"{100 * share:+.1f}",
        minutes=lambda seconds: f"{seconds / 60:,.1f}",
        code=_only_names,
        repo_id=lambda text: Markdown("/".join(map(_only_names, text.split("/")))),
        plain=_only_words,
    )
    return environment.get_template(template).render(**values)


def escape_markdown(text: str, limit: int = MAX_CELL) -> str:
    """Return `text` as one line that a Markdown table shows literally: markup, HTML, maths and cell borders are escaped, and
    controls are made visible. Truncated to `limit` characters."""
    line = " ".join(visible(text).split())
    if len(line) > limit:
        line = line[:limit] + " ..."
    line = re.sub(r"[\\`*_\[\]|~$]", r"\\\g<0>", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _printed(value: object) -> str:
    if isinstance(value, Markdown):
        return value
    return escape_markdown(str(value))


def _only_names(text: str) -> Markdown:
    """Keep letters, digits, dots, dashes and underscores only, for code spans, where nothing can be escaped."""
    return Markdown(re.sub(r"[^A-Za-z0-9._-]", "", text)[:MAX_CELL])


def _only_words(text: str) -> Markdown:
    """Keep the characters of `_only_names` and spaces, for code blocks."""
    return Markdown(re.sub(r"[^A-Za-z0-9._ -]", "", text)[:MAX_CELL])
