"""Checks of student and teacher checkpoints: tensors, shared tokens, vocabulary and context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from training.config import PromptSettings
from training.data.model_files import ModelFiles, encode_prompts
from training.preflight.shapes import ModelDimensions, model_tensors

SHOWN = 3
"""How many of the tokens that differ are named."""
PROBE = "Let x = 3.14159, y = 27/8. Solve \\frac{x}{y} + 1,000 = z;   naïve\n\tÜbung, don't."


def tensor_problems(model: ModelFiles, dims: ModelDimensions) -> list[str]:
    """Return one problem if the weight files lack a tensor of a model of these dimensions, have one of a different shape, or have
    an unexpected one; the first such tensor is named.

    transformers would initialise such tensors randomly and only log it.
    """
    what = _tensor_difference(model.tensors, dims)
    if what is None:
        return []
    return [
        f"{model.role}.model: {model.folder} {what}, so weights and config.json belong to different models: copy the complete"
        " checkpoint there"
    ]


def _tensor_difference(found: Mapping[str, tuple[int, ...]], dims: ModelDimensions) -> str | None:
    known = {"lm_head.weight"}  # optional in the files if tied to the embedding
    for name, size in model_tensors(dims):
        if name not in found:
            return f"has no tensor {name}"
        if found[name] != size:
            return f"has {name} of shape {list(found[name])}, but its config.json requires {list(size)}"
        known.add(name)
    extra = sorted(found.keys() - known)
    return f"has a tensor {extra[0]} that does not exist in a model of its config.json" if extra else None


def student_problems(student: ModelFiles, dims: ModelDimensions) -> list[str]:
    """Return one problem if the model can be a teacher but not a student."""
    if dims.experts is None:
        return []
    return [
        f"student.model: {student.folder} is a mixture of experts, which is supported as a teacher only: choose a dense student"
    ]


def pair_problems(
    student: ModelFiles, teacher: ModelFiles, *, thinking: bool, day: date | None = None
) -> list[str]:
    """Return the reasons why the teacher cannot score the student's tokens, one sentence each.

    The teacher's embedding may be padded further than the student's. Raises `UserError` if a chat template fails.
    """
    difference = _vocabulary_difference(student, teacher)
    if difference is not None:
        return [difference]
    problems = _end_problems(student, teacher)
    needed = max(student.tokenizer.get_vocab().values()) + 1
    short = [model for model in (student, teacher) if model.vocab_size < needed]
    for model in short:
        problems.append(
            f"the {model.role}'s tokenizer has {needed:,} tokens, but its embedding only {model.vocab_size:,} rows"
            f" ({model.folder}): use the tokenizer that the checkpoint was trained with"
        )
    if short:
        return problems
    problems += _row_problems(student, teacher)
    shown = [encode_prompts(model, [PROBE], thinking=thinking, day=day) for model in (student, teacher)]
    if shown[0] != shown[1]:
        problems.append(
            f"student and teacher build different prompts from the same problem ({student.folder} and {teacher.folder}"
            " have different chat templates): set prompt.chat_template, or choose a pair with the same template"
        )
    return problems


def _end_problems(student: ModelFiles, teacher: ModelFiles) -> list[str]:
    """Return one problem for each model without an end token."""
    return [
        f"{model.role}.model: {model.folder} has no end token: set eos_token in its tokenizer_config.json, or use a checkpoint"
        " that has one"
        for model in (student, teacher)
        if not model.end_tokens
    ]


def run_end_tokens(
    student: ModelFiles, teachers: Sequence[ModelFiles], prompt: PromptSettings
) -> tuple[int, ...]:
    """Return the ids that end a response: the teachers', which the student learns to end with, then the student's own and those
    of `prompt.end_tokens`. The first is exported as the end token of the student's tokenizer."""
    first = [token for teacher in teachers for token in teacher.end_tokens]
    given = student.tokenizer.convert_tokens_to_ids(list(prompt.end_tokens))
    return tuple(dict.fromkeys([*first, *student.end_tokens, *given]))


def end_token_problems(student: ModelFiles, prompt: PromptSettings) -> list[str]:
    """Return one problem for each of `prompt.end_tokens` that is not a token of the student."""
    known = student.tokenizer.get_vocab()
    return [
        f"prompt.end_tokens: {token!r} is not a token of {student.folder}: name one of its tokens, such as"
        f" {student.tokenizer.eos_token!r}"
        for token in prompt.end_tokens
        if token not in known
    ]


def _row_problems(student: ModelFiles, teacher: ModelFiles) -> list[str]:
    """Return one problem if the student's embedding is larger than the teacher's: rollout engines sample, and normalise, over all
    of the student's ids, so they would sample ids that the teacher does not have."""
    more = student.vocab_size - teacher.vocab_size
    if more <= 0:
        return []
    return [
        f"the student's embedding has {student.vocab_size:,} rows, {more:,} more than the teacher's, which cannot score those"
        " tokens: cut the student's embedding (and vocab_size) to the teacher's size, or choose another pair"
    ]


def shared_vocabulary(*models: ModelFiles) -> int:
    """Return the size to which all models' logits are cut: Qwen pads embeddings beyond the tokenizer by different amounts."""
    return min(model.vocab_size for model in models)


def top_k_problems(student: ModelFiles, teacher: ModelFiles, top_k: int | None) -> list[str]:
    """Return one problem if `top_k` exceeds the vocabulary that the models share; None: no top k is used."""
    shared = shared_vocabulary(student, teacher)
    if top_k is None or top_k <= shared:
        return []
    return [
        f'algorithm.top_k is {top_k:,}, but the models share only {shared:,} tokens: lower it, or set "full"'
    ]


def context_problems(model: ModelFiles, tokens: int) -> list[str]:
    """Return one problem if the model's context is shorter than `tokens`."""
    if model.max_positions >= tokens:
        return []
    return [
        f"a sequence may have {tokens:,} tokens (lengths.max_prompt_tokens + max_response_tokens), but the {model.role}'s"
        f" context ends at {model.max_positions:,}: lower the lengths"
    ]


def scoring_problems(student: ModelFiles, teacher: ModelFiles, tokens: int) -> list[str]:
    """Return the reasons why a vLLM teacher cannot score sequences of `tokens` tokens.

    vLLM normalises over all ids of its model, and generates one token after every sequence.
    """
    problems = []
    if teacher.vocab_size > student.vocab_size:
        problems.append(
            f"teacher.backend vllm takes the softmax over all {teacher.vocab_size:,} ids of the teacher, but the student has"
            f" {student.vocab_size:,}: choose teacher.backend in_process, or a pair with embeddings of the same size"
        )
    if teacher.max_positions <= tokens:
        problems.append(
            f"teacher.backend vllm generates one token after each sequence of up to {tokens:,} tokens, but the teacher's context"
            f" ends at {teacher.max_positions:,}: lower the lengths"
        )
    return problems


def _vocabulary_difference(student: ModelFiles, teacher: ModelFiles) -> str | None:
    if student.identity.tokenizer == teacher.identity.tokenizer:
        return None
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    differing = sorted(
        (token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)),
        key=lambda token: (min(ours.get(token, len(ours)), theirs.get(token, len(theirs))), token),
    )
    if differing:
        where = "; ".join(
            f"{token!r} has id {ours.get(token, 'none')} in the student and {theirs.get(token, 'none')} in the teacher"
            for token in differing[:SHOWN]
        )
        return (
            f"student and teacher have different vocabularies, {len(differing):,} tokens differ ({where}"
            f"{'; ...' if len(differing) > SHOWN else ''}): choose a pair with the same tokenizer"
        )
    cut = [model.tokenizer.encode(PROBE, add_special_tokens=False) for model in (student, teacher)]
    if cut[0] == cut[1]:
        return None
    return "student and teacher have the same tokens but tokenize text differently: choose a pair with the same tokenizer.json"
