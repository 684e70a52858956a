"""What every stage shares: find the artifact, run the missing shards as one Prefect task each, finish it.

A stage is a `Stage` (what identifies it) and a function from a shard number to a `Shard` (what it wrote). The shard's
own record on disk decides whether it is finished; Prefect's result persistence stays off. A shard that another run of the
stage made from the same content is taken over (`tasks.stages.pending`).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from tasks.core.config import Config
from tasks.core.identity import canonical_json, fingerprint
from tasks.core.rows import Reject
from tasks.io.artifacts import Artifact, Store
from tasks.stages.progress import Progress

if TYPE_CHECKING:
    from tasks.stages.pending import Pending

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The handle that every stage takes: settings, where artifacts lie, and what each model role is."""

    config: Config
    store: Store
    identities: Mapping[str, str]  # role -> identity of its model

    @property
    def ledger_path(self) -> Path:
        """The request ledger, shared by every run into this output folder."""
        return self.store.root / "ledger.sqlite"

    def server_log(self, stage: str) -> Path:
        """Where the server of a stage writes its log."""
        return self.store.root / "logs" / f"{stage}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What identifies a stage's output. Raise `version` when its code changes what comes out.

    `data`: settings and digests of what comes from outside, which decide what rows come in and not what becomes of one.
    `shardwise`: shard i is made of shard i of the input alone, so that it can be made before the input is finished.
    `cut`: rows of a shard, of a stage that cuts its input anew.
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Artifact, ...] = ()
    prompts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    primary: str = "problems"
    unit: str = "problems"
    shardwise: bool = False
    cut: int | None = None

    @property
    def fingerprint(self) -> str:
        """Identity of the artifact: code version, settings, prompts, models, data, inputs, cut."""
        data = (canonical_json(self.data),) if self.data else ()
        cut = () if self.cut is None else (f"shards of {self.cut}",)
        return self._hash((*(artifact.fingerprint for artifact in self.inputs), *data, *cut))

    @property
    def recipe(self) -> str:
        """The same without data, inputs and cut: what becomes of a row, and what a request's seed hangs on, so that one
        changed seed row changes neither the requests nor the shards of the others."""
        return self._hash(())

    def _hash(self, inputs: tuple[str, ...]) -> str:
        return fingerprint(
            stage=self.name.split("-")[0], version=self.version, settings=self.settings,
            prompts=self.prompts, models=self.models, inputs=inputs,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one shard writes: tables by name, and the number of rows that came in."""

    incoming: int
    tables: Mapping[str, tuple[type, Sequence[Any]]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def counts(self, primary: str) -> dict[str, Any]:
        """in = kept + rejected, by reason; the store refuses a shard where this does not hold."""
        rejects: Sequence[Reject] = self.tables.get("rejects", (Reject, ()))[1]
        reasons = Counter(str(reject.reason) for reject in rejects)
        return {
            "in": self.incoming,
            "kept": len(self.tables[primary][1]),
            "rejected": dict(sorted(reasons.items())),
        }


class Lazy(Generic[T]):
    """A context that is entered at its first use, and left with the `with` block: a stage whose shards are all
    finished never starts its server. One at a time is entered, since an engine that starts measures the free memory."""

    _entering = threading.Lock()

    def __init__(self, open_it: Callable[[], AbstractContextManager[T]]) -> None:
        self._open, self._stack = open_it, ExitStack()
        self._value: T | None = None

    def get(self) -> T:
        """The value; the first call enters the context."""
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
    """Run the shards of a stage that are not finished yet, and return its artifact.

    `plan()` gives the incoming rows of each shard, and is asked only when something is left to do;
    `work(index, at)` computes one shard and reports progress through `at(done)`. `pending` knows the shards that earlier
    runs made of the same content. `ready(index)` returns when the input of a shard is there, `ready(None)` when all of it is.
    """
    logger = get_run_logger()
    found = find(run.store, stage)
    if found is not None:
        _named(stage, f"{stage.name}: found")(run, stage, None, None, None, None)
        logger.info("%s: found, %s %s", stage.name, f"{found.num_rows:,}", stage.unit)
        return found
    folder = run.store.folder(stage.name, stage.fingerprint)
    drop_if_stale(run.store, stage)
    sizes = plan()
    progress = Progress(stage.name, sum(sizes), logger.info)
    for index, size in enumerate(sizes):
        ready(index)
        named = _named(stage, f"{stage.name}: shard {index + 1} of {len(sizes)}")
        named(run, stage, index, work, progress, pending)
        progress.shard_done(size)
    progress.finish()
    ready(None)
    record = {
        "build": uuid.uuid4().hex, "input_builds": _builds(run.store, stage),
        "settings": {**stage.settings, **stage.data}, "prompts": stage.prompts, "models": stage.models,
    }  # fmt: skip
    artifact = run.store.finish(
        stage.name, stage.fingerprint, len(sizes), record, primary=stage.primary, inputs=stage.inputs
    )
    logger.info("%s: wrote %s", stage.name, folder.name)
    return artifact


@task(cache_policy=NO_CACHE, persist_result=False)
def run_shard(
    run: Run, stage: Stage, index: int | None, work: Any, progress: Progress | None, pending: Pending | None
) -> State | None:
    """One Prefect task run: one shard, written whole or not at all. A finished one is Cached, and the UI says so."""
    if index is None or work is None or progress is None:
        return Completed(name="Cached", message="every shard is on disk")
    folder = run.store.folder(stage.name, stage.fingerprint)
    if run.store.finished_shard(folder, index) is not None:
        return Completed(name="Cached", message="this shard is on disk")
    started = time.time()
    record = {
        "started_at": started,
        "build": uuid.uuid4().hex,
        "input_builds": _shard_builds(run.store, stage, index),
    }
    if pending is not None and (source := pending.earlier(index)) is not None:
        origin = f"{source.parent.name}/{source.name}"
        run.store.link_shard(source, folder, index, {**record, "seconds": 0.0, "taken_from": origin})
        return Completed(name="Cached", message=f"an earlier run made it of the same rows: {origin}")
    shard = work(index, progress.at)
    record |= {
        "counts": shard.counts(stage.primary), "seconds": round(time.time() - started, 3), "notes": dict(shard.notes),
        **({} if pending is None else {"key": pending.key(index)}),
    }  # fmt: skip
    run.store.write_shard(folder, index, shard.tables, record)
    _say_counts(stage, index, record)
    return None


def _say_counts(stage: Stage, index: int, record: Mapping[str, Any]) -> None:
    """in = kept + rejected of a shard, for the log."""
    counts = record["counts"]
    rejected = ", ".join(f"{n} {reason}" for reason, n in counts["rejected"].items()) or "none"
    get_run_logger().info(
        "%s shard %d: %d in, %d kept, rejected: %s (%.1f s)",
        stage.name, index + 1, counts["in"], counts["kept"], rejected, record["seconds"],
    )  # fmt: skip


def _named(stage: Stage, run_name: str) -> Any:
    return run_shard.with_options(name=stage.name, task_run_name=run_name)


def find(store: Store, stage: Stage) -> Artifact | None:
    """The stage's finished artifact, when it was made from the very builds of its inputs that lie there now."""
    found = store.find(stage.name, stage.fingerprint)
    if found is None or store.record(found)["input_builds"] != _builds(store, stage):
        return None
    return found


def drop_if_stale(store: Store, stage: Stage) -> None:
    """Remove what was made from an earlier build of an input: that stage runs again from the start."""
    folder = store.folder(stage.name, stage.fingerprint)
    found = store.find(stage.name, stage.fingerprint)
    if found is not None:
        stale = store.record(found)["input_builds"] != _builds(store, stage)
    else:
        stale = any(
            record["input_builds"] != _shard_builds(store, stage, index)
            for index, record in _written(store, folder)
        )
    if stale:
        store.discard(Artifact(name=stage.name, fingerprint=stage.fingerprint, path=folder, num_rows=0))


def _written(store: Store, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers and records of the whole shards in an artifact's folder."""
    for index in sorted(int(path.name.removeprefix("shard-")) for path in folder.glob("shard-*")):
        record = store.finished_shard(folder, index)
        if record is not None:
            yield index, record


def _builds(store: Store, stage: Stage) -> dict[str, str | None]:
    """The random name that each input was given when it was finished; a rebuilt one has another, and one that is still
    being written has none."""
    whole = [store.find(artifact.name, artifact.fingerprint) for artifact in stage.inputs]
    return {
        artifact.name: None if found is None else store.record(found)["build"]
        for artifact, found in zip(stage.inputs, whole, strict=True)
    }


def _shard_builds(store: Store, stage: Stage, index: int) -> dict[str, str | None]:
    """The random names of that which shard `index` is made of: the inputs, or of a stage that is `shardwise` their shards."""
    if not stage.shardwise:
        return {artifact.name: store.record(artifact)["build"] for artifact in stage.inputs}
    shards = [(artifact.name, store.finished_shard(artifact.path, index)) for artifact in stage.inputs]
    return {name: None if record is None else record.get("build") for name, record in shards}
