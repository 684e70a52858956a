"""OlympiadBench: 8,476 problems of mathematics and physics, English and Chinese (He et al., 2024, arXiv 2402.14008), a
benchmark.

Schema (one configuration per kind of problem; all have the one split train): `id`, `question`, `context` (what several
questions share; mostly null), `solution` and `final_answer` (lists of strings), `is_multiple_answer`, `answer_type`,
`unit`, `error`, `subfield`, `subject`, `language` ("English", "Chinese"), `modality` ("Text-only", "Multimodal"),
`question_type` ("Open-ended", "Theorem proof"), `difficulty`, `image_1` to `image_9`. Licence Apache-2.0. Read in: the
data set's repository and pages that load it, and the 675 real rows of OE_TO_maths_en_COMP that evaluation harnesses
carry, which lack the last six columns. Where a row lacks one of these, nothing is dropped for it.

`OE_TO_maths_en_COMP` is open-ended, text-only, mathematics, English, competition: 674 rows on the hub. The paper's 5,000
cannot be had this way; further configurations may be given as `parts`, and their rows are then judged by these columns.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from tasks.core.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubSource, Part, Values, final_answer, hub_kind, written


class OlympiadBench(HubSource):
    """5,000 hard problems wanted, as in the paper; the filters leave about 675."""

    required: ClassVar = ("id", "text", "answer")
    column_names: ClassVar = {
        "id": "id", "text": "question", "context": "context", "answer": "final_answer", "solution": "solution",
        "language": "language", "modality": "modality", "question_type": "question_type",
        "several_answers": "is_multiple_answer",
    }  # fmt: skip

    judged_by_text: ClassVar = (
        "language",
        "figure",
    )  # whether it is open-ended, a column and the configuration say

    rows: ClassVar = 674

    kind: Literal["olympiad_bench"] = "olympiad_bench"
    name: str = "olympiad_bench"
    parts: tuple[Part, ...] = (
        Part(hub_id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train", benchmark=True,
             files=("OE_TO_maths_en_COMP",)),
    )  # fmt: skip
    tier: Tier = Tier.HARD
    licence: str = "apache-2.0"
    target: PositiveInt | None = 5_000
    drop: tuple[Drop, ...] = ("language", "figure", "proof", "no_answer")


def read(values: Values, source: OlympiadBench, part: Part) -> Found:
    """The question under what it shares with others, with its answer or answers."""
    answer = joined(values["answer"])
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
    """Everything that the row's own columns say against it."""
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


def joined(answers: Any) -> str | None:
    """The final answers, joined by commas; None when there is none."""
    return ", ".join(filter(None, map(final_answer, listed(answers)))) or None


def listed(value: Any) -> list[Any]:
    """A cell that holds a list, one value or nothing, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


SOURCE = hub_kind(OlympiadBench, read)
