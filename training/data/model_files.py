"""Checkpoint folders of student and teacher: weight files, tokenizer, chat template, end tokens, encoded prompts.

Reads files only, and loads torch only for tokenizers that need it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from safetensors import safe_open

from prompts import load_prompt
from tasks.errors import UserError
from tasks.llm.chat_template_check import CLOCK, template_problem
from tasks.llm.chat_templates import dated_template, read_template
from tasks.llm.checkpoint_files import MAX_HEADER_BYTES, complete_file, header_bytes
from tasks.llm.prompt_tokens import PromptEncoder, UnsafeText
from tasks.llm.tokenizer import load_tokenizer, tokenizer_problem
from tasks.llm.tokenizer_identity import TokenizerIdentity, loaded_identity
from training.config import PromptSettings, project_path
from training.data.architectures import refusal

PROMPT = "teacher/solve"  # the student's prompt, which is also the one that the dataset was sampled with
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
AS_IN_THE_CHECKPOINT = PromptSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A complete checkpoint. `role` is the section of its setting (`<role>.model`), `vocab_size` the number of rows of the
    embedding (padded beyond the tokenizer's size), `end_tokens` the ids at which transformers and vLLM end a response, the
    tokenizer's own first, `tensors` the shape of every tensor in the weight files."""

    role: str
    folder: Path
    vocab_size: int
    max_positions: int
    tokenizer: Any  # of transformers
    identity: TokenizerIdentity
    end_tokens: tuple[int, ...]
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)


def open_model(role: str, model: str, prompt: PromptSettings = AS_IN_THE_CHECKPOINT) -> ModelFiles:
    """Check the checkpoint folder of the setting `<role>.model` and load its tokenizer, with the chat template of `prompt` if it
    has one.

    Raises `UserError`, naming the setting and the folder, if the folder, config.json, a weights file or the tokenizer is missing,
    truncated or invalid, or if the architecture is not supported.
    """
    folder = project_path(model)
    if not folder.is_dir():
        raise UserError(
            f"{role}.model: checkpoint folder {folder} does not exist: correct the path, or download the model to it"
        )
    config = _json(role, folder / "config.json")
    if (refused := refusal(config)) is not None:
        raise UserError(f"{role}.model: {folder / 'config.json'}: {refused}")
    tensors: dict[str, tuple[int, ...]] = {}
    for name in _weight_files(role, folder):
        tensors |= _read_shapes(role, folder / name)
    try:
        sizes = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{role}.model: {folder / 'config.json'} has no valid vocab_size and max_position_embeddings: copy the complete"
            " checkpoint there"
        ) from error
    tokenizer = _tokenizer(role, folder, prompt)
    return ModelFiles(
        role=role, folder=folder, vocab_size=sizes[0], max_positions=sizes[1], tokenizer=tokenizer,
        tensors=tensors, identity=loaded_identity(tokenizer), end_tokens=_end_tokens(role, folder, config, tokenizer),
    )  # fmt: skip


def given_template(prompt: PromptSettings) -> str | None:
    """Return the chat template of the setting `prompt.chat_template`, or None without it. Raises `UserError` as `read_template`
    does."""
    if prompt.chat_template is None:
        return None
    return read_template(project_path(prompt.chat_template), "prompt.chat_template")


def prompt_ids(
    tokenizer: Any, problems: Sequence[str], *, thinking: bool, day: date | None
) -> list[tuple[int, ...]]:
    """Return the token ids of each problem in the solve prompt, as `filled_prompt_ids` does."""
    return filled_prompt_ids(
        tokenizer, PROMPT, [{"problem": one} for one in problems], thinking=thinking, day=day
    )


def filled_prompt_ids(
    tokenizer: Any, name: str, values: Sequence[Mapping[str, str]], *, thinking: bool, day: date | None
) -> list[tuple[int, ...]]:
    """Return the token ids of a prompt with each of the values, in the tokenizer's chat template, generation prompt included.

    `day` is the date that a template gets from `strftime_now`. Without one such a template raises `UndatedTemplate`. Raises
    `UnsafeText`, and whatever the template raises.
    """
    prompt = load_prompt(name)
    template = tokenizer.get_chat_template()
    if day is not None:
        template = dated_template(template, day)
    encoder = PromptEncoder(tokenizer, chat_template=template, enable_thinking=thinking, **{CLOCK: _no_clock})
    return [tuple(encoder.encode(prompt, one)) for one in values]


class UndatedTemplate(Exception):
    """A chat template asks for the date, and no date was given."""


def _no_clock(_form: str) -> str:
    raise UndatedTemplate


def encode_prompts(
    model: ModelFiles, problems: Sequence[str], *, thinking: bool, day: date | None = None
) -> list[tuple[int, ...]]:
    """Return `prompt_ids` with the model's tokenizer. Apart from `day`, the ids are those that the dataset's engines build.

    Raises the errors of `encode_filled`.
    """
    return encode_filled(model, PROMPT, [{"problem": one} for one in problems], thinking=thinking, day=day)


def encode_filled(
    model: ModelFiles,
    name: str,
    values: Sequence[Mapping[str, str]],
    *,
    thinking: bool,
    day: date | None = None,
) -> list[tuple[int, ...]]:
    """Return `filled_prompt_ids` with the model's tokenizer.

    Raises `UserError` if the template fails, needs a `day`, or gives an empty prompt.
    """
    try:
        found = filled_prompt_ids(model.tokenizer, name, values, thinking=thinking, day=day)
    except UndatedTemplate as error:
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} contains the date, so that prompts would change from day to"
            " day: set prompt.date, such as the day on which the dataset was annotated"
        ) from error
    except UnsafeText as error:
        raise UserError(
            f"{model.role}.model: a problem or its reference contains a token of the chat template of {model.folder} ({error}):"
            " leave that problem out of the dataset"
        ) from error
    except Exception as error:  # a template is a program and may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} fails ({type(error).__name__}: {reason}): fix it, or use"
            " a checkpoint whose template works"
        ) from error
    if not all(found):
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} gives an empty prompt for a problem: fix it, or use a"
            " checkpoint whose template works"
        )
    return found


def _json(role: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{role}.model: {path.parent} has no {path.name}: copy the complete checkpoint there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{role}.model: {path} cannot be read ({error}): copy the complete checkpoint there"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{role}.model: {path} is not a JSON object: copy the complete checkpoint there")
    return data


def _weight_files(role: str, folder: Path) -> list[str]:
    """Return the names of all weight files, from the index if there is one."""
    if (folder / INDEX).is_file():
        names = _json(role, folder / INDEX).get("weight_map")
        if isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values()):
            return sorted(set(names.values()))
        raise UserError(
            f"{role}.model: {folder / INDEX} lists no weight files: copy the complete checkpoint there"
        )
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    raise UserError(
        f"{role}.model: {folder} has neither {WEIGHTS} nor {INDEX}: copy the complete checkpoint there"
    )


def _read_shapes(role: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Return the tensor shapes of a safetensors file.

    Only its header is read. It gives the length of the file, so that a truncated copy is detected.
    """
    if not path.exists():
        raise UserError(f"{role}.model: {path} is missing: copy the complete checkpoint there")
    with complete_file(path, "download the weights again", f"{role}.model"):
        if MAX_HEADER_BYTES < (length := header_bytes(path)) <= path.stat().st_size:
            raise UserError(
                f"{role}.model: {path} has a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read: copy the complete"
                " checkpoint there"
            )
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def _tokenizer(role: str, folder: Path, prompt: PromptSettings) -> Any:
    _json(role, folder / "tokenizer_config.json")  # its defects are named better here than by transformers
    given = given_template(prompt)
    if given is None and (wrong := template_problem(folder)) is not None:
        raise UserError(f"{role}.model: {wrong}")
    try:
        tokenizer = load_tokenizer(str(folder))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{role}.model: the tokenizer in {folder} cannot be loaded ({reason}): copy the complete checkpoint there"
        ) from error
    if (wrong := tokenizer_problem(tokenizer, str(folder))) is not None:
        raise UserError(f"{role}.model: {wrong}")
    if given is not None:
        tokenizer.chat_template = given
    if not tokenizer.chat_template:
        raise UserError(
            f"{role}.model: {folder} has no chat template: set prompt.chat_template to a Jinja file, or use a checkpoint that has"
            " one"
        )
    return tokenizer


def _end_tokens(role: str, folder: Path, config: Mapping[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """Return the tokenizer's end token and those of generation_config.json, which replaces config.json there."""
    path = folder / "generation_config.json"
    generation = _json(role, path) if path.is_file() else config
    listed = generation.get("eos_token_id")
    known = set(tokenizer.get_vocab().values())
    found = [tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])]
    return tuple(dict.fromkeys(one for one in found if one in known))
