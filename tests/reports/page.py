"""A parsed page, for the tests of all pages."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """Collects tags with their attributes and parents, unbalanced tags, and the text."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Attributes, tuple[str, Attributes]]] = []
        self.text: list[str] = []
        self.open: list[tuple[str, Attributes]] = []
        self.broken: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attrs))
        self.elements.append((*element, self.open[-1] if self.open else ("", {})))
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop()[0] != tag:
            self.broken.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][0] not in {"style", "script"}:
            self.text.append(data)

    @property
    def tags(self) -> Counter[str]:
        """The number of elements by tag."""
        return Counter(tag for tag, _, _ in self.elements)

    @property
    def attributes(self) -> list[tuple[str, str | None]]:
        """The attributes of all elements."""
        return [pair for _, own, _ in self.elements for pair in own.items()]

    @property
    def foreign_scripts(self) -> list[Attributes]:
        """The attributes of script elements that are neither the report's script, the last one, nor its data."""
        scripts = [own for tag, own, _ in self.elements if tag == "script"]
        data = {"type": "application/octet-stream"}
        own = [*[{**data, "id": one.get("id")} for one in scripts[:-1]], {}]
        return [one for one, expected in zip(scripts, own, strict=False) if one != expected]

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(" ".join(self.text).split())
