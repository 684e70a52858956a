"""A real engine and a real server of the same model give the same answers, and a kill costs nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.config import PROJECT_ROOT, ModelRole, Serve
from tasks.llm.servers import serving
from tasks.storage.tables import read_rows
from training.evaluation.results import SampleRow

ARGUMENTS = (
    "--benchmarks",
    "pocket",
    "--set",
    "limit=200",
    "--set",
    "kv_cache_gib=1",
    "--set",
    "max_num_seqs=16",
)


def command(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "training.evaluate", "--out", str(out), *ARGUMENTS, *arguments]


def known(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def rows_of(out: Path) -> list[SampleRow]:
    (path,) = out.rglob("samples.parquet")
    return read_rows(path, SampleRow)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_endpoint_answers_like_the_engine_and_a_killed_evaluation_continues(tmp_path: Path) -> None:
    local = ("--model", "pocket/student")
    killed = subprocess.Popen(command(tmp_path / "out", *local), cwd=PROJECT_ROOT)
    ledger = tmp_path / "out" / "ledger.sqlite"
    while known(ledger) == 0 and killed.poll() is None:
        time.sleep(0.05)
    family = psutil.Process(killed.pid).children(recursive=True) if killed.poll() is None else []
    killed.kill()
    killed.wait()
    done = known(ledger)
    assert 0 < done < 200
    assert psutil.wait_procs(family, 20)[1] == []
    role = ModelRole(
        model="pocket/student",
        dtype="float32",
        max_model_len=1024,
        serve=Serve(kv_cache_gib=1, health_timeout_s=400.0),
    )
    again = subprocess.run(
        command(tmp_path / "out", *local), cwd=PROJECT_ROOT, check=True, capture_output=True, text=True
    )
    assert f"{done} of 200 samples are known" in again.stdout and known(ledger) == 200
    with serving(role, root=PROJECT_ROOT, log=tmp_path / "server.log") as server:
        remote = ("--model", server.model_name, "--set", f"base_url={json.dumps(server.base_url)}")
        subprocess.run(command(tmp_path / "remote", *remote), cwd=PROJECT_ROOT, check=True)
    own, other = rows_of(tmp_path / "out"), rows_of(tmp_path / "remote")
    assert [row.text for row in own] == [row.text for row in other] and len(own) == 200
    assert [row.tokens for row in own] == [row.tokens for row in other]
