"""Workers of runs that follow one another: what is kept, what is replaced, and what a failure ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.training.small_run import example, small_run, write_small_dataset
from training import worker_set
from training.preflight.check import Prepared, prepare
from training.preflight.memory import placement_of
from training.worker_set import SharedWorkers

EVENTS: list[str] = []
"""What happened, in order."""


class Session:
    def __init__(self, *_: object) -> None:
        EVENTS.append("ray")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        EVENTS.append("ray ends")

    def guard_workers(self) -> None: ...


class Pool:
    def __init__(self, _placement: Any, _group: Any, settings: Any, **_: Any) -> None:
        self.name = f"engines of {settings.model.name} up to {settings.max_model_len}"
        EVENTS.append(self.name)

    def begin(self) -> None:
        EVENTS.append("kept " + self.name)

    def ready(self) -> list[dict[str, Any]]:
        return [{"batch_invariance": "b"}]

    def close(self) -> None:
        EVENTS.append("end " + self.name)


class Students:
    def __init__(self, _placement: Any, _group: Any, settings: Any, _loss: Any) -> None:
        EVENTS.append(f"student at {settings.learning_rate:g}")

    def connect(self) -> dict[str, Any]:
        return {"attention": "a"}

    def open_transfer(self, *_: object) -> None: ...

    def close(self) -> None:
        EVENTS.append("student ends")


class Grading:
    def __enter__(self) -> Grading:
        EVENTS.append("grader")
        return self

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def reserved(_: Any) -> Iterator[None]:
    yield


def actors(slots: Any, _group: Any, _kind: Any, settings: Any) -> tuple[str, ...]:
    role = slots[0].role
    EVENTS.append(f"{role} of {settings.model.name} in {settings.dtype}")
    return (role,)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace processes by entries of a list."""
    EVENTS.clear()
    fakes = {
        "RaySession": Session, "reserved": reserved, "RolloutPool": Pool, "StudentGroup": Students, "Grader": Grading,
        "_actors": actors, "_end": lambda found: EVENTS.append(f"end {found[0]}"), "_ready": lambda *_: {},
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(worker_set, name, fake)
    return EVENTS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [example(n, answer=str(2 * n + 2), majority_correct=True) for n in range(4)]
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)


def made(dataset: Path, name: str, **changes: Any) -> Prepared:
    base = {"batches": {"size": 4, "total_prompts": 8}, "optimizer": {"learning_rate": 0.5}}
    return prepare(small_run(dataset, **base | {"algorithm": {"name": name}} | changes))


def taken(log: list[str]) -> list[str]:
    """Return the events so far, and forget them."""
    found = list(log)
    log.clear()
    return found


ENGINES = "engines of student up to 704"


def test_a_run_starts_only_what_no_run_before_it_needed(dataset: Path, log: list[str]) -> None:
    runs = [
        made(dataset, "uopd"),
        made(dataset, "grpo", optimizer={"learning_rate": 0.25}),
        made(dataset, "opd"),
    ]
    with SharedWorkers(placement_of(*(run.plan for run in runs))) as shared:
        with shared.start(runs[0], lambda _: None) as workers:
            assert workers.teachers and not workers.reference and workers.grader is None
        assert taken(log) == [
            "ray",
            ENGINES,
            "student at 0.5",
            "teacher of teacher in bfloat16",
            "student ends",
        ]
        with shared.start(runs[1], lambda _: None) as workers:
            assert not workers.teachers + workers.reference and workers.grader is not None
        assert taken(log) == ["grader", f"kept {ENGINES}", "student at 0.25", "student ends"]
        with shared.start(runs[2], lambda _: None) as workers:
            assert workers.teachers == (("teacher",),) and workers.reference == ()
        assert taken(log) == [f"kept {ENGINES}", "student at 0.5", "student ends"]
    assert taken(log) == ["ray ends"]


def test_what_a_run_needs_with_other_settings_is_replaced(dataset: Path, log: list[str]) -> None:
    shorter = {"lengths": {"max_prompt_tokens": 256, "max_response_tokens": 64}}
    runs = [
        made(dataset, "uopd"),
        made(dataset, "uopd", teacher={"model": "pocket/teacher", "dtype": "float32"}),
        made(dataset, "sft", **shorter),
    ]
    with SharedWorkers(placement_of(*(run.plan for run in runs))) as shared:
        for run in runs:
            with shared.start(run, lambda _: None):
                pass
    assert taken(log)[5:] == [
        f"kept {ENGINES}", "student at 0.5", "end teacher", "teacher of teacher in float32", "student ends",
        f"end {ENGINES}", "engines of student up to 320", "student at 0.5", "student ends", "ray ends",
    ]  # fmt: skip


def test_a_failure_ends_everything_and_the_next_run_starts_again(dataset: Path, log: list[str]) -> None:
    run = made(dataset, "uopd")
    with SharedWorkers(placement_of(run.plan)) as shared:
        with pytest.raises(RuntimeError), shared.start(run, lambda _: None):
            raise RuntimeError
        assert taken(log)[-1] == "ray ends"
        with shared.start(run, lambda _: None):
            pass
        assert taken(log)[:2] == ["ray", ENGINES]


def test_a_model_is_evaluated_by_engines_that_were_never_trained(dataset: Path, log: list[str]) -> None:
    run = made(dataset, "sft")
    settings = worker_set.rollout_engine_settings(run, placement_of(run.plan))
    with SharedWorkers(placement_of(run.plan)) as shared:
        with shared.start(run, lambda _: None):
            pass
        taken(log)
        with shared.engines(settings, lambda _: None):
            pass
        assert taken(log) == [f"end {ENGINES}", ENGINES]
        with shared.start(run, lambda _: None):
            pass
        assert taken(log)[0] == f"kept {ENGINES}"
