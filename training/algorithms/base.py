"""What an algorithm declares: the quantities of a rollout batch, the losses and their weights. NumPy only.

Shapes: S sequences of a batch (rollouts), T response tokens of all of them, concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.losses.base import TokenLoss

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is known of some rollouts before their update; the rollouts of a group (of one drawn prompt) are never split.

    `lengths` int64 [S]: response tokens of each rollout. `groups` int64 [S]: the index of its group. `rewards` float64 [S], or
    None without rewards. `values`: arrays [T] by the field names of `training.losses.base.LossInputs`.
    """

    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    rewards: Floats | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)


Advantages = Callable[[Columns], Floats]
"""The rollouts -> signed advantages of their tokens, float64 [T]."""

TokenWeight = Callable[[Columns], Floats]
"""The rollouts -> a factor of each token's coefficient, float64 [T]."""


class Loss(Protocol):
    """A loss by its settings, without torch."""

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `LossInputs` that it reads besides `sampled_ids`."""
        ...

    def build(self) -> TokenLoss:
        """Return its implementation; imports torch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A loss and its weight in the sum of an algorithm's losses."""

    loss: Loss
    weight: float = 1.0
