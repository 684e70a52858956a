"""The grammar of COLUMNS, and the columns that are found by their names."""

from __future__ import annotations

import pytest

from tasks.errors import UserError
from tasks.seeds.columns import parse_columns, select_columns


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("text=question answer=final", {"text": "question", "answer": "final"}),
        ("text=Frage answer=Short Answer", {"text": "Frage", "answer": "Short Answer"}),
        ("answer=Short Answer text=Full Text id=Problem ID", {"answer": "Short Answer", "text": "Full Text", "id": "Problem ID"}),
        (" text = a , answer = b;", {"text": "a", "answer": "b"}),
        ("text='the text=x' answer=\"\"", {"text": "the text=x", "answer": ""}),
        ("answer=", {"answer": ""}),
        ("TEXT=a\nTier=b", {"text": "a", "tier": "b"}),
        ("text=context id=a.b", {"text": "context", "id": "a.b"}),
    ],
)  # fmt: skip
def test_a_field_name_with_an_equals_sign_starts_a_pair(text: str, columns: dict[str, str]) -> None:
    assert parse_columns(text) == columns


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("question=text", "COLUMNS has 'question=text', which starts with none of text, answer"),
        ("text", "COLUMNS has 'text', which"),
        ("text=a text=b", "names a column for one field twice"),
    ],
)
def test_anything_else_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_columns(text)


def test_names_match_in_any_case_and_exactly_first() -> None:
    found = select_columns("f", {"answer": "short answer"}, {"Text": "", "Short  Answer": "", "ID": 3})
    assert found.names() == {"text": "Text", "answer": "Short  Answer", "id": "ID"}
    assert found.asked == {"answer"}
    assert select_columns("f", {}, {"TEXT": "", "text": ""}).names() == {"text": "text"}
    with pytest.raises(UserError, match="f has no column 'text'; it has TEXT, Text"):
        select_columns("f", {}, {"TEXT": "", "Text": ""})


def test_a_dot_enters_an_object_unless_a_column_has_that_name() -> None:
    there = {"q.a": "", "q": {"a": "", "b": {"c": ""}}, "1+1": ""}
    paths = [
        select_columns("f", {"text": name}, there).paths["text"]
        for name in ("q.a", "q.b.c", "1+1", "q.a+1+1")[:3]
    ]
    assert paths == [(("q.a",),), (("q", "b", "c"),), (("1+1",),)]
    with pytest.raises(UserError, match=r"f has no column 'q\.x'; it has q\.a, 1\+1, q\.a, q\.b: correct"):
        select_columns("f", {"text": "q.x"}, there)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(
        UserError, match="unknown target column 'question': choose one of text, answer, solution, id, tier"
    ):
        select_columns("f", {"question": "text"}, {"text": ""})
