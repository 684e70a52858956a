"""Where the actors of a run sit: small tables of Ray placement-group bundles, and nothing that needs a GPU to be read.

A seat is one actor: its role, the bundle it lives in, and its share of that bundle's GPU. Shares are what Ray counts
with; how much memory an actor really takes is its own setting (vLLM's memory fraction, the student's ZeRO stage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.errors import UserError

Role = Literal["student", "reference", "teacher", "rollout"]
PlacementName = Literal["split", "colocated", "cpu"]
ROLES: tuple[Role, ...] = ("student", "reference", "teacher", "rollout")
NAMES: tuple[PlacementName, ...] = ("split", "colocated", "cpu")

CPU_SHARE = 0.01
"""Cores that Ray counts for one actor: a token amount, since threads are bounded by OMP_NUM_THREADS and a run of many
actors must also fit a small machine."""
RESERVE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One actor: the `index`-th of its role, in bundle `bundle`, with the share `gpus` of a GPU (0 on CPU)."""

    role: Role
    index: int
    bundle: int
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All seats of a run. A bundle is one GPU (or, on CPU, the machine), so two seats in one bundle share a GPU."""

    name: PlacementName
    seats: tuple[Seat, ...]

    def count(self, role: Role) -> int:
        """How many actors of a role there are; that of `student` is the number of data-parallel ranks."""
        return sum(seat.role == role for seat in self.seats)

    def seat(self, role: Role, index: int = 0) -> Seat:
        return next(seat for seat in self.seats if (seat.role, seat.index) == (role, index))

    @property
    def on_cpu(self) -> bool:
        return all(seat.gpus == 0 for seat in self.seats)

    @property
    def shares_gpus(self) -> bool:
        """Whether a student and an engine live on the same GPU: the engines then sleep while the student trains."""
        students, engines = (
            {seat.bundle for seat in self.seats if seat.role == role} for role in ("student", "rollout")
        )
        return not self.on_cpu and bool(students & engines)

    def bundles(self) -> list[dict[str, float]]:
        """What the placement group reserves, one entry for each bundle."""
        count = max(seat.bundle for seat in self.seats) + 1
        members = [[seat for seat in self.seats if seat.bundle == bundle] for bundle in range(count)]
        return [{"CPU": CPU_SHARE * len(seats)} | ({} if self.on_cpu else {"GPU": 1.0}) for seats in members]


# Shares of a GPU. `split` gives the student's GPU to student and reference; `colocated` repeats its line on every GPU.
_SPLIT: Mapping[Role, float] = {"student": 0.8, "reference": 0.2, "teacher": 1.0, "rollout": 1.0}
_COLOCATED: Mapping[Role, float] = {"student": 0.4, "reference": 0.1, "teacher": 0.2, "rollout": 0.3}


def placement(
    name: PlacementName, *, students: int = 1, engines: int = 1, reference: bool = False
) -> Placement:
    """The seats of a run. `reference` says whether the objective needs a reference model.

    `split`: each student rank (with the first, the reference), the teacher and each engine on GPUs of their own; the
    paper's node is 1 student and 2 engines. `colocated`: one actor of every role on each of `students` GPUs. `cpu`: any
    number of students and engines, one teacher, no GPU.
    """
    if name == "split":
        rows: list[tuple[Role, int]] = []
        for gpu in range(students):
            rows.append(("student", gpu))
        rows.extend([("reference", 0), ("teacher", students)])
        for gpu in range(engines):
            rows.append(("rollout", students + 1 + gpu))
        return Placement(name=name, seats=_numbered(rows, _SPLIT, reference))
    if name == "colocated":
        if students != engines:
            raise UserError(
                f"colocated puts one student and one engine on every GPU, not {students} and {engines}: give both the number of"
                " GPUs"
            )
        rows = [(role, gpu) for gpu in range(students) for role in ROLES]
        return Placement(name=name, seats=_numbered(rows, _COLOCATED, reference))
    if name == "cpu":
        counts: Mapping[Role, int] = {"student": students, "reference": 1, "teacher": 1, "rollout": engines}
        rows = [(role, 0) for role, count in counts.items() for _ in range(count)]
        return Placement(name=name, seats=_numbered(rows, dict.fromkeys(ROLES, 0.0), reference))
    raise UserError(f"placement {name!r} is not known: choose one of {', '.join(NAMES)}")


def _numbered(
    rows: Sequence[tuple[Role, int]], shares: Mapping[Role, float], reference: bool
) -> tuple[Seat, ...]:
    """Seats of the rows (role, bundle), numbered within their role."""
    seen: dict[Role, int] = {}
    seats = []
    for role, bundle in rows:
        if role == "reference" and not reference:
            continue
        seats.append(Seat(role=role, index=seen.get(role, 0), bundle=bundle, gpus=shares[role]))
        seen[role] = seen.get(role, 0) + 1
    return tuple(seats)


def shortfall(placement: Placement, available: Mapping[str, float]) -> str | None:
    """Why a cluster with these resources (Ray's names) cannot hold the placement, as a sentence, or None when it can."""
    needed = {name: sum(bundle.get(name, 0.0) for bundle in placement.bundles()) for name in ("GPU", "CPU")}
    for name, amount in needed.items():
        if available.get(name, 0.0) + 1e-9 < amount:
            return (
                f"placement {placement.name!r} needs {amount:g} {name}s and the cluster has"
                f" {available.get(name, 0.0):g}: choose another placement or a larger machine"
            )
    return None


def reserve(placement: Placement) -> Any:
    """A Ray placement group that holds the bundles. Raises `UserError` when the cluster is too small or too busy."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    lacking = shortfall(placement, ray.cluster_resources())
    if lacking is not None:
        raise UserError(lacking)
    group = placement_group(placement.bundles(), strategy="PACK")
    if not group.wait(RESERVE_TIMEOUT_S):
        remove_placement_group(group)
        raise UserError(
            f"placement {placement.name!r} was not free within {RESERVE_TIMEOUT_S:.0f} s: end the other jobs of the cluster"
        )
    return group


@contextmanager
def reserved(placement: Placement) -> Iterator[Any]:
    """`reserve` for the length of a block; at its end the actors in the group end with it, also on a Ray that runs on."""
    from ray.util.placement_group import remove_placement_group

    group = reserve(placement)
    try:
        yield group
    finally:
        remove_placement_group(group)


def actor_options(seat: Seat, group: Any) -> dict[str, Any]:
    """Arguments of `.options()` that put an actor on its seat."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=seat.bundle)
    return {"num_cpus": CPU_SHARE, "num_gpus": seat.gpus, "scheduling_strategy": strategy}
