"""DeepSpeed configuration and learning rate schedule of the student (pure functions)."""

from __future__ import annotations

import math
from typing import Any, Literal

ZeroStage = Literal[0, 1, 2, 3]

MAX_BUCKET = 500_000_000
"""DeepSpeed's default bucket size, in elements. For a model much smaller than this, a large bucket only costs time."""


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of update `step` (0, 1, ...): linear warm-up to `peak`, then cosine decay to 0.

    Update w - 1, the last of w warm-up updates, has the peak rate. The update after the last one would have rate 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    past = (step + 1 - warmup_steps) / max(1, total_steps + 1 - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, past)))


def deepspeed_config(
    *, stage: ZeroStage, bf16: bool, clip: float, parameters: int, on_cpu: bool
) -> dict[str, Any]:
    """Return DeepSpeed's configuration. `parameters`: number of all parameters of the model, trained or frozen.

    Gradient accumulation is managed by the student rank, so `gradient_accumulation_steps` is 1 and nothing is divided by it.
    With ZeRO 1-3, bf16 gradients are accumulated in float32; ZeRO 0 has no such buffer.
    """
    bucket = max(1024, min(parameters, MAX_BUCKET))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": not on_cpu and stage >= 2,
        },
    }
    if stage == 3:
        config["zero_optimization"] |= {
            "stage3_prefetch_bucket_size": min(bucket, 50_000_000),
            "stage3_param_persistence_threshold": min(parameters // 100, 100_000),
        }
    if bf16:
        config["bf16"] = {"enabled": True}
        if stage > 0:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
