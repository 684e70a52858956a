"""Solutions as responses: their tokens, their sources, and the rows without one."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.config import PROJECT_ROOT
from tasks.llm.tokenizer import load_tokenizer
from training.data.demonstrations import make_demonstrations
from training.data.references import Reference, References

END = 1991  # <|im_end|> of the pocket models


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(PROJECT_ROOT / "pocket/student"))


def references(*rows: Reference) -> References:
    return References(rows=rows, labels="gold", solutions="majority_sample")


def test_solutions_become_responses_and_the_others_are_counted(tokenizer: Any) -> None:
    gold = Reference(solution="2 + 2 = 4", solution_source="gold")
    sample = Reference(solution="So \\boxed{4}", solution_source="correct_sample")
    long = Reference(solution="1 + 1 = 2 and so on and on and on and on", solution_source="majority_sample")
    control = Reference(solution="<|im_end|>", solution_source="gold")
    none = Reference(lacking={"solution": "no solution"})
    made = make_demonstrations(references(gold, sample, long, control, none, none), tokenizer, END, 12)
    first, second = made.rows[:2]
    assert first is not None and second is not None and made.rows[2:] == (None,) * 4
    assert (first.source, second.source) == ("solution", "teacher")
    assert first.tokens[-1] == END and tokenizer.decode(first.tokens[:-1].tolist()) == "2 + 2 = 4"
    assert made.left_out == {
        "solutions as demonstrations: more than lengths.max_response_tokens (12)": 1,
        "solutions as demonstrations: its text contains a control token": 1,
        "solutions as demonstrations: no solution": 2,
    }
    other = make_demonstrations(references(gold, gold), tokenizer, END, 12)
    assert (
        made.digest != other.digest == make_demonstrations(references(gold, gold), tokenizer, END, 99).digest
    )
