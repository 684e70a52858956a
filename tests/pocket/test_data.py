"""Training examples and their batches."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from transformers import AutoTokenizer

import prompts
from pocket import data, world
from pocket.data import (
    ASSISTANT,
    PROMPTS,
    SOLVER,
    EncodedExamples,
    TrainingExample,
    batches,
    changed_number,
    data_digest,
    encode_chunk,
    epoch_plan,
    evolution_example,
    hasty_example,
    judge_example,
    prepare,
    quality_example,
    slipped,
    solver_example,
)
from pocket.recipes import POCKET
from pocket.train import collate
from prompts import Prompt, fixed_sentences, load_prompt
from tasks.answers.extraction import extract_answer

TEACHER = POCKET / "teacher"


def lengths_only(lengths: list[int]) -> EncodedExamples:
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(offsets[-1], dtype=np.uint16)
    return EncodedExamples(
        tokens=tokens, offsets=offsets, prompt_lengths=np.ones(len(lengths), dtype=np.int32)
    )


def test_the_examples_use_exactly_the_listed_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()

    def load(name: str) -> Prompt:
        used.add(name)
        return load_prompt(name)

    monkeypatch.setattr(data, "load_prompt", load)
    for index in range(60):
        for make in (solver_example, evolution_example, judge_example):
            make(index)
    assert used == set(PROMPTS)


def test_a_prompt_that_is_not_listed_changes_neither_the_sentences_nor_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    before = fixed_sentences(PROMPTS), data_digest(tmp_path)
    new = Prompt(
        name="judge/new", version=1, variables=("problem",), system="", user="New words.\n{{problem}}"
    )
    monkeypatch.setattr(prompts, "all_prompts", lambda: (*PROMPTS, new.name))
    fixed_sentences.cache_clear()
    assert (fixed_sentences(PROMPTS), data_digest(tmp_path)) == before


def test_solver_examples_end_in_the_oracles_answer() -> None:
    for index in range(60):
        example = solver_example(index)
        problem = example.messages[-1]["content"].split("\n\n")[0]
        assert extract_answer(example.response) == world.oracle(problem)


def test_the_four_views_are_equally_frequent_and_show_the_reference_in_one_message() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for index in range(1000):
        texts = {message["role"]: message["content"] for message in solver_example(index).messages}
        with_reference = [role for role, text in texts.items() if "<reference>" in text]
        assert len(with_reference) <= 1 and ("system" not in texts or with_reference == ["system"])
        assert texts["user"].endswith(
            "Please reason step by step, and put your final answer within \\boxed{}."
        )
        for role in with_reference:
            kind = "answer" if "correct final answer" in texts[role] else "solution"
            seen[role, kind] += 1
            shown = texts[role].partition("<reference>\n")[2].partition("\n</reference>")[0]
            answer = world.oracle(texts["user"].split("\n\n")[0])
            assert (shown if kind == "answer" else extract_answer(shown)) == answer
    assert set(seen) == set(product(("system", "user"), ("answer", "solution")))
    assert all(count / 1000 == pytest.approx(0.07, abs=0.025) for count in seen.values())


def test_wrong_steps_are_given_only_with_a_reference_and_the_reply_is_the_correct_last_sentence() -> None:
    examples = [solver_example(index) for index in range(300)]
    corrected = [example for example in examples if example.given]
    assert len(corrected) > 15
    for example in corrected:
        prompt = example.messages[-1]["content"]
        assert "<reference>" in "".join(message["content"] for message in example.messages)
        assert extract_answer(example.response) == world.oracle(prompt.split("\n\n")[0])
        assert example.response.startswith(" ") and example.response.count(".") == 1
        assert example.given.endswith(".") and "boxed" not in example.given


def test_the_hasty_solver_has_the_solvers_prompts_and_mostly_skips_steps() -> None:
    hasty, careful = ([make(index) for index in range(300)] for make in (hasty_example, solver_example))
    for example in hasty:
        known = extract_answer(example.response)
        assert known is not None
    words = [mean(len(example.response.split()) for example in kind) for kind in (hasty, careful)]
    assert words[0] < 0.6 * words[1]


def test_a_slip_changes_a_number_wherever_it_recurs() -> None:
    steps = "First, a = 4; 4 + 3 = 7; 7 * 17 = 119."
    seen = {slipped(steps, random.Random(seed)) for seed in range(40)}
    assert steps not in seen
    assert all(text.startswith("First, a = 4; 4 + 3 = 7; ") or "7 * 17" not in text for text in seen)


def test_a_changed_number_gives_a_sound_problem_with_another_answer() -> None:
    text = world.problem(1, "medium", 3).text
    changed = [changed_number(text, random.Random(seed)) for seed in range(20)]
    assert any(changed)
    for other in filter(None, changed):
        assert world.oracle(other) not in (None, world.oracle(text))


def test_evolved_replies_are_between_the_tags_and_sound() -> None:
    for reply in (evolution_example(index).response for index in range(40)):
        assert reply.startswith("<evolved>\n")
        assert world.oracle(reply.removeprefix("<evolved>\n").removesuffix("\n</evolved>")) is not None


def test_quality_verdicts_reject_exactly_the_violated_criterion() -> None:
    for index in range(40):
        reply = quality_example(index, random.Random(index)).response
        assert " " not in reply
        verdict = json.loads(reply)
        assert tuple(verdict) == world.CRITERIA
        assert list(verdict.values()).count(False) <= 1


def test_half_of_the_quality_cases_are_sound_and_the_criteria_are_violated_equally_often() -> None:
    verdicts = [json.loads(quality_example(index, random.Random(index)).response) for index in range(1200)]
    assert np.mean([all(verdict.values()) for verdict in verdicts]) == pytest.approx(0.45, abs=0.04)
    for criterion in world.CRITERIA:
        violated = np.mean([not verdict[criterion] for verdict in verdicts])
        assert violated == pytest.approx(0.11, abs=0.03), criterion


def test_the_judge_has_both_kinds_of_cases() -> None:
    verdicts = [json.loads(judge_example(index).response) for index in range(200)]
    assert np.mean(["equivalent" in verdict for verdict in verdicts]) == pytest.approx(0.6, abs=0.1)


def test_examples_depend_only_on_their_index() -> None:
    assert solver_example(7) == solver_example(7)
    assert evolution_example(7) == evolution_example(7) != evolution_example(8)


@pytest.mark.parametrize(("kind", "make"), [(SOLVER, solver_example), (ASSISTANT, evolution_example)])
def test_encoded_examples_are_prompt_then_reply_then_end(
    kind: str, make: Callable[[int], TrainingExample]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    encoded = encode_chunk(kind, 0, 3, TEACHER)
    for number in range(3):
        ids = encoded.tokens[encoded.offsets[number] : encoded.offsets[number + 1]]
        head, reply = np.split(ids, [encoded.prompt_lengths[number]])
        assert tokenizer.decode(head).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert tokenizer.decode(reply) == make(number).response + "<|im_end|>"


def test_prepared_examples_are_stored_and_reused(tmp_path: Path) -> None:
    first = prepare(SOLVER, 5, TEACHER, tmp_path, processes=1)
    (stored,) = tmp_path.iterdir()
    changed = stored.stat().st_mtime_ns
    second = prepare(SOLVER, 5, TEACHER, tmp_path, processes=1)
    assert stored.stat().st_mtime_ns == changed
    assert np.array_equal(first.tokens, second.tokens)
    assert np.array_equal(first.offsets, second.offsets)


def test_an_epoch_uses_every_example_once_within_the_token_budget() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=500)
    plan = epoch_plan(lengths, 200, np.random.default_rng(1))
    assert sorted(np.concatenate(plan).tolist()) == list(range(500))
    assert all(len(batch) * lengths[batch].max() <= 200 for batch in plan)


def test_batches_resume_where_an_interrupted_training_stopped() -> None:
    examples = lengths_only([3, 5, 4, 6, 2, 7, 5, 3, 4, 6])
    whole = [batch.tolist() for batch in islice(batches(examples, 12, seed=3), 23)]
    rest = [batch.tolist() for batch in islice(batches(examples, 12, seed=3, skip=9), 14)]
    assert rest == whole[9:]


def test_collating_pads_on_the_right_and_predicts_only_the_reply() -> None:
    examples = EncodedExamples(
        tokens=np.array([10, 11, 12, 13, 20, 21, 22], dtype=np.uint16),
        offsets=np.array([0, 4, 7]),
        prompt_lengths=np.array([2, 1], dtype=np.int32),
    )
    tokens, positions, targets = collate(examples, np.array([0, 1]), pad=0)
    assert tokens.shape == (2, 16)
    assert tokens[0, :5].tolist() == [10, 11, 12, 13, 0]
    assert positions.tolist() == [1, 2, 16, 17]
    assert targets.tolist() == [12, 13, 21, 22]
