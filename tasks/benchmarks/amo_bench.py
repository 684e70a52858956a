r"""AMO-Bench: 50 original problems of at least IMO difficulty with final answers (An et al., 2025, arXiv 2510.26768).

Schema (split test): `question_id`, `prompt` (the problem, followed by a format instruction: "After solving the above problem,
please output ..."), `solution`, `answer` (in \boxed{}), `answer_type` (number, set, variable, description). Licence MIT. The
format instruction is removed, since the prompt has its own. Eleven answers of type description are graded by a model in the
authors' code and by `tasks.answers` here, so scores are not comparable on these. The commit was not read from the hub here.
"""

from __future__ import annotations

import re

from tasks.answers.gold import final_answer, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier

_INSTRUCTION = re.compile(r"\s*After solving the above problem, please\b.*\Z", re.DOTALL)


def read(cells: Cells, part: Part) -> Item:
    """Return the problem without the format instruction, with its answer."""
    text = _INSTRUCTION.sub("", written(cells["text"]))
    return Item(
        id=written(cells["id"]) or text_id(text), text=text, answer=final_answer(cells["answer"]),
        group=written(cells["kind"]),
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="amo_bench",
    title="AMO-Bench",
    data=HubData(
        parts=(
            Part(
                hub_id="meituan-longcat/AMO-Bench", split="test", revision="2f422616c25d862984408fbbfaed63a961e8e025",
            ),
        ),
        columns={
            "text": ("prompt", "problem"), "answer": ("answer",), "id": ("question_id", "id"), "kind": ("answer_type",),
        },
        required=("text", "answer"), read=read,
    ),
    protocols=("pass1_greedy", "avg16"),
    files=("amo-bench", "AMO-Bench"),
    problems=50,
    tier=Tier.COMPETITION,
    licence="mit",
    lineage="the seed source `amo_bench` contains the same problems",
)  # fmt: skip
