"""The settings of one distillation run: frozen pydantic models, unknown keys fatal, defaults = the papers' values.

This module does not import torch, because `flows/` and `tasks/` import it (and no other module of `training`). As in
`tasks.config`, fields marked `resource()` (folders, memory, GPU counts, micro-batch sizes) do not affect the result of a
run. Relative paths are relative to the project folder.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from tasks.config import PROJECT_ROOT, Probability, Settings, explain, resource
from tasks.errors import UserError
from training.dataset_settings import DatasetSettings
from training.evaluation_settings import BudgetSettings, EvaluationSettings
from training.teacher_settings import RoutedTeacher, Routing, TeacherSettings, teachers_problem

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VLLM_TOP_K = 16
"""The largest `algorithm.top_k` that a vLLM teacher accepts without `teacher.force`."""

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

ALL_PROJECTIONS: tuple[Projection, ...] = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip

RENAMED_KEYS = {
    "algorithm.preset": "algorithm.name",
    "batches.draws": "batches.total_prompts",
    "engine": "trainer",
    "objective": "algorithm",
    "rollouts.per_prompt": "rollouts.group_size",
    "teacher.engine": "teacher.backend",
}
"""Old keys of RUN.json and `distill.run`, and the keys that replaced them."""


class Section(Settings):
    """Base of the classes below, whose numbers must be finite."""

    model_config = ConfigDict(allow_inf_nan=False)


# --- models ------------------------------------------------------------------------------------------


class StudentSettings(Section):
    """The model that is trained."""

    model: str = resource()  # checkpoint folder; identified by a hash of its files
    dropout: bool = False  # train with the attention_dropout of its config.json


# --- algorithm ---------------------------------------------------------------------------------------------------


class PlainWeight(Section):
    """`soft` is 1 - H / log N; `pass_rate` is p(1-p); `permuted` (shuffled over prompts by the run's seed) and `constant`
    (the mean of w) are controls."""

    kind: Literal["uniform", "soft", "pass_rate", "permuted", "constant"]


class BinaryWeight(Section):
    """Prompts with H > tau are removed before sampling. `raw` compares H in nats (as the paper does), `normalised` H / log N."""

    kind: Literal["binary"]
    tau: NonNegativeFloat  # the paper tries 0.3 and 0.5 without a preference
    scale: Literal["raw", "normalised"] = "raw"

    @model_validator(mode="after")
    def _tau_is_on_its_scale(self) -> BinaryWeight:
        if self.scale == "normalised" and self.tau > 1:
            raise ValueError("tau on the normalised scale must be between 0 and 1")
        return self


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


PromptWeight = Annotated[
    Annotated[PlainWeight | BinaryWeight, Field(discriminator="kind")], BeforeValidator(_named)
]


class AlgorithmSettings(Section):
    """An algorithm and the parts of it that an ablation changes; None keeps the algorithm's own.

    `name`: a file of training/algorithms/, or an importable module with an `ALGORITHM`. `top_k` (a number of tokens, or "full"
    for the whole vocabulary) and `top_k_form` apply to a top-k cross-entropy. `reference_kl_coefficient` is the beta of a penalty
    on every token: the KL divergence of the student from its initial weights, by the k3 estimator (GRPO, arXiv:2402.03300, Eq.
    4). The penalty is multiplied by the prompt's weight like the rest of the loss, and needs a frozen copy of the initial
    student.

    `divergence_beta` replaces the cross-entropy by the loss of on-policy GKD, the generalised Jensen-Shannon divergence over the
    full vocabulary (arXiv:2306.13649, Eq. 1): 0 is the forward KL(teacher || student), 0.5 the symmetric divergence, 1 the
    reverse KL(student || teacher). It requires the full distribution.

    `temperature` divides the logits of teacher and student in the distillation loss. `options`: settings that the algorithm's own
    file defines. `rollout_weight`: a factor of each rollout; `answer_share` is the teacher's probability of the cluster that its
    answer falls in. `position_schedule`: the token weights of PW-OPSD. `reduction`: from tokens to one number.
    `updates_per_batch`: optimizer steps per rollout batch, each on as many prompts. `importance_correction`: of policy gradients,
    for log-probabilities of the rollout engine that differ from the student's; it multiplies the advantages by min(ratio,
    `importance_cap`), of the token or of its whole sequence.
    """

    name: str = "uopd"
    options: dict[str, JsonValue] = Field(default_factory=dict)  # see docs/algorithms.md
    prompt_weight: PromptWeight | None = None  # {"kind": "binary", "tau": 0.3}, or "soft"
    rollout_weight: Literal["answer_share"] | None = None
    top_k: PositiveInt | Literal["full"] | None = None
    top_k_form: Literal["teacher_renormalised", "tail_bucket", "unnormalised"] | None = None
    reference_kl_coefficient: NonNegativeFloat | None = None
    divergence_beta: Probability | None = None
    temperature: PositiveFloat | None = None
    position_schedule: Literal["uniform", "mild", "moderate", "sharp", "aggressive"] | None = None
    reduction: Literal["sequence_mean", "token_mean"] | None = None
    updates_per_batch: PositiveInt | None = None
    importance_correction: Literal["none", "token", "sequence"] = "none"
    importance_cap: PositiveFloat = 2.0

    @model_validator(mode="after")
    def _divergence_has_what_it_needs(self) -> AlgorithmSettings:
        if self.divergence_beta is None:
            return self
        if self.top_k_form is not None:
            raise ValueError(
                f"top_k_form {self.top_k_form} applies to the cross-entropy, which divergence_beta replaces: remove one of the"
                " two"
            )
        return self


class RolloutSettings(Section):
    """Sampling of the student's rollouts. `top_p` and `top_k` truncate it, which policy gradients do not allow, since their
    ratios require the full distribution, unless `allow_truncated`."""

    group_size: PositiveInt = 4
    temperature: PositiveFloat = 1.0  # not given in the UOPD paper; 1 is the student's own distribution
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: PositiveInt | None = None
    allow_truncated: bool = False
    dtype: Literal["bfloat16", "float32"] | None = None  # of the rollout engines; None: that of the training
    samples_every: PositiveInt | None = resource(None)  # steps between two tables of sample rollouts


class LengthSettings(Section):
    """Maximum number of tokens of a prompt and of a response, and whether the chat template allows thinking."""

    max_prompt_tokens: PositiveInt = 1024  # not given in the papers; a problem has at most 2,000 characters
    max_response_tokens: PositiveInt = 4096
    thinking: bool = False  # as the dataset was annotated


class PromptSettings(Section):
    """The chat template of student and teacher, and the tokens that end a response.

    `chat_template`: a Jinja file that replaces the checkpoints' own, for those without one; it is exported with the student.
    `date`: what a template that contains the date gets from `strftime_now`. `end_tokens`: in addition to those of both models.
    """

    chat_template: Path | None = resource(None)  # identified by its content
    date: datetime.date | None = None
    end_tokens: tuple[str, ...] = ()


# --- optimisation ------------------------------------------------------------------------------------------------


class OptimizerSettings(Section):
    """AdamW with linear warm-up of the learning rate, then cosine decay to 0."""

    learning_rate: PositiveFloat = 3e-6
    warmup_fraction: Probability = 0.05  # of all steps, rounded up: 20 of 391
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0  # not given in the papers; negligible at a learning rate of 3e-6
    max_gradient_norm: PositiveFloat = 1.0


class BatchSettings(Section):
    """`size` counts prompts (the papers state "batch 128"; with K = 4 that is 512 rollouts) or rollouts. It is the size of a
    rollout batch, whose rollouts all come from the same weights; a batch has `algorithm.updates_per_batch` optimizer steps."""

    size: PositiveInt = 128
    unit: Literal["prompts", "rollouts"] = "prompts"
    total_prompts: PositiveInt | None = 50_000  # prompts drawn in the whole run; None: `epochs` times all
    draw: Literal["with_replacement", "epochs"] = (
        "with_replacement"  # epochs: all prompts in a new order each
    )
    epochs: PositiveInt = 1


class LoraSettings(Section):
    """LoRA adapters, trained instead of the full weights: rank, scale alpha, dropout, and the projections that have one."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 128.0
    dropout: Decay = 0.0
    targets: tuple[Projection, ...] = Field(default=ALL_PROJECTIONS, min_length=1)


class TrainerSettings(Section):
    """The trainer backend (DeepSpeed)."""

    zero_stage: Literal[0, 1, 2, 3] = resource(1)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # float32 for exactness tests and small CPU runs
    gradient_checkpointing: bool = resource(True)
    micro_batch_tokens: PositiveInt = resource(8192)  # maximum number of tokens in one forward pass
    head_chunk: PositiveInt = resource(256)  # number of positions that pass through the LM head at once
    lora: LoraSettings | None = None


# --- placement and run -------------------------------------------------------------------------------------------


class PlacementSettings(Section):
    """`split`: every student rank, the teacher and every rollout engine has its own GPU. `colocated`: every GPU is shared by a
    student rank, a teacher and a rollout engine, which sleeps while the student trains. `cpu`: the same workers on the cores of
    this machine.
    """

    kind: Literal["split", "colocated", "cpu"] = resource("split")
    students: PositiveInt = resource(1)  # data-parallel ranks
    engines: PositiveInt = resource(2)
    gpu_memory_gb: PositiveFloat = resource(80.0)  # of one GPU, in 10^9 bytes
    engine_memory_fraction: Probability | None = resource(None)  # None: 0.9 in split, 0.3 in colocated
    engine_max_seqs: PositiveInt = resource(256)  # concurrent sequences per rollout engine
    engine_batch_invariant: bool = resource(False)  # GPU only: vLLM's batch-invariant kernels
    cpu_kv_gib: PositiveInt = resource(1)  # cpu only: KV cache per engine

    @model_validator(mode="after")
    def _colocated_pairs_up(self) -> PlacementSettings:
        if self.kind == "colocated" and self.students != self.engines:
            raise ValueError(
                f"colocated needs as many students as engines, one of each per GPU, but students is {self.students} and engines"
                f" is {self.engines}: set both to the number of GPUs"
            )
        return self


class CheckpointSettings(Section):
    """Steps between two checkpoints, and the number of checkpoints that are kept."""

    every: PositiveInt = resource(50)  # steps
    keep: PositiveInt = resource(3)


class RunConfig(Section):
    """All settings of a training run."""

    output: Path = resource()  # contains one folder per run, see `run_folder`
    dataset: DatasetSettings
    student: StudentSettings
    teacher: TeacherSettings | None = None  # for algorithms that have one
    teachers: tuple[RoutedTeacher, ...] = ()  # in its place, several, with `routing`
    routing: Routing | None = None  # "lowest_entropy", "weighted" or {"kind": "column", "column": ...}
    algorithm: AlgorithmSettings = AlgorithmSettings()
    rollouts: RolloutSettings = RolloutSettings()
    lengths: LengthSettings = LengthSettings()
    prompt: PromptSettings = PromptSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batches: BatchSettings = BatchSettings()
    trainer: TrainerSettings = TrainerSettings()
    placement: PlacementSettings = PlacementSettings()
    overlap: Literal["on_policy", "one_step_off"] = "on_policy"
    checkpoints: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings | None = None
    budget: BudgetSettings = BudgetSettings()
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = resource(
        ("tensorboard",)
    )  # besides the run's own files
    seed: int = Field(default=0, ge=0, lt=2**63)  # the limit of torch
    self_tests: bool = resource(True)

    def identity(self) -> dict[str, Any]:
        """See `Settings`; without the settings of several teachers unless the run has them."""
        found = super().identity()
        unused = () if self.teachers else ("teachers", "routing")
        return {name: value for name, value in found.items() if name not in unused}

    @property
    def prompts_per_step(self) -> int:
        """Number of prompts per optimizer step."""
        group_size = self.rollouts.group_size if self.batches.unit == "rollouts" else 1
        return self.batches.size // group_size

    @property
    def rollout_dtype(self) -> Literal["bfloat16", "float32"]:
        """Data type of the rollout engines."""
        return self.rollouts.dtype or self.trainer.dtype

    @property
    def context_tokens(self) -> int:
        """Maximum length of a sequence, prompt and response together."""
        return self.lengths.max_prompt_tokens + self.lengths.max_response_tokens

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RunConfig:
        checks = (_batch_problem, _length_problem, _draw_problem, _held_out_problem, _teachers_problem)
        for problem in (check(self) for check in checks):
            if problem is not None:
                raise ValueError(problem)
        if self.overlap == "one_step_off" and self.placement.kind == "colocated":
            raise ValueError(
                "overlap one_step_off needs engines that run while the student trains, but colocated engines sleep meanwhile:"
                " choose placement split or overlap on_policy"
            )
        return self


def _batch_problem(run: RunConfig) -> str | None:
    size, group_size = run.batches.size, run.rollouts.group_size
    if run.batches.unit == "prompts" or size % group_size == 0:
        return None
    return (
        f"batches.size {size} (rollouts) is not a multiple of rollouts.group_size {group_size}: choose a multiple of it"
    )  # fmt: skip


def _length_problem(run: RunConfig) -> str | None:
    if run.trainer.micro_batch_tokens >= run.context_tokens:
        return None
    return (
        f"trainer.micro_batch_tokens is {run.trainer.micro_batch_tokens}, but one sequence may have {run.context_tokens} tokens"
        " (lengths.max_prompt_tokens + max_response_tokens): raise trainer.micro_batch_tokens or lower the lengths"
    )


def _draw_problem(run: RunConfig) -> str | None:
    total = run.batches.total_prompts
    if total is None and run.batches.draw == "with_replacement":
        return 'batches.total_prompts is null, but prompts are drawn with replacement: set it, or batches.draw to "epochs"'
    return None


def _held_out_problem(run: RunConfig) -> str | None:
    given = run.evaluation is not None and run.evaluation.problems is not None
    if run.dataset.held_out and given:
        return "dataset.held_out and evaluation.problems both choose the held-out problems: remove one of the two"
    if run.evaluation is not None and not given and not run.dataset.held_out:
        return "evaluation has no problems: set evaluation.problems or dataset.held_out"
    return None


def _teachers_problem(run: RunConfig) -> str | None:
    return teachers_problem(run.teacher, run.teachers, run.routing)


# --- loading -----------------------------------------------------------------------------------------------------


def run_folder(output: Path, fingerprint: str) -> Path:
    """Return the folder of the run with this fingerprint. Every run has its own folder, so that a run with other settings, data
    or models never finds the checkpoints of an earlier one."""
    return project_path(output) / fingerprint[:12]


def project_path(path: Path | str) -> Path:
    """Return the path with a relative one resolved against the project folder."""
    return PROJECT_ROOT / Path(path).expanduser()


def load_run(path: Path) -> RunConfig:
    """Read the settings of a run from a JSON file. Raises `UserError` with the file, the key and the problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the RUN.json of a distillation run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give the RUN.json of a distillation run"
        ) from error
    return run_from(_strict_json(text, path), str(path))


def _strict_json(text: str, path: Path) -> Any:
    """Parse JSON, rejecting duplicate keys and NaN or Infinity, which Python's parser accepts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{path} has the key {twice!r} twice in one object: remove one of the two")
        return dict(pairs)

    def refuse(word: str) -> Any:
        raise UserError(f"{path} contains {word}, which is not valid JSON: write a finite number instead")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}: correct it there"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path} is nested too deeply to be read: write the settings of a distillation run"
        ) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{path} cannot be read ({error}): correct the number") from error


def run_from(data: Mapping[str, Any], where: str) -> RunConfig:
    """Build a run from plain data, such as a section of a profile; `where` names its origin in a `UserError`.

    The defaults of the run's algorithm apply where the data give no value.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where} is not a JSON object: write one with output, dataset, student and teacher")
    try:
        return RunConfig.model_validate(_with_defaults(data, where))
    except ValidationError as error:
        raise UserError(explain(error, where, "training/config.py", renamed=RENAMED_KEYS)) from error


def _with_defaults(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the data over the defaults of the algorithm that they name, with an evaluation if problems are held out. Raises
    `UserError` if there is no such algorithm."""
    from training.algorithms import load_algorithm  # here, because these modules import no settings

    chosen, dataset = data.get("algorithm"), data.get("dataset")
    if isinstance(dataset, Mapping) and dataset.get("held_out") and data.get("evaluation") is None:
        data = {**data, "evaluation": {}}
    name = chosen.get("name", "uopd") if isinstance(chosen, Mapping) else "uopd"
    try:
        return merged(load_algorithm(name).defaults if isinstance(name, str) else {}, data)
    except UserError as error:
        raise UserError(f"{where}: algorithm.name: {error}") from error


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return two trees of settings as one; where both have a value, that of `over` counts."""
    found = dict(under)
    for key, value in over.items():
        below = found.get(key)
        found[key] = (
            merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return found
