"""The evaluation of a run's own student on held-out problems: sampled by the run's engines, but graded, scored and written like
every evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.benchmarks.base import Benchmark, Loaded, OwnData
from tasks.benchmarks.protocols import Protocol
from tasks.evaluate_settings import Prices
from tasks.identity import request_seed
from tasks.llm.tokenizer_identity import template_identity
from tasks.text import counted
from training.console import log_line
from training.evaluation.backends import Raw
from training.evaluation.generation import graded_text
from training.evaluation.grading import cluster_labels, grade_response
from training.evaluation.held_out import HeldOut, opened_thinking
from training.evaluation.history import Grades
from training.evaluation.jobs import Job
from training.evaluation.results import Collected, collected, cost, metrics, write_result

if TYPE_CHECKING:
    from training.rollouts.engine import Generation, RolloutSampling
    from training.rollouts.pool import RolloutPool

__all__ = ["Graded", "Student", "evaluate"]

NAME = "held_out"
SHOWN_DISAGREEMENTS = 5


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
        count = len(self.generations)
        return {
            "response_tokens_mean": sum(len(one.tokens) for one in self.generations) / count,
            "truncated_share": sum(one.finish_reason == "length" for one in self.generations) / count,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """The student whose result is written: the checksum of its weights, and `dtype` and `context` (tokens of prompt and response
    together) of the engines."""

    weights: str
    dtype: str
    context: int


def evaluate(
    engines: RolloutPool,
    held_out: HeldOut,
    when: str,
    sampling: RolloutSampling,
    *,
    student: Student | None = None,
    folder: Path | None = None,
) -> Graded:
    """Sample and grade responses with the engines' current weights, and write the result of the `student` in `folder`, if they
    are given.

    The sampling seeds are the same in every evaluation. `when` ("before training", "after step 10") names the student.
    """
    from training.rollouts.engine import RolloutRequest

    job = job_of(held_out, sampling)
    requests = [
        RolloutRequest(
            prompt=held_out.prompts[place.item],
            seed=request_seed(job.items[place.item].id, f"held-out/{place.index}", "evaluation"),
        )
        for place in job.places()
    ]
    began = time.monotonic()
    generations = engines.generate(requests, sampling)
    seconds = time.monotonic() - began
    found = graded(job, held_out, generations)
    described = _described(held_out, when, sampling, student)
    numbers = metrics(found, described, None, None)
    if folder is not None:
        spent = cost(found, Prices(), seconds)
        write_result(folder / NAME / job.folder_name, found, numbers, spent, None)
    for line in summary(numbers, when):
        log_line(line)
    return _graded_of(found, generations, job.protocol.samples)


def _graded_of(found: Collected, generations: Sequence[Generation], samples: int) -> Graded:
    grades = [bool(row.correct) for row in found.rows]
    return Graded(
        grades=[grades[start : start + samples] for start in range(0, len(grades), samples)],
        generations=tuple(generations),
        samples=samples,
    )


def _described(
    held_out: HeldOut, when: str, sampling: RolloutSampling, student: Student | None
) -> dict[str, Any]:
    """Return what is stored about the model, as `Model.described` does."""
    return {
        "name": f"student {when}", "identity": None if student is None else f"student:{student.weights}",
        "context": None if student is None else student.context, "thinking": held_out.thinking,
        "dtype": None if student is None else student.dtype, "stop_token_ids": list(sampling.stop_token_ids),
        "chat_template": template_identity(held_out.student.tokenizer),
    }  # fmt: skip


def job_of(held_out: HeldOut, sampling: RolloutSampling) -> Job:
    """Return the held-out problems as a benchmark, and how they are sampled as a protocol."""
    samples = held_out.settings.samples
    protocol = Protocol(
        name=f"avg{samples}", samples=samples, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k or 0,
        max_tokens=sampling.max_tokens, thinking=held_out.thinking, source="The section `evaluation` of the training run.",
    )  # fmt: skip
    benchmark = Benchmark(
        name=NAME, title=counted(len(held_out.items), "held-out problem"),
        data=OwnData(read=lambda _: (held_out.items, held_out.digest)), lineage="Not trained on.",
    )  # fmt: skip
    data = Loaded(items=held_out.items, digest=held_out.digest, origin=held_out.digest)
    return Job(
        benchmark=benchmark, data=data, protocol=protocol, preset=protocol, items=held_out.items, shots=0
    )


def graded(job: Job, held_out: HeldOut, generations: Sequence[Generation]) -> Collected:
    """Return the graded responses, which are in the order of `job.places()`."""
    tokenizer, places = held_out.student.tokenizer, list(job.places())
    opened = opened_thinking(tokenizer, held_out.prompts[0])
    raws = [
        Raw(
            text=tokenizer.decode(one.tokens.tolist(), skip_special_tokens=True), tokens=len(one.tokens),
            prompt_tokens=len(held_out.prompts[place.item]), finish_reason=one.finish_reason,
        )
        for place, one in zip(places, generations, strict=True)
    ]  # fmt: skip
    grades = [
        grade_response(
            (graded_text(raw, opened, thinking=held_out.thinking), job.items[place.item].answer, "math")
        )
        for place, raw in zip(places, raws, strict=True)
    ]
    return collected(job, raws, grades, lambda jobs: [cluster_labels(one) for one in jobs])


def summary(numbers: dict[str, Any], when: str) -> tuple[str, str]:
    """Return the log lines of an evaluation: the score, and Math-Verify's beside it with the answers on which they disagree."""
    main, second, protocol = numbers["scores"][numbers["main"]], numbers["math_verify"], numbers["protocol"]
    shown = "".join(
        f"; {one['answer']!r:.60} for {one['gold']!r:.60}: ours {one['ours']}, Math-Verify {one['math_verify']}"
        for one in second["pairs"][:SHOWN_DISAGREEMENTS]
    )
    return (
        f"pass@1 {when}: {main['value']:.1%} on {counted(main['n'], 'held-out problem')} x"
        f" {counted(protocol['samples'], 'sample')}",
        f"Math-Verify: {second['score']:.1%}, {counted(second['disagreements'], 'disagreement')}{shown}",
    )
