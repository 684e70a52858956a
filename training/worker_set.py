"""The workers of a run, or of several that follow one another, created from their plans in a separate Ray session: student ranks,
rollout engines, and the frozen models and graders that their algorithms need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tasks.processes.machine import available_cores
from tasks.processes.ray_session import RaySession
from training.data.batches import TokenSequence
from training.data.model_files import given_template
from training.evaluation.held_out import opened_thinking
from training.plan import ScoringPass
from training.preflight.check import Prepared, teacher_warning
from training.preflight.memory import (
    SCORING_FRACTION,
    SCORING_TOKENS,
    engine_fraction,
    placement_of,
)
from training.rewards import Grader
from training.rollouts.engine import (
    Generation,
    RolloutEngineSettings,
    RolloutRequest,
    RolloutSampling,
)
from training.rollouts.pool import EngineRole, RolloutPool
from training.scorers.scores import Scores
from training.scorers.teacher import InProcessTeacher, InProcessTeacherSettings
from training.scorers.vllm_teacher import ScoringSettings, VllmTeacher, scoring_environment, scoring_options
from training.student.adapters import AdapterSettings
from training.student.exported_files import PromptFiles
from training.student.group import StudentGroup
from training.student.messages import RankSettings
from training.weight_sync.sync import choose_transport
from training.workers.actors import result
from training.workers.placement import Placement, Role, Slot, actor_options, reserved

__all__ = ["PendingScores", "SharedWorkers", "StartWorkers", "Workers", "start_workers"]

CPU_OBJECT_STORE_BYTES = 1024**3
"""Size of Ray's object store on a cpu placement. Weights and the teacher's top k of one step pass through it; the excess spills
to disk. On GPUs Ray's default applies, three tenths of the memory (512 responses of 1,200 tokens have 2.5 GB of top-512)."""


class PendingScores:
    """The pending scores of a frozen model for some sequences; `get` waits for them. `who` names the model in errors."""

    def __init__(self, call: Any, who: str) -> None:
        self._call, self._who = call, who
        self._found: tuple[list[Scores], float] | None = None

    def get(self) -> tuple[list[Scores], float]:
        """Return the scores of each sequence and the seconds that the model took. Raises `ActorLost` if the worker died."""
        found = self._found
        if found is None:
            found = self._found = result(self._call, self._who)
            self._call = None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers that the training loop uses.

    `teachers`: the actors of each teacher that the run has, copies of one model, one for each of its slots of the placement;
    `reference`: those of the reference. `generator`: an engine with the teacher's weights, None if the teacher does not generate.
    `grader`: None without a reward. `facts` describes students, engines, frozen models and transport, as reported by the workers.
    """

    students: StudentGroup
    engines: RolloutPool
    teachers: tuple[tuple[Any, ...], ...] = ()
    reference: tuple[Any, ...] = ()
    generator: RolloutPool | None = None
    grader: Grader | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(
        self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int = 0, teacher: int = 0
    ) -> PendingScores:
        """Request the scores of a scoring pass for every response, if it is a teacher's of the teacher of that number. Returns
        immediately. The parts of a rollout batch are assigned to the copies round-robin."""
        copies = self.teachers[teacher] if one.worker == "teacher" else self.reference
        call = copies[part % len(copies)].score.remote(list(sequences), one.request)
        return PendingScores(call, f"the {one.worker}")

    def generate_by_teacher(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> list[Generation]:
        """Return one response of the teacher per request, in the order of the requests."""
        if self.generator is None:
            raise RuntimeError("this run has no engine with the teacher's weights")
        return self.generator.generate(requests, sampling)

    def grade(self, prepared: Prepared, row: int, tokens: np.ndarray) -> Future[float]:
        """Request the reward of a rollout for a row. Returns immediately."""
        return self._grader().submit(_graded_text(prepared, row, tokens), prepared.label(row))

    def answer_share(self, prepared: Prepared, row: int, tokens: np.ndarray) -> Future[float]:
        """Request the teacher's probability of the answer of a rollout for a row. Returns immediately."""
        clusters = prepared.clusters[row]
        values = tuple(zip(clusters.answers, clusters.probs, strict=True))
        return self._grader().submit_values(_graded_text(prepared, row, tokens), values)

    def _grader(self) -> Grader:
        if self.grader is None:
            raise RuntimeError("this run has no grader, because its algorithm has no reward")
        return self.grader


def _graded_text(prepared: Prepared, row: int, tokens: np.ndarray) -> str:
    """Return the text of a rollout, with the thinking that its prompt opened."""
    tokenizer = prepared.student.tokenizer
    text = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    return opened_thinking(tokenizer, prepared.rows[row].prompt_ids) + text


StartWorkers = Callable[[Prepared, Callable[[str], None]], AbstractContextManager[Workers]]
"""A function of a checked run and a log that starts the run's workers for a block."""


@contextmanager
def start_workers(prepared: Prepared, log: Callable[[str], None]) -> Iterator[Workers]:
    """Start all workers, and end them when the block ends.

    Models load in parallel, except that engines which share their GPUs load first: vLLM would subtract memory that other models
    allocate meanwhile from their KV cache. Raises `UserError` if the machine is too small or a worker does not start.
    """
    with SharedWorkers(placement_of(prepared.plan)) as shared, shared.start(prepared, log) as workers:
        yield workers


class SharedWorkers:
    """The workers of runs that follow one another, all of which fit into one placement.

    Rollout engines, frozen models and the grader are kept for later runs, and replaced if a run needs other settings. The student
    ranks are new processes for every run, so that no state of an earlier run is left. A run that fails ends all workers.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self._stack = ExitStack()
        self._session: RaySession | None = None
        self._group: Any = None
        self._grader: Grader | None = None
        self._pools: dict[EngineRole, tuple[RolloutEngineSettings, RolloutPool]] = {}
        self._frozen: dict[tuple[Role, int], tuple[tuple[Any, ...], tuple[Any, ...]]] = {}

    def __enter__(self) -> SharedWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and the Ray session. A later run starts new ones."""
        self._session = self._group = self._grader = None
        self._pools, self._frozen = {}, {}
        self._stack.close()

    @contextmanager
    def start(self, prepared: Prepared, log: Callable[[str], None]) -> Iterator[Workers]:
        """Give a run its workers for a block, as `start_workers` does."""
        placement = self.placement
        choice = choose_transport(placement)
        log(f"weight sync to the rollout engines: {choice.transport} ({choice.reason})")
        warning = teacher_warning(prepared.plan)
        if warning is not None:
            log(warning)
        with self._closed_on_failure():
            session = self._open_session()
            grader = self._grading() if prepared.plan.grades else None
            engines = self._pool("rollout", rollout_engine_settings(prepared, placement), log)
            if placement.shares_gpus:
                engines.ready()
            settings = rank_settings(prepared, placement, teacher_head=states_folder(prepared))
            students = StudentGroup(placement, self._group, settings, prepared.plan.token_loss())
            frozen, generator = self._frozen_models(prepared), self._generator(prepared, log)
            facts: dict[str, Any] = {"transport": choice.transport, "placement": placement.name}
            facts |= _wait_for_models(students, engines, _named(prepared, frozen), generator)
            log_findings(facts, log)
            session.guard_workers()
            students.open_transfer(choice, engines)
            teachers = tuple(actors for (role, _), actors in frozen.items() if role == "teacher")
            yield Workers(
                students=students, engines=engines, teachers=teachers, reference=frozen.get(("reference", 0), ()),
                generator=generator, grader=grader, facts=facts,
            )  # fmt: skip
            students.close()

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _open_session(self) -> RaySession:
        """Return the Ray session, in which the placement is reserved."""
        if self._session is None:
            store = CPU_OBJECT_STORE_BYTES if self.placement.on_cpu else None
            self._session = self._stack.enter_context(RaySession(len(self.placement.slots), store))
            self._group = self._stack.enter_context(reserved(self.placement))
        return self._session

    def _grading(self) -> Grader:
        if self._grader is None:
            self._grader = self._stack.enter_context(Grader())
        return self._grader

    @contextmanager
    def engines(self, settings: RolloutEngineSettings, log: Callable[[str], None]) -> Iterator[RolloutPool]:
        """Give a block new rollout engines, which have the weights of their model folder, and no other workers."""
        with self._closed_on_failure():
            session = self._open_session()
            self._end_pool("rollout")
            engines = self._pool("rollout", settings, log)
            engines.ready()
            session.guard_workers()
            yield engines

    def _pool(
        self, role: EngineRole, settings: RolloutEngineSettings, log: Callable[[str], None]
    ) -> RolloutPool:
        """Return engines with these settings, those of the last run if they have them. Does not wait for new ones."""
        kept = self._pools.get(role)
        if kept is not None and kept[0] == settings:
            kept[1].begin()
            return kept[1]
        self._end_pool(role)
        pool = RolloutPool(self.placement, self._group, settings, on_loss=log, role=role)
        self._pools[role] = (settings, pool)
        return pool

    def _end_pool(self, role: EngineRole) -> None:
        kept = self._pools.pop(role, None)
        if kept is not None:
            kept[1].close()

    def _generator(self, prepared: Prepared, log: Callable[[str], None]) -> RolloutPool | None:
        """Return the engine with the teacher's weights, if the run has one. It is ended if it has memory of a GPU in vain."""
        if prepared.plan.generates:
            return self._pool("generator", generator_settings(prepared, self.placement), log)
        if not self.placement.on_cpu:
            self._end_pool("generator")
        return None

    def _frozen_models(self, prepared: Prepared) -> dict[tuple[Role, int], tuple[Any, ...]]:
        """Return the frozen models of a run. Those that it does not need are ended if they have memory of a GPU."""
        wanted = frozen_models(prepared, self.placement)
        for key, (model, actors) in list(self._frozen.items()):
            unneeded = key not in wanted and not self.placement.on_cpu
            if unneeded or (key in wanted and wanted[key] != model):
                _end(actors)
                del self._frozen[key]
        for key, model in wanted.items():
            if key not in self._frozen:
                self._frozen[key] = (model, _actors(self.placement.slots_of(*key), self._group, *model))
        return {key: self._frozen[key][1] for key in wanted}


def _named(
    prepared: Prepared, frozen: Mapping[tuple[Role, int], tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """Return the frozen models by the names of the descriptions."""
    names = prepared.plan.teacher_names
    return {names[number] if role == "teacher" else role: actors for (role, number), actors in frozen.items()}


def states_folder(prepared: Prepared) -> Path | None:
    """Return the folder of the model whose hidden states the student turns into a distribution, or None."""
    worker = prepared.plan.from_states
    if worker is None:
        return None
    return prepared.student.folder if worker == "reference" else prepared.teacher_files.folder


def frozen_models(prepared: Prepared, placement: Placement) -> dict[tuple[Role, int], tuple[Any, ...]]:
    """Return the class and the arguments of each frozen model of the run, by its role and number."""
    plan = prepared.plan
    found: dict[tuple[Role, int], tuple[Any, ...]] = {
        ("teacher", number): teacher_actor(prepared, placement, number)
        for number in range(len(plan.scoring_teachers))
    }
    if plan.has_reference:
        start = frozen_settings(prepared, placement, prepared.student.folder, plan.run.trainer.dtype)
        found["reference", 0] = (InProcessTeacher, start)
    return found


def log_findings(facts: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Log the student's attention and what the engines found out about their batch invariance."""
    log(f"attention of the student: {facts['student']['attention']}")
    for finding in dict.fromkeys(engine["batch_invariance"] for engine in facts["engines"]):
        log(f"rollout engines: {finding}")


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


def generator_settings(prepared: Prepared, placement: Placement) -> RolloutEngineSettings:
    """Return the settings of the engine with the teacher's weights, which are never changed."""
    own = rollout_engine_settings(prepared, placement)
    teacher, dtype = prepared.teacher_files, prepared.plan.teachers[0].dtype
    return replace(own, model=teacher.folder, dtype=dtype, transport="object_store")


def rank_settings(
    prepared: Prepared, placement: Placement, *, teacher_head: Path | None = None
) -> RankSettings:
    """Return the settings of every student rank."""
    run, optimizer, lora = prepared.run, prepared.run.optimizer, prepared.run.trainer.lora
    return RankSettings(
        model=prepared.student.folder,
        total_steps=prepared.schedule.updates,
        warmup_steps=prepared.schedule.warmup_updates,
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
        else AdapterSettings(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets),
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


def scoring_settings(prepared: Prepared, number: int = 0) -> ScoringSettings:
    """Return the settings of a vLLM teacher, the one of that number."""
    run, teacher = prepared.run, prepared.teachers[number]
    passes = [one for one in prepared.plan.passes if one.worker == "teacher"]
    top_k = max(prepared.shared_vocab if one.full else one.request.top_k or 1 for one in passes)
    return ScoringSettings(
        model=teacher.folder,
        max_tokens=run.context_tokens,
        top_k=top_k,
        vocabulary=teacher.vocab_size,
        dtype=prepared.plan.teachers[number].dtype,
        pass_tokens=SCORING_TOKENS,
        gpu_memory_fraction=SCORING_FRACTION,
        kv_cache_gib=run.placement.cpu_kv_gib,
    )


def _actors(slots: Sequence[Slot], group: Any, kind: Any, *arguments: Any) -> tuple[Any, ...]:
    """Create one Ray actor in every slot."""
    import ray

    return tuple(
        cast(Any, ray.remote)(kind).options(**actor_options(slot, group), max_restarts=0).remote(*arguments)
        for slot in slots
    )


def _end(actors: Sequence[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)


def _wait_for_models(
    students: StudentGroup,
    engines: RolloutPool,
    frozen: Mapping[str, Sequence[Any]],
    generator: RolloutPool | None,
) -> dict[str, Any]:
    """Wait until all models are loaded, and return their descriptions."""
    facts: dict[str, Any] = {"student": students.connect()}
    facts |= {name: _ready(actors, f"the {name}") for name, actors in frozen.items()}
    facts |= {} if generator is None else {"generator": generator.ready()[0]}
    return facts | {"engines": engines.ready()}


def _ready(actors: Sequence[Any], who: str) -> Any:
    """Wait until all copies are ready, and return the description that the first reports."""
    return [result(one.ready.remote(), who) for one in actors][0]  # noqa: RUF015 - all of them are waited for


def teacher_actor(prepared: Prepared, placement: Placement, number: int = 0) -> tuple[Any, ...]:
    """Return the class and the arguments of a teacher, the one of that number, for its backend."""
    teacher = prepared.plan.teachers[number]
    if teacher.backend == "vllm":
        scoring = scoring_settings(prepared, number)
        environment = scoring_environment(scoring, on_cpu=placement.on_cpu)
        return VllmTeacher, scoring, environment, scoring_options(scoring, on_cpu=placement.on_cpu)
    folder = prepared.teachers[number].folder
    return InProcessTeacher, frozen_settings(prepared, placement, folder, teacher.dtype)


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
