"""Batch invariance: whether an engine gives a prompt the same tokens whatever else is in its batch.

A run that is killed and continued sends the unfinished prompts again, in other company. Their seeds give the same samples
only where the engine's arithmetic does not depend on the batch. That is a property of machine, data type and kernels: on
CPUs with AMX vLLM's bfloat16 matrix products depend on the number of rows, its float32 ones do not. So every engine is
checked when it starts, and what was found is logged and recorded.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config import ModelRole

PROBES = 8
PARTS = ((0,), (1,), (2, 3), (4, 5, 6, 7))
"""The batches of the second pass."""
PROBE_TOKENS = 32
PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What an engine sampled for one probe: the tokens (ids or texts) and the log-probability of each (nats)."""

    tokens: tuple[int | str, ...]
    logprobs: tuple[float, ...]


Generate = Callable[[Sequence[int]], Sequence[ProbeResult]]
"""Samples the probes of these numbers, all of them in one batch; the results in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInvariance:
    """What the check of one engine found. `different`: probes whose tokens or log-probabilities depend on the batch."""

    different: int
    dtype: str
    machine: str

    @property
    def verified(self) -> bool:
        """Whether no probe depends on the batch."""
        return self.different == 0

    @property
    def description(self) -> str:
        """What was found and, where the engine is not invariant, what follows from it."""
        where = f"{self.dtype}, {self.machine}"
        if self.verified:
            return (
                f"batch-invariant: {PROBES} probes gave the same tokens and log-probabilities together, in smaller batches and"
                f" reversed ({where})"
            )
        return (
            f"not batch-invariant: {self.different} of {PROBES} probes depend on the other prompts of the batch ({where}); a run"
            " that is interrupted and continued may draw other samples for its unfinished prompts; use dtype float32 on a CPU,"
            " batch-invariant kernels on a GPU (docs/operate.md, Reproducibility)"
        )


def check_invariance(generate: Generate, *, dtype: str, machine: str) -> BatchInvariance:
    """Compare the probes sampled together with those in smaller batches, and with all of them in reversed order."""
    numbers = range(PROBES)
    together = list(generate(numbers))
    in_parts = [probe for part in PARTS for probe in generate(part)]
    backwards = list(generate(numbers[::-1]))[::-1]
    same = [one == other == third for one, other, third in zip(together, in_parts, backwards, strict=True)]
    return BatchInvariance(different=same.count(False), dtype=dtype, machine=machine)


def probe_ids(vocabulary: int, limit: int) -> list[list[int]]:
    """Return the probes as prompts of different lengths, drawn from `vocabulary` token ids; none has more than `limit` tokens."""
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(min(1 + 3 * i, limit))] for i in range(PROBES)]


def engine_probes(engine: Any) -> Generate:
    """`Generate` by a vLLM `LLMEngine` in this process that has nothing else to do."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    model = engine.model_config
    tokens = min(PROBE_TOKENS, model.max_model_len // 2)
    prompts = probe_ids(model.get_vocab_size(), model.max_model_len - tokens)

    def generate(numbers: Sequence[int]) -> list[ProbeResult]:
        for number in numbers:
            parameters = SamplingParams(
                seed=number, temperature=1.0, max_tokens=tokens, ignore_eos=True, logprobs=0, flat_logprobs=True,
                detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
            )  # fmt: skip
            engine.add_request(f"probe-{number}", {"prompt_token_ids": prompts[number]}, parameters)
        found: dict[str, ProbeResult] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    sample = output.outputs[0]
                    found[output.request_id] = ProbeResult(
                        tokens=tuple(sample.token_ids), logprobs=tuple(sample.logprobs.logprobs)
                    )
        return [found[f"probe-{number}"] for number in numbers]

    return generate


def server_probes(role: ModelRole, base_url: str) -> Generate:
    """`Generate` by a vLLM server of this machine: one completion request for each probe, all of them at once.

    Raises the errors of `tasks.llm.endpoint.post`, and `KeyError` when the reply has no log-probabilities.
    """
    from tasks.llm.endpoint import open_client, post

    tokens = min(PROBE_TOKENS, role.max_model_len // 2)
    prompts = probe_ids(256, role.max_model_len - tokens)

    async def generate(numbers: Sequence[int]) -> list[ProbeResult]:
        async def complete(number: int) -> ProbeResult:
            body = {
                "model": role.model, "prompt": prompts[number], "seed": number, "temperature": 1.0, "max_tokens": tokens,
                "ignore_eos": True, "logprobs": 0,
            }  # fmt: skip
            reply = json.loads(await post(client, "/completions", body, PROBE_TIMEOUT_S))
            found = reply["choices"][0]["logprobs"]
            return ProbeResult(tokens=tuple(found["tokens"]), logprobs=tuple(found["token_logprobs"]))

        async with open_client(role, base_url) as client:
            return await asyncio.gather(*map(complete, numbers))

    return lambda numbers: asyncio.run(generate(numbers))
