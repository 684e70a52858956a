"""The settings of the dataset factory: frozen pydantic models that reject unknown keys; defaults are the papers' values.

Fields that change the result are part of the stages' fingerprints; fields marked with `resource()` (paths, endpoints,
concurrency, memory, GPU counts) are not. A profile is a file `configs/<name>.yaml`. The sections `evolve`, `evaluate` and `plan`
are in tasks/evolve_settings.py, tasks/evaluate_settings.py and tasks/plan_settings.py.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings, Prices
from tasks.evolve_settings import EvolveSettings
from tasks.keys import is_secret, refuse_credentials
from tasks.plan_settings import PlanSettings
from tasks.settings import Probability, Sampling, Settings, plain, resource
from tasks.yaml_text import BadYaml, load_yaml

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PROFILES = PROJECT_ROOT / "configs"


# --- sources -----------------------------------------------------------------------------------------------------


class Source(Settings):
    """One entry of `aggregate.sources`: the fields that all sources share. All other keys depend on `kind`.

    These other keys are kept here without validation. `tasks.seeds.registry.resolve` finds the file in `tasks/seeds/`
    for this kind; its frozen subclass of this model validates them (and rejects unknown keys) before any model starts.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    name: str = ""  # written to every row; default: the kind
    role: Literal["seed", "curated"] = "seed"

    def identity(self) -> dict[str, Any]:
        """Return the values that change the result; for an unresolved entry, all keys as written."""
        return {**super().identity(), **plain(self.model_extra or {})}


def must_differ(sources: Sequence[Source]) -> None:
    """Raise ValueError if two sources have the same name."""
    names = [source.name or source.kind for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two sources have the name {twice[0]!r}: give each source a unique name")


class AggregateSettings(Settings):
    """The sources of the seeds, and the test split."""

    sources: tuple[SerializeAsAny[Source], ...] = Field(min_length=1)
    test_problems: int = Field(default=200, ge=0)  # curated problems held out as the test split
    split_seed: int = 0

    @model_validator(mode="after")
    def _names_are_distinct(self) -> AggregateSettings:
        must_differ(self.sources)
        return self


# --- models ------------------------------------------------------------------------------------------------------


class Serve(Settings):
    """How to start an engine for a model on this machine; all fields are resources."""

    gpu_memory_fraction: Probability = resource(0.9)
    tensor_parallel_size: PositiveInt = resource(1)
    engines: PositiveInt = resource(1)  # number of offline engines (teacher): one per GPU
    kv_cache_gib: PositiveInt | None = resource(None)  # CPU only
    max_num_seqs: PositiveInt = resource(256)
    health_timeout_s: PositiveFloat = resource(600.0)
    batch_invariant: bool = resource(False)  # GPU only: vLLM's kernels whose sums do not depend on the batch
    port: int | None = resource(None)  # None: any free port


class ModelRole(Settings):
    """The model of one role: behind existing servers (`base_url`, one or several) or started on this machine (`serve`). Its
    identity is a hash of the files of a local model, and `model@revision` of a hub model.

    `chat_template`: a Jinja file that replaces the checkpoint's chat template, for those without one. `template_date`: the date
    in the prompts of a template that contains the date. Both are for models served here. They are not settings of a stage, but
    part of the model's identity if they change its prompts (`tasks.llm.chat_templates`).
    """

    model: str = resource()  # local folder (relative to the project) or hub id
    revision: str | None = None
    base_url: str | tuple[str, ...] | None = resource(None)  # without `serve`, by default OPENAI_BASE_URL
    api_key_env: str = resource("OPENAI_API_KEY")  # name of the environment variable; never the key
    serve: Serve | None = resource(None)
    thinking: bool = False
    chat_template: Path | None = resource(None)
    template_date: datetime.date | None = resource(None)
    max_model_len: PositiveInt = 8192
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    concurrency: PositiveInt = resource(64)  # maximum number of requests in flight at each server
    request_timeout_s: PositiveFloat = resource(600.0)
    prices: Prices | None = resource(None)  # of a million tokens; None: no cost is shown

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The addresses of `base_url`, without a slash at the end; none if the model is served here."""
        urls = (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()
        return tuple(url.rstrip("/") for url in urls)

    @model_validator(mode="before")
    @classmethod
    def _address_of_the_environment(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("serve") is None and values.get("base_url") is None:
            return {**values, "base_url": os.environ.get("OPENAI_BASE_URL", "").strip() or None}
        return values

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> ModelRole:
        if (self.base_url is None) == (self.serve is None):
            raise ValueError("give either serve or base_url (by default OPENAI_BASE_URL of the environment)")
        if self.base_url is not None and not self.base_urls:
            raise ValueError("base_url names no server: give one address or several")
        for url in self.base_urls:
            refuse_credentials(url, "base_url")
            if self.base_urls.count(url) > 1:
                raise ValueError(f"base_url names {url} twice: name each server once")
        if self.serve is None and (self.chat_template is not None or self.template_date is not None):
            raise ValueError(
                "chat_template and template_date need serve: the server at base_url has a chat template and a date of its own"
            )
        if not is_secret(self.api_key_env):
            raise ValueError(
                "api_key_env is not the name of a key: take one with the word KEY, TOKEN or SECRET, such as TEAM_API_KEY, since"
                " by these words keys are kept from the processes that need none"
            )
        return self


class Models(Settings):
    """The models of a build, by role."""

    evolver: ModelRole
    quality_judge: ModelRole
    teacher: ModelRole
    equivalence_judge: ModelRole


# --- stages ------------------------------------------------------------------------------------------------------


class RuleSettings(Settings):
    """Which rules of tasks/problems/rules.py reject a problem by its text, and their limits."""

    length: bool = True
    min_chars: PositiveInt = 30
    max_chars: PositiveInt = 2000
    multiple_choice: bool = True
    # ours, not the paper's
    proof: bool = False
    several_questions: bool = False
    needs_figure: bool = False
    no_question: bool = False
    bad_characters: bool = False
    repetition: bool = False
    max_repeated_share: Probability = 0.5  # share of word 3-grams that are repetitions


class DedupSettings(Settings):
    """Near-duplicates: threshold of the Jaccard similarity, size of a shingle, and seed of the hash functions."""

    threshold: float = Field(default=0.7, gt=0.0, le=1.0)
    ngram: PositiveInt = 3  # words per shingle; the papers specify only "0.7 similarity"
    seed: int = Field(default=1, ge=0, lt=2**32)


Check = Literal["ngram", "jaccard", "template", "paraphrase"]


class NeighbourSettings(Settings):
    """A check by the quality judge, for paraphrases that no check on the texts finds: whether a problem is one of the at most
    `count` benchmark problems with the most similar templates, of a similarity of at least `threshold`, in other words."""

    count: PositiveInt = 2
    threshold: float = Field(default=0.15, gt=0.0, le=1.0)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=256)


class DecontamSettings(Settings):
    """When a problem is flagged as a benchmark problem or a variant of one.

    Benchmark problems are those of `benchmarks` (which are neither evolved nor exported), all seeds and curated problems
    whose source declares them as such, and the test split. Descendants of a benchmark problem are always flagged;
    `checks` lists the checks on the texts (tasks/problems/decontam.py). speed/decontam.py measures their hits and false alarms.
    Sources in `not_evaluated` (names) contain test problems that no student is evaluated on: they count as training data.
    """

    benchmarks: tuple[SerializeAsAny[Source], ...] = ()
    not_evaluated: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ("ngram", "jaccard", "template", "paraphrase")
    gram_words: PositiveInt = 13
    gram_share: Probability = (
        0.33  # minimum share of a benchmark problem's information in common runs of words
    )
    threshold: float = Field(default=0.7, gt=0.0, le=1.0)  # Jaccard check
    ngram: PositiveInt = 3  # words per shingle of the Jaccard and template checks
    template_threshold: float = Field(default=0.5, gt=0.0, le=1.0)
    # Bits, see tasks/problems/reference.py: what a row and a benchmark problem have in common carries at least `shared_bits`,
    # unless the texts are equal; a problem with at least `formula_bits` is also found by a template that is equal.
    shared_bits: NonNegativeFloat = 40.0
    formula_bits: NonNegativeFloat = 30.0
    # A paraphrase: the same numbers, a similar vocabulary, and at least these bits of distinct numbers and of common words.
    paraphrase_threshold: float = Field(default=0.2, gt=0.0, le=1.0)
    number_bits: NonNegativeFloat = 9.0
    word_bits: NonNegativeFloat = 30.0
    judge: NeighbourSettings | None = (
        None  # ask the quality judge about problems without a flag; one request per pair
    )

    @model_validator(mode="after")
    def _names_are_distinct(self) -> DecontamSettings:
        must_differ(self.benchmarks)
        return self


class JudgeSettings(Settings):
    """The quality judge, at temperature 0. `max_tokens` is generous for a JSON object with five keys."""

    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=256)


class SelectSettings(Settings):
    """`target` is the number of evolved problems to keep; None keeps all that remain. The paper ends with 8,000 and does not
    describe the cut. `stratify` takes as equal numbers as possible of each tier, or of each strategy of each tier; `none`
    draws from all problems alike, which keeps the proportions of the evolution."""

    target: PositiveInt | None = 8000
    stratify: Literal["none", "tier", "tier_strategy"] = "none"
    per_root: PositiveInt | None = None
    seed: int = 0


class SampleSettings(Settings):
    """The teacher's responses. `logprobs`: of the model's own distribution (raw), or after temperature and top p (tempered)."""

    num_samples: int = Field(default=8, ge=2)
    sampling: Sampling = Sampling()
    logprobs: Literal["raw", "tempered"] = "raw"


class ClusterSettings(Settings):
    """Clustering of a teacher's responses.

    `scope`: the tokens whose log-probabilities weight a response (all, those after `</think>`, or those of the boxed
    answer). `overlap`: whether to cluster a shard while the teacher samples the next one; `auto` does so unless both
    models run on the same CPU, because one engine uses all cores.
    """

    unparsed: Literal["own", "one", "drop"] = "own"
    linkage: Literal["union_find", "complete"] = "union_find"
    scope: Literal["all", "after_think", "answer"] = "all"
    judge: Literal["when_undecided", "judge_all", "never"] = "when_undecided"
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)
    symbolic_timeout_s: PositiveFloat = 2.0  # per pair
    overlap: Literal["auto", "always", "never"] = resource("auto")


class ExportSettings(Settings):
    """Name and licence of the dataset, and the number of example problems in the report."""

    name: str = "SURE-Math"
    licence: str = "cc-by-4.0"
    report_problems: PositiveInt = 10


class RunSettings(Settings):
    """Output folder and parallelism; only `shard_rows` is part of the identity.

    `lock_wait_s`: seconds that a run waits for another one in the same output folder before it is refused. `failure_block`: a
    block of Prefect's that is called when a run fails, by type and name, such as `webhook/ops` or `slack-webhook/ops`.
    """

    output: Path = resource(Path("output/pocket"))  # relative to the project's folder
    shard_rows: PositiveInt = 1000  # maximum rows per shard; part of the identity
    lock_wait_s: NonNegativeFloat = resource(0.0)
    cpu_workers: PositiveInt = resource(2)  # processes of the stages without a model, and of Math-Verify
    failure_block: str | None = resource(None, pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")


class DistillSettings(Settings):
    """The training stage. `run`: settings of training/config.py without the paths, which the flow sets; `teacher.model` is
    `models.teacher.model` unless given. The student is evaluated on the problems of `held_out` that have an answer: sources, or
    the dataset's own split `test`."""

    in_build: bool = resource(False)  # also run it at the end of the flow sure-math
    run: dict[str, Any] = Field(default_factory=dict)
    held_out: tuple[SerializeAsAny[Source], ...] | Literal["test"] = ()
    ray_address: str | None = resource(None)  # http://host:8265 of a Ray cluster; None: this machine
    licence: str | None = resource(None)  # of the student, for its release

    @model_validator(mode="after")
    def _no_password(self) -> DistillSettings:
        refuse_credentials(self.ray_address, "ray_address")
        return self

    @property
    def held_out_sources(self) -> tuple[Source, ...]:
        """The sources of `held_out`; none if the student is evaluated on the dataset's own split."""
        return () if self.held_out == "test" else self.held_out


class RaySettings(Settings):
    """A Ray cluster for the stages without a model (rules, deduplicate, decontaminate). It does not change their results.

    The nodes need this package and the output folder under the same path. For a cluster with token authentication, set
    RAY_AUTH_MODE=token and the token in the environment, as for any Ray program.
    """

    address: str | None = resource(None)  # host:port, ray://host:port, auto; None: processes on this machine

    @model_validator(mode="after")
    def _no_password(self) -> RaySettings:
        refuse_credentials(self.address, "address")
        return self


class Config(Settings):
    """All settings of a profile."""

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
    distill: DistillSettings | None = None  # None: no training
    plan: PlanSettings = resource(PlanSettings())
    evaluate: EvaluateSettings = resource(EvaluateSettings())  # changes nothing that a build makes

    @model_validator(mode="after")
    def _not_evaluated_sources_exist(self) -> Config:
        names = [source.name or source.kind for source in self.aggregate.sources]
        if unknown := [name for name in self.decontam.not_evaluated if name not in names]:
            raise ValueError(
                f"decontam.not_evaluated names the source {unknown[0]!r}, which is not in aggregate.sources: use names of"
                f" {', '.join(names)}, or []"
            )
        return self

    @model_validator(mode="after")
    def _held_out_problems_exist(self) -> Config:
        if self.distill is not None and self.distill.held_out == "test" and not self.aggregate.test_problems:
            raise ValueError(
                "distill.held_out is test, but aggregate.test_problems is 0: raise it, or set distill.held_out to a list of"
                " sources ([] for none)"
            )
        return self


# --- loading -----------------------------------------------------------------------------------------------------


def profiles() -> tuple[str, ...]:
    """Return the names of the profiles in configs/."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.yaml")))


def load_config(profile: str = "pocket", overrides: Mapping[str, Any] | None = None) -> Config:
    """Load `configs/<profile>.yaml` and merge `overrides` into it.

    Overrides are nested, or have dotted keys: `{"select.target": 50}`. A profile with the key `extends` is merged into
    the profile that it names in the same way.

    Raises `UserError`, with the file, the key and the remedy, for an unknown profile, an unknown key or an invalid value.
    """
    if profile not in profiles():
        raise UserError(
            f"unknown profile {profile!r}: choose one of {', '.join(profiles())} (files in configs/)"
        )
    data = _profile_data(profile)
    for key, value in (overrides or {}).items():
        _lay_over(data, key.split("."), value)
    _follow_teacher(data)
    try:
        return Config.model_validate({"profile": profile, **data})
    except ValidationError as error:
        origin = f"configs/{profile}.yaml or the overrides" if overrides else f"configs/{profile}.yaml"
        raise UserError(explain(error, origin, "tasks/config.py")) from error


def _follow_teacher(data: dict[str, Any]) -> None:
    """Set the model, unless there are several teachers, and the chat template in `distill.run` to those of `models.teacher`
    unless they are given."""
    with suppress(KeyError, TypeError, AttributeError):  # a section that the validation will refuse
        run, role = data["distill"].setdefault("run", {}), data["models"]["teacher"]
        if not run.get("teachers"):
            run.setdefault("teacher", {}).setdefault("model", role["model"])
        for key, name in {"chat_template": "chat_template", "template_date": "date"}.items():
            if role.get(key) is not None:
                run.setdefault("prompt", {}).setdefault(name, role[key])


def _profile_data(name: str, *extended_by: str) -> dict[str, Any]:
    """Return the content of a profile's file, merged into that of the profile it extends."""
    try:
        data = _unshared(load_yaml((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {})
    except (BadYaml, UnicodeDecodeError) as error:
        raise UserError(f"configs/{name}.yaml is not valid YAML, correct it: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"configs/{name}.yaml is not a mapping: write sections such as models and aggregate")
    if (base := data.pop("extends", None)) is None:
        return data
    if base not in profiles():
        raise UserError(
            f"configs/{name}.yaml extends an unknown profile {base!r}: choose one of {', '.join(profiles())}"
        )
    if base in (name, *extended_by):
        circle = " > ".join((*extended_by, name, base))
        raise UserError(
            f"configs/{name}.yaml: profiles extend each other in a circle ({circle}): remove one `extends`"
        )
    whole = _profile_data(base, *extended_by, name)
    for key, value in data.items():
        _lay_over(whole, [key], value)
    return whole


def _lay_over(data: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UserError(f"override {'.'.join(keys)}: {key!r} is a value, not a section: correct the key")
    if isinstance(value, Mapping) and isinstance(data.get(last), dict):
        for key, item in value.items():
            _lay_over(data[last], [str(key)], item)
    else:
        data[last] = _unshared(value)


def _unshared(value: Any) -> Any:
    """Return a deep copy in which no two sections share an object (a YAML alias, or the caller's own mapping)."""
    if isinstance(value, Mapping):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list | tuple) else value


def explain(
    error: ValidationError,
    origin: str,
    keys: str,
    inside: tuple[str | int, ...] = (),
    renamed: Mapping[str, str] | None = None,
) -> str:
    """Describe the first validation error in one sentence.

    `origin` is the file with the settings, `inside` the section that was validated (a prefix of the reported key), `keys`
    the file that lists the keys and their defaults, and `renamed` maps old keys to the keys that replaced them.
    """
    first = error.errors()[0]
    key = ".".join(str(part) for part in (*inside, *first["loc"]))
    kinds = {"extra_forbidden": "unknown key", "missing": "this setting is missing"}
    what = kinds.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "extra_forbidden" and renamed is not None and key in renamed:
        what = f"this key is now {renamed[key]}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = f"{origin}: {key}" if key else origin
    return f"{where}: {what}{more}; see {keys} for the keys and their defaults"
