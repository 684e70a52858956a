"""Anybody's file of problems becomes rows as it is, or is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.core.errors import UserError
from tasks.core.rows import Problem, Reason, Reject, Role, Tier
from tasks.seeds.own_file import load, own_file


def jsonl(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_called_like_ours_are_taken_and_may_be_missing_in_a_row(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "mine.jsonl",
        {"text": "What is 1 + 1?", "answer": 2, "note": "x"},
        {"text": "What is 2 + 2?", "tier": "hard", "answer": " "},
    )
    first, second = load(own_file(path, licence="mit")).outcomes
    assert isinstance(first, Problem) and isinstance(second, Problem)
    assert (first.text, first.answer, first.tier, first.role) == (
        "What is 1 + 1?",
        "2",
        Tier.MEDIUM,
        Role.GIVEN,
    )
    assert (first.source, first.source_id, first.licence, first.root_id) == ("mine", "1", "mit", first.id)
    assert (second.answer, second.tier) == (None, Tier.HARD)


def test_a_text_that_stands_twice_is_kept_once_unless_ids_tell_the_two_apart(tmp_path: Path) -> None:
    texts = ["How many?", "How much?", "How many?"]
    _, _, twice = load(own_file(jsonl(tmp_path / "a.jsonl", *({"text": text} for text in texts)))).outcomes
    assert isinstance(twice, Reject) and twice.reason is Reason.EXACT_DUPLICATE
    assert twice.detail == "line 3 is the same text as line 1"
    named = jsonl(tmp_path / "b.jsonl", *({"text": text, "id": n} for n, text in enumerate(texts)))
    assert load(own_file(named)).problems == 3


def test_a_row_keeps_its_id_when_others_come_and_go(tmp_path: Path) -> None:
    before = load(own_file(jsonl(tmp_path / "a.jsonl", {"text": "How many?"}))).outcomes
    after = load(own_file(jsonl(tmp_path / "a.jsonl", {"text": "How much?"}, {"text": "How many?"}))).outcomes
    assert [row.id for row in before if isinstance(row, Problem)] == [
        row.id for row in after if isinstance(row, Problem) and row.text == "How many?"
    ]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {},
            r"a\.jsonl has no column 'text'; it has question, final: say which one holds the problem, e\.g\. text=question",
        ),
        ({"text": "problem"}, r"a\.jsonl has no column 'problem'; it has question, final: correct its name"),
        (
            {"question": "text"},
            r"no column 'question' of ours: choose among text, answer, solution, id, tier",
        ),
    ],
)
def test_a_column_that_is_not_there_is_told(tmp_path: Path, columns: dict[str, str], sentence: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "How many?", "final": 3})
    assert load(own_file(path, {"text": "question", "answer": "final"})).problems == 1
    with pytest.raises(UserError, match=sentence):
        own_file(path, columns)


def test_a_faulty_line_is_told_with_file_line_and_remedy(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "How many?"}, {"text": ""})
    with pytest.raises(
        UserError, match=r"a\.jsonl, line 2 has an empty text .*: fill it in or remove the row"
    ):
        load(own_file(path))
    path = jsonl(tmp_path / "b.jsonl", {"text": "How many?", "tier": "silly"})
    with pytest.raises(UserError, match=r"b\.jsonl, line 1 has the tier 'silly': use one of easy, medium"):
        load(own_file(path))
