"""Rows, masks and positions of small batches against values written by hand; packed rows give the same hidden states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from training.data.batches import (
    TokenSequence,
    batches_by_budget,
    check_sequences,
    make_batch,
    response_ids,
    split_by_sequence,
)

CPU = torch.device("cpu")


def sequence(*tokens: int, prompt: int = 1) -> TokenSequence:
    return TokenSequence(tokens=np.array(tokens, dtype=np.int32), prompt_length=prompt)


A, B, C = sequence(11, 12, 13, 14, prompt=2), sequence(21, 22), sequence(31, 32, prompt=1)


def test_one_sequence_per_row_is_padded_on_the_right_and_needs_no_mask() -> None:
    batch = make_batch([B, A], CPU, pack=False)
    assert batch.ids.tolist() == [[21, 22, 0, 0], [11, 12, 13, 14]]
    assert batch.mask is None
    # B: position 0 predicts 22. A, in row 1 of width 4: positions 4 + 1 and 4 + 2 predict 13 and 14.
    assert batch.predicting.tolist() == [0, 5, 6]
    assert response_ids([B, A]).tolist() == [22, 13, 14]


def test_packed_rows_are_as_wide_as_the_longest_sequence() -> None:
    batch = make_batch([B, A, C], CPU, pack=True)
    assert batch.ids.tolist() == [[11, 12, 13, 14], [21, 22, 31, 32]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch.predicting.tolist() == [4, 1, 2, 6]
    assert response_ids([B, A, C]).tolist() == [22, 13, 14, 32]
    assert batch.mask is not None and batch.mask.shape == (2, 1, 4, 4)
    assert batch.mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.mask[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_every_position_attends_to_at_least_one_position() -> None:
    batch = make_batch([sequence(*range(1, 8)), sequence(1, 2, 3), sequence(1, 2)], CPU, pack=True)
    assert batch.ids.shape == (2, 7) and batch.mask is not None
    assert bool(batch.mask.any(-1).all()), "attention over no position would be NaN"


def test_an_empty_batch_has_one_padding_position() -> None:
    batch = make_batch([], CPU, pack=True)
    assert batch.ids.tolist() == [[0]] and batch.predicting.tolist() == []
    assert response_ids([]).tolist() == [] and split_by_sequence(np.zeros(0), []) == []


def test_packing_keeps_every_token_once_and_wastes_less_than_padding() -> None:
    random = np.random.default_rng(0)
    sequences = [
        sequence(*random.integers(1, 99, size=length), prompt=int(random.integers(1, length)))
        for length in random.integers(2, 60, size=40)
    ]
    batch = make_batch(sequences, CPU, pack=True)
    total = sum(len(one.tokens) for one in sequences)
    assert int((batch.ids > 0).sum()) == total
    plain = make_batch(sequences, CPU, pack=False).ids.numel()
    assert total <= batch.ids.numel() <= 1.2 * total < 0.7 * plain
    flat = batch.ids.flatten()
    assert flat[batch.predicting + 1].tolist() == response_ids(sequences).tolist()


def test_rows_are_made_wider_to_fit_the_budget() -> None:
    # Lengths 4, 3, 3, 3. Width 4: four rows, 16 positions; width 7: 4 + 3 and 3 + 3, 14; one row: 13.
    sequences = [sequence(*range(1, 5)), *(sequence(5, 6, 7) for _ in range(3))]
    shapes = {
        budget: tuple(make_batch(sequences, CPU, pack=True, budget=budget).ids.shape)
        for budget in (None, 16, 14, 13)
    }
    assert shapes == {None: (4, 4), 16: (4, 4), 14: (2, 7), 13: (1, 13)}


@settings(deadline=None)
@given(st.lists(st.integers(2, 300), min_size=1, max_size=40), st.integers(0, 500))
def test_sequences_within_the_budget_are_packed_within_it(lengths: list[int], spare: int) -> None:
    sequences = [TokenSequence(tokens=np.ones(length, dtype=np.int32), prompt_length=1) for length in lengths]
    budget = sum(lengths) + spare
    batch = make_batch(sequences, CPU, pack=True, budget=budget)
    assert batch.ids.numel() <= budget and int(batch.ids.sum()) == sum(lengths)


def test_values_are_split_by_sequence() -> None:
    parts = split_by_sequence(np.array([1.0, 2.0, 3.0, 4.0]), [B, A, C])
    assert [part.tolist() for part in parts] == [[1.0], [2.0, 3.0], [4.0]]


def test_batches_stay_within_the_budget_and_group_similar_lengths() -> None:
    # Budget 10: 7 alone; 4 and 3 take 2 x 4 = 8; 2, 2 and 1 take 3 x 2 = 6.
    assert batches_by_budget([3, 7, 2, 4, 1, 2], 10) == [[1], [3, 0], [2, 5, 4]]
    assert batches_by_budget([], 10) == []
    random = np.random.default_rng(1).integers(1, 100, size=200).tolist()
    batches = batches_by_budget(random, 400)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert all(len(batch) * max(random[index] for index in batch) <= 400 for batch in batches)


def test_invalid_sequences_are_named() -> None:
    with pytest.raises(UserError, match="sequence 1 has 12 tokens, but the token budget of a batch is 10"):
        batches_by_budget([3, 12], 10)
    with pytest.raises(UserError, match="sequence 1 has 2 tokens, 2 of them in the prompt"):
        check_sequences([A, sequence(1, 2, prompt=2)], vocabulary=100, longest=10)
    with pytest.raises(UserError, match="sequence 0 has 4 tokens, but the model's context length is 3"):
        check_sequences([A], vocabulary=100, longest=3)
    with pytest.raises(UserError, match="sequence 0 contains token id 14, but the shared vocabulary has 14"):
        check_sequences([A], vocabulary=14, longest=10)
    with pytest.raises(UserError, match="token id -1"):
        check_sequences([sequence(3, -1)], vocabulary=14, longest=10)


def test_packed_rows_give_the_hidden_states_of_each_sequence_alone() -> None:
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = Qwen3Model(config).eval()
    sequences = [
        sequence(*range(1, 10), prompt=3),
        sequence(7, 8, 9, prompt=1),
        sequence(4, 5, 6, 7, prompt=2),
    ]

    def states(chosen: list[TokenSequence], *, pack: bool, budget: int | None = None) -> torch.Tensor:
        batch = make_batch(chosen, CPU, pack=pack, budget=budget)
        positions = None if batch.mask is None else batch.positions
        with torch.no_grad():
            out = model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions, use_cache=False
            )
        return out.last_hidden_state.flatten(0, 1)[batch.predicting]

    alone = torch.cat([states([one], pack=False) for one in sequences])
    assert make_batch(sequences, CPU, pack=True).mask is not None
    torch.testing.assert_close(states(sequences, pack=True), alone, rtol=1e-5, atol=1e-6)
    in_one_row = sum(len(one.tokens) for one in sequences)
    torch.testing.assert_close(states(sequences, pack=True, budget=in_one_row), alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states(sequences, pack=False), alone, rtol=1e-5, atol=1e-6)
