"""DeepSpeed's settings for a student, and its learning rate as a function of the step. Pure."""

from __future__ import annotations

import math
from typing import Any, Literal

ZeroStage = Literal[0, 1, 2, 3]

MAX_BUCKET = 500_000_000
"""DeepSpeed's own bucket size, in elements; far above a small model's size it only costs time."""


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Rate of the update number `step` (0, 1, ...): linear up to `peak` at the last warm-up step, then a cosine to 0.

    Update w - 1 (the last of w warm-up updates) has the peak rate; the one after the last update would have 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    past = (step + 1 - warmup_steps) / max(1, total_steps + 1 - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, past)))


def deepspeed_config(
    *, stage: ZeroStage, bf16: bool, clip: float, parameters: int, on_cpu: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration. `parameters`: how many the model has, trained ones or not.

    Micro-batches are counted by us, so accumulation stands at 1 and divides nothing. With ZeRO 1-3 bf16 gradients
    accumulate in float32; ZeRO 0 has no such buffer.
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
