"""The draws of a run: complete, uniform, resumable, and the same for every arm of an ablation."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chisquare

from tests.training.small_run import small_run
from training.batch import split_updates
from training.data.sampler import Schedule, schedule

IDS = tuple(f"row-{number}" for number in range(900))


def schedule_of(
    ids: tuple[str, ...] = IDS, kept: list[bool] | None = None, updates: int = 1, **changes: Any
) -> Schedule:
    run = small_run(Path("d"), **changes)
    return schedule(run, ids, [True] * len(ids) if kept is None else kept, updates)


def rows_of(made: Schedule) -> list[int]:
    return [group.row for number in range(made.steps) for group in made.step(number)]


def test_the_papers_run_has_391_steps_20_of_them_warm_up_and_80_prompts_in_the_last() -> None:
    made = schedule_of()
    sizes = [len(made.step(number)) for number in (0, 1, 389, 390)]  # 390 * 128 = 49,920
    assert (made.steps, made.updates, made.warmup_updates, sizes) == (391, 391, 20, [128, 128, 128, 80])


def test_every_group_occurs_once_and_in_order() -> None:
    made = schedule_of(batches={"size": 32, "total_prompts": 1000})
    groups = [group for number in range(made.steps) for group in made.step(number)]
    assert [group.index for group in groups] == list(range(1000))
    assert all(group.row_id == IDS[group.row] for group in groups)


def test_a_batch_size_in_rollouts_gives_fewer_prompts_and_the_same_groups() -> None:
    prompts = schedule_of(batches={"size": 8, "total_prompts": 64})
    rollouts = schedule_of(batches={"size": 32, "unit": "rollouts", "total_prompts": 64})  # 32 / K = 8
    assert [prompts.step(n) for n in range(prompts.steps)] == [
        rollouts.step(n) for n in range(rollouts.steps)
    ]
    assert sum(len(group.seeds) for group in rollouts.step(0)) == 32


def test_steps_are_independent_of_each_other() -> None:
    made = schedule_of()
    forward = {number: made.step(number) for number in (0, 5, 77, 390)}
    assert {number: schedule_of().step(number) for number in (390, 77, 5, 0)} == forward
    # and of the batch size: steps 2 and 3 of 4 prompts are step 1 of 8
    small, large = (
        schedule_of(batches={"size": 4, "total_prompts": 64}),
        schedule_of(batches={"size": 8, "total_prompts": 64}),
    )
    assert small.step(2) + small.step(3) == large.step(1)


def test_prompts_are_drawn_uniformly_and_with_replacement() -> None:
    made = schedule_of(ids=IDS[:100], batches={"size": 1000, "total_prompts": 20_000})
    counts = Counter(group.row for number in range(made.steps) for group in made.step(number))
    assert set(counts) == set(range(100))
    assert (
        chisquare([counts[row] for row in range(100)]).pvalue > 1e-3
    )  # fixed seed: the same value in every run
    assert max(Counter(group.row for group in made.step(0)).values()) > 1


def test_another_seed_gives_other_prompts_and_rollouts() -> None:
    first, second = schedule_of().step(0), schedule_of(seed=1).step(0)
    assert [group.row for group in first] != [group.row for group in second]
    assert not {seed for group in first for seed in group.seeds} & {
        seed for group in second for seed in group.seeds
    }


def test_the_arms_of_an_ablation_draw_the_same_prompts_with_the_same_seeds() -> None:
    soft = schedule_of(algorithm={"prompt_weight": "soft"}).step(3)
    assert schedule_of(algorithm={"name": "opd", "prompt_weight": "permuted", "top_k": 16}).step(3) == soft


def test_every_rollout_of_the_run_has_its_own_seed_below_2_to_the_63() -> None:
    made = schedule_of(
        ids=IDS[:3], batches={"size": 500, "total_prompts": 2000}
    )  # every row occurs hundreds of times
    seeds = [seed for number in range(made.steps) for group in made.step(number) for seed in group.seeds]
    assert len(set(seeds)) == len(seeds) == 8000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sum(seed > 2**62 for seed in seeds) == pytest.approx(4000, abs=250)  # 5.6 sigma


def test_a_larger_k_does_not_change_the_seeds_of_the_first_rollouts() -> None:
    two, four = (
        schedule_of(rollouts={"group_size": 2}).step(0),
        schedule_of(rollouts={"group_size": 4}).step(0),
    )
    assert [group.seeds for group in two] == [group.seeds[:2] for group in four]


def test_a_problem_drawn_twice_in_a_step_makes_two_groups_with_different_seeds() -> None:
    step = schedule_of(ids=IDS[:1], batches={"size": 2, "total_prompts": 2}).step(0)
    assert [group.row for group in step] == [0, 0]
    assert step[0].index != step[1].index and not set(step[0].seeds) & set(step[1].seeds)


def test_rows_that_are_not_kept_are_never_drawn() -> None:
    kept = [number % 3 == 0 for number in range(900)]
    made = schedule_of(kept=kept)
    drawn = {group.row for number in range(20) for group in made.step(number)}
    assert drawn and all(row % 3 == 0 for row in drawn)
    assert [len(made.step(number)) for number in (0, 390)] == [128, 80]


def test_steps_out_of_range_and_empty_runs_are_rejected() -> None:
    made = schedule_of()
    for number in (-1, 391):
        with pytest.raises(IndexError, match=f"step {number} is out of range for a run of 391 steps"):
            made.step(number)
    with pytest.raises(ValueError, match=r"cannot draw prompts from .*, 0 of them kept"):
        schedule_of(kept=[False] * 900)
    with pytest.raises(ValueError, match="from 900 rows with 3 flags"):
        schedule_of(kept=[True] * 3)


# --- in epochs ---------------------------------------------------------------------------------------------------


def epochs(count: int, size: int, **changes: Any) -> dict[str, Any]:
    return {"batches": {"size": size, "draw": "epochs", "epochs": count, "total_prompts": None, **changes}}


def test_every_row_is_drawn_once_per_epoch_each_in_another_order() -> None:
    made = schedule_of(ids=IDS[:100], **epochs(3, 32))
    drawn = rows_of(made)
    assert (made.total_prompts, made.steps, len(made.step(9))) == (
        300,
        10,
        12,
    )  # batches go over the end of an epoch
    orders = [tuple(drawn[first : first + 100]) for first in (0, 100, 200)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({*orders, tuple(range(100))}) == 4
    assert [group.index for number in range(made.steps) for group in made.step(number)] == list(range(300))
    seeds = [seed for number in range(made.steps) for group in made.step(number) for seed in group.seeds]
    assert len(set(seeds)) == 300 * 4


def test_a_run_in_epochs_continues_at_any_step_with_the_same_draws() -> None:
    whole = [schedule_of(ids=IDS[:70], **epochs(2, 8)).step(number) for number in range(18)]
    for number in (17, 3, 9, 8, 0):
        assert schedule_of(ids=IDS[:70], **epochs(2, 8)).step(number) == whole[number]
    halves = schedule_of(ids=IDS[:70], **epochs(2, 4))
    assert [halves.step(2 * number) + halves.step(2 * number + 1) for number in range(17)] == whole[:17]


def test_the_order_of_an_epoch_depends_on_the_seed_and_not_on_the_algorithm() -> None:
    first = rows_of(schedule_of(ids=IDS[:70], **epochs(2, 8)))
    assert rows_of(schedule_of(ids=IDS[:70], seed=1, **epochs(2, 8))) != first
    assert rows_of(schedule_of(ids=IDS[:70], algorithm={"name": "sft"}, **epochs(2, 8))) == first


def test_rows_that_are_not_kept_are_in_no_epoch() -> None:
    kept = [number % 3 == 0 for number in range(90)]
    drawn = rows_of(schedule_of(ids=IDS[:90], kept=kept, **epochs(2, 7)))
    assert sorted(drawn) == sorted(2 * [number for number in range(90) if number % 3 == 0])


def test_a_number_of_prompts_ends_the_run_within_an_epoch() -> None:
    made = schedule_of(ids=IDS[:50], **epochs(1, 10, total_prompts=80))
    drawn = rows_of(made)
    assert sorted(drawn[:50]) == list(range(50)) and len(set(drawn[50:])) == len(drawn[50:]) == 30


# --- several updates per batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "total", "updates", "expected"),
    [
        (8, 64, 4, 32),
        (8, 60, 4, 32),  # seven full batches, and four prompts: an update each
        (8, 58, 4, 30),  # two prompts in the last batch have two updates
        (8, 57, 1, 8),
        (128, 50_000, 4, 391 * 4),
    ],
)
def test_a_batch_has_several_updates_and_a_small_last_one_fewer(
    size: int, total: int, updates: int, expected: int
) -> None:
    made = schedule_of(updates=updates, batches={"size": size, "total_prompts": total})
    assert made.updates == expected
    split = [split_updates(made.step(n), updates, whole_groups=True) for n in range(made.steps)]
    assert sum(map(len, split)) == expected
    assert made.warmup_updates == math.ceil(0.05 * expected)
    assert made.steps == schedule_of(batches={"size": size, "total_prompts": total}).steps
