"""Replies of one pocket model from vLLM's offline engine, and exact token entropies from transformers.

Each call runs in a separate process, so that the engine's memory and threads are released when it returns.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["Reply", "high_entropy_share", "replies"]

MAX_MODEL_TOKENS = 2048
MAX_REPLY_TOKENS = 800
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One sampled reply: its text, its log-probability under the model (temperature 1) and its number of tokens."""

    text: str
    logprob_sum: float
    token_count: int


def replies(
    model: Path,
    questions: Sequence[Messages],
    n: int,
    temperature: float,
    schemas: Sequence[dict[str, Any]] | None = None,
) -> list[list[Reply]]:
    """Return `n` replies to every question, without thinking, in order. Question i is sampled with seed i * 1000.

    With `schemas`, one per question, the replies are constrained to JSON of that schema without free whitespace.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_generate, model, list(questions), n, temperature, schemas).result()


def _start_engine(model: Path) -> LLM:
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    return LLM(
        str(model),
        dtype="bfloat16",
        max_model_len=MAX_MODEL_TOKENS,
        max_num_batched_tokens=MAX_MODEL_TOKENS * 4,
        max_num_seqs=256,
        enforce_eager=True,
        enable_chunked_prefill=False,
        disable_log_stats=True,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )


def _generate(
    model: Path,
    questions: list[Messages],
    n: int,
    temperature: float,
    schemas: Sequence[dict[str, Any]] | None,
) -> list[list[Reply]]:
    engine = _start_engine(model)  # sets the environment, so it comes before the imports
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    parameters = [
        SamplingParams(
            n=n,
            temperature=temperature,
            max_tokens=MAX_REPLY_TOKENS,
            logprobs=0,
            seed=1000 * i,
            structured_outputs=StructuredOutputsParams(json=schemas[i]) if schemas else None,
        )
        for i in range(len(questions))
    ]
    conversations: list[Any] = questions
    outputs = engine.chat(
        conversations, parameters, use_tqdm=False, chat_template_kwargs={"enable_thinking": False}
    )
    return [
        [
            Reply(
                text=sample.text,
                logprob_sum=sample.cumulative_logprob or 0.0,
                token_count=len(sample.token_ids),
            )
            for sample in output.outputs
        ]
        for output in outputs
    ]


def high_entropy_share(model: Path, pairs: Sequence[tuple[Messages, str]], threshold: float) -> float:
    """Return the share of reply tokens whose next-token entropy (full vocabulary, T=1) exceeds `threshold` nats."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_high_entropy_share, model, list(pairs), threshold).result()


def _high_entropy_share(model: Path, pairs: list[tuple[Messages, str]], threshold: float) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pocket.tokenizer import END_OF_TURN

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    network = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, trust_remote_code=False
    ).eval()
    high = total = 0
    for messages, reply in pairs:
        head = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        prompt = tokenizer(head, add_special_tokens=False)["input_ids"]
        target = tokenizer(reply + END_OF_TURN, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = network(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].float()
        logs = logits.log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        high += int((entropy > threshold).sum())
        total += len(target)
    return high / total
