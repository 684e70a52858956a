"""The memory plan: bytes that a run needs on each GPU (or on this machine), from the models' config.json files alone.

Parameters, optimizer states, gradients, KV cache and logits are exact. Activations are counted from the tensors that autograd
keeps for a layer in transformers. The overhead of libraries is given by constants in `training.preflight.memory_parts`,
which lists the memory of each worker by phase. Pure, except for reading this machine's memory size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from training.config import RunConfig
from training.plan import RunPlan
from training.preflight.memory_parts import (
    ENGINE_WORKING,
    PHASES,
    SCORING_FRACTION,
    SCORING_TOKENS,
    MemoryPart,
    Phase,
    engine_fraction,
    engine_kv_bytes,
    engine_parts,
    full_sequences,
    generated_sequences,
    generator_parts,
    host_parts,
    on_cpu,
    reference_parts,
    scored_sequences,
    student_parts,
    teacher_parts,
)
from training.preflight.shapes import (
    ModelDimensions,
    count_lora,
    count_parameters,
    gigabytes,
    layer_activations,
    read_dimensions,
)
from training.workers.placement import Placement, Slot, make_placement

__all__ = [
    "ENGINE_WORKING",
    "PHASES",
    "SCORING_FRACTION",
    "SCORING_TOKENS",
    "Device",
    "MemoryPart",
    "MemoryPlan",
    "ModelDimensions",
    "Phase",
    "count_lora",
    "count_parameters",
    "engine_fraction",
    "engine_parts",
    "full_sequences",
    "layer_activations",
    "machine_memory",
    "memory_plan",
    "memory_problems",
    "memory_table",
    "placement_of",
    "read_dimensions",
    "reference_parts",
    "student_parts",
    "teacher_parts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or the memory of the machine, and what the workers allocate on it."""

    name: str
    capacity: int
    parts: tuple[MemoryPart, ...]

    def needed(self, phase: Phase) -> int:
        """Return the bytes that are allocated in a phase."""
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> int:
        """Bytes allocated in the phase that needs most."""
        return max(self.needed(phase) for phase in PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The memory that a run needs on every device, and the space for sequences in the engines' KV caches."""

    devices: tuple[Device, ...]
    full_sequences: int  # of context length per rollout engine; below 1 the engine cannot start
    engine_kv_bytes: int  # size of that KV cache; 0 or less if it does not fit
    host: tuple[MemoryPart, ...]  # host memory; on a cpu placement also included in the device
    scored_sequences: int | None = None  # like `full_sequences`, for a vLLM teacher
    generated_sequences: int | None = None  # like `full_sequences`, for an engine with the teacher's weights

    @property
    def fits(self) -> bool:
        """Whether every device has enough memory, and every engine space for one sequence."""
        caches = (self.full_sequences, self.scored_sequences, self.generated_sequences)
        has_cache = all(one is None or one >= 1 for one in caches)
        return has_cache and all(device.peak <= device.capacity for device in self.devices)


def memory_plan(
    plan: RunPlan, student: ModelDimensions, *teachers: ModelDimensions, machine: int | None = None
) -> MemoryPlan:
    """Return the memory plan of the run. `teachers`: the dimensions of its teachers. `machine`: bytes of memory for a cpu
    placement (default: those of this machine)."""
    run, placement = plan.run, placement_of(plan)
    capacity = int(run.placement.gpu_memory_gb * 1e9)
    if on_cpu(run):
        capacity = machine_memory() if machine is None else machine
    bundles = sorted({slot.bundle for slot in placement.slots})
    host = host_parts(plan, student, *teachers)
    return MemoryPlan(
        devices=tuple(
            Device(
                name="machine" if on_cpu(run) else f"GPU {bundle}",
                capacity=capacity,
                parts=tuple(
                    part
                    for slot in placement.slots
                    if slot.bundle == bundle
                    for part in _slot_parts(plan, slot, student, teachers, sleeps=placement.shares_gpus)
                )
                + (host if on_cpu(run) else ()),
            )
            for bundle in bundles
        ),
        full_sequences=full_sequences(run, student),
        engine_kv_bytes=engine_kv_bytes(run, student),
        host=host,
        scored_sequences=min(
            (
                scored_sequences(run, settings, dims)
                for settings, dims in zip(plan.scoring_teachers, teachers, strict=False)
                if settings.backend == "vllm"
            ),
            default=None,
        ),
        generated_sequences=generated_sequences(plan, teachers[0]) if plan.generates and teachers else None,
    )


def scores_by_vllm(plan: RunPlan) -> bool:
    """Return whether the run has a teacher in a vLLM engine."""
    return any(one.backend == "vllm" for one in plan.scoring_teachers)


def _teachers(plan: RunPlan) -> int:
    """Return the number of teachers that score, at least one if a pass needs one."""
    return max(len(plan.scoring_teachers), any(one.worker == "teacher" for one in plan.passes))


def placement_of(*plans: RunPlan) -> Placement:
    """Return the placement of a run's workers, or of all workers of several runs with the same settings of `placement`."""
    where = plans[0].run.placement
    return make_placement(
        where.kind,
        students=where.students,
        engines=where.engines,
        teachers=max(_teachers(plan) for plan in plans),
        reference=any(plan.has_reference for plan in plans),
        generator=any(plan.generates for plan in plans),
    )


def _slot_parts(
    plan: RunPlan,
    slot: Slot,
    student: ModelDimensions,
    teachers: Sequence[ModelDimensions],
    *,
    sleeps: bool,
) -> tuple[MemoryPart, ...]:
    if slot.role == "student":
        return student_parts(plan, student, *teachers)
    if slot.role == "teacher" and teachers:
        return teacher_parts(plan, teachers[slot.model], slot.model)
    if slot.role == "generator" and teachers:
        return generator_parts(plan, teachers[0])
    if slot.role == "reference":
        return reference_parts(plan, student)
    return engine_parts(plan.run, student, sleeps=sleeps)


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's total or the limit of its control group."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def memory_problems(run: RunConfig, plan: MemoryPlan) -> list[str]:
    """Return one problem for each device with too little memory, and one for an engine whose KV cache is too small."""
    found = [
        f"{name} needs {gigabytes(devices[0].peak)} but has {gigabytes(devices[0].capacity)} (placement {run.placement.kind}):"
        f" {_remedy(run)}"
        for name, devices in _alike(plan.devices)
        if devices[0].peak > devices[0].capacity
    ]
    if plan.full_sequences < 1:
        key = "cpu_kv_gib" if on_cpu(run) else "engine_memory_fraction"
        found.append(
            f"the KV cache of a rollout engine is too small for one sequence of {run.context_tokens} tokens: raise"
            f" placement.{key} or lower the lengths"
        )
    if plan.scored_sequences is not None and plan.scored_sequences < 1:
        found.append(
            f"the KV cache of a vLLM teacher is too small for one sequence of {run.context_tokens + 1} tokens: choose"
            " teacher.backend in_process or lower the lengths"
        )
    if plan.generated_sequences is not None and plan.generated_sequences < 1:
        key = "cpu_kv_gib" if on_cpu(run) else "engine_memory_fraction"
        found.append(
            f"the KV cache of the engine with the teacher's weights is too small for one sequence of {run.context_tokens} tokens:"
            f" raise placement.{key}, lower the lengths, or choose another fallback"
        )
    return found


def _remedy(run: RunConfig) -> str:
    if run.placement.kind == "split":
        return (
            "choose placement colocated with trainer.zero_stage 3, more placement.students with stage 2 or 3, a smaller model, or"
            " trainer.lora"
        )
    if run.placement.kind == "cpu":
        return "use fewer engines, a smaller placement.cpu_kv_gib or smaller models"
    if run.trainer.zero_stage < 3:
        return "set trainer.zero_stage to 3"
    return "use more GPUs, a smaller placement.engine_memory_fraction or trainer.micro_batch_tokens, or trainer.lora"


def memory_table(plan: MemoryPlan) -> str:
    """Return the plan as a table in MB (10^6 bytes). Devices with the same content share their lines.

    With GPUs, the last lines list host memory; it is not checked, because the run may start on another machine.
    """
    lines = [f"{'device':<10}{'actor':<10}{'what':<22}" + "".join(f"{f'{phase} MB':>12}" for phase in PHASES)]
    for name, devices in _alike(plan.devices):
        parts = devices[0].parts
        lines += _rows(name, parts)
        lines.append(_line("", "", f"total, of {gigabytes(devices[0].capacity)}", parts))
    if not any(set(plan.host) <= set(device.parts) for device in plan.devices):
        lines += _rows("machine", plan.host)
    return "\n".join(lines)


def _rows(name: str, parts: Sequence[MemoryPart]) -> list[str]:
    """Return one line per item of each worker; the first line has the device's name."""
    rows = []
    for owner, what in dict.fromkeys((part.owner, part.what) for part in parts):
        rows.append(_line(name, owner, what, [p for p in parts if (p.owner, p.what) == (owner, what)]))
        name = ""
    return rows


def _alike(devices: Sequence[Device]) -> list[tuple[str, list[Device]]]:
    """Group devices with the same content under one name, such as `GPU 2-3`."""
    groups: dict[tuple[tuple[MemoryPart, ...], int], list[Device]] = {}
    for device in devices:
        groups.setdefault((device.parts, device.capacity), []).append(device)
    return [
        (found[0].name + ("-" + found[-1].name.removeprefix("GPU ") if len(found) > 1 else ""), found)
        for found in groups.values()
    ]


def _line(name: str, owner: str, what: str, parts: Sequence[MemoryPart]) -> str:
    sums = [sum(part.bytes for part in parts if phase in part.phases) for phase in PHASES]
    return f"{name:<10}{owner:<10}{what:<22}" + "".join(f"{amount / 1e6:>12,.0f}" for amount in sums)
