from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.reports import report_figures as figures
from tasks.reports.validation_report import (
    ValidationData,
    entropies,
    render_validation,
    to_json,
    validate,
    write_validation,
)
from tasks.uncertainty.validation import MEASURES, Checked, PairCheck, agreement, measures
from tests.annotated import crowd

POISON = "<script>alert(\"x\")</script><img src=x onerror=alert(1)> 'single' | & </style></title> \x00 \u202e \ud800"
MADE = crowd()
PAIRS = [PairCheck(first=str(i), second="x + 1", judge=i % 3 == 0, verify=i % 4 == 0) for i in range(12)]


def checked() -> list[Checked]:
    return [
        Checked(
            tier=row.tier.value,
            weight=row.weight,
            scores=measures(row),
            majority_right=row.majority_answer == row.answer,
            right=sum(one.answer == row.answer for one in group),
            samples=len(group),
        )
        for row, group in MADE
        if row.answer is not None
    ]


DATA = ValidationData(
    name="SURE-Math",
    profile="pocket",
    fingerprint="8c1f" * 16,
    examples=[row for row, _ in MADE],
    checked=checked(),
    agreement=agreement(PAIRS),
    stored_difference=0.0,
    models={"teacher": "teacher:0a1b", "equivalence_judge": "judge:77"},
)
FOUND = validate(DATA)
HTML = render_validation(FOUND, DATA)


class Page(HTMLParser):
    """Parses the cells of the tables, by the class of the table, and records unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: set[str] = set()
        self.names: list[str] = []
        self.open: list[str] = []
        self.broken: list[str] = []
        self.table = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names += [name for name, _ in attrs]
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("class") or ""
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in {"td", "th"}:
            self.tables[self.table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[self.table][-1][-1] += data


PAGE = Page(HTML)


def numbers() -> dict[str, Any]:
    return json.loads(to_json(FOUND))


def span(area: dict[str, Any], form: str = "{:.3f}") -> str:
    return f"{form.format(area['low'])} to {form.format(area['high'])}"


@pytest.mark.parametrize("kind", ["majority", "sample"])
def test_the_table_of_measures_matches_the_json(kind: str):
    rows = PAGE.tables[kind][1:]
    output = numbers()[kind]["detections"]
    assert len(rows) == len(output) == len(MEASURES)
    for cells, one in zip(rows, output, strict=True):
        gain = one["gain"]
        assert cells == [
            MEASURES[one["measure"]],
            f"{one['auroc']['value']:.3f}",
            span(one["auroc"]),
            f"{gain['value']:+.3f}" if gain else "\u2013",
            span(gain, "{:+.3f}") if gain else "\u2013",
            f"{one['aurc']['value']:.3f}",
            span(one["aurc"]),
        ]


def test_the_other_tables_match_the_json():
    output = numbers()
    assert PAGE.tables["reliability"][1:] == [
        [
            f"{one['low']:.1f} to {one['high']:.1f}", f"{one['problems']:,}", f"{one['mean_weight']:.3f}",
            f"{one['majority']:.1%}", f"{one['majority_low']:.1%} to {one['majority_high']:.1%}", f"{one['sample']:.1%}",
        ]
        for one in output["reliability"]["bins"]
    ]  # fmt: skip
    assert PAGE.tables["stability"][1:] == [
        [
            f"{one['small']} against {one['large']}", f"{one['problems']}", f"{one['spearman']:.3f}",
            f"{one['mean_difference']:.3f}",
        ]
        for one in output["stability"]
    ]  # fmt: skip
    assert [row[:3] for row in PAGE.tables["tiers"][1:]] == [
        [one["tier"], f"{one['problems']}", f"{one['mean_weight']:.3f}"] for one in output["tiers"]
    ]
    judge = output["judge"]
    assert [row[1:] for row in PAGE.tables["judge"][1:]] == [
        [str(judge["both_same"]), str(judge["only_judge_same"])],
        [str(judge["only_verify_same"]), str(judge["both_different"])],
    ]
    for groups in output["entropy"].values():
        for one in groups:
            assert f"n = {one['problems']}, mean {one['mean']:.3f}, median {one['median']:.3f}" in HTML


def test_the_page_is_well_formed_and_self_contained():
    assert PAGE.broken == [] and PAGE.open == []
    assert not {"script", "img", "link", "iframe", "object", "a"} & PAGE.tags
    assert not [name for name in PAGE.names if name in {"src", "href"} or name.startswith("on")]
    assert "http" not in re.sub(r"http-equiv", "", HTML) and "nan" not in HTML.lower()


def test_both_files_are_written_or_none_and_with_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "validation"
    write_validation(folder, DATA)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"report.html", "validation.json"}
    assert json.loads(before["validation.json"]) == numbers()
    write_validation(folder, DATA)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def fail(_found: object) -> str:
        raise OSError("no more")

    monkeypatch.setattr("tasks.reports.validation_report.to_json", fail)
    with pytest.raises(OSError, match="no more"):
        write_validation(folder, replace(DATA, name="another"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["validation"]


@pytest.mark.parametrize("size", [0, 100_000])
def test_markup_from_models_and_sources_is_escaped_and_truncated(size: int):
    text = POISON + "x" * size
    rows = [replace(DATA.examples[0], source=text, strategies=(text,)), *DATA.examples[1:]]
    pairs = agreement([PairCheck(first=text, second=text, judge=True, verify=False)])
    data = replace(
        DATA, name=text, profile=text, fingerprint=text, examples=rows, agreement=pairs, models={text: text}
    )
    html = render_validation(validate(data), data)
    page = Page(html)
    html.encode("utf-8")
    assert page.broken == [] and page.open == [] and not {"script", "img"} & page.tags
    assert not [name for name in page.names if name.startswith("on")]
    assert "\x00" not in html and "\u202e" not in html
    assert len(html) < len(HTML) + 20_000
    assert "&lt;script&gt;" in html


def test_the_page_states_which_numbers_are_unavailable():
    alike = [replace(one, majority_right=True, right=one.samples) for one in DATA.checked]
    short = [replace(row, sizes=(2,), weight_by_size=(0.5,)) for row in DATA.examples]
    data = replace(DATA, checked=alike, examples=short, agreement=None)
    words = " ".join(render_validation(validate(data), data).split())
    assert "needs correct and wrong answers, and here all answers are of one kind" in words
    assert "needs at least 8 samples per problem" in words
    assert "verdicts from the build of this dataset were not found" in words.replace("&#39;", "'")
    nobody = replace(DATA, agreement=agreement([]))
    assert "No pair of answers was given to the judge" in render_validation(validate(nobody), nobody)


def test_groups_are_in_a_sensible_order():
    rows = [
        replace(DATA.examples[0], source="b", strategies=("compose",)),
        replace(DATA.examples[1], source="a", strategies=()),
        replace(DATA.examples[2], source="b", strategies=("compose", "harder")),
        replace(DATA.examples[3], source="a", strategies=("apply",)),
        replace(DATA.examples[4], source="b", strategies=("apply",)),
    ]
    groups = entropies(rows)
    assert list(groups["tier"]) == ["easy", "medium", "hard", "competition"]
    assert list(groups["strategy"]) == ["harder", "apply", "compose", "none"]
    assert {name: len(values) for name, values in groups["source"].items()} == {"b": 3, "a": 2}
    assert list(groups["source"]) == ["b", "a"]


def test_risk_points_by_hand_with_a_tie():
    # ascending scores: 1 of 2 kept is correct, then both rows of score 2 at once, then the wrong one of score 3
    points = figures.risk_points([2, 1, 3, 2], [1, 0, 2, 0], [2, 2, 2, 2])
    assert points == [(0.0, 0.0), (0.25, 0.0), (0.75, 1 / 6), (1.0, 3 / 8)]
    many = figures.risk_points([i / 5000 for i in range(5000)], [i % 2 for i in range(5000)], [1] * 5000)
    assert len(many) <= 202 and many[-1] == (1.0, 0.5)
    assert all(math.isfinite(risk) for _, risk in many)
