"""The rollout engines of a run as a single object that distributes requests, loads weights and restarts dead engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

from tasks.errors import UserError
from tasks.processes.machine import device_is_cpu
from training.rollouts.engine import (
    Generation,
    LoadReport,
    RolloutEngine,
    RolloutEngineSettings,
    RolloutRequest,
    RolloutSampling,
    rollout_environment,
    rollout_options,
)
from training.weight_sync.weights import Snapshot
from training.workers.actors import ActorLost, result, results
from training.workers.placement import Placement, actor_options

MAX_LOSSES = 3
"""Number of engine deaths that a run tolerates; after more, restarting is unlikely to help."""

OnLoss = Callable[[str], None]
Carry = Callable[[int], Snapshot]
"""A function of a version that returns a snapshot of the student's current weights, labelled with that version, whose parts are
in the object store."""


EngineRole = Literal["rollout", "generator"]
"""What an engine generates: the student's rollouts, or responses of the teacher."""


class RolloutPool:
    """The rollout engines of a placement. The constructor starts them and `ready` waits for them, so that models can load in
    parallel. `on_loss` is called with a message for each engine that died. `role`: `rollout`, or `generator` for an engine whose
    weights never change."""

    def __init__(
        self,
        placement: Placement,
        group: Any,
        settings: RolloutEngineSettings,
        *,
        on_loss: OnLoss | None = None,
        role: EngineRole = "rollout",
    ) -> None:
        self._role: EngineRole = role
        self._placement = placement
        self._group = group
        self._settings = settings
        self._on_loss = on_loss
        self._snapshot: Snapshot | None = None
        self._carry: Carry | None = None
        self.losses = 0  # engines of this run that were started again
        self.actors: list[Any] = [self._start(index) for index in range(placement.count(role))]

    def ready(self) -> list[dict[str, Any]]:
        """Wait until every engine has loaded its model and return their descriptions. Raises `UserError` if one does not
        start."""
        try:
            return results([actor.ready.remote() for actor in self.actors], "a rollout engine")
        except ActorLost as error:
            raise UserError(f"{error}; check the student's model folder and the engine's memory") from error

    def begin(self) -> None:
        """Begin another run with the same engines: its students send their weights before the first rollout."""
        self._snapshot, self._carry, self.losses = None, None, 0

    def prompt_ids(self, problems: Sequence[str], **format_options: Any) -> list[tuple[int, ...]]:
        """Return the token ids of the problems' prompts by the first engine's own tokenizer (`engine_prompt_ids`)."""
        return result(self.actors[0].prompt_ids.remote(list(problems), **format_options), "rollout engine 0")

    def load(self, snapshot: Snapshot) -> list[LoadReport]:
        """Load the snapshot into every engine from the object store. A dead engine is restarted and loads it too."""
        self._snapshot = snapshot
        calls = [actor.load.remote(snapshot) for actor in self.actors]
        return [self._loaded(index, call) for index, call in enumerate(calls)]

    def carry_by(self, carry: Carry) -> None:
        """Set how an engine that is restarted during a rollout batch gets its weights if they are otherwise sent by NCCL or
        IPC."""
        self._carry = carry

    def revive(self) -> None:
        """Restart engines that died since the last rollout batch, without loading weights: the caller then syncs all engines."""
        for index, call in enumerate([actor.version.remote() for actor in self.actors]):
            try:
                result(call, f"rollout engine {index}")
            except ActorLost as error:
                self._replace(index, error, "restarted")
                result(self.actors[index].ready.remote(), f"rollout engine {index}")

    def confirm(self, snapshot: Snapshot) -> list[LoadReport]:
        """After a transfer by NCCL or IPC, let every engine compare its tensors with the snapshot's checksums and adopt its
        version."""
        self._snapshot = snapshot
        return results([actor.confirm.remote(snapshot) for actor in self.actors], "a rollout engine")

    def generate(self, requests: Sequence[RolloutRequest], sampling: RolloutSampling) -> list[Generation]:
        """Return one rollout per request, in the order of the requests."""
        found = dict(self.stream(requests, sampling))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index, rollout) as rollouts finish on any engine. If an engine dies, it is restarted with the last snapshot and
        its unfinished rollouts are sampled again with the same seeds."""
        count = len(self.actors)
        left = [set(range(engine, len(requests), count)) for engine in range(count)]
        streams = {
            engine: self._open(engine, requests, mine, sampling) for engine, mine in enumerate(left) if mine
        }
        while streams:
            engine, indexed = self._next(streams)
            try:
                item = None if indexed is None else result(indexed, f"rollout engine {engine}")
            except ActorLost as error:
                self._restart(engine, error)
                streams[engine] = self._open(engine, requests, left[engine], sampling)
                continue
            if item is None:
                del streams[engine]
                continue
            order = streams[engine][0]
            index = order[item[0]]
            left[engine].discard(index)
            yield index, item[1]

    def sleep(self) -> None:
        """Free the GPU memory of engines that share their GPU."""
        results([actor.sleep.remote() for actor in self.actors], "a rollout engine")

    def close(self) -> None:
        """End the engines."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    # ------------------------------------------------------------------------------------------------------------

    def _start(self, index: int) -> Any:
        import ray

        on_cpu = device_is_cpu()
        options = actor_options(self._placement.slot(self._role, index), self._group)
        actor = cast(Any, ray.remote)(RolloutEngine).options(**options, max_restarts=0, max_concurrency=1)
        return actor.remote(
            self._settings,
            rollout_environment(self._settings, on_cpu=on_cpu),
            rollout_options(self._settings, on_cpu=on_cpu),
        )

    def _open(
        self, engine: int, requests: Sequence[RolloutRequest], mine: set[int], sampling: RolloutSampling
    ) -> tuple[list[int], Any]:
        """Send requests to an engine. Return their indices in the order sent, and the stream of their rollouts."""
        order = sorted(mine)
        method = self.actors[engine].stream.options(num_returns="streaming")
        return order, method.remote([requests[index] for index in order], sampling)

    def _next(self, streams: dict[int, tuple[list[int], Any]]) -> tuple[int, Any]:
        """Return an engine whose stream is ready, and the reference to its next item, or None at the end of the stream."""
        import ray

        owners = {generator: engine for engine, (_, generator) in streams.items()}
        generators: list[Any] = list(owners)
        ready: Any = ray.wait(generators, num_returns=1, fetch_local=False)[0][0]
        try:
            return owners[ready], next(ready)
        except StopIteration:
            return owners[ready], None

    def _loaded(self, engine: int, call: Any) -> LoadReport:
        try:
            return result(call, f"rollout engine {engine}")
        except ActorLost as error:
            return self._restart(engine, error)

    def _restart(self, engine: int, error: ActorLost) -> Any:
        """Replace a dead engine and load the last snapshot into the new one."""
        snapshot = self._carried(error)
        self._replace(engine, error, f"restarted with weight version {snapshot.version}")
        return result(self.actors[engine].load.remote(snapshot), f"rollout engine {engine}")

    def _carried(self, error: ActorLost) -> Snapshot:
        """Return the last snapshot with its weights. Raises `ActorLost` if the student's weights have changed since: the run then
        resumes from its checkpoint."""
        snapshot = self._snapshot
        if snapshot is None:
            raise _too_many(error, self.losses) from error
        if snapshot.parts or self._carry is None:
            return snapshot
        carried = self._carry(snapshot.version)
        if carried.checksum != snapshot.checksum:
            raise error
        return carried

    def _replace(self, engine: int, error: ActorLost, action: str) -> None:
        """Replace a dead engine by a new one that has the weights of the model folder."""
        self.losses += 1
        if self.losses > MAX_LOSSES:
            raise _too_many(error, self.losses) from error
        if self._on_loss is not None:
            self._on_loss(f"{error}; {action}")
        self.actors[engine] = self._start(engine)


def _too_many(error: ActorLost, losses: int) -> UserError:
    return UserError(
        f"{error} (engine deaths in this run: {losses}): find the cause, for instance a lack of memory, and start the run again;"
        " it resumes from its last checkpoint"
    )
