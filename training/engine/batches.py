"""Token sequences as tensors: rows of ids, and where in them the responses are predicted.

Padding stands on the right and needs no mask: under causal attention nothing real looks at it, and what it computes is
never read. Letters: R rows, L positions of the longest sequence, T response tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.core.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A prompt and its response: all ids (int32, prompt first) and how many of them are the prompt's (at least 1)."""

    tokens: np.ndarray
    prompt_length: int

    @property
    def response(self) -> np.ndarray:
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences in rows of one width: ids and positions within the sequence [R, L], a mask [R, 1, L, L] (True: may look)
    where a row holds several of them, else None, and the flat positions [T] in R * L that predict the response tokens,
    sequence by sequence."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    predicting: torch.Tensor


def make_batch(
    sequences: Sequence[TokenSequence], device: torch.device, *, pack: bool, budget: int | None = None
) -> Batch:
    """Lay sequences into rows as wide as the longest: one to a row, or, with `pack`, as many as fit (no two see each other).
    Packed rows are wider where they would otherwise have more than `budget` positions together; sequences that have no more
    tokens than that always have a layout within it.

    Without any sequence it is one position of padding: there is always something to run, so that a rank with nothing to do
    takes part in every collective.
    """
    lengths = [len(sequence.tokens) for sequence in sequences]
    width, places = _layout(lengths, budget) if pack else (max(lengths, default=1), _one_to_a_row(lengths))
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
        mask=_mask(torch.from_numpy(owner).to(device)) if rows < len(sequences) else None,
        predicting=torch.from_numpy(np.concatenate(predicting)).to(device),
    )


def _one_to_a_row(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(row, start) of each sequence."""
    return [(row, 0) for row in range(len(lengths))]


def _layout(lengths: Sequence[int], budget: int | None) -> tuple[int, list[tuple[int, int]]]:
    """Width of packed rows, and (row, start) of each sequence. Attention costs by rows times width squared, so the narrowest of
    some widths within the budget is taken, at the widest all in one row."""
    longest, total = max(lengths, default=1), max(sum(lengths), 1)
    for eighths in range(8, max(9, 8 * total // longest)):
        width = longest * eighths // 8
        places = _first_fit(lengths, width)
        if budget is None or (max((row for row, _ in places), default=0) + 1) * width <= budget:
            return width, places
    return total, _first_fit(lengths, total)


def _first_fit(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """(row, start) of each sequence: first fit, longest first, into rows of `width`."""
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
    """Who may look at whom, from the owners [R, L] of positions: up to itself in its own sequence (padding, -1, at padding)."""
    same = owner[:, :, None] == owner[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]


def response_ids(sequences: Sequence[TokenSequence]) -> np.ndarray:
    """The response tokens [T] (int64), sequence by sequence."""
    parts = [sequence.response for sequence in sequences]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def split_by_sequence(values: np.ndarray, sequences: Sequence[TokenSequence]) -> list[np.ndarray]:
    """Per-token values [T, ...] of a batch as one array for each sequence."""
    ends = np.cumsum([len(sequence.response) for sequence in sequences])
    return np.split(values, ends[:-1]) if len(sequences) else []


def batches_by_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices cut into batches of similar lengths whose padded size (rows times longest) stays within `budget` tokens.

    Longest first, so that a batch that does not fit the memory shows at once. A sequence longer than the budget: `UserError`.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    if order and lengths[order[0]] > budget:
        raise UserError(
            f"sequence {order[0]} has {lengths[order[0]]} tokens, the token budget of a batch is {budget}: raise the budget or"
            " lower the maximum lengths"
        )
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def check_sequences(sequences: Sequence[TokenSequence], *, vocabulary: int, longest: int) -> None:
    """Raise `UserError`, naming the sequence, for an empty prompt or response, an id outside the vocabulary, or too long a
    sequence."""
    for index, sequence in enumerate(sequences):
        size = len(sequence.tokens)
        if not 1 <= sequence.prompt_length < size:
            raise UserError(
                f"sequence {index} has {sequence.prompt_length} prompt tokens of {size}: both prompt and response must hold at"
                " least one token"
            )
        if size > longest:
            raise UserError(
                f"sequence {index} has {size} tokens, the model's context {longest}: lower the maximum lengths"
            )
        low, high = int(sequence.tokens.min()), int(sequence.tokens.max())
        if low < 0 or high >= vocabulary:
            raise UserError(
                f"sequence {index} holds token id {low if low < 0 else high}, the shared vocabulary has {vocabulary}: teacher"
                " and student must share a tokenizer"
            )
