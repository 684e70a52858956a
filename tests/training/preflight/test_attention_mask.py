"""The dense attention mask of packed rows is planned where attention needs one, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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


def test_on_cpu_there_is_no_mask_either() -> None:
    low, middle, high = (
        working(small_run(Path("d"), trainer={"micro_batch_tokens": tokens, "lora": {"rank": 8}}), SMALL)
        for tokens in (1024, 2048, 3072)
    )
    assert high - middle == middle - low > 0
