"""OlympiadBench, open-ended text-only mathematics in English: 674 or 675 problems (He et al., 2024, arXiv 2402.14008).

Schema (configuration OE_TO_maths_en_COMP, split train): `id`, `question`, `context` (mostly null), `final_answer` (a list of
strings), `is_multiple_answer`, `answer_type`, `unit`, `error`; and `language`, `modality`, `question_type` in the hub's copy.
Licence Apache-2.0. Several answers are joined by commas and graded as a list without order. A numerical answer with a column
`error` is a number within that distance; it is graded as written, as in QwenLM/Qwen2.5-Math. The commit was not read from the
hub here.
"""

from __future__ import annotations

from tasks.answers.gold import listed_answers, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier

_EXPECTED = (("language", "English"), ("modality", "Text-only"), ("question_type", "Open-ended"))


def read(cells: Cells, part: Part) -> Item | str:
    """Return the question, preceded by its context; a row in another language, with a figure or a proof is left out."""
    for column, wanted in _EXPECTED:
        if cells[column] not in (None, wanted):
            return f"{column} is {written(cells[column])}"
    text = "\n\n".join(filter(None, (written(cells["context"]), written(cells["text"]))))
    return Item(
        id=written(cells["id"]) or text_id(text), text=text, answer=listed_answers(cells["answer"]),
        group=written(cells["subfield"]),
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="olympiadbench",
    title="OlympiadBench (English, text only)",
    data=HubData(
        parts=(
            Part(
                hub_id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train",
                revision="91184b52131e7fc9455fef848035173aea8cc01a", files=("OE_TO_maths_en_COMP",),
            ),
        ),
        columns={
            "text": ("question", "problem"), "answer": ("final_answer", "answer"), "id": ("id",),
            "context": ("context",), "subfield": ("subfield",),
            **{column: (column,) for column, _ in _EXPECTED},
        },
        required=("text", "answer"), read=read,
    ),
    protocols=("avg8",),
    files=("olympiad_bench", "OlympiadBench"),
    tier=Tier.HARD,
    licence="apache-2.0",
    lineage="the seed source `olympiad_bench` contains the same problems",
)  # fmt: skip
