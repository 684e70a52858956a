"""Rollouts saved with a checkpoint: those of the next step that were already sampled when the checkpoint was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.rollouts.engine import Generation

__all__ = ["read_generations", "write_generations"]

NAME = "rollouts.npz"


def write_generations(folder: Path, generations: Sequence[Generation]) -> None:
    """Write rollouts to `folder`, in order. If there are none, no file is written."""
    if not generations:
        return
    np.savez(
        folder / NAME,
        allow_pickle=False,
        lengths=np.array([len(one.tokens) for one in generations]),
        tokens=np.concatenate([one.tokens for one in generations]),
        logprobs=np.concatenate([one.logprobs for one in generations]),
        finish_reasons=np.array([one.finish_reason for one in generations]),
        versions=np.array([one.version for one in generations]),
    )


def read_generations(folder: Path) -> tuple[Generation, ...]:
    """Return exactly the rollouts written by `write_generations`; empty if there is no file."""
    if not (folder / NAME).is_file():
        return ()
    with np.load(folder / NAME) as saved:
        cuts = np.cumsum(saved["lengths"])[:-1]
        return tuple(
            Generation(tokens=tokens, logprobs=logprobs, finish_reason=str(reason), version=int(version))
            for tokens, logprobs, reason, version in zip(
                np.split(saved["tokens"], cuts),
                np.split(saved["logprobs"], cuts),
                saved["finish_reasons"],
                saved["versions"],
                strict=True,
            )
        )
