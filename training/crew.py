"""The actors of one run, made from its settings: student ranks, rollout engines, the teacher, and the reference where one is
needed, on a Ray of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np

from tasks.io.ray_session import RaySession
from tasks.io.servers import available_cores
from training.check import Prepared, teacher_warning
from training.engine.actors import result
from training.engine.batches import TokenSequence
from training.engine.group import StudentGroup
from training.engine.network import LoraSettings
from training.engine.placement import Placement, actor_options, placement, reserve
from training.engine.student import StudentSettings
from training.memory import SCORING_FRACTION, SCORING_TOKENS, engine_fraction
from training.objectives.base import Objective
from training.rollout.engine import RolloutSampling, RolloutSettings
from training.rollout.pool import RolloutPool
from training.rollout.sync import choose_transport
from training.rollout.teacher import Teacher, TeacherSettings, TopK
from training.rollout.vllm_teacher import (
    ScoringSettings,
    VllmTeacher,
    scoring_environment,
    scoring_options,
)

__all__ = ["Crew", "Scores", "assembled", "measuring", "sampling"]

OBJECT_STORE_BYTES = 1024**3
"""Weights and the teacher's top-k of one step pass through it; what does not fit spills to disk."""


T = TypeVar("T")


class Scores(Generic[T]):
    """A frozen model at work on some sequences; `get` waits for it. `who` is its name."""

    def __init__(self, call: Any, who: str) -> None:
        self._call, self._who = call, who
        self._found: tuple[list[T], float] | None = None

    def get(self) -> tuple[list[T], float]:
        """One answer for each sequence, and the model's seconds. `ActorLost` when it died."""
        found = self._found
        if found is None:
            found = self._found = result(self._call, self._who)
            self._call = None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What the loop drives. `reference` is there when the objective needs one. `facts` is what students, engines, teacher,
    reference and transport say of themselves."""

    students: StudentGroup
    engines: RolloutPool
    teacher: Any
    top_k: int
    facts: Mapping[str, Any]
    reference: Any = None

    def score(self, sequences: Sequence[TokenSequence]) -> Scores[TopK]:
        """Ask the teacher for its top k at every response position; returns at once."""
        return Scores(self.teacher.score.remote(list(sequences), self.top_k), "the teacher")

    def recall(self, sequences: Sequence[TokenSequence]) -> Scores[np.ndarray] | None:
        """Ask the reference for log p [T] of every response's own tokens; returns at once. None when there is no reference."""
        if self.reference is None:
            return None
        return Scores(self.reference.recall.remote(list(sequences)), "the reference")


@contextmanager
def assembled(prepared: Prepared, objective: Objective, say: Callable[[str], None]) -> Iterator[Crew]:
    """Start everything (models load side by side) and end it with the block, however that ends.

    Raises `UserError` when the machine is too small or an actor does not start.
    """
    run = prepared.run
    where, referred = run.placement, objective.needs.reference_model
    seats = placement(where.kind, students=where.students, engines=where.engines, reference=referred)
    choice = choose_transport(seats)
    say(f"weights go to the engines by {choice.transport} ({choice.reason})")
    warning = teacher_warning(run)
    if warning is not None:
        say(warning)
    with RaySession(len(seats.seats), OBJECT_STORE_BYTES) as session:
        group = reserve(seats)
        engines = RolloutPool(seats, group, rollout_settings(prepared, seats), on_loss=say)
        students = StudentGroup(seats, group, student_settings(prepared, seats), objective.token_loss)
        top_k = objective.needs.top_k or prepared.shared_vocab
        teacher = _teacher(prepared, seats, group, top_k)
        reference = _reference(prepared, seats, group) if referred else None
        facts = {
            "student": students.connect(),
            "teacher": result(teacher.ready.remote(), "the teacher"),
            "engines": engines.ready(),
            "transport": choice.transport,
            "placement": seats.name,
        }
        if reference is not None:
            facts["reference"] = result(reference.ready.remote(), "the reference")
        session.guard_workers()
        students.open_transfer(choice, engines)
        yield Crew(
            students=students,
            engines=engines,
            teacher=teacher,
            top_k=top_k,
            facts=facts,
            reference=reference,
        )


def sampling(prepared: Prepared) -> RolloutSampling:
    """How rollouts are drawn: without truncation, to the student's end token."""
    run = prepared.run
    return RolloutSampling(
        temperature=run.rollouts.temperature,
        max_tokens=run.lengths.max_response_tokens,
        stop_token_ids=(int(prepared.student.tokenizer.eos_token_id),),
    )


def measuring(prepared: Prepared) -> RolloutSampling:
    """How held-out problems are sampled."""
    settings = prepared.run.evaluation
    drawn = sampling(prepared)
    return drawn if settings is None else replace(drawn, temperature=settings.temperature)


def rollout_settings(prepared: Prepared, seats: Placement) -> RolloutSettings:
    """Settings of each engine."""
    run, place = prepared.run, prepared.run.placement
    return RolloutSettings(
        model=prepared.student.folder,
        max_model_len=run.context_tokens,
        dtype=run.engine.dtype,
        max_num_seqs=place.engine_max_seqs,
        engines=seats.count("rollout"),
        gpu_memory_fraction=engine_fraction(run) or 0.9,  # on CPU it plays no part, but must be a share
        kv_cache_gib=place.cpu_kv_gib,
        transport=choose_transport(seats).transport,
        sleeps=seats.shares_gpus,
    )


def student_settings(prepared: Prepared, seats: Placement) -> StudentSettings:
    """Settings of each student rank."""
    run, optimizer, lora = prepared.run, prepared.run.optimizer, prepared.run.engine.lora
    return StudentSettings(
        model=prepared.student.folder,
        total_steps=run.steps,
        warmup_steps=run.warmup_steps,
        learning_rate=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clip=optimizer.max_gradient_norm,
        zero_stage=run.engine.zero_stage,
        dtype=run.engine.dtype,
        gradient_checkpointing=run.engine.gradient_checkpointing,
        lora=None if lora is None else LoraSettings(rank=lora.rank, alpha=lora.alpha, targets=lora.targets),
        vocabulary=prepared.shared_vocab,
        head_chunk=run.engine.head_chunk,
        token_budget=run.engine.micro_batch_tokens,
        seed=run.seed,
        threads=max(1, available_cores() // seats.count("student")) if seats.on_cpu else None,
    )


def scoring_settings(prepared: Prepared, top_k: int) -> ScoringSettings:
    """Settings of a vLLM teacher."""
    run = prepared.run
    return ScoringSettings(
        model=prepared.teacher.folder,
        max_tokens=run.context_tokens,
        top_k=top_k,
        vocabulary=prepared.teacher.vocab_size,
        pass_tokens=SCORING_TOKENS,
        gpu_memory_fraction=SCORING_FRACTION,
        kv_cache_gib=run.placement.cpu_kv_gib,
    )


def _teacher(prepared: Prepared, seats: Placement, group: Any, top_k: int) -> Any:
    """The teacher's actor, by the engine that the run names."""
    import ray

    if prepared.run.teacher.engine == "vllm":
        scoring = scoring_settings(prepared, top_k)
        kind: Any = VllmTeacher
        arguments: tuple[Any, ...] = (
            scoring,
            scoring_environment(scoring, on_cpu=seats.on_cpu),
            scoring_options(scoring, on_cpu=seats.on_cpu),
        )
    else:
        kind = Teacher
        own = TeacherSettings(
            model=prepared.teacher.folder,
            dtype="bfloat16",
            vocabulary=prepared.shared_vocab,
            threads=1 if seats.on_cpu else None,
        )
        arguments = (own,)
    options = actor_options(seats.seat("teacher"), group)
    return cast(Any, ray.remote)(kind).options(**options, max_restarts=0).remote(*arguments)


def reference_settings(prepared: Prepared, seats: Placement) -> TeacherSettings:
    """Settings of the reference: the student's start, in the student's type, over the student's softmax."""
    run = prepared.run
    return TeacherSettings(
        model=prepared.student.folder,
        dtype=run.engine.dtype,
        vocabulary=prepared.shared_vocab,
        token_budget=run.engine.micro_batch_tokens,
        chunk=run.engine.head_chunk,
        threads=1 if seats.on_cpu else None,
    )


def _reference(prepared: Prepared, seats: Placement, group: Any) -> Any:
    """The actor that keeps the student as it was at the start."""
    import ray

    options = actor_options(seats.seat("reference"), group)
    kind = cast(Any, ray.remote)(Teacher).options(**options, max_restarts=0)
    return kind.remote(reference_settings(prepared, seats))
