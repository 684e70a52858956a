"""A benchmark of tasks/benchmarks as a source: what a dataset is compared with (`decontam.benchmarks`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from tasks.benchmarks.base import HubData, Item, Part, content_digest
from tasks.benchmarks.base import load as load_benchmark
from tasks.benchmarks.registry import all_benchmarks, find
from tasks.config import PROJECT_ROOT, resource
from tasks.rows import Problem, Reason, Reject, Role, Tier, problem_id
from tasks.seeds.kinds import KindSettings, Loaded, SeedOutcome, SourceKind
from tasks.storage.hub import reach


class BenchmarkSource(KindSettings):
    """All problems of the benchmark `name`, from the hub at the commit that its file pins, or from a local copy."""

    kind: Literal["benchmark"] = "benchmark"
    name: str = Field(min_length=1)
    path: Path | None = resource(None)  # a local copy; the fingerprint contains its hash instead

    @model_validator(mode="after")
    def _it_exists(self) -> BenchmarkSource:
        if self.name not in all_benchmarks():
            raise ValueError(
                f"unknown benchmark {self.name!r}: choose of {', '.join(all_benchmarks())} (files in tasks/benchmarks/)"
            )
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """The data sets of the hub that the benchmark consists of."""
        data = find(self.name).data
        return data.parts if isinstance(data, HubData) else ()

    @property
    def revisions(self) -> dict[str, str]:
        """The pinned commit of each data set."""
        return {part.hub_id: part.revision for part in self.parts if part.revision is not None}

    @property
    def is_remote(self) -> bool:
        """Whether loading this source reads from the hub."""
        return self.path is None and bool(self.parts)

    @property
    def declared(self) -> tuple[Tier | None, int] | None:
        """Tier and number of problems, if it is known."""
        benchmark = find(self.name)
        return None if benchmark.problems is None else (benchmark.tier, benchmark.problems)

    @property
    def local(self) -> Path | None:
        """The local copy, if any; a relative path is relative to the project's folder."""
        return None if self.path is None else PROJECT_ROOT / self.path


_REASONS = {
    "language": Reason.OTHER_LANGUAGE, "modality": Reason.NEEDS_FIGURE, "question_type": Reason.PROOF,
    "no": Reason.NO_QUESTION,
}  # fmt: skip
"""Reason of a reject, by the first word of the benchmark's reason."""


def load(source: BenchmarkSource) -> Loaded:
    """Return the problems, those without an answer too, and a reject for every row that is not part of the benchmark."""
    found = load_benchmark(find(source.name), source.local, answered=False)
    rejects = [
        Reject(
            problem_id=f"{source.name}/{reason}/{number}", stage="benchmarks", detail=reason,
            reason=_REASONS.get(reason.split()[0], Reason.MULTIPLE_CHOICE),
        )
        for reason, count in found.rejected.items()
        for number in range(count)
    ]  # fmt: skip
    outcomes: tuple[SeedOutcome, ...] = (*(_problem(source, item) for item in found.items), *rejects)
    return Loaded(outcomes=outcomes, seen=len(outcomes))


def _problem(source: BenchmarkSource, item: Item) -> Problem:
    benchmark = find(source.name)
    row_id = problem_id(source=source.name, origin=item.id, strategy="", text=item.text)
    return Problem(
        id=row_id, text=item.text, tier=benchmark.tier, source=source.name, source_id=item.id,
        licence=benchmark.licence, role=Role(source.role), root_id=row_id, answer=item.answer, benchmark_root=True,
    )  # fmt: skip


def digest(source: BenchmarkSource) -> str:
    """Return the identity of the benchmark's content: commits, the hash of a local copy, or a generator's version."""
    return content_digest(find(source.name), source.local)


def check(source: BenchmarkSource) -> None:
    """Read a local copy completely; ask the hub for the data sets."""
    if source.is_remote:
        for part in source.parts:
            reach(source.name, part.hub_id, part.revision)
    else:
        load(source)


SOURCE = SourceKind(settings=BenchmarkSource, load=load, digest=digest, check=check)
