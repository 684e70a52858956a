"""What attention keeps for pairs of tokens is planned where it keeps something, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.training.preflight.test_memory import SMALL, node, parts_of
from tests.training.small_run import small_run
from training.config import RunConfig
from training.plan import resolve
from training.preflight.memory import ModelDimensions, student_parts


def working(run: RunConfig, dims: ModelDimensions) -> int:
    return parts_of(student_parts(resolve(run), dims, dims))["activations, logits"]


def test_variable_length_attention_on_gpus_has_no_mask() -> None:
    # LoRA leaves no gradient of the head, so that two runs differ in tokens only
    def at(tokens: int, dtype: str, dims: ModelDimensions) -> int:
        trainer = {"micro_batch_tokens": tokens, "dtype": dtype, "lora": {"rank": 8}}
        return working(node(trainer=trainer), dims)

    def excess(dtype: str, dims: ModelDimensions) -> int:
        """What grows faster than the number of tokens, from 8,192 to 16,384."""
        low, middle, high = (at(tokens, dtype, dims) for tokens in (8192, 12288, 16384))
        return high - 2 * middle + low

    squares = 8192**2 - 2 * 12288**2 + 16384**2
    assert excess("bfloat16", SMALL) == 0
    # sdpa: a boolean and a number of four (two) bytes for each pair of positions
    assert excess("float32", SMALL) == 5 * squares
    assert excess("bfloat16", replace(SMALL, head_dim=512)) == 3 * squares


def test_on_cpu_the_probabilities_of_every_sequence_are_kept() -> None:
    def at(context: int, tokens: int = 2048, **trainer: Any) -> int:
        lengths = {"max_prompt_tokens": 64, "max_response_tokens": context - 64}
        run = small_run(
            Path("d"), lengths=lengths, trainer={"micro_batch_tokens": tokens, "lora": {"rank": 8}, **trainer}
        )
        assert run.trainer.dtype == "bfloat16" and run.context_tokens == context
        return working(run, SMALL)

    pairs = 2048 * 512 * SMALL.heads  # what 512 tokens more of context add
    plain = {"gradient_checkpointing": False}
    assert at(1024, **plain) - at(512, **plain) == pairs * (2 * SMALL.layers + 4)
    assert at(1024, gradient_checkpointing=True) - at(512, gradient_checkpointing=True) == pairs * (2 + 4)
    assert at(1024, 4096) - at(512, 4096) == 2 * (at(1024) - at(512)), "per token, not per pair of tokens"
