"""The settings of one distillation run: frozen pydantic models, unknown keys fatal, defaults = the papers' values.

No torch here: `flows/` and `tasks/` import this module and no other of `training`. As in `tasks.core.config`, a field
marked `resource()` (folders, memory, GPU counts, the cut into micro-batches) says where and how wide, never what comes
out. Relative paths stand under the project folder.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from tasks.core.config import PROJECT_ROOT, Probability, Settings, resource
from tasks.core.errors import UserError

PRESETS = Path(__file__).resolve().parent / "objectives" / "presets"

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VLLM_TOP_K = 16
"""The largest k that a vLLM teacher is asked for without being forced."""

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

ALL_PROJECTIONS: tuple[Projection, ...] = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip


class Section(Settings):
    model_config = ConfigDict(allow_inf_nan=False)


# --- what is trained on what -------------------------------------------------------------------------------------


class DatasetSettings(Section):
    """An exported dataset folder; its rows and its manifest's fingerprint take part in the run's identity, its path does not."""

    folder: Path = resource()
    config: str = "decontaminated"  # the papers train on everything: default
    split: str = "train"
    allow_mismatch: bool = False  # train although the manifest names another teacher, tokenizer or template


class StudentSettings(Section):
    model: str = resource()  # checkpoint folder; a hash of its files is its identity


class TeacherSettings(Section):
    """`in_process` runs the model's forward pass and takes the top k of its logits; `vllm` asks an engine for
    prompt_logprobs, which hands every entry over as Python objects: only for small k, unless `force` says so."""

    model: str = resource()  # checkpoint folder; a hash of its files is its identity
    engine: Literal["in_process", "vllm"] = "in_process"
    force: bool = resource(False)


# --- objective ---------------------------------------------------------------------------------------------------


class PlainWeight(Section):
    """`soft` is 1 - H / log N; `pass_rate` is p(1-p); `permuted` (shuffled over prompts by the run's seed) and `constant`
    (the mean of w) are controls."""

    kind: Literal["uniform", "soft", "pass_rate", "permuted", "constant"]


class BinaryWeight(Section):
    """Prompts with H > tau leave before sampling. `raw` compares nats (the paper's), `normalised` H / log N."""

    kind: Literal["binary"]
    tau: NonNegativeFloat  # the paper tries 0.3 and 0.5 and prefers neither
    scale: Literal["raw", "normalised"] = "raw"

    @model_validator(mode="after")
    def _tau_is_on_its_scale(self) -> BinaryWeight:
        if self.scale == "normalised" and self.tau > 1:
            raise ValueError("tau on the normalised scale lies between 0 and 1")
        return self


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


PromptWeight = Annotated[
    Annotated[PlainWeight | BinaryWeight, Field(discriminator="kind")], BeforeValidator(_named)
]


def presets() -> tuple[str, ...]:
    """Names of the objectives, one file each in training/objectives/presets/."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.py") if not path.stem.startswith("_")))


class ObjectiveSettings(Section):
    """A preset (a file of training/objectives/presets/) and the parts that an ablation changes.

    `prompt_weight` None keeps the preset's. `top_k` (tokens, or the full vocabulary) and its form are those of objectives
    with a top-k cross-entropy; no other reads them. `reference_kl_coefficient` is the beta of a penalty on every token, the KL
    divergence of the student from its start by the k3 estimator (GRPO's, arXiv:2402.03300, Eq. 4); it counts by the prompt's
    weight, as the rest of the loss does, and takes a frozen copy of the student to compute.

    `divergence_beta` None keeps the cross-entropy. A number puts on-policy GKD's loss in its place, the generalised
    Jensen-Shannon divergence over the full vocabulary (arXiv:2306.13649, Eq. 1): 0 is the forward KL(teacher || student), 0.5
    the symmetric one, 1 the reverse KL(student || teacher). It takes `top_k` "full", and no form.
    """

    preset: str = "uopd"
    prompt_weight: PromptWeight | None = None  # {"kind": "binary", "tau": 0.3}; a word where there is no tau
    top_k: PositiveInt | Literal["full"] = 512
    top_k_form: Literal["teacher_renormalised", "tail_bucket", "unnormalised"] = "teacher_renormalised"
    reference_kl_coefficient: NonNegativeFloat = 0.0  # 0: no penalty, and no reference is started
    divergence_beta: Probability | None = None

    def identity(self) -> dict[str, Any]:
        """A penalty or divergence that is not there is no part of it: runs without have the fingerprint that they always had."""
        absent = {"reference_kl_coefficient": 0.0, "divergence_beta": None}
        return {k: v for k, v in super().identity().items() if k not in absent or v != absent[k]}

    @model_validator(mode="after")
    def _preset_exists(self) -> ObjectiveSettings:
        if self.preset not in presets():
            raise ValueError(f"there is no preset {self.preset!r}: choose one of {', '.join(presets())}")
        return self

    @model_validator(mode="after")
    def _divergence_has_what_it_needs(self) -> ObjectiveSettings:
        if self.divergence_beta is None:
            return self
        if self.top_k != "full":
            raise ValueError(
                f'divergence_beta compares whole distributions, and top_k is {self.top_k}: set top_k to "full", or leave'
                " divergence_beta out"
            )
        if self.top_k_form != "teacher_renormalised":
            raise ValueError(
                f"top_k_form {self.top_k_form} is one of the cross-entropy, which divergence_beta replaces: leave one of the"
                " two out"
            )
        return self


class RolloutSettings(Section):
    """Sampling is never truncated (top-p 1, top-k off): the ratios of policy gradients need it."""

    per_prompt: PositiveInt = 4
    temperature: PositiveFloat = 1.0  # the UOPD paper is silent: the student's own distribution
    dtype: Literal["bfloat16", "float32"] | None = None  # of the engines; None: that of the training


class LengthSettings(Section):
    max_prompt_tokens: PositiveInt = 1024  # the papers are silent; a problem has at most 2,000 characters
    max_response_tokens: PositiveInt = 4096
    thinking: bool = False  # as the dataset was annotated


# --- optimisation ------------------------------------------------------------------------------------------------


class OptimizerSettings(Section):
    """AdamW; the learning rate rises linearly over the warm-up, then falls to 0 along a cosine."""

    learning_rate: PositiveFloat = 3e-6
    warmup_fraction: Probability = 0.05  # of all steps, rounded up: 20 of 391
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0  # the papers name none, and at 3e-6 it would move nothing
    max_gradient_norm: PositiveFloat = 1.0


class BatchSettings(Section):
    """`size` counts prompts (the papers say "batch 128"; with K = 4 that is 512 rollouts) or rollouts."""

    size: PositiveInt = 128
    unit: Literal["prompts", "rollouts"] = "prompts"
    draws: PositiveInt = 50_000  # prompts drawn in the whole run, uniformly and with replacement


class LoraSettings(Section):
    rank: PositiveInt = 64
    alpha: PositiveFloat = 128.0
    targets: tuple[Projection, ...] = Field(default=ALL_PROJECTIONS, min_length=1)


class EngineSettings(Section):
    """The student's training engine (DeepSpeed)."""

    zero_stage: Literal[0, 1, 2, 3] = resource(2)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # float32 for exactness tests and small CPU runs
    gradient_checkpointing: bool = resource(True)
    micro_batch_tokens: PositiveInt = resource(8192)  # most tokens of one forward pass
    head_chunk: PositiveInt = resource(256)  # positions that go through the LM head at a time
    lora: LoraSettings | None = None


# --- where it runs -----------------------------------------------------------------------------------------------


class PlacementSettings(Section):
    """`split`: every student rank, the teacher and every engine on a GPU of its own. `colocated`: every GPU holds a student
    rank, a teacher and an engine, which sleeps while the student trains. `cpu`: the same actors on this machine's cores.
    """

    kind: Literal["split", "colocated", "cpu"] = resource("split")
    students: PositiveInt = resource(1)  # data-parallel ranks
    engines: PositiveInt = resource(2)
    gpu_memory_gb: PositiveFloat = resource(80.0)  # of one card, 10^9 bytes
    engine_memory_fraction: Probability | None = resource(None)  # None: 0.9 in split, 0.3 in colocated
    engine_max_seqs: PositiveInt = resource(256)  # rollouts in flight in one engine
    engine_batch_invariant: bool = resource(
        False
    )  # GPU only: vLLM's kernels whose sums do not depend on the batch
    cpu_kv_gib: PositiveInt = resource(1)  # cpu only: KV cache of one engine

    @model_validator(mode="after")
    def _colocated_pairs_up(self) -> PlacementSettings:
        if self.kind == "colocated" and self.students != self.engines:
            raise ValueError(
                f"colocated puts one student and one engine on every GPU, not {self.students} and {self.engines}: give both"
                " the number of GPUs"
            )
        return self


class CheckpointSettings(Section):
    every: PositiveInt = resource(50)  # steps
    keep: PositiveInt = resource(3)


class EvaluationSettings(Section):
    """Held-out problems that the student is measured on before the first step and after the last."""

    problems: Path = resource()  # JSON lines with id, problem and answer
    samples: PositiveInt = 4  # a problem: avg@4 estimates pass@1
    temperature: PositiveFloat = 0.7  # as the teacher's samples for annotation


class RunConfig(Section):
    output: Path = resource()  # holds a folder for each run, see `run_folder`
    dataset: DatasetSettings
    student: StudentSettings
    teacher: TeacherSettings
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    rollouts: RolloutSettings = RolloutSettings()
    lengths: LengthSettings = LengthSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batches: BatchSettings = BatchSettings()
    engine: EngineSettings = EngineSettings()
    placement: PlacementSettings = PlacementSettings()
    overlap: Literal["on_policy", "one_step_off"] = "on_policy"
    checkpoints: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)  # torch takes no larger one
    self_tests: bool = resource(True)

    @property
    def prompts_per_step(self) -> int:
        per_prompt = self.rollouts.per_prompt if self.batches.unit == "rollouts" else 1
        return self.batches.size // per_prompt

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; the last one may be partial."""
        return math.ceil(self.batches.draws / self.prompts_per_step)

    @property
    def warmup_steps(self) -> int:
        return math.ceil(self.optimizer.warmup_fraction * self.steps)

    @property
    def rollout_dtype(self) -> Literal["bfloat16", "float32"]:
        """Data type of the rollout engines."""
        return self.rollouts.dtype or self.engine.dtype

    @property
    def context_tokens(self) -> int:
        """Longest sequence, prompt and response together."""
        return self.lengths.max_prompt_tokens + self.lengths.max_response_tokens

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RunConfig:
        for problem in (_batch_problem(self), _length_problem(self), _teacher_problem(self)):
            if problem is not None:
                raise ValueError(problem)
        if self.overlap == "one_step_off" and self.placement.kind == "colocated":
            raise ValueError(
                "overlap one_step_off needs engines that run while the student trains, but colocated engines sleep then:"
                " choose placement split or overlap on_policy"
            )
        return self


def _batch_problem(run: RunConfig) -> str | None:
    size, per_prompt = run.batches.size, run.rollouts.per_prompt
    if run.batches.unit == "prompts" or size % per_prompt == 0:
        return None
    return (
        f"batches.size is {size} rollouts, which rollouts.per_prompt {per_prompt} does not divide: choose a multiple of it"
    )  # fmt: skip


def _length_problem(run: RunConfig) -> str | None:
    if run.engine.micro_batch_tokens >= run.context_tokens:
        return None
    return (
        f"engine.micro_batch_tokens is {run.engine.micro_batch_tokens}, but one sequence may have {run.context_tokens} tokens"
        " (lengths.max_prompt_tokens + max_response_tokens): raise the first or lower the others"
    )


def _teacher_problem(run: RunConfig) -> str | None:
    teacher, k = run.teacher, run.objective.top_k
    if teacher.engine == "in_process":
        return None
    if run.placement.kind == "colocated":
        return (
            "teacher.engine vllm keeps a card of its own, and colocated engines share theirs: choose placement split or"
            " teacher.engine in_process"
        )
    if teacher.force or (k != "full" and k <= VLLM_TOP_K):
        return None
    return (
        f"teacher.engine vllm scores up to objective.top_k {VLLM_TOP_K}, and top_k is {k}: choose teacher.engine in_process,"
        " whose cost hardly grows with k, or set teacher.force"
    )


# --- loading -----------------------------------------------------------------------------------------------------


def run_folder(output: Path, fingerprint: str) -> Path:
    """Where the run with this fingerprint lies: each has a folder of its own, so that other settings, data or models never
    meet the checkpoints of an earlier run."""
    return project_path(output) / fingerprint[:12]


def project_path(path: Path | str) -> Path:
    """An absolute path as it is; a relative one under the project folder."""
    return PROJECT_ROOT / Path(path).expanduser()


def load_run(path: Path) -> RunConfig:
    """The run described by a JSON file. `UserError` names the file, the key and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the RUN.json of a distillation run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give the RUN.json of a distillation run"
        ) from error
    return run_from(_strict_json(text, path), str(path))


def _strict_json(text: str, path: Path) -> Any:
    """What the text holds; Python's own reader takes a key twice, and words that are no JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{path} gives the key {twice!r} twice in one object: keep one of the two")
        return dict(pairs)

    def refuse(word: str) -> Any:
        raise UserError(f"{path} holds {word}, which is no number of JSON: write a finite number instead")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}; correct it there"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path} is nested too deeply to be read: write the settings of a distillation run"
        ) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{path} cannot be read ({error}): correct the number") from error


def run_from(data: Mapping[str, Any], where: str) -> RunConfig:
    """The run described by plain data, as a profile's section holds it; `where` names its origin in a `UserError`."""
    if not isinstance(data, Mapping):
        raise UserError(
            f"{where} holds no settings: write an object with output, dataset, student and teacher"
        )
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        raise UserError(
            f"{where}: {_explain(error)}; see training/config.py for the keys and their defaults"
        ) from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    kinds = {"extra_forbidden": "unknown key", "missing": "this setting is missing"}
    what = kinds.get(first["type"], first["msg"].removeprefix("Value error, "))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key}: {what}{more}" if key else f"{what}{more}"
