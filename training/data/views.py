"""What a scorer is shown before a response: the problem alone, or with its answer or solution (a privileged view)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

from tasks.errors import UserError
from training.data.model_files import PROMPT, ModelFiles, encode_filled
from training.data.references import Need, References
from training.data.rows import TrainingRow

PROMPTS: Final[Mapping[str, str]] = {
    "plain": PROMPT,
    "answer": "teacher/solve_with_answer",
    "answer_in_system": "teacher/solve_with_answer_in_system",
    "solution": "teacher/solve_with_solution",
    "solution_in_system": "teacher/solve_with_solution_in_system",
}
"""Name of each view -> name of its prompt."""
NEEDS: Final[Mapping[str, Need | None]] = {
    "plain": None, "answer": "label", "answer_in_system": "label", "solution": "solution", "solution_in_system": "solution",
}  # fmt: skip
"""Name of each view -> what of a row's reference it shows."""
_VARIABLES: Final[Mapping[Need, str]] = {"label": "answer", "solution": "solution"}  # in the prompts


def view_prompts(
    model: ModelFiles,
    view: str,
    rows: Sequence[TrainingRow],
    references: References,
    *,
    thinking: bool,
    day: date | None = None,
) -> list[tuple[int, ...]]:
    """Return the token ids of each row's prompt in a view, by the model's tokenizer and chat template.

    `references` are those of `rows`. The ids of the view `plain` are `encode_prompts`. Raises `ValueError` for a row whose
    reference lacks what the view shows, and `UserError` as `encode_filled` does, or if the chat template does not show the
    reference, as one that ignores system messages.
    """
    need = NEEDS[view]
    if need is not None:
        _check_template(model, view, need, thinking=thinking, day=day)
    values = [
        _values(row, None if need is None else getattr(reference, need), need)
        for row, reference in zip(rows, references.rows, strict=True)
    ]
    return encode_filled(model, PROMPTS[view], values, thinking=thinking, day=day)


def _values(row: TrainingRow, shown: str | None, need: Need | None) -> dict[str, str]:
    if need is None:
        return {"problem": row.text}
    if shown is None:
        raise ValueError(f"row {row.id} has no {need}: leave it out before its prompt is made")
    return {"problem": row.text, _VARIABLES[need]: shown}


def _check_template(model: ModelFiles, view: str, need: Need, *, thinking: bool, day: date | None) -> None:
    """Raise `UserError` if prompts that differ in the reference alone are equal."""
    pair = [{"problem": "What is 1 + 1?", _VARIABLES[need]: text} for text in ("2", "3")]
    first, second = encode_filled(model, PROMPTS[view], pair, thinking=thinking, day=day)
    if first == second:
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} does not show the {_VARIABLES[need]} of the prompt"
            f" {PROMPTS[view]}, possibly because it ignores system messages: use a chat template that has them"
        )


def long_prompts(prompts: Sequence[Sequence[int]], response_tokens: int, limit: int) -> tuple[int, ...]:
    """Return the indices of the prompts that have more than `limit` tokens together with a response."""
    return tuple(index for index, ids in enumerate(prompts) if len(ids) + response_tokens > limit)


def long_prompt_problems(
    rows: Sequence[TrainingRow],
    prompts: Sequence[Sequence[int]],
    view: str,
    *,
    response_tokens: int,
    limit: int,
    limit_name: str,
) -> list[str]:
    """Return one problem, naming the longest prompt of a view, if any prompt and a response exceed `limit` tokens. Pure.

    `limit_name` describes the limit, such as "the context of teacher.model".
    """
    long = long_prompts(prompts, response_tokens, limit)
    if not long:
        return []
    worst = max(long, key=lambda index: (len(prompts[index]), rows[index].id))
    return [
        f"row {rows[worst].id} has a prompt of {len(prompts[worst]):,} tokens in the view {view}: with a response of"
        f" lengths.max_response_tokens ({response_tokens:,}) that is more than {limit_name} ({limit:,}; {len(long):,} of"
        f" {len(rows):,} rows exceed it): lower lengths.max_response_tokens, set dataset.without to leave_out, or remove these"
        " rows from the dataset"
    ]
