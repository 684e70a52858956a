"""Trackers that get the metrics of every step besides the run's own files (`report_to`): TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.errors import UserError

__all__ = ["Reporter", "open_reporters"]

PROJECT = "sure-math"
"""The project of Weights & Biases unless WANDB_PROJECT names another."""


class Reporter(Protocol):
    """A tracker of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Report the metrics of a step. A step of a continued run may be reported again."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder."""

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of Weights & Biases, named after the run's folder, with its files in `wandb/` of that folder. Account, project and
    mode are wandb's own: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline. Raises `UserError` if wandb does not start."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                dir=str(folder),
                id=folder.name,
                name=folder.name,
                resume="allow",
                config=dict(settings),
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UserError(
                f"report_to: wandb did not start ({' '.join(str(error).split())}): run `wandb login`, set WANDB_MODE=offline, or"
                " remove it"
            ) from error
        # steps that a continued run repeats: wandb drops values of a lower step of its own
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


def open_reporters(
    names: Sequence[str], folder: Path, *, first: int, settings: Mapping[str, Any]
) -> list[Reporter]:
    """Return the trackers of a run that continues at step `first` (1, 2, ...)."""
    found: list[Reporter] = []
    if "tensorboard" in names:
        found.append(TensorBoard(folder, first))
    if "wandb" in names:
        found.append(WeightsAndBiases(folder, settings))
    return found
