"""The validation of a dataset folder, and the errors for folders that cannot be validated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pocket import world
from tasks.errors import UserError
from tasks.rows import Example, JudgedPair, Response, Uncertainty
from tasks.seeds.truth import check
from tasks.stages.validate import judge_agreement, write_all
from tasks.storage.artifacts import Store
from tasks.storage.dataset import write_dataset
from tests.annotated import annotated, crowd
from tests.storage.test_dataset import manifest


def write(root: Path, made: list[tuple[Example, list[Response]]]) -> Path:
    rows, responses = [row for row, _ in made], [one for _, group in made for one in group]
    write_dataset(root / "dataset", {"train": rows}, {"train": responses}, manifest())
    latest = {
        "fingerprint": manifest().fingerprint,
        "builds": {"cluster": "b1"},
        "dataset": "dataset",
        "report": "report.html",
    }
    (root / "latest.json").write_text(json.dumps(latest), encoding="utf-8")
    return root / "dataset"


def judged(store: Store, build: str, pairs: list[JudgedPair]) -> None:
    folder = store.folder("cluster", build * 16)
    tables: dict[str, tuple[type, list[JudgedPair]]] = {
        "uncertainties": (Uncertainty, []),
        "judged_pairs": (JudgedPair, pairs),
    }
    for index in range(2):  # the same pair in two shards is one pair
        store.write_shard(folder, index, tables, {"counts": {"in": 0, "kept": 0, "rejected": {}}})
    store.finish("cluster", build * 16, 2, {"build": build}, primary="uncertainties")


def pair(first: str, second: str, same: bool) -> JudgedPair:
    output = json.dumps({"first": first, "second": second, "equivalent": same})
    return JudgedPair(
        first=first, second=second, equivalent=same, flipped=False, forward=output, backward=output
    )


def test_samples_and_majority_are_checked_by_the_same_rule():
    row, group = annotated(1, ["1/2", "0.5", "3", None, "1/2", "7", "7", "7"], truth="0.50")
    found = check(replace(row, majority_answer="7"), group, {"pocket"})
    assert found is not None and (found.majority_right, found.right, found.samples) == (False, 3, 8)
    drawn = world.problem(5, "easy", 0)
    row, group = annotated(2, [drawn.answer, "-12345"], problem=drawn.text, source_id="5/easy/0")
    assert check(row, group, ()) is None
    found = check(row, group, {"pocket"})
    assert found is not None and (found.majority_right, found.right) == (True, 1)
    assert check(*annotated(3, ["1", "2"], problem="Who knows?"), {"pocket"}) is None


def test_a_whole_dataset_and_the_verdicts_of_its_judge_are_measured(tmp_path: Path):
    made = crowd(60)
    folder = write(tmp_path, made)
    judged(Store(tmp_path), "b0", [pair("x", "y", True)] * 2)  # of another build
    judged(Store(tmp_path), "b1", [pair("x + 1", "1 + x", True), pair("x + 1", "x + 2", True)])
    found = write_all.fn(folder, tmp_path / "validation")
    output = json.loads((tmp_path / "validation" / "validation.json").read_text(encoding="utf-8"))
    assert output["problems"] == 60 and output["known"] == found.known == 50
    assert output["dataset"] == manifest().fingerprint and output["stored_difference"] == 0.0
    right = [sum(one.answer == row.answer for one in group) for row, group in made if row.answer is not None]
    assert output["sample"]["wrong"] == 8 * 50 - sum(right)
    assert output["majority"]["detections"][0]["auroc"]["value"] > 0.6
    judge = output["judge"]
    assert (judge["pairs"], judge["both_same"], judge["only_judge_same"]) == (2, 1, 1)
    assert judge["disagreements"][0]["second"] == "x + 2"
    assert (tmp_path / "validation" / "report.html").is_file()


def test_verdicts_of_another_build_are_not_used(tmp_path: Path):
    write(tmp_path, crowd(6))
    judged(Store(tmp_path), "b0", [pair("x", "y", True)])
    assert judge_agreement(tmp_path, manifest().fingerprint) is None
    judged(Store(tmp_path), "b1", [pair("x", "y", True)])
    assert judge_agreement(tmp_path, "of another dataset") is None
    assert judge_agreement(tmp_path / "elsewhere", manifest().fingerprint) is None


def test_without_a_dataset_or_a_known_truth_there_is_an_error_and_no_report(tmp_path: Path):
    with pytest.raises(UserError, match="is not an exported dataset"):
        write_all.fn(tmp_path / "dataset", tmp_path / "validation")
    unknown = [annotated(n, ["1", "2"], problem=f"Who knows number {n}?") for n in range(3)]
    with pytest.raises(UserError, match=r"no row with a known answer: add curated problems"):
        write_all.fn(write(tmp_path, unknown), tmp_path / "validation")
    assert not (tmp_path / "validation").exists()


@pytest.mark.slow
def test_the_flow_writes_the_report_of_the_newest_dataset(tmp_path: Path, prefect_server: str):
    from flows.validate import validate

    settings = {"run.output": str(tmp_path)}
    with pytest.raises(UserError, match="contains no finished dataset"):
        validate("pocket", settings)
    write(tmp_path, crowd(24))
    page = Path(validate("pocket", settings))
    assert page == tmp_path / "validation" / "report.html" and page.is_file()
    assert json.loads((page.parent / "validation.json").read_text(encoding="utf-8"))["known"] == 20
