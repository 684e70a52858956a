"""The scores of a teacher, one kind at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data.batches import TokenSequence
from training.scorers.scores import ScoreRequest, TopK


def top_of(teacher: Any, chosen: Sequence[TokenSequence], k: int) -> list[TopK]:
    """Return the k most probable tokens of every response."""
    found = teacher.score(chosen, ScoreRequest(top_k=k))[0]
    assert all(one.sampled is one.states is one.entropy is None for one in found)
    return [one.top_k for one in found if one.top_k is not None]


def sampled_of(teacher: Any, chosen: Sequence[TokenSequence]) -> list[np.ndarray]:
    """Return the log-probabilities of every response's own tokens."""
    found = teacher.score(chosen, ScoreRequest(sampled=True))[0]
    assert all(one.top_k is one.states is one.entropy is None for one in found)
    return [one.sampled for one in found if one.sampled is not None]
