"""The section of the report about later stages is replaced in place, from files about the same dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.reports.report import write_report
from tasks.reports.results import END, START, read_results, renew_results
from tasks.storage.checksums import sealed
from tasks.storage.lineage import Kind, Maker, Product, record
from tasks.storage.versions import write_latest
from tests.reports import test_report as report
from tests.reports.page import Page

DATA = report.make_data(12)
AREA = {"value": 0.875, "low": 0.75, "high": 0.9375, "n": 40}
VALIDATION: dict[str, Any] = {
    "dataset": DATA.fingerprint,
    "known": 40,
    "majority": {
        "wrong": 7,
        "total": 40,
        "detections": [
            {"measure": "discrete_entropy", "auroc": {**AREA, "value": 0.8}, "aurc": None},
            {"measure": "semantic_entropy", "auroc": AREA, "aurc": {**AREA, "value": 0.0625}},
            {"measure": "undefined", "auroc": None, "aurc": None},
        ],
    },
}
RESULT: dict[str, Any] = {
    "dataset": DATA.fingerprint,
    "algorithm": "uopd<script>",
    "steps": 40,
    "held_out": {
        "before": {"value": 0.2},
        "after": {"value": 0.4},
        "gain": {"value": 0.2, "low": 0.15, "high": 0.25},
    },
    "cost": {"seconds_all": 300.0, "gpu_hours": 1.5, "tokens": 378_105},
}


def built(root: Path) -> Path:
    write_report(root / "report.html", replace(DATA, name=f"{START}{END}"))
    write_latest(root, {"dataset": "dataset", "report": "report.html", "fingerprint": DATA.fingerprint})
    return root / "report.html"


def measured(root: Path, validation: object, result: dict[str, Any]) -> None:
    (root / "validation").mkdir(exist_ok=True)
    (root / "validation" / "validation.json").write_text(json.dumps(validation))
    (root / "distill" / "run1").mkdir(parents=True, exist_ok=True)
    (root / "distill" / "run1" / "result.json").write_text(json.dumps(sealed(result)))


def test_results_are_shown_after_their_stages_and_the_rest_stays(tmp_path: Path) -> None:
    page = built(tmp_path)
    before = page.read_text()
    assert "Not validated yet" in Page(before).words and "No student was distilled" in Page(before).words
    measured(tmp_path, VALIDATION, RESULT)
    assert renew_results(tmp_path) == page
    after = page.read_text()
    found = Page(after)
    assert found.broken == [] and found.open == [] and found.foreign_scripts == []
    assert "7 of 40 are wrong" in found.words and "semantic entropy 0.875 0.750 to 0.938 0.062" in found.words
    assert found.words.index("semantic entropy 0.875") < found.words.index("discrete entropy 0.800")
    assert "uopd<script> 40 20.0% 40.0% +20.0 [+15.0, +25.0] 5 min 00 s 1.50 378,105" in found.words
    assert before.split(START)[0] == after.split(START)[0] and before.split(END)[1] == after.split(END)[1]
    renew_results(tmp_path)
    assert page.read_text() == after


def test_results_about_another_dataset_or_in_a_damaged_file_are_absent(tmp_path: Path) -> None:
    page = built(tmp_path)
    before = page.read_text()
    for validation, result in (
        ({**VALIDATION, "dataset": "other"}, {**RESULT, "dataset": "other"}),
        ({"dataset": DATA.fingerprint, "majority": {"detections": 3}}, {**RESULT, "cost": {}}),
        ([], {"dataset": DATA.fingerprint}),
    ):
        measured(tmp_path, validation, result)
        renew_results(tmp_path)
        assert page.read_text() == before


def test_a_page_without_the_section_is_left_alone(tmp_path: Path) -> None:
    assert renew_results(tmp_path) is None
    page = built(tmp_path)
    page.write_text("<p>an older report</p>")
    assert renew_results(tmp_path) is None and page.read_text() == "<p>an older report</p>"


def test_the_link_to_the_validation_starts_at_the_report(tmp_path: Path) -> None:
    measured(tmp_path, VALIDATION, {**RESULT, "held_out": None})
    found = read_results(tmp_path, tmp_path / "versions" / "a" / "report.html", DATA.fingerprint)
    assert found.page == "../../validation/report.html"
    assert [(one.run, one.gain) for one in found.students] == [("run1", None)]


def test_the_lineage_of_the_dataset_is_shown_and_nothing_else(tmp_path: Path) -> None:
    page = built(tmp_path)
    assert "No run has recorded it yet" in Page(page.read_text()).words
    dataset = Product(
        kind=Kind.DATASET, digest=DATA.fingerprint, folder="dataset<script>", made_from=("seeds:" + "5" * 64,),
        facts={"name": "<img src=x onerror=alert(1)>", "licence": ""}, maker=Maker(run="pocket build", run_id="0123-4567-89"),
    )  # fmt: skip
    student = Product(
        kind=Kind.STUDENT,
        digest="0" * 16,
        folder="distill/a",
        made_from=(dataset.key,),
        facts={"steps": "40"},
    )
    other = Product(kind=Kind.DATASET, digest="another", folder="elsewhere")
    for one in (dataset, student, other):
        record(tmp_path, one)
    renew_results(tmp_path)
    found = Page(page.read_text())
    assert found.broken == [] and found.open == [] and found.foreign_scripts == [] and "img" not in found.tags
    section = found.words.partition("product digest contents folder made by")[2].partition("Funnel")[0]
    shown = f"{dataset.short} name <img src=x onerror=alert(1)> \u00b7 made from seeds 555555555555 (recorded elsewhere)"
    assert shown in section and "dataset<script> pocket build 0123-456" in section
    assert "student 000000000000 steps 40 distill/a unknown" in section and "elsewhere unknown" not in section
