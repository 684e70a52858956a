"""The loss inputs of which a prompt with several teachers has one for each of them. No torch."""

from __future__ import annotations

BY_TEACHER = frozenset(
    {
        "teacher_logprobs", "teacher_ids", "teacher_sampled_logprobs", "teacher_entropy", "advantages", "term_weights",
    }
)  # fmt: skip
"""Names of fields of `training.losses.base.LossInputs`. For a mixture of n teachers they have the shape [T, n, ...]."""
