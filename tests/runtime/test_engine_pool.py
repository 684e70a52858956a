"""Engines of a build: shared, started ahead within the memory, stopped with the block whatever happens."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.utilities.collections import visit_collection

from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.llm.callbacks import OnWait
from tasks.llm.ledger import Ledger
from tasks.processes.timeline import Timeline
from tasks.runtime import models
from tasks.runtime.driver import Run
from tasks.runtime.engine_pool import Engine, EnginePool, OnDemand
from tasks.runtime.models import chat_model
from tasks.runtime.sampling import teacher
from tasks.runtime.shared_engines import engines_in_order, sharing_engines
from tasks.storage.artifacts import Store
from tests.scripted_server import running

QUIET_S = 0.2  # long enough for the pool's thread to do what it would do


def waits(_seconds: float, _step: str) -> None: ...


class Bench:
    """Scripted engines: what happened to them, in order, and how many of them started or stopped at the same time."""

    def __init__(self, folder: Path) -> None:
        self.events, self.log = list[str](), list[str]()
        self.timeline = Timeline(folder / "timeline.jsonl")
        self.errors: dict[str, list[Exception]] = {}
        self.held: dict[str, threading.Event] = {}
        self._changing = threading.Semaphore()

    def engine(self, role: str, settings: str = "", memory: float | None = 0.2) -> Engine:
        name = settings or role
        return Engine(
            role=role, settings=name, memory=memory, open=lambda on_wait: self._opened(name, on_wait)
        )

    def pool(self, *order: Engine, capacity: float = 1.0, starts: int = 1) -> EnginePool:
        self._changing = threading.Semaphore(starts)
        return EnginePool(order, capacity, self.log.append, self.timeline, starts=starts)

    @contextmanager
    def _opened(self, name: str, on_wait: OnWait) -> Iterator[str]:
        with self._alone():
            self.events.append(f"start {name}")
            while name in self.held and not self.held[name].wait(0.01):
                on_wait(1.0, f"loading {name}")
            if self.errors.get(name):
                raise self.errors[name].pop(0)
        self.events.append(f"{name} is up")
        try:
            yield name
        finally:
            with self._alone():
                self.events.append(f"stop {name}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._changing.acquire(blocking=False), "an engine measures the free memory while it starts"
        try:
            yield
        finally:
            self._changing.release()

    def reached(self, event: str, seconds: float = 20.0) -> bool:
        deadline = time.monotonic() + seconds
        while event not in self.events and time.monotonic() < deadline:
            time.sleep(0.01)
        return event in self.events


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_roles_with_the_same_settings_share_an_engine_from_the_first_use_to_the_last(bench: Bench) -> None:
    order = (
        bench.engine("quality_judge", "judge"),
        bench.engine("teacher"),
        bench.engine("equivalence_judge", "judge"),
    )
    with bench.pool(*order) as pool:
        for engine in order:
            with pool.use(engine, waits) as value:
                assert value == engine.settings
    assert bench.events.count("start judge") == bench.events.count("stop judge") == 1
    assert bench.events.index("stop teacher") < bench.events.index("stop judge")


def test_the_next_engine_is_up_before_the_present_stage_ends(bench: Bench) -> None:
    first, second, third = map(bench.engine, ("evolver", "quality_judge", "teacher"))
    with bench.pool(first, second, third) as pool:
        with pool.use(first, waits):
            assert bench.reached("teacher is up")
            assert "stop evolver" not in bench.events
            assert pool.is_up(second) and pool.is_up(third)
        with pool.use(second, waits):
            pass
    assert [event for event in bench.events if event.startswith("start")] == [
        "start evolver", "start quality_judge", "start teacher",
    ]  # fmt: skip
    assert bench.log == [
        "starting the quality judge ahead of its first use", "starting the teacher ahead of its first use",
    ]  # fmt: skip


def test_two_engines_start_side_by_side(bench: Bench) -> None:
    first, second, third = map(bench.engine, ("evolver", "quality_judge", "teacher"))
    bench.held = {"evolver": threading.Event(), "quality_judge": threading.Event()}

    def until_both_start(_seconds: float, _step: str) -> None:
        if bench.reached("start quality_judge"):
            bench.held["evolver"].set()

    with bench.pool(first, second, third, starts=2) as pool:
        with pool.use(first, until_both_start):
            assert bench.reached("teacher is up")  # in the place of the evolver, while the judge still starts
            assert "quality_judge is up" not in bench.events
            bench.held["quality_judge"].set()
        with pool.use(second, waits) as value:
            assert value == "quality_judge"
    assert sorted(event for event in bench.events if event.startswith("stop")) == [
        "stop evolver", "stop quality_judge", "stop teacher",
    ]  # fmt: skip


def test_an_engine_is_stopped_after_its_start_also_with_two_threads(bench: Bench) -> None:
    first, second = bench.engine("evolver"), bench.engine("quality_judge")
    bench.held = {"quality_judge": threading.Event()}
    with bench.pool(first, second, starts=2) as pool, pool.use(first, waits):
        assert bench.reached("start quality_judge")
    assert "quality_judge is up" not in bench.events  # its start ended when it was told that nobody needs it
    assert bench.events[-1] == "stop evolver"


def test_nothing_starts_before_the_first_use(bench: Bench) -> None:
    with bench.pool(bench.engine("evolver"), bench.engine("quality_judge")):
        time.sleep(QUIET_S)
    assert bench.events == []


def test_an_engine_that_does_not_fit_starts_when_another_has_stopped(bench: Bench) -> None:
    """The paper's node: one server for evolution and judging, then 0.65 and 0.20 of the first GPU."""
    large = [bench.engine(role, "large", 0.9) for role in ("evolver", "quality_judge")]
    teacher, judge = bench.engine("teacher", memory=0.65), bench.engine("equivalence_judge", memory=0.2)
    with bench.pool(*large, teacher, judge) as pool:
        for engine in large:
            with pool.use(engine, waits):
                time.sleep(QUIET_S)
                assert bench.events == ["start large", "large is up"]
        assert bench.reached("equivalence_judge is up")  # while the stages without a model run
        assert bench.events[2:] == [
            "stop large", "start teacher", "teacher is up", "start equivalence_judge", "equivalence_judge is up",
        ]  # fmt: skip


def test_a_kept_engine_makes_room_for_one_that_needs_its_memory(bench: Bench) -> None:
    order = (
        bench.engine("quality_judge", "judge", 0.5), bench.engine("teacher", memory=0.9),
        bench.engine("equivalence_judge", "judge", 0.5),
    )  # fmt: skip
    with bench.pool(*order) as pool:
        for engine in order:
            with pool.use(engine, waits):
                pass
    assert bench.events == [
        "start judge", "judge is up", "stop judge", "start teacher", "teacher is up", "stop teacher",
        "start judge", "judge is up", "stop judge",
    ]  # fmt: skip


def test_an_early_start_that_fails_is_repeated_and_its_error_raised_where_the_engine_is_needed(
    bench: Bench,
) -> None:
    evolver, judge = bench.engine("evolver"), bench.engine("quality_judge")
    bench.errors["quality_judge"] = [UserError("the port is taken"), UserError("the weights are missing")]
    with bench.pool(evolver, judge) as pool:
        with pool.use(evolver, waits):
            assert bench.reached("start quality_judge")
        with pytest.raises(UserError, match=r"^the weights are missing$"), pool.use(judge, waits):
            pass
        assert bench.events.count("start quality_judge") == 2
        assert bench.log[1:] == ["quality judge: the early start failed and is repeated (the port is taken)"]
        with pool.use(judge, waits) as value:  # the cause is gone
            assert value == "quality_judge"


def test_an_early_start_that_fails_for_lack_of_memory_succeeds_alone(bench: Bench) -> None:
    order = (
        bench.engine("quality_judge", "judge"),
        bench.engine("teacher"),
        bench.engine("equivalence_judge", "judge"),
    )
    bench.errors["teacher"] = [UserError("no memory")]
    with bench.pool(*order) as pool:
        with pool.use(order[0], waits):
            assert bench.reached("start teacher")
        with pool.use(order[1], waits) as value:
            assert value == "teacher"
    assert bench.events[2:] == [
        "start teacher",
        "stop judge",
        "start teacher",
        "teacher is up",
        *bench.events[6:],
    ]


def test_an_early_start_that_nobody_needs_fails_without_a_word_to_the_stages(bench: Bench) -> None:
    evolver, judge = bench.engine("evolver"), bench.engine("quality_judge")
    bench.errors["quality_judge"] = [UserError("broken")]
    with bench.pool(evolver, judge) as pool, pool.use(evolver, waits):
        assert bench.reached("start quality_judge")
    assert bench.events[-1] == "stop evolver"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_leaving_the_block_stops_all_engines_also_one_that_is_starting(
    bench: Bench, error: type[BaseException] | None
) -> None:
    first, second, third = map(bench.engine, ("evolver", "quality_judge", "teacher"))
    bench.held["teacher"] = threading.Event()  # never set: this start does not end by itself

    def stage() -> None:
        with bench.pool(first, second, third) as pool, pool.use(first, waits):
            assert bench.reached("start teacher")
            if error is not None:
                raise error

    if error is None:
        stage()
    else:
        with pytest.raises(error):
            stage()
    stops = {event for event in bench.events if event.startswith("stop")}
    assert stops == {"stop evolver", "stop quality_judge"} and "teacher is up" not in bench.events
    assert threading.active_count() == len(
        [one for one in threading.enumerate() if not one.name.startswith("engines")]
    )


def test_waiting_reports_the_step_of_the_start_and_can_be_cancelled(bench: Bench) -> None:
    engine, seen = bench.engine("evolver"), list[str]()
    bench.held["evolver"] = threading.Event()

    def cancelled(_seconds: float, step: str) -> None:
        seen.append(step)
        raise UserError("cancelled")

    with bench.pool(engine) as pool, pytest.raises(UserError, match="cancelled"), pool.use(engine, cancelled):
        pass
    assert seen == ["loading evolver"] and "evolver is up" not in bench.events


def test_a_model_that_is_served_elsewhere_is_not_connected_ahead(bench: Bench) -> None:
    evolver, judge, teacher = (
        bench.engine("evolver"), bench.engine("quality_judge", memory=None), bench.engine("teacher"),
    )  # fmt: skip
    with bench.pool(evolver, judge, teacher) as pool, pool.use(evolver, waits):
        assert bench.reached("teacher is up")
    assert "start quality_judge" not in bench.events


def test_without_a_pool_an_engine_lives_as_long_as_its_use(bench: Bench) -> None:
    engines, engine = OnDemand(), bench.engine("teacher")
    with engines.use(engine, waits) as value:
        assert value == "teacher" and bench.events[-1] == "teacher is up"
    assert bench.events[-1] == "stop teacher" and not engines.is_up(engine)


# --- the engines of a profile ------------------------------------------------------------------------------------


def order_of(profile: str, overrides: dict[str, object], folder: Path) -> dict[str, Engine]:
    roles = ("evolver", "quality_judge", "teacher", "equivalence_judge")
    run = Run(
        config=load_config(profile, overrides), store=Store(folder), identities=dict.fromkeys(roles, "m@1")
    )
    return {engine.role: engine for engine in engines_in_order(run)}


def test_the_pocket_judge_has_one_server_for_both_of_its_roles(tmp_path: Path) -> None:
    found = order_of("pocket", {}, tmp_path)
    assert list(found) == ["evolver", "quality_judge", "teacher", "equivalence_judge"]
    assert found["quality_judge"].settings == found["equivalence_judge"].settings
    assert len({engine.settings for engine in found.values()}) == 3
    larger = order_of("pocket", {"models.equivalence_judge.max_model_len": 2048}, tmp_path)
    assert larger["quality_judge"].settings != larger["equivalence_judge"].settings
    patient = order_of(
        "pocket", {"models.equivalence_judge.concurrency": 3}, tmp_path
    )  # the client's, not the server's
    assert patient["quality_judge"].settings == patient["equivalence_judge"].settings


def test_the_papers_large_model_is_loaded_once_and_shares_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "device_is_cpu", lambda: False)
    found = order_of("paper-1.7b", {}, tmp_path)
    assert found["evolver"].settings == found["quality_judge"].settings
    assert [found[role].memory for role in ("evolver", "teacher", "equivalence_judge")] == [0.9, 0.65, 0.2]


def test_engines_that_a_build_does_not_need_or_cannot_have_early_are_not_started_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "equivalence_judge" not in order_of("pocket", {"cluster.judge": "never"}, tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = order_of("pocket", {"ray.address": "auto"}, tmp_path)["teacher"]
    assert own.memory is not None  # its engines run on this machine
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert order_of("pocket", {"ray.address": "auto"}, tmp_path)["teacher"].memory is None  # one connection


def test_the_stages_of_a_build_get_a_run_with_the_pool(tmp_path: Path) -> None:
    with running(models=["m"]) as remote:
        elsewhere = {"model": "m", "base_url": remote.base_url, "serve": None}
        models_ = {
            f"models.{role}": elsewhere
            for role in ("evolver", "quality_judge", "equivalence_judge", "teacher")
        }
        config = load_config("pocket", models_)
        log, identities = list[str](), dict.fromkeys(type(config.models).model_fields, "m@1")
        run = Run(config=config, store=Store(tmp_path), identities=identities)
        with sharing_engines(run, log.append) as shared:
            assert isinstance(shared.engines, EnginePool) and shared == run
            passed = visit_collection(
                shared, lambda part: part, return_data=True
            )  # as Prefect does with a task's parameters
            assert passed.engines is shared.engines
            with chat_model(shared, "quality_judge", "judge", log.append) as model:
                assert model.role == config.models.quality_judge
            with (
                Ledger(shared.ledger_path) as ledger,
                shared.engines.use(teacher(shared, ledger), waits) as sampler,
            ):
                assert sampler.role == config.models.teacher
    assert log[0] == "judge: connecting to the quality judge server (m)"
    assert [phase.name for phase in shared.timeline.phases() if phase.kind == "start"] == [
        "quality_judge",
        "teacher",
    ]


# --- processes ---------------------------------------------------------------------------------------------------

OWNER = """
import sys, time
from functools import partial
from pathlib import Path
from tasks.config import ModelRole, Serve
from tasks.llm import servers
from tasks.runtime.engine_pool import Engine, EnginePool
from tasks.processes.timeline import Timeline
from tests.llm.test_servers import HEALTHY

folder = Path(sys.argv[1])
servers.server_command = lambda role, *_, port, **__: [
    sys.executable, "-c", HEALTHY if role.model == "first" else "import time; print('Loading', flush=True); time.sleep(300)",
    str(port),
]

def engine(name):
    (folder / name).mkdir()
    (folder / name / "config.json").write_text("{}")
    role = ModelRole(model=name, serve=Serve(kv_cache_gib=1))
    opened = partial(servers.serving, role, root=folder, log=folder / f"{name}.log")
    return Engine(role=name, settings=name, memory=0.1, open=lambda on_wait: opened(on_wait=on_wait))

order = engine("first"), engine("second")
with EnginePool(order, 1.0, print, Timeline(folder / "timeline.jsonl")) as pool, pool.use(order[0], lambda *_: None):
    while "Loading" not in b"".join(log.read_bytes() for log in folder.glob("second.log")).decode():
        time.sleep(0.05)
    print("ready", flush=True)
    time.sleep(300)
"""


def test_killing_the_owner_ends_the_servers_that_are_up_and_those_that_are_starting(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert "ready\n" in iter(owner.stdout.readline, "")
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) == 4  # two servers, each under its supervisor
        owner.kill()
        assert ended_within(family, 12.0)


def ended_within(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]
