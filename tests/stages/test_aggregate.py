"""Aggregation of all sources: counts by reason, benchmark texts marked in every source, and early errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Problem, Reason, Reject, Role, Tier
from tasks.runtime.driver import Run
from tasks.seeds.intake import account, counts, curated_first, duplicates, flagged, too_long
from tasks.seeds.kinds import Loaded
from tasks.seeds.registry import resolve
from tasks.stages.aggregate import aggregate, aggregate_stage
from tasks.stages.opening import check_sources
from tasks.storage.artifacts import Artifact, Store


def problem(text: str, source: str = "s", benchmark: bool = False) -> Problem:
    return Problem(
        id=f"{source}/{text}", text=text, tier=Tier.EASY, source=source, source_id=text, licence="l", role=Role.SEED,
        root_id=f"{source}/{text}", benchmark_root=benchmark,
    )  # fmt: skip


def reject(reason: Reason = Reason.PROOF) -> Reject:
    return Reject(problem_id="r", stage="aggregate", reason=reason)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_text_that_is_a_benchmark_problem_in_one_source_is_one_in_all() -> None:
    rows = [
        problem("Find  X.", "numina"),
        reject(),
        problem("Other", "numina"),
        problem("find x.", "math", True),
    ]
    marked = flagged(rows)
    assert [isinstance(row, Problem) and row.benchmark_root for row in marked] == [True, False, False, True]
    assert [getattr(row, "id", None) for row in marked] == [getattr(row, "id", None) for row in rows]
    assert flagged(rows[:3]) == rows[:3]


def test_sources_that_are_not_evaluated_mark_neither_their_rows_nor_copies() -> None:
    rows = [
        problem("Find x.", "omni", True),
        problem("find x.", "other"),
        problem("Find y.", "omni", True),
        problem("find  y.", "contest", True),
    ]

    def marks(*not_evaluated: str) -> list[bool]:
        found = flagged(rows, not_evaluated)
        return [isinstance(row, Problem) and row.benchmark_root for row in found]

    assert marks() == [True, True, True, True]
    assert marks("omni") == [False, False, True, True]
    assert marks("omni", "contest") == [False] * 4


def test_the_sources_that_are_not_evaluated_are_part_of_the_identity_of_the_seeds() -> None:
    plain = resolve(load_config("pocket"))
    changed = resolve(load_config("pocket", {"decontam.not_evaluated": ["pocket"]}))
    assert aggregate_stage(plain).fingerprint != aggregate_stage(changed).fingerprint


def test_the_first_of_equal_texts_is_kept_and_rejects_are_skipped() -> None:
    rows = [problem("a", "one"), reject(), problem(" A ", "two"), problem("b", "two")]
    assert list(duplicates(rows)) == [2]
    assert duplicates(rows)[2].detail == "same text as one/a (one a)"
    assert list(too_long([reject(), problem("x" * 8_001), problem("x" * 8_000)])) == [1]


def test_the_account_of_a_source_reports_the_shortfall_and_the_reasons() -> None:
    outcomes = (problem("a"), reject(), reject(), reject(Reason.NO_ANSWER))
    found = Loaded(outcomes=outcomes, seen=1_000, target=3)
    assert counts("s", found) == {
        "source": "s", "seen": 1_000, "problems": 1, "target": 3, "dropped": {"no_answer": 1, "proof": 2},
    }  # fmt: skip
    assert account("s", found) == (
        "s: 1,000 rows read, 1 problem, 2 fewer than its target of 3; rejected: 1 no answer, 2 proof"
    )
    assert (
        account("s", Loaded(outcomes=(problem("a"),), seen=1)) == "s: 1 row read, 1 problem; rejected: none"
    )


def configured(*sources: dict[str, Any], **overrides: Any) -> Any:
    return resolve(load_config("pocket", {"aggregate.sources": list(sources), **overrides}))


def test_an_unreachable_source_is_reported_before_any_model_starts() -> (
    None
):  # the tests run with HF_HUB_OFFLINE=1
    config = configured({"kind": "omni_math"}, **{"aggregate.test_problems": 0})
    with pytest.raises(UserError, match=r"Source omni_math: KbsdJames/Omni-MATH cannot be reached.*`path`"):
        check_sources(config)
    with pytest.raises(UserError, match="Source omni_math"):
        aggregate_stage(config)


def test_a_pinned_source_is_identified_without_the_hub() -> None:
    pinned = {"kind": "omni_math", "revisions": {"KbsdJames/Omni-MATH": "a" * 40}}
    stage = aggregate_stage(configured(pinned))
    assert stage.data["sources"] == {"omni_math": f"KbsdJames/Omni-MATH@{'a' * 40}"}


def test_curated_problems_without_an_answer_are_not_counted(tmp_path: Path) -> None:
    rows = [{"problem": "A?", "answer": "1"}, {"problem": "B?", "answer": ""}]
    source = {
        "kind": "hub", "name": "mine", "role": "curated", "tier": "easy", "path": str(lines(tmp_path / "x.jsonl", rows)),
        "parts": [{"hub_id": "a/b", "split": "train"}],
    }  # fmt: skip
    check_sources(configured(source, **{"aggregate.test_problems": 1}))
    with pytest.raises(UserError, match="test_problems is 2, but the curated sources have only 1"):
        check_sources(configured(source, **{"aggregate.test_problems": 2}))


def test_curated_sources_come_first() -> None:
    config = configured(
        {"kind": "pocket"}, {"kind": "pocket", "name": "c", "role": "curated"}, {"kind": "amo_bench"}
    )
    assert [source.name for source in curated_first(config.aggregate)] == ["c", "pocket", "amo_bench"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_stage_reconciles_over_sources_shards_and_reasons(tmp_path: Path) -> None:
    numina = [
        {"source": "cn_k12", "problem": f"Find $x$ if $x+{n}=9$.", "solution": "\\boxed{1}"} for n in range(5)
    ] + [{"source": "olympiads", "problem": "Prove that $1=1$.", "solution": "Clear."}]
    omni = [
        {
            "problem": "find $X$ if $x+3=9$.",
            "answer": "6",
            "solution": "s",
        },  # also in the other source
        {"problem": "Find $y$.", "answer": "", "solution": "s"},
    ]
    config = configured(
        {"kind": "numina_math_cot", "path": str(lines(tmp_path / "numina.jsonl", numina)), "target": 7},
        {"kind": "omni_math", "path": str(lines(tmp_path / "omni.jsonl", omni))},
        **{"run.shard_rows": 3, "aggregate.test_problems": 0},
    )
    run = Run(config=config, store=Store(tmp_path / "out"), identities={})

    @flow
    def build() -> Artifact:
        return aggregate(run)

    artifact = build()
    record = run.store.record(artifact)
    assert record["counts"] == {
        "in": 8, "kept": 5, "rejected": {"exact_duplicate": 1, "no_answer": 1, "proof": 1},
    }  # fmt: skip
    rows = list(run.store.rows(artifact, "problems", Problem))
    assert [row.text for row in rows if row.benchmark_root] == ["Find $x$ if $x+3=9$."]
    shard = run.store.finished_shard(artifact.path, 0) or {}
    assert shard["notes"]["sources"] == [
        {"source": "numina_math_cot", "seen": 6, "problems": 5, "target": 7, "dropped": {"proof": 1}},
        {"source": "omni_math", "seen": 2, "problems": 1, "target": 4400, "dropped": {"no_answer": 1}},
    ]
    assert build().fingerprint == artifact.fingerprint
