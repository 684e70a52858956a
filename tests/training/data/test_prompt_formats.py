"""Tokenizer classes, chat templates and end tokens of checkpoints as they are published, on tiny models made here."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.tokenizer import load_tokenizer
from tasks.llm.tokenizer_identity import tokenizer_identity
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_model
from tests.training.small_run import edit, example, settings, small_run, write_small_dataset
from training.config import PromptSettings, run_from
from training.data.model_files import ModelFiles, encode_prompts, open_model
from training.evaluation.held_out import opened_thinking
from training.preflight.check import inspect, report
from training.preflight.model_checks import end_token_problems, pair_problems, run_end_tokens
from training.preflight.self_tests import check_packed, check_prompts
from training.student.exported_files import PromptFiles, write_checkpoint

TEXT = "Solve 1 plus 2\nand box   the answer."
DATED = "{{ 'Today is ' + strftime_now('%d %B %Y') + '\\n' }}" + CHAT_TEMPLATE
END, TURN = 0, 2  # <|endoftext|> and <|im_end|> of the tiny models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def a_base_model(folder: Path) -> Path:
    """Change a copy of the tiny model to what Qwen3-*-Base has: responses end with <|endoftext|>."""
    edit(folder / "tokenizer_config.json", lambda data: data.update(eos_token="<|endoftext|>"))
    edit(folder / "config.json", lambda data: data.update(eos_token_id=END))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END, "do_sample": False}))
    return folder


def opened(folder: Path, role: str = "student", **prompt: Any) -> ModelFiles:
    return open_model(role, str(folder), PromptSettings(**prompt))


# --- tokenizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama", "qwen2", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize(
    "kind",
    [
        "LlamaTokenizerFast",
        "Qwen2Tokenizer",
        "Qwen2TokenizerFast",
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    ],
)
def test_the_tokenizer_is_the_one_that_transformers_users_get(folder: Path, model: str, kind: str) -> None:
    from transformers import AutoTokenizer

    edit(folder / "config.json", lambda data: data.update(model_type=model))
    edit(folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class=kind))
    found, expected = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert type(found) is type(expected)
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    if type(expected).__name__ == "LlamaTokenizer":
        with pytest.raises(
            UserError, match=r"loses white space, since LlamaTokenizer does not fit"
        ) as refused:
            opened(folder)
        assert "\n" not in str(refused.value)
        return
    files = opened(folder)
    assert files.identity == tokenizer_identity(str(folder), None, PROJECT_ROOT)
    assert files.tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert files.tokenizer.decode(files.tokenizer.encode(TEXT)) == TEXT


def test_different_ids_of_engine_and_training_are_refused_in_one_sentence() -> None:
    check_prompts(["a", "b"], [(1, 2), (3,)], [[1, 2], [3]])
    with pytest.raises(UserError, match="makes 2 ids of the prompt of row b and the training's 1") as refused:
        check_prompts(["a", "b"], [(1, 2), (3,)], [[1, 2], [3, 4]])
    assert "\n" not in str(refused.value)


def test_log_probabilities_that_packing_changes_are_refused() -> None:
    check_packed(0.01)
    for mismatch in (0.2, float("nan")):
        with pytest.raises(UserError, match="in the packed rows of an update differ by"):
            check_packed(mismatch)


# --- templates ---------------------------------------------------------------------------------------------------


def test_a_template_with_a_date_needs_one_and_keeps_it(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(DATED)
    model = opened(folder)
    with pytest.raises(UserError, match=r"contains the date, .*: set prompt\.date") as refused:
        encode_prompts(model, [TEXT], thinking=False)
    assert "\n" not in str(refused.value)
    day = datetime.date(2026, 2, 3)
    (ids,) = encode_prompts(model, [TEXT], thinking=False, day=day)
    assert model.tokenizer.decode(ids).startswith("Today is 03 February 2026\n<|im_start|>")
    assert encode_prompts(model, [TEXT], thinking=False, day=datetime.date(2026, 2, 4)) != [ids]


def test_the_date_and_the_template_are_part_of_the_run(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(DATED)
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])

    def fingerprint(**prompt: Any) -> str:
        models = {role: {"model": f"pocket/{role}"} for role in ("student", "teacher")}
        data = {"folder": str(dataset), "allow_mismatch": True}
        found = inspect(run_from(settings(dataset, prompt=prompt, dataset=data, **models), "test"))
        assert found.prepared is not None, found.problems
        return found.prepared.fingerprint

    made = [fingerprint(), fingerprint(chat_template=str(template), date="2026-02-03")]
    made.append(fingerprint(chat_template=str(template), date="2026-02-04"))
    template.write_text(DATED.replace("Today", "Now"))
    made.append(fingerprint(chat_template=str(template), date="2026-02-04"))
    assert len(set(made)) == 4
    assert fingerprint(chat_template=str(template), date="2026-02-04") == made[3]


def test_a_checkpoint_without_a_template_gets_the_given_one(folder: Path, tmp_path: Path) -> None:
    expected = encode_prompts(opened(folder), [TEXT], thinking=False)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"has no chat template: set prompt\.chat_template to a Jinja file"):
        opened(folder)
    given = tmp_path / "template.jinja"
    with pytest.raises(UserError, match=r"prompt\.chat_template: .* cannot be read"):
        opened(folder, chat_template=given)
    given.write_text(CHAT_TEMPLATE)
    student = opened(folder, chat_template=given)
    assert encode_prompts(student, [TEXT], thinking=False) == expected
    assert pair_problems(student, opened(folder, "teacher", chat_template=given), thinking=False) == []
    given.write_text("x" * (2**20 + 1))
    with pytest.raises(UserError, match=r"prompt\.chat_template: the chat template of .* has"):
        opened(folder, chat_template=given)


def test_thinking_that_the_template_opens_is_opened_for_the_grader_too(folder: Path) -> None:
    plain = opened(folder)
    (ids,) = encode_prompts(plain, [TEXT], thinking=False)
    assert opened_thinking(plain.tokenizer, ids) == ""
    closed = CHAT_TEMPLATE.replace("assistant\\n", "assistant\\n<think>\\n")
    (folder / "chat_template.jinja").write_text(closed.replace("<think>\\n\\n</think>\\n\\n", ""))
    deepseek = opened(folder)
    (ids,) = encode_prompts(deepseek, [TEXT], thinking=True)
    assert opened_thinking(deepseek.tokenizer, ids) == "<think>"


# --- end tokens --------------------------------------------------------------------------------------------------


def test_the_end_tokens_are_those_at_which_generate_stops(folder: Path) -> None:
    assert opened(folder).end_tokens == (TURN,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [TURN, END]}))
    assert opened(folder).end_tokens == (TURN, END)
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", lambda data: data.update(eos_token_id=END))
    assert opened(folder).end_tokens == (
        TURN,
        END,
    )  # config.json counts where there is no generation_config.json


def test_a_base_student_ends_with_its_teachers_token_too(tiny: Path, folder: Path) -> None:
    student, teacher = opened(a_base_model(folder)), opened(tiny, "teacher")
    assert pair_problems(student, teacher, thinking=False) == []
    assert run_end_tokens(student, [teacher], PromptSettings()) == (TURN, END)
    more = PromptSettings(end_tokens=("<|im_start|>",))
    assert end_token_problems(student, more) == []
    assert run_end_tokens(student, [teacher], more) == (TURN, END, 1)
    (problem,) = end_token_problems(student, PromptSettings(end_tokens=("<|eot|>",)))
    assert problem.startswith("prompt.end_tokens: '<|eot|>' is not a token of ")


def test_the_end_tokens_are_reported_before_the_run(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    found = inspect(small_run(dataset))
    assert found.prepared is not None and found.prepared.end_tokens == (1991,)
    assert "a response ends with <|im_end|> (1991)" in report(found.prepared)


def generated(folder: Path, forced: int) -> int:
    """Return how many tokens `generate` adds if every one of them is `forced`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def force(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = torch.full_like(scores, -1e4)
        scores[:, forced] = 0.0
        return scores

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder).encode("Solve")])
    made = model.generate(ids, max_new_tokens=5, logits_processor=[force], do_sample=False)
    return made.shape[1] - ids.shape[1]


def test_an_exported_student_stops_at_every_end_token(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = a_base_model(folder)
    assert generated(base, TURN) == 5, "the base model does not end at <|im_end|>"
    target = tmp_path / "student"
    target.mkdir()
    ends = PromptFiles(end_ids=(TURN, END), end_token="<|im_end|>", chat_template=DATED)
    weights = load_file(base / "model.safetensors")
    write_checkpoint(target, weights, source=base, dtype="bfloat16", prompt=ends)
    assert [generated(target, token) for token in (TURN, END, 5)] == [1, 1, 5]
    config, generation, tokenizer = (
        json.loads((target / name).read_text())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )
    assert (config["eos_token_id"], generation["eos_token_id"]) == (TURN, [TURN, END])
    assert tokenizer["eos_token"] == "<|im_end|>" and generation["do_sample"] is False
    assert load_tokenizer(str(target)).chat_template == DATED
    assert opened(target).end_tokens == (TURN, END)


def test_files_that_agree_already_are_copied_byte_for_byte(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = PROJECT_ROOT / "pocket/student"
    ends = PromptFiles(end_ids=(1991,), end_token="<|im_end|>")
    weights = load_file(source / "model.safetensors")
    write_checkpoint(tmp_path, weights, source=source, dtype="bfloat16", prompt=ends)
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
