"""The recipes: size, data and schedule of each pocket model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pocket.data import ASSISTANT, JUDGE, PRIVILEGED, SOLVER

__all__ = ["POCKET", "RECIPES", "TOKENIZER", "WORK", "Leg", "Recipe"]

POCKET: Final = Path(__file__).parent
"""The finished models lie here, one folder each."""
WORK: Final = POCKET / ".work"
"""Prepared data, the tokenizer and the state of unfinished trainings; not part of the repository."""
TOKENIZER: Final = WORK / "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One stretch of a training, with data and a schedule of its own.

    `examples` different examples are prepared and repeated as often as `steps` needs; a step sees at most
    `tokens_per_step` tokens. Rates rise over the first `warm_up` of the leg, stay, and fall linearly to zero over
    its last `decay` (both shares of the leg). `muon_rate` is for the hidden matrices, `adam_rate` for the rest.
    """

    kind: str
    examples: int
    steps: int
    tokens_per_step: int = 8_192
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warm_up: float = 0.01
    decay: float = 0.6

    def rate(self, progress: float) -> float:
        """Share of the full learning rate at `progress` in [0, 1]."""
        return max(0.0, min(1.0, progress / self.warm_up + 0.01, (1.0 - progress) / self.decay))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one model is made: its size, the finished model whose weights it starts with (if any), and its legs."""

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    key_value_heads: int
    legs: tuple[Leg, ...]
    start: str | None = None
    weight_decay: float = 0.01
    seed: int = 1

    @property
    def digest(self) -> str:
        """Identity of the recipe: an unfinished training is continued only under the recipe it began with."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:12]


RECIPES: Final[dict[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="teacher", hidden=256, mlp=768, layers=4, heads=4, key_value_heads=2,
            legs=(
                Leg(kind=SOLVER, examples=144_000, steps=2_800),
                Leg(kind=PRIVILEGED, examples=44_000, steps=700, muon_rate=0.01, adam_rate=1.5e-3,
                    warm_up=0.04, decay=0.96),
            ),
        ),
        Recipe(
            name="assistant", hidden=256, mlp=768, layers=4, heads=4, key_value_heads=2,
            legs=(Leg(kind=ASSISTANT, examples=160_000, steps=3_000),),
        ),
        Recipe(
            name="student", hidden=192, mlp=512, layers=3, heads=3, key_value_heads=3,
            legs=(Leg(kind=SOLVER, examples=144_000, steps=800),),
        ),
        Recipe(
            name="judge", hidden=256, mlp=768, layers=4, heads=4, key_value_heads=2, start="assistant",
            legs=(
                Leg(kind=JUDGE, examples=50_000, steps=1_200, tokens_per_step=4_096, muon_rate=0.015,
                    adam_rate=2e-3, warm_up=0.04, decay=0.96),
            ),
        ),
    )
}  # fmt: skip
"""In the order in which `all` starts them, two at a time; the judge waits for the assistant."""
