"""Rollouts as token sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.batches import TokenSequence
from training.rollouts.engine import Generation


def sequence(prompt: Sequence[int], generation: Generation) -> TokenSequence:
    """Join prompt and response into the sequence that student and teacher process."""
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int32), generation.tokens.astype(np.int32)])
    return TokenSequence(tokens=tokens, prompt_length=len(prompt))
