"""The exported row has what is known of its problem."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from tasks.rows import Flag, Problem, Role, Strategy, Tier
from tasks.storage.examples import Annotated, examples_by_split
from tests.storage.test_dataset import example, samples
from tests.storage.test_tables import UNCERTAIN


def test_a_solution_is_exported_where_the_source_has_one() -> None:
    curated = Problem(
        id="c", text="What is 1 + 1?", tier=Tier.EASY, source="s", source_id="1", licence="mit", role=Role.CURATED, root_id="c",
        answer="2", solution="One and one are \\boxed{2}.",
    )  # fmt: skip
    seed = replace(curated, id="s", root_id="s", role=Role.SEED)
    evolved = replace(
        curated, id="e", role=Role.EVOLVED, root_id="s", parent_id="s", round=1, strategy=Strategy.HARDER, answer=None,
        solution=None,
    )  # fmt: skip
    ids = ("c", "e")
    recipe = SimpleNamespace(sampling="f", fingerprint=lambda judged: f"judged {judged}")
    rows = Annotated(
        problems=[curated, evolved],
        splits={"c": "test", "e": "train"},
        ancestors={"s": seed},
        verdicts={},
        responses={name: samples(example(1)) for name in ids},
        uncertainties={name: replace(UNCERTAIN, problem_id=name) for name in ids},
        flags={name: Flag(problem_id=name, benchmark_overlap=False, benchmarks=(), kinds=()) for name in ids},
        recipe=cast("Any", recipe),
    )
    found, _ = examples_by_split(rows)
    assert [row.solution for row in found["test"]] == ["One and one are \\boxed{2}."]
    assert [row.solution for row in found["train"]] == [None]
