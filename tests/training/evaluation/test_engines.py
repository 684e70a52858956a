"""A real engine and a real server of the same model give the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT, ModelRole, Serve
from tasks.evaluate_settings import EvaluateSettings
from tasks.llm.servers import serving
from tasks.storage.tables import read_rows
from training.evaluation.harness import evaluate
from training.evaluation.results import SampleRow


def rows(out: Path, **settings: object) -> list[SampleRow]:
    given = {
        "benchmarks": ["pocket"],
        "limit": 40,
        "kv_cache_gib": 1,
        "max_num_seqs": 16,
        "out": out,
        **settings,
    }
    (found,) = evaluate(EvaluateSettings.model_validate(given), print)
    return read_rows(found.folder / "samples.parquet", SampleRow)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_endpoint_gives_the_same_greedy_answers_as_the_engine(tmp_path: Path) -> None:
    own = rows(tmp_path / "own", model="pocket/student")
    serve = Serve(kv_cache_gib=1, max_num_seqs=16, health_timeout_s=400.0)
    role = ModelRole(model="pocket/student", dtype="float32", max_model_len=1024, serve=serve)
    with serving(role, root=PROJECT_ROOT, log=tmp_path / "server.log") as server:
        other = rows(tmp_path / "other", model=server.model_name, base_url=server.base_urls[0])
    assert [row.text for row in own] == [row.text for row in other] and len(own) == 40
    assert [(row.answer, row.tokens) for row in own] == [(row.answer, row.tokens) for row in other]
    assert all(row.finish_reason == "stop" and row.prompt_tokens for row in (*own, *other))
