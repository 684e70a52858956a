"""Checkpoint folders as a run finds them: whole or not, their tokenizer and chat template, and whether student and teacher
speak the same tokens. Reads files only; the tokenizer classes of transformers work without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prompts import load_prompt
from tasks.core.errors import UserError
from tasks.io.tokenizer_identity import TokenizerIdentity
from training.config import project_path
from training.shapes import Shape

PROMPT = "teacher/solve"  # what the student is asked, and the dataset's teacher was
PROBE = "Let x = 3.14159, y = 27/8. Solve \\frac{x}{y} + 1,000 = z;   naïve\n\tÜbung, don't."
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
MAX_HEADER = 100_000_000  # bytes; the format's own limit
QWEN_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A whole checkpoint: `role` names its setting, `vocab_size` is that of the embedding (padded above the tokenizer's),
    `tensors` are the shapes in its weight files."""

    role: str
    folder: Path
    vocab_size: int
    max_positions: int
    tokenizer: Any  # PreTrainedTokenizerFast or Qwen2Tokenizer
    identity: TokenizerIdentity
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)


def open_model(role: str, model: str) -> ModelFiles:
    """Check the checkpoint folder that the setting `<role>.model` names, and load its tokenizer.

    `UserError`, naming setting and folder, when the folder, config.json, a weights file (or a part of one) or the tokenizer
    is missing or broken.
    """
    folder = project_path(model)
    if not folder.is_dir():
        raise UserError(
            f"{role}.model: there is no checkpoint folder {folder}: correct the path, or download the model to it"
        )
    config = _json(role, folder / "config.json")
    tensors: dict[str, tuple[int, ...]] = {}
    for name in _weight_files(role, folder):
        tensors |= _read_shapes(role, folder / name)
    try:
        sizes = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{role}.model: {folder / 'config.json'} gives no usable vocab_size and max_position_embeddings: put the whole"
            " checkpoint there"
        ) from error
    tokenizer = _tokenizer(role, folder)
    return ModelFiles(
        role=role, folder=folder, vocab_size=sizes[0], max_positions=sizes[1], tokenizer=tokenizer,
        tensors=tensors, identity=TokenizerIdentity(
            tokenizer=_short_hash(tokenizer.backend_tokenizer.to_str()),
            chat_template=_short_hash(str(tokenizer.chat_template)),
        ),
    )  # fmt: skip


def encode_prompts(model: ModelFiles, problems: Sequence[str], *, thinking: bool) -> list[tuple[int, ...]]:
    """Token ids of each problem under the solve prompt and the model's chat template, generation prompt included: the same
    ids that the dataset's engines build. `UserError` when the template fails or a prompt comes out empty."""
    prompt, tokenizer = load_prompt(PROMPT), model.tokenizer
    asked = [prompt.render(problem=problem) for problem in problems]
    if not asked:
        return []
    try:
        texts = [
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
            for messages in asked
        ]
        found = [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    except Exception as error:  # a template is a program: it raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} fails ({type(error).__name__}: {reason}): mend it, or use"
            " a checkpoint whose template works"
        ) from error
    if not all(found):
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} makes an empty prompt of a problem: mend it, or use a"
            " checkpoint whose template works"
        )
    return found


def tensor_problems(model: ModelFiles, shape: Shape) -> list[str]:
    """A sentence when the weight files lack a tensor of a model of this shape, hold one of another shape (what then does not
    load starts from random values, without a word), or hold one that is none of the model's; it names the first."""
    what = _tensor_difference(model.tensors, shape)
    if what is None:
        return []
    return [
        f"{model.role}.model: {model.folder} {what}, so weights and config.json are not of one model: put the whole checkpoint"
        " there"
    ]


def _tensor_difference(found: Mapping[str, tuple[int, ...]], shape: Shape) -> str | None:
    known = {"lm_head.weight"}  # where it is tied, some files hold it and some do not
    for name, size in _expected_tensors(shape):
        if name not in found:
            return f"has no tensor {name}"
        if found[name] != size:
            return f"has {name} of shape {list(found[name])} where its config.json says {list(size)}"
        known.add(name)
    extra = sorted(found.keys() - known)
    return f"has a tensor {extra[0]} that its config.json knows nothing of" if extra else None


def _expected_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a dense Qwen2 or Qwen3, as transformers writes it."""
    h, query, key, inner = shape.hidden, shape.query, shape.key, shape.intermediate
    yield "model.embed_tokens.weight", (shape.vocab, h)
    yield "model.norm.weight", (h,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, h)
    qwen3 = shape.kind == "qwen3"
    biased = "qkvo" if qwen3 and shape.attention_bias else "" if qwen3 else "qkv"
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (h,)
        yield f"{at}.post_attention_layernorm.weight", (h,)
        for name, size in {"q": (query, h), "k": (key, h), "v": (key, h), "o": (h, query)}.items():
            yield f"{at}.self_attn.{name}_proj.weight", size
            if name in biased:
                yield f"{at}.self_attn.{name}_proj.bias", size[:1]
        for name in ("q_norm", "k_norm") if qwen3 else ():
            yield f"{at}.self_attn.{name}.weight", (shape.head_dim,)
        for name, size in {"gate": (inner, h), "up": (inner, h), "down": (h, inner)}.items():
            yield f"{at}.mlp.{name}_proj.weight", size


def pair_problems(student: ModelFiles, teacher: ModelFiles, *, thinking: bool) -> list[str]:
    """Why the teacher cannot score the student's tokens, one sentence each. The teacher's embedding may be padded further than
    the student's. `UserError` when a chat template fails."""
    difference = _vocabulary_difference(student, teacher)
    if difference is not None:
        return [difference]
    problems = _end_problems(student, teacher)
    needed = max(student.tokenizer.get_vocab().values()) + 1
    short = [model for model in (student, teacher) if model.vocab_size < needed]
    for model in short:
        problems.append(
            f"the {model.role}'s tokenizer has {needed:,} tokens and its embedding only {model.vocab_size:,}"
            f" ({model.folder}): use the tokenizer that the checkpoint was trained with"
        )
    if short:
        return problems
    problems += _row_problems(student, teacher)
    shown = [encode_prompts(model, [PROBE], thinking=thinking) for model in (student, teacher)]
    if shown[0] != shown[1]:
        problems.append(
            f"student and teacher turn the same problem into different prompts ({student.folder} and {teacher.folder}"
            " differ in their chat template): choose a pair with the same template"
        )
    return problems


def _end_problems(student: ModelFiles, teacher: ModelFiles) -> list[str]:
    """Rollouts end with the student's end token, and the teacher must be one that ends there too."""
    nameless = [model for model in (student, teacher) if model.tokenizer.eos_token_id is None]
    if nameless:
        return [
            f"{model.role}.model: the tokenizer of {model.folder} has no end token: name its eos_token in tokenizer_config.json,"
            " or use a checkpoint that does"
            for model in nameless
        ]
    ours, theirs = student.tokenizer, teacher.tokenizer
    if ours.eos_token_id == theirs.eos_token_id:
        return []
    return [
        f"the student ends a response with {ours.eos_token} ({ours.eos_token_id}) and the teacher with {theirs.eos_token}"
        f" ({theirs.eos_token_id}): choose a student whose tokenizer ends as the teacher's does (base and instruct"
        " checkpoints differ here)"
    ]


def _row_problems(student: ModelFiles, teacher: ModelFiles) -> list[str]:
    """An engine samples from the whole of the student's embedding, and records log-probabilities over all of it: it would draw
    ids that the teacher does not have."""
    more = student.vocab_size - teacher.vocab_size
    if more <= 0:
        return []
    return [
        f"the student's embedding has {student.vocab_size:,} rows, {more:,} more than the teacher's, which could not score their"
        " tokens: cut the student's embedding (and vocab_size) to the teacher's size, or choose another pair"
    ]


def shared_vocabulary(student: ModelFiles, teacher: ModelFiles) -> int:
    """Size to which both models' logits are cut: Qwen pads embeddings beyond the tokenizer, by different amounts."""
    return min(student.vocab_size, teacher.vocab_size)


def top_k_problems(student: ModelFiles, teacher: ModelFiles, top_k: int | Literal["full"]) -> list[str]:
    """A sentence when the models share fewer tokens than the objective asks the teacher for."""
    shared = shared_vocabulary(student, teacher)
    if top_k == "full" or top_k <= shared:
        return []
    return [f'objective.top_k is {top_k:,} and the models share {shared:,} tokens: lower it, or give "full"']


def context_problems(student: ModelFiles, teacher: ModelFiles, tokens: int) -> list[str]:
    """A sentence for each model whose positions end before a sequence of `tokens` does."""
    return [
        f"a sequence may have {tokens:,} tokens (lengths.max_prompt_tokens + max_response_tokens), but the {model.role}'s"
        f" context ends at {model.max_positions:,}: lower the lengths"
        for model in (student, teacher)
        if model.max_positions < tokens
    ]


def scoring_problems(student: ModelFiles, teacher: ModelFiles, tokens: int) -> list[str]:
    """Why a vLLM engine cannot score sequences of `tokens` in the teacher's place: it normalises over all ids of its model, and
    generates one token after every sequence."""
    problems = []
    if teacher.vocab_size > student.vocab_size:
        problems.append(
            f"teacher.engine vllm takes the softmax over all {teacher.vocab_size:,} ids of the teacher, and the student has"
            f" {student.vocab_size:,}: choose teacher.engine in_process, or a pair with embeddings of one size"
        )
    if teacher.max_positions <= tokens:
        problems.append(
            f"teacher.engine vllm generates one token after a sequence, which may have {tokens:,}, and the teacher's context"
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
        token = differing[0]
        where = (
            f"{token!r} is number {ours.get(token)} for the student and {theirs.get(token)} for the teacher"
        )
        return (
            f"student and teacher have different vocabularies ({where}, {len(differing):,} tokens differ): choose a pair with"
            " the same tokenizer"
        )
    cut = [model.tokenizer.encode(PROBE, add_special_tokens=False) for model in (student, teacher)]
    if cut[0] == cut[1]:
        return None
    return "student and teacher have the same tokens but cut a text differently: choose a pair with the same tokenizer.json"


def _json(role: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{role}.model: {path.parent} lacks {path.name}: put the whole checkpoint there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{role}.model: {path} cannot be read ({error}): put the whole checkpoint there"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{role}.model: {path} holds no object: put the whole checkpoint there")
    return data


def _weight_files(role: str, folder: Path) -> list[str]:
    """Names of all weight files, by the index where there is one."""
    if (folder / INDEX).is_file():
        names = _json(role, folder / INDEX).get("weight_map")
        if isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values()):
            return sorted(set(names.values()))
        raise UserError(f"{role}.model: {folder / INDEX} names no weights: put the whole checkpoint there")
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    raise UserError(
        f"{role}.model: {folder} holds no {WEIGHTS} (nor {INDEX}): put the whole checkpoint there"
    )


def _read_shapes(role: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, from its header, which also says how long the file must be: a half-written
    copy is seen without reading it."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(size, MAX_HEADER)))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + size + max(entry["data_offsets"][1] for entry in entries.values())
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"{role}.model: {path} is missing: put the whole checkpoint there") from error
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{role}.model: {path} is no safetensors file: fetch the weights again") from error
    if found != expected:
        raise UserError(
            f"{role}.model: {path} has {found:,} bytes instead of {expected:,}: fetch the weights again"
        )
    return shapes


def _tokenizer(role: str, folder: Path) -> Any:
    """The tokenizer as `AutoTokenizer` loads it for Qwen checkpoints, without the torch that AutoTokenizer imports."""
    import transformers

    settings = _json(role, folder / "tokenizer_config.json")
    named = settings.get("tokenizer_class")
    kind: Any = getattr(transformers, named if named in QWEN_TOKENIZERS else "PreTrainedTokenizerFast")
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{role}.model: the tokenizer in {folder} cannot be loaded ({reason}): put the whole checkpoint there"
        ) from error
    if not tokenizer.chat_template:
        raise UserError(f"{role}.model: {folder} has no chat template: use a checkpoint that has one")
    return tokenizer


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
