"""AlpacaEval 2: 805 instructions (Dubois et al., 2024, arXiv 2404.04475). The responses are judged by its own tool.

An evaluation writes `model_outputs.json`, the file that `alpaca_eval --model_outputs` reads (annotator
weighted_alpaca_eval_gpt4_turbo). Schema (a JSON array; configuration alpaca_eval, split eval): `instruction`, `output` (of the
reference model, not read), `generator`, `dataset`. Licence CC BY-NC 4.0. Hub id and schema are those of public code. The data set
on the hub has a loading script, which is not run here, and no commit could be verified: give a local copy of alpaca_eval.json.
"""

from __future__ import annotations

from tasks.answers.gold import written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id


def read(cells: Cells, part: Part) -> Item:
    """Return the instruction, and the name of the set that it is from."""
    text = written(cells["text"])
    return Item(id=text_id(text), text=text, answer=None, facts={"dataset": written(cells["dataset"])})


BENCHMARK = Benchmark(
    name="alpaca_eval",
    title="AlpacaEval 2",
    data=HubData(
        parts=(Part(hub_id="tatsu-lab/alpaca_eval", config="alpaca_eval", split="eval", files=("alpaca_eval",)),),
        columns={"text": ("instruction",), "dataset": ("dataset",)}, required=("text",), read=read,
    ),
    answer="text",
    prompt="evaluation/instruction",
    protocols=("pass1_greedy",),
    files=("alpaca_eval_gpt4_baseline",),
    problems=805,
    licence="cc-by-nc-4.0",
    lineage="out of domain; no mathematics",
)  # fmt: skip
