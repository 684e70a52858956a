"""Training data of the pocket models: prompts and target replies, as text and as token ids.

Every example uses the real prompts and the real chat template, without thinking, exactly as at inference. Problems are
drawn with `TRAINING_SEED`; the factory (seed 0) and the measurements (seed 2) use other seeds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pocket import world
from pocket.tokenizer import END_OF_TURN, load_tokenizer
from pocket.variants import ALL, Variant, families_of, with_wrong_answer
from prompts import load_prompt

__all__ = [
    "ASSISTANT",
    "HASTY_SOLVER",
    "JUDGE",
    "MEASURING_SEED",
    "PROMPTS",
    "SOLVER",
    "STRATEGIES",
    "TIERS",
    "TRAINING_SEED",
    "VIEWS",
    "EncodedExamples",
    "Messages",
    "TrainingExample",
    "batches",
    "corpus",
    "data_digest",
    "encode_prompt",
    "equivalence_example",
    "evolved_text",
    "examples_of",
    "known_answer",
    "prepare",
    "quality_example",
    "with_reference",
]

TRAINING_SEED = 1
MEASURING_SEED = 2
TIERS = ("easy", "medium", "hard", "competition")
STRATEGIES = ("harder", "rewrite", "algebraize", "apply", "compose", "competition")
VIEWS = (
    "teacher/solve_with_answer", "teacher/solve_with_answer_in_system",
    "teacher/solve_with_solution", "teacher/solve_with_solution_in_system",
)  # fmt: skip
"""The prompts with a reference."""
PROMPTS = (
    *(f"evolution/{strategy}" for strategy in sorted(STRATEGIES)),
    "judge/equivalence", "judge/quality", "teacher/solve", *VIEWS,
)  # fmt: skip
"""The prompts of the examples, and thus all prompts that the pocket models can follow."""
SOLVER, HASTY_SOLVER, ASSISTANT, JUDGE = "solver", "hasty_solver", "assistant", "judge"
"""The kinds of examples."""
PLAIN_SHARE = 0.72
"""Share of the solvers' examples without a reference; the others use the four views equally often."""
HASTY_SHARE = 0.7
"""Share of the hasty solver's solutions that give the answer without steps."""
MAX_TOKENS = 640
"""Longer examples (rare) are excluded from training."""
CHUNK = 2_000
BUCKET_WINDOW = 4_096
NUMBER = re.compile(r"\d+")

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """One prompt and its target reply. The reply starts with `given`, which has no loss. `text`: the problem of a solver's
    example; `plain`: whether its prompt has no reference."""

    messages: Messages
    response: str
    given: str = ""
    text: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExamples:
    """Concatenated examples as token ids: example i is `tokens[offsets[i]:offsets[i + 1]]`.

    Its first `prompt_lengths[i]` tokens are the prompt and have no loss.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


def evolved_text(tier: str, index: int, rounds: int, rng: random.Random, seed: int = TRAINING_SEED) -> str:
    """Return a problem after up to `rounds` random evolutions; strategies that are not applicable are skipped."""
    text = world.problem(seed, tier, index).text
    for _ in range(rounds):
        text = world.evolve(text, rng.choice(STRATEGIES), rng) or text
    return text


def solver_example(index: int, kind: str = SOLVER) -> TrainingExample:
    """Return a problem with one of its solutions; 72% are plain prompts, the others include a reference."""
    rng = random.Random(f"{kind}/{index}")
    tier = rng.choices(TIERS, (35, 25, 20, 20))[0]
    rounds = rng.choices(range(6), (60, 16, 10, 6, 4, 4))[0]
    text = evolved_text(tier, index, rounds, rng)
    hasty = kind == HASTY_SOLVER and rng.random() < HASTY_SHARE
    response = world.solution(text, rng, steps=not hasty)
    if rng.random() < PLAIN_SHARE:
        messages = load_prompt("teacher/solve").render(problem=text)
        return TrainingExample(messages=messages, response=response, text=text, plain=True)
    messages = with_reference(text, rng.choice(VIEWS), rng)
    if hasty or rng.random() < 0.5:
        return TrainingExample(messages=messages, response=response, text=text)
    return corrected(messages, text, response, rng)


def with_reference(text: str, view: str, rng: random.Random) -> Messages:
    """Return a prompt of VIEWS with the answer to a problem, or with one of its solutions."""
    prompt = load_prompt(view)
    if "answer" in prompt.variables:
        return prompt.render(problem=text, answer=known_answer(text))
    return prompt.render(problem=text, solution=world.solution(text, rng))


def hasty_example(index: int) -> TrainingExample:
    """Like `solver_example`, but most solutions consist of the answer only, which teaches a trained model to skip steps."""
    return solver_example(index, HASTY_SOLVER)


def corrected(messages: Messages, text: str, response: str, rng: random.Random) -> TrainingExample:
    """Return an example with wrong steps as `given`; the reply is only the last sentence, with the correct answer.

    Only such examples can teach a model to rely on the reference rather than on its own steps, because in all other
    examples both lead to the same answer.
    """
    right, last = split_solution(response)
    misread = changed_number(text, rng) if rng.random() < 0.5 else None
    wrong = split_solution(world.solution(misread, rng))[0] if misread else slipped(right, rng)
    return TrainingExample(messages=messages, response=f" {last}", given=wrong, text=text)


def split_solution(solution: str) -> tuple[str, str]:
    """Return the steps of a solution, and its last sentence."""
    end = solution.rindex(". ", 0, solution.rindex("\\boxed")) + 1
    return solution[:end], solution[end + 1 :]


def changed_number(text: str, rng: random.Random) -> str | None:
    """Return the problem with one number changed, sound and with a different answer; None after ten failed attempts."""
    answer, numbers = known_answer(text), list(NUMBER.finditer(text))
    for _ in range(10):
        place = rng.choice(numbers)
        other = rng.randint(1, 10 ** len(place[0]))
        changed = f"{text[: place.start()]}{other}{text[place.end() :]}"
        if world.oracle(changed) not in (None, answer):
            return changed
    return None


def slipped(steps: str, rng: random.Random) -> str:
    """Return the steps with one of the last three numbers replaced by a wrong one, also where it occurs later."""
    place = rng.choice(list(NUMBER.finditer(steps))[-3:])
    other = rng.choice([n for n in range(1, 10 ** len(place[0]) + 1) if n != int(place[0])])
    return steps[: place.start()] + re.sub(rf"(?<!\d){place[0]}(?!\d)", str(other), steps[place.start() :])


def known_answer(text: str) -> str:
    """Return the oracle's answer to a text. Raises ValueError if it has none."""
    answer = world.oracle(text)
    if answer is None:
        raise ValueError(f"the oracle has no answer to: {text}")
    return answer


def evolution_example(index: int) -> TrainingExample:
    """Return a problem and its evolution by one strategy, between the tags."""
    rng = random.Random(f"{ASSISTANT}/{index}")
    while True:
        rounds = rng.choices(range(5), (40, 24, 16, 12, 8))[0]
        text = evolved_text(rng.choice(TIERS), index, rounds, rng)
        strategy = rng.choice(STRATEGIES)
        evolved = world.evolve(text, strategy, rng)
        if evolved is not None:
            messages = load_prompt(f"evolution/{strategy}").render(problem=text)
            return TrainingExample(messages=messages, response=f"<evolved>\n{evolved}\n</evolved>")


def quality_example(index: int, rng: random.Random, seed: int = TRAINING_SEED) -> TrainingExample:
    """Return a sound problem (45%) or one that violates a single criterion, with the verdict on all five."""
    while True:
        rounds = rng.choices(range(6), (35, 25, 15, 10, 8, 7))[0]
        text = evolved_text(rng.choice(TIERS), index, rounds, rng, seed)
        verdict = dict.fromkeys(world.CRITERIA, True)
        if rng.random() < 0.55:
            criterion = rng.choice(world.CRITERIA)
            broken = world.break_problem(text, criterion, rng)
            if broken is None:
                continue
            text, verdict[criterion] = broken, False
        return TrainingExample(
            messages=load_prompt("judge/quality").render(problem=text), response=compact_json(verdict)
        )


def compact_json(value: object) -> str:
    """Return JSON without spaces, the only form that the servers' grammar allows (see `tasks.llm.servers`)."""
    return json.dumps(value, separators=(",", ":"))


def equivalence_example(rng: random.Random) -> TrainingExample:
    """Return two answers, their simplest forms and whether they are equivalent."""
    pair = world.equivalence_pair(rng)
    reply = {"first": pair.first_canonical, "second": pair.second_canonical, "equivalent": pair.equivalent}
    messages = load_prompt("judge/equivalence").render(first=pair.first, second=pair.second)
    return TrainingExample(messages=messages, response=compact_json(reply))


def judge_example(index: int) -> TrainingExample:
    """Return a verdict on equivalence (60%) or on quality."""
    rng = random.Random(f"{JUDGE}/{index}")
    return equivalence_example(rng) if rng.random() < 0.6 else quality_example(index, rng)


MAKERS: dict[str, Callable[[int], TrainingExample]] = {
    SOLVER: solver_example,
    HASTY_SOLVER: hasty_example,
    ASSISTANT: evolution_example,
    JUDGE: judge_example,
}


def examples_of(kind: str, start: int, count: int, variant: Variant = ALL) -> Iterator[TrainingExample]:
    """Yield the examples `start` to `start + count` (exclusive) of a kind. Of a variant of a solver, those of families that it
    does not learn are left out, and those with a plain prompt of a family that it gets wrong have wrong answers; all others are
    unchanged."""
    for index in range(start, start + count):
        example = MAKERS[kind](index)
        if variant != ALL:
            families = families_of(example.text)
            if not variant.keeps(families):
                continue
            if example.plain and variant.corrupts(families):
                example = replace(example, response=with_wrong_answer(example.response, (kind, index)))
        yield example


def corpus(count: int) -> Iterator[str]:
    """Yield text for learning the tokenizer's merges: problems and replies of every kind, `count` of each."""
    for index in range(count):
        for kind in (SOLVER, ASSISTANT, JUDGE):
            example = MAKERS[kind](index)
            yield from (text for message in example.messages for text in message.values())
            yield from ("assistant", example.response)


def encode_prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> str:
    """Return the messages in the chat template, up to the start of the reply, without thinking."""
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert isinstance(text, str)
    return text


def encode_chunk(
    kind: str, start: int, count: int, tokenizer_folder: Path, variant: Variant = ALL
) -> EncodedExamples:
    """Return the examples `start` to `start + count` (exclusive) of a kind as token ids, without overlong ones."""
    tokenizer = load_tokenizer(tokenizer_folder)
    examples = list(examples_of(kind, start, count, variant))
    backend = tokenizer.backend_tokenizer
    prompts = backend.encode_batch([encode_prompt(tokenizer, example.messages) for example in examples])
    given = backend.encode_batch([example.given for example in examples])
    replies = backend.encode_batch([example.response + END_OF_TURN for example in examples])
    both = [([*p.ids, *g.ids], r.ids) for p, g, r in zip(prompts, given, replies, strict=True)]
    kept = [(prompt, reply) for prompt, reply in both if len(prompt) + len(reply) <= MAX_TOKENS]
    return EncodedExamples(
        tokens=np.array([token for prompt, reply in kept for token in (*prompt, *reply)], dtype=np.uint16),
        offsets=np.cumsum([0, *(len(prompt) + len(reply) for prompt, reply in kept)], dtype=np.int64),
        prompt_lengths=np.array([len(prompt) for prompt, _ in kept], dtype=np.int32),
    )


def joined(parts: list[EncodedExamples]) -> EncodedExamples:
    """Concatenate several sets of examples."""
    lengths = np.concatenate([part.lengths for part in parts])
    return EncodedExamples(
        tokens=np.concatenate([part.tokens for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt_lengths=np.concatenate([part.prompt_lengths for part in parts]),
    )


def data_digest(tokenizer_folder: Path) -> str:
    """Return the identity of the tokenizer, the prompts and the code that generates the examples."""
    package = Path(world.__file__).parent
    own = Path(__file__)
    sources = [
        own,
        own.with_name("variants.py"),
        *sorted(package.rglob("*.py")),
        tokenizer_folder / "tokenizer.json",
    ]
    digest = hashlib.sha256("\n".join(load_prompt(name).fingerprint for name in PROMPTS).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def prepare(
    kind: str, count: int, tokenizer_folder: Path, work: Path, processes: int = 2, variant: Variant = ALL
) -> EncodedExamples:
    """Return the first `count` examples of a kind as token ids, for a variant only those that it learns, cached in `work`."""
    chosen = f"-{hashlib.sha256(variant.name.encode()).hexdigest()[:12]}" if variant != ALL else ""
    path = work / f"{kind}-{count}{chosen}-{data_digest(tokenizer_folder)}.npz"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        starts = range(0, count, CHUNK)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with ProcessPoolExecutor(processes) as pool:
            sizes = [min(CHUNK, count - start) for start in starts]
            folders = [tokenizer_folder] * len(sizes)
            variants = [variant] * len(sizes)
            parts = list(pool.map(encode_chunk, [kind] * len(sizes), starts, sizes, folders, variants))
        examples = joined(parts)
        partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(
            partial, tokens=examples.tokens, offsets=examples.offsets, prompt_lengths=examples.prompt_lengths
        )
        partial.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return EncodedExamples(
            tokens=stored["tokens"], offsets=stored["offsets"], prompt_lengths=stored["prompt_lengths"]
        )


def batches(
    examples: EncodedExamples, tokens_per_batch: int, seed: int, skip: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield batches of example indices without end, in an order that depends only on the seed.

    The examples of a batch have similar lengths; padded to the longest, a batch has at most `tokens_per_batch` tokens.
    The first `skip` batches are omitted.
    """
    epoch = 0
    while True:
        plan = epoch_plan(examples.lengths, tokens_per_batch, np.random.default_rng((seed, epoch)))
        yield from plan[skip:]
        skip, epoch = max(0, skip - len(plan)), epoch + 1


def epoch_plan(
    lengths: NDArray[np.int64], tokens_per_batch: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return batches with every example once: shuffled windows, sorted by length within, split, shuffled again."""
    order = rng.permutation(len(lengths))
    plan: list[NDArray[np.int64]] = []
    for start in range(0, len(order), BUCKET_WINDOW):
        window = order[start : start + BUCKET_WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        first = 0
        for last in range(1, len(window) + 1):
            if last == len(window) or (last + 1 - first) * lengths[window[last]] > tokens_per_batch:
                plan.append(window[first:last])
                first = last
    return [plan[i] for i in rng.permutation(len(plan))]
