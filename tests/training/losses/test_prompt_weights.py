"""Prompt weights: hand-computed values, removed prompts, and errors that name the row."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.errors import UserError
from training.losses.prompt_weights import (
    Binary,
    Constant,
    PassRate,
    Permuted,
    PromptColumns,
    PromptWeight,
    Soft,
    Uniform,
)

# eight samples per prompt: weight = 1 - H / log 8
ENTROPY = [0.0, 0.25, 0.5, 1.0, math.log(8)]
COLUMNS = PromptColumns(
    ids=["a", "b", "c", "d", "e"],
    entropy=ENTROPY,
    weight=[1 - h / math.log(8) for h in ENTROPY],
    pass_rate=[1.0, 0.75, 0.5, 0.25, 0.0],
)


def test_uniform_needs_no_column() -> None:
    weights = Uniform()(PromptColumns(ids=["a", "b"]))
    assert (weights.kept.tolist(), weights.weight.tolist()) == ([True, True], [1.0, 1.0])


def test_soft_is_the_weight_column_and_keeps_zeros() -> None:
    weights = Soft()(COLUMNS)
    assert weights.weight.tolist() == COLUMNS.weight
    assert weights.weight[4] == 0.0
    assert weights.kept.all()


@pytest.mark.parametrize(
    ("tau", "scale", "kept"),
    [
        (0.3, "raw", [True, True, False, False, False]),
        (0.5, "raw", [True, True, True, False, False]),  # H > tau is removed, H = tau is kept
        (0.3, "normalised", [True, True, True, False, False]),  # H / log 8 = 0, 0.12, 0.24, 0.48, 1
        (0.5, "normalised", [True, True, True, True, False]),
        (0.0, "raw", [True, False, False, False, False]),
        (9.0, "raw", [True] * 5),
    ],
)
def test_binary_keeps_the_certain_prompts(tau: float, scale, kept: list[bool]) -> None:
    weights = Binary(tau, scale)(COLUMNS)
    assert weights.kept.tolist() == kept
    assert weights.weight.tolist() == [float(one) for one in kept]


def test_pass_rate_is_highest_at_one_half() -> None:
    weights = PassRate()(COLUMNS)
    assert weights.weight.tolist() == [0.0, 0.1875, 0.25, 0.1875, 0.0]
    assert weights.kept.all()


def test_constant_is_the_mean() -> None:
    weights = Constant()(PromptColumns(ids=["a", "b", "c"], weight=[0.0, 0.5, 1.0]))
    assert weights.weight.tolist() == [0.5, 0.5, 0.5]


def test_permuted_assigns_the_same_weights_to_other_prompts() -> None:
    draw = random.Random(1)
    ids = [f"p{i}" for i in range(200)]
    columns = PromptColumns(ids=ids, weight=[draw.random() for _ in ids])
    dealt = Permuted(seed=3)(columns).weight
    assert sorted(dealt) == sorted(columns.weight or [])
    assert sum(new == old for new, old in zip(dealt, columns.weight or [], strict=True)) < 10
    assert Permuted(seed=3)(columns).weight.tolist() == dealt.tolist()
    assert Permuted(seed=4)(columns).weight.tolist() != dealt.tolist()
    assert Permuted(seed=3)(columns).weight.mean() == pytest.approx(Constant()(columns).weight[0])


def test_permuted_does_not_depend_on_the_order_of_rows() -> None:
    draw = random.Random(2)
    rows = [(f"p{i}", draw.random()) for i in range(50)]
    shuffled = draw.sample(rows, 50)
    first, second = (
        dict(zip([name for name, _ in order], Permuted(seed=1)(columns).weight.tolist(), strict=True))
        for order in (rows, shuffled)
        for columns in [PromptColumns(ids=[name for name, _ in order], weight=[w for _, w in order])]
    )
    assert first == second


@pytest.mark.parametrize(
    ("weight", "columns", "message"),
    [
        (Soft(), replace(COLUMNS, weight=[1, 1, math.nan, 1, 1]), "prompt 'c' has weight nan"),
        (
            Constant(),
            replace(COLUMNS, weight=[1, 1, 1, 1.5, 1]),
            "prompt 'd' has weight 1.5 instead of a finite number from 0 to 1",
        ),
        (Permuted(), replace(COLUMNS, weight=[1, -0.1, 1, 1, 1]), "prompt 'b' has weight -0.1"),
        (
            Binary(0.3),
            replace(COLUMNS, entropy=[0, 0, 0, 0, math.inf]),
            "prompt 'e' has semantic_entropy inf",
        ),
        (Binary(0.3), replace(COLUMNS, entropy=[-1, 0, 0, 0, 0]), "prompt 'a' has semantic_entropy -1"),
        (Binary(0.3, "normalised"), replace(COLUMNS, weight=None), "no column weight"),
        (PassRate(), replace(COLUMNS, pass_rate=None), "no column pass_rate"),
        (PassRate(), replace(COLUMNS, pass_rate=[0, 0, 2, 0, 0]), "prompt 'c' has pass_rate 2"),
        (Soft(), replace(COLUMNS, weight=[0.5]), "1 values for 5 prompts"),
        (Soft(), PromptColumns(ids=[], weight=[]), "0 values for 0 prompts"),
        (Binary(0.1), replace(COLUMNS, entropy=[1.0] * 5), "keeps none of 5 prompts"),
    ],
)
def test_invalid_columns_are_named(weight: PromptWeight, columns: PromptColumns, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weight(columns)


@pytest.mark.parametrize("tau", [-0.1, math.nan, math.inf])
def test_the_threshold_must_be_a_finite_number(tau: float) -> None:
    with pytest.raises(UserError, match="tau"):
        Binary(tau)


def test_prompt_weights_and_algorithms_load_no_torch() -> None:
    code = (
        "import sys, training.losses.prompt_weights as _\n"
        "from training.algorithms import algorithm_names, load_algorithm\n"
        "print([load_algorithm(name).source for name in algorithm_names()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "UOPD (SURE-Math)" in done.stdout
