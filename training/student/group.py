"""The data-parallel student ranks as a single object."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from tasks.errors import UserError
from training.data.batches import TokenSequence
from training.losses.base import TokenLoss
from training.rollouts.engine import Generation
from training.rollouts.pool import RolloutPool
from training.rollouts.saved import write_generations
from training.scorers.scores import Scores
from training.student.checkpoints import disk_full_as_user_error, read_record, writing
from training.student.messages import Applied, MicroBatch, RankSettings, Share
from training.student.rank import Student
from training.weight_sync.sync import Choice
from training.weight_sync.weights import Snapshot
from training.workers.actors import ActorLost, results
from training.workers.placement import Placement, actor_options

WHO = "a student"
TRANSFER_LIMIT_S = 600.0
"""Timeout of an NCCL or IPC transfer in seconds. A transfer takes a few; if an engine dies during one, it never returns."""

RankBatches = Sequence[Sequence[MicroBatch]]
"""Micro-batches as `[rank][i]`; every rank has the same number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Result of one update of all ranks.

    `loss` is global. `diagnostics`: of the update's sequence loss. `seconds` is the time of the slowest rank, `memory` the peak
    bytes of the rank that used most. `trained` contains every micro-batch of every rank with the per-token diagnostics of its
    token loss.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory: int
    trained: tuple[tuple[MicroBatch, Mapping[str, np.ndarray]], ...]
    diagnostics: Mapping[str, float] = field(default_factory=dict)


class StudentGroup:
    """The student ranks of a placement. The death of a rank raises `ActorLost`; the caller resumes from the last checkpoint."""

    def __init__(
        self, placement: Placement, group: Any, settings: RankSettings, token_loss: TokenLoss
    ) -> None:
        import ray

        self._settings = settings
        self._ranks = placement.count("student")
        self._actors = [
            cast(Any, ray.remote)(Student)
            .options(**actor_options(placement.slot("student", rank), group), max_restarts=0)
            .remote(settings, token_loss, rank=rank, ranks=self._ranks)
            for rank in range(self._ranks)
        ]
        self._choice: Choice | None = None
        self._losses_seen = 0  # the pool's count of lost engines when the transfer was opened
        # Only one step or snapshot at a time, so that every rank receives the calls in the same order.
        self._at_work = threading.Lock()

    def connect(self) -> dict[str, Any]:
        """Build the DeepSpeed engine on every rank and return rank 0's description of it (see `Student.connect`). Raises
        `UserError` if a rank dies meanwhile."""
        try:
            address, port = self._all("address")[0]
            return self._all("connect", address, port)[0]
        except ActorLost as error:
            raise UserError(f"{error}; check the student's model folder and the available memory") from error

    def step(self, micro_batches: RankBatches) -> Update:
        """Do one update from `micro_batches[rank]`."""
        return self.step_in_parts([lambda: micro_batches])

    def step_in_parts(self, parts: Sequence[Callable[[], RankBatches]]) -> Update:
        """Do one update from the micro-batches that `parts` return one after another. The ranks accumulate the gradient of one
        part while the next is being computed; the update uses the sum over all parts."""
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
                f"got {sorted(counts)} micro-batches for {len(micro_batches)} ranks: pass the same number, at least 1, for each"
                f" of {self._ranks} ranks"
            )
        return micro_batches

    def logprobs(
        self,
        sequences: Sequence[TokenSequence],
        *,
        temperature: float = 1.0,
        training: bool = False,
        ids: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Return log p [T] (nats) of the response tokens of each sequence, or, with `ids` [T, k] for each sequence, log p [T, k]
        of those tokens in their places; with `training` in packed rows and in the mode of an update. Every rank computes all of
        them (a collective under ZeRO-3)."""
        return self._all("logprobs", list(sequences), temperature=temperature, training=training, ids=ids)[0]

    def scores(self, sequences: Sequence[TokenSequence]) -> list[Scores]:
        """Return log p and the entropy of the student's distributions (nats) at the response tokens of each sequence."""
        return self._all("scores", list(sequences))[0]

    def self_divergence(self, sequence: TokenSequence) -> float:
        """Return the largest KL divergence of the student from itself (nats) over all ranks; about 0 if the loss is correct."""
        return max(self._all("self_divergence", sequence))

    # --- weights ------------------------------------------------------------------------------------------------

    def open_transfer(self, choice: Choice, engines: RolloutPool) -> None:
        """Set the transport of `sync`. NCCL and IPC are connected now, and reconnected after an engine was restarted."""
        self._choice = choice
        if choice.transport != "object_store":
            engines.carry_by(self._carried)
            self._meet(choice, engines)

    def _meet(self, choice: Choice, engines: RolloutPool) -> None:
        address, port = results([self._actors[0].address.remote()], WHO)[0]
        self._losses_seen = engines.losses
        self._all("open_transfer", choice.transport, engines.actors, address, port)

    def _carried(self, version: int) -> Snapshot:
        """Return the current weights by the object store, after the step in progress."""
        with self._at_work:
            return self._all("publish", version)[0]

    def sync(self, engines: RolloutPool, version: int) -> Snapshot:
        """Send the current weights to every rollout engine; each verifies what it received.

        Raises `UserError` if an engine's weights differ from the student's afterwards.
        """
        if self._choice is None:
            raise RuntimeError("no transport is set: call open_transfer first")
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
        best: int | None = None,
        rollouts: Sequence[Generation] = (),
    ) -> None:
        """Write the checkpoint `root/step-<step>`. All ranks write into it, so `root` must be on storage that they share.

        `record` (JSON data) and `rollouts` (already sampled for the next step) are saved with it; the newest `keep` checkpoints
        and that of step `best` are kept.
        """
        layout = {"students": self._ranks, "zero_stage": self._settings.zero_stage}
        with writing(root, step, {**record, "layout": layout}, keep=keep, best=best) as folder:
            self._all("save", folder)
            write_generations(folder, rollouts)

    def load(self, folder: Path) -> int:
        """Load a checkpoint into freshly connected ranks and return its number of steps. Raises `UserError` if it was written by
        another number of students or with an incompatible ZeRO stage."""
        check_layout(folder, read_record(folder).get("layout"), self._ranks, self._settings.zero_stage)
        return self._all("load", folder)[0]

    def export(self, folder: Path) -> float | None:
        """Write the model as a Hugging Face folder that transformers and vLLM can load, and its adapter in a subfolder. Return
        the share of the adapter that rounding the merged weights loses, None without an adapter. Raises `UserError` if the disk
        is full or a weight is not finite."""
        with disk_full_as_user_error(f"the student {folder}"):
            return self._all("export", folder)[0]

    def processes(self) -> list[int]:
        """Return the process ids of the ranks."""
        return self._all("process")

    def close(self) -> None:
        """End the ranks."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _all(self, method: str, *arguments: Any, **named: Any) -> list[Any]:
        return results([getattr(actor, method).remote(*arguments, **named) for actor in self._actors], WHO)


def check_layout(folder: Path, layout: Mapping[str, int] | None, students: int, zero_stage: int) -> None:
    """Raise `UserError` unless this number of ranks and ZeRO stage can load a checkpoint of that layout. Stages 1 and 2 partition
    the optimiser state in the same way."""
    if layout is None or not {"students", "zero_stage"} <= layout.keys():
        raise UserError(
            f"checkpoint {folder} was written by another version, which did not record the layout of the ranks: delete the run's"
            " folder to start from the beginning"
        )
    if layout["students"] != students:
        raise UserError(
            f"checkpoint {folder} was written with placement.students {layout['students']}, but this run has {students}: restore"
            " the setting"
        )
    if {1: 2}.get(layout["zero_stage"], layout["zero_stage"]) != {1: 2}.get(zero_stage, zero_stage):
        raise UserError(
            f"checkpoint {folder} was written with trainer.zero_stage {layout['zero_stage']}, but this run has {zero_stage}:"
            " restore the setting, or delete the run's folder to start from the beginning"
        )


def _update(
    given: Sequence[RankBatches], shares: Sequence[Sequence[Share]], applied: Sequence[Applied]
) -> Update:
    """Combine the results of all parts and ranks (`given[part][rank]`, `shares[part][rank]`) into one `Update`."""
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
