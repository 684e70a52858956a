"""A Markov chain as a real checkpoint: a Llama model whose next-token probabilities are those of a table.

Embeddings are one-hot, attention adds nothing, and the LM head has log P(next | token) in the column of each token. The MLPs
write a little into the dimensions of other tokens, whose columns are random, so that dropout changes the distributions. The chat
template ends a prompt with the first letter of the problem, which is thus the state that a response starts from. `ChainEngine`
samples from the same table like a rollout pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.rollouts.engine import Generation, RolloutRequest, RolloutSampling

END = "<|im_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END)
RIGHT, WRONG = "\\boxed{7}", "\\boxed{8}"
TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + messages[-1].content[0] }}{% endif %}
"""
UNLIKELY = -20.0
"""Log-probability of what the table does not list."""
Table = Mapping[str, Mapping[str, float]]


def path(
    name: str, length: int, branches: Sequence[int], decision: int | None, slip: float = 0.0
) -> dict[str, dict[str, float]]:
    """Return the transitions of a response that starts from the letter `name`: `length` tokens, of which those at `branches` have
    three alternatives that lead on, and the right answer. At `decision` the right token is the most probable one, but ten wrong
    ones are more probable together (.85). After each branch an error (`slip`) leads to the wrong answer."""
    table: dict[str, dict[str, float]] = {WRONG: {END: 1.0}, RIGHT: {END: 1.0}}

    def state(place: int) -> str:
        return RIGHT if place >= length else f"{name}{place};"

    before = [name]
    for place in range(length):
        if place in branches:
            options = {
                f"{name}{place}{letter};": share for letter, share in zip("abc", (0.5, 0.3, 0.2), strict=True)
            }
        elif place == decision:
            wrong = {f"{name}{place}w{number};": 0.085 for number in range(10)}
            table |= {token: {WRONG: 1.0} for token in wrong}
            options = {state(place): 0.15} | wrong
        else:
            options = {state(place): 1.0}
        slips = slip if place - 1 in branches else 0.0
        for token in before:
            table[token] = {one: share * (1 - slips) for one, share in options.items()}
            if slips:
                table[token][WRONG] = slips
        before = [token for token in options if "w" not in token]
    table |= {token: {RIGHT: 1.0} for token in before}
    return table


def write_chain(folder: Path, table: Table, *, noise: float = 3e-4) -> Path:
    """Write the checkpoint of a chain; return its folder. `noise`: deviation of the weights by which MLPs change the logits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(table)
    ids = tokenizer.get_vocab()
    size = -(-len(ids) // 8) * 8
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, tie_word_embeddings=False,
        bos_token_id=None, pad_token_id=ids[SPECIAL[0]], eos_token_id=ids[END],
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        unused = [number for token, number in ids.items() if token not in table]
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.from_numpy(log_table(table, ids, size).T / size**0.5))
        model.lm_head.weight[:, unused] = torch.randn(size, len(unused)) / size**0.5
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.mlp.down_proj.weight[unused] = noise * torch.randn(len(unused), 32)
            for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
                projection.weight.normal_(std=0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def log_table(table: Table, ids: Mapping[str, int], size: int) -> np.ndarray:
    """Return log P [current, next]."""
    logs = np.full((size, size), UNLIKELY, dtype=np.float32)
    for token, following in table.items():
        for after, share in following.items():
            logs[ids[token], ids[after]] = np.log(share)
    return logs


def _tokenizer(table: Table) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({one for following in table.values() for one in following} | set(table))
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=SPECIAL[0], chat_template=TEMPLATE,
        additional_special_tokens=[SPECIAL[1]],
    )  # fmt: skip


@dataclass(kw_only=True)
class ChainEngine:
    """Samples from a table. `fails_after`: number of samples after which it dies."""

    logs: np.ndarray
    fails_after: int | None = None
    asked: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]:
        """Yield the samples, the last request first."""
        for place in reversed(range(len(requests))):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append((tuple(requests[place].prompt), requests[place].seed))
            yield place, self._sample(requests[place], sampling)

    def _sample(self, request: RolloutRequest, sampling: RolloutSampling) -> Generation:
        random, token, found = np.random.default_rng(request.seed), request.prompt[-1], list[int]()
        while len(found) < sampling.max_tokens and (not found or found[-1] not in sampling.stop_token_ids):
            token = _drawn(self.logs[token], sampling, random)
            found.append(token)
        ended = "stop" if found[-1] in sampling.stop_token_ids else "length"
        tokens = np.array(found, dtype=np.int32)
        return Generation(tokens=tokens, logprobs=np.zeros(len(found)), finish_reason=ended, version=0)


def _drawn(logs: np.ndarray, sampling: RolloutSampling, random: np.random.Generator) -> int:
    if sampling.temperature == 0:
        return int(logs.argmax())
    likely = np.flatnonzero(logs > UNLIKELY)
    probs = np.exp(logs[likely].astype(np.float64) / sampling.temperature)
    order = np.argsort(-probs, kind="stable")
    sums = np.cumsum(probs[order] / probs.sum())
    kept = int(np.searchsorted(sums, sampling.top_p - 1e-9)) + 1
    return int(likely[order[np.searchsorted(sums[:kept], random.random() * sums[kept - 1])]])
