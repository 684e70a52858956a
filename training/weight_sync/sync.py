"""Weight sync from the student to the rollout engines: choice of transport, and detection of missed syncs.

`object_store` works everywhere: the student packs bf16 parts into Ray's object store and every engine reloads from them.
`nccl` and `ipc` use vLLM's weight transfer (vllm.distributed.weight_transfer), which keeps weights on the GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.errors import UserError
from training.workers.placement import Placement

Transport = Literal["nccl", "ipc", "object_store"]

MAX_MISMATCH = 0.05
"""Mean |log p(engine) - log p(student)| of sampled tokens, in nats, above which the engine's weights are considered stale.
Different bf16 kernels cause differences of 0.01 to 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A transport and the reason for choosing it, for the log."""

    transport: Transport
    reason: str


def choose_transport(placement: Placement) -> Choice:
    """Choose the transport of a placement: CUDA IPC if every engine shares its GPU with a student rank, NCCL if every engine has
    its own GPU, else Ray's object store."""
    if placement.on_cpu:
        return Choice(transport="object_store", reason="no GPU: bf16 weights through Ray's object store")
    students = {slot.bundle for slot in placement.slots if slot.role == "student"}
    engines = [slot.bundle for slot in placement.slots if slot.role == "rollout"]
    if set(engines) <= students:
        return Choice(
            transport="ipc", reason="every engine shares its GPU with a student rank: CUDA IPC handles"
        )
    if not set(engines) & students and len(set(engines)) == len(engines):
        return Choice(transport="nccl", reason="student and engines on distinct GPUs: NCCL broadcast")
    return Choice(
        transport="object_store",
        reason="only some engines share a GPU with a student, which neither NCCL nor IPC supports",
    )


# --- detection of missed syncs -----------------------------------------------------------------------------------


def check_versions(expected: int, versions: Sequence[int]) -> None:
    """Raise `UserError` unless every engine generated with weight version `expected`."""
    stale = [index for index, version in enumerate(versions) if version != expected]
    if stale:
        raise UserError(
            f"rollout engine {stale[0]} has weight version {versions[stale[0]]}, but the student has version {expected}:"
            " a weight sync was skipped; resume from the last checkpoint"
        )


def logprob_mismatch(rollout: np.ndarray, student: np.ndarray) -> tuple[float, float]:
    """Return the trainer/engine mismatch: mean and maximum of |log p(engine) - log p(student)| over sampled tokens.

    Both arrays are [T], in nats; (0, 0) if T is 0. Raises ValueError if the shapes differ or a value is not finite.
    """
    if rollout.shape != student.shape:
        raise ValueError(
            f"the engine's log-probabilities have shape {rollout.shape}, the student's {student.shape}: pass the same tokens"
        )
    if rollout.size == 0:
        return 0.0, 0.0
    mismatch = np.abs(rollout.astype(np.float64) - student.astype(np.float64))
    if not np.isfinite(mismatch).all():
        raise ValueError(
            f"the log-probability of token {int(np.argmin(np.isfinite(mismatch)))} is not finite"
        )
    return float(mismatch.mean()), float(mismatch.max())


def check_mismatch(mean: float, *, version: int, limit: float = MAX_MISMATCH) -> None:
    """Raise `UserError` if the mean trainer/engine mismatch (nats) exceeds `limit`: the engines' weights then probably differ
    from the student's."""
    if mean > limit:
        raise UserError(
            f"trainer/engine mismatch is {mean:.3f} nats per token on average (weight version {version}; at most {limit} is"
            " expected): the engines' weights are stale or their numerics differ; resume from the last checkpoint, and set the"
            " engine's dtype to the student's"
        )


# --- vLLM's weight transfer, GPUs only ---------------------------------------------------------------------------


class GpuSender:
    """The student's end of an NCCL or IPC transfer. Create and call it on every data-parallel rank; rank 0 sends.

    `engines` are handles of `RolloutEngine` actors. `weights.metadata()` returns (name, dtype, shape) of each tensor that
    `weights.iterate()` yields, in the same order. Iterating is a collective if parameters are partitioned, so every rank
    iterates. `address` and `port` of rank 0 are the rendezvous of the NCCL group.
    """

    def __init__(
        self,
        transport: Transport,
        engines: Sequence[Any],
        weights: Any,
        *,
        rank: int,
        address: str = "",
        port: int = 0,
    ) -> None:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        self._sender = WeightTransferTrainerFactory.trainer_init(
            init_info=_init_info(
                transport,
                rank=rank,
                address=address,
                port=port,
                engines=len(engines),
                largest=largest_bytes(weights.metadata()),
            ),
            client=EngineClient(engines),
            source=_source(weights),
        )

    def send(self) -> None:
        """Send the student's current weights; returns when the engines have received them."""
        self._sender.send_weights()

    def close(self) -> None:
        """Close the transfer without waiting for engines that have died."""
        self._sender.shutdown()


class EngineClient:
    """Calls from vLLM's sender to the engines (its `VLLMWeightSyncClient`), for several engines with one worker each.

    vLLM's own client sends the same description to all engines, but in an NCCL group each needs its own rank.
    """

    def __init__(self, engines: Sequence[Any]) -> None:
        self._engines = engines

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._wait(
            engine.open_transfer.remote(numbered(init_info, index))
            for index, engine in enumerate(self._engines)
        )

    def start_weight_update(self) -> None:
        """Start an update. Engines that share their GPU first go to sleep if they are awake (as before the first rollout): the
        transfer uses the memory of their KV cache."""
        self._wait(engine.sleep.remote() for engine in self._engines)
        self._wait(engine.start_update.remote() for engine in self._engines)

    def update_weights(self, update_info: Any) -> None:
        self._wait(engine.receive.remote(update_info) for engine in self._engines)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._wait(engine.finish_update.remote() for engine in self._engines)

    def _wait(self, calls: Iterable[Any]) -> None:
        import ray

        ray.get(list(calls))


def numbered(init_info: dict[str, Any], engine: int) -> dict[str, Any]:
    """Return the description of a transfer for one of several engines: its rank in an NCCL group is offset by its index."""
    if "rank_offset" not in init_info:
        return init_info
    return {**init_info, "rank_offset": init_info["rank_offset"] + engine}


def largest_bytes(metadata: Iterable[tuple[str, Any, Sequence[int]]]) -> int:
    """Return the bytes of a model's largest tensor, given (name, dtype, shape) of each."""
    return max(math.prod(shape) * dtype.itemsize for _, dtype, shape in metadata)


def _init_info(
    transport: Transport, *, rank: int, address: str, port: int, engines: int, largest: int
) -> Any:
    """Return vLLM's description of the sender. The NCCL group has one sender and one worker per engine.

    An IPC buffer cannot transfer a tensor that is larger than itself, so it has at least `largest` bytes, the size of the largest
    tensor. NCCL's buffers grow as needed and keep vLLM's default size.
    """
    if transport == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=1 + engines, rank=rank
        )
    if transport == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES

        size = max(DEFAULT_PACKED_BUFFER_SIZE_BYTES, largest)
        return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=size, rank=rank)
    raise ValueError(f"transport {transport!r} is not supported by vLLM: use 'nccl' or 'ipc'")


def _source(weights: Any) -> Any:
    """Wrap an object with `metadata()` and `iterate()` as a vLLM `WeightSource`."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class StudentWeights(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, dtype, shape) for name, dtype, shape in weights.metadata()]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(weights.iterate())

    return StudentWeights()
