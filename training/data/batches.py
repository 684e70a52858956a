"""Token sequences as padded, packed or joined tensors, with the positions that predict response tokens.

Padding is on the right and needs no mask: under causal attention no real token attends to it, and its outputs are never
read. Dimensions: R rows, L positions per row, T response tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tasks.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A prompt and its response: all token ids (int32, prompt first) and the number of prompt tokens (at least 1)."""

    tokens: np.ndarray
    prompt_length: int

    @property
    def response(self) -> np.ndarray:
        """The token ids of the response."""
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where the sequences of a single row lie: `starts` [S + 1] (int32) of the sequences and the end of the last one, and the
    length of the longest."""

    starts: torch.Tensor
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences in rows of equal width.

    `ids` and `positions` (within the sequence) are [R, L]. If a row contains several sequences, either `mask` [R, 1, L, L] (True:
    may attend) or `bounds` separates them; otherwise both are None. `predicting` [T] holds the flat indices into R * L that
    predict the response tokens, sequence by sequence.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    predicting: torch.Tensor
    bounds: Bounds | None = None

    def window_mask(self, window: int) -> torch.Tensor | None:
        """Return `mask` without the pairs that are `window` or more positions apart; None without a mask."""
        if self.mask is None:
            return None
        distance = self.positions[:, :, None] - self.positions[:, None, :]
        return self.mask & (distance < window)[:, None]


def make_batch(
    sequences: Sequence[TokenSequence], device: torch.device, *, pack: bool, budget: int | None = None
) -> Batch:
    """Arrange sequences in rows as wide as the longest: one per row, or, with `pack`, as many as fit (masked from each other).

    Packed rows are made wider if the batch would otherwise have more than `budget` positions. Sequences with at most `budget`
    tokens in total always fit the budget.

    An empty list gives a batch of one padding position, so that a rank without sequences can still take part in every
    collective.
    """
    lengths = [len(sequence.tokens) for sequence in sequences]
    width, places = _layout(lengths, budget) if pack else (max(lengths, default=1), _one_to_a_row(lengths))
    return _fill(sequences, width, places, device, masked=len({row for row, _ in places}) < len(sequences))


def join_sequences(sequences: Sequence[TokenSequence], device: torch.device) -> Batch:
    """Arrange sequences one after another in a single row without padding, separated by `bounds`.

    An empty list gives a row of one padding position, as in `make_batch`.
    """
    lengths = [len(sequence.tokens) for sequence in sequences] or [1]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    places = [(0, int(start)) for start in starts[: len(sequences)]]
    batch = _fill(sequences, int(starts[-1]), places, device, masked=False)
    bounds = Bounds(starts=torch.from_numpy(starts).to(device), longest=max(lengths))
    return replace(batch, bounds=bounds)


def _fill(
    sequences: Sequence[TokenSequence],
    width: int,
    places: Sequence[tuple[int, int]],
    device: torch.device,
    *,
    masked: bool,
) -> Batch:
    """Return rows of `width` with every sequence at its (row, start), and a mask that separates them if `masked`."""
    rows = max((row for row, _ in places), default=0) + 1
    ids = np.zeros((rows, width), dtype=np.int64)
    positions = np.zeros((rows, width), dtype=np.int64)
    owner = np.full((rows, width), -1, dtype=np.int32)
    predicting = [np.zeros(0, dtype=np.int64)]
    for number, (sequence, (row, start)) in enumerate(zip(sequences, places, strict=True)):
        end = start + len(sequence.tokens)
        ids[row, start:end] = sequence.tokens
        positions[row, start:end] = np.arange(end - start)
        owner[row, start:end] = number
        predicting.append(row * width + np.arange(start + sequence.prompt_length - 1, end - 1))
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        mask=_mask(torch.from_numpy(owner).to(device)) if masked else None,
        predicting=torch.from_numpy(np.concatenate(predicting)).to(device),
    )


def _one_to_a_row(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (row, start) of each sequence."""
    return [(row, 0) for row in range(len(lengths))]


def _layout(lengths: Sequence[int], budget: int | None) -> tuple[int, list[tuple[int, int]]]:
    """Return the width of packed rows and (row, start) of each sequence.

    The cost of attention grows with rows * width**2, so the narrowest candidate width within the budget is chosen; the widest
    candidate puts all sequences in one row.
    """
    longest, total = max(lengths, default=1), max(sum(lengths), 1)
    for eighths in range(8, max(9, 8 * total // longest)):
        width = longest * eighths // 8
        places = _first_fit(lengths, width)
        if budget is None or (max((row for row, _ in places), default=0) + 1) * width <= budget:
            return width, places
    return total, _first_fit(lengths, total)


def _first_fit(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Return (row, start) of each sequence, by first-fit decreasing bin packing into rows of `width`."""
    filled = list[int]()
    places = [(0, 0)] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        row = next((row for row, used in enumerate(filled) if used + lengths[index] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        places[index] = (row, filled[row])
        filled[row] += lengths[index]
    return places


def _mask(owner: torch.Tensor) -> torch.Tensor:
    """Return the causal attention mask [R, 1, L, L] from the sequence number of each position [R, L] (-1: padding).

    Each position attends to itself and earlier positions of its own sequence; padding attends to padding.
    """
    same = owner[:, :, None] == owner[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]


def response_ids(sequences: Sequence[TokenSequence]) -> np.ndarray:
    """Return the response tokens [T] (int64), sequence by sequence."""
    parts = [sequence.response for sequence in sequences]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def split_by_sequence(values: np.ndarray, sequences: Sequence[TokenSequence]) -> list[np.ndarray]:
    """Split the per-token values [T, ...] of a batch into one array per sequence."""
    ends = np.cumsum([len(sequence.response) for sequence in sequences])
    return np.split(values, ends[:-1]) if len(sequences) else []


def batches_by_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into batches of similar lengths whose padded size (rows * longest) is at most `budget` tokens.

    The longest come first, so that a batch that does not fit in memory fails early. Raises `UserError` if a sequence is longer
    than the budget.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    if order and lengths[order[0]] > budget:
        raise UserError(
            f"sequence {order[0]} has {lengths[order[0]]} tokens, but the token budget of a batch is {budget}: raise the budget"
            " or lower the maximum lengths"
        )
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def check_sequences(sequences: Sequence[TokenSequence], *, vocabulary: int, longest: int) -> None:
    """Raise a `UserError` that names the first invalid sequence: empty prompt or response, longer than `longest` tokens, or an
    id outside of the `vocabulary` (a number of ids)."""
    for index, sequence in enumerate(sequences):
        size = len(sequence.tokens)
        if not 1 <= sequence.prompt_length < size:
            raise UserError(
                f"sequence {index} has {size} tokens, {sequence.prompt_length} of them in the prompt: prompt and response must"
                " each have at least one token"
            )
        if size > longest:
            raise UserError(
                f"sequence {index} has {size} tokens, but the model's context length is {longest}: lower the maximum lengths"
            )
        low, high = int(sequence.tokens.min()), int(sequence.tokens.max())
        if low < 0 or high >= vocabulary:
            raise UserError(
                f"sequence {index} contains token id {low if low < 0 else high}, but the shared vocabulary has {vocabulary} ids:"
                " use a teacher and a student with the same tokenizer"
            )
