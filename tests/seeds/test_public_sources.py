"""Every public source reads rows of its data set's schema, from JSON lines and Parquet, and reports what it drops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Problem, Reject, Role, Tier
from tasks.seeds.kinds import Loaded
from tasks.seeds.registry import check, load, resolve, source_digest

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def source(kind: str, path: Path, **settings: Any) -> Any:
    entry = {"kind": kind, "path": str(path), **settings}
    return resolve(load_config("pocket", {"aggregate.sources": [entry]})).aggregate.sources[0]


def loaded(kind: str, path: Path, **settings: Any) -> Loaded:
    settled = source(kind, path, **settings)
    check(settled)
    return load(settled)


def problems(result: Loaded) -> dict[str, Problem]:
    return {row.text: row for row in result.outcomes if isinstance(row, Problem)}


def reasons(result: Loaded) -> dict[str, str]:
    return {row.text: str(row.reason) for row in result.outcomes if isinstance(row, Reject)}


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train-00000-of-00002.parquet"])
def test_scalequest(tmp_path: Path, name: str) -> None:
    rows = [
        {"query": "What is 2+3?", "response": "It is $\\boxed{5}$."},
        {"query": "Prove that 2+3=5.", "response": "Clear."},
        {"query": "What is 1+1? (A) 1 (B) 2", "response": "B"},
        {"query": "2加3等于多少？", "response": "5"},
        {"query": "", "response": ""},
    ]
    write(tmp_path / name, rows)
    result = loaded("scalequest", tmp_path)
    (row,) = problems(result).values()
    assert (row.text, row.tier, row.licence, row.role) == ("What is 2+3?", Tier.EASY, "apache-2.0", Role.SEED)
    assert (
        row.answer is None and row.solution is None and not row.benchmark_root
    )  # a model's answer is not kept
    assert reasons(result) == {
        "Prove that 2+3=5.": "proof",
        "What is 1+1? (A) 1 (B) 2": "multiple_choice",
        "2加3等于多少？": "other_language",
        "": "no_question",
    }
    assert (result.seen, result.target, result.shortfall) == (5, 15_000, 14_999)


NUMINA = [
    {"source": "cn_k12", "problem": "Find $x$ if $x+1=3$.", "solution": "So $x=\\boxed{2}$."},
    {"source": "amc_aime", "problem": "Find the remainder of $7^9$ by 10.", "solution": "\\boxed{7}"},
    {"source": "olympiads", "problem": "Find all $n$ with no end.", "solution": "There are none."},
    {"source": "olympiads", "problem": "Find $m$.", "solution": "Cut off \\boxed{12"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_numina_math_cot(tmp_path: Path, suffix: str) -> None:
    rows = [
        {**row, "messages": [{"content": row["problem"], "role": "user"}]} for row in NUMINA
    ]  # the hub also has them as messages
    write(tmp_path / f"data/train-00000-of-00005.{suffix}", rows)
    write(tmp_path / f"data/test-00000-of-00001.{suffix}", [{**rows[0], "problem": "A test row."}])
    result = loaded("numina_math_cot", tmp_path)
    found = problems(result)
    assert set(found) == {"Find $x$ if $x+1=3$.", "Find the remainder of $7^9$ by 10."}
    assert reasons(result) == {"Find all $n$ with no end.": "no_answer", "Find $m$.": "no_answer"}
    exercise, contest = (found[str(row["problem"])] for row in NUMINA[:2])
    assert (
        exercise.source_id.startswith("cn_k12/") and not exercise.benchmark_root and exercise.answer is None
    )
    assert contest.source_id.startswith("amc_aime/") and contest.benchmark_root
    kept = loaded("numina_math_cot", tmp_path, drop=[], benchmark_subsets=[])
    assert kept.problems == 4 and not any(row.benchmark_root for row in problems(kept).values())


def math_row(text: str, answer: str) -> dict[str, Any]:
    return {
        "problem": text, "level": "Level 3", "type": "Algebra", "solution": f"First \\boxed{{0}}, then \\boxed{{{answer}}}.",
    }  # fmt: skip


SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


@pytest.mark.parametrize("layout", ["hub", "authors"])
def test_math_reads_all_subjects_and_flags_the_test_split(tmp_path: Path, layout: str) -> None:
    for subject in SUBJECTS:
        for split in ("train", "test"):
            row = math_row(f"The {split} problem of {subject}?", "\\frac{1}{2}")
            if layout == "hub":
                write(tmp_path / subject / f"{split}-00000-of-00001.parquet", [row])
            else:  # one indented object per file
                file = tmp_path / split / subject / "17.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(row, indent=1))
    result = loaded("math", tmp_path)
    rows = problems(result)
    assert len(rows) == result.seen == 14 and not reasons(result)
    assert all(row.answer == "\\frac{1}{2}" and row.licence == "mit" for row in rows.values())
    assert {text for text, row in rows.items() if row.benchmark_root} == {
        f"The test problem of {subject}?" for subject in SUBJECTS
    }


def test_math_keeps_drawings_in_code_and_needs_all_its_parts(tmp_path: Path) -> None:
    drawn = "[asy] draw((0,0)--(1,1)); [/asy] How long is the line in the diagram?"
    missing = "How long is the line in the diagram?"
    for subject in SUBJECTS:
        for split in ("train", "test"):
            write(tmp_path / subject / f"{split}.jsonl", [math_row(f"{subject} {split}", "1")])
    write(
        tmp_path / "geometry/train.jsonl",
        [math_row(drawn, "\\sqrt{2}"), math_row(missing, "3"), math_row("No answer", "")],
    )
    assert reasons(loaded("math", tmp_path)) == {"No answer": "no_answer"}
    assert reasons(loaded("math", tmp_path, drop=["figure"])) == {missing: "needs_figure"}
    (tmp_path / "algebra/test.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"Source math: .* has no .* file for algebra/test: .*algebra/test\.jsonl"
    ):
        check(source("math", tmp_path))


def test_a_problem_of_the_train_split_that_is_also_a_test_problem_is_a_benchmark_problem(
    tmp_path: Path,
) -> None:
    for subject in SUBJECTS:
        for split in ("train", "test"):
            write(tmp_path / subject / f"{split}.jsonl", [math_row(f"{subject} {split}", "1")])
    for split, answer in (("train", "1"), ("test", "2")):
        write(tmp_path / f"algebra/{split}.jsonl", [math_row("In both", answer)])
    result = loaded("math", tmp_path)
    assert problems(result)["In both"].benchmark_root and problems(result)["In both"].answer == "2"
    assert reasons(result) == {"In both": "exact_duplicate"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_omni_math(tmp_path: Path, suffix: str) -> None:
    common = {"domain": ["Mathematics -> Algebra"], "difficulty": 8.0, "source": "imo_shortlist"}
    rows = [
        {**common, "problem": "Find the least $n$.", "solution": "See.", "answer": "$2^{10}$"},
        {**common, "problem": "Find $k$.", "solution": "See.", "answer": "\\boxed{\\frac{a}{b}}"},
        {**common, "problem": "Prove that $a=b$.", "solution": "See.", "answer": "a=b"},
        {**common, "problem": "Find $z$.", "solution": "See.", "answer": ""},
    ]
    result = loaded("omni_math", write(tmp_path / f"test.{suffix}", rows))
    answers = {text: row.answer for text, row in problems(result).items()}
    assert answers == {"Find the least $n$.": "2^{10}", "Find $k$.": "\\frac{a}{b}"}
    assert all(row.benchmark_root and row.tier == Tier.HARD for row in problems(result).values())
    assert reasons(result) == {"Prove that $a=b$.": "proof", "Find $z$.": "no_answer"}


def olympiad(number: int, question: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "question": question, "solution": ["One way.", "Another."], "final_answer": ["$7$"],
        "context": None, "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None,
        "subfield": "Algebra", "subject": "Math", "language": "English", "modality": "Text-only",
        "question_type": "Open-ended", "difficulty": "Competition", **more,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_olympiad_bench(tmp_path: Path, suffix: str) -> None:
    rows = [
        olympiad(1, "Find $k$. Show that it is a prime."),
        olympiad(2, "Find both.", final_answer=["$1$", "$2$"], is_multiple_answer=True),
        olympiad(3, "And then?", context="Let $n=3$."),
        olympiad(4, "Find it in <image_1>."),
        olympiad(5, "Find it there.", modality="Multimodal"),
        olympiad(6, "Show it.", question_type="Theorem proof", final_answer=None),
        olympiad(7, "Encuentra $k$.", language="Spanish"),
        olympiad(8, "求 $k$ 的值。", language="Chinese"),
    ]
    path = write(tmp_path / f"OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.{suffix}", rows).parent.parent
    result = loaded("olympiad_bench", path)
    kept = {row.source_id: (row.text, row.answer) for row in problems(result).values()}
    assert kept == {
        "1": ("Find $k$. Show that it is a prime.", "7"),
        "2": ("Find both.", "1, 2"),
        "3": ("Let $n=3$.\n\nAnd then?", "7"),
    }
    assert reasons(result) == {
        "Find it in <image_1>.": "needs_figure", "Find it there.": "needs_figure", "Show it.": "proof",
        "Encuentra $k$.": "other_language", "求 $k$ 的值。": "other_language",
    }  # fmt: skip
    assert all(row.benchmark_root for row in problems(result).values()) and result.shortfall == 4997
    single = loaded("olympiad_bench", path, drop=["several_answers"])
    assert reasons(single) == {"Find both.": "several_answers"}


def test_olympiad_bench_accepts_the_rows_of_evaluation_harnesses_which_lack_columns(tmp_path: Path) -> None:
    left = ("id", "question", "solution", "final_answer", "context", "is_multiple_answer", "answer_type")
    row = {key: value for key, value in olympiad(1606, "Find $k$.").items() if key in left}
    result = loaded("olympiad_bench", write(tmp_path / "olympiadbench.jsonl", [row]))
    assert [(row.source_id, row.answer) for row in problems(result).values()] == [("1606", "7")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_matharena(tmp_path: Path, suffix: str) -> None:
    def contest(name: str, answer: Any) -> None:
        rows = [
            {
                "problem_idx": n,
                "problem": f"Problem {n} of {name}?",
                "answer": answer,
                "problem_type": ["Algebra"],
            }
            for n in (1, 2)
        ]
        write(tmp_path / name / f"data/train-00000-of-00001.{suffix}", rows)

    for name in ("aime_2024_I", "aime_2024_II", "aime_2025"):
        contest(name, 73)
    for name in ("hmmt_feb_2025", "hmmt_nov_2025"):
        contest(name, "\\frac{1}{576}")
    result = loaded("matharena", tmp_path)
    rows = problems(result)
    assert len(rows) == result.seen == 10 and result.shortfall == 0
    assert rows["Problem 2 of aime_2024_I?"].source_id == "aime_2024_I/2"
    assert rows["Problem 1 of aime_2025?"].answer == "73"
    assert rows["Problem 1 of hmmt_nov_2025?"].answer == "\\frac{1}{576}"
    for row in rows.values():
        assert (row.licence, row.tier, row.benchmark_root) == ("cc-by-nc-sa-4.0", Tier.COMPETITION, True)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_amo_bench_removes_the_format_instruction(tmp_path: Path, suffix: str) -> None:
    instruction = (
        "\nAfter solving the above problem, please output your final answer in the following format:\n"
        "### The final answer is: $\\boxed{<your answer>}$\nExample:\n### The final answer is: $\\boxed{123}$"
    )
    rows = [
        {"question_id": 7, "prompt": f"Find $f(9)$.{instruction}", "solution": "See.", "answer": "$\\boxed{12}$",
         "answer_type": "number"},
        {"question_id": 8, "prompt": "Describe the locus.", "solution": "See.", "answer": "a circle about $O$",
         "answer_type": "description"},
    ]  # fmt: skip
    result = loaded("amo_bench", write(tmp_path / f"data/test-00000-of-00001.{suffix}", rows))
    reported = {row.source_id: (row.text, row.answer) for row in problems(result).values()}
    assert reported == {"7": ("Find $f(9)$.", "12"), "8": ("Describe the locus.", "a circle about $O$")}


# --- curated problems and other data sets ------------------------------------------------------------------------


def any_hub(path: Path, **settings: Any) -> Loaded:
    parts = [{"hub_id": "somebody/set", "split": "train"}]
    return loaded("hub", path, name="mine", tier="medium", parts=parts, **settings)


@pytest.mark.parametrize(
    ("form", "cells"),
    [
        ("final", {"1": ("$12$", "12"), "2": (27.0, "27"), "3": (0.5, "0.5"), "4": ("\\boxed{x^2}", "x^2")}),
        (
            "boxed",
            {
                "1": ("Hence \\boxed{12}", "12"),
                "2": ("\\boxed{1}, no: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
            },
        ),
        ("hashes", {"1": ("3 + 4 = <<3+4=7>>7\n#### 7", "7"), "2": ("#### 1,234", "1234")}),
    ],
)
def test_the_three_forms_of_a_curated_problems_answer(
    tmp_path: Path, form: str, cells: dict[str, tuple[Any, str]]
) -> None:
    rows = [{"id": key, "q": f"Question {key}?", "a": cell} for key, (cell, _) in cells.items()]
    path = write(tmp_path / "curated.jsonl", rows)
    result = any_hub(path, role="curated", columns={"text": "q", "answer": "a"}, answer_form=form)
    found = {row.source_id: row.answer for row in problems(result).values()}
    assert found == {key: answer for key, (_, answer) in cells.items()}
    assert all(row.role is Role.CURATED for row in problems(result).values())


def test_a_curated_problem_without_an_answer_is_dropped_and_a_seed_is_not(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "problem": "A?", "answer": None, "tier": "hard"},
        {"id": 2, "problem": "B?", "answer": "3"},
    ]
    path = write(tmp_path / "curated.jsonl", rows)
    assert reasons(any_hub(path, role="curated")) == {"A?": "no_answer"}
    seeds = problems(any_hub(path))
    assert {text: row.tier for text, row in seeds.items()} == {"A?": Tier.HARD, "B?": Tier.MEDIUM}
    assert all(row.role is Role.SEED and row.licence == "unknown" for row in seeds.values())


def test_a_curated_draw_is_limited_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [{"id": n, "problem": f"What is {n}+1?", "answer": n + 1, "solution": f"{n}+1"} for n in range(50)]
    first = any_hub(write(tmp_path / "a/x.jsonl", rows).parent, role="curated", target=10)
    second = any_hub(write(tmp_path / "b/x.parquet", rows[::-1]).parent, role="curated", target=10)
    assert first == second and first.problems == 10
    assert all(row.solution for row in problems(first).values())


# --- errors ------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [{"question": "What?", "response": "x", "other": 1}])
    with pytest.raises(UserError) as reported:
        check(source("scalequest", path))
    assert str(reported.value) == (
        "Source scalequest: dyyyyyyyy/ScaleQuest-Math (train) has no column 'query' for the text; it has question,"
        " response, other: correct the columns of this source, e.g. columns: {text: question}."
    )
    assert load(source("scalequest", path, columns={"text": "question"})).problems == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"train has no rows"),
        (b"\n\n", r"train has no rows"),
        (b'{"query": "A?"}\n{"query": ', r"train\.jsonl, line 2 is not valid JSON"),
        (b"[1]\n", r"train\.jsonl, line 1 is not a JSON object"),
        (b'{"query": "\xff"}\n', r"train\.jsonl, line 1 is not UTF-8"),
    ],
)
def test_a_damaged_file_is_reported_in_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load(source("scalequest", tmp_path))


def test_a_lone_surrogate_does_not_reach_the_tables(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"query": "What is \\ud800 here?"}\n')
    (row,) = problems(loaded("scalequest", tmp_path)).values()
    assert row.text == "What is ? here?"


def test_the_digest_of_a_local_copy_follows_its_content(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"query": "A?"}])
    before = source_digest(source("scalequest", tmp_path))
    assert source_digest(source("scalequest", tmp_path)) == before
    write(tmp_path / "train.jsonl", [{"query": "B?"}])
    assert source_digest(source("scalequest", tmp_path)) != before


def test_rows_keep_their_id_whatever_else_is_drawn(tmp_path: Path) -> None:
    rows = [{"query": f"What is {n}+{n}?"} for n in range(30)]
    path = write(tmp_path / "train.jsonl", rows)
    small, large = (problems(loaded("scalequest", path, target=n)) for n in (5, 20))
    assert len(small) == 5 and all(large[text] == row for text, row in small.items())
    assert all(row.root_id == row.id and row.parent_id is None for row in large.values())
