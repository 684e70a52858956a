"""The evaluation of a run's own student gives what `make evaluate` gives for the same responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from tasks.answers.token_spans import TokenSpans
from tasks.config import PROJECT_ROOT
from tasks.evaluate_settings import EvaluateSettings
from tasks.identity import request_seed
from tasks.llm.offline_engine import SampleOutput
from tasks.storage.tables import read_rows
from tests.training.evaluation.test_harness import Inline
from training.config import EvaluationSettings
from training.data.model_files import ModelFiles, open_model
from training.evaluation import backends, harness, student
from training.evaluation.comparison import compare_results
from training.evaluation.held_out import held_out_of
from training.evaluation.results import SampleRow
from training.rollouts.engine import Generation, RolloutRequest, RolloutSampling
from training.rollouts.pool import RolloutPool

ROWS = [
    {"id": "a", "problem": "What is 2 + 3?", "answer": "5"},
    {"id": "b", "problem": "What is 7 * 6?", "answer": "42"},
    {"id": "c", "problem": "Halve 9.", "answer": "4.5"},
]
TEXTS = {
    "a": ["It is \\boxed{5}.", "So \\boxed{4}."],
    "b": ["Then \\boxed{41}.", "I am not sure"],
    "c": ["It is \\boxed{\\frac{9}{2}}.", "It is \\boxed{4.5}."],
}
SAMPLING = RolloutSampling(temperature=0.7, max_tokens=64, stop_token_ids=(2,))


@pytest.fixture(scope="module")
def pocket() -> ModelFiles:
    return open_model("student", str(PROJECT_ROOT / "pocket/student"))


class Engines:
    """Engines that give the texts of `TEXTS`; the last response of every problem is cut off."""

    def __init__(self, files: ModelFiles) -> None:
        self.files, self.requests = files, list[RolloutRequest]()

    def generate(self, requests: Sequence[RolloutRequest], _sampling: object) -> list[Generation]:
        self.requests += requests
        texts = [text for row in ROWS for text in TEXTS[row["id"]]]
        return [
            Generation(
                tokens=np.array(self.files.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32),
                logprobs=np.zeros(1, np.float32), finish_reason=("stop", "length")[place % 2], version=0,
            )
            for place, text in enumerate(texts)
        ]  # fmt: skip


def evaluated(
    folder: Path, files: ModelFiles, *, thinking: bool = False, when: str = "after step 3"
) -> tuple[list[list[bool]], Engines]:
    found = held_out_of(ROWS, EvaluationSettings(samples=2), files, thinking=thinking)
    engines = Engines(files)
    who = student.Student(weights="ab12", dtype="bfloat16", context=512)
    pool = cast(RolloutPool, engines)
    graded = student.evaluate(pool, found, when, SAMPLING, student=who, folder=folder)
    assert [one.finish_reason for one in graded.generations[:2]] == ["stop", "length"] and graded.samples == 2
    return [list(row) for row in graded.grades], engines


def test_the_result_is_that_of_an_evaluation(
    tmp_path: Path, pocket: ModelFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grades, engines = evaluated(tmp_path / "step", pocket)
    assert grades == [[True, False], [False, False], [True, True]]
    assert "pass@1 after step 3: 50.0% on 3 held-out problems x 2 samples" in capsys.readouterr().out
    seeds = [request_seed(row["id"], f"held-out/{number}", "evaluation") for row in ROWS for number in (0, 1)]
    assert [request.seed for request in engines.requests] == seeds

    class Answering:
        """Engines of `make evaluate` with the same responses."""

        invariance = None

        def __init__(self, *_: object) -> None: ...

        def draw(
            self, prompts: Any, _n: int, _sampling: Any, _scope: str, on_result: Any, _stop: Any
        ) -> None:
            for number, prompt in enumerate(prompts):
                (name,) = (row["id"] for row in ROWS if row["problem"] == prompt.values["problem"])
                ids = pocket.tokenizer(TEXTS[name][number % 2], add_special_tokens=False)["input_ids"]
                made = SampleOutput(
                    text=TEXTS[name][number % 2], token_count=len(ids), finish_reason=("stop", "length")[number % 2],
                    logprob_sum=float("nan"), spans=TokenSpans(),
                )  # fmt: skip
                on_result(number, [made])

        def close(self) -> None: ...

    monkeypatch.setattr(harness, "GradingPool", Inline)
    monkeypatch.setattr(backends, "Engines", Answering)
    path = tmp_path / "gsm8k.jsonl"
    lines = [{"question": row["problem"], "answer": f"#### {row['answer']}"} for row in ROWS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = EvaluateSettings(
        model="pocket/student", out=tmp_path / "out", cpu_workers=1, benchmarks=(f"gsm8k={path}",), protocols=("avg8",),
        samples=2, temperature=0.7, top_p=1.0, max_tokens=64,
    )  # fmt: skip
    (other,) = harness.evaluate(settings, lambda _: None)
    own = tmp_path / "step/held_out/avg2"
    assert {path.name for path in own.iterdir()} == {path.name for path in other.folder.iterdir()}
    numbers = json.loads((own / "metrics.json").read_text())
    for part in ("scores", "main", "math_verify", "counts", "lengths", "lengths_correct", "lengths_wrong"):
        assert numbers[part] == other.numbers[part], part
    assert numbers["scores"]["avg@2"]["value"] == 0.5 and numbers["scores"]["pass@2"][
        "value"
    ] == pytest.approx(2 / 3)
    names = ("text", "answer", "correct", "math_verify", "cluster", "tokens", "finish_reason")
    rows = [
        [
            tuple(getattr(row, name) for name in names)
            for row in read_rows(place / "samples.parquet", SampleRow)
        ]
        for place in (own, other.folder)
    ]
    assert rows[0] == rows[1]
    indices = [yaml.safe_load((place / "model-index.yml").read_text()) for place in (own, other.folder)]
    values = [
        {one["type"]: one["value"] for one in index["model-index"][0]["results"][0]["metrics"]}
        for index in indices
    ]
    assert values[0] == values[1] and values[0]["avg@2"] == 50.0


def test_before_and_after_are_compared_as_two_models(tmp_path: Path, pocket: ModelFiles) -> None:
    evaluated(tmp_path / "step-0", pocket, when="before training")
    evaluated(tmp_path / "step-3", pocket)
    (pair,), skipped = compare_results(tmp_path / "step-0", tmp_path / "step-3")
    assert skipped == [] and pair.name == "held_out avg2" and pair.score == "avg@2"
    assert pair.found.difference.value == 0.0 and pair.found.first == 0.5


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, pocket: ModelFiles) -> None:
    for name in ("one", "two"):
        evaluated(tmp_path / name, pocket)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "held_out/avg2").iterdir() if path.name != "cost.json"}
        for name in ("one", "two")
    )  # fmt: skip
    assert one == two and len(one) == 5


def test_thinking_that_did_not_end_has_no_answer(tmp_path: Path, pocket: ModelFiles) -> None:
    """As in `make evaluate`: a box in a thought that was cut off is no answer."""
    closed, _ = evaluated(tmp_path / "off", pocket)
    opened, _ = evaluated(tmp_path / "on", replace(pocket), thinking=True)
    assert closed[2] == [True, True] and opened[2] == [True, False]
