"""The sanity checks at the start of a run, with fake workers: each defect is refused, and nothing is asked for in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tasks.errors import UserError
from tests.training.small_run import example, small_run, write_small_dataset
from training.data.batches import TokenSequence
from training.plan import ScoringPass
from training.preflight.check import Prepared, prepare
from training.preflight.self_tests import self_test
from training.rollouts.engine import Generation, RolloutRequest
from training.scorers.scores import Scores, TopK
from training.worker_set import Workers


@dataclass
class Healthy:
    """Engines, students and frozen models that agree; `prompts` are those of the engine's tokenizer, `mixed` what the other
    sequences of a batch and `updating` what the mode of an update adds to the student's log-probabilities, `reference` those of
    the reference and the start."""

    prompts: list[tuple[int, ...]]
    mixed: float = 0.0
    updating: float = 0.0
    reference: float = -1.0
    scored: list[tuple[str, str, list[int]]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def prompt_ids(self, problems: Sequence[str], **options: Any) -> list[tuple[int, ...]]:
        self.asked.append({"problems": list(problems), **options})
        return self.prompts

    def generate(self, requests: Sequence[RolloutRequest], _sampling: object) -> list[Generation]:
        tokens, logprobs = np.arange(3, dtype=np.int32), np.full(3, -1.0, np.float32)
        made = Generation(tokens=tokens, logprobs=logprobs, finish_reason="stop", version=0)
        return [made for _ in requests]

    def logprobs(self, sequences: Sequence[TokenSequence], *, training: bool = False) -> list[np.ndarray]:
        self.asked.append({"sequences": len(sequences), "training": training})
        value = -1.0 - (len(sequences) > 1) * self.mixed - training * self.updating
        return [np.full(len(one.response), value, np.float32) for one in sequences]

    def self_divergence(self, _sequence: TokenSequence) -> float:
        return 0.0

    def workers(self) -> Workers:
        return cast(Workers, SimpleNamespace(students=self, engines=self, score=self.score))

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], *, teacher: int = 0) -> Any:
        self.scored.append((one.worker, one.view, [given.prompt_length for given in sequences]))
        request, sizes = one.request, [len(given.response) for given in sequences]
        found = [
            Scores(
                sampled=np.full(size, self.reference, np.float32) if request.sampled else None,
                top_k=TopK(logprobs=np.full((size, 1), -0.7, np.float32), ids=None)
                if request.top_k
                else None,
                states=np.full((size, 4), 0x3F80, np.uint16) if request.states else None,
            )
            for size in sizes
        ]
        return SimpleNamespace(get=lambda: (found, 0.0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", [example(n) for n in range(3)])


def prepared(dataset: Path, **changes: Any) -> Prepared:
    return prepare(small_run(dataset, batches={"size": 2, "total_prompts": 4}, **changes))


def healthy(run: Prepared, *, mixed: float = 0.0, updating: float = 0.0) -> Healthy:
    rows = [run.rows[group.row] for group in run.schedule.step(0)]
    return Healthy(prompts=[row.prompt_ids for row in rows], mixed=mixed, updating=updating)


def test_the_engine_tokenizes_real_prompts_and_the_rows_of_an_update_are_compared_with_single_sequences(
    dataset: Path,
) -> None:
    run = prepared(dataset, prompt={"date": "2026-02-03"})
    workers = healthy(run)
    self_test(workers.workers(), run, 0)
    prompts, *rest = workers.asked
    assert prompts.pop("problems") == [run.rows[group.row].text for group in run.schedule.step(0)]
    assert prompts == {"thinking": False, "day": run.run.prompt.date, "chat_template": None}
    alone, together = {"sequences": 1, "training": False}, {"sequences": 2, "training": True}
    assert rest == [alone, alone, together]


def test_other_prompts_of_the_engine_are_refused_before_anything_is_sampled(dataset: Path) -> None:
    run = prepared(dataset)
    workers = healthy(run)
    workers.prompts[1] = workers.prompts[1][:-1]
    with pytest.raises(
        UserError, match=r"the rollout engine's tokenizer makes \d+ ids of the prompt of row 0+"
    ):
        self_test(workers.workers(), run, 0)
    assert len(workers.asked) == 1


@pytest.mark.parametrize("defect", ["mixed", "updating"])
def test_an_update_may_change_the_log_probabilities_only_of_a_student_with_dropout(
    dataset: Path, defect: str
) -> None:
    run = prepared(dataset)
    with pytest.raises(UserError, match=r"packed rows of an update differ by 0\.300 nats"):
        self_test(healthy(run, **{defect: 0.3}).workers(), run, 0)
    run = prepared(dataset, student={"model": "pocket/student", "dropout": True})
    workers = healthy(run, **{defect: 0.3})
    self_test(workers.workers(), run, 0)
    assert not any(one.get("training") for one in workers.asked)


def test_the_reference_must_equal_the_student_before_the_first_update_only(dataset: Path) -> None:
    run = prepared(dataset, algorithm={"reference_kl_coefficient": 0.1})
    workers = healthy(run)
    workers.reference = -1.2
    with pytest.raises(UserError, match=r"from the untrained student's by 0\.200 nats"):
        self_test(workers.workers(), run, 0)
    assert [(worker, view) for worker, view, _ in workers.scored] == [
        ("teacher", "plain"),
        ("reference", "plain"),
    ]
    self_test(workers.workers(), run, 3)  # continued: the student has been updated


def test_the_start_is_asked_with_its_own_view_and_need_not_equal_the_student(tmp_path: Path) -> None:
    rows = [example(n, answer="1") for n in range(3)]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    run = prepared(
        folder, algorithm={"name": "opsd"}, lengths={"max_prompt_tokens": 256, "max_response_tokens": 448}
    )
    workers = healthy(run)
    workers.reference = -3.0
    self_test(workers.workers(), run, 0)
    ((worker, view, lengths),) = workers.scored
    chosen = [group.row for group in run.schedule.step(0)]
    assert (worker, view) == ("reference", "solution")
    assert lengths == [len(run.prompts("solution")[row]) for row in chosen]
    assert all(length > len(run.rows[row].prompt_ids) for length, row in zip(lengths, chosen, strict=True))
