"""The memory of frozen models and of their scores, for the passes of each algorithm, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.training.preflight.test_memory import COLOCATED, EMBEDDING, LARGE, SMALL, SPLIT, node, parts_of
from training.algorithms import load_algorithm
from training.algorithms.base import Scorer
from training.plan import RunPlan, resolve
from training.preflight.memory import (
    MemoryPlan,
    memory_plan,
    memory_table,
    placement_of,
    reference_parts,
    student_parts,
    teacher_parts,
)
from training.preflight.memory_parts import score_bytes

BATCH = 128 * 4 * 4096  # response tokens of a step: prompts, rollouts of each, and their length
MICRO = 8192  # tokens of a micro-batch
GRPO = {"algorithm": {"name": "grpo"}, "teacher": None}
FORWARD = {"trainer": {"lora": {"rank": 8}}}  # the update needs less memory than the forward pass
OPSD = {"algorithm": {"name": "opsd"}, "teacher": None, "lengths": {"max_response_tokens": 4096}}


def plan(placement: dict[str, Any] | None = None, **changes: Any) -> RunPlan:
    return resolve(node(placement, **changes))


def owners(made: MemoryPlan) -> list[tuple[str, list[str]]]:
    return [(device.name, sorted({part.owner for part in device.parts})) for device in made.devices]


def with_scorers(*scorers: Scorer) -> RunPlan:
    algorithm = replace(load_algorithm("opd"), scorers=scorers)
    return RunPlan(run=node(rollouts={}, batches={}, **FORWARD), algorithm=algorithm)


def test_without_a_frozen_model_there_are_students_and_engines_and_no_scores() -> None:
    split = memory_plan(plan(SPLIT, **GRPO), SMALL)
    assert owners(split) == [("GPU 0", ["student"]), ("GPU 1", ["rollout"]), ("GPU 2", ["rollout"])]
    assert split.host == () and "scores" not in memory_table(split)
    assert split.scored_sequences is None and split.fits
    colocated = memory_plan(plan(COLOCATED, **GRPO), SMALL)
    assert owners(colocated) == [(f"GPU {n}", ["rollout", "student"]) for n in range(4)]


def test_a_run_without_a_teacher_needs_what_one_with_a_teacher_needs_less_its_scores() -> None:
    without, scored = plan(**GRPO, **FORWARD), plan(algorithm={"top_k": 512}, **FORWARD)
    assert score_bytes(without, SMALL, id_bytes=8) == 0
    bare, full = (parts_of(student_parts(one, SMALL)) for one in (without, scored))
    assert full.pop("activations, logits") - bare.pop("activations, logits") == MICRO * 512 * 12
    assert bare == full and "teacher's head" not in bare


def test_the_start_as_the_teacher_is_on_the_students_gpu_and_sends_the_students_hidden_states() -> None:
    made = memory_plan(plan(SPLIT, **OPSD, batches={"size": 128}, rollouts={"group_size": 4}), SMALL)
    assert owners(made) == [
        ("GPU 0", ["reference", "student"]), ("GPU 1", ["rollout"]), ("GPU 2", ["rollout"]),
    ]  # fmt: skip
    states = BATCH * 2048 * 2
    assert parts_of(made.host) == {"scores, object store": 2 * states, "teacher's scores": states}
    student = parts_of(student_parts(plan(SPLIT, **OPSD), SMALL))
    assert student["teacher's head"] == 151_936 * 2048 * 2
    frozen = parts_of(reference_parts(plan(SPLIT, **OPSD), SMALL))
    assert frozen["parameters"] == 2 * 1_720_574_976
    plain = parts_of(reference_parts(plan(SPLIT, algorithm={"reference_kl_coefficient": 0.1}), SMALL))
    assert frozen["activations, logits"] - plain["activations, logits"] == MICRO * (2048 * 2 - 4)


def test_a_teacher_with_states_and_a_reference_have_the_head_of_the_teacher() -> None:
    made = plan(algorithm={"top_k": "full", "reference_kl_coefficient": 0.1})
    assert parts_of(student_parts(made, SMALL, LARGE))["teacher's head"] == EMBEDDING
    assert score_bytes(made, SMALL, LARGE, id_bytes=4) == 4096 * 2 + 4
    assert owners(memory_plan(made, SMALL, LARGE))[:2] == [
        ("GPU 0", ["reference", "student"]),
        ("GPU 1", ["teacher"]),
    ]


def test_the_scores_of_two_passes_are_kept_together_and_computed_one_after_the_other() -> None:
    plain = Scorer(role="teacher", outputs=("top_k",), top_k=512)
    hint = Scorer(role="teacher", view="answer", outputs=("sampled", "entropy"))
    one, two = with_scorers(plain), with_scorers(plain, hint)
    assert [len(made.passes) for made in (one, two)] == [1, 2]
    assert score_bytes(two, SMALL, LARGE, id_bytes=4) == 512 * 8 + 8
    students = [parts_of(student_parts(made, SMALL, LARGE))["activations, logits"] for made in (one, two)]
    assert students[1] - students[0] == MICRO * 8
    assert teacher_parts(one, LARGE) == teacher_parts(two, LARGE)  # the larger of both passes
    answers = BATCH * (512 * 8 + 8)
    host = parts_of(memory_plan(two, SMALL, LARGE).host)
    assert host == {"scores, object store": 2 * answers, "teacher's scores": answers}
    assert owners(memory_plan(two, SMALL, LARGE)) == owners(memory_plan(one, SMALL, LARGE))


@pytest.mark.parametrize(
    ("name", "teacher", "reference"),
    [
        ("uopd", 1, 0), ("opd", 1, 0), ("self_distilled_reasoner", 1, 0), ("kd", 1, 0), ("opsd", 0, 1), ("pw_opsd", 0, 1),
        ("grpo", 0, 0), ("sft", 0, 0),
    ],
)  # fmt: skip
def test_the_placement_of_every_algorithm_has_its_frozen_models(
    name: str, teacher: int, reference: int
) -> None:
    made = placement_of(plan(SPLIT, algorithm={"name": name}, lengths={"max_response_tokens": 1024}))
    assert (made.count("teacher"), made.count("reference")) == (teacher, reference)
    assert len(made.bundles()) == 3 + teacher
    both = plan(COLOCATED, algorithm={"name": name, "reference_kl_coefficient": 0.1}, lengths={})
    assert (placement_of(both).count("teacher"), placement_of(both).count("reference")) == (4 * teacher, 4)
