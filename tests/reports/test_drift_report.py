"""The drift report shows the numbers of the given moves, and no text of a model as markup."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tasks.reports.drift_report import Cost, DriftData, drift_numbers, render_drift, write_drift
from tasks.reports.report_figures import change_bins
from tasks.rows import Reason, Reject
from tasks.storage.versions import Shared
from tasks.uncertainty.annotation import Cause
from tests.uncertainty.test_drift import MOVES, move

DATA = DriftData(
    name="SURE-Math",
    profile="pocket",
    old="a" * 64,
    new="b" * 64,
    problems=20,
    added=1,
    moves=MOVES,
    causes={Cause.TEACHER: 4, Cause.NEW: 2},
    rejects=[Reject(problem_id="x", stage="stale", reason=Reason.TOO_LONG, detail="30,000 characters")],
    cost=Cost(
        sampled=6,
        responses=40,
        tokens=1234,
        judged_pairs=3,
        judge_prompt_tokens=1357,
        judge_completion_tokens=246,
        sent=46,
        seconds={"sample": 75.0},
    ),
    files=Shared(shared=5, written=2),
    models={"teacher": "teacher:2"},
)


def test_the_json_contains_the_numbers_of_the_moves_and_the_cost(tmp_path: Path) -> None:
    write_drift(tmp_path, DATA)
    found = json.loads((tmp_path / "drift.json").read_text())
    assert found == json.loads(json.dumps(drift_numbers(DATA)))
    assert (found["annotated_again"], found["added"], found["causes"]) == (4, 1, {"new": 2, "teacher": 4})
    assert found["rejected"] == {"too_long": 1} and found["rejects"][0]["detail"] == "30,000 characters"
    assert found["drift"]["largest"] == 0.5 and set(found["drift_by_tier"]) == {"easy", "hard"}
    assert [one["id"] for one in found["largest_movers"]] == ["b", "a", "d"]
    assert found["largest_movers"][0]["change"] == -0.5 and found["cost"]["sent"] == 46
    assert (found["cost"]["judge_prompt_tokens"], found["cost"]["judge_completion_tokens"]) == (1357, 246)
    assert found["files"] == {"shared": 5, "written": 2}


def test_the_page_shows_them_and_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    page = render_drift(DATA)
    assert page == render_drift(DATA)
    for text in (
        "2 increased, 1 decreased, 1 did not change",
        "5 of 7",
        "0.438 &rarr; 0.391",
        "1 min 15 s",
        "too long",
        "-0.500",
        "1,357, 246",
    ):
        assert text in page
    assert page.count('class="fill point') == 4 and "<script" not in page and "://" not in page


def test_texts_of_models_are_escaped_and_truncated() -> None:
    evil = move("e", 0.0, 1.0, new_answer="<script>alert(1)</script>")
    page = render_drift(replace(DATA, moves=[replace(evil, problem="<img src=x>" + "y" * 10_000)]))
    assert "<script" not in page and "<img" not in page and "&lt;img" in page and "y" * 5_000 not in page


def test_a_report_without_moves_does_not_mention_weights() -> None:
    page = render_drift(replace(DATA, moves=()))
    assert (
        "Largest changes" not in page
        and "new problems" in page
        and drift_numbers(replace(DATA, moves=()))["drift"] is None
    )


def test_a_change_is_counted_in_its_bin_and_no_change_in_the_upper_middle_one() -> None:
    assert change_bins([-1.0, -0.75, -0.0001, 0.0, 0.49, 0.5, 1.0], bins=4) == [2, 1, 2, 2]
    assert change_bins([], bins=4) == [0, 0, 0, 0]
