"""The job of an evaluation: settings from profile and call, its errors, and what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.config import load_config
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.processes.jobs import JobFailed
from tasks.runtime.evaluation import (
    environment,
    evaluation_settings,
    job_failed_as_user_error,
    result_folders,
    result_rows,
)


def test_the_profile_names_benchmarks_and_the_call_overrides_it(tmp_path: Path) -> None:
    config = load_config("paper-1.7b", {"evaluate.max_tokens": 4096})
    found = evaluation_settings(config, {"model": "m", "benchmarks": ["gsm8k"]})
    assert (found.model, found.benchmarks, found.max_tokens) == ("m", ("gsm8k",), 4096)
    assert found.protocols == ("pass1_greedy", "avg16")
    assert evaluation_settings(config, {"model": "m"}).benchmarks[:2] == ("gsm8k", "math500")
    for wrong, sentence in (
        ({"model": "./nowhere"}, "nowhere does not exist"),
        ({"model": "m", "benchmarks": ["x=data"]}, "unknown benchmark 'x'"),
        ({"model": "m", "protocols": ["declared", "y"]}, "unknown protocol 'y'"),
    ):
        with pytest.raises(UserError, match=sentence):
            evaluation_settings(config, wrong)
    with pytest.raises(UserError, match="evaluate: top_p: Input should be less than or equal to 1"):
        evaluation_settings(config, {"model": "m", "top_p": 2})


def test_without_a_model_the_student_that_was_trained_last_is_evaluated(tmp_path: Path) -> None:
    config = load_config("pocket", {"run.output": str(tmp_path)})
    with pytest.raises(UserError, match=r"no model is given, and .* has no trained student"):
        evaluation_settings(config, {})
    (tmp_path / "distill" / "abc" / "student").mkdir(parents=True)
    (tmp_path / "distill" / "latest.json").write_text(json.dumps({"run": "abc"}), encoding="utf-8")
    assert evaluation_settings(config, {}).model == str(tmp_path / "distill" / "abc" / "student")


def test_evaluation_settings_change_no_fingerprint_of_a_build() -> None:
    assert load_config("pocket", {"evaluate.limit": 5}).identity() == load_config("pocket").identity()


def test_of_all_keys_the_job_gets_only_those_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "TEAM_API_KEY", "OTHER_API_KEY", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "x")
    found = environment(EvaluateSettings(api_key_env="TEAM_API_KEY"))
    assert {"HF_TOKEN", "TEAM_API_KEY"} <= found.keys() and not {
        "OTHER_API_KEY",
        "PREFECT_API_URL",
    } & found.keys()


def test_what_the_user_can_fix_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"^model folder x does not exist$"),
        job_failed_as_user_error(tmp_path),
    ):
        (tmp_path / "problems.txt").write_text("model folder x does not exist\n", encoding="utf-8")
        raise JobFailed("exit status 2")
    with pytest.raises(JobFailed, match="exit status 1"), job_failed_as_user_error(tmp_path):
        raise JobFailed("exit status 1")


def test_results_are_listed_with_their_main_score(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "gsm8k" / "avg16"
    folder.mkdir(parents=True)
    numbers = {
        "benchmark": {"title": "GSM8K", "problems": 1319}, "counts": {"truncated": 3}, "main": "avg@16",
        "scores": {"avg@16": {"value": 0.5, "low": 0.4, "high": 0.6}}, "math_verify": {"score": 0.49},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert result_folders(["evaluate: starting", f"evaluate: gsm8k (avg16): result in {folder}"]) == [folder]
    assert result_rows([folder]) == [
        {
            "benchmark": "GSM8K", "protocol": "avg16", "score": "avg@16", "value": "50.00% [40.00%, 60.00%]",
            "Math-Verify": "49.00%", "problems": "1,319", "truncated": "3",
        }
    ]  # fmt: skip
