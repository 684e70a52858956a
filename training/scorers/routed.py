"""The scores of a part of a rollout batch by several teachers, each of which scores some of its sequences. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from training.scorers.scores import Scores, TopK

__all__ = ["Pending", "RoutedScores"]


class Pending(Protocol):
    """Pending scores of some sequences."""

    def get(self) -> tuple[list[Scores], float]:
        """Wait, and return the scores of each sequence and the seconds that they took."""
        ...


class RoutedScores:
    """The pending scores of `count` sequences by several teachers. `calls`: for each teacher the places of the sequences that it
    scores, ascending, and their pending scores, None if it scores none. Every sequence has at least one teacher."""

    def __init__(self, calls: Sequence[tuple[Sequence[int], Pending | None]], count: int) -> None:
        self._calls, self._count = tuple(calls), count

    def of(self, teacher: int) -> list[Scores]:
        """Return the scores of every sequence by one teacher, in the place of those that it does not give unknown ones."""
        return [
            _unknown(one) if own is None else own
            for one, own in zip(self.get()[0], self._given(teacher), strict=True)
        ]

    def get(self) -> tuple[list[Scores], float]:
        """Return the scores of every sequence by its first teacher, and the seconds of all teachers together."""
        found: dict[int, Scores] = {}
        for teacher in range(len(self._calls)):
            given = enumerate(self._given(teacher))
            found = {place: one for place, one in given if one is not None} | found
        seconds = sum(call.get()[1] for _, call in self._calls if call is not None)
        return [found[place] for place in range(self._count)], seconds

    def _given(self, teacher: int) -> list[Scores | None]:
        found: list[Scores | None] = [None] * self._count
        places, call = self._calls[teacher]
        for place, one in zip(places, [] if call is None else call.get()[0], strict=True):
            found[place] = one
        return found


def _unknown(like: Scores) -> Scores:
    """Return scores of the same shapes: NaN, and a top k without probability."""
    top = like.top_k
    if top is not None:
        ids = None if top.ids is None else np.zeros_like(top.ids)
        top = TopK(logprobs=np.full_like(top.logprobs, -np.inf), ids=ids)
    return Scores(
        sampled=None if like.sampled is None else np.full_like(like.sampled, np.nan),
        top_k=top,
        entropy=None if like.entropy is None else np.full_like(like.entropy, np.nan),
    )
