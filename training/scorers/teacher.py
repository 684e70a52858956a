"""The teacher: a frozen model that computes its most likely tokens, or its distribution, at every response position."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tasks.errors import UserError
from tasks.processes.imports import fast_imports
from tasks.processes.memory import bound_primitive_cache, release_free_memory
from training.data.batches import (
    TokenSequence,
    batches_by_budget,
    check_sequences,
    make_batch,
    response_ids,
    split_by_sequence,
)

Answer = TypeVar("Answer")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The teacher's top-k tokens for one response of T tokens: log-probabilities [T, k] (float32, of the full softmax) in
    descending order, and ids [T, k] (int32). With k = V, entries are in order of ids and `ids` is None."""

    logprobs: np.ndarray
    ids: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The teacher's last hidden states [T, H] for one response of T tokens, as bf16 bits in uint16. Together with the LM head
    they determine the full distribution, at a fraction of its size."""

    bits: np.ndarray


class InProcessTeacher:
    """A Ray actor with a frozen model, used as the teacher and as the reference model. Scores depend only on weights, tokens and
    batch shape."""

    def __init__(self, settings: InProcessTeacherSettings) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        bound_primitive_cache()
        with fast_imports():
            import torch
            from transformers import AutoModelForCausalLM

        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network: Any = AutoModelForCausalLM.from_pretrained(
            settings.model,
            dtype=getattr(torch, settings.dtype),
            attn_implementation="sdpa",
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

    def topk(self, sequences: Sequence[TokenSequence], k: int) -> list[TopK]:
        """Return the k most likely tokens at every response position of each sequence, in input order. k may be the vocabulary
        size. Raises `UserError` for an invalid k, ids outside of the vocabulary, and sequences longer than the context."""
        from training.scorers.scoring import topk_logprobs

        if not 1 <= k <= len(self._weight):
            raise UserError(
                f"k is {k}, but the teacher's vocabulary has {len(self._weight)} ids: set top_k to at most that, or to full"
            )

        def read(hidden: Any, batch: Sequence[TokenSequence]) -> list[TopK]:
            logprobs, ids = topk_logprobs(hidden, self._weight, k, chunk=self.settings.chunk)
            values = split_by_sequence(logprobs.cpu().numpy(), batch)
            kept = [None] * len(batch) if ids is None else split_by_sequence(ids.cpu().numpy(), batch)
            return [TopK(logprobs=one, ids=tokens) for one, tokens in zip(values, kept, strict=True)]

        return self._read(sequences, read)

    def states(self, sequences: Sequence[TokenSequence]) -> list[States]:
        """Return the hidden states that determine the full distribution at every response position, in input order."""
        from training.weight_sync.weights import to_bits

        def read(hidden: Any, batch: Sequence[TokenSequence]) -> list[States]:
            return [States(bits=bits) for bits in split_by_sequence(to_bits(hidden), batch)]

        return self._read(sequences, read)

    def score(
        self, sequences: Sequence[TokenSequence], k: int | None
    ) -> tuple[Sequence[TopK | States], float]:
        """Return `topk`, or `states` if k is None, and the seconds it took."""
        return self._timed(lambda: self.states(sequences) if k is None else self.topk(sequences, k))

    def logprobs(self, sequences: Sequence[TokenSequence]) -> list[np.ndarray]:
        """Return log p [T] (float32, nats) of the response tokens of each sequence, in input order."""
        import torch

        from training.scorers.scoring import sampled_logprobs

        def read(hidden: Any, batch: Sequence[TokenSequence]) -> list[np.ndarray]:
            ids = torch.from_numpy(response_ids(batch)).to(self._device)
            values = sampled_logprobs(hidden, self._weight, ids, chunk=self.settings.chunk)
            return split_by_sequence(values.cpu().numpy(), batch)

        return self._read(sequences, read)

    def timed_logprobs(self, sequences: Sequence[TokenSequence]) -> tuple[list[np.ndarray], float]:
        """Return the reference log-probabilities (`logprobs`) and the seconds they took."""
        return self._timed(lambda: self.logprobs(sequences))

    def _timed(self, turn: Callable[[], Answer]) -> tuple[Answer, float]:
        """Return the result of `turn` and its seconds. Release free memory: on CPU, and that of the GPU if other actors share
        it."""
        import torch

        started = time.perf_counter()
        found = turn()
        if self.settings.shares_gpu:
            torch.cuda.empty_cache()
        elif self._device.type == "cpu":
            release_free_memory()
        return found, time.perf_counter() - started

    def _read(
        self,
        sequences: Sequence[TokenSequence],
        read: Callable[[Any, Sequence[TokenSequence]], Sequence[Answer]],
    ) -> list[Answer]:
        """Run the model batch by batch and return one result per sequence, in input order. `read` maps the hidden states [T, H]
        that predict a batch's response tokens to the results of its sequences."""
        import torch

        longest = int(self._network.config.max_position_embeddings)
        check_sequences(sequences, vocabulary=len(self._weight), longest=longest)
        found: dict[int, Answer] = {}
        with torch.inference_mode():
            for chosen in batches_by_budget(
                [len(one.tokens) for one in sequences], self.settings.token_budget
            ):
                members = [sequences[index] for index in chosen]
                batch = make_batch(members, self._device, pack=False)
                states = self._network.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
                hidden = states.flatten(0, 1)[batch.predicting]
                found.update(zip(chosen, read(hidden, members), strict=True))
        return [found[index] for index in range(len(sequences))]
