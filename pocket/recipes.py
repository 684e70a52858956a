"""The recipes: size, data and schedule of each pocket model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pocket.data import ASSISTANT, HASTY_SOLVER, JUDGE, SOLVER
from pocket.variants import ALL, Variant

__all__ = ["POCKET", "RECIPES", "TOKENIZER", "WORK", "Recipe"]

POCKET: Final = Path(__file__).parent
"""Folder of the finished models, one subfolder each."""
WORK: Final = POCKET / ".work"
"""Folder of prepared data, the tokenizer and checkpoints of unfinished trainings; not part of the repository."""
TOKENIZER: Final = WORK / "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The size, data and schedule of one model.

    `examples` different examples of `kind` are prepared and repeated as often as `steps` requires; a step uses at most
    `tokens_per_step` tokens. The last `finish_share` of the steps uses as many examples of the kind `finish` instead, to
    change the style of a model that already has the skill. Learning rates increase over the first `warm_up` of the
    steps, stay constant, and decrease linearly to zero over the last `decay` (both are shares of the steps). `muon_rate`
    applies to the hidden matrices, `adam_rate` to the rest. `variant`: of a solver that knows some families only. `start`: the
    finished model whose weights the training starts from; None: random weights.
    """

    name: str
    kind: str
    examples: int
    steps: int
    hidden: int = 256
    mlp: int = 768
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    tokens_per_step: int = 8_192
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warm_up: float = 0.01
    decay: float = 0.6
    weight_decay: float = 0.01
    seed: int = 1
    finish: str | None = None
    finish_share: float = 0.0
    variant: Variant = ALL
    start: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of examples, in the order of their use."""
        return (self.kind,) if self.finish is None else (self.kind, self.finish)

    def phase(self, progress: float) -> int:
        """Return the index into `kinds` at `progress` in [0, 1]."""
        return int(self.finish is not None and progress >= 1.0 - self.finish_share)

    @property
    def digest(self) -> str:
        """Identity of the recipe. An unfinished training is resumed only with the same recipe."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:12]

    def rate(self, progress: float) -> float:
        """Return the share of the full learning rate at `progress` in [0, 1]."""
        return max(0.0, min(1.0, progress / self.warm_up + 0.01, (1.0 - progress) / self.decay))


RECIPES: Final[dict[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="teacher", kind=SOLVER, examples=160_000, steps=3_200),
        Recipe(name="assistant", kind=ASSISTANT, examples=140_000, steps=2_100),
        Recipe(name="judge", kind=JUDGE, examples=200_000, steps=2_400),
        Recipe(
            name="student", kind=SOLVER, finish=HASTY_SOLVER, finish_share=0.25, examples=160_000, steps=2_400,
            hidden=192, mlp=512, layers=3, heads=3, key_value_heads=3,
        ),
    )
}  # fmt: skip
"""The recipes, in the order in which `all` starts them, two at a time."""
