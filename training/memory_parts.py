"""What each actor holds on its device, and in which phase of a step: the bytes that `training.memory` adds up.

Model states are those that DeepSpeed 0.19.8 holds, read in its code and counted in a process of it (bytes a parameter, P of
them on N ranks, bf16): parameters 2, AdamW's master copy and moments 12/N from stage 1 on. Gradients: stage 0 keeps 2 from
the first micro-batch to the update, which copies them to float32; stage 1 is DeepSpeed's BF16_Optimizer, whose float32
gradients stay whole on every rank for the whole run, the bf16 ones beside them until the update; stage 2 has a float32
partition from the first micro-batch to the update; stage 3 has one for the whole run, and copies a sub-group of it for the
update. Rajbhandari et al. 2020 (ZeRO) count less, since their gradients are not accumulated in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config import RunConfig
from training.engine.zero import MAX_BUCKET
from training.shapes import Shape, count_lora, count_parameters, largest_tensor, layer_activations

Phase = Literal["rollout", "train", "sync"]
"""Rollouts are drawn and scored; the student is updated; the engines get its weights."""
PHASES: tuple[Phase, ...] = ("rollout", "train", "sync")

BF16 = 2  # bytes
GPU_PROCESS = 1_500_000_000  # CUDA context, NCCL buffers, cuBLAS workspace of one torch process
ALLOCATOR = 1_000_000_000  # what torch's allocator keeps and cannot reuse, in the process that trains
ENGINE_WORKING = 2_000_000_000  # activations and CUDA graphs of a vLLM engine, inside its fraction
ENGINE_ASLEEP = 1_500_000_000  # what a sleeping vLLM engine keeps
CPU_PROCESS = 750_000_000  # a Ray actor with torch and transformers
CPU_ENGINE = 1_250_000_000  # a Ray actor with vLLM, KV cache aside
ENGINE_FRACTION = {"split": 0.9, "colocated": 0.3}
SCORING_FRACTION = 0.8  # of its card, for a vLLM teacher: its logits come on top
SCORING_TOKENS = 2048  # most tokens of one pass of a vLLM teacher on a GPU: it forms their logits at once
LIVE_PARAMETERS = 1_000_000_000  # that DeepSpeed's stage 3 keeps gathered: its own limit of fetching ahead
SUB_GROUP = 1_000_000_000  # values of a partition that stage 3 updates at once, up to one tensor more
TRANSFER_BUFFER = 2**30  # of vLLM's weight transfer, or the largest tensor where that is larger
NCCL_BUFFERS = 2  # of them at each end, and a tensor that no longer fits still goes in
CPU_OBJECT_STORE = 2**30  # of Ray's object store on a cpu placement; more goes to the disk (`crew`)
PART_BYTES = 2**29  # of a part of the weights in Ray's object store (`rollout.weights`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one actor holds on a device in some phases."""

    owner: str  # role of the actor
    what: str
    bytes: int
    phases: tuple[Phase, ...] = PHASES


# --- the student -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Bytes of gradients on one rank: `kept` for the whole run, as is a `bucket`; `summed` from the first micro-batch to the
    update; on top of these, `reducing` while they are reduced, and `update` during the update."""

    kept: int
    summed: int
    reducing: int
    update: int
    bucket: int = 0


def student_parts(run: RunConfig, shape: Shape, teacher: Shape) -> tuple[Part, ...]:
    """What one data-parallel rank of the student holds, of its teacher's answers too."""
    engine, number = run.engine, number_bytes(run)
    total = count_parameters(shape)
    trained = total if engine.lora is None else count_lora(shape, engine.lora)
    frozen = 0 if engine.lora is None else total
    grown = gradients(run, shape, trained)
    forward = _student_working(run, shape, number) + answer_bytes(run, teacher) + grown.reducing
    return (
        Part(owner="student", what="parameters", bytes=_shared(run, (trained + frozen) * number, 3)),
        Part(owner="student", what="optimizer", bytes=_states(run, trained)),
        *_held("gradients", grown.kept),
        *_held("gradients in the sum", grown.summed, "train"),
        *_held("bucket", grown.bucket),
        Part(
            owner="student",
            what="activations, logits" if forward >= grown.update else "update",
            bytes=max(forward, grown.update),  # one after the other
            phases=("train",),
        ),
        *_held("weights on their way", _sent(run, shape), "sync"),
        *_teacher_head(run, teacher),
        Part(owner="student", what="libraries", bytes=_process(run) + (0 if on_cpu(run) else ALLOCATOR)),
    )


def gradients(run: RunConfig, shape: Shape, trained: int) -> Gradients:
    """Gradients of `trained` parameters by ZeRO stage, and what reducing and applying them takes.

    A bucket has up to MAX_BUCKET values, a larger tensor goes alone. AdamW forms one float32 tensor the size of what it
    updates at once on a GPU (foreach), two on CPU; all tensors at stage 0, a flat partition above.
    """
    stage, number, ranks = run.engine.zero_stage, number_bytes(run), run.placement.students
    largest = min(largest_tensor(shape), trained)
    bucket, mine = min(trained, max(MAX_BUCKET, largest)), -(-trained // ranks)
    roots, whole = (8, largest) if on_cpu(run) else (4, trained)
    if stage == 3:
        at_once = min(mine, SUB_GROUP + -(-largest // ranks))
        reducing = bucket * number + -(-bucket // ranks) * 4
        held, update = min(trained, MAX_BUCKET) * number, at_once * (4 + roots)
        return Gradients(kept=mine * 4, summed=0, reducing=reducing, update=update, bucket=held)
    if stage == 2:
        buffers = (1 if on_cpu(run) else 2) * min(trained, MAX_BUCKET) + bucket
        again = mine * 4 if number == 4 else 0  # float32 partitions are summed, and flattened, as new tensors
        reducing = buffers * number + again
        return Gradients(kept=0, summed=mine * 4, reducing=reducing, update=mine * roots + again)
    if stage == 1 and number == 2:
        return Gradients(kept=trained * 4, summed=trained * 2, reducing=bucket * 6, update=mine * roots)
    if stage == 1:
        return Gradients(kept=0, summed=trained * 4, reducing=bucket * 8, update=mine * (4 + roots))
    copies = trained * 4 if number == 2 else 0
    return Gradients(kept=0, summed=trained * number, reducing=bucket * number, update=copies + roots * whole)


def _states(run: RunConfig, trained: int) -> int:
    """Two float32 moments, and the float32 copy that every stage has but 0 in float32."""
    copied = number_bytes(run) == 2 or run.engine.zero_stage > 0
    return _shared(run, trained * (12 if copied else 8), 1)


def _shared(run: RunConfig, amount: int, stage: int) -> int:
    """A rank's share of what is partitioned from a ZeRO stage on."""
    return -(-amount // run.placement.students) if run.engine.zero_stage >= stage else amount


def _held(what: str, amount: int, *phases: Phase) -> tuple[Part, ...]:
    return (Part(owner="student", what=what, bytes=amount, phases=phases or PHASES),) if amount else ()


def _teacher_head(run: RunConfig, teacher: Shape) -> tuple[Part, ...]:
    """The teacher's head, by which a student reads states of its teacher."""
    if not _by_states(run):
        return ()
    return (Part(owner="student", what="teacher's head", bytes=teacher.embedding * 2),)


def _student_working(run: RunConfig, shape: Shape, number: int) -> int:
    """Forward and backward of one micro-batch: activations, one layer's gradients, gathered parameters, the chunked head."""
    engine, tokens = run.engine, run.engine.micro_batch_tokens
    layer = layer_activations(shape, number)
    inputs = shape.layers * shape.hidden * number
    kept = inputs + layer if engine.gradient_checkpointing else shape.layers * layer
    backward = number * (3 * shape.intermediate + 4 * shape.hidden)
    gathered = 0
    if engine.zero_stage == 3 and run.placement.students > 1:
        needed = shape.embedding + 2 * shape.linear_layer  # the head, the last layer, and the next on its way
        gathered = number * min(count_parameters(shape), max(LIVE_PARAMETERS, needed))
    head = 3 * engine.head_chunk * shape.vocab * 4
    head += 0 if engine.lora is not None else shape.embedding * 4  # its gradient in float32
    return tokens * (kept + backward) + gathered + head


def _sent(run: RunConfig, shape: Shape) -> int:
    """What a sync takes of a student: the buffer of the transfer, and the tensor that is whole for it where parameters are
    partitioned (the head stays so until the engines have it) or sent in another type."""
    largest = largest_tensor(shape) * 2
    if on_cpu(run):  # two copies of a part as it is packed, and all parts in the object store
        whole = count_parameters(shape) * 2
        return 2 * min(whole, PART_BYTES + largest) + min(whole, CPU_OBJECT_STORE)
    gathered = run.engine.zero_stage == 3 and run.placement.students > 1
    made = largest * number_bytes(run) // 2 if gathered or run.engine.lora is not None else 0
    made += largest if number_bytes(run) == 4 else 0
    if run.placement.kind == "split":
        return NCCL_BUFFERS * (TRANSFER_BUFFER + largest) + made
    return ipc_buffer(shape) + made


def ipc_buffer(shape: Shape) -> int:
    """Bytes of the buffer through which colocated engines get their weights; no tensor may be larger than it."""
    return max(TRANSFER_BUFFER, largest_tensor(shape) * 2)


# --- teacher and reference ---------------------------------------------------------------------------------------


def teacher_parts(run: RunConfig, shape: Shape) -> tuple[Part, ...]:
    """What a frozen teacher holds: two-byte weights, one layer's tensors at a time, a chunk of logits, its targets. One that
    lives in a vLLM engine holds that, and the logits that vLLM's memory profile does not know of."""
    if run.teacher.engine == "vllm":
        spike = Part(
            owner="teacher",
            what="logits",
            bytes=scoring_tokens(run) * shape.vocab * 10 + answer_bytes(run, shape),  # bf16, and fp32 twice
            phases=_scoring_phases(run),
        )
        return (*_engine_parts("teacher", run, shape, scoring_budget(run), BF16), spike)
    return _frozen_parts("teacher", run, shape, 2, answer_bytes(run, shape))


def reference_parts(run: RunConfig, shape: Shape) -> tuple[Part, ...]:
    """What the reference holds, the student's start in the student's type; it answers with one number a token."""
    return _frozen_parts("reference", run, shape, number_bytes(run), run.engine.micro_batch_tokens * 4)


def _frozen_parts(owner: str, run: RunConfig, shape: Shape, number: int, answer: int) -> tuple[Part, ...]:
    """What a frozen model of `number` bytes a value holds that gives `answer` bytes for a micro-batch."""
    tokens = run.engine.micro_batch_tokens
    layer = number * (3 * shape.hidden + 3 * shape.query + 3 * shape.intermediate) + 4 * shape.hidden
    logits = 2 * run.engine.head_chunk * shape.vocab * 4
    return (
        Part(owner=owner, what="parameters", bytes=count_parameters(shape) * number),
        Part(
            owner=owner,
            what="activations, logits",
            bytes=tokens * layer + logits + answer,
            phases=_scoring_phases(run),
        ),
        Part(owner=owner, what="libraries", bytes=_process(run)),
    )


def _scoring_phases(run: RunConfig) -> tuple[Phase, ...]:
    """When frozen models work: unless all share their cards, also while the student learns from what is scored."""
    return ("rollout",) if run.placement.kind == "colocated" else ("rollout", "train")


def answer_bytes(run: RunConfig, teacher: Shape) -> int:
    """The teacher's answer for one micro-batch: float32 log-probabilities and 64-bit ids of its top k; for its full
    distribution its hidden states, or, of a vLLM teacher, all log-probabilities."""
    k, vocab = run.objective.top_k, teacher.vocab
    if _by_states(run):
        return run.engine.micro_batch_tokens * teacher.hidden * 2
    return run.engine.micro_batch_tokens * (vocab * 4 if k == "full" else min(k, vocab) * 12)


def _by_states(run: RunConfig) -> bool:
    """Whether the teacher's full distribution travels as its hidden states."""
    return run.objective.top_k == "full" and run.teacher.engine == "in_process"


# --- the engines -------------------------------------------------------------------------------------------------


def engine_parts(run: RunConfig, shape: Shape, *, sleeps: bool) -> tuple[Part, ...]:
    """What one rollout engine holds: its fraction of the card, or on CPU its weights and KV cache. One that sleeps has its
    weights back for a sync, its KV cache only after it."""
    arriving = Part(owner="rollout", what="weights arriving", bytes=_arriving(run, shape), phases=("sync",))
    if on_cpu(run) or not sleeps:
        return (*_engine_parts("rollout", run, shape, engine_budget(run), rollout_bytes(run)), arriving)
    weights = count_parameters(shape) * rollout_bytes(run)
    return (
        Part(owner="rollout", what="weights, KV cache", bytes=engine_budget(run), phases=("rollout",)),
        Part(owner="rollout", what="asleep", bytes=ENGINE_ASLEEP, phases=("train", "sync")),
        Part(owner="rollout", what="weights", bytes=weights, phases=("sync",)),
        arriving,
    )


def _arriving(run: RunConfig, shape: Shape) -> int:
    """What came of the weights, and the layer that vLLM builds of it beside the one it will replace."""
    largest = largest_tensor(shape) * rollout_bytes(run)
    if on_cpu(run):
        return min(count_parameters(shape) * 2, PART_BYTES + largest) + largest
    if run.placement.kind == "split":
        return NCCL_BUFFERS * (TRANSFER_BUFFER + largest) + largest
    return ipc_buffer(shape) + largest  # a copy of what the buffer holds


def _engine_parts(owner: str, run: RunConfig, shape: Shape, budget: int, number: int) -> tuple[Part, ...]:
    """What a vLLM engine that never sleeps holds: its budget of a GPU's bytes; on CPU its weights and KV cache."""
    if not on_cpu(run):
        return (Part(owner=owner, what="weights, KV cache", bytes=budget),)
    return (
        Part(owner=owner, what="parameters", bytes=count_parameters(shape) * number),
        Part(owner=owner, what="KV cache", bytes=_cpu_kv(run)),
        Part(owner=owner, what="libraries", bytes=CPU_ENGINE),
    )


def full_sequences(run: RunConfig, shape: Shape) -> int:
    """How many sequences of context length one engine's KV cache holds at once; at most 0 when not even one."""
    per_token = shape.kv_bytes_per_token // BF16 * rollout_bytes(run)
    return engine_kv_bytes(run, shape) // (per_token * run.context_tokens)


def scored_sequences(run: RunConfig, shape: Shape) -> int:
    """The same for a vLLM teacher, which generates one token more."""
    room = _cpu_kv(run) if on_cpu(run) else _kv_room(shape, scoring_budget(run), BF16)
    return room // (shape.kv_bytes_per_token * (run.context_tokens + 1))


def engine_kv_bytes(run: RunConfig, shape: Shape) -> int:
    """Bytes of one rollout engine's KV cache: what its budget leaves beside weights and working memory; negative without room."""
    return _cpu_kv(run) if on_cpu(run) else _kv_room(shape, engine_budget(run), rollout_bytes(run))


def _kv_room(shape: Shape, budget: int, number: int) -> int:
    return budget - count_parameters(shape) * number - ENGINE_WORKING


def scoring_tokens(run: RunConfig) -> int:
    """Most tokens whose logits a vLLM teacher forms at once. It takes them sequence by sequence; on CPU whole ones."""
    longest = run.context_tokens + 1
    return longest if on_cpu(run) else min(longest, SCORING_TOKENS)


def scoring_budget(run: RunConfig) -> int:
    return int(SCORING_FRACTION * run.placement.gpu_memory_gb * 1e9)


def engine_budget(run: RunConfig) -> int:
    return int(engine_fraction(run) * run.placement.gpu_memory_gb * 1e9)


def engine_fraction(run: RunConfig) -> float:
    """Share of a card that a vLLM engine takes (on CPU it plays no part)."""
    given = run.placement.engine_memory_fraction
    return ENGINE_FRACTION.get(run.placement.kind, 0.0) if given is None else given


# --- the machine's own memory ------------------------------------------------------------------------------------


def host_parts(run: RunConfig, teacher: Shape) -> tuple[Part, ...]:
    """The teacher's answers of one step on their way, at the longest responses: as it put them into Ray's object store, as the
    driver joined them to micro-batches, and as those went into the store for the students. With `one_step_off` the next
    step's are in the store as well."""
    tokens = run.prompts_per_step * run.rollouts.per_prompt * run.lengths.max_response_tokens
    k, vocab = run.objective.top_k, teacher.vocab
    full = teacher.hidden * 2 if _by_states(run) else vocab * 4
    answers = tokens * (full if k == "full" else min(k, vocab) * 8)  # float32 and 32-bit ids
    stored = answers * (3 if run.overlap == "one_step_off" else 2)
    stored = min(stored, CPU_OBJECT_STORE) if on_cpu(run) else stored
    return (
        Part(owner="driver", what="answers in the store", bytes=stored, phases=("train",)),
        Part(owner="driver", what="answers", bytes=answers, phases=("train",)),
    )


def number_bytes(run: RunConfig) -> int:
    """Bytes of one of the student's numbers."""
    return 2 if run.engine.dtype == "bfloat16" else 4


def rollout_bytes(run: RunConfig) -> int:
    """Bytes of one of a rollout engine's numbers."""
    return BF16 if run.rollout_dtype == "bfloat16" else 4


def on_cpu(run: RunConfig) -> bool:
    return run.placement.kind == "cpu"


def _cpu_kv(run: RunConfig) -> int:
    return run.placement.cpu_kv_gib * 2**30


def _process(run: RunConfig) -> int:
    return CPU_PROCESS if on_cpu(run) else GPU_PROCESS
