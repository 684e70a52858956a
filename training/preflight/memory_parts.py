"""Device memory of each worker by phase of a step: the bytes that `training.preflight.memory` adds up.

Model states follow the code of DeepSpeed 0.19.8 and were verified by measuring a DeepSpeed process. In bytes per parameter, on N
ranks, with bf16: parameters 2; AdamW's master copy and moments 12/N from stage 1 on. Gradients: stage 0 keeps 2 bytes from the
first micro-batch to the update, which copies them to float32. Stage 1 is DeepSpeed's BF16_Optimizer: every rank keeps
unpartitioned float32 gradients for the whole run, and bf16 gradients in addition until the update. Stage 2 has a float32
partition from the first micro-batch to the update. Stage 3 has one for the whole run and copies a sub-group of it during the
update. Rajbhandari et al. 2020 (ZeRO) count fewer bytes, because their gradients are not accumulated in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.config import RunConfig, TeacherSettings
from training.data.attention import MIN_CAPABILITY, choose_attention
from training.plan import RunPlan, ScoringPass
from training.preflight.shapes import (
    ModelDimensions,
    count_lora,
    count_parameters,
    largest_tensor,
    layer_activations,
)
from training.student.zero import MAX_BUCKET

Phase = Literal["rollout", "train", "sync"]
"""Rollouts are generated and scored; the student is updated; the rollout engines receive its weights."""
PHASES: tuple[Phase, ...] = ("rollout", "train", "sync")

BF16 = 2  # bytes
GPU_PROCESS = 1_500_000_000  # CUDA context, NCCL buffers and cuBLAS workspace of one torch process
ALLOCATOR = 1_000_000_000  # cached but fragmented memory of torch's allocator in the training process
ENGINE_WORKING = 2_000_000_000  # activations and CUDA graphs of a vLLM engine, within its fraction
ENGINE_ASLEEP = 1_500_000_000  # memory that a sleeping vLLM engine keeps
CPU_PROCESS = 750_000_000  # a Ray actor with torch and transformers
CPU_ENGINE = 1_250_000_000  # a Ray actor with vLLM, without KV cache
ENGINE_FRACTION = {"split": 0.9, "colocated": 0.3}
SCORING_FRACTION = 0.8  # fraction of the GPU for a vLLM teacher; its logits are not included
SCORING_TOKENS = 2048  # maximum tokens per pass of a vLLM teacher on a GPU, with all logits at once
LIVE_PARAMETERS = 1_000_000_000  # parameters that DeepSpeed's stage 3 keeps gathered: its prefetch limit
SUB_GROUP = 1_000_000_000  # values of a partition that stage 3 updates at once, up to one tensor more
TRANSFER_BUFFER = 2**30  # buffer of vLLM's weight transfer, unless the largest tensor is larger
NCCL_BUFFERS = 2  # buffers at each end; the last tensor of a buffer may exceed its size
CPU_OBJECT_STORE = 2**30  # size of Ray's object store on a cpu placement; the rest spills to disk (`workers`)
PART_BYTES = 2**29  # size of a part of the weights in Ray's object store (`rollout.weights`)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """Memory that one worker uses on a device during some phases."""

    owner: str  # role of the worker
    what: str
    bytes: int
    phases: tuple[Phase, ...] = PHASES


# --- the student -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Bytes of gradients on one rank: `kept` and `bucket` for the whole run, `summed` from the first micro-batch to the update;
    in addition `reducing` during the reduction and `update` during the update."""

    kept: int
    summed: int
    reducing: int
    update: int
    bucket: int = 0


def student_parts(plan: RunPlan, dims: ModelDimensions, *teachers: ModelDimensions) -> tuple[MemoryPart, ...]:
    """Return the memory of one data-parallel rank of the student, the scores of its rollouts included. `teachers`: the dimensions
    of the run's teachers."""
    run, trainer, number = plan.run, plan.run.trainer, number_bytes(plan.run)
    total = count_parameters(dims)
    trained = total if trainer.lora is None else count_lora(dims, trainer.lora)
    frozen = 0 if trainer.lora is None else total
    grown = gradients(run, dims, trained)
    scores = run.trainer.micro_batch_tokens * score_bytes(plan, dims, *teachers, id_bytes=8)
    forward = _student_working(run, dims, number) + scores + grown.reducing
    return (
        MemoryPart(owner="student", what="parameters", bytes=_shared(run, (trained + frozen) * number, 3)),
        MemoryPart(owner="student", what="optimizer", bytes=_states(run, trained)),
        *_held("gradients", grown.kept),
        *_held("accumulated gradients", grown.summed, "train"),
        *_held("bucket", grown.bucket),
        MemoryPart(
            owner="student",
            what="activations, logits" if forward >= grown.update else "update",
            bytes=max(forward, grown.update),  # never at the same time
            phases=("train",),
        ),
        *_held("weights to send", _sent(run, dims), "sync"),
        *_teacher_head(plan, dims, *teachers),
        MemoryPart(
            owner="student", what="libraries", bytes=_process(run) + (0 if on_cpu(run) else ALLOCATOR)
        ),
    )


def gradients(run: RunConfig, dims: ModelDimensions, trained: int) -> Gradients:
    """Return the gradient memory of `trained` parameters for the run's ZeRO stage, reduction and update included.

    A bucket has up to MAX_BUCKET values; a larger tensor has a bucket of its own. For the values that it updates at once, AdamW
    allocates one float32 temporary on a GPU (foreach) and two on CPU; it updates all tensors at once at stage 0, and one flat
    partition at higher stages.
    """
    stage, number, ranks = run.trainer.zero_stage, number_bytes(run), run.placement.students
    largest = min(largest_tensor(dims), trained)
    bucket, mine = min(trained, max(MAX_BUCKET, largest)), -(-trained // ranks)
    roots, whole = (8, largest) if on_cpu(run) else (4, trained)
    if stage == 3:
        at_once = min(mine, SUB_GROUP + -(-largest // ranks))
        reducing = bucket * number + -(-bucket // ranks) * 4
        held, update = min(trained, MAX_BUCKET) * number, at_once * (4 + roots)
        return Gradients(kept=mine * 4, summed=0, reducing=reducing, update=update, bucket=held)
    if stage == 2:
        buffers = (1 if on_cpu(run) else 2) * min(trained, MAX_BUCKET) + bucket
        again = mine * 4 if number == 4 else 0  # float32 partitions are summed and flattened into new tensors
        reducing = buffers * number + again
        return Gradients(kept=0, summed=mine * 4, reducing=reducing, update=mine * roots + again)
    if stage == 1 and number == 2:
        return Gradients(kept=trained * 4, summed=trained * 2, reducing=bucket * 6, update=mine * roots)
    if stage == 1:
        return Gradients(kept=0, summed=trained * 4, reducing=bucket * 8, update=mine * (4 + roots))
    copies = trained * 4 if number == 2 else 0
    return Gradients(kept=0, summed=trained * number, reducing=bucket * number, update=copies + roots * whole)


def _states(run: RunConfig, trained: int) -> int:
    """Return the bytes of AdamW's two float32 moments and the float32 master copy (none at stage 0 in float32)."""
    copied = number_bytes(run) == 2 or run.trainer.zero_stage > 0
    return _shared(run, trained * (12 if copied else 8), 1)


def _shared(run: RunConfig, amount: int, stage: int) -> int:
    """Return the bytes per rank of a tensor group that is partitioned from ZeRO stage `stage` on."""
    return -(-amount // run.placement.students) if run.trainer.zero_stage >= stage else amount


def _held(what: str, amount: int, *phases: Phase) -> tuple[MemoryPart, ...]:
    return (MemoryPart(owner="student", what=what, bytes=amount, phases=phases or PHASES),) if amount else ()


def _teacher_head(plan: RunPlan, dims: ModelDimensions, *teachers: ModelDimensions) -> tuple[MemoryPart, ...]:
    """Return the memory of a frozen model's LM head on a student rank, which turns hidden states into logits."""
    if plan.from_states is None:
        return ()
    (scorer,) = _scorers(plan.from_states, dims, teachers)
    return (MemoryPart(owner="student", what="teacher's head", bytes=scorer.embedding * 2),)


def _student_working(run: RunConfig, dims: ModelDimensions, number: int) -> int:
    """Return the bytes of a forward and backward pass of one micro-batch: activations, one layer's gradients, gathered
    parameters, the chunked head and the attention mask."""
    trainer, tokens = run.trainer, run.trainer.micro_batch_tokens
    layer = layer_activations(dims, number)
    inputs = dims.layers * dims.hidden * number
    kept = inputs + layer if trainer.gradient_checkpointing else dims.layers * layer
    backward = number * (3 * dims.intermediate + 4 * dims.hidden)
    gathered = 0
    if trainer.zero_stage == 3 and run.placement.students > 1:
        needed = dims.embedding + 2 * dims.linear_layer  # the head, the last layer, the prefetched next
        gathered = number * min(count_parameters(dims), max(LIVE_PARAMETERS, needed))
    head = 3 * trainer.head_chunk * dims.vocab * 4
    head += 0 if trainer.lora is not None else dims.embedding * 4  # its gradient in float32
    return tokens * (kept + backward) + gathered + head + _mask_bytes(run, dims)


def _mask_bytes(run: RunConfig, dims: ModelDimensions) -> int:
    """Return the bytes of the dense attention mask of packed rows, at most a single row of all tokens of a micro-batch: booleans,
    and the copy that torch adds to the scores. Attention that joins sequences has none; GPUs are taken to be new enough for that.
    """
    capability = None if on_cpu(run) else MIN_CAPABILITY
    attention = choose_attention(capability=capability, dtype=run.trainer.dtype, head_dim=dims.head_dim)
    pairs = run.trainer.micro_batch_tokens**2
    return 0 if attention.joins else pairs * (1 + number_bytes(run))


def _sent(run: RunConfig, dims: ModelDimensions) -> int:
    """Return the bytes of a weight sync on a student rank: the transfer buffer, and the largest tensor if parameters have to be
    gathered (the head stays gathered until the engines have received it) or cast."""
    largest = largest_tensor(dims) * 2
    if on_cpu(run):  # two copies of a part while it is packed, and all parts in the object store
        whole = count_parameters(dims) * 2
        return 2 * min(whole, PART_BYTES + largest) + min(whole, CPU_OBJECT_STORE)
    gathered = run.trainer.zero_stage == 3 and run.placement.students > 1
    made = largest * number_bytes(run) // 2 if gathered or run.trainer.lora is not None else 0
    made += largest if number_bytes(run) == 4 else 0
    if run.placement.kind == "split":
        return NCCL_BUFFERS * (TRANSFER_BUFFER + largest) + made
    return ipc_buffer(dims) + made


def ipc_buffer(dims: ModelDimensions) -> int:
    """Return the size in bytes of the buffer through which colocated engines receive weights; every tensor must fit in it."""
    return max(TRANSFER_BUFFER, largest_tensor(dims) * 2)


# --- teacher and reference ---------------------------------------------------------------------------------------


def teacher_parts(plan: RunPlan, dims: ModelDimensions, number: int = 0) -> tuple[MemoryPart, ...]:
    """Return the memory of a teacher, the one of that number: its weights, the tensors of one layer, a chunk of logits and its
    scores. A vLLM teacher has the memory of a vLLM engine, and logits that vLLM's memory profiling does not include."""
    run, teacher = plan.run, plan.teachers[number]
    owner = f"teacher {number + 1}" if plan.is_routed else "teacher"
    answer = run.trainer.micro_batch_tokens * _worker_bytes(plan, "teacher", dims, id_bytes=8)
    if teacher.backend == "vllm":
        spike = MemoryPart(
            owner=owner,
            what="logits",
            # in the teacher's dtype, and twice in float32
            bytes=scoring_tokens(run) * dims.vocab * (teacher_bytes(teacher) + 8) + answer,
            phases=_scoring_phases(run),
        )
        return (*_engine_parts(owner, run, dims, scoring_budget(run), teacher_bytes(teacher)), spike)
    return _frozen_parts(owner, run, dims, teacher_bytes(teacher), answer)


def reference_parts(plan: RunPlan, dims: ModelDimensions) -> tuple[MemoryPart, ...]:
    """Return the memory of a copy of the initial student, in the student's dtype."""
    run = plan.run
    answer = run.trainer.micro_batch_tokens * _worker_bytes(plan, "reference", dims, id_bytes=8)
    return _frozen_parts("reference", run, dims, number_bytes(run), answer)


def _frozen_parts(
    owner: str, run: RunConfig, dims: ModelDimensions, number: int, answer: int
) -> tuple[MemoryPart, ...]:
    """Return the memory of a frozen model with `number` bytes per value that returns `answer` bytes per micro-batch."""
    tokens = run.trainer.micro_batch_tokens
    layer = number * (3 * dims.hidden + 3 * dims.query + _mlp_width(dims)) + 4 * dims.hidden
    logits = 2 * run.trainer.head_chunk * dims.vocab * 4
    return (
        MemoryPart(owner=owner, what="parameters", bytes=count_parameters(dims) * number),
        MemoryPart(
            owner=owner,
            what="activations, logits",
            bytes=tokens * layer + logits + answer,
            phases=_scoring_phases(run),
        ),
        MemoryPart(owner=owner, what="libraries", bytes=_process(run)),
    )


def _mlp_width(dims: ModelDimensions) -> int:
    """Return how many values per token the MLP of a frozen layer holds at once: gate, up and their product. Experts hold the
    hidden state four times for each expert that a token passes through: sorted, projected, weighted, and in the old order."""
    if dims.experts is None:
        return 3 * dims.intermediate
    return 4 * dims.experts.per_token * max(dims.hidden, dims.experts.intermediate)


def _scoring_phases(run: RunConfig) -> tuple[Phase, ...]:
    """Return the phases in which frozen models run: unless GPUs are shared, also during training, which overlaps with scoring."""
    return ("rollout",) if run.placement.kind == "colocated" else ("rollout", "train")


def score_bytes(plan: RunPlan, dims: ModelDimensions, *teachers: ModelDimensions, id_bytes: int) -> int:
    """Return the bytes of all scores of one response token, if a token id has `id_bytes`: of several teachers those of the one
    that returns most, or of all if they teach a prompt together."""
    found = 0
    for one in plan.passes:
        sizes = [_pass_bytes(one, model, id_bytes) for model in _scorers(one.worker, dims, teachers)]
        found += sum(sizes) if plan.mixes else max(sizes)
    return found


def _worker_bytes(plan: RunPlan, worker: str, dims: ModelDimensions, *, id_bytes: int) -> int:
    """Return the bytes per response token of the largest scores that one pass of a worker gives."""
    passes = [*plan.passes, plan.evaluation_pass(dims.vocab)]
    sizes = (_pass_bytes(one, dims, id_bytes) for one in passes if one is not None and one.worker == worker)
    return max(sizes, default=0)


def _pass_bytes(one: ScoringPass, scorer: ModelDimensions, id_bytes: int) -> int:
    """Return the bytes of one token's scores: float32 numbers and ids of the top k, hidden states in bf16, or with a vLLM teacher
    all log-probabilities."""
    request = one.request
    entries = 0 if request.top_k is None else min(request.top_k, scorer.vocab) * (4 + id_bytes)
    whole = scorer.hidden * 2 if request.states else scorer.vocab * 4 if one.full else 0
    return entries + whole + 4 * (request.sampled + request.entropy)


def _scorers(
    worker: str, dims: ModelDimensions, teachers: Sequence[ModelDimensions]
) -> Sequence[ModelDimensions]:
    """Return the dimensions of the frozen models that do a pass: the teachers', or the student's."""
    return teachers if worker == "teacher" and teachers else (dims,)


# --- the engines -------------------------------------------------------------------------------------------------


def engine_parts(run: RunConfig, dims: ModelDimensions, *, sleeps: bool) -> tuple[MemoryPart, ...]:
    """Return the memory of one rollout engine: its fraction of the GPU, or on CPU its weights and KV cache. An engine that sleeps
    restores its weights for the sync, and its KV cache only afterwards."""
    arriving = MemoryPart(
        owner="rollout", what="received weights", bytes=_arriving(run, dims), phases=("sync",)
    )
    if on_cpu(run) or not sleeps:
        return (*_engine_parts("rollout", run, dims, engine_budget(run), rollout_bytes(run)), arriving)
    weights = count_parameters(dims) * rollout_bytes(run)
    return (
        MemoryPart(owner="rollout", what="weights, KV cache", bytes=engine_budget(run), phases=("rollout",)),
        MemoryPart(owner="rollout", what="sleeping engine", bytes=ENGINE_ASLEEP, phases=("train", "sync")),
        MemoryPart(owner="rollout", what="weights", bytes=weights, phases=("sync",)),
        arriving,
    )


def _arriving(run: RunConfig, dims: ModelDimensions) -> int:
    """Return the bytes of received weights, and of the new layer that vLLM builds before it replaces the old one."""
    largest = largest_tensor(dims) * rollout_bytes(run)
    if on_cpu(run):
        return min(count_parameters(dims) * 2, PART_BYTES + largest) + largest
    if run.placement.kind == "split":
        return NCCL_BUFFERS * (TRANSFER_BUFFER + largest) + largest
    return ipc_buffer(dims) + largest  # a copy of the buffer's content


def _engine_parts(
    owner: str, run: RunConfig, dims: ModelDimensions, budget: int, number: int
) -> tuple[MemoryPart, ...]:
    """Return the memory of a vLLM engine that never sleeps: its GPU budget, or on CPU its weights and KV cache."""
    if not on_cpu(run):
        return (MemoryPart(owner=owner, what="weights, KV cache", bytes=budget),)
    return (
        MemoryPart(owner=owner, what="parameters", bytes=count_parameters(dims) * number),
        MemoryPart(owner=owner, what="KV cache", bytes=_cpu_kv(run)),
        MemoryPart(owner=owner, what="libraries", bytes=CPU_ENGINE),
    )


def generator_parts(plan: RunPlan, dims: ModelDimensions) -> tuple[MemoryPart, ...]:
    """Return the memory of an engine with the teacher's weights, which generates responses and never sleeps."""
    return _engine_parts(
        "generator", plan.run, dims, engine_budget(plan.run), teacher_bytes(plan.teachers[0])
    )


def generated_sequences(plan: RunPlan, dims: ModelDimensions) -> int:
    """Like `full_sequences`, for an engine with the teacher's weights."""
    run, number = plan.run, teacher_bytes(plan.teachers[0])
    free_bytes = _cpu_kv(run) if on_cpu(run) else _free_kv_bytes(dims, engine_budget(run), number)
    return free_bytes // (dims.kv_bytes_per_token // BF16 * number * run.context_tokens)


def full_sequences(run: RunConfig, dims: ModelDimensions) -> int:
    """Return how many sequences of full context length fit in one engine's KV cache; 0 or less if not even one fits."""
    per_token = dims.kv_bytes_per_token // BF16 * rollout_bytes(run)
    return engine_kv_bytes(run, dims) // (per_token * run.context_tokens)


def scored_sequences(run: RunConfig, teacher: TeacherSettings, dims: ModelDimensions) -> int:
    """Like `full_sequences`, for a vLLM teacher, which generates one more token per sequence."""
    number = teacher_bytes(teacher)
    free_bytes = _cpu_kv(run) if on_cpu(run) else _free_kv_bytes(dims, scoring_budget(run), number)
    return free_bytes // (dims.kv_bytes_per_token // BF16 * number * (run.context_tokens + 1))


def engine_kv_bytes(run: RunConfig, dims: ModelDimensions) -> int:
    """Return the bytes of one rollout engine's KV cache: its budget minus weights and working memory, possibly negative."""
    return _cpu_kv(run) if on_cpu(run) else _free_kv_bytes(dims, engine_budget(run), rollout_bytes(run))


def _free_kv_bytes(dims: ModelDimensions, budget: int, number: int) -> int:
    return budget - count_parameters(dims) * number - ENGINE_WORKING


def scoring_tokens(run: RunConfig) -> int:
    """Return the maximum number of tokens whose logits a vLLM teacher computes at once. It scores one sequence at a time, and on
    CPU whole sequences."""
    longest = run.context_tokens + 1
    return longest if on_cpu(run) else min(longest, SCORING_TOKENS)


def scoring_budget(run: RunConfig) -> int:
    """Return the bytes of a GPU that a vLLM teacher may use."""
    return int(SCORING_FRACTION * run.placement.gpu_memory_gb * 1e9)


def engine_budget(run: RunConfig) -> int:
    """Return the bytes of a GPU that a rollout engine may use."""
    return int(engine_fraction(run) * run.placement.gpu_memory_gb * 1e9)


def engine_fraction(run: RunConfig) -> float:
    """Return the fraction of a GPU that a vLLM engine uses (not used on CPU)."""
    given = run.placement.engine_memory_fraction
    return ENGINE_FRACTION.get(run.placement.kind, 0.0) if given is None else given


# --- host memory -------------------------------------------------------------------------------------------------


def host_parts(plan: RunPlan, dims: ModelDimensions, *teachers: ModelDimensions) -> tuple[MemoryPart, ...]:
    """Return the host memory of the scores of one step, for responses of maximum length: the scores in Ray's object store, the
    driver's micro-batches, and those in the store for the students. With `one_step_off` the store also has the scores of the next
    step."""
    run = plan.run
    tokens = run.prompts_per_step * run.rollouts.group_size * run.lengths.max_response_tokens
    answers = tokens * score_bytes(plan, dims, *teachers, id_bytes=4)
    if not answers:
        return ()
    stored = answers * (3 if run.overlap == "one_step_off" else 2)
    stored = min(stored, CPU_OBJECT_STORE) if on_cpu(run) else stored
    return (
        MemoryPart(owner="driver", what="scores, object store", bytes=stored, phases=("train",)),
        MemoryPart(owner="driver", what="teacher's scores", bytes=answers, phases=("train",)),
    )


def number_bytes(run: RunConfig) -> int:
    """Return the bytes per value of the student's dtype."""
    return 2 if run.trainer.dtype == "bfloat16" else 4


def teacher_bytes(teacher: TeacherSettings) -> int:
    """Return the bytes per value of a teacher's dtype."""
    return 2 if teacher.dtype == "bfloat16" else 4


def rollout_bytes(run: RunConfig) -> int:
    """Bytes of one of a rollout engine's numbers."""
    return BF16 if run.rollout_dtype == "bfloat16" else 4


def on_cpu(run: RunConfig) -> bool:
    """Return whether all workers run on CPU."""
    return run.placement.kind == "cpu"


def _cpu_kv(run: RunConfig) -> int:
    return run.placement.cpu_kv_gib * 2**30


def _process(run: RunConfig) -> int:
    return CPU_PROCESS if on_cpu(run) else GPU_PROCESS
