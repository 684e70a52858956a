"""Losses that compare whole sequences, as functions of their summed log-probabilities. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.errors import UserError
from training.algorithms.base import Floats, SequenceOutputs, Sequences, Source

__all__ = ["Preference"]

LOWEST_LOGPROB = -1e6
"""The least log-probability of a sequence, so that margins between sequences with an excluded token, which have -inf, are
finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """DPO (arXiv:2305.18290, Eq. 7) between the sequences of a prompt, times `weight`: the mean over all wrong rollouts of
    -w log sigmoid(beta (m_chosen - m_wrong)), where m is log p_student - log p_reference of a whole response and w the weight of
    the prompt. *Chosen* is a sequence of the first of the sources `chosen` that the prompt has: the dataset's solution, its first
    right rollout, a right response of the teacher. Wrong rollouts of a prompt without one form no pair; without any pair the loss
    is 0. Raises `ValueError` without rewards or a reference.

    Diagnostics: `pairs`, their number; of the pairs `preferred`, the share whose chosen sequence has the larger m, and
    `chosen_<source>`, the share of each source.
    """

    beta: float = 0.1
    weight: float = 1.0
    chosen: tuple[Source, ...] = ("solution", "rollout", "teacher")

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"the preference's beta is {self.beta}: give a number above 0")
        if not self.chosen or len(set(self.chosen)) < len(self.chosen):
            raise UserError(
                f"the preference chooses among {', '.join(self.chosen) or 'nothing'}: give at least one source, each once"
            )

    @property
    def needs(self) -> frozenset[Literal["rewards", "reference"]]:
        return frozenset({"rewards", "reference"})

    def __call__(self, sequences: Sequences) -> SequenceOutputs:
        if sequences.rewards is None or sequences.reference is None:
            raise ValueError("the preference needs rewards and a reference: the algorithm must ask for them")
        slopes = np.zeros(len(sequences.logprobs))
        pairs = self._pairs(sequences)
        if not pairs:
            return SequenceOutputs(loss=0.0, slopes=slopes, diagnostics={"pairs": 0.0})
        chosen, wrong = np.array(pairs).T
        given = np.maximum(sequences.logprobs, LOWEST_LOGPROB)
        margins = given - np.maximum(sequences.reference, LOWEST_LOGPROB)
        differences = self.beta * (margins[chosen] - margins[wrong])
        weights = 1.0 if sequences.weights is None else sequences.weights[wrong]
        factors = self.weight * weights * np.ones(len(pairs)) / len(pairs)
        pulls = factors * self.beta * np.exp(-np.logaddexp(0.0, differences))
        np.subtract.at(slopes, chosen, pulls)
        np.add.at(slopes, wrong, pulls)
        return SequenceOutputs(
            loss=float((factors * np.logaddexp(0.0, -differences)).sum()),
            slopes=slopes,
            diagnostics=_diagnostics(differences, [_sources(sequences)[index] for index in chosen]),
        )

    def _pairs(self, sequences: Sequences) -> list[tuple[int, int]]:
        """Return (chosen sequence of the group, wrong rollout) for every wrong rollout of a group that has a chosen one."""
        assert sequences.rewards is not None
        sources = _sources(sequences)
        best: dict[int, int] = {}
        for source in reversed(self.chosen):
            right = (i for i, one in enumerate(sources) if one == source and sequences.rewards[i] == 1.0)
            best |= {int(sequences.groups[index]): index for index in reversed(list(right))}
        return [
            (best[int(group)], index)
            for index, group in enumerate(sequences.groups)
            if sources[index] == "rollout" and sequences.rewards[index] != 1.0 and int(group) in best
        ]


def _sources(sequences: Sequences) -> Sequence[Source]:
    return sequences.sources or ("rollout",) * len(sequences.logprobs)


def _diagnostics(differences: Floats, sources: Sequence[Source]) -> dict[str, float]:
    shares = {f"chosen_{name}": sources.count(name) / len(sources) for name in dict.fromkeys(sources)}
    return {"pairs": float(len(sources)), "preferred": float((differences > 0).mean()), **shares}
