"""OlympiadBench: 8,476 mathematics and physics problems in English and Chinese (He et al., 2024, arXiv 2402.14008).

A benchmark. Schema (one configuration per kind of problem, each with the single split train): `id`, `question`, `context`
(shared by several questions; mostly null), `solution` and `final_answer` (lists of strings), `is_multiple_answer`,
`answer_type`, `unit`, `error`, `subfield`, `subject`, `language` ("English", "Chinese"), `modality` ("Text-only",
"Multimodal"), `question_type` ("Open-ended", "Theorem proof"), `difficulty`, `image_1` to `image_9`. Licence Apache-2.0.
Sources for the schema: the data set's repository and pages that load it, and the 675 rows of OE_TO_maths_en_COMP in
evaluation harnesses, which lack the last six columns. A missing column never causes a row to be dropped.

`OE_TO_maths_en_COMP` contains open-ended, text-only competition problems in English mathematics: 674 rows on the hub, so
the paper's 5,000 problems cannot be reached with it. Other configurations can be added as `parts`; their rows are filtered
by these columns.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from tasks.answers.gold import listed_answers
from tasks.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written


class OlympiadBench(HubSource):
    """Up to 5,000 hard problems, as in the paper; about 675 pass the filters."""

    required: ClassVar = ("id", "text", "answer")
    column_names: ClassVar = {
        "id": "id", "text": "question", "context": "context", "answer": "final_answer", "solution": "solution",
        "language": "language", "modality": "modality", "question_type": "question_type",
        "several_answers": "is_multiple_answer",
    }  # fmt: skip

    # Without "choice" and "proof": a column and the configuration show whether a problem is open-ended.
    judged_by_text: ClassVar = ("language", "figure")

    rows: ClassVar = 674

    kind: Literal["olympiad_bench"] = "olympiad_bench"
    name: str = "olympiad_bench"
    parts: tuple[HubPart, ...] = (
        HubPart(hub_id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train", benchmark=True,
             files=("OE_TO_maths_en_COMP",)),
    )  # fmt: skip
    tier: Tier = Tier.HARD
    licence: str = "apache-2.0"
    target: PositiveInt | None = 5_000
    drop: tuple[Drop, ...] = ("language", "figure", "proof", "no_answer")


def read(values: Values, source: OlympiadBench, part: HubPart) -> Found:
    """Return the question, preceded by its shared context, with its answer or answers."""
    answer = listed_answers(values["answer"])
    faults = column_faults(values, answer)
    return Found(
        text="\n\n".join(filter(None, (written(values["context"]), written(values["text"])))),
        row_id=written(values["id"]) or None,
        answer=answer,
        solution="\n\n".join(map(written, listed(values["solution"]))) or None,
        benchmark=part.benchmark,
        fault=next((fault for fault in faults if fault.drop in source.drop), None),
    )


def column_faults(values: Values, answer: str | None) -> list[Fault]:
    """Return all faults given by the row's own columns."""
    expected = (
        ("language", "language", "English"), ("modality", "figure", "Text-only"),
        ("question_type", "proof", "Open-ended"),
    )  # fmt: skip
    faults = [
        Fault(drop=drop, detail=f"{column} is {values[column]}")
        for column, drop, wanted in expected
        if values[column] not in (None, wanted)
    ]
    if values["several_answers"]:
        faults.append(Fault(drop="several_answers", detail=f"several answers: {answer}"))
    if answer is None:
        faults.append(Fault(drop="no_answer", detail="the answer is empty"))
    return faults


def listed(value: Any) -> list[Any]:
    """Return a cell that contains a list, a single value or nothing as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


SOURCE = hub_kind(OlympiadBench, read)
