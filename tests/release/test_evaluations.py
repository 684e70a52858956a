"""The evaluations that the flow of a release finds for a student, and what it leaves out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.release.evaluations import evaluations_of
from tasks.stages import release as stage
from tasks.storage.model_index import index_result, model_index
from tests.release.test_model_folder import card, trained

OWN, OTHER = "student:00ff", "student:1234"


def evaluation(folder: Path, name: str, *, identity: str = OWN, problems: int = 30, failed: int = 0) -> Path:
    """Write the two files of a result that a release reads, as `training.evaluation.results` does."""
    place = folder / name / "pass1_greedy"
    place.mkdir(parents=True)
    numbers = {
        "model": {"identity": identity},
        "benchmark": {"problems": problems, "of": 30},
        "counts": {"error": failed},
    }
    (place / "metrics.json").write_text(json.dumps(numbers))
    index = model_index("x", [index_result({"name": name, "type": name}, {"pass@1": 0.25}, "pass1_greedy")])
    (place / "model-index.yml").write_text(yaml.safe_dump(index))
    return place


def names(found: Any) -> list[str]:
    return [one["dataset"]["name"] for one in found.results]


def test_whole_evaluations_of_the_model_are_found_whatever_its_folder_is_called(tmp_path: Path) -> None:
    for name in ("b", "a"):
        evaluation(tmp_path, name)
    evaluation(tmp_path, "renamed", identity="mine:00ff")
    evaluation(tmp_path, "other", identity=OTHER)
    evaluation(tmp_path, "template", identity=f"{OWN}+template:77")
    evaluation(tmp_path, "part", problems=5)
    evaluation(tmp_path, "failed", failed=2)
    found = evaluations_of(OWN, [tmp_path], given=False)
    assert names(found) == ["a", "b", "renamed"]
    assert found.left_out == (
        "failed/pass1_greedy (2 failed requests)",
        "part/pass1_greedy (5 of 30 problems)",
    )
    assert evaluations_of(OWN, [tmp_path / "none"], given=False).results == ()


def test_an_evaluation_of_another_model_and_a_folder_without_one_are_refused(tmp_path: Path) -> None:
    place = evaluation(tmp_path / "one", "aime")
    assert names(evaluations_of(OWN, [place], given=True)) == ["aime"]
    with pytest.raises(
        UserError, match="is an evaluation of student:00ff, the released model is student:1234"
    ):
        evaluations_of(OTHER, [place], given=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no result of an evaluation"):
        evaluations_of(OWN, [tmp_path / "empty"], given=True)
    (place / "metrics.json").write_text("[")
    with pytest.raises(UserError, match=r"pass1_greedy cannot be read .*: evaluate the model again"):
        evaluations_of(OWN, [place], given=False)


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The function of the flow, run without a Prefect server."""
    from flows.release import release as flow

    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("release"))
    monkeypatch.setattr(stage, "create_markdown_artifact", lambda *_, **__: None)
    return flow.fn


def test_the_card_of_a_released_student_has_its_evaluations(
    release: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = trained(tmp_path / "run")
    identity = model_identity(str(run / "student"), None, PROJECT_ROOT)
    evaluation(tmp_path / "evaluations", "AIME", identity=identity)
    evaluation(tmp_path / "evaluations", "part", identity=identity, problems=5)
    evaluation(tmp_path / "more", "GSM8K", identity=identity)
    common = {
        "what": "model", "source": str(run), "licence": "mit",
        "overrides": {"run.output": str(tmp_path / "out"), "evaluate.out": str(tmp_path / "evaluations")},
    }  # fmt: skip
    release(**common)
    shown = card(tmp_path / "out/release/model-1.0.0").eval_results
    assert [(one.dataset_name, one.metric_value) for one in shown] == [
        ("200 held-out problems", 40.0),
        ("AIME", 25.0),
    ]
    assert "not on the card: part/pass1_greedy (5 of 30 problems)" in caplog.text
    assert "1 evaluation on the card" in caplog.text
    release(**common, version="1.0.1", evaluations=[str(tmp_path / "more")])
    shown = card(tmp_path / "out/release/model-1.0.1").eval_results
    assert [one.dataset_name for one in shown] == ["200 held-out problems", "GSM8K"]
    release(**common, version="1.0.2", evaluations=[])
    assert len(card(tmp_path / "out/release/model-1.0.2").eval_results) == 1
