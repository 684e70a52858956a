"""From the student to the engines: which road the weights take, and how a sync that did not happen is noticed.

`object_store` works everywhere: the student packs bf16 parts into Ray's object store and every engine reloads from them.
`nccl` and `ipc` are vLLM's own weight transfer (vllm.distributed.weight_transfer), which keeps weights on the GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.core.errors import UserError
from training.engine.placement import Placement

Transport = Literal["nccl", "ipc", "object_store"]

STALE_GAP = 0.05
"""Mean |log p(engine) - log p(student)| of sampled tokens above which the engine's weights are taken for stale: bf16
kernels of two engines differ by 0.01 to 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A transport and, for the log, why it was chosen."""

    transport: Transport
    reason: str


def choose_transport(placement: Placement) -> Choice:
    """CUDA IPC where student and engine share each GPU, NCCL where every engine has a GPU of its own, else Ray's object store."""
    if placement.on_cpu:
        return Choice(transport="object_store", reason="no GPU: bf16 weights through Ray's object store")
    students = {seat.bundle for seat in placement.seats if seat.role == "student"}
    engines = [seat.bundle for seat in placement.seats if seat.role == "rollout"]
    if set(engines) <= students:
        return Choice(
            transport="ipc", reason="every engine shares its GPU with a student rank: CUDA IPC handles"
        )
    if not set(engines) & students and len(set(engines)) == len(engines):
        return Choice(transport="nccl", reason="student and engines on distinct GPUs: NCCL broadcast")
    return Choice(
        transport="object_store",
        reason="some engines share a GPU with a student and some do not, which neither NCCL nor IPC serves",
    )


# --- noticing a sync that did not happen -------------------------------------------------------------------------


def check_versions(expected: int, versions: Sequence[int]) -> None:
    """Raise `UserError` unless every engine generated with the weights of version `expected`."""
    stale = [index for index, version in enumerate(versions) if version != expected]
    if stale:
        raise UserError(
            f"rollout engine {stale[0]} holds weight version {versions[stale[0]]} and the student version {expected}:"
            " a weight sync was skipped; resume from the last checkpoint"
        )


def logprob_gap(rollout: np.ndarray, student: np.ndarray) -> tuple[float, float]:
    """Mean and maximum of |log p(engine) - log p(student)| over the same sampled tokens ([T] each, nats).

    (0, 0) for no token at all. ValueError when the lengths differ or a value is not finite.
    """
    if rollout.shape != student.shape:
        raise ValueError(
            f"{rollout.shape} log-probabilities of the engine and {student.shape} of the student"
        )
    if rollout.size == 0:
        return 0.0, 0.0
    gap = np.abs(rollout.astype(np.float64) - student.astype(np.float64))
    if not np.isfinite(gap).all():
        raise ValueError(f"token {int(np.argmin(np.isfinite(gap)))} has a log-probability that is not finite")
    return float(gap.mean()), float(gap.max())


def check_gap(mean: float, *, version: int, limit: float = STALE_GAP) -> None:
    """Raise `UserError` when the mean gap says that the engines generate with other weights than the student's."""
    if mean > limit:
        raise UserError(
            f"the engines' log-probabilities differ from the student's by {mean:.3f} nats a token on average (weight version"
            f" {version}, at most {limit} is normal): their weights are stale or their numerics differ; resume from the last"
            " checkpoint, and set the engine's dtype to the student's"
        )


# --- vLLM's own transfer, GPUs only ------------------------------------------------------------------------------


class GpuSender:
    """The student's end of an NCCL or IPC transfer; made and called on every data-parallel rank, rank 0 sends.

    `engines` are handles of `Rollout` actors. `weights.metadata()` gives (name, dtype, shape) of what `weights.iterate()`
    yields, in the same order; iterating is a collective when the parameters are partitioned, so every rank does it. With
    NCCL, the group meets at `address` and `port` of rank 0.
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
        """Bring the engines to the student's present weights; returns when they have them."""
        self._sender.send_weights()

    def close(self) -> None:
        """Leave the transfer; does not wait for engines that are gone."""
        self._sender.shutdown()


class EngineClient:
    """What vLLM's sender says to the engines (its `VLLMWeightSyncClient`), several engines of one worker each.

    vLLM's own client tells all of them the same; in an NCCL group each must have a rank of its own.
    """

    def __init__(self, engines: Sequence[Any]) -> None:
        self._engines = engines

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._wait(
            engine.open_transfer.remote(numbered(init_info, index))
            for index, engine in enumerate(self._engines)
        )

    def start_weight_update(self) -> None:
        """An engine that shares its GPU and is awake (before the first rollout) sleeps first: the room of its KV cache is the
        transfer's."""
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
    """The description of a transfer for one engine of several: its rank in an NCCL group stands after those before it."""
    if "rank_offset" not in init_info:
        return init_info
    return {**init_info, "rank_offset": init_info["rank_offset"] + engine}


def largest_bytes(metadata: Iterable[tuple[str, Any, Sequence[int]]]) -> int:
    """Bytes of the largest tensor of a model, from (name, dtype, shape) of each."""
    return max(math.prod(shape) * dtype.itemsize for _, dtype, shape in metadata)


def _init_info(
    transport: Transport, *, rank: int, address: str, port: int, engines: int, largest: int
) -> Any:
    """vLLM's description of the sender. The NCCL group has one sender and one worker for each engine.

    An IPC buffer takes no tensor that is larger than it, so it has room for `largest`, the bytes of the largest. NCCL's grow
    with a tensor: they keep vLLM's size.
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
    raise ValueError(f"transport {transport!r} is not one of vLLM's")


def _source(weights: Any) -> Any:
    """A vLLM `WeightSource` over an object with `metadata()` and `iterate()`."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, dtype, shape) for name, dtype, shape in weights.metadata()]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(weights.iterate())

    return Source()
