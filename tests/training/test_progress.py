"""Whole runs with fake workers: the best student is exported, and a run that is killed anywhere makes the same choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.checksums import unsealed
from tasks.storage.metrics import read_metrics
from tests.training.fake_workers import STEPS, Actors
from tests.training.small_run import edit, example, small_run, write_small_dataset
from training import export, loop
from training.data.batches import TokenSequence
from training.plan import ScoringPass
from training.preflight.check import Prepared, prepare
from training.progress import RunState, TrainingRun
from training.rollouts.engine import Generation, RolloutRequest
from training.rollouts.saved import write_generations
from training.run_log import RunTimer
from training.scorers.scores import ScoreRequest, Scores, TopK
from training.student.checkpoints import step_folder, steps, writing
from training.worker_set import Workers

PROBLEMS, SAMPLES = 4, 2
RISING_AND_FALLING = (1, 2, 3, 2, 1, 1)
"""Number of held-out problems that the student solves after 0, 1, 2, ... steps."""


class Killed(BaseException):
    """The process ends here."""


class Machine(Actors):
    """Workers that save, load, export and are evaluated. `kill_at`: the number of the call that never returns."""

    facts: Mapping[str, Any] = {}

    def __init__(self, right: Sequence[int], run: Prepared, kill_at: int = -1) -> None:
        super().__init__()
        self.right, self.run, self.kill_at = right, run, kill_at
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.kill_at:
            raise Killed(name)

    def stream(self, requests: Sequence[RolloutRequest], sampling: object) -> Any:
        self._call("stream")
        return super().stream(requests, sampling)

    def step_in_parts(self, parts: Any) -> Any:
        self._call("step")
        return super().step_in_parts(parts)

    def sync(self, engines: object, version: int) -> Any:
        self._call("sync")
        return super().sync(engines, version)

    def generate(self, requests: Sequence[RolloutRequest], _sampling: object) -> list[Generation]:
        self._call("evaluate")
        solved = self.right[self.loaded[1]]
        return [self._response(2 if index // SAMPLES < solved else 3) for index in range(len(requests))]

    def scores(self, sequences: Sequence[TokenSequence]) -> list[Scores]:
        """The entropy of every second token is 2, of the others 0."""
        sizes = [len(one.response) for one in sequences]
        return [Scores(entropy=2.0 * (np.arange(size, dtype=np.float32) % 2)) for size in sizes]

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int) -> Any:
        """In an evaluation the teacher has p = (1/2, 1/4) at the ids 7 and 9, and the entropy of every third token is 0.8."""
        if one.scorers:
            return super().score(one, sequences, part)
        assert one.request == ScoreRequest(top_k=512, entropy=True) and one.view == "plain"
        sizes = [len(given.response) for given in sequences]
        found = [
            Scores(
                top_k=TopK(
                    logprobs=np.tile(np.log(np.array([0.5, 0.25], np.float32)), (size, 1)),
                    ids=np.tile(np.array([7, 9], np.int32), (size, 1)),
                ),
                entropy=np.float32(0.8) * (np.arange(size, dtype=np.float32) % 3 == 0),
            )
            for size in sizes
        ]
        return SimpleNamespace(get=lambda: (found, 0.0))

    def logprobs(self, sequences: Sequence[TokenSequence], *, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The student has q = 1/4 at the id 7 and 1/2 at others; at tokens where the teacher is certain q is 0."""
        values = [np.log(np.where(one == 7, np.float32(0.25), np.float32(0.5))) for one in ids]
        for given, found in zip(sequences, values, strict=True):
            found[np.arange(len(given.response)) % 3 != 0] = -np.inf
        return values

    def _response(self, answer: int) -> Generation:
        ids = self.run.student.tokenizer(f"So \\boxed{{{answer}}}", add_special_tokens=False)["input_ids"]
        tokens = np.array(ids, dtype=np.int32)
        return Generation(
            tokens=tokens, logprobs=np.zeros(len(ids), np.float32), finish_reason="stop", version=0
        )

    def save(
        self,
        root: Path,
        step: int,
        record: Mapping[str, Any],
        *,
        keep: int,
        best: int | None,
        rollouts: Sequence[Generation],
    ) -> None:
        self._call("save")
        with writing(root, step, record, keep=keep, best=best) as folder:
            (folder / "state.json").write_text(json.dumps([self.weights, self.version]))
            write_generations(folder, rollouts)
            self._call("saving")

    def load(self, folder: Path) -> int:
        self._call("load")
        self.weights, self.version = json.loads((folder / "state.json").read_text())
        return self.version

    def export(self, folder: Path) -> None:
        self._call("export")
        shutil.copytree(PROJECT_ROOT / "pocket/student", folder, dirs_exist_ok=True)
        edit(folder / "config.json", lambda config: config.update(weights=self.weights))
        self._call("exported")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    folder = tmp_path_factory.mktemp("made")
    dataset = write_small_dataset(folder / "dataset", [example(n) for n in range(6)])
    problems = [{"id": str(n), "problem": f"What is {n} + 1?", "answer": "2"} for n in range(PROBLEMS)]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))

    def prepared(
        *, steps: int = STEPS, measured: Mapping[str, Any] | None = None, **changes: Any
    ) -> Prepared:
        evaluation = {"problems": str(folder / "held_out.jsonl"), "samples": SAMPLES, **(measured or {})}
        return prepare(
            small_run(
                dataset,
                **{
                    "batches": {"size": 2, "total_prompts": 2 * steps},
                    "rollouts": {"group_size": 2, "samples_every": 2},
                    "evaluation": evaluation,
                    "self_tests": False,
                    "report_to": [],
                    "checkpoints": {"every": 50, "keep": 1},
                    **changes,
                },
            )
        )

    return prepared


def train(machine: Machine, folder: Path) -> dict[str, Any]:
    """Run to the end and return the result."""
    return dict(loop._train(cast(Workers, machine), machine.run, folder, RunTimer(folder)).result)


BEST = {"every_steps": 1, "keep_best": True}


def test_the_best_student_is_exported_and_named(made: Callable[..., Prepared], tmp_path: Path) -> None:
    machine = Machine(RISING_AND_FALLING, made(measured=BEST))
    result = train(machine, tmp_path)
    assert [one["accuracy"] for one in result["evaluations"]] == [n / PROBLEMS for n in RISING_AND_FALLING]
    assert result["exported"] == {"step": 2, "best_by": "accuracy", "value": 0.75}
    assert result["ended"] == {"by": "steps", "step": STEPS, "of": STEPS}
    assert result["held_out"]["after"]["value"] == 0.75 and result["held_out"]["before"]["value"] == 0.25
    assert steps(tmp_path / "checkpoints") == [2, STEPS]
    (saved, _) = json.loads((step_folder(tmp_path / "checkpoints", 2) / "state.json").read_text())
    assert json.loads((tmp_path / "student/config.json").read_text())["weights"] == saved
    card = (tmp_path / "student/README.md").read_text()
    assert "This model is the student after step 2, the best of 5 evaluations by `accuracy` (75.0%)" in card
    assert "| 2 | 75.0% | 75.0% |" in card and "The training ended" not in card
    rows = read_metrics(tmp_path)
    assert [row["held_out_accuracy"] for row in rows] == [n / PROBLEMS for n in RISING_AND_FALLING[1:]]
    tokens = len(machine._response(2).tokens)
    (mean,) = {row["held_out_response_tokens_mean"] for row in rows}
    assert mean == tokens and {row["held_out_truncated_share"] for row in rows} == {0.0}
    (share,) = {row["held_out_high_entropy_share"] for row in rows}
    assert share == (tokens // 2) / tokens and {row["held_out_entropy_mean"] for row in rows} == {2.0 * share}
    divergences = [row["held_out_forward_kl_high_entropy"] for row in rows]
    assert divergences == pytest.approx(
        [0.25 * np.log(2.0)] * STEPS
    )  # (1/2, 1/4, 1/4) against (1/4, 1/2, 1/4)


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({}, True),
        ({"algorithm": {"name": "sft"}}, False),
        (
            {
                "algorithm": {"name": "opd", "top_k": 8},
                "teacher": {"model": "pocket/teacher", "backend": "vllm"},
            },
            False,
        ),
    ],
)
def test_the_divergence_from_the_teacher_is_measured_with_a_teacher_in_process(
    made: Callable[..., Prepared], tmp_path: Path, changes: dict[str, Any], measured: bool
) -> None:
    machine = Machine((1,), made(**changes))
    run = TrainingRun(workers=cast(Workers, machine), prepared=machine.run, folder=tmp_path)
    (found,) = run.evaluated(RunState(), "before training").evaluations
    assert ("forward_kl_high_entropy" in found.values) == measured
    assert found.values.keys() >= {"entropy_mean", "high_entropy_share"}


def test_without_keep_best_the_last_student_is_exported(
    made: Callable[..., Prepared], tmp_path: Path
) -> None:
    machine = Machine(RISING_AND_FALLING, made(measured={"every_steps": 2}))
    result = train(machine, tmp_path)
    assert [one["step"] for one in result["evaluations"]] == [0, 2, 4, 5]
    assert result["exported"] == {"step": 5} and "load" not in machine.calls
    assert steps(tmp_path / "checkpoints") == [5]
    assert result["held_out"]["after"]["value"] == 0.25
    assert ["held_out_accuracy" in row for row in read_metrics(tmp_path)] == [False, True, False, True, True]


def test_a_run_without_these_settings_evaluates_twice(made: Callable[..., Prepared], tmp_path: Path) -> None:
    machine = Machine(RISING_AND_FALLING, made())
    result = train(machine, tmp_path)
    assert machine.calls.count("evaluate") == 2 and [one["step"] for one in result["evaluations"]] == [0, 5]
    assert machine.calls.count("save") == 1 and result["exported"] == {"step": 5}


def test_patience_ends_the_run_and_the_schedule_stays(made: Callable[..., Prepared], tmp_path: Path) -> None:
    machine = Machine(RISING_AND_FALLING, made(measured={**BEST, "patience": 2}))
    result = train(machine, tmp_path)
    assert result["ended"] == {"by": "patience", "step": 4, "of": STEPS}
    assert result["exported"]["step"] == 2 and result["prompts"] == 8
    assert (
        "ended after 2 evaluations without a gain, after step 4 of 5."
        in (tmp_path / "student/README.md").read_text()
    )


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that a run leaves but times: files as bytes, and the result without its cost."""
    result = unsealed((folder / "result.json").read_bytes())
    del result["cost"]
    measured = [path for path in folder.glob("evaluations/*/*/*/*") if path.name != "cost.json"]
    paths = [*folder.glob("[er]*/*.json*"), *measured]
    names = ["student/config.json", *(str(path.relative_to(folder)) for path in paths)]
    times = ("second", "overlap", "share_", "memory")
    rows = [
        {key: value for key, value in row.items() if not any(word in key for word in times)}
        for row in read_metrics(folder)
    ]
    files = {name: (folder / name).read_bytes() for name in names if not name.startswith("result")}
    return {"files": files, "result": result, "metrics": rows, "kept": steps(folder / "checkpoints")}


def test_a_run_killed_at_any_call_ends_with_the_same_choice_and_bytes(
    made: Callable[..., Prepared], tmp_path: Path
) -> None:
    run = made(measured={**BEST, "patience": 2}, overlap="one_step_off", checkpoints={"every": 3, "keep": 1})
    whole = Machine(RISING_AND_FALLING, run)
    train(whole, tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    assert expected["result"]["ended"]["by"] == "patience" and expected["kept"] == [2, 4]
    assert {name.split("/")[0] for name in expected["files"]} == {"evaluations", "rollouts", "student"}
    assert "evaluations/step-00000002/held_out/avg2/samples.parquet" in expected["files"]
    for kill_at in range(1, len(whole.calls) + 1):
        folder = tmp_path / str(kill_at)
        killed = Machine(RISING_AND_FALLING, run, kill_at)
        with pytest.raises(Killed):
            train(killed, folder)
        evaluated = {path.name for path in folder.glob("evaluations/*.json")}
        again = Machine(RISING_AND_FALLING, run)
        train(again, folder)
        assert outcome(folder) == expected, (kill_at, killed.calls[-1])
        assert again.calls.count("evaluate") == 5 - len(evaluated), "an evaluation was repeated"


def test_a_budget_of_tokens_ends_a_run_with_its_checkpoint(
    made: Callable[..., Prepared], tmp_path: Path
) -> None:
    endless = made(steps=STEPS)
    train(Machine(RISING_AND_FALLING, endless), tmp_path / "endless")
    tokens = [row["response_tokens"] for row in read_metrics(tmp_path / "endless")]
    budget = int(sum(tokens[:2])) + 1  # reached by the third step
    machine = Machine(RISING_AND_FALLING, made(budget={"max_tokens": budget}))
    result = train(machine, tmp_path / "budget")
    assert result["ended"] == {"by": "max_tokens", "step": 3, "of": STEPS} and result["steps"] == 3
    assert result["cost"]["response_tokens"] == sum(tokens[:3])
    assert steps(tmp_path / "budget/checkpoints") == [3]
    assert [one["step"] for one in result["evaluations"]] == [0, 3]
    card = (tmp_path / "budget/student/README.md").read_text()
    assert f"ended by its budget of {budget} response tokens, after step 3 of 5." in card
    again = Machine(RISING_AND_FALLING, machine.run)
    (tmp_path / "budget/result.json").unlink()
    assert train(again, tmp_path / "budget")["ended"]["step"] == 3 and "step" not in again.calls


def test_a_tracker_that_is_not_installed_is_refused_at_the_check(
    made: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.preflight.reporting.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"^report_to: wandb is not installed: install it"):
        made(report_to=["wandb"])


def test_a_best_checkpoint_that_is_damaged_is_not_exported(
    made: Callable[..., Prepared], tmp_path: Path
) -> None:
    machine = Machine(RISING_AND_FALLING, made(measured=BEST))
    train(machine, tmp_path)
    (tmp_path / "result.json").unlink()
    state = step_folder(tmp_path / "checkpoints", 2) / "state.json"
    state.write_text(state.read_text().replace("2]", "3]"))
    with pytest.raises(
        UserError, match=r"best checkpoint .*step-00000002 cannot be exported \(state.json differs"
    ):
        train(Machine(RISING_AND_FALLING, machine.run), tmp_path)
