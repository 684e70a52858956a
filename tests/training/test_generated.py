"""CORE's fallback by new responses of the teacher: for which prompts it is asked, what of its responses is used, and what such a
run refuses and plans. A sequence loss without what it reads is refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tasks.errors import UserError
from tests.training.small_run import example, small_run, write_small_dataset
from training.algorithms import load_algorithm
from training.algorithms.base import Scorer
from training.batch import generate_batch
from training.data.batches import TokenSequence
from training.plan import RunPlan, ScoringPass, resolve
from training.preflight.algorithm_checks import algorithm_problems
from training.preflight.check import Prepared, prepare
from training.preflight.memory import memory_plan, placement_of
from training.preflight.shapes import count_parameters, read_dimensions
from training.rollouts.engine import Generation, RolloutRequest
from training.scorers.scores import Scores
from training.worker_set import Workers

CORE = {"name": "core", "options": {"fallback": "generate", "generated": 2}}
RIGHT, WRONG = 7, 8  # the first token of a response says whether it is right


def response(first: int, finish_reason: str = "stop") -> Generation:
    tokens = np.array([first, 1], dtype=np.int32)
    return Generation(tokens=tokens, logprobs=np.full(2, -1.0, np.float32), finish_reason=finish_reason, version=0)  # fmt: skip


@dataclass
class Fake:
    """Workers whose rollouts and teacher's responses are given. `requested`: the requests to the teacher."""

    rollouts: Sequence[Generation]
    by_teacher: Sequence[Generation] = ()
    requested: list[RolloutRequest] = field(default_factory=list)
    scored: list[tuple[str, int]] = field(default_factory=list)

    def stream(self, requests: Sequence[RolloutRequest], _sampling: object) -> Any:
        assert len(requests) == len(self.rollouts)
        return reversed(list(enumerate(self.rollouts)))

    def generate_by_teacher(self, requests: Sequence[RolloutRequest], _sampling: object) -> list[Generation]:
        self.requested += requests
        return list(self.by_teacher)

    def grade(self, _prepared: Prepared, _row: int, tokens: np.ndarray) -> Future[float]:
        future: Future[float] = Future()
        future.set_result(float(tokens[0] == RIGHT))
        return future

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int) -> Any:
        self.scored.append((one.worker, len(sequences)))
        found = [Scores(sampled=np.zeros(len(given.response), np.float32)) for given in sequences]
        return SimpleNamespace(get=lambda: (found, 0.0))

    def workers(self) -> Workers:
        return cast(
            Workers,
            SimpleNamespace(
                engines=self, grade=self.grade, score=self.score, generate_by_teacher=self.generate_by_teacher
            ),
        )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rows = [example(n, answer=str(n)) for n in range(4)]
    dataset = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)
    return prepare(
        small_run(
            dataset, algorithm=CORE, rollouts={"group_size": 2},
            batches={"size": 4, "total_prompts": 4, "draw": "epochs"},
        )
    )  # fmt: skip


def test_the_teacher_is_asked_where_no_rollout_is_right_and_its_first_right_response_is_used(
    prepared: Prepared,
) -> None:
    right, wrong = response(RIGHT), response(WRONG)
    rollouts = [wrong, right, wrong, wrong, wrong, wrong, right, right]  # two of each of four prompts
    cut = response(RIGHT, "length")
    fake = Fake(rollouts=rollouts, by_teacher=[cut, right, wrong, wrong])  # two of each unsolved prompt
    batch = generate_batch(fake.workers(), prepared, np.ones(4), 0)
    groups = prepared.schedule.step(0)
    plain = prepared.prompts("plain")
    assert [one.prompt for one in fake.requested] == [plain[groups[n].row] for n in (1, 1, 2, 2)]
    seeds = {one.seed for one in fake.requested}
    assert len(seeds) == 4 and seeds.isdisjoint(seed for group in groups for seed in group.seeds)
    assert batch.demonstrations == ((1, "teacher"),) and batch.asked_teacher == 2
    assert batch.generations[8].tokens is right.tokens and batch.updates[0][-1] == range(8, 9)
    assert batch.rows[8] == groups[1].row and len(batch.sequences) == 9
    assert ("reference", 1) in fake.scored
    again = Fake(rollouts=rollouts, by_teacher=fake.by_teacher)
    generate_batch(again.workers(), prepared, np.ones(4), 0)
    assert [one.seed for one in again.requested] == [one.seed for one in fake.requested]


def test_the_teacher_is_not_asked_if_every_prompt_has_a_right_rollout(prepared: Prepared) -> None:
    fake = Fake(rollouts=[response(WRONG), response(RIGHT)] * 4)
    batch = generate_batch(fake.workers(), prepared, np.ones(4), 0)
    assert fake.requested == [] and batch.demonstrations == () and batch.asked_teacher == 0


def plan_of(**changes: Any) -> RunPlan:
    return resolve(small_run(Path("d"), algorithm=CORE, rollouts={"group_size": 2}, **changes))


def test_the_engine_of_the_teacher_has_a_slot_and_memory() -> None:
    student, teacher = (read_dimensions(Path("pocket") / name) for name in ("student", "teacher"))
    split = plan_of(placement={"kind": "split", "engines": 2})
    assert placement_of(split).slot("generator").bundle == 4 == len(placement_of(split).bundles()) - 1
    plan = memory_plan(plan_of(), student, teacher)
    (device,) = plan.devices
    parts = {part.what: part.bytes for part in device.parts if part.owner == "generator"}
    assert parts["parameters"] == 2 * count_parameters(teacher) and parts["KV cache"] == 2**30
    assert plan.generated_sequences is not None and plan.generated_sequences > 1 and plan.fits
    without = resolve(small_run(Path("d"), algorithm={"name": "core"}))
    assert memory_plan(without, student, teacher).generated_sequences is None


def test_what_cannot_generate_is_refused_by_name() -> None:
    colocated = plan_of(placement={"kind": "colocated", "students": 2, "engines": 2})
    (problem,) = algorithm_problems(colocated)
    assert problem.startswith(
        "core generates responses of the teacher in an engine of its own, which placement"
    )
    with pytest.raises(UserError, match="generated is 0: give at least 1"):
        plan_of_options(generated=0)


def plan_of_options(**options: Any) -> RunPlan:
    given = {"fallback": "generate", **options}
    return resolve(small_run(Path("d"), algorithm={"name": "core", "options": given}))


def test_without_a_distillation_the_teacher_generates_and_does_not_score() -> None:
    plan = plan_of_options(distil_weight=0.0, solutions=False)
    assert plan.has_teacher and plan.scoring_teachers == () and not plan.algorithm.demonstrations
    roles = [slot.role for slot in placement_of(plan).slots]
    assert "generator" in roles and "teacher" not in roles


@pytest.mark.parametrize(
    ("change", "what"),
    [({"reward": False}, "rewards"), ({"scorers": (Scorer(role="teacher", outputs=("top_k",), top_k=4),)}, "reference")],
)  # fmt: skip
def test_a_sequence_loss_without_what_it_reads_is_refused(change: dict[str, Any], what: str) -> None:
    plan = RunPlan(
        run=small_run(Path("d"), algorithm={"name": "core"}),
        algorithm=replace(load_algorithm("core"), rollout_weight=None, **change),
    )
    expected = f"core declares a sequence loss that reads the {what} of its sequences, which it does not ask for: add"
    assert any(one.startswith(expected) for one in algorithm_problems(plan))


def test_formulas_have_the_constants_of_the_options() -> None:
    formula = load_algorithm("core", {"alpha": 0.25, "beta": 0.3, "traces": "all"}).formula
    assert formula.startswith("0.25 mean over all rollouts")
    assert "0.75 mean over wrong rollouts of -log sigmoid(0.3 " in formula
    eopd = load_algorithm(
        "eopd", {"threshold": 1.2, "clip": 0.1, "entropy_bonus": 0.02, "shaping": 0.1}
    ).formula
    assert all(part in eopd for part in ("[H(p_t) > 1.2]", "1 - 0.1, 1 + 0.1", "- 0.02 H(q_t)", "min(0.1 H(q_t)"))  # fmt: skip
    assert "sum_{j" not in load_algorithm("eopd", {"forward_kl": "none"}).formula
    assert "R_t + 0.5 A_(t+1)" in load_algorithm("opd_rkl", {"discount": 0.5}).formula
    reopold = load_algorithm(
        "reopold", {"floor": "log(l/(1-l))", "mixture": 0.2, "entropy_share": 0.5}
    ).formula
    assert "l = 0.2" in reopold and "in the top 0.5]" in reopold
