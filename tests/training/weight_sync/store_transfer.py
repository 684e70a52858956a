"""vLLM's NCCL weight transfer with a TCP store as its communicator, for tests without a GPU.

Both ends, the handshake, the reload of weights and this project's code are real; the classes replace only the communication.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from training.rollouts.engine import RolloutEngine
from training.student.rank import Student


def use_store_instead_of_nccl() -> None:
    """Patch this process's vLLM so that the transport "nccl" sends weights through a TCP store."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import factory, nccl_engine
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLTrainerWeightTransferEngine,
        NCCLWeightTransferEngine,
    )

    class Receiver(NCCLWeightTransferEngine):
        wire: Any

        def init_transfer_engine(self, init_info: Any) -> None:
            self.wire = StatelessProcessGroup.create(
                host=init_info.master_address, port=init_info.master_port,
                rank=init_info.rank_offset + self.parallel_config.rank, world_size=init_info.world_size,
            )  # fmt: skip

        def update_weights(self, update_info: Any) -> None:
            described = self.parse_update_info(update_info)
            for name, dtype, shape in zip(
                described.names, described.dtype_names, described.shapes, strict=True
            ):
                weight = self.wire.broadcast(torch.empty(0), src=0)
                assert weight.dtype == getattr(torch, dtype) and list(weight.shape) == list(shape)
                model: Any = self.model
                model.load_weights([(name, weight)])

    class Sender(NCCLTrainerWeightTransferEngine):
        def _broadcast(self, source: Any, meta: Any) -> None:
            if not self.is_sender:
                super()._broadcast(source, meta)
                return
            wire: Any = self.model_update_group
            for _, tensor in self._checked_iter(source, meta):
                wire.broadcast(tensor.cpu().clone(), src=0)

        def shutdown(self) -> None:
            self.model_update_group = None

    def open_endpoint(init_info: Any, rank: int = 0) -> Any:
        return StatelessProcessGroup.create(
            host=init_info.master_address, port=init_info.master_port, rank=rank, world_size=init_info.world_size
        )  # fmt: skip

    patched: Any = nccl_engine
    patched.open_trainer_endpoint = open_endpoint
    factory.WeightTransferEngineFactory._registry["nccl"] = lambda: Receiver
    factory.WeightTransferTrainerFactory._registry["nccl"] = lambda: Sender


class StoreRolloutEngine(RolloutEngine):
    """A rollout engine with this transfer. Sleep mode is removed from its options, since vLLM on CPU does not support it."""

    def __init__(self, settings: Any, environment: dict[str, str], options: dict[str, Any]) -> None:
        os.environ.update(environment)
        use_store_instead_of_nccl()
        options.pop("enable_sleep_mode", None)
        super().__init__(settings, environment, options)


class StoreStudent(Student):
    """A student rank with this transfer."""

    def open_transfer(self, *arguments: Any) -> None:
        use_store_instead_of_nccl()
        super().open_transfer(*arguments)
