"""Do samples, scores and gradients depend on what else is in the batch? Measured on the machine at hand.

    PYTHONPATH=. python speed/invariance.py [--models pocket/teacher pocket/student] [--threads 1 2]

*Samples*: pocket problems x 8 samples in one batch, then a third of the problems in batches of 20, 12 and 1, and all of them in
reversed order; how many samples have another log-probability or another text, and the tokens per second of the first batch.
*Scores and gradients*, as the training stage computes them: each text scored in one batch with the others and alone (largest
difference of a log-probability), and the gradient of all texts in one pass and in passes of four (relative difference of the L2
norm). Both are deterministic for a given cut, and the cut of a run depends on its settings and prompts, never on time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tasks.config import PROJECT_ROOT, ModelRole, Sampling, Serve, load_config
from tasks.llm.sampler import TeacherSampler
from tasks.processes.machine import cpu
from tasks.rows import Problem, Response
from tasks.runtime.sampling import sample_prompt
from tasks.seeds.registry import load, resolve

SAMPLES = 8
SUBSETS = (range(20), range(20, 32), range(32, 33))
ENGINES: tuple[tuple[Literal["bfloat16", "float32"], float], ...] = (
    ("bfloat16", 0.95),
    ("float32", 0.95),
    ("float32", 1.0),
)


def problems(count: int) -> list[Problem]:
    """Pocket problems of all tiers."""
    counts = dict.fromkeys(("easy", "medium", "hard", "competition"), count // 4)
    source = {"kind": "pocket", "name": "pocket", "seed": 17, "counts": counts}
    config = resolve(load_config("pocket", {"aggregate.sources": [source]}))
    return [row for row in load(config.aggregate.sources[0]).outcomes if isinstance(row, Problem)]


def sampled_row(
    model: str, threads: int, dtype: Literal["bfloat16", "float32"], top_p: float, rows: Sequence[Problem]
) -> str:
    """One line of the first table."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    role = ModelRole(model=model, dtype=dtype, max_model_len=1024, serve=Serve(kv_cache_gib=1))
    sampling = Sampling(temperature=0.7, top_p=top_p, max_tokens=448)
    prompts = [sample_prompt(row, "invariance") for row in rows]
    with TeacherSampler(role, root=PROJECT_ROOT, identity=model) as sampler:
        found = sampler.invariance

        def sample(chosen: Sequence[int]) -> dict[tuple[str, int], Response]:
            drawn = sampler.sample([prompts[index] for index in chosen], SAMPLES, sampling, "f")
            return {(row.problem_id, row.index): row for row in drawn if isinstance(row, Response)}

        sample(range(8))
        started = time.perf_counter()
        whole = sample(range(len(prompts)))
        seconds = time.perf_counter() - started
        parts = {key: row for subset in SUBSETS for key, row in sample(subset).items()}
        backwards = sample(range(len(prompts))[::-1])
    cells = []
    for other in (parts, backwards):
        logprobs = sum(row.logprob_sum != whole[key].logprob_sum for key, row in other.items())
        texts = sum(row.text != whole[key].text for key, row in other.items())
        cells.append(f"{logprobs} of {len(other)} | {texts}")
    rate = sum(row.token_count for row in whole.values()) / seconds
    verdict = "" if found is None else f"{found.different} of 8"
    return f"| {model} | {threads} | {dtype}, top-p {top_p} | {' | '.join(cells)} | {verdict} | {rate:,.0f} |"


def scored_rows(model: str, dtype: str, texts: Sequence[str]) -> str:
    """One line of the second table."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    network: Any = AutoModelForCausalLM.from_pretrained(
        PROJECT_ROOT / model, dtype=getattr(torch, dtype), trust_remote_code=False
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(PROJECT_ROOT / model, trust_remote_code=False)
    lengths = [tokenizer(text, return_tensors="pt")["input_ids"][0] for text in texts]

    def scores(chosen: Sequence[Any]) -> Any:
        """Return log p of every token but the first, [T]; padding is on the right."""
        ids = torch.nn.utils.rnn.pad_sequence(list(chosen), batch_first=True)
        logits = network(ids[:, :-1]).logits.float().log_softmax(-1)
        values = logits.gather(-1, ids[:, 1:, None])[..., 0]
        return torch.cat([row[: len(one) - 1] for row, one in zip(values, chosen, strict=True)])

    def gradient(cut: int) -> np.ndarray:
        network.zero_grad()
        for start in range(0, len(lengths), cut):
            scores(lengths[start : start + cut]).sum().backward()
        return np.concatenate([p.grad.float().flatten().numpy() for p in network.parameters()])

    with torch.inference_mode():
        together, alone = scores(lengths), torch.cat([scores([one]) for one in lengths])
    whole, parts = gradient(len(lengths)), gradient(4)
    moved = float(np.linalg.norm(whole - parts) / np.linalg.norm(whole))
    again = np.array_equal(whole, gradient(len(lengths)))
    most = float((together - alone).abs().max())
    return f"| {model} | {dtype} | {most:.1e} | {moved:.1e} | {'yes' if again else 'NO'} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["pocket/teacher", "pocket/student"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--problems", type=int, default=60)
    options = parser.parse_args()
    rows = problems(options.problems)
    print(f"{cpu()}\n\n| model | threads | engine | subsets: log p differ | texts |", end=" ")
    print("reversed: log p differ | texts | check at start | tokens/s |\n" + "|---" * 9 + "|")
    for model in options.models:
        for threads in options.threads:
            for dtype, top_p in ENGINES:
                print(sampled_row(model, threads, dtype, top_p, rows), flush=True)
    print(
        "\n| model | dtype | log p, alone and batched | gradient, passes of 4 | same cut, same bits |\n|---|---|---|---|---|"
    )
    texts = [row.text for row in rows[:32]]
    for model in options.models:
        for dtype in ("bfloat16", "float32"):
            print(scored_rows(model, dtype, texts), flush=True)


if __name__ == "__main__":
    main()
