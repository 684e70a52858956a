"""The tokenizer of the pocket models: built from a small corpus, and the included one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pocket import world
from pocket.data import PROMPTS
from pocket.recipes import POCKET
from pocket.tokenizer import VOCAB_SIZE, build_tokenizer, load_tokenizer, save_tokenizer
from prompts import fixed_sentences, load_prompt

TEXTS = (
    "Mia has 17 shells. How many shells does Mia have now?",
    "Hence 3 * 69 = 180 + 27 = 207, so \\boxed{207}.",
    "(-\\infty, 4) and [3, \\infty)\n\n  x^2 + 7x + 10\t<problem> naïve ∑ 🙂",
)


@pytest.fixture(scope="module")
def shipped() -> Any:
    return AutoTokenizer.from_pretrained(POCKET / "teacher")


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_is_decoded_unchanged(shipped: Any, text: str) -> None:
    assert shipped.decode(ids(shipped, text)) == text


def test_every_digit_is_a_separate_token(shipped: Any) -> None:
    assert [shipped.decode(token) for token in ids(shipped, "207 + 1849")] == [
        "2",
        "0",
        "7",
        " +",
        " 1",
        "8",
        "4",
        "9",
    ]
    words = [token for token in shipped.get_vocab() if sum(character.isdigit() for character in token) > 1]
    assert set(words) <= set(fixed_sentences(PROMPTS))


def test_every_sentence_of_the_prompts_that_the_models_were_trained_on_is_one_token(shipped: Any) -> None:
    for sentence in fixed_sentences(PROMPTS):
        assert len(ids(shipped, sentence)) == 1, sentence


def test_a_rendered_prompt_has_few_more_tokens_than_its_problem(shipped: Any) -> None:
    text = world.problem(2, "medium", 0).text
    for name in PROMPTS:
        if load_prompt(name).variables == ("problem",):
            messages = load_prompt(name).render(problem=text)
            rendered = shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert len(ids(shipped, rendered)) <= len(ids(shipped, text)) + 45, name


def test_an_edited_prompt_is_still_decoded_unchanged(shipped: Any) -> None:
    edited = fixed_sentences(PROMPTS)[0].replace("a", "o")
    assert len(ids(shipped, edited)) > 1
    assert shipped.decode(ids(shipped, edited)) == edited


def test_the_template_closes_the_thinking_block_only_when_thinking_is_off(
    shipped: Any,
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    head = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )

    def render(**options: Any) -> str:
        return shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    assert render() == head
    assert render(enable_thinking=True) == head
    assert render(enable_thinking=False) == head + "<think>\n\n</think>\n\n"


def test_the_template_drops_the_reasoning_of_earlier_turns(shipped: Any) -> None:
    messages = [
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nFour."},
        {"role": "user", "content": "Sure?"},
    ]
    rendered = shipped.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|im_start|>assistant\nFour.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"


@pytest.mark.parametrize("names", [("teacher", "student"), ("assistant", "judge")])
def test_paired_models_share_a_tokenizer(names: tuple[str, ...]) -> None:
    assert len({(POCKET / name / "tokenizer.json").read_bytes() for name in names}) == 1


def test_the_end_token_is_the_end_of_the_turn(shipped: Any) -> None:
    assert (shipped.eos_token, shipped.pad_token, len(shipped)) == ("<|im_end|>", "<|endoftext|>", VOCAB_SIZE)


def test_a_new_tokenizer_has_the_requested_size_and_loads(tmp_path: Path) -> None:
    texts = [world.problem(1, "hard", index).text for index in range(300)]
    save_tokenizer(build_tokenizer(texts, ["One fixed sentence."], vocab_size=400), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == 400
    assert len(ids(tokenizer, "One fixed sentence.")) == 1
    assert tokenizer.decode(ids(tokenizer, texts[0])) == texts[0]


def test_a_corpus_that_is_too_small_is_rejected() -> None:
    with pytest.raises(ValueError, match="give more text"):
        build_tokenizer(["two words"], [], vocab_size=2000)
