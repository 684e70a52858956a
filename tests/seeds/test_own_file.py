"""Problem files of users: rows are kept unchanged, or the file is rejected with one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.rows import Problem, Reason, Reject, Role, Tier
from tasks.seeds.own_file import load, own_file


def jsonl(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_with_standard_names_are_found_and_may_be_missing_in_a_row(tmp_path: Path) -> None:
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


def test_a_duplicate_text_is_kept_once_unless_the_ids_differ(tmp_path: Path) -> None:
    texts = ["How many?", "How much?", "How many?"]
    _, _, twice = load(own_file(jsonl(tmp_path / "a.jsonl", *({"text": text} for text in texts)))).outcomes
    assert isinstance(twice, Reject) and twice.reason is Reason.EXACT_DUPLICATE
    assert twice.detail == "line 3 is the same text as line 1"
    named = jsonl(tmp_path / "b.jsonl", *({"text": text, "id": n} for n, text in enumerate(texts)))
    assert load(own_file(named)).problems == 3


def test_a_row_keeps_its_id_if_others_are_added_or_removed(tmp_path: Path) -> None:
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
            r"a\.jsonl has no column 'text'; it has question, final: name the one with the problem, e\.g\. text=question",
        ),
        ({"text": "problem"}, r"a\.jsonl has no column 'problem'; it has question, final: correct its name"),
        (
            {"question": "text"},
            r"unknown target column 'question': choose one of text, answer, solution, id, tier",
        ),
    ],
)
def test_a_missing_column_is_reported(tmp_path: Path, columns: dict[str, str], sentence: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "How many?", "final": 3})
    assert load(own_file(path, {"text": "question", "answer": "final"})).problems == 1
    with pytest.raises(UserError, match=sentence):
        own_file(path, columns)


def test_an_invalid_line_is_reported_with_file_line_and_remedy(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "How many?"}, {"text": ""})
    with pytest.raises(
        UserError, match=r"a\.jsonl, line 2 has an empty text .*: fill it in or remove the row"
    ):
        load(own_file(path))
    path = jsonl(tmp_path / "b.jsonl", {"text": "How many?", "tier": "silly"})
    with pytest.raises(UserError, match=r"b\.jsonl, line 1 has the tier 'silly': use one of easy, medium"):
        load(own_file(path))
