"""All data-parallel ranks of the student as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tasks.core.errors import UserError
from training.engine.actors import ActorLost, results
from training.engine.batches import TokenSequence
from training.engine.checkpoints import writing
from training.engine.placement import Placement, actor_options
from training.engine.student import MicroBatch, StepReport, Student, StudentSettings
from training.objectives.base import TokenLoss
from training.rollout.engine import Generation
from training.rollout.pool import RolloutPool
from training.rollout.saved import write_generations
from training.rollout.sync import Choice
from training.rollout.weights import Snapshot

WHO = "a student"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of all ranks: the global loss, what the ranks agree on, and each rank's own report."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    reports: tuple[StepReport, ...]


class StudentGroup:
    """The student ranks of a placement. A rank's death surfaces as `ActorLost`; the run then goes on from its checkpoint."""

    def __init__(
        self, placement: Placement, group: Any, settings: StudentSettings, token_loss: TokenLoss
    ) -> None:
        import ray

        self._ranks = placement.count("student")
        self._actors = [
            cast(Any, ray.remote)(Student)
            .options(**actor_options(placement.seat("student", rank), group), max_restarts=0)
            .remote(settings, token_loss, rank=rank, ranks=self._ranks)
            for rank in range(self._ranks)
        ]
        self._choice: Choice | None = None

    def connect(self) -> dict[str, Any]:
        """Build the engine on every rank; what rank 0 says of itself. `UserError` when a rank dies meanwhile."""
        try:
            address, port = self._all("address")[0]
            return self._all("connect", address, port)[0]
        except ActorLost as error:
            raise UserError(f"{error}; check the student's model folder and the memory") from error

    def step(self, micro_batches: Sequence[Sequence[MicroBatch]]) -> Update:
        """One update from `micro_batches[rank]`, as many on every rank."""
        counts = {len(batches) for batches in micro_batches}
        if len(micro_batches) != self._ranks or len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"{len(micro_batches)} ranks with {sorted(counts)} micro-batches: need {self._ranks} ranks with equally many"
            )
        calls = [
            actor.step.remote(list(batches))
            for actor, batches in zip(self._actors, micro_batches, strict=True)
        ]
        reports: list[StepReport] = results(calls, WHO)
        return Update(
            step=reports[0].step,
            loss=sum(report.loss for report in reports),
            learning_rate=reports[0].learning_rate,
            gradient_norm=reports[0].gradient_norm,
            reports=tuple(reports),
        )

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperature: float = 1.0) -> list[np.ndarray]:
        """log p [T] of every response's own tokens; every rank computes all of them (a collective under ZeRO-3)."""
        calls = [actor.logprobs.remote(list(sequences), temperature=temperature) for actor in self._actors]
        return results(calls, WHO)[0]

    # --- weights ------------------------------------------------------------------------------------------------

    def open_transfer(self, choice: Choice, engines: RolloutPool) -> None:
        """Choose the road for `sync`; NCCL and IPC are connected now, once."""
        self._choice = choice
        if choice.transport != "object_store":
            address, port = results([self._actors[0].address.remote()], WHO)[0]
            self._all("open_transfer", choice.transport, engines.actors, address, port)

    def sync(self, engines: RolloutPool, version: int) -> Snapshot:
        """Bring every engine to the present weights and let each compare what it has with what was sent.

        Raises `UserError` when an engine's weights are not the student's afterwards.
        """
        if self._choice is None:
            raise RuntimeError("no transfer was chosen: call open_transfer first")
        if self._choice.transport == "object_store":
            snapshot: Snapshot = self._all("publish", version)[0]
            engines.load(snapshot)
            return snapshot
        self._all("send")
        snapshot = self._all("publish", version, carry=False)[0]
        engines.confirm(snapshot)
        return snapshot

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(
        self,
        root: Path,
        step: int,
        record: Mapping[str, Any],
        *,
        keep: int,
        rollouts: Sequence[Generation] = (),
    ) -> None:
        """A whole checkpoint `root/step-<step>`, which all ranks write into, so `root` must be a folder that they share. `record`
        (JSON data) and `rollouts` (of the step to come, drawn already) are what else the run must remember."""
        with writing(root, step, record, keep=keep) as folder:
            self._all("save", folder)
            write_generations(folder, rollouts)

    def load(self, folder: Path) -> int:
        """Take up a checkpoint (fresh ranks, as many as wrote it); the number of steps done."""
        return self._all("load", folder)[0]

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder that transformers and vLLM load."""
        self._all("export", folder)

    def processes(self) -> list[int]:
        return self._all("process")

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _all(self, method: str, *arguments: Any, **named: Any) -> list[Any]:
        return results([getattr(actor, method).remote(*arguments, **named) for actor in self._actors], WHO)
