"""The settings of a run's training problems, part of `training.config`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tasks.settings import Settings, resource


class SourceSettings(Settings):
    """Problems that nobody annotated: a local file in any format that `make annotate` reads (docs/file-formats.md), or a split of
    a data set on the hub. The rows as they are read are part of the run's identity, the path is not.

    `columns` names the columns of the fields where they have other names; `a.b` is the entry b of the objects in column a, and an
    empty name leaves the field out.
    """

    path: Path | None = resource(None)
    hub_id: str | None = None
    config: str | tuple[str, ...] | None = (
        None  # one or several of the data set on the hub, like split and revision
    )
    split: str = "train"
    revision: str | None = None  # a commit; None: the newest, so that the rows may change between two starts
    columns: dict[Literal["problem", "answer", "solution", "id", "tier"], str] = Field(default_factory=dict)

    @property
    def configs(self) -> tuple[str | None, ...]:
        """The configurations of a data set on the hub; None is its only or default one."""
        return self.config if isinstance(self.config, tuple) else (self.config,)

    @model_validator(mode="after")
    def _one_place(self) -> SourceSettings:
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("give path (a local file) or hub_id (a data set on the hub), and not both")
        if self.path is not None and (self.config, self.split, self.revision) != (None, "train", None):
            raise ValueError(
                "config, split and revision belong to a data set on the hub, but path names a file: remove them"
            )
        return self


class DatasetSettings(Settings):
    """The problems to train on: `folder`, an exported dataset, or `source`, problems without annotation. The rows, and the
    fingerprint of a manifest, are part of the run's identity, paths are not."""

    folder: Path | None = resource(None)
    config: str = (
        "default"  # all rows, as in the papers; decontaminated: without those that overlap with a benchmark
    )
    split: str = "train"
    source: SourceSettings | None = None
    # Entropies and weights are those of the first 2, 4, 8 or 16 responses of the teacher; None: of all of them.
    samples: PositiveInt | None = None
    allow_mismatch: bool = False  # accept a manifest that names another teacher, tokenizer or chat template
    # auto: answers in a known form, such as a solution that ends in "#### 42" or has a box, are read as the final answer, and the
    # text around it is the solution if there is none; verbatim: they are taken as they are.
    answers: Literal["auto", "verbatim"] = "auto"
    # Number of problems with an answer that are not trained on but evaluated before and after; chosen by a hash of their texts.
    held_out: NonNegativeInt = 0
    # The answer that responses are graded against: the ground truth, and for rows without one nothing, the teacher's majority
    # answer, or (pocket problems only) the oracle's.
    labels: Literal["gold", "teacher_majority", "oracle"] = "teacher_majority"
    # The solution shown to a privileged teacher: the dataset's own, and for rows without one nothing, or a teacher's response.
    solutions: Literal["gold", "majority_sample"] = "majority_sample"
    # Rows of a source that cannot be used, that lack a label or a solution that is needed, or whose prompt is too long.
    without: Literal["refuse", "leave_out"] = "refuse"

    @model_validator(mode="after")
    def _one_dataset(self) -> DatasetSettings:
        if (self.folder is None) == (self.source is None):
            raise ValueError(
                "give folder (an exported dataset) or source (problems as they are), and not both"
            )
        if self.source is not None and (self.config, self.split) != ("default", "train"):
            raise ValueError(
                "config and split belong to a dataset in folder: write those of a data set on the hub into source"
            )
        if self.source is not None and self.samples is not None:
            raise ValueError(
                "samples chooses among the teacher's responses, which a source does not have: remove it"
            )
        return self
