"""Evaluation of the student on held-out problems, with the run's own engines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompts import MAX_VALUE_CHARS
from tasks.answers.extraction import extract_answer
from tasks.answers.grading import grade, math_verify_grade
from tasks.errors import UserError
from tasks.identity import canonical_json, request_seed
from tasks.text import counted
from training.config import EvaluationSettings, LengthSettings, project_path
from training.console import log_line
from training.data.model_files import ModelFiles, encode_prompts

if TYPE_CHECKING:
    from training.rollouts.engine import Generation, RolloutSampling
    from training.rollouts.pool import RolloutPool

__all__ = ["Graded", "Grades", "HeldOut", "estimates", "evaluate", "held_out_problems", "read_held_out"]

SHOWN_DISAGREEMENTS = 5
Grades = list[list[bool]]
"""Whether each sample is correct, [problems][samples]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Problems with known answers and their prompts as token ids. `digest`: SHA-256 of their ids, texts, answers and prompts."""

    digest: str
    ids: tuple[str, ...]
    answers: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    settings: EvaluationSettings
    tokenizer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """The responses to all problems, `samples` to each in order, and their grades."""

    grades: Grades
    generations: tuple[Generation, ...]
    samples: int

    @property
    def first(self) -> tuple[Generation, ...]:
        """The first response to each problem."""
        return self.generations[:: self.samples]

    def values(self) -> dict[str, float]:
        """Return the mean length of the responses in tokens, and the share of them that reached the limit."""
        return {
            "response_tokens_mean": sum(len(one.tokens) for one in self.generations) / len(self.generations),
            "truncated_share": sum(one.finish_reason == "length" for one in self.generations)
            / len(self.generations),
        }


def read_held_out(
    settings: EvaluationSettings | None, student: ModelFiles, *, thinking: bool, day: date | None = None
) -> HeldOut | None:
    """Read the problems of a JSON-lines file with `id`, `problem` and `answer`. Returns None without evaluation settings, or if
    they name no file.

    Prompts are built like those of the training rows. Raises `UserError` with file and line.
    """
    if settings is None or settings.problems is None:
        return None
    path = project_path(settings.problems)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): texts may contain U+2028
    except (OSError, ValueError) as error:
        raise UserError(
            f"evaluation.problems: {path} cannot be read ({error}): give a JSON-lines file"
        ) from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(
            f"evaluation.problems: {path} is empty: give problems with answers, or remove the section evaluation"
        )
    return held_out_of(rows, settings, student, thinking=thinking, day=day)


def held_out_of(
    rows: Sequence[Mapping[str, str]],
    settings: EvaluationSettings,
    student: ModelFiles,
    *,
    thinking: bool,
    day: date | None = None,
) -> HeldOut:
    """Return rows with `id`, `problem` and `answer` as held-out problems."""
    prompts = encode_prompts(student, [row["problem"] for row in rows], thinking=thinking, day=day)
    written = canonical_json(
        [
            [row["id"], row["problem"], row["answer"], list(ids)]
            for row, ids in zip(rows, prompts, strict=True)
        ]
    )
    return HeldOut(
        digest=hashlib.sha256(written.encode("ascii")).hexdigest(),
        ids=tuple(row["id"] for row in rows), answers=tuple(row["answer"] for row in rows),
        prompts=tuple(prompts), settings=settings, tokenizer=student.tokenizer,
    )  # fmt: skip


def held_out_problems(held_out: HeldOut | None, lengths: LengthSettings) -> list[str]:
    """Return one problem, naming the longest prompt, if any prompt leaves less of the context than a response may need."""
    sizes = {} if held_out is None else dict(zip(held_out.ids, map(len, held_out.prompts), strict=True))
    limit = lengths.max_prompt_tokens
    long = {row_id: size for row_id, size in sizes.items() if size > limit}
    if not long:
        return []
    worst = max(long, key=lambda row_id: (long[row_id], row_id))
    chosen_by = (
        "dataset.held_out" if held_out and held_out.settings.problems is None else "evaluation.problems"
    )
    return [
        f"{chosen_by}: {worst} has a prompt of {long[worst]:,} tokens, but lengths.max_prompt_tokens is {limit:,}, so"
        f" responses would end before lengths.max_response_tokens ({len(long):,} such problems): remove them or raise the limit"
    ]


def evaluate(engines: RolloutPool, held_out: HeldOut, when: str, sampling: RolloutSampling) -> Graded:
    """Sample and grade responses with the engines' current weights.

    The sampling seeds are the same in every evaluation. `when` ("before training", "after step 10") appears in the log line.
    """
    from training.rollouts.engine import RolloutRequest

    samples = held_out.settings.samples
    requests = [
        RolloutRequest(prompt=prompt, seed=request_seed(row_id, f"held-out/{number}", "evaluation"))
        for row_id, prompt in zip(held_out.ids, held_out.prompts, strict=True)
        for number in range(samples)
    ]
    generations = engines.generate(requests, sampling)
    texts = [
        opened_thinking(held_out.tokenizer, request.prompt)
        + held_out.tokenizer.decode(one.tokens.tolist(), skip_special_tokens=True)
        for request, one in zip(requests, generations, strict=True)
    ]
    grades = [
        [grade(text, answer) for text in texts[place * samples : (place + 1) * samples]]
        for place, answer in enumerate(held_out.answers)
    ]
    share = sum(map(sum, grades)) / (len(grades) * samples)
    log_line(
        f"pass@1 {when}: {share:.1%} on {counted(len(grades), 'held-out problem')} x {counted(samples, 'sample')}"
    )
    log_line(_beside_math_verify(held_out.answers, texts, grades))
    return Graded(grades=grades, generations=tuple(generations), samples=samples)


def opened_thinking(tokenizer: Any, prompt: Sequence[int]) -> str:
    """Return `<think>` if the chat template opened the thinking of the response, which then has only its end, else nothing."""
    end = tokenizer.decode(list(prompt[-8:]), skip_special_tokens=False).rstrip()
    return "<think>" if end.endswith("<think>") else ""


def _beside_math_verify(answers: Sequence[str], texts: Sequence[str], grades: Grades) -> str:
    """Return a line with Math-Verify's share of correct samples, and the pairs on which it disagrees with our grades."""
    samples = len(texts) // len(answers)
    pairs = [(text, answers[place // samples]) for place, text in enumerate(texts)]
    ours = [one for row in grades for one in row]
    theirs = [math_verify_grade(*pair) for pair in pairs]
    disagreements = sorted(
        {
            f"{extract_answer(text)!r:.60} for {answer!r:.60}: ours {own}, Math-Verify {other}"
            for (text, answer), own, other in zip(pairs, ours, theirs, strict=True)
            if own != other
        }
    )
    listed = "".join(f"; {one}" for one in disagreements[:SHOWN_DISAGREEMENTS])
    return (
        f"Math-Verify: {sum(theirs) / len(theirs):.1%}, {counted(len(disagreements), 'disagreement')}{listed}"
    )


def _row(path: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        found = {key: row[key] for key in ("id", "problem", "answer")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"evaluation.problems: line {number} of {path} is not an object with id, problem and answer ({error!r}): correct it"
        ) from error
    for key, value in found.items():
        what = _value_problem(key, value)
        if what is not None:
            raise UserError(f"evaluation.problems: line {number} of {path}: {key} {what}")
    return found


def _value_problem(key: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"is not a string but {json.dumps(value)[:50]}: put it in quotes"
    if not value.strip():
        return "is empty: fill it in or remove the line"
    if key == "problem" and len(value) > MAX_VALUE_CHARS:
        return f"has {len(value):,} characters, more than the {MAX_VALUE_CHARS:,} allowed: remove the line"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "contains an unpaired surrogate, which is not a valid character: correct it"
    return None


def estimates(before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return pass@1 before and after training (as avg@N) and the paired gain, each with its bootstrap interval."""
    from training.evaluation.metrics import gain, mean_estimate

    def own(grades: Sequence[Sequence[bool]]) -> dict[str, float]:
        return mean_estimate([sum(row) / len(row) for row in grades])._asdict()

    return {"before": own(before), "after": own(after), "gain": gain(before, after)._asdict()}
