"""Placement of a run's actors in the bundles of a Ray placement group. The tables can be read without a GPU.

A slot belongs to one actor: its role, its bundle, and its share of that bundle's GPU. Shares are used for Ray's scheduling
only; the memory that an actor uses depends on its own settings (vLLM's memory fraction, the student's ZeRO stage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tasks.errors import UserError

Role = Literal["student", "reference", "teacher", "rollout", "generator"]
PlacementName = Literal["split", "colocated", "cpu"]
NAMES: tuple[PlacementName, ...] = ("split", "colocated", "cpu")

CPU_SHARE = 0.01
"""CPU cores that Ray reserves for one actor. The value is nominal: OMP_NUM_THREADS limits the threads, and a run with many
actors must also fit on a small machine."""
RESERVE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The slot of one actor: number `index` of its role, in bundle `bundle`, with a share `gpus` of a GPU (0 on CPU). `model`:
    the number of its model, of the teachers; `index` counts the actors of that model."""

    role: Role
    index: int
    bundle: int
    gpus: float
    model: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All slots of a run. A bundle is one GPU (on CPU, the machine), so slots in the same bundle share a GPU."""

    name: PlacementName
    slots: tuple[Slot, ...]

    def count(self, role: Role) -> int:
        """Return the number of actors of a role. For `student` it is the number of data-parallel ranks."""
        return sum(slot.role == role for slot in self.slots)

    def slot(self, role: Role, index: int = 0) -> Slot:
        """Return the slot of one actor; of the first teacher's actors, if there are several teachers."""
        return self.slots_of(role)[index]

    def slots_of(self, role: Role, model: int = 0) -> tuple[Slot, ...]:
        """Return the slots of one model of a role, in the order of their indices."""
        return tuple(slot for slot in self.slots if (slot.role, slot.model) == (role, model))

    @property
    def on_cpu(self) -> bool:
        """Whether no actor uses a GPU."""
        return all(slot.gpus == 0 for slot in self.slots)

    @property
    def shares_gpus(self) -> bool:
        """Whether a student and a rollout engine share a GPU, in which case the engines sleep while the student trains."""
        students, engines = (
            {slot.bundle for slot in self.slots if slot.role == role} for role in ("student", "rollout")
        )
        return not self.on_cpu and bool(students & engines)

    def bundles(self) -> list[dict[str, float]]:
        """Return the resources of each bundle of the placement group."""
        count = max(slot.bundle for slot in self.slots) + 1
        members = [[slot for slot in self.slots if slot.bundle == bundle] for bundle in range(count)]
        return [{"CPU": CPU_SHARE * len(slots)} | ({} if self.on_cpu else {"GPU": 1.0}) for slots in members]


# Shares of a GPU. With `split`, student and reference share a GPU; with `colocated`, every GPU has one actor of each model.
_SPLIT: Mapping[Role, float] = {
    "student": 0.8, "reference": 0.2, "teacher": 1.0, "rollout": 1.0, "generator": 1.0,
}  # fmt: skip
_COLOCATED: Mapping[Role, float] = {"student": 0.4, "reference": 0.1, "teacher": 0.2, "rollout": 0.3}


def make_placement(
    name: PlacementName,
    *,
    students: int = 1,
    engines: int = 1,
    teachers: int = 1,
    reference: bool = False,
    generator: bool = False,
) -> Placement:
    """Return the slots of a run. `generator`: whether an engine has the teacher's weights.

    `split`: each student rank, each teacher, each rollout engine and the generator has its own GPU; the reference shares the
    first student's. The paper's node has 1 student and 2 engines. `colocated`: one actor of each model on each of `students`
    GPUs, and no generator. `cpu`: any number of students, teachers and engines, no GPU. Raises `UserError` for an unknown name,
    or if `colocated` has different numbers of students and engines, or a generator.
    """
    if name == "split":
        rows = _split_rows(students, teachers, engines, reference=reference, generator=generator)
        return Placement(name=name, slots=_numbered(rows, _SPLIT))
    models: list[tuple[Role, int]] = [
        *([("reference", 0)] if reference else []),
        *(("teacher", model) for model in range(teachers)),
    ]
    roles: list[tuple[Role, int]]
    if name == "colocated":
        _check_colocated(students, engines, generator=generator)
        roles = [("student", 0), *models, ("rollout", 0)]
        rows: list[tuple[Role, int, int]] = [(*one, gpu) for gpu in range(students) for one in roles]
        shares: Mapping[Role, float] = {**_COLOCATED, "teacher": _COLOCATED["teacher"] / max(1, teachers)}
        return Placement(name=name, slots=_numbered(rows, shares))
    if name == "cpu":
        roles = [
            *(("student", 0) for _ in range(students)),
            *models,
            *(("rollout", 0) for _ in range(engines)),
            *([("generator", 0)] if generator else []),
        ]
        return Placement(name=name, slots=_numbered([(*one, 0) for one in roles], {}))
    raise UserError(f"unknown placement {name!r}: choose one of {', '.join(NAMES)}")


def _split_rows(
    students: int, teachers: int, engines: int, *, reference: bool, generator: bool
) -> list[tuple[Role, int, int]]:
    """Return (role, model, GPU) of each actor of the placement `split`."""
    return [
        *(("student", 0, gpu) for gpu in range(students)),
        *([("reference", 0, 0)] if reference else []),
        *(("teacher", model, students + model) for model in range(teachers)),
        *(("rollout", 0, students + teachers + gpu) for gpu in range(engines)),
        *([("generator", 0, students + teachers + engines)] if generator else []),
    ]


def _check_colocated(students: int, engines: int, *, generator: bool) -> None:
    if students != engines:
        raise UserError(
            f"placement 'colocated' needs as many rollout engines as students, not {students} students and {engines} engines: set"
            " both to the number of GPUs"
        )
    if generator:
        raise UserError(
            "placement 'colocated' has no memory for an engine with the teacher's weights: choose placement split"
        )


def _numbered(rows: Sequence[tuple[Role, int, int]], shares: Mapping[Role, float]) -> tuple[Slot, ...]:
    """Return the slots of the rows (role, model, bundle), numbered within each model; the share of a role without one is 0."""
    seen: dict[tuple[Role, int], int] = {}
    slots = []
    for role, model, bundle in rows:
        index = seen.get((role, model), 0)
        slots.append(Slot(role=role, index=index, bundle=bundle, gpus=shares.get(role, 0.0), model=model))
        seen[role, model] = index + 1
    return tuple(slots)


def shortfall(placement: Placement, available: Mapping[str, float]) -> str | None:
    """Return a message if a cluster with these resources (Ray's names) is too small for the placement, else None."""
    needed = {name: sum(bundle.get(name, 0.0) for bundle in placement.bundles()) for name in ("GPU", "CPU")}
    for name, amount in needed.items():
        if available.get(name, 0.0) + 1e-9 < amount:
            return (
                f"placement {placement.name!r} needs {amount:g} {name}s, but the cluster has"
                f" {available.get(name, 0.0):g}: choose another placement or a larger cluster"
            )
    return None


def reserve(placement: Placement) -> Any:
    """Return a Ray placement group with the placement's bundles. Raises `UserError` if the cluster is too small or too busy."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    lacking = shortfall(placement, ray.cluster_resources())
    if lacking is not None:
        raise UserError(lacking)
    group = placement_group(placement.bundles(), strategy="PACK")
    if not group.wait(RESERVE_TIMEOUT_S):
        remove_placement_group(group)
        raise UserError(
            f"the resources of placement {placement.name!r} were not available within {RESERVE_TIMEOUT_S:.0f} s: stop other jobs"
            " on the cluster"
        )
    return group


@contextmanager
def reserved(placement: Placement) -> Iterator[Any]:
    """Call `reserve` and remove the placement group at the end of the block, which ends its actors even if Ray keeps running."""
    from ray.util.placement_group import remove_placement_group

    group = reserve(placement)
    try:
        yield group
    finally:
        remove_placement_group(group)


def actor_options(slot: Slot, group: Any) -> dict[str, Any]:
    """Return the arguments of `.options()` that place an actor in its slot."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=slot.bundle)
    return {"num_cpus": CPU_SHARE, "num_gpus": slot.gpus, "scheduling_strategy": strategy}
