"""The workers of a run: what is asked of which copy of a frozen model, and the settings that a plan gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training.small_run import example, small_run, write_small_dataset
from training.data.batches import TokenSequence
from training.plan import resolve
from training.preflight.check import prepare
from training.preflight.memory import placement_of
from training.preflight.shapes import count_parameters, read_dimensions
from training.scorers.scores import ScoreRequest
from training.student.exported_files import PromptFiles
from training.worker_set import (
    Workers,
    frozen_settings,
    log_findings,
    rank_settings,
    rollout_engine_settings,
    states_folder,
    teacher_actor,
)


def copies(asked: list[tuple[int, int, ScoreRequest]], count: int) -> tuple[Any, ...]:
    """Return handles that record (copy, number of sequences, request) of every call."""

    def handle(copy: int) -> Any:
        def score(sequences: Sequence[TokenSequence], request: ScoreRequest) -> None:
            asked.append((copy, len(sequences), request))

        return SimpleNamespace(score=SimpleNamespace(remote=score))

    return tuple(handle(copy) for copy in range(count))


NOBODY: Any = None
ONE = TokenSequence(tokens=np.arange(5, dtype=np.int32), prompt_length=2)


def test_parts_are_assigned_round_robin_to_the_copies_of_the_model_of_the_pass() -> None:
    plan = resolve(small_run(Path("d"), algorithm={"reference_kl_coefficient": 0.1, "top_k": 4}))
    asked: dict[str, list[tuple[int, int, ScoreRequest]]] = {"teacher": [], "reference": []}
    teachers, reference = (copies(asked["teacher"], 3),), copies(asked["reference"], 2)
    workers = Workers(students=NOBODY, engines=NOBODY, teachers=teachers, reference=reference)
    for part in range(5):
        for one in plan.passes:
            workers.score(one, [ONE] * (part + 1), part)
    teacher, reference = ScoreRequest(top_k=4), ScoreRequest(sampled=True)
    assert asked["teacher"] == [(n % 3, n + 1, teacher) for n in range(5)]
    assert asked["reference"] == [(n % 2, n + 1, reference) for n in range(5)]


@pytest.mark.parametrize(
    ("backend", "request_of"),
    [("in_process", ScoreRequest(states=True)), ("vllm", ScoreRequest(whole=True))],
)
def test_the_full_distribution_comes_as_states_or_as_all_log_probabilities(
    backend: str, request_of: ScoreRequest
) -> None:
    teacher = {"model": "t", "backend": backend, "force": True}
    (one,) = resolve(small_run(Path("d"), teacher=teacher, algorithm={"top_k": "full"})).passes
    asked: list[tuple[int, int, ScoreRequest]] = []
    workers = Workers(students=NOBODY, engines=NOBODY, teachers=(copies(asked, 1),))
    workers.score(one, [ONE])
    assert asked == [(0, 1, request_of)]


@pytest.mark.parametrize(("kind", "shares"), [("colocated", True), ("split", False), ("cpu", False)])
def test_only_models_that_share_a_gpu_release_unused_memory(tmp_path: Path, kind: str, shares: bool) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    prepared = prepare(small_run(dataset, placement={"kind": kind, "students": 2, "engines": 2}))
    placement = placement_of(prepared.plan)
    teacher = frozen_settings(prepared, placement, prepared.teacher_files.folder, "bfloat16")
    assert (rank_settings(prepared, placement).shares_gpu, teacher.shares_gpu) == (shares, shares)
    planned = prepared.memory.engine_kv_bytes if shares else None
    assert rollout_engine_settings(prepared, placement).kv_cache_bytes == planned, (
        "must not depend on the free memory of a shared GPU"
    )


@pytest.mark.parametrize("backend", ["in_process", "vllm"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_teacher_has_the_dtype_of_its_setting(tmp_path: Path, backend: str, dtype: str) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    teacher = {"model": "pocket/teacher", "backend": backend, "dtype": dtype}
    prepared = prepare(small_run(dataset, teacher=teacher, algorithm={"top_k": 8}))
    _, settings, *_ = teacher_actor(prepared, placement_of(prepared.plan))
    assert settings.dtype == dtype
    (weights,) = (
        part.bytes
        for device in prepared.memory.devices
        for part in device.parts
        if (part.owner, part.what) == ("teacher", "parameters")
    )
    parameters = count_parameters(read_dimensions(prepared.teacher_files.folder))
    assert weights == parameters * (2 if dtype == "bfloat16" else 4)


def test_the_student_trains_without_dropout_and_exports_the_end_tokens(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    student = {"model": "pocket/student", "dropout": True}
    for run, dropout in ((small_run(dataset), False), (small_run(dataset, student=student), True)):
        prepared = prepare(run)
        settings = rank_settings(prepared, placement_of(prepared.plan))
        assert settings.dropout == dropout
        assert settings.prompt == PromptFiles(end_ids=(1991,), end_token="<|im_end|>", chat_template=None)


def test_the_attention_of_the_student_and_every_finding_of_the_engines_are_logged_once() -> None:
    lines: list[str] = []
    engines = [{"batch_invariance": finding} for finding in ("a", "b", "a")]
    log_findings({"student": {"attention": "varlen (bfloat16 on a GPU)"}, "engines": engines}, lines.append)
    assert lines == [
        "attention of the student: varlen (bfloat16 on a GPU)", "rollout engines: a", "rollout engines: b",
    ]  # fmt: skip


def test_a_vllm_teacher_is_started_for_the_largest_k_of_its_passes(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    teacher = {"model": "pocket/teacher", "backend": "vllm", "force": True}
    sizes = {}
    for top_k in (8, "full"):
        prepared = prepare(small_run(dataset, teacher=teacher, algorithm={"top_k": top_k}))
        sizes[top_k] = teacher_actor(prepared, placement_of(prepared.plan))[1].top_k
    assert sizes == {8: 8, "full": 2048}


def test_only_a_full_distribution_from_hidden_states_needs_a_head_of_its_model(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1, answer="1")])

    def head(**changes: Any) -> str | None:
        folder = states_folder(prepare(small_run(dataset, **changes)))
        return None if folder is None else folder.name

    vllm = {"model": "pocket/teacher", "backend": "vllm", "force": True}
    assert head() is None and head(algorithm={"top_k": "full"}) == "teacher"
    assert head(algorithm={"top_k": "full"}, teacher=vllm) is None
    opsd = {"algorithm": {"name": "opsd"}, "trainer": {"micro_batch_tokens": 2048}}
    assert head(**opsd) == "student"  # the start


def test_without_a_grader_no_reward_is_given() -> None:
    workers = Workers(students=NOBODY, engines=NOBODY)
    with pytest.raises(RuntimeError, match="this run has no grader"):
        workers.grade(NOBODY, 0, ONE.tokens)
