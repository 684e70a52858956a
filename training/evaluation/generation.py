"""Generating the samples of jobs: every finished sample is kept in the ledger at once, and graded while others are generated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tasks.llm.ledger import Ledger
from tasks.llm.prompt_tokens import UnsafeText
from tasks.storage.disk import disk_errors, make_folder
from training.evaluation.backends import Backend, Log, Raw, from_ledger
from training.evaluation.grading import Grade, GradingPool, Response, grade_response
from training.evaluation.held_out import opened_thinking
from training.evaluation.jobs import EvaluationSampling, Job, Place, too_long
from training.evaluation.models import Model

BATCH = 32
"""Samples that a grading worker gets at once."""
LOOKUP = 512
NOTE_S = 10.0


@dataclass(slots=True, kw_only=True)
class Samples:
    """What is known of the samples of a job: grades (of generated samples only), failures, and the ledger key of each, which is
    empty if it cannot be asked."""

    job: Job
    fingerprint: str
    keys: dict[Place, str]
    grades: dict[Place, Future[list[Grade]]] = field(default_factory=dict)
    slots: dict[Place, int] = field(default_factory=dict)  # place in its batch
    failures: dict[Place, Raw] = field(default_factory=dict)

    def grade(self, place: Place) -> Grade:
        """Return the grade of a generated sample; waits for it."""
        return self.grades[place].result()[self.slots[place]]


def opening(model: Model, job: Job) -> str:
    """Return `<think>` if the model's template opens the thinking of a response to this job."""
    first = next((number for number, item in enumerate(job.items) if too_long(item) is None), None)
    if model.files is None or first is None:
        return ""
    try:
        ids = model.prompt_ids(job.prompt(Place(item=first, seed=0, index=0)), job.protocol.thinking)
    except UnsafeText:
        return ""
    return opened_thinking(model.files.tokenizer, ids)


def graded_text(raw: Raw, opened: str, *, thinking: bool) -> str:
    """Return the text that is graded: an opened thinking that did not end has no answer."""
    if opened and not raw.text.lstrip().startswith("<think>"):
        return opened + raw.text
    unended = (
        thinking
        and raw.finish_reason == "length"
        and "<think>" not in raw.text
        and "</think>" not in raw.text
    )
    return f"<think>{raw.text}" if unended else raw.text


class Run:
    """The generation of all jobs of one model, with its ledger and grading pool."""

    def __init__(self, model: Model, ledger: Ledger, pool: GradingPool, clock: Clock, log: Log) -> None:
        self.model, self.ledger, self.pool, self.clock, self.log = model, ledger, pool, clock, log
        self._batch: list[tuple[Samples, Place, str]] = []
        self._prompt_tokens: dict[
            tuple[str, int], int
        ] = {}  # by job and number of the problem, for those that fit

    def stream(
        self, jobs: Sequence[Job], sampling: EvaluationSampling, open_backend: Callable[[int], Backend]
    ) -> list[Samples]:
        """Generate what is missing of jobs with the same sampling settings, and return all samples. If anything is missing,
        `open_backend` is called with the most tokens that a prompt and its response have together."""
        every = [self._keyed(job) for job in jobs]
        openings = {one.fingerprint: opening(self.model, one.job) for one in every}
        missing = [(one, place) for one in every for place in self._unknown(one, openings[one.fingerprint])]
        self._flush()
        total = sum(len(one.keys) for one in every)
        self.log(
            f"{', '.join(one.job.name for one in every)}: {total - len(missing):,} of {total:,} samples are known"
        )
        if missing:
            longest = max(self._prompt_tokens.values(), default=0)
            self._generate(missing, sampling, openings, open_backend(longest + sampling.max_tokens))
        return every

    def _generate(
        self,
        missing: list[tuple[Samples, Place]],
        sampling: EvaluationSampling,
        openings: dict[str, str],
        backend: Backend,
    ) -> None:
        prompts = [one.job.prompt(place) for one, place in missing]
        notes = _Notes(len(missing), self.log)

        def finished(number: int, raw: Raw) -> None:
            one, place = missing[number]
            if raw.generated:
                prompt_tokens = raw.prompt_tokens or self._prompt_tokens.get((one.fingerprint, place.item), 0)
                value = {
                    "text": raw.text, "tokens": raw.tokens, "prompt_tokens": prompt_tokens, "finish_reason": raw.finish_reason,
                }  # fmt: skip
                self.ledger.put(one.keys[place], value, model=self.model.identity)
                self._grade(one, place, raw, openings[one.fingerprint])
            else:
                one.failures[place] = raw
            self.clock.count(one.fingerprint, raw.tokens)
            notes.count(raw.tokens)

        with self.clock.running():
            backend.generate(prompts, sampling, finished)
        self._flush()
        notes.last()

    def _keyed(self, job: Job) -> Samples:
        described = self.model.described(job.protocol.thinking)
        asked = [too_long(item) is None for item in job.items]
        keys = {
            place: job.key(job.prompt(place), described) if asked[place.item] else ""
            for place in job.places()
        }
        return Samples(job=job, fingerprint=job.fingerprint(described), keys=keys)

    def _unknown(self, one: Samples, opened: str) -> Iterator[Place]:
        """Yield the samples that have to be generated. Known ones are graded, and impossible ones become failures."""
        impossible = self._impossible(one)
        places = list(one.keys)
        for start in range(0, len(places), LOOKUP):
            part = places[start : start + LOOKUP]
            found = self.ledger.get_many([one.keys[place] for place in part])
            for place in part:
                if place.item in impossible:
                    one.failures[place] = impossible[place.item]
                elif (raw := from_ledger(found.get(one.keys[place]))) is not None:
                    self._grade(one, place, raw, opened)
                else:
                    yield place

    def _impossible(self, one: Samples) -> dict[int, Raw]:
        """Return the problems whose prompt cannot be sent, with the reason; keeps the length of the other prompts."""
        failures: dict[int, Raw] = {}
        for number, item in enumerate(one.job.items):
            why, reason = too_long(item), "prompt_too_long"
            if why is None and self.model.files is not None:
                place = Place(item=number, seed=one.job.protocol.seeds[0], index=0)
                try:
                    tokens = len(self.model.prompt_ids(one.job.prompt(place), one.job.protocol.thinking))
                    if tokens < (self.model.context or tokens + 1):
                        self._prompt_tokens[one.fingerprint, number] = tokens
                    else:
                        why = f"{tokens:,} tokens, the context holds {self.model.context:,}"
                except UnsafeText as error:
                    why, reason = str(error), "control_token"
            if why is not None:
                failures[number] = Raw(text=why, tokens=0, prompt_tokens=0, finish_reason=reason)
        return failures

    def _grade(self, one: Samples, place: Place, raw: Raw, opened: str) -> None:
        self._batch.append((one, place, graded_text(raw, opened, thinking=one.job.protocol.thinking)))
        if len(self._batch) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        jobs: list[Response] = [
            (text, one.job.items[place.item].answer, one.job.benchmark.answer) for one, place, text in batch
        ]
        future = self.pool.submit(grade_response, jobs)
        for slot, (one, place, _) in enumerate(batch):
            one.grades[place], one.slots[place] = future, slot


class _Notes:
    """Logs how many samples are done, at most every ten seconds."""

    def __init__(self, total: int, log: Log) -> None:
        self._total, self._log = total, log
        self._done = self._tokens = 0
        self._began = self._noted = time.monotonic()

    def count(self, tokens: int) -> None:
        self._done, self._tokens = self._done + 1, self._tokens + tokens
        if time.monotonic() - self._noted >= NOTE_S:
            self.last()

    def last(self) -> None:
        self._noted = time.monotonic()
        rate = self._tokens / max(1e-9, self._noted - self._began)
        self._log(f"{self._done:,} of {self._total:,} samples generated, {rate:,.0f} tokens a second")


class Clock:
    """Wall-clock seconds of generating the jobs of a stream, over all starts: lines of a file, added every ten seconds. Each job
    has the share of its tokens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens: dict[str, int] = {}
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._write()

    def count(self, job: str, tokens: int) -> None:
        """Count a finished sample of a job, given by its fingerprint."""
        self._tokens[job] = self._tokens.get(job, 0) + tokens
        if time.monotonic() - self._since >= NOTE_S:
            self._write()

    def _write(self) -> None:
        now = time.monotonic()
        seconds, self._since, tokens, self._tokens = now - self._since, now, self._tokens, {}
        make_folder(self._path.parent)
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seconds": round(seconds, 3), "tokens": tokens}) + "\n")

    def seconds(self, job: str) -> float:
        """Return the seconds of a job, over all starts."""
        total = 0.0
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                found = json.loads(line)
                whole = sum(found["tokens"].values())
                total += found["seconds"] * found["tokens"].get(job, 0) / max(1, whole)
            except (ValueError, LookupError, TypeError, AttributeError):  # a line that a kill cut off
                continue
        return total
