"""Problem files of users: every row comes back, or the file is refused with the rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.rows import Role, Tier
from tasks.seeds.columns import parse_columns
from tasks.seeds.own_file import OwnProblems, load, own_file


def jsonl(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, columns: str = "", **more: str) -> OwnProblems:
    return load(own_file(path, parse_columns(columns), **more))


def answers(found: OwnProblems) -> list[str | None]:
    return [row.answer for row in found.given]


def test_columns_with_standard_names_are_found_and_may_be_missing_in_a_row(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "mine.jsonl",
        {"text": "What is 1 + 1?", "answer": 2, "note": "x"},
        {"text": "What is 2 + 2?", "tier": "hard", "answer": " "},
    )
    first, second = read(path, licence="mit").problems
    assert (first.text, first.answer, first.tier, first.role) == (
        "What is 1 + 1?",
        "2",
        Tier.MEDIUM,
        Role.GIVEN,
    )
    assert (first.source, first.licence, first.root_id) == ("mine", "mit", first.id)
    assert (second.answer, second.tier) == (None, Tier.HARD)


def test_rows_keep_their_order_ids_answers_and_other_columns_and_equal_texts_are_one_problem(
    tmp_path: Path,
) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        {"text": "How many?", "id": "q1", "answer": "3", "topic": "sets", "points": [1, 2]},
        {"text": "How much?", "id": "q2", "answer": "5"},
        {"text": "How many?", "id": "q3", "answer": "4", "topic": None},
    )
    found = read(path)
    assert [row.text for row in found.problems] == ["How many?", "How much?"]
    assert [row.position for row in found.given] == [0, 1, 2]
    assert [row.source_id for row in found.given] == ["q1", "q2", "q3"]
    assert answers(found) == ["3", "5", "4"]
    many, much = (row.id for row in found.problems)
    assert [row.problem_id for row in found.given] == [many, much, many]
    assert [row.id for row in found.given[:2]] == [many, much] and len({row.id for row in found.given}) == 3
    extras = [None if row.extra is None else json.loads(row.extra) for row in found.given]
    assert extras == [{"topic": "sets", "points": [1, 2]}, None, {"topic": None}]
    assert found.notices == ("1 of 3 rows repeat the text of another row, which is annotated once",)


def test_a_row_keeps_its_id_if_others_are_added_or_removed(tmp_path: Path) -> None:
    before = read(jsonl(tmp_path / "a.jsonl", {"text": "How many?", "id": 1}))
    after = read(jsonl(tmp_path / "a.jsonl", {"text": "How much?", "id": 1}, {"text": "How many?", "id": 1}))
    assert before.problems[0].id == after.problems[1].id == after.given[1].id


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            "",
            r"a\.jsonl has no column 'text'; it has question, final answer: name the one with the problem, e\.g\."
            r' COLUMNS="text=question answer=final answer"',
        ),
        (
            "text=problem",
            r"a\.jsonl has no column 'problem'; it has question, final answer: correct its name",
        ),
        ("text=", "has no column 'text'"),
    ],
)
def test_a_missing_column_is_reported(tmp_path: Path, columns: str, sentence: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "How many?", "final answer": 3})
    assert answers(read(path, "text=Question answer=Final  answer")) == ["3"]
    with pytest.raises(UserError, match=sentence):
        read(path, columns)


def test_all_rows_that_cannot_be_used_are_listed_up_to_twenty_and_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "How many?"}, {"text": ""}, {"text": "x", "tier": "silly"})
    with pytest.raises(UserError) as raised:
        read(path)
    assert str(raised.value).splitlines() == [
        f"{path} has 2 rows that cannot be used:",
        "  line 2 has an empty text (column 'text'): fill it in or remove the row.",
        "  line 3 has the tier 'silly': use one of easy, medium, hard, competition.",
    ]
    path.write_text("oops\n" * 57 + '{"text": "x"}\n')
    with pytest.raises(UserError, match="has 57 rows that cannot be used; the first 20:") as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 21


def test_tiers_are_read_in_any_case(tmp_path: Path) -> None:
    rows = [{"text": "a", "tier": "Hard"}, {"text": "b", "tier": " COMPETITION "}, {"text": "c", "tier": ""}]
    found = read(jsonl(tmp_path / "a.jsonl", *rows), tier="EASY")
    assert [row.tier for row in found.given] == [Tier.HARD, Tier.COMPETITION, Tier.EASY]
    with pytest.raises(UserError, match="TIER is 'silly': use one of easy"):
        read(tmp_path / "a.jsonl", tier="silly")


def test_empty_and_repeated_ids_are_replaced_by_content_ids_with_a_line(tmp_path: Path) -> None:
    rows = [{"text": "a", "id": 0}, {"text": "b", "id": 0}, {"text": "c", "id": ""}, {"text": "d", "id": 7}]
    found = read(jsonl(tmp_path / "a.jsonl", *rows))
    first, second, third, fourth = (row.source_id for row in found.given)
    assert fourth == "7" and len({first, second, third}) == 3 and min(map(len, (first, second, third))) == 16
    assert json.loads(found.given[0].extra or "") == {"id": "0"} and found.given[2].extra is None
    assert len(found.notices) == 1
    assert (
        "3 of 4 ids in column 'id' are empty or stand for several problems (line 1, line 2, line 3)"
        in found.notices[0]
    )


def test_lists_that_nobody_asked_for_do_no_harm_and_the_answer_column_is_named(tmp_path: Path) -> None:
    row = {"question": "How many?", "solution": [{"step": 1}], "final_answer": ["2"], "context": None}
    path = jsonl(tmp_path / "a.jsonl", row)
    found = read(path, "text=question")
    assert answers(found) == [None] and found.problems[0].solution is None
    assert (
        "no column is used as the answer; if 'final_answer' is it: COLUMNS=\"text=question answer=final_answer\""
        in found.notices
    )
    assert "column 'solution' is not text in 1 rows (line 1): they have no solution" in found.notices
    assert json.loads(found.given[0].extra or "")["solution"] == [{"step": 1}]
    assert answers(read(path, "text=question answer=final_answer")) == ["2"]
    with pytest.raises(UserError, match=r"the solution \(column 'solution'\) is of type dict"):
        read(path, "text=question solution=solution")


def test_two_columns_are_joined_and_a_forgotten_one_is_mentioned(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "Ann has 3.", "question": "How many?", "answer": "3"})
    assert [row.text for row in read(path, "text=body+question").problems] == ["Ann has 3.\nHow many?"]
    assert read(path, "text=question").notices == (
        "column 'body' is not part of the problem; to join it: COLUMNS=\"text=body+question\"",
    )


def test_chat_messages_and_entries_of_objects_are_read(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "Two, so \\boxed{2}"},
    ]
    rows = [{"prompt": chat[:2], "messages": chat, "reward_model": {"ground_truth": "2", "style": "rule"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", "text=prompt answer=reward_model.ground_truth")
    assert (found.problems[0].text, answers(found)) == ("How many?", ["2"])
    assert json.loads(found.given[0].extra or "")["prompt"] == chat[:2]
    assert "column 'prompt' has chat messages: the last user message is the text" in found.notices
    found = read(tmp_path / "a.parquet", "text=messages answer=messages")
    assert (found.problems[0].text, answers(found)) == ("How many?", ["2"])
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "4"}]
    path = jsonl(tmp_path / "b.jsonl", {"conversations": turns}, {"conversations": turns[1:]})
    with pytest.raises(UserError, match="line 2 has an empty text"):
        read(path, "text=conversations")
    with pytest.raises(UserError, match=r"e\.g\. COLUMNS=\"text=prompt answer=reward_model\.ground_truth\""):
        read(tmp_path / "a.parquet")


def test_numbers_in_a_table_are_written_in_decimal_notation(tmp_path: Path) -> None:
    table = pa.table({
        "text": ["a", "b", "c"],
        "answer": pa.array([Decimal("142.00"), Decimal("0.50"), None]),
        "float": [27.0, 1e-05, float("-inf")],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    assert answers(read(tmp_path / "a.parquet")) == ["142", "0.50", None]
    assert answers(read(tmp_path / "a.parquet", "answer=float")) == ["27", "0.00001", "-\\infty"]


def test_a_solution_as_gold_answer_is_recognised_announced_and_kept(tmp_path: Path) -> None:
    cells = [f"We add {n} and 1.\n#### {n + 1}" for n in range(5)]
    path = jsonl(
        tmp_path / "a.jsonl", *({"text": f"{n} + 1?", "answer": cell} for n, cell in enumerate(cells))
    )
    found = read(path)
    assert answers(found) == ["1", "2", "3", "4", "5"]
    assert found.problems[0].solution == "We add 0 and 1."
    assert json.loads(found.given[0].extra or "") == {"answer": cells[0], "solution": "We add 0 and 1."}
    (notice,) = found.notices
    assert notice.startswith("answers: the text after #### in 5 of 5 rows, e.g. ") and notice.count("->") == 3
    assert notice.endswith("ANSWERS=verbatim takes the column as it is written")


def test_a_file_in_which_no_answer_can_be_compared_is_refused(tmp_path: Path) -> None:
    proof = "Assume the contrary and take the smallest counterexample, which is not the smallest one."
    path = jsonl(
        tmp_path / "a.jsonl", {"text": "Prove it.", "answer": proof}, {"text": "And this.", "answer": None}
    )
    with pytest.raises(
        UserError,
        match=r"none of the 1 answers in column 'answer' is a final answer .* line 1: 'Assume .* answer=\"",
    ):
        read(path)
    assert answers(read(path, "answer=")) == [None, None]
    path = jsonl(
        tmp_path / "b.jsonl", {"text": "Prove it.", "answer": proof}, {"text": "And this.", "answer": "5"}
    )
    assert "1 of 2 answers in column 'answer' are sentences or too long (line 1)" in read(path).notices[0]
    steps = jsonl(tmp_path / "c.jsonl", {"text": "2 + 2?", "answer": f"{proof} #### 4"})
    assert answers(read(steps)) == ["4"]
    with pytest.raises(UserError, match="none of the 1 answers"):
        read(steps, answers="verbatim")


def test_an_answer_of_infinity_and_one_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "answer": Infinity}\n{"text": "b", "answer": 1e-05}\n'
        '{"text": "c", "answer": "1e-05"}\n{"text": "d", "answer": NaN}\n{"text": "e", "answer": "2e-5"}\n'
    )
    assert answers(read(tmp_path / "a.jsonl")) == ["\\infty", "0.00001", "0.00001", None, "2e-5"]
    assert answers(read(tmp_path / "a.jsonl", answers="verbatim"))[2] == "1e-05"


def test_a_decimal_comma_is_read_in_a_file_with_semicolons_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;answer\nWas ist 1,5 + 1?;2,5\n")
    (tmp_path / "b.csv").write_text('text,answer\nWhich x?,"2,5"\n')
    assert answers(read(tmp_path / "a.csv")) == ["2.5"] and answers(read(tmp_path / "b.csv")) == ["2,5"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            r'{"text": "Compute $\frac{1}{2} \times 4$"}',
            r"line 1: the text \(column 'text'\) has a form feed before 'rac\{1\}' \(character 10\) and a tab before"
            r" 'imes 4' \(character 21\), which is left of LaTeX",
        ),
        (r'{"text": "x", "answer": "\beta"}', r"the answer .* has a backspace before 'eta'"),
        (
            r'{"text": "Compute $\sqrt{2}$"}',
            r"line 1 is not valid JSON \(Invalid \\escape, .*\): write backslashes doubled",
        ),
    ],
)
def test_escapes_eaten_by_a_bad_writer_are_refused_with_line_and_character(
    tmp_path: Path, row: str, sentence: str
) -> None:
    (tmp_path / "a.jsonl").write_text(row + "\n")
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "a.jsonl")


def test_columns_that_cannot_be_kept_are_refused_or_announced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x", "log": "y" * 1_000_000}]))
    with pytest.raises(UserError, match="entry 1 has other columns of more than 1,000,000 bytes"):
        read(tmp_path / "a.json")
    pq.write_table(pa.table({"text": ["x"], "image": [b"\x00\x01"]}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert (
        found.notices == ("column 'image' has binary values and is not kept",)
        and found.given[0].extra is None
    )


def test_the_identity_of_a_file_contains_all_that_decides_its_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "x", "b": "y"})
    kinds: list[dict[str, Any]] = [
        {}, {"columns": {"text": "b"}}, {"tier": "hard"}, {"licence": "mit"}, {"answers": "verbatim"},
    ]  # fmt: skip
    found = [json.dumps(own_file(path, **kind).identity()) for kind in kinds]
    assert len(set(found)) == len(kinds)
    path.write_text('{"text": "z", "b": "y"}\n')
    assert json.dumps(own_file(path).identity()) not in found
    with pytest.raises(UserError, match="ANSWERS is 'none': use one of auto, verbatim"):
        own_file(path, answers="none")
