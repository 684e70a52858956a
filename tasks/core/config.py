"""The settings of the factory: frozen pydantic models, unknown keys fatal, defaults = the papers' values.

Two kinds of field: those that change the result take part in a stage's fingerprint; those marked with `resource()`
(paths, endpoints, concurrency, memory, GPU counts) never do. A profile is `configs/<name>.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from tasks.core.errors import UserError
from tasks.core.rows import Strategy, Tier

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PROFILES = PROJECT_ROOT / "configs"

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


def resource(default: Any = ..., **constraints: Any) -> Any:
    """A field that does not change the result: left out of every fingerprint."""
    return Field(default, json_schema_extra={"resource": True}, **constraints)


class Settings(BaseModel):
    """Base of every section: immutable, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The values that change the result, as plain JSON data (fields marked `resource()` left out, at any depth)."""
        return {
            name: _plain(getattr(self, name))
            for name, info in type(self).model_fields.items()
            if not _is_resource(info)
        }


def _is_resource(info: Any) -> bool:
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("resource"))


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# --- sources -----------------------------------------------------------------------------------------------------


class Source(Settings):
    """One entry of `aggregate.sources`: what every source has. The further keys are those of its kind.

    Here they stay as they were written: `tasks.seeds.registry.resolve` finds the file of `tasks/seeds/` that has this
    kind, and its own frozen subclass of this model checks them (unknown keys fatal) before any model starts.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    name: str = ""  # stands in every row; empty: the kind
    role: Literal["seed", "curated"] = "seed"

    def identity(self) -> dict[str, Any]:
        """The values that change the result; of an entry that is not resolved yet, all that was written."""
        return {**super().identity(), **_plain(self.model_extra or {})}


def must_differ(sources: Sequence[Source]) -> None:
    """ValueError when two sources have one name."""
    names = [source.name or source.kind for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two sources are called {twice[0]!r}: give each its own name")


class AggregateSettings(Settings):
    sources: tuple[SerializeAsAny[Source], ...] = Field(min_length=1)
    test_problems: int = Field(default=200, ge=0)  # curated problems held out as the test split
    split_seed: int = 0

    @model_validator(mode="after")
    def _names_are_distinct(self) -> AggregateSettings:
        must_differ(self.sources)
        return self


# --- models ------------------------------------------------------------------------------------------------------


class Serve(Settings):
    """How to start an engine for a model on this machine: all of it is resources."""

    gpu_memory_fraction: Probability = resource(0.9)
    tensor_parallel_size: PositiveInt = resource(1)
    engines: PositiveInt = resource(1)  # offline engines (teacher): one per GPU
    kv_cache_gib: PositiveInt | None = resource(None)  # CPU only
    max_num_seqs: PositiveInt = resource(256)
    health_timeout_s: PositiveFloat = resource(600.0)
    batch_invariant: bool = resource(False)  # GPU only: vLLM's kernels whose sums do not depend on the batch
    port: int | None = resource(None)  # None: any free port


class ModelRole(Settings):
    """One role's model: reached at `base_url`, or served here by `serve`.

    The identity of a local model is a hash of its files, of a hub model `model@revision`.
    """

    model: str = resource()  # local folder (relative to the project) or hub id
    revision: str | None = None
    base_url: str | None = resource(None)
    api_key_env: str = resource("OPENAI_API_KEY")  # name of the environment variable; never the key
    serve: Serve | None = resource(None)
    thinking: bool = False
    max_model_len: PositiveInt = 8192
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    concurrency: PositiveInt = resource(64)  # most requests in flight
    request_timeout_s: PositiveFloat = resource(600.0)

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> ModelRole:
        if (self.base_url is None) == (self.serve is None):
            raise ValueError("give exactly one of base_url (a server that runs) and serve (start one here)")
        return self


class Sampling(Settings):
    temperature: float = Field(default=0.7, ge=0.0)
    top_p: Probability = 1.0
    max_tokens: PositiveInt = 4096


class Models(Settings):
    evolver: ModelRole
    quality_judge: ModelRole
    teacher: ModelRole
    equivalence_judge: ModelRole


# --- stages ------------------------------------------------------------------------------------------------------

FOLLOW_UPS = (Strategy.HARDER, Strategy.COMPETITION, Strategy.COMPOSE)


class EvolveSettings(Settings):
    """Rounds 1/2/3/5 by tier. Round 1 draws a strategy from the tier's weights for each of `branches` children; a later
    round gives every child one child by a different strategy out of `follow_ups`.

    The paper gives the rounds and the strategies but no numeric weights: these favour difficulty in the easy tiers,
    where seeds are plentiful and simple, and variety in the hard ones.

    `target` candidates are reached by as many times `branches` as that takes (tasks/core/evolution_plan.py). The paper's
    million comes of 15,000 easy, 22,500 medium, 9,400 hard and 110 competition seeds: 15,000 x 1 + 22,500 x 2 + 9,400 x 3
    + 110 x 5 = 88,750 candidates a branch, hence 12 branches, 1,065,000 candidates.
    """

    rounds: dict[Tier, int] = Field(
        default_factory=lambda: {Tier.EASY: 1, Tier.MEDIUM: 2, Tier.HARD: 3, Tier.COMPETITION: 5}
    )
    branches: dict[Tier, int] = Field(default_factory=lambda: dict.fromkeys(Tier, 1))
    target: PositiveInt | None = None  # candidates wanted of all rounds when nothing is rejected
    strategy_weights: dict[Tier, dict[Strategy, Weight]] = Field(
        default_factory=lambda: _default_strategy_weights()
    )
    follow_ups: tuple[Strategy, ...] = FOLLOW_UPS
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=2048)
    max_reply_chars: PositiveInt = 20_000
    seed: int = 0

    @model_validator(mode="after")
    def _every_tier_is_covered(self) -> EvolveSettings:
        for tier in Tier:
            weights = self.strategy_weights.get(tier, {})
            if sum(weights.values()) <= 0:
                raise ValueError(f"strategy_weights has no positive weight for tier {tier}")
            if self.rounds.get(tier, 0) < 0 or self.branches.get(tier, 0) < 1:
                raise ValueError(f"tier {tier} needs rounds >= 0 and branches >= 1")
        if len(set(self.follow_ups)) < 2:
            raise ValueError(
                "follow_ups needs two different strategies, since a follow-up never repeats its parent's"
            )
        return self


def _default_strategy_weights() -> dict[Tier, dict[Strategy, float]]:
    order = (
        Strategy.HARDER, Strategy.REWRITE, Strategy.ALGEBRAIZE, Strategy.APPLY, Strategy.COMPOSE, Strategy.COMPETITION,
    )  # fmt: skip
    table = {
        Tier.EASY: (0.30, 0.15, 0.15, 0.15, 0.15, 0.10),
        Tier.MEDIUM: (0.25, 0.15, 0.15, 0.15, 0.15, 0.15),
        Tier.HARD: (0.20, 0.15, 0.15, 0.10, 0.20, 0.20),
        Tier.COMPETITION: (0.20, 0.20, 0.15, 0.10, 0.20, 0.15),
    }
    return {tier: dict(zip(order, weights, strict=True)) for tier, weights in table.items()}


class RuleSettings(Settings):
    min_chars: PositiveInt = 30
    max_chars: PositiveInt = 2000
    max_repeated_share: Probability = 0.5  # of word 3-grams that are repeats


class DedupSettings(Settings):
    threshold: float = Field(default=0.7, gt=0.0, le=1.0)
    ngram: PositiveInt = 3  # words; the papers say only "0.7 similarity"
    seed: int = 1


class DecontamSettings(Settings):
    """When a problem counts as a benchmark problem in another dress. benchmarks/decontam.py measures hits and false alarms of
    these values.

    Benchmarks are `benchmarks` (nothing of them is evolved or exported), every seed and curated problem that its source
    declares one, and the test split. A descendant of a benchmark problem counts always; `checks` are those of the texts.
    """

    benchmarks: tuple[SerializeAsAny[Source], ...] = ()
    checks: tuple[Literal["ngram", "jaccard", "template"], ...] = ("ngram", "jaccard", "template")
    gram_words: PositiveInt = 13
    gram_share: Probability = 0.05  # least share of a benchmark problem's grams in the row
    common_grams: PositiveInt = 2  # a gram in more families of texts is a phrase of the trade: no evidence
    family_threshold: float = Field(
        default=0.3, gt=0.0, le=1.0
    )  # benchmark texts this similar are one family
    threshold: float = Field(default=0.7, gt=0.0, le=1.0)  # of the Jaccard check
    ngram: PositiveInt = 3  # words in a shingle, of Jaccard and template
    template_threshold: float = Field(default=0.5, gt=0.0, le=1.0)
    # words besides the numbers: a short template must reach `threshold`; with too few words for a template the formula
    # must agree character by character, numbers aside, and have so many of them
    short_template_words: PositiveInt = 20
    template_words: PositiveInt = 8
    formula_numbers: PositiveInt = 6

    @model_validator(mode="after")
    def _names_are_distinct(self) -> DecontamSettings:
        must_differ(self.benchmarks)
        return self


class JudgeSettings(Settings):
    """Temperature 0. `max_tokens` is generous for a five-key JSON object."""

    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=256)


class SelectSettings(Settings):
    """`target` is the number of evolved problems kept; None keeps all that is left (the paper's way)."""

    target: PositiveInt | None = 8000
    per_root: PositiveInt | None = None
    seed: int = 0


class SampleSettings(Settings):
    num_samples: int = Field(default=8, ge=2)
    sampling: Sampling = Sampling()
    logprobs: Literal["raw", "tempered"] = "raw"


class ClusterSettings(Settings):
    """`scope`: the tokens whose log-probabilities weigh a response (all, after `</think>`, or the boxed answer's).

    `overlap`: whether a shard is clustered while the teacher samples the next one. `auto`: unless both models run on the
    same CPU, of which one engine takes all cores.
    """

    unparsed: Literal["own", "one", "drop"] = "own"
    linkage: Literal["union_find", "complete"] = "union_find"
    scope: Literal["all", "after_think", "answer"] = "all"
    judge: Literal["when_undecided", "judge_all", "never"] = "when_undecided"
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)
    symbolic_timeout_s: PositiveFloat = 2.0  # for one pair
    overlap: Literal["auto", "always", "never"] = resource("auto")


class ExportSettings(Settings):
    name: str = "SURE-Math"
    licence: str = "cc-by-4.0"
    report_problems: PositiveInt = 10


class RunSettings(Settings):
    """Where and how wide: no result depends on it."""

    output: Path = resource(Path("output/pocket"))  # relative to the folder the project stands in
    shard_rows: PositiveInt = 1000  # of a shard at most; decides the cut, hence part of identity
    cpu_workers: PositiveInt = resource(2)  # processes of the stages that take no model, and of Math-Verify


PlanRole = Literal["evolver", "quality_judge", "teacher", "equivalence_judge", "student"]


class Rate(Settings):
    """Tokens a second of one GPU, an assumption until it was measured on the machine."""

    prompt: PositiveFloat
    output: PositiveFloat


class PlanSettings(Settings):
    """What the plan of a run assumes where nothing is known yet. No result depends on it.

    A problem that is not at hand has `problem_chars` (the mean of OlympiadBench is 313, of GSM8K 235), a child `growth`
    times the length of its parent (1.36 and 1.25 in the first two rounds of a small pocket build), a final answer
    `answer_tokens`, a response of teacher or student `solution_tokens`. Without the last the plan tells only the most
    that solutions can take; without the `rates` of a role, no GPU-hours.
    """

    problem_chars: PositiveInt = resource(300)
    growth: PositiveFloat = resource(1.3)
    answer_tokens: PositiveInt = resource(8)
    solution_tokens: PositiveInt | None = resource(None)
    rates: dict[PlanRole, Rate] = resource({})


class DistillSettings(Settings):
    """The hand-off to training. `run` holds the settings of training/config.py but for the paths, which the flow fills in;
    the student is measured on the problems of `held_out` that have an answer."""

    in_build: bool = resource(False)  # the flow sure-math ends with it too
    run: dict[str, Any] = Field(default_factory=dict)
    held_out: tuple[SerializeAsAny[Source], ...] = ()
    ray_address: str | None = resource(None)  # http://host:8265 of a Ray cluster; unset: on this machine


class RaySettings(Settings):
    """A Ray cluster for the stages that take no model: rules, deduplicate, decontaminate. Their results are the same
    without one. Its nodes need this package, and the output folder under the same path; a cluster that asks for a token
    needs RAY_AUTH_MODE=token and the token in the environment, as for any program of Ray."""

    address: str | None = resource(
        None
    )  # host:port, ray://host:port or auto; unset: processes of this machine


class Config(Settings):
    profile: str = resource("unnamed")
    run: RunSettings = RunSettings()
    ray: RaySettings = resource(RaySettings())
    models: Models
    aggregate: AggregateSettings
    evolve: EvolveSettings = EvolveSettings()
    rules: RuleSettings = RuleSettings()
    dedup: DedupSettings = DedupSettings()
    judge: JudgeSettings = JudgeSettings()
    select: SelectSettings = SelectSettings()
    decontam: DecontamSettings = DecontamSettings()
    sample: SampleSettings = SampleSettings()
    cluster: ClusterSettings = ClusterSettings()
    export: ExportSettings = ExportSettings()
    distill: DistillSettings | None = None  # no training where it is left out
    plan: PlanSettings = resource(PlanSettings())


# --- loading -----------------------------------------------------------------------------------------------------


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.yaml")))


def load_config(profile: str = "pocket", overrides: Mapping[str, Any] | None = None) -> Config:
    """Resolve `configs/<profile>.yaml` with `overrides` laid over it (nested, or with dotted keys: `{"select.target": 50}`).
    A profile that `extends` another one is laid over that in the same way.

    Raises `UserError` naming the file, the key and the remedy for an unknown profile, an unknown key or a bad value.
    """
    if profile not in profiles():
        raise UserError(
            f"unknown profile {profile!r}: choose one of {', '.join(profiles())} (files in configs/)"
        )
    data = _profile_data(profile)
    for key, value in (overrides or {}).items():
        _lay_over(data, key.split("."), value)
    try:
        return Config.model_validate({"profile": profile, **data})
    except ValidationError as error:
        origin = f"configs/{profile}.yaml or the overrides" if overrides else f"configs/{profile}.yaml"
        raise UserError(explain(error, origin, "tasks/core/config.py")) from error


def _profile_data(name: str, *extended_by: str) -> dict[str, Any]:
    """What a profile's file says, laid over what the profile says that it extends."""
    try:
        data = _unshared(yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configs/{name}.yaml is no valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"configs/{name}.yaml holds no settings: write sections such as models and aggregate")
    if (base := data.pop("extends", None)) is None:
        return data
    if base not in profiles():
        raise UserError(f"configs/{name}.yaml extends {base!r}: choose one of {', '.join(profiles())}")
    if base in (name, *extended_by):
        circle = " > ".join((*extended_by, name, base))
        raise UserError(f"configs/{name}.yaml: profiles extend each other in a circle ({circle}): break it")
    whole = _profile_data(base, *extended_by, name)
    for key, value in data.items():
        _lay_over(whole, [key], value)
    return whole


def _lay_over(data: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UserError(f"override {'.'.join(keys)}: {key!r} is a value, not a section")
    if isinstance(value, Mapping) and isinstance(data.get(last), dict):
        for key, item in value.items():
            _lay_over(data[last], [str(key)], item)
    else:
        data[last] = _unshared(value)


def _unshared(value: Any) -> Any:
    """A copy in which no section is another one, so that a change of one (a YAML alias, the caller's own) stays there."""
    if isinstance(value, Mapping):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list | tuple) else value


def explain(error: ValidationError, origin: str, keys: str, inside: tuple[str | int, ...] = ()) -> str:
    """One sentence on the first fault of settings: in which file (`origin`), at which key (below `inside`), what it is,
    and which file (`keys`) has the keys and their defaults."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in (*inside, *first["loc"])) or "the profile"
    what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{origin}: {where}: {what}{more}; see {keys} for the keys and their defaults"
