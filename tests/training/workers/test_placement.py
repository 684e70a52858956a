"""Slots and bundles of the placements against values counted by hand; a cluster that is too small raises one error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import UserError
from training.workers.placement import PlacementName, make_placement, shortfall

PROJECT = Path(__file__).resolve().parents[3]


def shares(name: PlacementName, **counts: int | bool) -> list[float]:
    """Return the allocated share of each GPU."""
    plan = make_placement(name, **counts)  # type: ignore[arg-type]
    return [
        round(sum(slot.gpus for slot in plan.slots if slot.bundle == bundle), 6)
        for bundle in range(len(plan.bundles()))
    ]


def test_the_papers_node_has_four_gpus_and_two_rollout_engines() -> None:
    plan = make_placement("split", students=1, engines=2, reference=True)
    assert [(slot.role, slot.index, slot.bundle, slot.gpus) for slot in plan.slots] == [
        ("student", 0, 0, 0.8),
        ("reference", 0, 0, 0.2),
        ("teacher", 0, 1, 1.0),
        ("rollout", 0, 2, 1.0),
        ("rollout", 1, 3, 1.0),
    ]
    assert [bundle["GPU"] for bundle in plan.bundles()] == [1.0] * 4
    assert not plan.shares_gpus and not plan.on_cpu


def test_no_slot_is_reserved_without_a_reference() -> None:
    plan = make_placement("split", students=2, engines=2)
    assert plan.count("reference") == 0 and plan.count("student") == 2
    assert plan.slot("teacher").bundle == 2 and plan.slot("rollout", 1).bundle == 4


@pytest.mark.parametrize("reference", [False, True])
def test_without_a_teacher_split_needs_one_gpu_less(reference: bool) -> None:
    plan = make_placement("split", students=2, engines=2, teachers=0, reference=reference)
    assert (plan.count("teacher"), plan.count("reference")) == (0, int(reference))
    assert [plan.slot("rollout", engine).bundle for engine in range(2)] == [2, 3]
    assert shares("split", students=2, engines=2, teachers=0, reference=reference) == [
        1.0 if reference else 0.8, 0.8, 1.0, 1.0,
    ]  # fmt: skip
    assert shortfall(plan, {"CPU": 8.0, "GPU": 4.0}) is None


def test_a_start_without_a_teacher_is_on_every_colocated_gpu_and_once_on_cpu() -> None:
    made = make_placement("colocated", students=3, engines=3, teachers=0, reference=True)
    assert [made.count(role) for role in ("student", "reference", "teacher", "rollout")] == [3, 3, 0, 3]
    assert shares("colocated", students=3, engines=3, teachers=0, reference=True) == [0.8] * 3
    on_cpu = make_placement("cpu", engines=2, teachers=0, reference=True)
    assert [(slot.role, slot.bundle) for slot in on_cpu.slots] == [
        ("student", 0), ("reference", 0), ("rollout", 0), ("rollout", 0),
    ]  # fmt: skip


def test_colocated_puts_one_actor_of_each_role_on_every_gpu() -> None:
    plan = make_placement("colocated", students=4, engines=4, reference=True)
    assert [plan.count(role) for role in ("student", "reference", "teacher", "rollout")] == [4, 4, 4, 4]
    assert shares("colocated", students=4, engines=4, reference=True) == [1.0] * 4
    assert shares("colocated", students=4, engines=4) == [0.9] * 4
    assert plan.shares_gpus


def test_cpu_uses_no_gpu_and_fits_on_a_single_core() -> None:
    plan = make_placement("cpu", students=2, engines=3, reference=True)
    assert plan.on_cpu and not plan.shares_gpus
    assert [plan.count(role) for role in ("student", "reference", "teacher", "rollout")] == [2, 1, 1, 3]
    (bundle,) = plan.bundles()
    assert "GPU" not in bundle and bundle["CPU"] < 1
    assert shortfall(plan, {"CPU": 1.0}) is None


def test_the_error_for_a_small_cluster_names_its_resources() -> None:
    plan = make_placement("split", students=1, engines=2)
    assert shortfall(plan, {"CPU": 8.0, "GPU": 4.0}) is None
    assert shortfall(plan, {"CPU": 8.0, "GPU": 3.0}) == (
        "placement 'split' needs 4 GPUs, but the cluster has 3: choose another placement or a larger cluster"
    )
    assert shortfall(plan, {"CPU": 8.0}) is not None


def test_unequal_numbers_cannot_be_colocated() -> None:
    with pytest.raises(UserError, match="not 2 students and 1 engines"):
        make_placement("colocated", students=2, engines=1)


def test_placements_import_no_heavy_library() -> None:
    code = (
        "import sys; import training.workers.placement; import training.student.checkpoints; import training.student.zero\n"
        "print([name for name in ('torch', 'ray', 'vllm', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
