"""The settings of a run's teacher, or of its several teachers, part of `training.config`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tasks.settings import Settings, resource


class TeacherSettings(Settings):
    """The teacher and its backend: `in_process` runs the model's forward pass and takes the top k of its logits; `vllm` requests
    prompt_logprobs from an engine, which returns every entry as a Python object and is limited to small k unless `force`."""

    model: str = resource()  # checkpoint folder; identified by a hash of its files
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    backend: Literal["in_process", "vllm"] = "in_process"
    force: bool = resource(False)


class RoutedTeacher(TeacherSettings):
    """One of several teachers. `name`: in metrics, messages and the routing column. Its weights of the prompts are those of the
    dataset that it annotated: `annotation`, a folder with all problems of `dataset.folder` under the same ids, or without one
    `dataset.folder` itself. `weight_column` instead names a column of `dataset.folder` with its weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=24)
    annotation: Path | None = resource(None)  # identified by its manifest, or by its rows
    weight_column: str | None = None


class WeightRouting(Settings):
    """`lowest_entropy`: a prompt is taught by the teacher with the highest weight on it, the first of equal ones. `weighted`: by
    all teachers, in proportion to their weights."""

    kind: Literal["lowest_entropy", "weighted"]


class ColumnRouting(Settings):
    """A prompt is taught by the teacher whose name is in this column of `dataset.folder`."""

    kind: Literal["column"]
    column: str = Field(min_length=1)


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Routing = Annotated[
    Annotated[WeightRouting | ColumnRouting, Field(discriminator="kind")], BeforeValidator(_named)
]


def teachers_problem(
    teacher: TeacherSettings | None,
    teachers: Sequence[RoutedTeacher],
    routing: WeightRouting | ColumnRouting | None,
) -> str | None:
    """Return what is wrong with the settings of the teachers together, or None."""
    if bool(teachers) != (routing is not None):
        missing, given = ("routing", "teachers") if teachers else ("teachers", "routing")
        return f"{given} is set without {missing}: several teachers need both"
    if not teachers:
        return None
    if teacher is not None:
        return "teacher and teachers are both set: remove one of the two"
    names = [one.name for one in teachers]
    if len(names) < 2 or len(set(names)) < len(names):
        return f"teachers has the names {', '.join(names)}: give at least two teachers, each with a name of its own"
    return _annotation_problem(teachers, by_weight=isinstance(routing, WeightRouting))


def _annotation_problem(teachers: Sequence[RoutedTeacher], *, by_weight: bool) -> str | None:
    both = next((one for one in teachers if one.annotation is not None and one.weight_column), None)
    if both is not None:
        return f"teacher {both.name} has both annotation and weight_column: remove one of the two"
    bare = [one.name for one in teachers if one.annotation is None and one.weight_column is None]
    if by_weight and len(bare) > 1:
        return (
            f"teachers {bare[0]} and {bare[1]} have neither annotation nor weight_column, so that their weights would be equal:"
            " give all but one of the teachers one of them"
        )
    return None
