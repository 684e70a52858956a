"""All rollout engines of a run as one: work is dealt to them, weights are synced to all, and a dead one is started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from tasks.core.errors import UserError
from tasks.io.servers import device_is_cpu
from training.engine.actors import ActorLost, result, results
from training.engine.placement import Placement, actor_options
from training.rollout.engine import (
    Generation,
    LoadReport,
    Rollout,
    RolloutRequest,
    RolloutSampling,
    RolloutSettings,
    rollout_environment,
    rollout_options,
)
from training.rollout.weights import Snapshot

MAX_LOSSES = 3
"""Losses of engines in a run after which it ends: something kills them, and starting them again will not help."""

OnLoss = Callable[[str], None]
Carry = Callable[[int], Snapshot]
"""Gives the student's present weights, which it calls by that version, by the object store."""


class RolloutPool:
    """The engines of a placement. Starting them and waiting for them are two steps, so that models load side by side."""

    def __init__(
        self, placement: Placement, group: Any, settings: RolloutSettings, *, on_loss: OnLoss | None = None
    ) -> None:
        self._placement = placement
        self._group = group
        self._settings = settings
        self._on_loss = on_loss
        self._snapshot: Snapshot | None = None
        self._carry: Carry | None = None
        self.losses = 0  # engines that were started again
        self.actors: list[Any] = [self._start(index) for index in range(placement.count("rollout"))]

    def ready(self) -> list[dict[str, Any]]:
        """Wait until every engine has its model; what each says of itself. `UserError` when one does not start."""
        try:
            return results([actor.ready.remote() for actor in self.actors], "a rollout engine")
        except ActorLost as error:
            raise UserError(f"{error}; check the student's model folder and the engine's memory") from error

    def load(self, snapshot: Snapshot) -> list[LoadReport]:
        """Bring every engine to the snapshot by the object store; a dead engine is started again and gets it too."""
        self._snapshot = snapshot
        calls = [actor.load.remote(snapshot) for actor in self.actors]
        return [self._loaded(index, call) for index, call in enumerate(calls)]

    def carry_by(self, carry: Carry) -> None:
        """Where NCCL or IPC brings the weights: how an engine that was started again in the middle of a round gets them."""
        self._carry = carry

    def revive(self) -> None:
        """Start engines again that died since the last round, without weights: what follows brings them to all."""
        for index, call in enumerate([actor.version.remote() for actor in self.actors]):
            try:
                result(call, f"rollout engine {index}")
            except ActorLost as error:
                self._replace(index, error, "started again")
                result(self.actors[index].ready.remote(), f"rollout engine {index}")

    def confirm(self, snapshot: Snapshot) -> list[LoadReport]:
        """After NCCL or IPC: every engine compares its own tensors with the snapshot's sums and takes its version."""
        self._snapshot = snapshot
        return results([actor.confirm.remote(snapshot) for actor in self.actors], "a rollout engine")

    def generate(self, requests: Sequence[RolloutRequest], sampling: RolloutSampling) -> list[Generation]:
        """One rollout for each request, in order."""
        found = dict(self.stream(requests, sampling))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]:
        """(index, rollout) as rollouts end on any engine. What a lost engine had not finished is drawn again, by the same
        seeds, once it is back with the last snapshot."""
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
        """Engines that share their GPU give its memory back."""
        results([actor.sleep.remote() for actor in self.actors], "a rollout engine")

    def close(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    # ------------------------------------------------------------------------------------------------------------

    def _start(self, index: int) -> Any:
        import ray

        on_cpu = device_is_cpu()
        options = actor_options(self._placement.seat("rollout", index), self._group)
        actor = cast(Any, ray.remote)(Rollout).options(**options, max_restarts=0, max_concurrency=1)
        return actor.remote(
            self._settings,
            rollout_environment(self._settings, on_cpu=on_cpu),
            rollout_options(self._settings, on_cpu=on_cpu),
        )

    def _open(
        self, engine: int, requests: Sequence[RolloutRequest], mine: set[int], sampling: RolloutSampling
    ) -> tuple[list[int], Any]:
        """Order of the requests given to an engine, and the stream of their rollouts."""
        order = sorted(mine)
        method = self.actors[engine].stream.options(num_returns="streaming")
        return order, method.remote([requests[index] for index in order], sampling)

    def _next(self, streams: dict[int, tuple[list[int], Any]]) -> tuple[int, Any]:
        """The engine whose stream has something next, and the reference to it; None at the end of the stream."""
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
        """Start an engine in a dead one's place and give it the last snapshot."""
        snapshot = self._carried(error)
        self._replace(engine, error, f"started again with weight version {snapshot.version}")
        return result(self.actors[engine].load.remote(snapshot), f"rollout engine {engine}")

    def _carried(self, error: ActorLost) -> Snapshot:
        """The last snapshot with its weights. `ActorLost` when the student has moved on from them: the run then goes on from
        its checkpoint."""
        snapshot = self._snapshot
        if snapshot is None:
            raise _too_many(error, self.losses) from error
        if snapshot.parts or self._carry is None:
            return snapshot
        carried = self._carry(snapshot.version)
        if carried.checksum != snapshot.checksum:
            raise error
        return carried

    def _replace(self, engine: int, error: ActorLost, told: str) -> None:
        """A fresh engine, with the weights of the model folder, in a dead one's place."""
        self.losses += 1
        if self.losses > MAX_LOSSES:
            raise _too_many(error, self.losses) from error
        if self._on_loss is not None:
            self._on_loss(f"{error}; {told}")
        self.actors[engine] = self._start(engine)


def _too_many(error: ActorLost, losses: int) -> UserError:
    return UserError(
        f"{error} ({losses} losses in this run): look for what ends it (memory?) and start the run again; it resumes from"
        " its last checkpoint"
    )
