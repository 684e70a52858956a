"""The actors of one run, made from its settings: student ranks, rollout engines, the teacher, and the reference where one is
needed, on a Ray of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from tasks.io.ray_session import RaySession
from tasks.io.servers import available_cores
from training.check import Prepared, teacher_warning
from training.engine.actors import result
from training.engine.batches import TokenSequence
from training.engine.group import StudentGroup
from training.engine.network import LoraSettings
from training.engine.placement import Placement, Role, actor_options, placement, reserved
from training.engine.student import StudentSettings
from training.memory import SCORING_FRACTION, SCORING_TOKENS, engine_fraction
from training.objectives.base import Objective
from training.rollout.engine import RolloutSampling, RolloutSettings
from training.rollout.pool import RolloutPool
from training.rollout.sync import choose_transport
from training.rollout.teacher import States, Teacher, TeacherSettings, TopK
from training.rollout.vllm_teacher import (
    ScoringSettings,
    VllmTeacher,
    scoring_environment,
    scoring_options,
)

__all__ = ["Crew", "Scores", "assembled", "measuring", "sampling"]

CPU_OBJECT_STORE_BYTES = 1024**3
"""Weights and the teacher's top-k of one step pass through Ray's object store; what does not fit spills to disk. On GPUs it is
Ray's own choice, three tenths of the memory: 512 responses of 1,200 tokens have 2.5 GB of top-512."""


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
    """What the loop drives. `teachers` are copies of one model, as many as the placement has seats, and so are `references`,
    which are there when the objective needs one. `facts` is what students, engines, teacher, reference and transport say of
    themselves."""

    students: StudentGroup
    engines: RolloutPool
    teachers: tuple[Any, ...]
    top_k: int | None
    facts: Mapping[str, Any]
    references: tuple[Any, ...] = ()

    def score(self, sequences: Sequence[TokenSequence], part: int = 0) -> Scores[TopK | States]:
        """Ask a teacher for its top k at every response position, or, without a k, for the states that stand for all of its
        distribution; returns at once. Copies take the parts of a round in turns."""
        teacher = self.teachers[part % len(self.teachers)]
        return Scores(teacher.score.remote(list(sequences), self.top_k), "the teacher")

    def recall(self, sequences: Sequence[TokenSequence], part: int = 0) -> Scores[np.ndarray] | None:
        """Ask a reference for log p [T] of every response's own tokens; returns at once. None when there is no reference."""
        if not self.references:
            return None
        reference = self.references[part % len(self.references)]
        return Scores(reference.recall.remote(list(sequences)), "the reference")


@contextmanager
def assembled(prepared: Prepared, objective: Objective, say: Callable[[str], None]) -> Iterator[Crew]:
    """Start everything (models load side by side, but for engines that share their GPUs: those come first, since what another
    model takes meanwhile would be taken from their KV cache) and end it with the block, however that ends.

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
    store = CPU_OBJECT_STORE_BYTES if seats.on_cpu else None
    with RaySession(len(seats.seats), store) as session, reserved(seats) as group:
        engines = RolloutPool(seats, group, rollout_settings(prepared, seats), on_loss=say)
        if seats.shares_gpus:
            engines.ready()
        by_states = objective.needs.teacher == "full" and run.teacher.engine == "in_process"
        head = prepared.teacher.folder if by_states else None
        settings = student_settings(prepared, seats, teacher_head=head)
        students = StudentGroup(seats, group, settings, objective.token_loss)
        top_k = objective.needs.top_k or prepared.shared_vocab
        teachers = _actors("teacher", seats, group, *_teacher(prepared, seats, top_k))
        start = frozen_settings(prepared, seats, prepared.student.folder, run.engine.dtype)
        references = _actors("reference", seats, group, Teacher, start)
        facts = {
            "student": students.connect(),
            "teacher": _ready(teachers, "the teacher"),
            "engines": engines.ready(),
            "transport": choice.transport,
            "placement": seats.name,
        }
        if references:
            facts["reference"] = _ready(references, "the reference")
        say(f"rollout engines: {facts['engines'][0]['batch_invariance']}")
        session.guard_workers()
        students.open_transfer(choice, engines)
        yield Crew(
            students=students,
            engines=engines,
            teachers=teachers,
            top_k=None if by_states else top_k,
            facts=facts,
            references=references,
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
        dtype=run.rollout_dtype,
        max_num_seqs=place.engine_max_seqs,
        batch_invariant=place.engine_batch_invariant,
        engines=seats.count("rollout"),
        gpu_memory_fraction=engine_fraction(run) or 0.9,  # on CPU it plays no part, but must be a share
        kv_cache_gib=place.cpu_kv_gib,
        kv_cache_bytes=prepared.memory.engine_kv_bytes if seats.shares_gpus else None,
        transport=choose_transport(seats).transport,
        sleeps=seats.shares_gpus,
    )


def student_settings(
    prepared: Prepared, seats: Placement, *, teacher_head: Path | None = None
) -> StudentSettings:
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
        shares_gpu=seats.shares_gpus,
        teacher_head=teacher_head,
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


def _actors(role: Role, seats: Placement, group: Any, kind: Any, *arguments: Any) -> tuple[Any, ...]:
    """One Ray actor for each seat of the role."""
    import ray

    return tuple(
        cast(Any, ray.remote)(kind)
        .options(**actor_options(seats.seat(role, index), group), max_restarts=0)
        .remote(*arguments)
        for index in range(seats.count(role))
    )


def _ready(actors: Sequence[Any], who: str) -> Any:
    """What the first of some copies says of itself, when all are ready."""
    return [result(one.ready.remote(), who) for one in actors][0]  # noqa: RUF015 - all of them are waited for


def _teacher(prepared: Prepared, seats: Placement, top_k: int) -> tuple[Any, ...]:
    """Class and arguments of the teacher, by the engine that the run names."""
    if prepared.run.teacher.engine == "vllm":
        scoring = scoring_settings(prepared, top_k)
        environment = scoring_environment(scoring, on_cpu=seats.on_cpu)
        return VllmTeacher, scoring, environment, scoring_options(scoring, on_cpu=seats.on_cpu)
    return Teacher, frozen_settings(prepared, seats, prepared.teacher.folder, "bfloat16")


def frozen_settings(prepared: Prepared, seats: Placement, model: Path, dtype: str) -> TeacherSettings:
    """Settings of a frozen model, which reads as many tokens at once as the student, over the softmax that both share."""
    engine = prepared.run.engine
    return TeacherSettings(
        model=model,
        dtype=dtype,
        vocabulary=prepared.shared_vocab,
        token_budget=engine.micro_batch_tokens,
        chunk=engine.head_chunk,
        threads=1 if seats.on_cpu else None,
        shares_gpu=seats.shares_gpus,
    )
