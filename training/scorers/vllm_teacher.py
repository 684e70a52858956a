"""The vLLM teacher backend, which uses prompt_logprobs. It is meant for models that only vLLM's kernels can run on a cluster.

Each entry passes through Python, so k must be small (at most `training.config.VLLM_TOP_K`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.config import ModelRole, Serve
from tasks.errors import UserError
from tasks.llm.vllm_options import engine_environment, engine_options
from tasks.processes.imports import fast_imports
from training.data.batches import TokenSequence, check_sequences
from training.scorers.scores import ScoreRequest, Scores, TopK


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """Settings of the vLLM teacher.

    `max_tokens`: length of the longest sequence. `top_k`: the largest k of any call. `vocabulary`: number of the model's ids,
    which the softmax covers. `pass_tokens`: maximum number of tokens per forward pass on a GPU. `gpu_memory_fraction`: share of
    the GPU's memory for vLLM, excluding the logits of a pass.
    """

    model: Path
    max_tokens: int
    top_k: int
    vocabulary: int
    pass_tokens: int
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gpu_memory_fraction: float = 0.8
    kv_cache_gib: int = 1


def scoring_options(settings: ScoringSettings, *, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`: no prefix cache (cached tokens would get no log-probabilities), passes of bounded size
    (vLLM's memory profile does not include their float32 logits), no tokenizer."""
    serve = Serve(gpu_memory_fraction=settings.gpu_memory_fraction)
    role = ModelRole(
        model=str(settings.model), dtype=settings.dtype, max_model_len=settings.max_tokens + 1, serve=serve
    )
    options = engine_options(role, serve, str(settings.model), "raw", on_cpu=on_cpu)
    options |= {"skip_tokenizer_init": True, "disable_log_stats": True, "enable_prefix_caching": False}
    options |= {"max_logprobs": settings.top_k}
    if on_cpu:  # sequences are not chunked there, and logits are computed for one at a time
        return options
    return options | {"max_num_batched_tokens": settings.pass_tokens, "enable_chunked_prefill": True}


def scoring_environment(settings: ScoringSettings, *, on_cpu: bool) -> dict[str, str]:
    """Return the environment of the actor. vLLM runs in the actor's own process and, on CPU, with one thread, since the rollout
    engines use the other cores."""
    serve = Serve(kv_cache_gib=settings.kv_cache_gib)
    common = engine_environment(serve, local=True, on_cpu=on_cpu)
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    return common | own | ({"OMP_NUM_THREADS": "1"} if on_cpu else {})


class VllmTeacher:
    """A Ray actor with the interface of `training.scorers.teacher.InProcessTeacher`, but without states and entropy."""

    def __init__(
        self, settings: ScoringSettings, environment: dict[str, str], options: dict[str, Any]
    ) -> None:
        os.environ.update(environment)
        with fast_imports():
            from vllm import LLM

        self.settings = settings
        self._llm = LLM(**options)

    def ready(self) -> dict[str, Any]:
        """Return the description of the teacher for the run's record."""
        import vllm

        config = self._llm.llm_engine.model_config
        return {
            "backend": f"vllm {vllm.__version__}",
            "vocabulary": config.get_vocab_size(),
            "dtype": str(config.dtype).removeprefix("torch."),
        }

    def score(self, sequences: Sequence[TokenSequence], request: ScoreRequest) -> tuple[list[Scores], float]:
        """Return the requested scores (the sampled token's log-probability, and a top k or the whole distribution) of each
        response, in input order, and the seconds they took. Raises `UserError` for ids outside of the vocabulary, sequences
        longer than `max_tokens`, and a k above the settings' `top_k`."""
        asked = request.entries(self.settings.vocabulary)
        k = 1 if asked is None else asked
        if not 1 <= k <= self.settings.top_k:
            raise UserError(
                f"k is {k}, but the vLLM teacher was started with top_k {self.settings.top_k}: choose k from 1 to top_k"
            )
        started = time.perf_counter()
        entries = self._entries(sequences, k)
        found = [
            Scores(
                sampled=values[:, 0] if request.sampled else None,
                top_k=None if asked is None else topk_of(ids[:, 1:], values[:, 1:], self.settings.vocabulary),
            )
            for ids, values in entries
        ]
        return found, time.perf_counter() - started

    def _entries(self, sequences: Sequence[TokenSequence], k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ids (int32) and log-probabilities (float32) [T, 1 + k] of each response: the sampled token, then the k most
        likely ones, which may include the sampled token."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        settings = self.settings
        check_sequences(sequences, vocabulary=settings.vocabulary, longest=settings.max_tokens)
        prompts: Sequence[Any] = [tokens_input(one.tokens.tolist()) for one in sequences]
        asked = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=k, flat_logprobs=True, detokenize=False
        )
        outputs = self._llm.generate(prompts, asked, use_tqdm=False) if prompts else []
        return [
            response_entries(output.prompt_logprobs, sequence, k)
            for output, sequence in zip(outputs, sequences, strict=True)
        ]


def response_entries(flat: Any, sequence: TokenSequence, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vLLM's flat prompt_logprobs at the response positions: ids and log-probabilities [T, 1 + k], the response token
    first. Raises RuntimeError if they belong to another sequence."""
    length, width = len(sequence.tokens), k + 1  # the first token has no entries
    ids, values = np.asarray(flat.token_ids, np.int32), np.asarray(flat.logprobs, np.float32)
    if len(ids) != (length - 1) * width:
        raise RuntimeError(f"vLLM returned {len(ids)} entries for {length - 1} positions of {width}")
    first = sequence.prompt_length - 1
    ids, values = (array.reshape(-1, width)[first:] for array in (ids, values))
    if (ids[:, 0] != sequence.response).any():
        raise RuntimeError("vLLM's log-probabilities do not match the tokens: check its version")
    return ids, values


def topk_of(ids: np.ndarray, values: np.ndarray, vocabulary: int) -> TopK:
    """Convert entries [T, k] in descending order to a `TopK`. With k = V they are sorted by id."""
    if ids.shape[1] < vocabulary:
        return TopK(logprobs=np.ascontiguousarray(values), ids=np.ascontiguousarray(ids))
    whole = np.empty_like(values)
    np.put_along_axis(whole, ids.astype(np.int64), values, axis=1)
    return TopK(logprobs=whole, ids=None)
