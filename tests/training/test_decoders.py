"""Complete runs with real engines for every architecture: three steps of UOPD, OPSD with LoRA and GRPO on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.config import PROJECT_ROOT
from tests.tiny_decoders import DECODERS, write_tiny_decoder
from tests.tiny_model import write_tiny_experts
from tests.training.small_run import example, response, settings, write_small_dataset
from training.config import run_from
from training.data.batches import TokenSequence
from training.data.model_files import encode_prompts, open_model
from training.preflight.check import inspect
from training.scorers.scores import ScoreRequest
from training.scorers.vllm_teacher import (
    ScoringSettings,
    VllmTeacher,
    scoring_environment,
    scoring_options,
)

DAY = "2026-01-31"
ROWS, STEPS = 12, 3
ANSWERS = ("\\boxed{1}", "\\boxed{2}")
MISMATCH = 0.02  # nats; that of the pocket models is 0.01
METHODS: Mapping[str, dict[str, Any]] = {
    "uopd": {"algorithm": {"name": "uopd", "top_k": 64}, "rollouts": {"group_size": 2}},
    "opsd": {
        "algorithm": {"name": "opsd"},
        "trainer": {
            "lora": {"rank": 4, "alpha": 8.0},
            "micro_batch_tokens": 2048,
            "gradient_checkpointing": False,
        },
    },
    "grpo": {"algorithm": {"name": "grpo", "updates_per_batch": 1}, "rollouts": {"group_size": 8}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose majority answer is 1 or 2, with a response of the teacher that gives it."""
    answers = [str(1 + n % 2) for n in range(ROWS)]
    rows = [example(n, problem=f"Solve {n} plus 2.", majority_answer=answers[n]) for n in range(ROWS)]
    samples = [response(row, k, answers[n] if k else "7") for n, row in enumerate(rows) for k in range(4)]
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows, responses=samples)


@pytest.fixture(scope="module", params=DECODERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


def make_pair(name: str, folder: Path) -> tuple[Path, Path]:
    """Return student and teacher. The teacher of qwen3 is a mixture of experts, and that of mistral has a padded embedding."""
    student = write_tiny_decoder(folder / "student", name)
    if name == "qwen3":
        return student, write_tiny_experts(folder / "teacher")
    return student, write_tiny_decoder(
        folder / "teacher", name, seed=1, rows=576 if name == "mistral" else 512
    )


def learn(folder: Path) -> None:
    """Train a student to answer any problem with one of `ANSWERS`, so that rewards differ."""
    from transformers import AutoModelForCausalLM

    files = open_model("student", str(folder))
    texts = [f"Solve {n} plus 2." for n in range(4)]
    prompts = encode_prompts(files, texts, thinking=False, day=date.fromisoformat(DAY))
    answers = [files.tokenizer.encode(text, add_special_tokens=False) for text in ANSWERS]
    whole = [[*ids, *answer, files.end_tokens[0]] for ids in prompts for answer in answers]
    starts = [len(ids) for ids in prompts for _ in answers]
    ids = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (tokens, start) in enumerate(zip(whole, starts, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.4, "one of two answers: log 2 in one of some ten tokens"
    model.to(torch.bfloat16).save_pretrained(folder)


def run_settings(folder: Path, dataset: Path, pair: tuple[Path, Path], method: str) -> dict[str, Any]:
    student, teacher = pair
    basic: dict[str, Any] = {
        "output": str(folder),
        "dataset": {"folder": str(dataset), "allow_mismatch": True},
        "student": {"model": str(student)},
        "teacher": {"model": str(teacher)},
        "prompt": {"date": DAY},
        "lengths": {"max_prompt_tokens": 320, "max_response_tokens": 24},
        "batches": {"size": 4, "total_prompts": 4 * STEPS, "draw": "epochs"},
        "optimizer": {"learning_rate": 1e-3},
        "trainer": {"micro_batch_tokens": 2048, "gradient_checkpointing": False},
        "checkpoints": {"every": 100},
    }
    if method != "uopd":
        del basic["teacher"]
    return settings(dataset, **basic | METHODS[method]) | ({} if method == "uopd" else {"teacher": None})


def finish(folder: Path, chosen: dict[str, Any]) -> Path:
    """Run the training and return the folder of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RUN.json").write_text(json.dumps(chosen))
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", str(folder / "RUN.json")],
        cwd=PROJECT_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    (found,) = folder.glob("*/metrics.jsonl")
    return found.parent


@pytest.mark.parametrize("method", ["uopd", "opsd"])
def test_every_run_passes_its_check(
    pair: tuple[Path, Path], dataset: Path, tmp_path: Path, method: str
) -> None:
    found = inspect(run_from(run_settings(tmp_path, dataset, pair, method), "test"))
    assert found.problems == ()


# --- with real engines -------------------------------------------------------------------------------------------

LONG = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]


def check_run(pair: tuple[Path, Path], folder: Path) -> None:
    """Three steps, a small trainer/engine mismatch after every sync, and a student that changed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert max(row["mismatch_mean"] for row in rows) < MISMATCH, [row["mismatch_mean"] for row in rows]
    before, after = (load_file(one / "model.safetensors") for one in (pair[0], folder / "student"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def runs(pair: tuple[Path, Path], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    learn(pair[0])
    return {
        method: finish(place / method, run_settings(place / method, dataset, pair, method))
        for method in METHODS
    }


class TestEveryArchitecture:
    pytestmark = LONG

    def test_three_steps_of_every_method_keep_the_engine_in_step(
        self, pair: tuple[Path, Path], runs: dict[str, Path]
    ) -> None:
        for folder in runs.values():
            check_run(pair, folder)

    def test_exported_students_have_the_same_logits_in_transformers_and_vllm(
        self, pair: tuple[Path, Path], runs: dict[str, Path]
    ) -> None:
        for method in ("uopd", "opsd"):
            same_logits(runs[method] / "student")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_olmo_student_is_trained(dataset: Path, tmp_path: Path) -> None:
    pair = make_pair("olmo3", tmp_path)
    learn(pair[0])
    folder = finish(tmp_path / "run", run_settings(tmp_path / "run", dataset, pair, "uopd"))
    check_run(pair, folder)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_vllm_teacher_scores_with_a_mixture_of_experts(tmp_path: Path) -> None:
    same_logits(write_tiny_experts(tmp_path / "experts"))


def same_logits(folder: Path) -> None:
    """Assert that vLLM, in a process of its own, gives the distributions of transformers, in float32, for sequences longer than
    any window."""
    code = (
        "import sys; from tests.training.test_decoders import write_logprobs; write_logprobs(*sys.argv[1:])"
    )
    target = folder.parent / "logprobs.npz"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(target)],
        cwd=PROJECT_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    found, expected = np.load(target), of_transformers(folder)
    assert len(found) == len(expected) == 4
    for one, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def write_logprobs(folder: str, target: str) -> None:
    """Write vLLM's log-probabilities of every token at every position of `sequences`."""
    chosen = ScoringSettings(
        model=Path(folder), max_tokens=128, top_k=512, vocabulary=512, pass_tokens=512, dtype="float32"
    )
    teacher = VllmTeacher(
        chosen, scoring_environment(chosen, on_cpu=True), scoring_options(chosen, on_cpu=True)
    )
    scores, _ = teacher.score(sequences(), ScoreRequest(top_k=512))
    np.savez(target, *[one.top_k.logprobs for one in scores if one.top_k is not None])


def sequences() -> list[TokenSequence]:
    random = np.random.default_rng(0)
    return [
        TokenSequence(tokens=random.integers(5, 500, length).astype(np.int32), prompt_length=1)
        for length in (9, 40, 77, 120)
    ]


def of_transformers(folder: Path) -> list[np.ndarray]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [
            model(torch.from_numpy(one.tokens).long()[None]).logits[0, :-1].log_softmax(-1).numpy()
            for one in sequences()
        ]
