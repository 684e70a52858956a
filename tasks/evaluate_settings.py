"""The section `evaluate`, and the settings of `python -m training.evaluate`: which model, which benchmarks, and how."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tasks.keys import is_secret, refuse_credentials
from tasks.settings import Probability, Settings


class Prices(Settings):
    """Price of a million tokens, in any currency."""

    prompt: NonNegativeFloat = 0.0
    output: NonNegativeFloat = 0.0


class EvaluateSettings(Settings):
    """An evaluation. Values that are not given are the protocol's, the benchmark's or the model's own.

    `model`: folder of a checkpoint or of a LoRA adapter (with `base`, or the base that it names), hub id, or with `base_url` the
    name of a model behind an OpenAI-compatible endpoint. `benchmarks`: names of tasks/benchmarks, each optionally with a local
    copy (`gsm8k=data/gsm8k.jsonl`); `data`: a folder of local copies. `protocols`: names of tasks/benchmarks/protocols.py, or
    `declared` for those that a benchmark declares. `trained_on`: the dataset that the model was trained on, to report how many
    problems its training rows overlap with; for a student of ours it is found by itself.
    """

    model: str | None = None
    base: str | None = None
    revision: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: PositiveInt = 64
    request_timeout_s: PositiveFloat = 3600.0
    benchmarks: tuple[str, ...] = ()
    data: Path | None = None
    protocols: tuple[str, ...] = ("pass1_greedy",)
    out: Path = Path("output/evaluations")
    trained_on: Path | None = None
    # what deviates from the protocol; stored with the result, whose folder is then named after it
    samples: PositiveInt | None = None
    temperature: NonNegativeFloat | None = None
    top_p: Probability | None = None
    top_k: NonNegativeInt | None = None
    max_tokens: PositiveInt | None = None
    thinking: bool | None = None
    seeds: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    shots: NonNegativeInt | None = None
    limit: PositiveInt | None = None  # only the first problems
    # how the model is asked and served
    chat_template: Path | None = None
    template_date: datetime.date | None = None
    context: PositiveInt | None = None  # tokens of prompt and response together; None: all that the model has
    dtype: Literal["bfloat16", "float16", "float32"] | None = None  # None: float32 on a CPU, else bfloat16
    engines: PositiveInt | None = None  # None: as many as the GPUs allow
    tensor_parallel_size: PositiveInt = 1
    gpu_memory_fraction: Probability = 0.9
    kv_cache_gib: PositiveInt | None = None  # CPU only
    max_num_seqs: PositiveInt = 256
    health_timeout_s: PositiveFloat = 1800.0
    batch_invariant: bool = False
    cpu_workers: PositiveInt | None = None  # processes that grade; None: half of the cores, at most 4
    prices: Prices = Prices()

    @model_validator(mode="after")
    def _no_password(self) -> EvaluateSettings:
        refuse_credentials(self.base_url, "base_url")
        if not is_secret(self.api_key_env):
            raise ValueError(
                "api_key_env is not the name of a key: take one with the word KEY, TOKEN or SECRET, such as TEAM_API_KEY"
            )
        return self
