"""Run a stage: reuse its artifact if it exists, else run each missing shard as one Prefect task and finish the artifact.

A stage is a `Stage` (its identity) and a function from a shard number to a `Shard` (the tables to write). The record on disk
decides whether a shard is finished; Prefect's result persistence is off. A shard that another run of the stage made from the
same content is reused (`tasks.runtime.pending`).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from tasks.config import Config
from tasks.processes.timeline import FILE, Timeline
from tasks.rows import Problem, Reject
from tasks.runtime.chunks import bounds
from tasks.runtime.engine_pool import Engines, OnDemand
from tasks.runtime.failures import ROWS
from tasks.runtime.live import Live
from tasks.runtime.phases import phase
from tasks.runtime.progress import Progress
from tasks.runtime.stage import Stage
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import read_table
from tasks.text import counted, words

if TYPE_CHECKING:
    from tasks.runtime.pending import Pending

T = TypeVar("T")
NAMED_ROWS = 5
"""Rows of a shard that the report of a failure names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The context that every stage takes: the settings, the artifact store, the identities of the models, their engines, and
    the tables that show it."""

    config: Config
    store: Store
    identities: Mapping[str, str]  # role -> model identity
    engines: Engines = field(default_factory=OnDemand, compare=False)
    live: Live = field(default_factory=Live, compare=False)

    @property
    def ledger_path(self) -> Path:
        """Path of the request ledger, which all runs of this output folder share."""
        return self.store.root / "ledger.sqlite"

    @property
    def timeline(self) -> Timeline:
        """The record of what the run spent its time on."""
        return Timeline(self.store.root / "logs" / FILE)

    def server_log(self, role: str) -> Path:
        """Path of the log of a role's model server."""
        return self.store.root / "logs" / f"{role}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The output of one shard: tables by name, and the number of input rows."""

    incoming: int
    tables: Mapping[str, tuple[type, Sequence[Any]]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def counts(self, primary: str) -> dict[str, Any]:
        """Return the counts `in`, `kept` and `rejected` (by reason). The store refuses a shard unless in = kept + rejected."""
        rejects: Sequence[Reject] = self.tables.get("rejects", (Reject, ()))[1]
        reasons = Counter(str(reject.reason) for reject in rejects)
        return {
            "in": self.incoming,
            "kept": len(self.tables[primary][1]),
            "rejected": dict(sorted(reasons.items())),
        }


class Lazy(Generic[T]):
    """A context manager that is entered at its first use and left at the end of the `with` block.

    A stage whose shards are all finished thus never starts its server. Contexts are entered one at a time, since an engine
    measures the free memory while it starts.
    """

    _entering = threading.Lock()

    def __init__(self, open_it: Callable[[], AbstractContextManager[T]]) -> None:
        self._open, self._stack = open_it, ExitStack()
        self._value: T | None = None

    def get(self) -> T:
        """Return the value of the context; the first call enters it."""
        if self._value is None:
            with self._entering:
                self._value = self._stack.enter_context(self._open())
        return self._value

    def __enter__(self) -> Lazy[T]:
        return self

    def __exit__(self, *exc: object) -> bool | None:
        self._value = None
        return self._stack.__exit__(*exc)  # type: ignore[arg-type]


def run_shards(
    run: Run,
    stage: Stage,
    plan: Callable[[], Sequence[int]],
    work: Callable[[int, Callable[[int], None]], Shard],
    pending: Pending | None = None,
    ready: Callable[[int | None], None] = lambda _index: None,
) -> Artifact:
    """Run the unfinished shards of a stage and return its artifact.

    `plan()` returns the number of input rows of each shard; it is called only when there is work to do.
    `work(index, on_progress)` computes one shard and reports its progress through `on_progress(done)`. `pending` finds shards
    that earlier runs made from the same content. `ready(index)` blocks until the input of a shard is available, `ready(None)`
    until the whole input is.
    """
    logger = get_run_logger()
    found = find(run.store, stage)
    if found is not None:
        _named(stage, f"{stage.name}: already built")(run, stage, None, None, None, None)
        logger.info("%s: already built, %s", stage.name, counted(found.num_rows, stage.unit))
        run.live.is_built(run, found)
        return found
    drop_if_stale(run.store, stage)
    with run.timeline.phase("stage", stage.name):
        return _built(run, stage, plan, work, pending, ready)


def _built(
    run: Run,
    stage: Stage,
    plan: Callable[[], Sequence[int]],
    work: Callable[[int, Callable[[int], None]], Shard],
    pending: Pending | None,
    ready: Callable[[int | None], None],
) -> Artifact:
    """Run the unfinished shards of a stage whose artifact does not exist yet, and write the artifact."""
    logger = get_run_logger()
    with phase(logger.info, lambda seconds: f"{stage.name}: reading the input, {seconds:.0f} s"):
        sizes = plan()
    progress = Progress(stage.name, sum(sizes), logger.info)
    run.live.begins(stage, progress)
    with phase(logger.info, lambda _seconds: progress.line()):
        for index, size in enumerate(sizes):
            ready(index)
            named = _named(stage, f"{stage.name}: shard {index + 1} of {len(sizes)}")
            with _rows_named(run.store, stage, sizes, index):
                named(run, stage, index, work, progress, pending)
            progress.shard_done(size)
            run.live.shard_done(run, stage, index)
            run.live.show(run, last=index == len(sizes) - 1)
        progress.finish()
        ready(None)
    artifact = _finish(run, stage, len(sizes))
    logger.info("%s: wrote %s", stage.name, artifact.path.name)
    return artifact


@contextmanager
def _rows_named(store: Store, stage: Stage, sizes: Sequence[int], index: int) -> Iterator[None]:
    """Add a note with the rows of a shard to an exception of the block, for the report of the failure."""
    try:
        yield
    except Exception as error:
        start, stop = bounds(sizes, index)
        first = ""
        with suppress(Exception):  # what cannot be read now must not hide the error
            first = ", ".join(_first_ids(store, stage, index))
        place = f"stage {stage.name}, shard {index + 1} of {len(sizes)}, rows {start + 1:,} to {stop:,} of {sum(sizes):,}"
        error.add_note(f"{ROWS}{place}{f', the first being {first}' if first else ''}")
        raise


def _first_ids(store: Store, stage: Stage, index: int) -> list[str]:
    """Return the ids of the first problems of a shard whose input is a shard of the same number; else none."""
    source = stage.inputs[0] if stage.shardwise and stage.inputs else None
    if source is None or store.finished_shard(source.path, index) is None:
        return []
    path = store.shard_path(source, index, "problems")
    if not path.exists():
        return []
    return [str(row["id"]) for row in read_table(path, Problem, ("id",)).slice(0, NAMED_ROWS).to_pylist()]


def _finish(run: Run, stage: Stage, num_shards: int) -> Artifact:
    """Write the artifact's record, which completes it, and return its handle."""
    record = {
        "build": uuid.uuid4().hex, "input_builds": _builds(run.store, stage),
        "settings": {**stage.settings, **stage.data}, "prompts": stage.prompts, "models": stage.models,
    }  # fmt: skip
    return run.store.finish(
        stage.name, stage.fingerprint, num_shards, record, primary=stage.primary, inputs=stage.inputs
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def run_shard(
    run: Run, stage: Stage, index: int | None, work: Any, progress: Progress | None, pending: Pending | None
) -> State | None:
    """Make one shard, as one Prefect task run; it is written completely or not at all.

    The task run ends in the state Cached when the shard, or the whole artifact (`index` None), already exists.
    """
    if index is None or work is None or progress is None:
        return Completed(name="Cached", message="all shards already exist")
    folder = run.store.folder(stage.name, stage.fingerprint)
    if run.store.finished_shard(folder, index) is not None:
        return Completed(name="Cached", message="the shard already exists")
    if (damage := run.store.damage(folder, index)) is not None:
        get_run_logger().warning("%s: %s; the shard is made again", stage.name, damage)
    started = time.time()
    record = {
        "started_at": started,
        "build": uuid.uuid4().hex,
        "input_builds": _shard_builds(run.store, stage, index),
    }
    if pending is not None and (source := pending.earlier(index)) is not None:
        origin = f"{source.parent.name}/{source.name}"
        run.store.link_shard(source, folder, index, {**record, "seconds": 0.0, "taken_from": origin})
        return Completed(name="Cached", message=f"reused an identical shard: {origin}")

    def on_progress(done: int) -> None:
        progress.update(done)
        run.live.show(run)

    shard = work(index, on_progress)
    record |= {
        "counts": shard.counts(stage.primary), "seconds": round(time.time() - started, 3), "notes": dict(shard.notes),
        **({} if pending is None else {"key": pending.key(index)}),
    }  # fmt: skip
    run.store.write_shard(folder, index, shard.tables, record)
    _log_counts(stage, index, record)
    return None


def _log_counts(stage: Stage, index: int, record: Mapping[str, Any]) -> None:
    """Log the counts of a shard: in = kept + rejected."""
    counts = record["counts"]
    rejected = ", ".join(f"{n} {words(reason)}" for reason, n in counts["rejected"].items()) or "none"
    get_run_logger().info(
        "%s shard %d: %d in, %d kept, rejected: %s (%.1f s)",
        stage.name, index + 1, counts["in"], counts["kept"], rejected, record["seconds"],
    )  # fmt: skip


def _named(stage: Stage, run_name: str) -> Any:
    return run_shard.with_options(name=stage.name, task_run_name=run_name)


def find(store: Store, stage: Stage) -> Artifact | None:
    """Return the stage's finished artifact if it was made from the current builds of its inputs, else None."""
    found = store.find(stage.name, stage.fingerprint)
    if found is None or store.record(found).get("input_builds") != _builds(store, stage):
        return None
    return found


def drop_if_stale(store: Store, stage: Stage) -> None:
    """Remove the stage's artifact if any part of it was made from an earlier build of an input; the stage then starts over."""
    folder = store.folder(stage.name, stage.fingerprint)
    found = store.find(stage.name, stage.fingerprint)
    if found is not None:
        stale = store.record(found).get("input_builds") != _builds(store, stage)
    else:
        stale = any(
            record.get("input_builds") != _shard_builds(store, stage, index)
            for index, record in _written(store, folder)
        )
    if stale:
        store.discard(Artifact(name=stage.name, fingerprint=stage.fingerprint, path=folder, num_rows=0))


def _written(store: Store, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the record of every finished shard in an artifact's folder."""
    for index in store.shard_numbers(folder):
        record = store.finished_shard(folder, index)
        if record is not None:
            yield index, record


def _builds(store: Store, stage: Stage) -> dict[str, str | None]:
    """Return the build id of each input: random, set when it was finished and new for every rebuild; None if unfinished."""
    whole = [store.find(artifact.name, artifact.fingerprint) for artifact in stage.inputs]
    return {
        artifact.name: None if found is None else store.record(found).get("build")
        for artifact, found in zip(stage.inputs, whole, strict=True)
    }


def _shard_builds(store: Store, stage: Stage, index: int) -> dict[str, str | None]:
    """Return the build ids that shard `index` depends on: those of the inputs, or of their shards if the stage is `shardwise`."""
    if not stage.shardwise:
        return {artifact.name: store.record(artifact).get("build") for artifact in stage.inputs}
    shards = [(artifact.name, store.finished_shard(artifact.path, index)) for artifact in stage.inputs]
    return {name: None if record is None else record.get("build") for name, record in shards}
