"""The learning rate schedule against values computed by hand, and DeepSpeed's settings for each stage."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from training.student.zero import MAX_BUCKET, deepspeed_config, learning_rate


def test_the_rate_rises_in_equal_steps_to_the_peak() -> None:
    rates = [learning_rate(step, peak=8.0, warmup_steps=4, total_steps=20) for step in range(4)]
    assert rates == [2.0, 4.0, 6.0, 8.0]


def test_the_rate_falls_along_a_cosine_that_reaches_zero_after_the_last_update() -> None:
    # 4 of 11 updates are warm-up, so there are 8 intervals from the peak to 0: after 4 of them the rate is half the peak.
    def rate(step: int) -> float:
        return learning_rate(step, peak=8.0, warmup_steps=4, total_steps=11)

    assert rate(3) == 8.0
    assert rate(7) == pytest.approx(4.0)
    assert rate(5) == pytest.approx(4.0 * (1 + math.cos(math.pi / 4)))
    assert rate(11) == pytest.approx(0.0)
    assert 0 < rate(10) < rate(9) < rate(8)
    assert rate(50) == pytest.approx(0.0), "the rate stays 0 after the last step"


def test_without_warm_up_the_first_update_is_just_below_the_peak() -> None:
    assert learning_rate(0, peak=1.0, warmup_steps=0, total_steps=1) == pytest.approx(0.5)
    assert 0.99 < learning_rate(0, peak=1.0, warmup_steps=0, total_steps=100) < 1.0


def test_the_papers_run_peaks_at_its_twentieth_update() -> None:
    rates = [learning_rate(step, peak=3e-6, warmup_steps=20, total_steps=391) for step in range(391)]
    assert max(rates) == rates[19] == 3e-6
    assert all(later < earlier for earlier, later in pairwise(rates[19:]))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_accumulation_steps_are_one_and_buckets_follow_the_model_size(stage: int) -> None:
    config = deepspeed_config(
        stage=stage,  # type: ignore[arg-type]
        bf16=True,
        clip=1.0,
        parameters=1_700_000,
        on_cpu=True,
    )
    assert config["gradient_accumulation_steps"] == 1 and config["gradient_clipping"] == 1.0
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["reduce_bucket_size"] == 1_700_000
    assert config["zero_optimization"]["overlap_comm"] is False
    assert ("data_types" in config) == (stage > 0)


def test_a_large_model_keeps_deepspeeds_bucket_size_and_float32_has_no_bf16_section() -> None:
    config = deepspeed_config(stage=2, bf16=False, clip=0.5, parameters=8_000_000_000, on_cpu=False)
    assert config["zero_optimization"]["allgather_bucket_size"] == MAX_BUCKET
    assert config["zero_optimization"]["overlap_comm"] is True
    assert "bf16" not in config and "data_types" not in config
