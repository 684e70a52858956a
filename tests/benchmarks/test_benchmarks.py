"""Every benchmark reads rows of its data set's schema, and its own gold answers are graded as correct.

The rows below were written for this file. With the environment variable SURE_MATH_BENCHMARKS, a folder of local copies under the
names of the benchmarks, the complete files are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompts import load_prompt
from tasks.answers import grade
from tasks.benchmarks import base
from tasks.benchmarks.base import Benchmark, HubData, Part, content_digest, load, local_copy
from tasks.benchmarks.protocols import PROTOCOLS, find_protocol
from tasks.benchmarks.registry import all_benchmarks, find
from tasks.errors import UserError
from tasks.rows import Problem, Reason, Reject, problem_id
from tasks.seeds.benchmark_source import BenchmarkSource
from tasks.seeds.registry import check, source_digest
from tasks.seeds.registry import load as load_source
from tasks.storage.dataset import write_dataset
from tests.storage.test_dataset import TRAIN, example, manifest, samples

COPIES = os.environ.get("SURE_MATH_BENCHMARKS")
STEPS = "A: Let's think step by step. It is one. The answer is (B)."
ROWS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "gsm8k": ({"question": "How much?", "answer": "1000 + 234 = <<1000+234=1234>>1234\n#### 1,234"}, "1234"),
    "math500": ({"problem": "Find x.", "answer": "\\frac{1}{2}", "unique_id": "test/algebra/1.json", "level": 1}, "\\frac{1}{2}"),
    "aime2024": ({"problem_idx": 3, "problem": "Find n.", "answer": 33}, "33"),
    "aime2025": ({"problem_idx": 3, "problem": "Find n.", "answer": "007"}, "7"),
    "hmmt_feb_2025": ({"problem_idx": 3, "problem": "Find n.", "answer": "$\\sqrt{2}$"}, "\\sqrt{2}"),
    "hmmt_nov_2025": ({"problem_idx": 3, "problem": "Find n.", "answer": "1/3"}, "1/3"),
    "amo_bench": (
        {"question_id": 1, "prompt": "Find k. After solving the above problem, please output it.", "answer": "\\boxed{2^{5}}"},
        "2^{5}",
    ),
    "amc2023": ({"id": 0, "problem": "How far?", "answer": 27.0}, "27"),
    "minerva": ({"problem": "Find the mass.", "solution": "Hence $m=\\boxed{4.5e33}$ g."}, "4.5e33"),
    "olympiadbench": (
        {"id": 1, "question": "Find all pairs.", "context": "Let n be odd.", "final_answer": ["$(1,2)$", "$(2,1)$"]},
        "(1,2), (2,1)",
    ),
    "gpqa_diamond": (
        {
            "Question": "Which?", "Correct Answer": "red", "Incorrect Answer 1": "blue", "Incorrect Answer 2": "green",
            "Incorrect Answer 3": "grey", "Record ID": "rec1", "Subdomain": "Optics",
        },
        "",
    ),
    "mmlu_pro": (
        {
            "question_id": 70, "question": "Which?", "options": ["red", "blue"], "answer": "B", "answer_index": 1,
            "category": "physics", "cot_content": STEPS,
        },
        "B",
    ),
    "alpaca_eval": ({"instruction": "Write a poem.", "output": "x", "generator": "y", "dataset": "helpful_base"}, ""),
}  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", all_benchmarks())
def test_every_benchmark_declares_what_it_needs(name: str) -> None:
    one = find(name)
    assert one.title and one.licence and one.lineage and set(one.protocols) <= PROTOCOLS.keys()
    assert "problem" in load_prompt(one.prompt).variables
    assert name in ROWS or name in ("pocket", "sure_math"), "add a row of the data set's schema to this file"
    if isinstance(one.data, HubData):
        assert set(one.data.required) <= set(one.data.columns)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_schema_is_read(tmp_path: Path, name: str, suffix: str) -> None:
    row, answer = ROWS[name]
    found = load(find(name), write(tmp_path / f"x.{suffix}", [row]), shots=0)
    (item,) = found.items
    assert item.text and item.id and found.rejected == {} and found.digest.startswith("sha256:")
    assert found.digest == content_digest(find(name), tmp_path / f"x.{suffix}")
    if answer:
        assert item.answer == answer
        assert find(name).answer == "choice" or grade(f"It is \\boxed{{{answer}}}.", answer)


def test_two_contests_are_read_by_their_names_and_ids_are_those_of_the_seed_source(tmp_path: Path) -> None:
    row, _ = ROWS["aime2024"]
    write(tmp_path / "aime_2024_I.jsonl", [row])
    write(tmp_path / "aime_2024_II.jsonl", [row, {**row, "problem_idx": 4}])
    found = load(find("aime2024"), tmp_path)
    assert [item.id for item in found.items] == ["aime_2024_I/3", "aime_2024_II/3", "aime_2024_II/4"]


def test_choices_are_in_a_fixed_order_and_the_letter_is_that_of_the_correct_one(tmp_path: Path) -> None:
    row = dict(ROWS["gpqa_diamond"][0])
    rows = [row | {"Question": f"Question {number}?", "Record ID": str(number)} for number in range(200)]
    items = load(find("gpqa_diamond"), write(tmp_path / "x.jsonl", rows)).items
    for item in items:
        assert f"\n{item.answer}. red" in item.text
    counts = [sum(item.answer == letter for item in items) for letter in "ABCD"]
    assert min(counts) > 25, "every letter is correct about as often"
    assert load(find("gpqa_diamond"), write(tmp_path / "y.jsonl", rows[::-1])).items[::-1] == items


def test_examples_come_from_the_subject_and_end_in_a_box(tmp_path: Path) -> None:
    row = dict(ROWS["mmlu_pro"][0])
    write(tmp_path / "test.jsonl", [row])
    shots = [
        row | {"question": f"{subject} {number}?", "category": subject}
        for subject in ("physics", "law")
        for number in range(6)
    ]
    write(tmp_path / "validation.jsonl", shots)
    found = load(find("mmlu_pro"), tmp_path)
    assert {group: len(pairs) for group, pairs in found.examples.items()} == {"physics": 5, "law": 5}
    question, reply = found.examples["law"][0]
    assert (
        question == "law 0?\nA. red\nB. blue"
        and reply.startswith("Let's think")
        and reply.endswith("\n\\boxed{B}")
    )
    with pytest.raises(UserError, match=r"fewer than 7 examples of 'physics': lower SHOTS"):
        load(find("mmlu_pro"), tmp_path, shots=7)
    with pytest.raises(
        UserError, match=r"is a file, but the examples of few-shot prompts are in another one"
    ):
        load(find("mmlu_pro"), tmp_path / "test.jsonl")


def test_few_shot_examples_of_gsm8k_have_no_annotations(tmp_path: Path) -> None:
    row, _ = ROWS["gsm8k"]
    write(tmp_path / "test.jsonl", [row])
    write(tmp_path / "train.jsonl", [row] * 4)
    assert load(find("gsm8k"), tmp_path, shots=4).examples[""][3] == (
        "How much?",
        "1000 + 234 = 1234\n\\boxed{1234}",
    )


def test_rows_that_are_not_part_of_a_benchmark_are_counted_with_their_reason(tmp_path: Path) -> None:
    row = dict(ROWS["olympiadbench"][0])
    others = [
        {"language": "Chinese"},
        {"modality": "Multimodal"},
        {"final_answer": []},
        {"question": "", "context": ""},
    ]
    path = write(tmp_path / "x.jsonl", [row, *(row | other for other in others)])
    found = load(find("olympiadbench"), path)
    assert len(found.items) == 1
    assert found.rejected == {
        "language is Chinese": 1,
        "modality is Multimodal": 1,
        "no answer": 1,
        "no text": 1,
    }


def test_a_repeated_id_is_made_unique(tmp_path: Path) -> None:
    row, _ = ROWS["gsm8k"]
    first, second = load(find("gsm8k"), write(tmp_path / "x.jsonl", [row, row])).items
    assert second.id == f"{first.id}#2"


def test_the_pocket_benchmark_has_problems_of_every_tier_with_answers() -> None:
    found = load(find("pocket"))
    assert len(found.items) == 500 and len({item.id for item in found.items}) == 500
    assert {item.group for item in found.items} == {"easy", "medium", "hard", "competition"}
    assert all(grade(f"\\boxed{{{item.answer}}}", item.answer or "") for item in found.items)


def test_the_test_split_of_an_export_is_a_benchmark(tmp_path: Path) -> None:
    rows = [example(4, curated=True), example(6, curated=True, answer=None)]
    examples = {"train": TRAIN, "test": rows}
    responses = {split: [one for row in found for one in samples(row)] for split, found in examples.items()}
    write_dataset(tmp_path / "dataset", examples, responses, manifest())
    found = load(find("sure_math"), tmp_path / "dataset")
    assert [(item.id, item.text, item.answer) for item in found.items] == [
        (rows[0].id, rows[0].problem, rows[0].answer)
    ]


def test_local_copies_are_found_by_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "amc23.jsonl", [ROWS["amc2023"][0]])
    assert local_copy(find("amc2023"), tmp_path) == path
    assert local_copy(find("gsm8k"), tmp_path) is None


def test_the_hub_is_read_at_the_pinned_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def rows(split: Any, revision: str, columns: Sequence[str]) -> Any:
        asked.append((split.hub_id, revision))
        return iter([ROWS["aime2024"][0]])

    monkeypatch.setattr(base, "hub_rows", rows)
    found = load(find("aime2024"))
    data = find("aime2024").data
    assert isinstance(data, HubData)
    assert asked == [(part.hub_id, part.revision) for part in data.parts] and len(found.items) == 2
    assert found.digest == ",".join(f"{part.hub_id}@{part.revision}" for part in data.parts)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="unknown benchmark 'aime': choose of aime2024"):
        find("aime")
    with pytest.raises(UserError, match="unknown protocol 'avg3'"):
        find_protocol("avg3")


def test_the_protocols_are_those_of_the_papers() -> None:
    found = {
        one.name: (
            one.samples,
            one.temperature,
            one.top_p,
            one.top_k,
            one.max_tokens,
            one.thinking,
            len(one.seeds),
        )
        for one in PROTOCOLS.values()
    }
    assert found == {
        "pass1_greedy": (1, 0.0, 1.0, 0, 8192, False, 1),
        "avg16": (16, 1.2, 0.95, 0, 8192, False, 1),
        "avg12": (12, 1.0, 0.95, 0, 38_912, True, 3),
        "avg8": (8, 1.0, 0.8, 0, 8192, False, 1),
        "passk": (128, 1.0, 0.8, 0, 8192, False, 1),
    }


# --- as a source -------------------------------------------------------------------------------------------------


def test_a_benchmark_is_a_source_for_decontamination(tmp_path: Path) -> None:
    rows = [dict(ROWS["olympiadbench"][0]), dict(ROWS["olympiadbench"][0]) | {"final_answer": None, "id": 2}]
    path = write(tmp_path / "x.jsonl", [*rows, rows[0] | {"language": "Chinese", "id": 3}])
    source = BenchmarkSource(name="olympiadbench", path=path)
    check(source)
    found = load_source(source)
    first, second, reject = found.outcomes
    assert isinstance(first, Problem) and isinstance(second, Problem) and isinstance(reject, Reject)
    assert first.id == problem_id(source="olympiadbench", origin="1", strategy="", text=first.text)
    assert first.benchmark_root and second.answer is None and reject.reason is Reason.OTHER_LANGUAGE
    assert source_digest(source).startswith("sha256:") and not source.is_remote
    assert BenchmarkSource(name="gsm8k").is_remote and BenchmarkSource(name="gsm8k").declared == (
        "easy",
        1319,
    )
    with pytest.raises(ValueError, match="unknown benchmark 'x'"):
        BenchmarkSource(name="x")


# --- complete files ----------------------------------------------------------------------------------------------


def copies() -> list[tuple[Benchmark, Path]]:
    folder = Path(COPIES) if COPIES else None
    return [(one, path) for one in all_benchmarks().values() if folder and (path := local_copy(one, folder))]


@pytest.mark.skipif(not COPIES, reason="SURE_MATH_BENCHMARKS names no folder of local copies")
@pytest.mark.parametrize(("benchmark", "path"), copies(), ids=lambda value: getattr(value, "name", ""))
def test_gold_against_gold_is_right_for_every_problem(benchmark: Benchmark, path: Path) -> None:
    items = load(benchmark, path, shots=0).items
    assert benchmark.problems in (None, len(items))
    wrong = [item.id for item in items if not grade(f"Thus \\boxed{{{item.answer}}}.", item.answer or "")]
    assert wrong == []


def test_words_of_a_part() -> None:
    assert Part(hub_id="a/b", split="test", config="main").words == ("main", "test")
