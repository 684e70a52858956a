"""Branch viability: phases A to F. Each reads the rows of earlier ones and writes its own, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from tasks.answers.extraction import answer_span
from tasks.identity import request_seed
from tasks.storage.tables import iter_rows, read_rows
from training.data.model_files import PROMPT, ModelFiles
from training.data.views import PROMPTS
from training.diagnostics.branch_rows import Candidate, Continuation, Labelled, Pass, Spine, Uncertainty
from training.diagnostics.branches import (
    Branch,
    Label,
    Limits,
    choose,
    label_of,
    measures,
    positions_of,
    relative,
    usable_tokens,
)
from training.diagnostics.command import Log
from training.diagnostics.models import context_of, prompt_tokens
from training.diagnostics.network import Network
from training.diagnostics.problems import Problem, Problems
from training.diagnostics.sampling import Progress, Sample, Sampler
from training.diagnostics.settings import BranchSettings
from training.diagnostics.stored import Counts, Made, Phase, Store, counted_rows
from training.evaluation.backends import Raw
from training.evaluation.generation import graded_text
from training.evaluation.grading import Grade, Response
from training.evaluation.held_out import opened_thinking
from training.preflight.model_checks import shared_vocabulary
from training.rollouts.engine import RolloutRequest, RolloutSampling

__all__ = ["Run", "phases"]

VERSION = 1
"""Raise when the same settings give other rows."""
Key = tuple[str, int]
"""A candidate: its problem and position."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the phases work with. `grade` returns the grades of responses, in order. `open_teacher` loads the teacher."""

    settings: BranchSettings
    problems: Problems
    student: ModelFiles
    teacher: ModelFiles
    sampler: Sampler
    teacher_identity: str
    open_teacher: Callable[[], Network]
    grade: Callable[[Sequence[Response]], list[Grade]]
    log: Log

    @property
    def vocabulary(self) -> int:
        """The number of ids that the softmax covers."""
        return shared_vocabulary(self.student, self.teacher)

    @property
    def by_id(self) -> dict[str, Problem]:
        """The problems by id."""
        return {one.id: one for one in self.problems.items}

    def picked(self, *names: str) -> dict[str, Any]:
        """Return settings that decide a phase."""
        return {name: getattr(self.settings, name) for name in names}

    def seed(self, problem: str, what: str) -> int:
        """Return the seed of a sample or of a pass."""
        return request_seed(problem, f"{what}/{self.settings.seed}", "branch viability")

    def text(self, prompt: Sequence[int], tokens: Sequence[int], finish_reason: str) -> str:
        """Return the text of a response that is graded."""
        tokenizer = self.student.tokenizer
        text = tokenizer.decode(list(tokens), skip_special_tokens=True)
        raw = Raw(text=text, tokens=len(tokens), prompt_tokens=len(prompt), finish_reason=finish_reason)
        return graded_text(raw, opened_thinking(tokenizer, prompt), thinking=self.settings.thinking)


def phases(run: Run, store: Store) -> dict[str, Phase]:
    """Return phases A to F, made where they are missing."""
    settings = run.settings
    models = (run.problems.digest, run.sampler.identity, run.teacher_identity)
    day = None if settings.template_date is None else settings.template_date.isoformat()
    common = {**run.picked("thinking", "context", "seed"), "day": day}
    spines = store.phase(
        "A-spines", Spine, VERSION, common | run.picked("spine_tokens", "fallback_temperature"), models,
        lambda: make_spines(run),
    )  # fmt: skip
    passes = store.phase(
        "B-teacher", Pass, VERSION, common | run.picked("view", "top_k", "min_second"), (*models, spines.fingerprint),
        lambda: make_passes(run, spines),
    )  # fmt: skip
    candidates = store.phase(
        "C-candidates", Candidate, VERSION,
        run.picked("min_second", "min_ratio", "spacing", "max_positions", "children"), (passes.fingerprint,),
        lambda: make_candidates(run, spines, passes),
    )  # fmt: skip
    dropout = store.phase(
        "D-dropout", Uncertainty, VERSION, run.picked("dropout_layers", "dropout", "passes", "seed"),
        (candidates.fingerprint,), lambda: make_uncertainties(run, spines, passes, candidates),
    )  # fmt: skip
    continued = store.phase(
        "E-continuations", Continuation, VERSION,
        run.picked("continuations", "temperature", "top_p", "continuation_tokens", "seed"), (candidates.fingerprint,),
        lambda: make_continuations(run, spines, candidates),
    )  # fmt: skip
    labels = store.phase(
        "F-labels", Labelled, VERSION, run.picked("diverse_children", "diverse_rate", "uncertain_rate"),
        (continued.fingerprint,), lambda: make_labels(run, candidates, continued),
    )  # fmt: skip
    return {"A": spines, "B": passes, "C": candidates, "D": dropout, "E": continued, "F": labels}


# --- A: spines ---------------------------------------------------------------------------------------------------


def make_spines(run: Run) -> Made:
    """Generate a response to every problem: greedy, or sampled where greedy decoding gives no box; correct ones are kept."""
    settings, limit = run.settings, context_of(run.student, run.settings)
    built = {
        one.id: prompt_tokens(run.student, PROMPT, {"problem": one.text}, settings)
        for one in run.problems.items
    }
    reasons = {name: prompt for name, prompt in built.items() if isinstance(prompt, str)}
    reasons |= {name: "prompt_too_long" for name, prompt in built.items() if len(prompt) >= limit}
    prompts = {
        name: prompt for name, prompt in built.items() if name not in reasons and not isinstance(prompt, str)
    }
    greedy = _responses(run, prompts, 0.0, "phase A: greedy")
    boxless = {name for name, sample in greedy.items() if _box(run, prompts[name], sample) is None}
    second = {name: prompts[name] for name in prompts if name in boxless}
    sampled = _responses(run, second, settings.fallback_temperature, "phase A: sampled") if second else {}
    rows = _spines(run, prompts, greedy | sampled, sampled.keys(), reasons)
    return Made(rows=rows, counts=counted_rows("problems", rows))


def _responses(
    run: Run, prompts: dict[str, tuple[int, ...]], temperature: float, what: str
) -> dict[str, Sample]:
    sampling = RolloutSampling(
        temperature=temperature, max_tokens=run.settings.spine_tokens, stop_token_ids=run.student.end_tokens
    )
    requests = [
        RolloutRequest(prompt=prompt, seed=run.seed(name, f"spine/{temperature}"))
        for name, prompt in prompts.items()
    ]
    return dict(zip(prompts, run.sampler.sample(requests, sampling, what), strict=True))


def _box(run: Run, prompt: Sequence[int], sample: Sample) -> int | None:
    """Return the number of tokens that end before the content of the answer's box or at its start; None without a box."""
    text = run.text(prompt, sample.tokens, sample.finish_reason)
    span = answer_span(text)
    if span is None:
        return None
    decode = run.student.tokenizer.decode
    before = len(text) - len(decode(list(sample.tokens), skip_special_tokens=True))  # an opened thinking
    low, high = 0, len(sample.tokens)
    while low < high:  # the lengths of decoded prefixes do not decrease
        middle = (low + high) // 2
        if before + len(decode(list(sample.tokens[:middle]), skip_special_tokens=True)) < span[0]:
            low = middle + 1
        else:
            high = middle
    return low


def _spines(
    run: Run,
    prompts: dict[str, tuple[int, ...]],
    samples: dict[str, Sample],
    sampled: Any,
    reasons: dict[str, str],
) -> list[Spine]:
    texts = [run.text(prompts[name], one.tokens, one.finish_reason) for name, one in samples.items()]
    by_id = run.by_id
    asked: list[Response] = [
        (text, by_id[name].answer, by_id[name].kind) for name, text in zip(samples, texts, strict=True)
    ]
    correct = {name: grade.correct for name, grade in zip(samples, run.grade(asked), strict=True)}
    rows = []
    for problem in run.problems.items:
        name, sample = problem.id, samples.get(problem.id, Sample(tokens=(), finish_reason="stop"))
        box = _box(run, prompts[name], sample) if name in samples else None
        wrong = None if correct.get(name) else "wrong"
        rows.append(
            Spine(
                problem_id=name, source=problem.source, sampled=name in sampled, answer=problem.answer, box=box or 0,
                reason=reasons.get(name) or ("no_box" if box is None else wrong),
                prompt=prompts.get(name, ()), tokens=sample.tokens,
            )
        )  # fmt: skip
    return rows


# --- B: the privileged pass, and C: candidates -------------------------------------------------------------------


def make_passes(run: Run, spines: Phase) -> Made:
    """Let the teacher, which sees the answer, predict every token of the correct spines."""
    kept = _kept(spines)
    usable = usable_tokens(run.teacher.tokenizer, run.vocabulary)
    rows = []
    with run.open_teacher() as network:
        progress = Progress("phase B", "spines", len(kept), run.log)
        for spine in kept:
            rows.append(_pass(run, network, usable, spine))
            progress.count()
    return Made(rows=rows, counts=counted_rows("spines", rows))


def _pass(run: Run, network: Network, usable: Any, spine: Spine) -> Pass:
    values = {"problem": run.by_id[spine.problem_id].text, "answer": spine.answer}
    prompt = prompt_tokens(run.teacher, PROMPTS[run.settings.view], values, run.settings)
    reason = prompt if isinstance(prompt, str) else None
    if reason is None and len(prompt) + len(spine.tokens) > context_of(run.teacher, run.settings):
        reason = "prompt_too_long"
    positions = []
    if reason is None and not isinstance(prompt, str):
        found = network.top(prompt, spine.tokens, run.settings.top_k)
        positions = positions_of(*found, usable, run.settings.min_second)
    return Pass(
        problem_id=spine.problem_id, reason=reason, prompt=() if isinstance(prompt, str) else prompt,
        entropies=tuple(one.entropy for one in positions), sizes=tuple(len(one.ids) for one in positions),
        ids=tuple(token for one in positions for token in one.ids),
        probs=tuple(prob for one in positions for prob in one.probs),
    )  # fmt: skip


def make_candidates(run: Run, spines: Phase, passes: Phase) -> Made:
    """Choose the positions at which a spine could branch."""
    settings, dropped = run.settings, Counter[str]()
    limits = Limits(**run.picked("min_second", "min_ratio", "spacing", "max_positions"))
    usable = usable_tokens(run.teacher.tokenizer, run.vocabulary)
    by_id, rows, entering = {one.problem_id: one for one in _kept(spines)}, list[Candidate](), 0
    for one in iter_rows(passes.table, Pass, batch=1):
        spine, positions = by_id[one.problem_id], one.positions()
        chosen, reasons = choose(positions, spine.tokens, spine.box, usable, limits)
        dropped += reasons
        entering += len(positions)
        for place in chosen:
            found = positions[place]
            rows.append(
                Candidate(
                    problem_id=one.problem_id, position=place, relative=relative(place, len(spine.tokens)),
                    length=len(spine.tokens), teacher_entropy=found.entropy, support=found.ids, probs=found.probs,
                    children=found.ids[: settings.children],
                )
            )  # fmt: skip
    counts = Counts(
        unit="positions", entering=entering, kept=len(rows), dropped=dict(sorted(dropped.items()))
    )
    return Made(rows=rows, counts=counts)


# --- D: MC dropout -----------------------------------------------------------------------------------------------


def make_uncertainties(run: Run, spines: Phase, passes: Phase, candidates: Phase) -> Made:
    """Let the teacher predict each candidate's valid tokens several times with dropout."""
    groups = _by_problem(candidates)
    tokens = {one.problem_id: one.tokens for one in _kept(spines)}
    rows = list[Uncertainty]()
    with run.open_teacher() as network:
        progress = Progress("phase D", "spines", len(groups), run.log)
        for one in iter_rows(passes.table, Pass, batch=1):
            if (group := groups.get(one.problem_id)) is not None:
                rows += _uncertainties(run, network, one.prompt, tokens[one.problem_id], group)
                progress.count()
    counts = Counts(unit="candidates", entering=candidates.counts.kept, kept=len(rows), dropped={})
    return Made(rows=rows, counts=counts)


def _uncertainties(
    run: Run, network: Network, prompt: Sequence[int], spine: Sequence[int], group: Sequence[Candidate]
) -> Iterator[Uncertainty]:
    settings, found = run.settings, list[list[np.ndarray]]()
    positions, supports = [one.position for one in group], [one.support for one in group]
    for number in range(settings.passes):
        seed = run.seed(group[0].problem_id, f"dropout/{number}")
        with network.dropout(settings.dropout_layers, settings.dropout, seed):
            found.append(network.probabilities(prompt, spine, positions, supports))
    for place, one in enumerate(group):
        values = measures(np.stack([passed[place] for passed in found]))
        yield Uncertainty(
            problem_id=one.problem_id, position=one.position, entropy=values.entropy,
            mutual_information=values.mutual_information, log_precision=values.log_precision,
        )  # fmt: skip


# --- E: continuations, and F: labels -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What a continuation starts from: prompt, spine before the candidate, and the child; those of a child share `ids`."""

    candidate: Candidate
    child: int
    number: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"continuation/{self.candidate.position}/{self.child}/{self.number}"


def make_continuations(run: Run, spines: Phase, candidates: Phase) -> Made:
    """Let the student, which does not see the answer, continue the spine after every child, and grade the results."""
    settings, limit = run.settings, context_of(run.student, run.settings)
    starts = list(_starts(settings.continuations, spines, candidates))
    asked = [number for number, start in enumerate(starts) if len(start.ids) < limit]
    requests = [
        RolloutRequest(
            prompt=starts[number].ids, seed=run.seed(starts[number].candidate.problem_id, starts[number].name)
        )
        for number in asked
    ]
    sampling = RolloutSampling(
        temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.continuation_tokens,
        stop_token_ids=run.student.end_tokens,
    )  # fmt: skip
    samples = dict(zip(asked, run.sampler.sample(requests, sampling, "phase E"), strict=True))
    rows = _continuations(run, starts, samples)
    return Made(rows=rows, counts=counted_rows("continuations", rows))


def _starts(continuations: int, spines: Phase, candidates: Phase) -> Iterator[_Start]:
    by_id = {one.problem_id: one for one in _kept(spines)}
    for one in iter_rows(candidates.table, Candidate):
        spine = by_id[one.problem_id]
        for child in one.children:
            ids = (*spine.prompt, *spine.tokens[: one.position], child)
            for number in range(continuations):
                yield _Start(candidate=one, child=child, number=number, prompt=spine.prompt, ids=ids)


def _continuations(run: Run, starts: Sequence[_Start], samples: dict[int, Sample]) -> list[Continuation]:
    by_id = run.by_id
    asked: list[Response] = []
    for number, sample in samples.items():
        start = starts[number]
        tokens = (*start.ids[len(start.prompt) :], *sample.tokens)
        problem = by_id[start.candidate.problem_id]
        asked.append((run.text(start.prompt, tokens, sample.finish_reason), problem.answer, problem.kind))
    grades = dict(zip(samples, run.grade(asked), strict=True))
    rows = []
    for number, start in enumerate(starts):
        sample, grade = samples.get(number), grades.get(number)
        rows.append(
            Continuation(
                problem_id=start.candidate.problem_id, position=start.candidate.position, child=start.child,
                number=start.number, reason="context_full" if sample is None else None,
                tokens=0 if sample is None else len(sample.tokens),
                finish_reason=None if sample is None else sample.finish_reason,
                answer=None if grade is None else grade.answer, correct=grade is not None and grade.correct,
            )
        )  # fmt: skip
    return rows


def make_labels(run: Run, candidates: Phase, continued: Phase) -> Made:
    """Label every candidate by the shares of correct continuations of its children."""
    thresholds = Branch(**run.picked("diverse_children", "diverse_rate", "uncertain_rate"))
    correct: dict[Key, dict[int, list[bool]]] = {}
    for one in iter_rows(continued.table, Continuation):
        if one.reason is None:
            children = correct.setdefault((one.problem_id, one.position), {})
            children.setdefault(one.child, []).append(one.correct)
    rows = []
    for one in iter_rows(candidates.table, Candidate):
        grades = correct.get((one.problem_id, one.position), {})
        rates = tuple(sum(grades[child]) / len(grades[child]) for child in one.children if child in grades)
        label = label_of(rates, thresholds) if rates else None
        reason = "gray" if label is Label.GRAY else None if label is not None else "no_child"
        rows.append(
            Labelled(
                problem_id=one.problem_id, position=one.position, rates=rates, label=label, reason=reason
            )
        )
    return Made(rows=rows, counts=counted_rows("candidates", rows))


# -----------------------------------------------------------------------------------------------------------------


def _kept(spines: Phase) -> list[Spine]:
    return [one for one in iter_rows(spines.table, Spine) if one.reason is None]


def _by_problem(candidates: Phase) -> dict[str, list[Candidate]]:
    rows = read_rows(candidates.table, Candidate)
    return {name: list(group) for name, group in groupby(rows, key=lambda one: one.problem_id)}
