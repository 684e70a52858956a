"""Parts of a rollout batch are assigned round-robin to the copies of a frozen model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training.small_run import example, small_run, write_small_dataset
from training.data.batches import TokenSequence
from training.preflight.check import prepare
from training.preflight.memory import placement_of
from training.preflight.shapes import count_parameters, read_dimensions
from training.student.exported_files import PromptFiles
from training.worker_set import (
    Workers,
    frozen_settings,
    log_findings,
    rank_settings,
    rollout_engine_settings,
    teacher_actor,
)


def copies(asked: list[tuple[int, int]], count: int) -> tuple[Any, ...]:
    """Return handles that record (copy, number of sequences) of every call."""

    def handle(copy: int) -> Any:
        remote = SimpleNamespace(remote=lambda sequences, *_: asked.append((copy, len(sequences))))
        return SimpleNamespace(score=remote, timed_logprobs=remote)

    return tuple(handle(copy) for copy in range(count))


def test_parts_are_assigned_round_robin_to_the_copies() -> None:
    asked: list[tuple[int, int]] = []
    referenced: list[tuple[int, int]] = []
    nobody: Any = None
    workers = Workers(
        students=nobody, engines=nobody, teachers=copies(asked, 3), top_k=4, facts={}, references=copies(referenced, 2)
    )  # fmt: skip
    one = TokenSequence(tokens=np.arange(5, dtype=np.int32), prompt_length=2)
    for part in range(5):
        workers.score([one] * (part + 1), part)
        workers.reference_logprobs([one] * (part + 1), part)
    assert asked == [(0, 1), (1, 2), (2, 3), (0, 4), (1, 5)]
    assert referenced == [(0, 1), (1, 2), (0, 3), (1, 4), (0, 5)]


@pytest.mark.parametrize(("kind", "shares"), [("colocated", True), ("split", False), ("cpu", False)])
def test_only_models_that_share_a_gpu_release_unused_memory(tmp_path: Path, kind: str, shares: bool) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    prepared = prepare(small_run(dataset, placement={"kind": kind, "students": 2, "engines": 2}))
    placement = placement_of(prepared.run)
    teacher = frozen_settings(prepared, placement, prepared.teacher.folder, "bfloat16")
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
    prepared = prepare(small_run(dataset, teacher=teacher, objective={"top_k": 8}))
    _, settings, *_ = teacher_actor(prepared, placement_of(prepared.run), 8)
    assert settings.dtype == dtype
    (weights,) = (
        part.bytes
        for device in prepared.memory.devices
        for part in device.parts
        if (part.owner, part.what) == ("teacher", "parameters")
    )
    parameters = count_parameters(read_dimensions(prepared.teacher.folder))
    assert weights == parameters * (2 if dtype == "bfloat16" else 4)


def test_the_student_trains_without_dropout_and_exports_the_end_tokens(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    student = {"model": "pocket/student", "dropout": True}
    for run, dropout in ((small_run(dataset), False), (small_run(dataset, student=student), True)):
        prepared = prepare(run)
        settings = rank_settings(prepared, placement_of(run))
        assert settings.dropout == dropout
        assert settings.prompt == PromptFiles(end_ids=(1992,), end_token="<|im_end|>", chat_template=None)


def test_the_attention_of_the_student_and_every_finding_of_the_engines_are_logged_once() -> None:
    lines: list[str] = []
    engines = [{"batch_invariance": finding} for finding in ("a", "b", "a")]
    log_findings({"student": {"attention": "varlen (bfloat16 on a GPU)"}, "engines": engines}, lines.append)
    assert lines == [
        "attention of the student: varlen (bfloat16 on a GPU)", "rollout engines: a", "rollout engines: b",
    ]  # fmt: skip


def test_without_a_reference_nothing_is_requested() -> None:
    nobody: Any = None
    workers = Workers(students=nobody, engines=nobody, teachers=(), top_k=4, facts={})
    assert workers.reference_logprobs([]) is None
