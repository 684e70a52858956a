"""Settings of the two diagnostics of models: branch viability (PW-OPSD) and token entropy (EOPD). Defaults are the papers' values
where the papers give one; `docs/diagnostics.md` lists which do."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tasks.settings import Probability, Settings, resource

__all__ = ["PRESETS", "BranchSettings", "DiagnosticSettings", "EntropySettings"]


class DiagnosticSettings(Settings):
    """What both diagnostics have: problems, prompts, and how the models are run.

    `benchmarks`: names of tasks/benchmarks, each with an optional number of problems and an optional local copy
    (`math500:24=data/math500.jsonl`); so many are taken at equal distances. `dataset`: the folder of an exported dataset, whose
    rows of `split` that have a ground truth are used too. `context`: tokens of prompt and response together.
    """

    benchmarks: tuple[str, ...] = ()
    dataset: str | None = None
    split: str = "train"
    thinking: bool = True
    template_date: datetime.date | None = None
    context: PositiveInt = 32_768
    seed: NonNegativeInt = 0
    out: Path = resource(Path("output/diagnostics"))
    dtype: Literal["bfloat16", "float32"] | None = None  # None: float32 on a CPU, else bfloat16
    engines: PositiveInt = resource(1)
    max_num_seqs: PositiveInt = resource(256)
    gpu_memory_fraction: Probability = resource(0.9)
    kv_cache_gib: PositiveInt = resource(1)  # CPU only
    threads: PositiveInt | None = resource(None)  # of the models that score on a CPU
    cpu_workers: PositiveInt = resource(2)  # processes that grade

    @model_validator(mode="after")
    def _has_problems(self) -> DiagnosticSettings:
        if not self.benchmarks and self.dataset is None:
            raise ValueError("there are no problems: set benchmarks or dataset")
        return self


class BranchSettings(DiagnosticSettings):
    """Branch viability, phases A to G. `model` is the teacher; `student` generates, and is the same model unless it is given."""

    model: str
    student: str | None = None
    benchmarks: tuple[str, ...] = ("math500:24", "aime2024", "aime2025")
    view: Literal["answer", "answer_in_system"] = "answer"
    # A: the spine
    spine_tokens: PositiveInt = 16_384
    fallback_temperature: PositiveFloat = 0.7
    # B: the privileged pass
    top_k: int = Field(default=16, ge=2)
    # C: candidates
    min_second: Probability = 0.02
    min_ratio: Probability = 0.10
    spacing: PositiveInt = 64
    max_positions: PositiveInt = 5
    children: int = Field(default=3, ge=2)
    # D: MC dropout
    dropout_layers: PositiveInt = 4
    dropout: float = Field(default=0.1, gt=0.0, lt=1.0)
    passes: int = Field(default=5, ge=2)
    # E: continuations
    continuations: PositiveInt = 6
    temperature: PositiveFloat = 1.0
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    continuation_tokens: PositiveInt = 32_768
    # F: labels
    diverse_children: PositiveInt = 2
    diverse_rate: Probability = 0.75
    uncertain_rate: Probability = 0.40
    # G: areas
    resamples: PositiveInt = 2000

    @model_validator(mode="after")
    def _rates_are_apart(self) -> BranchSettings:
        if self.uncertain_rate > self.diverse_rate:
            raise ValueError("uncertain_rate is above diverse_rate: a branch could have both labels")
        if self.diverse_children > self.children:
            raise ValueError("diverse_children is above children: no branch could be diverse")
        return self


class EntropySettings(DiagnosticSettings):
    """Token entropy. `students`: folders of checkpoints, each optionally with a name (`step40=output/run/student`), in the order
    of the training."""

    teacher: str
    students: tuple[str, ...] = Field(min_length=1)
    thinking: bool = False
    samples: PositiveInt = 1
    temperature: PositiveFloat = 1.0
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: PositiveInt = 4096
    high_entropy: PositiveFloat = 1.0  # nats; the share of such tokens is reported
    threshold: PositiveFloat = 0.8  # nats of the teacher; the forward KL is reported at such positions
    top_ks: tuple[PositiveInt, ...] = Field(default=(1, 4, 16, 64, 256), min_length=1)
    bin_width: PositiveFloat = 0.2  # nats, of the histograms
    max_entropy: PositiveFloat = 4.0  # the last bin of a histogram has everything above
    resamples: PositiveInt = 2000


_POCKET: Final[Mapping[str, Any]] = {
    "benchmarks": ["pocket:80"], "thinking": False, "context": 1024, "threads": 1,
}  # fmt: skip
PRESETS: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "branch_viability": {
        "paper": {},
        "pocket": {
            **_POCKET, "model": "pocket/teacher", "spine_tokens": 448, "continuation_tokens": 448, "spacing": 8,
            "dropout_layers": 2, "out": "output/diagnostics/pocket",
        },
    },
    "token_entropy": {
        "paper": {},
        "pocket": {
            **_POCKET, "teacher": "pocket/teacher", "students": ["start=pocket/student"], "max_tokens": 448,
            "out": "output/diagnostics/pocket",
        },
    },
}  # fmt: skip
"""Settings by command and name, under what the user gives."""
