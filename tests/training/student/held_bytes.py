"""Measure the tensor memory of DeepSpeed processes.

`python -m tests.training.student.held_bytes MODEL STAGE:DTYPE...` trains the model for two updates of two micro-batches, for
each stage in a process of its own, and prints, as a JSON list, the bytes of all live tensors after the second update (`kept`),
before it (`summed`), and the peak during it (`update`).
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from training.data.batches import TokenSequence
from training.losses.token_losses import TopKCrossEntropy
from training.student.messages import MicroBatch, RankSettings
from training.student.rank import Student


class Live(TorchDispatchMode):
    """Tracks the storages created by operations, and the peak of their live bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                known = self._storages.get(storage._cdata)
                if known is None or known[0].expired():
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, self.now())
        return made

    def now(self) -> int:
        self._storages = {key: held for key, held in self._storages.items() if not held[0].expired()}
        return sum(size for _, size in self._storages.values())


def micro_batch() -> MicroBatch:
    logprobs = np.full((4, 2), np.log(0.5), dtype=np.float32)
    return MicroBatch(
        sequences=(TokenSequence(tokens=np.arange(5, 13, dtype=np.int32), prompt_length=4),),
        coefficients=np.full(4, 0.25),
        signals={"teacher_logprobs": logprobs, "teacher_ids": np.tile(np.arange(2, dtype=np.int32), (4, 1))},
    )


def measured(model: Path, stage: Any, dtype: Any) -> dict[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Live() as live:
        settings = RankSettings(
            model=model, total_steps=9, warmup_steps=1, learning_rate=1e-4, zero_stage=stage, dtype=dtype, threads=1
        )  # fmt: skip
        student = Student(settings, TopKCrossEntropy(), rank=0, ranks=1)
        student.connect("127.0.0.1", port)
        found: dict[str, int] = {}
        for _ in range(2):
            for last in (False, True):
                student.accumulate([micro_batch()], last=last)
                gc.collect()
                found["summed"] = live.now()
            live.most = 0
            student.apply()
            gc.collect()
            found |= {"update": live.most, "kept": live.now()}
    return found


if __name__ == "__main__":
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401 - once for all processes

    cases = [case.split(":") for case in sys.argv[2:]]
    with get_context("fork").Pool(1, maxtasksperchild=1) as processes:
        held = [processes.apply(measured, (Path(sys.argv[1]), int(stage), dtype)) for stage, dtype in cases]
    print("\n" + json.dumps(held), flush=True)
