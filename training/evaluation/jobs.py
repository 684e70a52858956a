"""What an evaluation asks: one job per benchmark and protocol, and the samples of each, with their seeds and ledger keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prompts import MAX_VALUE_CHARS, load_prompt
from tasks.benchmarks.base import Benchmark, Item, Loaded, load, local_copy
from tasks.benchmarks.protocols import DECLARED, PROTOCOLS, Protocol, find_protocol
from tasks.benchmarks.registry import find
from tasks.config import PROJECT_ROOT, Sampling
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.identity import fingerprint, request_seed
from tasks.llm.ledger import request_key
from tasks.llm.offline_engine import SamplePrompt
from tasks.text import control_token
from training.evaluation import grading

VERSION = 1
"""Raise when the same settings give other samples or other scores."""
_OVERRIDES = ("samples", "temperature", "top_p", "top_k", "max_tokens", "thinking", "seeds")


class EvaluationSampling(Sampling):
    """Sampling as engines and endpoints get it; `top_k` 0 disables top-k."""

    top_k: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One sample of a job: the problem, the evaluation seed, and the number of the sample."""

    item: int
    seed: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One benchmark under one protocol. `protocol` has what the user changed and the benchmark's limit on the length; `preset` is
    the protocol of that name."""

    benchmark: Benchmark
    data: Loaded
    protocol: Protocol
    preset: Protocol
    items: tuple[Item, ...]
    shots: int

    @property
    def name(self) -> str:
        """Benchmark and protocol, for messages."""
        return f"{self.benchmark.name} ({self.folder_name})"

    @property
    def folder_name(self) -> str:
        """The protocol's name, with a digest of what deviates from it."""
        changed = self.deviations
        return (
            f"{self.preset.name}-{fingerprint(stage='protocol', version=1, settings=changed)[:8]}"
            if changed
            else self.preset.name
        )

    @property
    def deviations(self) -> dict[str, Any]:
        """Return what differs from the preset of this name and from the benchmark's own settings."""
        limit = self.benchmark.max_tokens
        expected = (
            replace(self.preset, max_tokens=min(self.preset.max_tokens, limit)) if limit else self.preset
        )
        changed = {
            name: getattr(self.protocol, name)
            for name in _OVERRIDES
            if getattr(self.protocol, name) != getattr(expected, name)
        }
        if self.shots != self.benchmark.shots:
            changed["shots"] = self.shots
        if len(self.items) != len(self.data.items):
            changed["limit"] = len(self.items)
        return changed

    @property
    def sampling(self) -> EvaluationSampling:
        """The sampling settings of every request."""
        own = self.protocol
        return EvaluationSampling(
            temperature=own.temperature, top_p=own.top_p, top_k=own.top_k, max_tokens=own.max_tokens
        )

    def places(self) -> Iterator[Place]:
        """Yield all samples: by problem, seed and number."""
        for item in range(len(self.items)):
            for seed in self.protocol.seeds:
                for index in range(self.protocol.samples):
                    yield Place(item=item, seed=seed, index=index)

    def prompt(self, place: Place) -> SamplePrompt:
        """Return the request of a sample. Its seed depends on the problem, the evaluation seed and the number of the sample,
        not on the model, so that two models are compared with the same random numbers."""
        item = self.items[place.item]
        return SamplePrompt(
            problem_id=item.id, prompt=self.benchmark.prompt, values={"problem": item.text}, examples=self.examples(item),
            seed=request_seed(item.id, f"{self.benchmark.name}/{place.seed}/{place.index}", "evaluation"),
        )  # fmt: skip

    def examples(self, item: Item) -> tuple[tuple[str, str], ...]:
        """Return the few-shot examples of a problem, their questions with the same answer instruction."""
        if not self.shots:
            return ()
        if item.group not in self._rendered:
            raise UserError(
                f"benchmark {self.benchmark.name} has no few-shot example of {item.group!r}: set shots to 0"
            )
        return self._rendered[item.group]

    @cached_property
    def _rendered(self) -> dict[str, tuple[tuple[str, str], ...]]:
        prompt = load_prompt(self.benchmark.prompt)
        found = {}
        for group, pairs in self.data.examples.items():
            found[group] = tuple(
                (prompt.render(problem=question)[-1]["content"], reply) for question, reply in pairs
            )
            if token := next((one for pair in pairs for text in pair if (one := control_token(text))), None):
                raise UserError(
                    f"benchmark {self.benchmark.name}: a few-shot example contains {token!r}, a token of templates"
                )
        return found

    def key(self, prompt: SamplePrompt, described: dict[str, Any]) -> str:
        """Return the ledger key of a sample: a hash of model, benchmark, prompt, sampling and seed."""
        settings = {
            **self.sampling.model_dump(), "benchmark": f"{self.benchmark.name}@{self.data.digest}",
            **{name: described[name] for name in ("thinking", "dtype", "context")},
        }  # fmt: skip
        return request_key(
            described["identity"], prompt.messages, settings, None, prompt.template.fingerprint, prompt.seed
        )

    def fingerprint(self, described: dict[str, Any]) -> str:
        """Return the identity of the result."""
        settings = {
            "protocol": self.described(), "benchmark": f"{self.benchmark.name}@{self.data.digest}", "items": len(self.items),
            "model": described, "grading": grading.VERSION,
        }  # fmt: skip
        return fingerprint(stage="evaluation", version=VERSION, settings=settings)

    def described(self) -> dict[str, Any]:
        """Return what is stored about the protocol with every result."""
        prompt, own = load_prompt(self.benchmark.prompt), self.protocol
        return {
            "name": self.preset.name, "source": self.preset.source, "deviations": self.deviations, "samples": own.samples,
            "seeds": list(own.seeds), **self.sampling.model_dump(), "thinking": own.thinking, "shots": self.shots,
            "prompt": prompt.fingerprint, "prompt_text": prompt.user,
        }  # fmt: skip


def open_jobs(settings: EvaluateSettings) -> list[Job]:
    """Read all benchmarks and return the jobs, in the order of the settings.

    Raises `UserError` for an unknown benchmark or protocol, and for data that cannot be read.
    """
    if not settings.benchmarks:
        raise UserError(
            "no benchmark is given: name some of tasks/benchmarks as BENCHMARKS, e.g. BENCHMARKS=gsm8k,math500"
        )
    jobs: dict[tuple[str, str], Job] = {}
    for entry in settings.benchmarks:
        benchmark, path = _named(entry, settings)
        shots = benchmark.shots if settings.shots is None else settings.shots
        data = load(benchmark, path, shots)
        items = data.items[: settings.limit]
        for preset in _protocols(settings, benchmark):
            jobs[benchmark.name, preset.name] = Job(
                benchmark=benchmark, data=data, items=items, shots=shots, preset=preset,
                protocol=_effective(preset, benchmark, settings),
            )  # fmt: skip
    return list(jobs.values())


def _named(entry: str, settings: EvaluateSettings) -> tuple[Benchmark, Path | None]:
    name, _, given = entry.partition("=")
    benchmark = find(name.strip())
    if given:
        return benchmark, PROJECT_ROOT / Path(given).expanduser()
    if settings.data is None:
        return benchmark, None
    folder = PROJECT_ROOT / settings.data.expanduser()
    if not folder.is_dir():
        raise UserError(f"DATA {folder} is no folder: give the folder of local copies of benchmarks")
    return benchmark, local_copy(benchmark, folder)


def _protocols(settings: EvaluateSettings, benchmark: Benchmark) -> list[Protocol]:
    names = [
        one for name in settings.protocols for one in (benchmark.protocols if name == DECLARED else (name,))
    ]
    if not names:
        raise UserError(f"no protocol is given: name some of {', '.join(PROTOCOLS)} as PROTOCOLS")
    return [find_protocol(name) for name in dict.fromkeys(names)]


def _effective(preset: Protocol, benchmark: Benchmark, settings: EvaluateSettings) -> Protocol:
    """Return the protocol with the benchmark's limit and what the user changed."""
    limited = replace(preset, max_tokens=min(preset.max_tokens, benchmark.max_tokens or preset.max_tokens))
    given = {name: value for name in _OVERRIDES if (value := getattr(settings, name)) is not None}
    found = replace(limited, **given)
    if found.samples > 1 and found.temperature == 0:
        raise UserError(
            f"{found.samples} samples at temperature 0 are all the same: set temperature above 0, or samples to 1"
        )
    return found


def too_long(item: Item) -> str | None:
    """Return why a text cannot be asked at all, or None."""
    if len(item.text) <= MAX_VALUE_CHARS:
        return None
    return f"{len(item.text):,} characters, at most {MAX_VALUE_CHARS:,} are asked"


def streams(jobs: Sequence[Job]) -> list[tuple[bool, EvaluationSampling, list[Job]]]:
    """Return the jobs by thinking mode and sampling settings: each group is generated in one stream, the longest
    responses first."""
    found: dict[tuple[bool, str], tuple[bool, EvaluationSampling, list[Job]]] = {}
    for job in jobs:
        key = job.protocol.thinking, job.sampling.model_dump_json()
        found.setdefault(key, (job.protocol.thinking, job.sampling, []))[2].append(job)
    return sorted(found.values(), key=lambda stream: (stream[0], -stream[1].max_tokens))
