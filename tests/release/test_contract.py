"""A dataset that satisfies the contract passes; every clause is broken by a planted violation, and the rows are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.release.contract import CLAUSES, Built, check, read_built
from tasks.release.texts import findings
from tasks.rows import Role
from tests.release.small_release import write_small

FAKE_KEY = "hf_" + "a1B2" * 9
HERE = "/" + "home/ada/x.txt"
ENVIRONMENT_KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return read_built(write_small(tmp_path_factory.mktemp("contract") / "dataset"))


def name(number: int) -> str:
    return f"{number:032x}"


def problem(number: int, **changes: object) -> Callable[[Built], Built]:
    def change(built: Built) -> Built:
        return replace(
            built,
            problems=tuple(
                replace(one, row=replace(one.row, **changes)) if one.row.id == name(number) else one
                for one in built.problems
            ),
        )

    return change


def response(number: int, index: int, /, **changes: object) -> Callable[[Built], Built]:
    def change(built: Built) -> Built:
        return replace(
            built,
            responses={
                split: tuple(
                    replace(row, **changes) if (row.problem_id, row.index) == (name(number), index) else row
                    for row in rows
                )
                for split, rows in built.responses.items()
            },
        )

    return change


def twice(built: Built) -> Built:
    return replace(built, problems=(*built.problems, built.problems[0]))


def without_response(built: Built) -> Built:
    return replace(built, responses={**built.responses, "train": built.responses["train"][1:]})


def moved_to_data(built: Built) -> Built:
    return replace(built, problems=tuple(replace(one, folder="data") for one in built.problems))


def manifest(**changes: object) -> Callable[[Built], Built]:
    return lambda built: replace(built, manifest=replace(built.manifest, **changes))


def other_teacher(built: Built) -> Built:
    teacher = replace(built.manifest.teacher, prompt="teacher/solve@1:000000000000")
    return replace(built, manifest=replace(built.manifest, teacher=teacher))


PLANTED = [
    ("unique ids", twice, "is there 2 times"),
    ("unique ids", response(1, 1, index=0), f"response 0 of problem {name(1)}"),
    ("ranges", problem(1, weight=1.2), f"problem {name(1)} has weight 1.2"),
    ("ranges", problem(1, weight=float("nan")), f"problem {name(1)} has weight nan"),
    ("ranges", problem(3, semantic_entropy=1.5), f"problem {name(3)} has semantic_entropy 1.5"),  # above ln 4
    ("ranges", problem(1, cluster_probs=(0.5, 0.4)), "with the sum 0.9"),
    ("ranges", problem(1, cluster_labels=(0, 0, 0, 9)), "a label of no cluster"),
    ("ranges", problem(1, problem=" "), f"problem {name(1)} has no text"),
    ("ranges", response(4, 2, logprob_sum=0.5), f"response 2 of problem {name(4)}"),
    ("ranges", response(4, 2, token_count=0), f"response 2 of problem {name(4)} has 0 tokens"),
    ("responses", without_response, f"problem {name(1)} has 3 responses, and its row counts 4"),
    ("responses", response(4, 2, problem_id=name(99)), f"responses to problem {name(99)}"),
    ("counts", twice, "split test has 3 problems"),
    ("disjoint splits", problem(8, root_id=f"{1001:032x}"), f"{name(1)} (train)"),
    ("lineage", problem(1, role=Role.SEED), f"problem {name(1)} is a seed"),
    ("lineage", problem(1, round=2), f"problem {name(1)} is evolved in round 2 with 1 strategy"),
    ("lineage", problem(1, parent_id=None), "parent None"),
    ("lineage", problem(1, role=Role.CURATED), f"problem {name(1)} is curated but has a lineage"),
    ("lineage", problem(4, parent_id=name(1), round=1), f"problem {name(4)} has another root"),
    ("decontaminated", moved_to_data, f"problem {name(2)} is in config decontaminated with a flag"),
    ("decontaminated", problem(1, benchmark_root=True), f"problem {name(1)} descends from a benchmark"),
    ("decontaminated", problem(4, parent_id=name(2)), f"problem {name(4)} descends from a flagged problem"),
    ("decontaminated", problem(2, benchmark_overlap=False), f"problem {name(2)} is among the flagged ones"),
    ("licences", problem(3, licence="unknown"), f"problem {name(3)} of source exam has the licence 'unknown'"),
    ("licences", manifest(licence="mine"), "the dataset has the licence 'mine'"),
    ("secrets and paths", problem(5, problem=f"Token {FAKE_KEY}"), f"problem {name(5)} has what looks like"),
    ("secrets and paths", problem(5, extra=f'{{"k": "{ENVIRONMENT_KEY}"}}'), f"problem {name(5)} has a key"),
    ("secrets and paths", response(6, 3, text=f"see {HERE}"), f"response 3 of problem {name(6)} has"),
    ("secrets and paths", manifest(settings={"a": HERE}), "manifest.json has the machine's path"),
    ("prompt", other_teacher, "teacher/solve@1:000000000000"),
]  # fmt: skip


def test_a_whole_dataset_satisfies_the_contract(built: Built) -> None:
    check(built)
    assert len(built.problems) == 8 and {split: len(rows) for split, rows in built.responses.items()} == {
        "train": 24, "test": 8,
    }  # fmt: skip


def test_every_clause_has_a_planted_violation() -> None:
    assert {clause for clause, _, _ in PLANTED} == CLAUSES.keys()


@pytest.mark.parametrize(
    ("clause", "plant", "named"),
    PLANTED,
    ids=[f"{clause}-{number}" for number, (clause, _, _) in enumerate(PLANTED)],
)
def test_a_planted_violation_is_refused_and_its_rows_are_named(
    built: Built, clause: str, plant: Callable[[Built], Built], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", ENVIRONMENT_KEY)
    broken = list(CLAUSES[clause](plant(built)))
    assert any(named in sentence for sentence in broken)
    assert not any(FAKE_KEY in sentence or ENVIRONMENT_KEY in sentence for sentence in broken)
    with pytest.raises(UserError, match=f"contract clause '{clause}'"):
        check(plant(built))
    assert list(CLAUSES[clause](built)) == []


def test_damaged_missing_and_strange_files_are_refused_and_named(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "dataset")
    damaged, missing = (folder / f"data/{split}-00000-of-00001.parquet" for split in ("train", "test"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    missing.rename(folder / "data/old.parquet")
    with pytest.raises(UserError) as refused:
        read_built(folder)
    assert "clause 'digests'" in str(refused.value)
    for named in ("data/train-00000-of-00001.parquet differs", "data/test-00000-of-00001.parquet is missing",
                  "data/old.parquet is not in manifest.json"):  # fmt: skip
        assert named in str(refused.value)


def test_another_schema_is_refused_with_file_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_small(tmp_path / "dataset")
    path = folder / "data/train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["weight"]), path)
    monkeypatch.setattr("tasks.release.contract.wrong_digests", lambda *_: iter(()))
    monkeypatch.setattr("tasks.storage.tables.verify", lambda _: None)
    with pytest.raises(
        UserError, match=r"clause 'schema': .*train-00000-of-00001.parquet has no column 'weight'"
    ):
        read_built(folder)


def test_many_broken_rows_are_counted(built: Built) -> None:
    everywhere = replace(
        built, problems=tuple(replace(one, row=replace(one.row, weight=-1.0)) for one in built.problems)
    )
    with pytest.raises(UserError, match="and 3 more"):
        check(everywhere)


@pytest.mark.parametrize(
    "text",
    [
        "a ratio of 3/home/2",
        "$\\frac{a}{b}/root$",
        "https://x.org/home/me",
        "sk-learn",
        "hf_hub",
        "the /work done",
    ],
)
def test_ordinary_texts_are_no_findings(text: str) -> None:
    assert list(findings(text, [])) == []
