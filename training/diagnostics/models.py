"""The models of a diagnostic, checked before anything is generated, and their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prompts import MAX_VALUE_CHARS
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.llm.prompt_tokens import UnsafeText
from tasks.processes.machine import device_is_cpu
from training.data.model_files import PROMPT, ModelFiles, encode_filled, filled_prompt_ids, open_model
from training.diagnostics.settings import DiagnosticSettings
from training.preflight.model_checks import pair_problems

__all__ = ["check_pair", "check_view", "context_of", "dtype_of", "identity_of", "opened", "prompt_tokens"]

Dropped = Literal["text_too_long", "control_token"]


def dtype_of(settings: DiagnosticSettings) -> Literal["bfloat16", "float32"]:
    """Return the number format of weights and activations."""
    return settings.dtype or ("float32" if device_is_cpu() else "bfloat16")


def opened(setting: str, model: str) -> ModelFiles:
    """Return a checkpoint. Raises `UserError`, which begins with the name of the setting, if it cannot be used."""
    try:
        return open_model(setting, model)
    except UserError as error:
        raise UserError(str(error).replace(f"{setting}.model: ", f"{setting}: ", 1)) from error


def check_pair(student: ModelFiles, teacher: ModelFiles, settings: DiagnosticSettings) -> None:
    """Raise `UserError` if the teacher cannot score the student's tokens, or a chat template fails."""
    for one in (student, teacher):
        encode_filled(
            one, PROMPT, [{"problem": "1 + 1"}], thinking=settings.thinking, day=settings.template_date
        )
    problems = pair_problems(student, teacher, thinking=settings.thinking, day=settings.template_date)
    if problems:
        raise UserError(problems[0])


def check_view(teacher: ModelFiles, prompt: str, settings: DiagnosticSettings) -> None:
    """Raise `UserError` if the teacher's chat template does not show the answer of a privileged prompt."""
    values = [{"problem": "1 + 1", "answer": answer} for answer in ("2", "3")]
    first, second = encode_filled(
        teacher, prompt, values, thinking=settings.thinking, day=settings.template_date
    )
    if first == second:
        raise UserError(
            f"view: the chat template of {teacher.folder} does not show the answer in {prompt}: set another view"
        )


def identity_of(model: ModelFiles, settings: DiagnosticSettings) -> str:
    """Return the identity of a model with its number format and end tokens."""
    ends = ",".join(map(str, model.end_tokens))
    return f"{model_identity(str(model.folder), None, PROJECT_ROOT)}/{dtype_of(settings)}/{ends}"


def prompt_tokens(
    model: ModelFiles, prompt: str, values: Mapping[str, str], settings: DiagnosticSettings
) -> tuple[int, ...] | Dropped:
    """Return the token ids of a prompt, or why it cannot be built."""
    if any(len(one) > MAX_VALUE_CHARS for one in values.values()):
        return "text_too_long"
    try:
        found = filled_prompt_ids(
            model.tokenizer, prompt, [values], thinking=settings.thinking, day=settings.template_date
        )
    except UnsafeText:
        return "control_token"
    return found[0]


def context_of(model: ModelFiles, settings: DiagnosticSettings) -> int:
    """Return the longest sequence of a model."""
    return min(settings.context, model.max_positions)
