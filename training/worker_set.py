"""The workers of one run, created from its settings in a separate Ray session: student ranks, rollout engines, the teacher and,
if needed, the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from tasks.processes.machine import available_cores
from tasks.processes.ray_session import RaySession
from training.data.batches import TokenSequence
from training.data.model_files import given_template
from training.objectives.base import Objective
from training.preflight.check import Prepared, teacher_warning
from training.preflight.memory import SCORING_FRACTION, SCORING_TOKENS, engine_fraction
from training.rollouts.engine import RolloutEngineSettings
from training.rollouts.pool import RolloutPool
from training.scorers.teacher import InProcessTeacher, InProcessTeacherSettings, States, TopK
from training.scorers.vllm_teacher import ScoringSettings, VllmTeacher, scoring_environment, scoring_options
from training.student.adapters import AdapterSettings
from training.student.exported_files import PromptFiles
from training.student.group import StudentGroup
from training.student.messages import RankSettings
from training.weight_sync.sync import choose_transport
from training.workers.actors import result
from training.workers.placement import Placement, Role, actor_options, make_placement, reserved

__all__ = ["PendingScores", "Workers", "start_workers"]

CPU_OBJECT_STORE_BYTES = 1024**3
"""Size of Ray's object store on a cpu placement. Weights and the teacher's top k of one step pass through it; the excess spills
to disk. On GPUs Ray's default applies, three tenths of the memory (512 responses of 1,200 tokens have 2.5 GB of top-512)."""


T = TypeVar("T")


class PendingScores(Generic[T]):
    """The pending scores of a frozen model for some sequences; `get` waits for them. `who` names the model in errors."""

    def __init__(self, call: Any, who: str) -> None:
        self._call, self._who = call, who
        self._found: tuple[list[T], float] | None = None

    def get(self) -> tuple[list[T], float]:
        """Return one score object per sequence and the seconds that the model took. Raises `ActorLost` if the worker died."""
        found = self._found
        if found is None:
            found = self._found = result(self._call, self._who)
            self._call = None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers that the training loop uses.

    `teachers` are copies of one model, one for each slot of the placement; so are `references`, which are empty if the objective
    needs none. `facts` describes students, engines, teacher, reference and transport, as reported by the workers.
    """

    students: StudentGroup
    engines: RolloutPool
    teachers: tuple[Any, ...]
    top_k: int | None
    facts: Mapping[str, Any]
    references: tuple[Any, ...] = ()

    def score(self, sequences: Sequence[TokenSequence], part: int = 0) -> PendingScores[TopK | States]:
        """Request the teacher's top k at every response position, or without a k the hidden states that represent its full
        distribution. Returns immediately. The parts of a rollout batch are assigned to the copies round-robin."""
        teacher = self.teachers[part % len(self.teachers)]
        return PendingScores(teacher.score.remote(list(sequences), self.top_k), "the teacher")

    def reference_logprobs(
        self, sequences: Sequence[TokenSequence], part: int = 0
    ) -> PendingScores[np.ndarray] | None:
        """Request the reference log-probabilities [T] of every response. Returns immediately; None without a reference."""
        if not self.references:
            return None
        reference = self.references[part % len(self.references)]
        return PendingScores(reference.timed_logprobs.remote(list(sequences)), "the reference")


@contextmanager
def start_workers(prepared: Prepared, objective: Objective, log: Callable[[str], None]) -> Iterator[Workers]:
    """Start all workers, and end them when the block ends.

    Models load in parallel, except that engines which share their GPUs load first: vLLM would subtract memory that other models
    allocate meanwhile from their KV cache. Raises `UserError` if the machine is too small or a worker does not start.
    """
    run = prepared.run
    placement = run_placement(prepared, objective)
    choice = choose_transport(placement)
    log(f"weight sync to the rollout engines: {choice.transport} ({choice.reason})")
    warning = teacher_warning(run)
    if warning is not None:
        log(warning)
    store = CPU_OBJECT_STORE_BYTES if placement.on_cpu else None
    with RaySession(len(placement.slots), store) as session, reserved(placement) as group:
        engines = RolloutPool(placement, group, rollout_engine_settings(prepared, placement), on_loss=log)
        if placement.shares_gpus:
            engines.ready()
        by_states = objective.needs.teacher == "full" and run.teacher.backend == "in_process"
        head = prepared.teacher.folder if by_states else None
        settings = rank_settings(prepared, placement, teacher_head=head)
        students = StudentGroup(placement, group, settings, objective.token_loss)
        top_k = objective.needs.top_k or prepared.shared_vocab
        teachers = _actors("teacher", placement, group, *teacher_actor(prepared, placement, top_k))
        start = frozen_settings(prepared, placement, prepared.student.folder, run.trainer.dtype)
        references = _actors("reference", placement, group, InProcessTeacher, start)
        facts: dict[str, Any] = {"transport": choice.transport, "placement": placement.name}
        facts |= _wait_for_models(students, engines, teachers, references)
        log_findings(facts, log)
        session.guard_workers()
        students.open_transfer(choice, engines)
        yield Workers(
            students=students,
            engines=engines,
            teachers=teachers,
            top_k=None if by_states else top_k,
            facts=facts,
            references=references,
        )


def log_findings(facts: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Log the student's attention and what the engines found out about their batch invariance."""
    log(f"attention of the student: {facts['student']['attention']}")
    for finding in dict.fromkeys(engine["batch_invariance"] for engine in facts["engines"]):
        log(f"rollout engines: {finding}")


def run_placement(prepared: Prepared, objective: Objective) -> Placement:
    """Return the placement of the run's workers."""
    where, has_reference = prepared.run.placement, objective.needs.reference_model
    return make_placement(where.kind, students=where.students, engines=where.engines, reference=has_reference)


def rollout_engine_settings(prepared: Prepared, placement: Placement) -> RolloutEngineSettings:
    """Return the settings of every rollout engine."""
    run, place = prepared.run, prepared.run.placement
    return RolloutEngineSettings(
        model=prepared.student.folder,
        max_model_len=run.context_tokens,
        dtype=run.rollout_dtype,
        max_num_seqs=place.engine_max_seqs,
        batch_invariant=place.engine_batch_invariant,
        engines=placement.count("rollout"),
        gpu_memory_fraction=engine_fraction(run) or 0.9,  # not used on CPU, but must be a fraction
        kv_cache_gib=place.cpu_kv_gib,
        kv_cache_bytes=prepared.memory.engine_kv_bytes if placement.shares_gpus else None,
        transport=choose_transport(placement).transport,
        sleeps=placement.shares_gpus,
    )


def rank_settings(
    prepared: Prepared, placement: Placement, *, teacher_head: Path | None = None
) -> RankSettings:
    """Return the settings of every student rank."""
    run, optimizer, lora = prepared.run, prepared.run.optimizer, prepared.run.trainer.lora
    return RankSettings(
        model=prepared.student.folder,
        total_steps=run.steps,
        warmup_steps=run.warmup_steps,
        learning_rate=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clip=optimizer.max_gradient_norm,
        zero_stage=run.trainer.zero_stage,
        dtype=run.trainer.dtype,
        gradient_checkpointing=run.trainer.gradient_checkpointing,
        lora=None
        if lora is None
        else AdapterSettings(rank=lora.rank, alpha=lora.alpha, targets=lora.targets),
        vocabulary=prepared.shared_vocab,
        head_chunk=run.trainer.head_chunk,
        token_budget=run.trainer.micro_batch_tokens,
        seed=run.seed,
        threads=max(1, available_cores() // placement.count("student")) if placement.on_cpu else None,
        shares_gpu=placement.shares_gpus,
        teacher_head=teacher_head,
        dropout=run.student.dropout,
        prompt=prompt_files(prepared),
    )


def prompt_files(prepared: Prepared) -> PromptFiles:
    """Return what the exported student contains about prompts and responses."""
    return PromptFiles(
        end_ids=prepared.end_tokens,
        end_token=prepared.student.tokenizer.convert_ids_to_tokens(prepared.end_tokens[0]),
        chat_template=given_template(prepared.run.prompt),
    )


def scoring_settings(prepared: Prepared, top_k: int) -> ScoringSettings:
    """Return the settings of a vLLM teacher."""
    run = prepared.run
    return ScoringSettings(
        model=prepared.teacher.folder,
        max_tokens=run.context_tokens,
        top_k=top_k,
        vocabulary=prepared.teacher.vocab_size,
        dtype=run.teacher.dtype,
        pass_tokens=SCORING_TOKENS,
        gpu_memory_fraction=SCORING_FRACTION,
        kv_cache_gib=run.placement.cpu_kv_gib,
    )


def _actors(role: Role, placement: Placement, group: Any, kind: Any, *arguments: Any) -> tuple[Any, ...]:
    """Create one Ray actor for every slot of the role."""
    import ray

    return tuple(
        cast(Any, ray.remote)(kind)
        .options(**actor_options(placement.slot(role, index), group), max_restarts=0)
        .remote(*arguments)
        for index in range(placement.count(role))
    )


def _wait_for_models(
    students: StudentGroup, engines: RolloutPool, teachers: Sequence[Any], references: Sequence[Any]
) -> dict[str, Any]:
    """Wait until all models are loaded, and return their descriptions."""
    facts = {
        "student": students.connect(),
        "teacher": _ready(teachers, "the teacher"),
        "engines": engines.ready(),
    }
    if references:
        facts["reference"] = _ready(references, "the reference")
    return facts


def _ready(actors: Sequence[Any], who: str) -> Any:
    """Wait until all copies are ready, and return the description that the first reports."""
    return [result(one.ready.remote(), who) for one in actors][0]  # noqa: RUF015 - all of them are waited for


def teacher_actor(prepared: Prepared, placement: Placement, top_k: int) -> tuple[Any, ...]:
    """Return the class and the arguments of the teacher for the run's teacher backend."""
    if prepared.run.teacher.backend == "vllm":
        scoring = scoring_settings(prepared, top_k)
        environment = scoring_environment(scoring, on_cpu=placement.on_cpu)
        return VllmTeacher, scoring, environment, scoring_options(scoring, on_cpu=placement.on_cpu)
    dtype = prepared.run.teacher.dtype
    return InProcessTeacher, frozen_settings(prepared, placement, prepared.teacher.folder, dtype)


def frozen_settings(
    prepared: Prepared, placement: Placement, model: Path, dtype: str
) -> InProcessTeacherSettings:
    """Return the settings of a frozen model: the student's token budget, and a softmax over the shared vocabulary."""
    trainer = prepared.run.trainer
    return InProcessTeacherSettings(
        model=model,
        dtype=dtype,
        vocabulary=prepared.shared_vocab,
        token_budget=trainer.micro_batch_tokens,
        chunk=trainer.head_chunk,
        threads=1 if placement.on_cpu else None,
        shares_gpu=placement.shares_gpus,
    )
