"""Bytes that a run needs on each GPU (or on this machine), from the two config.json files alone. Pure but for the size
of this machine's memory.

Parameters, optimizer states, KV cache and logits are exact; activations are counted from the tensors that autograd keeps
for a Qwen3 layer in transformers; what libraries take for themselves are the constants below. Model states as in Rajbhandari
et al. 2020 (ZeRO), with DeepSpeed's float32 copy of the gradients during the update.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from tasks.core.errors import UserError
from training.config import LoraSettings, Projection, RunConfig
from training.engine.placement import Placement, Seat, placement

Phase = Literal["rollout", "train"]  # rollouts are drawn and scored; the student is updated
PHASES: tuple[Phase, ...] = ("rollout", "train")

GPU_PROCESS = 1_500_000_000  # CUDA context, NCCL buffers, cuBLAS workspace of one torch process
TRAINING_BUFFERS = 2_000_000_000  # DeepSpeed's reduce buckets and what the allocator cannot reuse
ENGINE_WORKING = 2_000_000_000  # activations and CUDA graphs of a vLLM engine, inside its fraction
ENGINE_ASLEEP = 1_500_000_000  # what a sleeping vLLM engine keeps
CPU_PROCESS = 750_000_000  # a Ray actor with torch and transformers
CPU_ENGINE = 1_250_000_000  # a Ray actor with vLLM, KV cache aside
ENGINE_FRACTION = {"split": 0.9, "colocated": 0.3}
SCORING_FRACTION = 0.8  # of its card, for a vLLM teacher: its logits come on top
SCORING_TOKENS = 2048  # most tokens of one pass of a vLLM teacher on a GPU: it forms their logits at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a dense Qwen2 or Qwen3 decoder."""

    kind: Literal["qwen2", "qwen3"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    attention_bias: bool

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers in two-byte numbers."""
        return 2 * self.layers * self.key * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one actor holds on a device in some phases."""

    owner: str  # role of the actor
    what: str
    bytes: int
    phases: tuple[Phase, ...] = PHASES


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or the machine's memory, and what lies on it."""

    name: str
    capacity: int
    parts: tuple[Part, ...]

    def needed(self, phase: Phase) -> int:
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> int:
        return max(self.needed(phase) for phase in PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    devices: tuple[Device, ...]
    full_sequences: int  # of context length that one engine's KV cache holds; below 1 the engine cannot start
    scored_sequences: int | None = None  # the same for a vLLM teacher

    @property
    def fits(self) -> bool:
        room = self.full_sequences >= 1 and (self.scored_sequences is None or self.scored_sequences >= 1)
        return room and all(device.peak <= device.capacity for device in self.devices)


# --- the model ---------------------------------------------------------------------------------------------------


def read_shape(folder: Path) -> Shape:
    """Sizes from a checkpoint's config.json. `UserError` for an architecture whose parameters we cannot count."""
    path = folder / "config.json"
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type")
        if kind not in ("qwen2", "qwen3"):
            raise UserError(f"{path}: model_type is {kind!r}: use a dense qwen2 or qwen3 checkpoint")
        heads = int(values["num_attention_heads"])
        return Shape(
            kind=kind,
            hidden=int(values["hidden_size"]),
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or int(values["hidden_size"]) // heads),
            intermediate=int(values["intermediate_size"]),
            vocab=int(values["vocab_size"]),
            tied=bool(values.get("tie_word_embeddings", False)),
            attention_bias=bool(values.get("attention_bias", False)),
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no model configuration ({reason}): put the whole checkpoint there"
        ) from error


def count_parameters(shape: Shape) -> int:
    """Distinct parameters; tied embeddings count once."""
    h, q, k = shape.hidden, shape.query, shape.key
    layer = sum(a * b for a, b in _projections(shape).values()) + 2 * h
    if shape.kind == "qwen3":
        layer += 2 * shape.head_dim  # the norms of queries and keys
        layer += (q + 2 * k + h) if shape.attention_bias else 0
    else:
        layer += q + 2 * k  # Qwen2 has biases on these three, whatever its config.json says
    return shape.layers * layer + h + shape.vocab * h * (1 if shape.tied else 2)


def count_lora(shape: Shape, lora: LoraSettings) -> int:
    """Trainable parameters of the adapters: rank x (in + out) for every target of every layer."""
    sizes = _projections(shape)
    return shape.layers * sum(lora.rank * sum(sizes[target]) for target in lora.targets)


def _projections(shape: Shape) -> dict[Projection, tuple[int, int]]:
    """(in, out) of the linear maps of one layer."""
    h, q, k, i = shape.hidden, shape.query, shape.key, shape.intermediate
    return {
        "q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h),
        "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
    }  # fmt: skip


def layer_activations(shape: Shape, number: int) -> int:
    """Bytes per token that autograd keeps for one layer with flash attention, `number` bytes a value.

    A norm keeps its input in float32 and its normalised output; attention its input, queries, keys and values (repeated for
    the query heads) and its output twice; the MLP its input and four tensors of the intermediate size.
    """
    h, q, k, i = shape.hidden, shape.query, shape.key, shape.intermediate
    normed = 2 * h + (q + k if shape.kind == "qwen3" else 0)
    return normed * (4 + number) + number * (2 * h + 5 * q + 4 * i)


# --- the parts ---------------------------------------------------------------------------------------------------


def student_parts(run: RunConfig, shape: Shape, teacher: Shape) -> tuple[Part, ...]:
    """What one data-parallel rank of the student holds, of its teacher's answers too."""
    engine, ranks = run.engine, run.placement.students
    number = 2 if engine.dtype == "bfloat16" else 4
    total = count_parameters(shape)
    trained = total if engine.lora is None else count_lora(shape, engine.lora)
    frozen = 0 if engine.lora is None else total
    states = trained * (12 if number == 2 else 8)  # master copy (bf16 only), two moments, all float32
    update = trained * 4 if number == 2 else 0  # DeepSpeed converts the gradients to float32 for the update

    def shared(amount: int, stage: int) -> int:
        return -(-amount // ranks) if engine.zero_stage >= stage else amount

    forward = _student_working(run, shape, number) + _answers(run, teacher)
    return (
        Part(owner="student", what="parameters", bytes=shared((trained + frozen) * number, 3)),
        Part(owner="student", what="gradients", bytes=shared(trained * number, 2)),
        Part(owner="student", what="optimizer", bytes=shared(states, 1)),
        Part(
            owner="student",
            what="activations, logits" if forward >= shared(update, 1) else "float32 gradients",
            bytes=max(forward, shared(update, 1)),  # one after the other
            phases=("train",),
        ),
        *_teacher_head(run, teacher),
        Part(
            owner="student", what="libraries", bytes=_process(run) + (0 if _on_cpu(run) else TRAINING_BUFFERS)
        ),
    )


def _teacher_head(run: RunConfig, teacher: Shape) -> tuple[Part, ...]:
    """The teacher's head, by which a student reads states of its teacher."""
    if not _by_states(run):
        return ()
    return (Part(owner="student", what="teacher's head", bytes=teacher.vocab * teacher.hidden * 2),)


def _student_working(run: RunConfig, shape: Shape, number: int) -> int:
    """Forward and backward of one micro-batch: activations, one layer's gradients, the chunked head."""
    engine, tokens = run.engine, run.engine.micro_batch_tokens
    layer = layer_activations(shape, number)
    inputs = shape.layers * shape.hidden * number
    kept = inputs + layer if engine.gradient_checkpointing else shape.layers * layer
    backward = number * (3 * shape.intermediate + 4 * shape.hidden)
    gathered = 0
    if engine.zero_stage == 3 and run.placement.students > 1:
        gathered = number * max(
            shape.vocab * shape.hidden, 2 * sum(a * b for a, b in _projections(shape).values())
        )
    head = 3 * engine.head_chunk * shape.vocab * 4
    head += 0 if engine.lora is not None else shape.vocab * shape.hidden * 4  # its gradient in float32
    return tokens * (kept + backward) + gathered + head


def teacher_parts(run: RunConfig, shape: Shape) -> tuple[Part, ...]:
    """What a frozen teacher holds: two-byte weights, one layer's tensors at a time, a chunk of logits, its targets. One that
    lives in a vLLM engine holds that, and the logits that vLLM's memory profile does not know of."""
    if run.teacher.engine == "vllm":
        spike = Part(
            owner="teacher",
            what="logits",
            bytes=scoring_tokens(run) * shape.vocab * 10 + _answers(run, shape),  # bf16, and fp32 twice
            phases=_scoring_phases(run),
        )
        return (*_engine_parts("teacher", run, shape, _scoring_budget(run)), spike)
    return _frozen_parts("teacher", run, shape, 2, _answers(run, shape))


def reference_parts(run: RunConfig, shape: Shape) -> tuple[Part, ...]:
    """What the reference holds, the student's start in the student's type; it answers with one number a token."""
    number = 2 if run.engine.dtype == "bfloat16" else 4
    return _frozen_parts("reference", run, shape, number, run.engine.micro_batch_tokens * 4)


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
    return ("rollout",) if run.placement.kind == "colocated" else PHASES


def _answers(run: RunConfig, teacher: Shape) -> int:
    """The teacher's answer for one micro-batch: float32 log-probabilities and 64-bit ids of its top k; for its full
    distribution its hidden states, or, of a vLLM teacher, all log-probabilities."""
    k, vocab = run.objective.top_k, teacher.vocab
    if _by_states(run):
        return run.engine.micro_batch_tokens * teacher.hidden * 2
    return run.engine.micro_batch_tokens * (vocab * 4 if k == "full" else min(k, vocab) * 12)


def _by_states(run: RunConfig) -> bool:
    """Whether the teacher's full distribution travels as its hidden states."""
    return run.objective.top_k == "full" and run.teacher.engine == "in_process"


def engine_parts(run: RunConfig, shape: Shape, *, sleeps: bool) -> tuple[Part, ...]:
    """What one rollout engine holds: its fraction of the card, or on CPU its weights and KV cache."""
    if _on_cpu(run) or not sleeps:
        return _engine_parts("rollout", run, shape, _engine_budget(run))
    return (
        Part(owner="rollout", what="weights, KV cache", bytes=_engine_budget(run), phases=("rollout",)),
        Part(owner="rollout", what="asleep", bytes=ENGINE_ASLEEP, phases=("train",)),
    )


def _engine_parts(owner: str, run: RunConfig, shape: Shape, budget: int) -> tuple[Part, ...]:
    """What a vLLM engine that never sleeps holds: its budget of a GPU's bytes; on CPU its weights and KV cache."""
    if not _on_cpu(run):
        return (Part(owner=owner, what="weights, KV cache", bytes=budget),)
    return (
        Part(owner=owner, what="parameters", bytes=count_parameters(shape) * 2),
        Part(owner=owner, what="KV cache", bytes=_cpu_kv(run)),
        Part(owner=owner, what="libraries", bytes=CPU_ENGINE),
    )


def full_sequences(run: RunConfig, shape: Shape) -> int:
    """How many sequences of context length one engine's KV cache holds at once; at most 0 when not even one."""
    return _sequences(run, shape, _engine_budget(run), run.context_tokens)


def scored_sequences(run: RunConfig, shape: Shape) -> int:
    """The same for a vLLM teacher, which generates one token more."""
    return _sequences(run, shape, _scoring_budget(run), run.context_tokens + 1)


def _sequences(run: RunConfig, shape: Shape, budget: int, tokens: int) -> int:
    room = _cpu_kv(run) if _on_cpu(run) else budget - count_parameters(shape) * 2 - ENGINE_WORKING
    return room // (shape.kv_bytes_per_token * tokens)


def scoring_tokens(run: RunConfig) -> int:
    """Most tokens whose logits a vLLM teacher forms at once. It takes them sequence by sequence; on CPU whole ones."""
    longest = run.context_tokens + 1
    return longest if _on_cpu(run) else min(longest, SCORING_TOKENS)


def _scoring_budget(run: RunConfig) -> int:
    return int(SCORING_FRACTION * run.placement.gpu_memory_gb * 1e9)


def _engine_budget(run: RunConfig) -> int:
    return int(engine_fraction(run) * run.placement.gpu_memory_gb * 1e9)


def engine_fraction(run: RunConfig) -> float:
    """Share of a card that a vLLM engine takes (on CPU it plays no part)."""
    given = run.placement.engine_memory_fraction
    return ENGINE_FRACTION.get(run.placement.kind, 0.0) if given is None else given


def _cpu_kv(run: RunConfig) -> int:
    return run.placement.cpu_kv_gib * 2**30


def _on_cpu(run: RunConfig) -> bool:
    return run.placement.kind == "cpu"


def _process(run: RunConfig) -> int:
    return CPU_PROCESS if _on_cpu(run) else GPU_PROCESS


# --- the plan ----------------------------------------------------------------------------------------------------


def memory_plan(run: RunConfig, student: Shape, teacher: Shape, machine: int | None = None) -> MemoryPlan:
    """Bytes per device for the run's placement. `machine` is the memory of a CPU placement (this machine's by default)."""
    seats = seats_of(run)
    capacity = int(run.placement.gpu_memory_gb * 1e9)
    if _on_cpu(run):
        capacity = machine_memory() if machine is None else machine
    bundles = sorted({seat.bundle for seat in seats.seats})
    return MemoryPlan(
        devices=tuple(
            Device(
                name="machine" if _on_cpu(run) else f"GPU {bundle}",
                capacity=capacity,
                parts=tuple(
                    part
                    for seat in seats.seats
                    if seat.bundle == bundle
                    for part in _seat_parts(run, seat, student, teacher, sleeps=seats.shares_gpus)
                ),
            )
            for bundle in bundles
        ),
        full_sequences=full_sequences(run, student),
        scored_sequences=scored_sequences(run, teacher) if run.teacher.engine == "vllm" else None,
    )


def seats_of(run: RunConfig) -> Placement:
    """The table of actors that the run's settings name."""
    where, referred = run.placement, run.objective.reference_kl_coefficient > 0
    return placement(where.kind, students=where.students, engines=where.engines, reference=referred)


def _seat_parts(
    run: RunConfig, seat: Seat, student: Shape, teacher: Shape, *, sleeps: bool
) -> tuple[Part, ...]:
    if seat.role == "student":
        return student_parts(run, student, teacher)
    if seat.role == "teacher":
        return teacher_parts(run, teacher)
    if seat.role == "reference":
        return reference_parts(run, student)
    return engine_parts(run, student, sleeps=sleeps)


def machine_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's where that is less."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def memory_problems(run: RunConfig, plan: MemoryPlan) -> list[str]:
    """One sentence for each device that is too small, and one for an engine without room."""
    found = [
        f"{name} needs {_gb(devices[0].peak)} and has {_gb(devices[0].capacity)} (placement {run.placement.kind}):"
        f" {_remedy(run)}"
        for name, devices in _alike(plan.devices)
        if devices[0].peak > devices[0].capacity
    ]
    if plan.full_sequences < 1:
        key = "cpu_kv_gib" if _on_cpu(run) else "engine_memory_fraction"
        found.append(
            f"a rollout engine has no room for the KV cache of one sequence of {run.context_tokens} tokens: raise"
            f" placement.{key} or lower the lengths"
        )
    if plan.scored_sequences is not None and plan.scored_sequences < 1:
        found.append(
            f"a vLLM teacher has no room for the KV cache of one sequence of {run.context_tokens + 1} tokens: choose"
            " teacher.engine in_process or lower the lengths"
        )
    return found


def _remedy(run: RunConfig) -> str:
    if run.placement.kind == "split":
        return "choose placement colocated with engine.zero_stage 3, a smaller model, or engine.lora"
    if run.placement.kind == "cpu":
        return "use fewer engines, a smaller placement.cpu_kv_gib or smaller models"
    if run.engine.zero_stage < 3:
        return "set engine.zero_stage to 3"
    return "use more GPUs, a smaller engine.micro_batch_tokens, or engine.lora"


def memory_table(plan: MemoryPlan) -> str:
    """The plan as lines of text in MB (10^6 bytes); devices that hold the same share a line."""
    lines = [f"{'device':<10}{'actor':<10}{'what':<22}{'rollout MB':>12}{'train MB':>12}"]
    for name, devices in _alike(plan.devices):
        parts, first = devices[0].parts, name
        for owner, what in dict.fromkeys((part.owner, part.what) for part in parts):
            lines.append(_line(first, owner, what, [p for p in parts if (p.owner, p.what) == (owner, what)]))
            first = ""
        lines.append(_line("", "", f"all, of {_gb(devices[0].capacity)}", parts))
    return "\n".join(lines)


def _alike(devices: Sequence[Device]) -> list[tuple[str, list[Device]]]:
    """Devices that hold the same parts, under one name: `GPU 2-3`."""
    groups: dict[tuple[tuple[Part, ...], int], list[Device]] = {}
    for device in devices:
        groups.setdefault((device.parts, device.capacity), []).append(device)
    return [
        (found[0].name + ("-" + found[-1].name.removeprefix("GPU ") if len(found) > 1 else ""), found)
        for found in groups.values()
    ]


def _line(name: str, owner: str, what: str, parts: Sequence[Part]) -> str:
    sums = [sum(part.bytes for part in parts if phase in part.phases) for phase in PHASES]
    return f"{name:<10}{owner:<10}{what:<22}" + "".join(f"{amount / 1e6:>12,.0f}" for amount in sums)


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"
