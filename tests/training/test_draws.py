"""The draws of a run: complete, uniform, resumable, and the same for every arm of an ablation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from tests.training.small_run import small_run
from training.draws import Schedule, schedule

IDS = tuple(f"row-{number}" for number in range(900))


def make(ids: tuple[str, ...] = IDS, kept: list[bool] | None = None, **changes: object) -> Schedule:
    return schedule(small_run(Path("d"), **changes), ids, [True] * len(ids) if kept is None else kept)


def test_the_papers_run_has_391_steps_20_of_them_warm_up_and_80_prompts_in_the_last() -> None:
    made = make()
    sizes = [len(made.step(number)) for number in (0, 1, 389, 390)]  # 390 * 128 = 49,920
    assert (made.steps, made.warmup_steps, sizes) == (391, 20, [128, 128, 128, 80])


def test_every_draw_occurs_once_and_in_order() -> None:
    made = make(batches={"size": 32, "draws": 1000})
    draws = [draw for number in range(made.steps) for draw in made.step(number)]
    assert [draw.index for draw in draws] == list(range(1000))
    assert all(draw.row_id == IDS[draw.row] for draw in draws)


def test_a_batch_size_in_rollouts_gives_fewer_prompts_and_the_same_draws() -> None:
    prompts = make(batches={"size": 8, "draws": 64})
    rollouts = make(batches={"size": 32, "unit": "rollouts", "draws": 64})  # 32 / K = 8
    assert [prompts.step(n) for n in range(prompts.steps)] == [
        rollouts.step(n) for n in range(rollouts.steps)
    ]
    assert sum(len(draw.seeds) for draw in rollouts.step(0)) == 32


def test_steps_are_independent_of_each_other() -> None:
    made = make()
    forward = {number: made.step(number) for number in (0, 5, 77, 390)}
    assert {number: make().step(number) for number in (390, 77, 5, 0)} == forward
    # and of the batch size: steps 2 and 3 of 4 prompts are step 1 of 8
    small, large = make(batches={"size": 4, "draws": 64}), make(batches={"size": 8, "draws": 64})
    assert small.step(2) + small.step(3) == large.step(1)


def test_draws_are_uniform_and_with_replacement() -> None:
    made = make(ids=IDS[:100], batches={"size": 1000, "draws": 20_000})
    counts = Counter(draw.row for number in range(made.steps) for draw in made.step(number))
    assert set(counts) == set(range(100))
    assert (
        chisquare([counts[row] for row in range(100)]).pvalue > 1e-3
    )  # fixed seed: the same value in every run
    assert max(Counter(draw.row for draw in made.step(0)).values()) > 1


def test_another_seed_gives_other_draws_and_rollouts() -> None:
    first, second = make().step(0), make(seed=1).step(0)
    assert [draw.row for draw in first] != [draw.row for draw in second]
    assert not {seed for draw in first for seed in draw.seeds} & {
        seed for draw in second for seed in draw.seeds
    }


def test_the_arms_of_an_ablation_draw_the_same_prompts_with_the_same_seeds() -> None:
    soft = make(objective={"prompt_weight": "soft"}).step(3)
    assert make(objective={"preset": "opd", "prompt_weight": "permuted", "top_k": 16}).step(3) == soft


def test_every_rollout_of_the_run_has_its_own_seed_below_2_to_the_63() -> None:
    made = make(ids=IDS[:3], batches={"size": 500, "draws": 2000})  # every row occurs hundreds of times
    seeds = [seed for number in range(made.steps) for draw in made.step(number) for seed in draw.seeds]
    assert len(set(seeds)) == len(seeds) == 8000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sum(seed > 2**62 for seed in seeds) == pytest.approx(4000, abs=250)  # 5.6 sigma


def test_a_larger_k_does_not_change_the_seeds_of_the_first_rollouts() -> None:
    two, four = make(rollouts={"per_prompt": 2}).step(0), make(rollouts={"per_prompt": 4}).step(0)
    assert [draw.seeds for draw in two] == [draw.seeds[:2] for draw in four]


def test_a_problem_drawn_twice_in_a_step_makes_two_groups_with_different_seeds() -> None:
    step = make(ids=IDS[:1], batches={"size": 2, "draws": 2}).step(0)
    assert [draw.row for draw in step] == [0, 0]
    assert step[0].index != step[1].index and not set(step[0].seeds) & set(step[1].seeds)


def test_rows_that_are_not_kept_are_never_drawn() -> None:
    kept = [number % 3 == 0 for number in range(900)]
    made = make(kept=kept)
    drawn = {draw.row for number in range(20) for draw in made.step(number)}
    assert drawn and all(row % 3 == 0 for row in drawn)
    assert [len(made.step(number)) for number in (0, 390)] == [128, 80]


def test_steps_out_of_range_and_empty_runs_are_rejected() -> None:
    made = make()
    for number in (-1, 391):
        with pytest.raises(IndexError, match=f"step {number} is out of range for a run of 391 steps"):
            made.step(number)
    with pytest.raises(ValueError, match=r"cannot draw prompts from .*, 0 of them kept"):
        make(kept=[False] * 900)
    with pytest.raises(ValueError, match="from 900 rows with 3 flags"):
        make(kept=[True] * 3)
