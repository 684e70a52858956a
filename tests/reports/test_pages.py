"""What all pages have in common: they fit a phone, agree with each other, and count nouns correctly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.reports.drift_report import render_drift
from tasks.reports.pages import brief
from tasks.reports.report import ReportData, render_report
from tasks.reports.report_figures import WIDTH
from tasks.reports.validation_report import render_validation, validate
from tasks.seeds.truth import majority_is_right
from tasks.storage.cards import CARDS, escape_markdown
from tasks.storage.manifest import BenchmarkCount
from tests.reports import test_drift_report as drift
from tests.reports import test_report as report
from tests.reports import test_validation_report as validation
from tests.reports.page import Page

LONG = "W" * 300
BENCHMARKS = (BenchmarkCount(benchmark=LONG, problems=1, flagged=0),)
PAGES = {
    "report": render_report(replace(report.DATA, name=LONG, benchmarks=BENCHMARKS)),
    "validation": validation.HTML,
    "drift": render_drift(drift.DATA),
}
CSS = re.sub(r"/\*.*?\*/", "", (CARDS / "report.css").read_text(encoding="utf-8"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize("name", PAGES)
def test_every_table_scrolls_in_a_frame_of_its_own(name: str) -> None:
    page = Page(PAGES[name])
    assert page.broken == [] and page.open == []
    parents = [(tag, own.get("class")) for child, _, (tag, own) in page.elements if child == "table"]
    assert parents and set(parents) == {("div", "scroll")}
    assert re.search(r"\.scroll \{\s*overflow-x: auto;", CSS)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_sets_a_width_of_its_own(name: str) -> None:
    page = Page(PAGES[name])
    viewports = [own.get("content") for tag, own, _ in page.elements if own.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]
    assert all(re.fullmatch(r"--s: \d+", own["style"] or "") for _, own, _ in page.elements if "style" in own)
    assert {tag for tag, own, _ in page.elements if "width" in own} <= {"rect"}
    boxes = [own["viewbox"] for tag, own, _ in page.elements if tag == "svg" and own["class"] == "figure"]
    assert boxes and max(float((box or "").split()[2]) for box in boxes) <= WIDTH


def test_only_cells_with_a_minimum_width_break_inside_words() -> None:
    breaking = re.findall(r"([^{}]+)\{[^{}]*overflow-wrap: anywhere", CSS)
    assert {name.strip() for name in breaking} == {".words", ".text", ".answer", "footer", "h1"}
    assert re.search(r"\.words \{ min-width: \d+em;", CSS)
    cells = [
        own.get("class") or ""
        for html in PAGES.values()
        for tag, own, _ in Page(html).elements
        if tag in {"td", "th"}
    ]
    assert any("words" in cell for cell in cells)
    assert all("words" in cell for cell in cells if "answer" in cell or "text" in cell.split())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone_and_no_cell_is_a_column_of_letters(name: str, tmp_path: Path) -> None:
    measured = _measured(PAGES[name], tmp_path)
    assert measured == {"wide": "390", "narrow": ""}


def _measured(html: str, folder: Path) -> dict[str, str]:
    """Lay the page out in a frame of 390 pixels, with all details open; return its width and the cells narrower than 30."""
    script = """
      const page = document.getElementById("phone").contentDocument;
      page.querySelectorAll("details").forEach(one => one.open = true);
      const cells = [...page.querySelectorAll("td, th")].filter(one => /[a-z]{4}/i.test(one.textContent));
      const narrow = cells.filter(one => one.clientWidth < 30).map(one => one.textContent);
      document.body.innerHTML = `<b id="wide">${page.documentElement.scrollWidth}</b><b id="narrow">${narrow}</b>`;"""
    unguarded = re.sub(r"<meta http-equiv=.*?>", "", html).replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe id="phone" srcdoc="{unguarded}" style="width:390px;height:844px;border:0"></iframe>'
    (folder / "frame.html").write_text(
        f"<!doctype html><meta charset=utf-8><body>{frame}<script>addEventListener('load', () => {{{script}}})</script>",
        encoding="utf-8",
    )
    command = [
        str(BROWSER),
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        "--dump-dom",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    found = subprocess.run(
        [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    return dict(re.findall(r'<b id="(\w+)">(.*?)</b>', found))


def test_the_report_and_the_validation_page_give_the_same_interval_for_rows_in_any_order() -> None:
    rows = [row for row, _ in validation.MADE]
    truths = {row.id: right for row in rows if (right := majority_is_right(row, {"pocket"})) is not None}
    data = ReportData(
        name="x", profile="p", fingerprint="f", examples=rows[::-1], responses=[], stages=(), truths=truths
    )
    area = r"0\.\d{3} AUROC of (?:H|entropy) for (?:a )?wrong majority answers?, 95% interval (0\.\d{3}) to (0\.\d{3})"
    shown = [re.search(area, Page(html).words) for html in (render_report(data), validation.HTML)]
    assert shown[0] is not None and shown[1] is not None
    assert shown[0][0].split()[0] == shown[1][0].split()[0] and shown[0].groups() == shown[1].groups()
    wrong = [
        rf"wrong for {sum(not right for right in truths.values())} of {len(truths)} problems",
        "Wrong: {} of {} majority",
    ]
    assert re.search(wrong[0], Page(render_report(data)).words)
    assert wrong[1].format(sum(not r for r in truths.values()), len(truths)) in Page(validation.HTML).words


PLURAL_OF_ONE = re.compile(
    r"(?<![\d,.])1 (?:(?!of\b)[a-z-]+ ){0,2}(?:answers|calls|files|majorities|pairs|problems|requests|responses|rows"
    r"|samples|tokens|are|have)\b"
)


def test_single_items_are_counted_in_the_singular() -> None:
    assert PLURAL_OF_ONE.search("of 1 problems") and PLURAL_OF_ONE.search("1 teacher responses,")
    assert not PLURAL_OF_ONE.search("1 of 3 problems, 11 rows, 0.1 are, 1 problem")
    row, responses, _ = report.make_example(8, report.Tier.EASY, report.random.Random(1))
    row = replace(row, judge_calls=1, benchmark_overlap=True)
    own = [replace(responses[0], token_count=1)]
    counts = [report.StageCount(stage="rules", rows_in=2, kept=1, rejected={"too_long": 1})]
    one = replace(
        report.DATA,
        examples=[row],
        responses=own,
        stages=counts,
        truths={row.id: False},
        benchmarks=BENCHMARKS,
    )
    checked = replace(validation.DATA.checked[0], samples=1, right=0, majority_right=False)
    pairs = validation.agreement(validation.PAIRS[:1])
    alone = replace(
        validation.DATA, examples=validation.DATA.examples[:1], checked=[checked], agreement=pairs
    )
    moved = replace(drift.DATA, problems=1, moves=drift.MOVES[:1], cost=replace(drift.DATA.cost, sent=1))
    for html in (render_report(one), render_validation(validate(alone), alone), render_drift(moved)):
        titles = Page(html).words
        assert PLURAL_OF_ONE.findall(titles) == [], PLURAL_OF_ONE.search(titles)


def test_controls_are_visible_on_pages_and_cards() -> None:
    text = "Ignore \u202ethis\u202c\u200b and \x1b[31mthat\x1b[0m."
    shown = "Ignore <U+202E>this<U+202C><U+200B> and <U+001B>[31mthat<U+001B>[0m."
    row = replace(report.DATA.examples[0], problem=text)
    words = Page(render_report(replace(report.DATA, examples=[row], family=()))).words
    assert words.count(shown) == 2  # the title of the problem, and its text
    move = replace(drift.MOVES[0], problem=text, old_answer="\u2066x", old_weight=0.0, new_weight=1.0)
    words = Page(render_drift(replace(drift.DATA, moves=[move]))).words
    assert words.count(shown) == 2 and "<U+2066>x" in words
    assert brief("a\u2028b\x1cc") == "a<U+2028>b<U+001C>c"
    assert escape_markdown("a\u202e|\x1b\ud800") == "a&lt;U+202E&gt;\\|&lt;U+001B&gt;&lt;U+D800&gt;"
