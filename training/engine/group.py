"""All data-parallel ranks of the student as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tasks.core.errors import UserError
from training.engine.actors import ActorLost, results
from training.engine.batches import TokenSequence
from training.engine.checkpoints import full_disk_told, read_record, writing
from training.engine.placement import Placement, actor_options
from training.engine.student import Applied, MicroBatch, Share, Student, StudentSettings
from training.objectives.base import TokenLoss
from training.rollout.engine import Generation
from training.rollout.pool import RolloutPool
from training.rollout.saved import write_generations
from training.rollout.sync import Choice
from training.rollout.weights import Snapshot

WHO = "a student"
TRANSFER_LIMIT_S = 600.0
"""Seconds after which an NCCL or IPC transfer is given up: it takes a few, and waits for ever for an engine that died in it."""

RankBatches = Sequence[Sequence[MicroBatch]]
"""`[rank][i]`: as many micro-batches on every rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of all ranks: the global loss and what the ranks agree on. `seconds` of the rank that worked longest,
    `memory` in bytes of the one that held most. `trained` has every micro-batch of every rank, with what the token loss noted
    there."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory: int
    trained: tuple[tuple[MicroBatch, Mapping[str, np.ndarray]], ...]


class StudentGroup:
    """The student ranks of a placement. A rank's death surfaces as `ActorLost`; the run then goes on from its checkpoint."""

    def __init__(
        self, placement: Placement, group: Any, settings: StudentSettings, token_loss: TokenLoss
    ) -> None:
        import ray

        self._settings = settings
        self._ranks = placement.count("student")
        self._actors = [
            cast(Any, ray.remote)(Student)
            .options(**actor_options(placement.seat("student", rank), group), max_restarts=0)
            .remote(settings, token_loss, rank=rank, ranks=self._ranks)
            for rank in range(self._ranks)
        ]
        self._choice: Choice | None = None
        self._losses_seen = 0  # of engines, when the transfer was opened
        # One step or one snapshot at a time: every rank gets their calls in the same order.
        self._at_work = threading.Lock()

    def connect(self) -> dict[str, Any]:
        """Build the engine on every rank; what rank 0 says of itself. `UserError` when a rank dies meanwhile."""
        try:
            address, port = self._all("address")[0]
            return self._all("connect", address, port)[0]
        except ActorLost as error:
            raise UserError(f"{error}; check the student's model folder and the memory") from error

    def step(self, micro_batches: RankBatches) -> Update:
        """One update from `micro_batches[rank]`."""
        return self.step_in_parts([lambda: micro_batches])

    def step_in_parts(self, parts: Sequence[Callable[[], RankBatches]]) -> Update:
        """One update from the micro-batches that `parts` give one after the other: the ranks learn from what is there while the
        next part is waited for. The gradient is that of all parts together."""
        given: list[RankBatches] = []
        calls: list[list[Any]] = []
        with self._at_work:
            for number, part in enumerate(parts, start=1):
                given.append(self._checked(part()))
                calls.append(
                    [
                        actor.accumulate.remote(list(batches), last=number == len(parts))
                        for actor, batches in zip(self._actors, given[-1], strict=True)
                    ]
                )
            applying = [actor.apply.remote() for actor in self._actors]
            shares: list[list[Share]] = [results(part, WHO) for part in calls]
            applied: list[Applied] = results(applying, WHO)
        return _update(given, shares, applied)

    def _checked(self, micro_batches: RankBatches) -> RankBatches:
        counts = {len(batches) for batches in micro_batches}
        if len(micro_batches) != self._ranks or len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"{len(micro_batches)} ranks with {sorted(counts)} micro-batches: need {self._ranks} ranks with equally many"
            )
        return micro_batches

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperature: float = 1.0) -> list[np.ndarray]:
        """log p [T] of every response's own tokens; every rank computes all of them (a collective under ZeRO-3)."""
        calls = [actor.logprobs.remote(list(sequences), temperature=temperature) for actor in self._actors]
        return results(calls, WHO)[0]

    def self_divergence(self, sequence: TokenSequence) -> float:
        """The largest KL divergence of the student from itself (nats): about 0 where every rank computes right."""
        return max(self._all("self_divergence", sequence))

    # --- weights ------------------------------------------------------------------------------------------------

    def open_transfer(self, choice: Choice, engines: RolloutPool) -> None:
        """Choose the road for `sync`; NCCL and IPC are connected now, and again when an engine was started again."""
        self._choice = choice
        if choice.transport != "object_store":
            engines.carry_by(self._carried)
            self._meet(choice, engines)

    def _meet(self, choice: Choice, engines: RolloutPool) -> None:
        address, port = results([self._actors[0].address.remote()], WHO)[0]
        self._losses_seen = engines.losses
        self._all("open_transfer", choice.transport, engines.actors, address, port)

    def _carried(self, version: int) -> Snapshot:
        """The present weights by the object store; waits for a step that is going on."""
        with self._at_work:
            return self._all("publish", version)[0]

    def sync(self, engines: RolloutPool, version: int) -> Snapshot:
        """Bring every engine to the present weights and let each compare what it has with what was sent.

        Raises `UserError` when an engine's weights are not the student's afterwards.
        """
        if self._choice is None:
            raise RuntimeError("no transfer was chosen: call open_transfer first")
        if self._choice.transport == "object_store":
            carried: Snapshot = self._all("publish", version)[0]
            engines.load(carried)
            return carried
        engines.revive()
        if engines.losses != self._losses_seen:
            self._meet(self._choice, engines)
        results([actor.send.remote() for actor in self._actors], WHO, limit_s=TRANSFER_LIMIT_S)
        snapshot: Snapshot = self._all("publish", version, carry=False)[0]
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
        layout = {"students": self._ranks, "zero_stage": self._settings.zero_stage}
        with writing(root, step, {**record, "layout": layout}, keep=keep) as folder:
            self._all("save", folder)
            write_generations(folder, rollouts)

    def load(self, folder: Path) -> int:
        """Take up a checkpoint (fresh ranks, as many as wrote it); the number of steps done. `UserError` when it was written by
        another number of students, or with another way of sharing their states."""
        check_layout(folder, read_record(folder)["layout"], self._ranks, self._settings.zero_stage)
        return self._all("load", folder)[0]

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder that transformers and vLLM load. `UserError` when the disk is full, or when
        the weights are no numbers."""
        with full_disk_told(f"the student {folder}"):
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


def check_layout(folder: Path, layout: Mapping[str, int], students: int, zero_stage: int) -> None:
    """`UserError` unless so many ranks with this ZeRO stage can take up a checkpoint of that layout: 1 and 2 share alike."""
    if layout["students"] != students:
        raise UserError(
            f"checkpoint {folder} was written by {layout['students']} students and this run has {students}: resume with as many"
        )
    if {1: 2}.get(layout["zero_stage"], layout["zero_stage"]) != {1: 2}.get(zero_stage, zero_stage):
        raise UserError(
            f"checkpoint {folder} was written with engine.zero_stage {layout['zero_stage']} and this run has {zero_stage}: set"
            " it back, or delete the run's folder to start from the beginning"
        )


def _update(
    given: Sequence[RankBatches], shares: Sequence[Sequence[Share]], applied: Sequence[Applied]
) -> Update:
    """What the ranks did, part by part (`given[part][rank]`, `shares[part][rank]`), as one."""
    ranks = range(len(applied))
    return Update(
        step=applied[0].step,
        loss=sum(share.loss for rank in ranks for share in (part[rank] for part in shares)),
        learning_rate=applied[0].learning_rate,
        gradient_norm=applied[0].gradient_norm,
        seconds=max(sum(part[rank].seconds for part in shares) + applied[rank].seconds for rank in ranks),
        memory=max(one.memory for one in applied),
        trained=tuple(
            pair
            for batches, part in zip(given, shares, strict=True)
            for rank in ranks
            for pair in zip(batches[rank], part[rank].diagnostics, strict=True)
        ),
    )
