"""A frozen model that scores responses: the teacher, or a copy of the initial student."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tasks.errors import UserError
from tasks.processes.imports import fast_imports
from tasks.processes.memory import bound_caches, keep_free_memory
from training.data.attention import ON_CPU, AttentionChoice, implementation, separation
from training.data.batches import (
    TokenSequence,
    batches_by_budget,
    check_sequences,
    response_ids,
    split_by_sequence,
)
from training.scorers.scores import ScoreRequest, Scores, TopK

Answer = TypeVar("Answer")
PADDED = AttentionChoice(kind="sdpa", reason="one sequence per row, which needs no mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcessTeacherSettings:
    """Settings of the in-process teacher.

    `vocabulary`: number of ids shared with the student, which the softmax covers (None: the model's whole vocabulary).
    `token_budget`: tokens per forward pass, including padding. `chunk`: positions per chunk of the LM head. `threads`: CPU
    threads of this process. `shares_gpu`: other actors use the GPU's memory between this model's calls.
    """

    model: Path
    dtype: str = "bfloat16"
    vocabulary: int | None = None
    token_budget: int = 16_384
    chunk: int = 1024
    threads: int | None = None
    shares_gpu: bool = False


class InProcessTeacher:
    """A Ray actor with a frozen model, used as the teacher and as the reference model. Scores depend only on weights, tokens and
    batch shape."""

    def __init__(self, settings: InProcessTeacherSettings) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        bound_caches()
        with fast_imports():
            import torch
            from transformers import AutoModelForCausalLM

        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._attention = ON_CPU if self._device.type == "cpu" else PADDED
        if self._device.type == "cpu":
            keep_free_memory()
        network: Any = AutoModelForCausalLM.from_pretrained(
            settings.model,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=implementation(self._attention),
            trust_remote_code=False,
        )
        self._network = network.to(self._device).eval().requires_grad_(False)
        head = self._network.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise UserError(
                f"the LM head of {settings.model} has a bias, which is not supported: choose another teacher"
            )
        self._weight = head.weight[: settings.vocabulary]

    def ready(self) -> dict[str, Any]:
        """Return the description of the teacher for the run's record."""
        return {"vocabulary": len(self._weight), "dtype": self.settings.dtype, "device": str(self._device)}

    def score(self, sequences: Sequence[TokenSequence], request: ScoreRequest) -> tuple[list[Scores], float]:
        """Return the requested scores of each sequence's response, in input order, and the seconds they took. All of them come
        from one forward pass. Raises `UserError` for an invalid k, ids outside of the vocabulary, and sequences longer than the
        context."""
        import torch

        k = request.entries(len(self._weight))
        if k is not None and not 1 <= k <= len(self._weight):
            raise UserError(
                f"k is {k}, but the teacher's vocabulary has {len(self._weight)} ids: set top_k to at most that, or"
                " to full"
            )
        started = time.perf_counter()
        found = self._read(sequences, lambda hidden, batch: self._scores(hidden, batch, request))
        if self.settings.shares_gpu:
            torch.cuda.empty_cache()
        return found, time.perf_counter() - started

    def _scores(self, hidden: Any, batch: Sequence[TokenSequence], request: ScoreRequest) -> list[Scores]:
        """Return the scores of a batch whose response tokens are predicted by the hidden states [T, H]."""
        import torch

        from training.scorers.scoring import position_scores
        from training.weight_sync.weights import to_bits

        found = position_scores(
            hidden,
            self._weight,
            torch.from_numpy(response_ids(batch)).to(self._device),
            sampled=request.sampled,
            top_k=request.entries(len(self._weight)),
            entropy=request.entropy,
            chunk=self.settings.chunk,
        )
        values = {name: tensor.cpu().numpy() for name, tensor in found.items()}
        if request.states:
            values["states"] = to_bits(hidden)
        return scores_of(values, batch)

    def _read(
        self,
        sequences: Sequence[TokenSequence],
        read: Callable[[Any, Sequence[TokenSequence]], Sequence[Answer]],
    ) -> list[Answer]:
        """Run the model batch by batch and return one result per sequence, in input order. `read` maps the hidden states [T, H]
        that predict a batch's response tokens to the results of its sequences."""
        import torch

        from training.losses.products import float32_products

        longest = int(self._network.config.max_position_embeddings)
        check_sequences(sequences, vocabulary=len(self._weight), longest=longest)
        found: dict[int, Answer] = {}
        with torch.inference_mode(), float32_products():
            for chosen in batches_by_budget(
                [len(one.tokens) for one in sequences], self.settings.token_budget
            ):
                members = [sequences[index] for index in chosen]
                batch = self._attention.rows(members, self._device, pack=False)
                states = self._network.base_model(
                    input_ids=batch.ids, use_cache=False, **separation(batch)
                ).last_hidden_state
                hidden = states.flatten(0, 1)[batch.predicting]
                found.update(zip(chosen, read(hidden, members), strict=True))
        return [found[index] for index in range(len(sequences))]


def scores_of(values: Mapping[str, np.ndarray], batch: Sequence[TokenSequence]) -> list[Scores]:
    """Split the values [T, ...] of a batch, by the names of `position_scores` and `states`, into the scores of each sequence."""
    parts = {name: split_by_sequence(array, batch) for name, array in values.items()}
    return [
        Scores(
            sampled=parts["sampled"][index] if "sampled" in parts else None,
            top_k=None
            if "logprobs" not in parts
            else TopK(logprobs=parts["logprobs"][index], ids=parts["ids"][index] if "ids" in parts else None),
            states=parts["states"][index] if "states" in parts else None,
            entropy=parts["entropy"][index] if "entropy" in parts else None,
        )
        for index in range(len(batch))
    ]
