"""The driver reuses finished work, repeats stages whose inputs were rebuilt, and runs nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from tasks.config import load_config
from tasks.rows import Problem, Reason, Reject, Role, Tier
from tasks.runtime.chunks import shard_rows, shard_sizes
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.storage.artifacts import Artifact, CountMismatch, Store, digest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def problem(text: str) -> Problem:
    return Problem(
        id=f"id-{text}",
        text=text,
        tier=Tier.EASY,
        source="s",
        source_id=text,
        licence="l",
        role=Role.SEED,
        root_id="r",
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(config=load_config("pocket"), store=Store(tmp_path), identities={})


class Counting:
    """Two stages of two shards each: letters, then their capitals. `computed` lists the computed shards."""

    def __init__(self, run: Run) -> None:
        self.run, self.computed = run, []

    def letters(self, settings: str = "v1") -> Artifact:
        stage = Stage(name="letters", version=1, settings={"kind": settings})

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            self.computed.append(f"letters {index}")
            rows = [problem(letter) for letter in "abcd"[2 * index : 2 * index + 2]]
            on_progress(2)
            return Shard(incoming=2, tables={"problems": (Problem, rows)})

        return run_shards(self.run, stage, lambda: (2, 2), work)

    def capitals(self, letters: Artifact) -> Artifact:
        stage = Stage(name="capitals", version=1, settings={}, inputs=(letters,))

        def work(index: int, _on_progress: object) -> Shard:
            self.computed.append(f"capitals {index}")
            rows = shard_rows(self.run.store, letters, index, "problems", Problem)
            kept = [problem(row.text.upper()) for row in rows if row.text != "c"]
            rejects = [
                Reject(problem_id=row.id, stage="capitals", reason=Reason.ECHO)
                for row in rows
                if row.text == "c"
            ]
            return Shard(
                incoming=len(rows), tables={"problems": (Problem, kept), "rejects": (Reject, rejects)}
            )

        return run_shards(self.run, stage, lambda: shard_sizes(self.run.store, letters), work)

    def both(self) -> Artifact:
        @flow
        def two_stages() -> Artifact:
            return self.capitals(self.letters())

        return two_stages()


def test_a_second_run_computes_nothing(run: Run) -> None:
    counting = Counting(run)
    first = counting.both()
    assert counting.computed == ["letters 0", "letters 1", "capitals 0", "capitals 1"]
    assert [row.text for row in run.store.rows(first, "problems", Problem)] == ["A", "B", "D"]
    assert run.store.record(first)["counts"] == {"in": 4, "kept": 3, "rejected": {"echo": 1}}
    second = counting.both()
    assert second == first and len(counting.computed) == 4


def test_deleting_a_stage_repeats_it_and_the_following_stages_only(run: Run) -> None:
    counting = Counting(run)
    last = counting.both()
    before = digest(last.path)
    run.store.discard(last)
    counting.computed.clear()
    counting.both()
    assert counting.computed == ["capitals 0", "capitals 1"]
    letters = next((run.store.root / "artifacts").glob("letters-*"))
    run.store.discard(Artifact(name="letters", fingerprint="", path=letters, num_rows=0))
    counting.computed.clear()
    again = counting.both()
    assert counting.computed == ["letters 0", "letters 1", "capitals 0", "capitals 1"]
    assert digest(again.path) == before


def test_a_run_that_died_between_two_shards_continues_with_the_second(run: Run) -> None:
    counting = Counting(run)

    @flow
    def dies_in_shard_1() -> None:
        stage = Stage(name="letters", version=1, settings={"kind": "v1"})

        def work(index: int, _on_progress: object) -> Shard:
            if index == 1:
                raise RuntimeError("killed")
            rows = [problem(letter) for letter in "ab"]
            return Shard(incoming=2, tables={"problems": (Problem, rows)})

        run_shards(run, stage, lambda: (2, 2), work)

    with pytest.raises(RuntimeError, match="killed"):
        dies_in_shard_1()
    counting.both()
    assert counting.computed == ["letters 1", "capitals 0", "capitals 1"]


def test_lost_rows_stop_the_stage(run: Run) -> None:
    @flow
    def loses_a_row() -> None:
        stage = Stage(name="lossy", version=1, settings={})
        run_shards(
            run,
            stage,
            lambda: (2,),
            lambda _i, _on_progress: Shard(incoming=2, tables={"problems": (Problem, [])}),
        )

    with pytest.raises(CountMismatch, match="2 in, but 0 kept"):
        loses_a_row()


def test_the_fingerprint_depends_on_settings_and_inputs_and_the_recipe_on_settings_only() -> None:
    one = Artifact(name="a", fingerprint="1" * 64, path=Path("x"), num_rows=1)
    two = Artifact(name="a", fingerprint="2" * 64, path=Path("x"), num_rows=1)
    stage = Stage(name="s", version=1, settings={"k": 1}, inputs=(one,))
    other_input = Stage(name="s", version=1, settings={"k": 1}, inputs=(two,))
    other_setting = Stage(name="s", version=1, settings={"k": 2}, inputs=(one,))
    other_cut = Stage(name="s", version=1, settings={"k": 1}, inputs=(one,), cut=5)
    assert len({each.fingerprint for each in (stage, other_input, other_setting, other_cut)}) == 4
    assert stage.recipe == other_input.recipe == other_cut.recipe != other_setting.recipe


def test_each_shard_has_one_task_run_named_after_it(run: Run) -> None:
    counting = Counting(run)

    @flow
    def named() -> str:
        from prefect.runtime import flow_run

        counting.capitals(counting.letters())
        return str(flow_run.id)

    flow_run_id = named()
    with get_client(sync_client=True) as client:
        ours = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]
        runs = [task.name for task in client.read_task_runs(flow_run_filter=ours)]
    assert {"letters: shard 1 of 2", "letters: shard 2 of 2"} <= set(runs)


def test_a_lazy_context_is_entered_once_and_left_only_if_it_was_entered() -> None:
    from contextlib import contextmanager

    events: list[str] = []

    @contextmanager
    def server():
        events.append("start")
        try:
            yield 7
        finally:
            events.append("stop")

    with Lazy(server):
        pass
    assert events == []
    with pytest.raises(ValueError, match="x"), Lazy(server) as lazy:
        assert (lazy.get(), lazy.get()) == (7, 7)
        raise ValueError("x")
    assert events == ["start", "stop"]


def test_lazy_contexts_are_entered_one_at_a_time_and_a_failed_one_blocks_no_other() -> None:
    from contextlib import contextmanager, suppress
    from threading import Thread
    from time import sleep

    events: list[str] = []

    @contextmanager
    def server(name: str):
        events.append(f"{name} starts")
        sleep(0.05)
        events.append(f"{name} is up")
        if name == "broken":
            raise ValueError(name)
        yield name

    def use(name: str) -> None:
        with suppress(ValueError), Lazy(lambda: server(name)) as lazy:
            assert lazy.get() == name

    threads = [Thread(target=use, args=(name,)) for name in ("teacher", "broken", "judge")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [event.split()[0] for event in events]
    assert sorted(names[::2]) == ["broken", "judge", "teacher"] and names[::2] == names[1::2]
