"""The stage neighbours with a scripted judge: what is flagged, what is asked, and a kill between its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prompts import load_prompt
from tasks.config import load_config
from tasks.rows import Finding, Flag, Neighbour, Problem
from tasks.runtime.driver import Run
from tasks.seeds.registry import resolve
from tasks.stages import neighbours as stage
from tasks.stages.aggregate import aggregate
from tasks.stages.benchmarks import read_benchmarks
from tasks.stages.decontaminate import decontaminate
from tasks.stages.select import select
from tasks.storage.artifacts import Artifact, Store
from tests.scripted_server import ScriptedServer, running
from tests.stages.test_decontaminate import evolved_rounds, source
from tests.storage.test_dataset import digests

EXAM = "A ladder leans against a wall. Its foot stands 7 metres away and its top reaches 24 metres high. How long is it?"
NEAR = (
    EXAM.replace("ladder", "plank").replace("wall", "tree").replace("stands", "rests").replace("top", "end")
)
CURATED = [NEAR.replace("7", str(number)).replace("24", str(number + 30)) for number in (11, 12, 13, 14)]
REPLIES = [
    json.dumps({"reason": "Both ask for the length of the ladder.", "same": True}),
    json.dumps({"reason": "Other numbers.", "same": False}),
    "I cannot tell.",
    json.dumps({"reason": "The same again.", "same": True}),
]


def question(text: str) -> str:
    return load_prompt("judge/overlap").render(first=EXAM, second=text)[-1]["content"]


def opened(folder: Path, server: ScriptedServer, judge: Mapping[str, Any] | None) -> Run:
    folder.mkdir(exist_ok=True)
    overrides = {
        "run.shard_rows": 2, "aggregate.test_problems": 0, "select.target": None,
        # the checks on the texts find none of these, so that all are asked about
        "decontam": {"checks": ["ngram"], "judge": judge},
        "aggregate.sources": [
            source(folder / "public.jsonl", ["Seven friends share 91 walnuts. How many does each one get of them?"]),
            source(folder / "curated.jsonl", CURATED, role="curated", columns={"text": "text", "answer": "answer"}),
        ],
        "decontam.benchmarks": [source(folder / "exam.jsonl", [EXAM])],
        "models.quality_judge": {"model": "scripted", "base_url": server.base_url, "serve": None},
    }  # fmt: skip
    config = resolve(load_config("pocket", overrides))
    return Run(config=config, store=Store(folder / "out"), identities={"quality_judge": "judge@1"})


@flow
def factory(run: Run) -> tuple[Artifact, Artifact | None, Artifact]:
    sources = aggregate(run)
    benchmarks = read_benchmarks(run)
    rounds = evolved_rounds(run, sources)
    selected = select(run, rounds[-1], sources)
    found = stage.judge_neighbours(run, selected, sources, rounds, benchmarks)
    return selected, found, decontaminate(run, selected, sources, rounds, benchmarks, found)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_the_judge_recognises_is_flagged_and_a_killed_stage_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = {question(text): [f"ok:{reply}"] for text, reply in zip(CURATED, REPLIES, strict=True)}
    judge = {"count": 1, "threshold": 0.3}
    with running(script) as server:
        run = opened(tmp_path / "whole", server, judge)
        selected, found, flagged = factory(run)
        assert found is not None and server.counts == dict.fromkeys(script, 1)
        texts = {row.id: row.text for row in run.store.rows(selected, "problems", Problem)}
        verdicts = {texts[one.problem_id]: one for one in run.store.rows(found, "neighbours", Neighbour)}
        assert [verdicts[text].same for text in CURATED] == [True, False, None, True]
        assert (
            verdicts[CURATED[2]].reason.startswith("malformed_reply")
            and verdicts[CURATED[2]].reply == REPLIES[2]
        )
        flags = {texts[one.problem_id]: one for one in run.store.rows(flagged, "flags", Flag)}
        assert [text for text in CURATED if flags[text].benchmark_overlap] == [CURATED[0], CURATED[3]]
        assert flags[CURATED[0]].kinds == ("judge",) and flags[CURATED[0]].benchmarks == ("exam",)
        details = {texts[one.problem_id]: one.detail for one in run.store.rows(flagged, "findings", Finding)}
        assert details == {
            CURATED[0]: "Both ask for the length of the ladder.",
            CURATED[3]: "The same again.",
        }
        assert run.store.record(flagged)["counts"] == {"in": len(texts), "kept": len(texts), "rejected": {}}

        killed, calls = opened(tmp_path / "killed", server, judge), 0
        judged = stage.judged

        def dying(*arguments: Any) -> Neighbour:
            nonlocal calls
            calls += 1
            if calls == 4:  # in the second shard
                raise KeyboardInterrupt
            return judged(*arguments)

        monkeypatch.setattr(stage, "judged", dying)
        with pytest.raises(KeyboardInterrupt):
            factory(killed)
        monkeypatch.undo()
        before = server.counts.total()
        _, again, flagged_again = factory(killed)
        assert server.counts.total() == before and before == 2 * len(CURATED)  # the ledger had all replies
        assert again is not None
        for one, other in ((found, again), (flagged, flagged_again)):
            assert tables(one.path) == tables(other.path)

        selected, nothing, _ = factory(opened(tmp_path / "off", server, None))
        assert nothing is None and server.counts.total() == before


def tables(folder: Path) -> dict[str, str]:
    """Return the digests of the tables of an artifact."""
    return {name: value for name, value in digests(folder).items() if name.endswith(".parquet")}
