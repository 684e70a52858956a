r"""GSM8K: the 1,319 test problems of grade school mathematics (Cobbe et al., 2021, arXiv 2110.14168).

Schema (configuration main, splits train 7,473 and test 1,319): `question`, `answer` (steps with calculator annotations
`<<2*3=6>>`, then `#### 6`). Licence MIT. The commit is the one that public evaluation code uses; it was not read from the hub
here. Examples for few-shot prompts are the first rows of split train, without annotations; CORE uses four.
"""

from __future__ import annotations

import re

from tasks.answers.gold import after_hashes, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier

_ANNOTATION = re.compile(r"<<[^<>]*>>")


def _part(split: str) -> Part:
    return Part(
        hub_id="openai/gsm8k", config="main", split=split, revision="740312add88f781978c0658806c59bc2815b9866",
        files=(split,),
    )  # fmt: skip


def read(cells: Cells, part: Part) -> Item:
    """Return the question with the number after `####`."""
    text = written(cells["text"])
    return Item(id=text_id(text), text=text, answer=after_hashes(cells["answer"]))


def example(cells: Cells) -> tuple[str, str]:
    """Return the question with its steps and the answer in a box."""
    steps, _, _ = _ANNOTATION.sub("", written(cells["answer"])).rpartition("####")
    return written(cells["text"]), f"{steps.strip()}\n\\boxed{{{after_hashes(cells['answer'])}}}"


BENCHMARK = Benchmark(
    name="gsm8k",
    title="GSM8K",
    data=HubData(
        parts=(_part("test"),), columns={"text": ("question", "problem"), "answer": ("answer",)},
        required=("text", "answer"), read=read, example_parts=(_part("train"),), example=example,
    ),
    protocols=("pass1_greedy", "avg16"),
    files=("gsm8k_test",),
    problems=1319,
    tier=Tier.EASY,
    licence="mit",
    lineage="written for the data set; no seed source of the papers contains it",
)  # fmt: skip
