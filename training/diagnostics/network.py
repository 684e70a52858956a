"""A frozen model whose distributions are read: as it is, or with Monte Carlo dropout by forward hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.processes.imports import fast_imports
from tasks.processes.memory import bound_caches, keep_free_memory

__all__ = ["Network"]

BRANCHES = ("self_attn", "mlp")
"""The modules of a decoder layer that add to the residual stream: dropout is applied to their outputs."""


class Network:
    """A causal language model in this process, on the GPU if there is one; to be used as a context manager, which frees the
    GPU's memory. `vocabulary`: number of ids that the softmax covers. `threads`: CPU
    threads of this process.

    Every sequence is a forward pass of its own, so that its numbers do not depend on other sequences.
    """

    def __init__(
        self, folder: Path, *, dtype: str, vocabulary: int, threads: int | None = None, chunk: int = 1024
    ) -> None:
        bound_caches()
        with fast_imports():
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder, self._chunk = folder, chunk
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            keep_free_memory()
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", trust_remote_code=False
        )
        self._network = network.to(self.device).eval().requires_grad_(False)
        self.head = self._network.get_output_embeddings().weight[:vocabulary]

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        del self._network, self.head
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder layers."""
        return self._network.base_model.layers

    def states(self, prompt: Sequence[int], response: Sequence[int], positions: Sequence[int]) -> Any:
        """Return the hidden states [P, H] that predict the response's tokens at these positions (0: its first token). Tokens
        after the last position are not computed."""
        import torch

        last = max(positions)
        ids = torch.tensor([[*prompt, *response[:last]]], device=self.device)
        with torch.inference_mode():
            hidden = self._network.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            return hidden[[len(prompt) - 1 + one for one in positions]]

    def top(self, prompt: Sequence[int], response: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities (float32, of the full softmax, descending) and ids (int32) of the k most probable tokens at
        every position of the response, each [T, k]."""
        import torch

        from training.scorers.scoring import position_scores

        hidden = self.states(prompt, response, range(len(response)))
        with torch.inference_mode():
            ids = torch.tensor(response, device=self.device)
            found = position_scores(hidden, self.head, ids, top_k=k, chunk=self._chunk)
        return found["logprobs"].cpu().numpy(), found["ids"].cpu().numpy()

    def probabilities(
        self,
        prompt: Sequence[int],
        response: Sequence[int],
        positions: Sequence[int],
        supports: Sequence[Sequence[int]],
    ) -> list[np.ndarray]:
        """Return for each position the probabilities (float64) of its support, a set of token ids, renormalised to sum 1."""
        import torch

        hidden = self.states(prompt, response, positions)
        found = []
        with torch.inference_mode():
            for row, support in zip(hidden, supports, strict=True):
                logits = row @ self.head[list(support)].T
                found.append(logits.double().softmax(-1).cpu().numpy())
        return found

    @contextmanager
    def dropout(self, layers: int, rate: float, seed: int) -> Iterator[None]:
        """Within the block, zero each output of attention and MLP of the last `layers` decoder layers with probability `rate`,
        and scale the others by 1 / (1 - rate). The masks depend on the seed and on the shapes of the passes alone.

        Raises `UserError` if the model has fewer layers, or layers with other modules.
        """
        import torch

        generator = torch.Generator(self.device).manual_seed(seed)

        def drop(_module: Any, _inputs: Any, output: Any) -> Any:
            first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            kept = torch.rand(first.shape, generator=generator, device=first.device) >= rate
            dropped = first * kept.to(first.dtype) / (1.0 - rate)
            return dropped if rest is None else (dropped, *rest)

        handles = [module.register_forward_hook(drop) for module in self._branches(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _branches(self, layers: int) -> list[Any]:
        there = list(self.layers)
        if layers > len(there):
            raise UserError(
                f"dropout_layers is {layers}, but {self.folder} has {len(there)} layers: set it to at most that"
            )
        chosen = there[len(there) - layers :]
        lacking = [name for layer in chosen for name in BRANCHES if not hasattr(layer, name)]
        if lacking:
            raise UserError(
                f"the decoder layers of {self.folder} have no {lacking[0]}, where dropout is applied: use a model of a supported"
                " architecture"
            )
        return [getattr(layer, name) for layer in chosen for name in BRANCHES]
