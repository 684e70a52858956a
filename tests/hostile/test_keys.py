"""Builds with good and malformed keys: no key is found in the terminal, in Prefect, or in any file of the build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from tasks.config import PROJECT_ROOT
from tasks.rows import Tier
from tests.hostile.trials import Trials

GOOD = ("sk-good-a51b2c3d", "sk-line-a51b2c3d\r\n", " \tsk-blank-a51b2c3d ")
MALFORMED = (
    "sk-inner\na51b2c3d", "sk-header\r\nX-Evil: a51b2c3d", "sk-inner a51b2c3d", "sk-tab\ta51b2c3d", "sk-accént-a51b2c3d",
    "sk-delete\x7fa51b2c3d", "sk-zero\u200bwidth-a51b2c3d",
)  # fmt: skip
PASSWORD = "sk-password-a51b2c3d"
MARK = b"a51b2c3d"
"""In every key."""

# One process for all builds, as the imports take longest. A build that is refused prints its traceback.
BUILDS = """
import json, os, sys, traceback
from flows.build import build
for name, key, overrides in json.loads(sys.stdin.read()):
    os.environ["TEAM_API_KEY"] = os.environ["HF_TOKEN"] = key
    try:
        print("ended", name, build("pocket", overrides), flush=True)
    except Exception as error:
        traceback.print_exc()
        print("refused", name, error, flush=True)
"""


@contextmanager
def models(folder: Path) -> Iterator[str]:
    """Serve all roles by the scripted server of speed/kills.py; yield its address."""
    thing = ("apples", "books", "coins", "stamps", "bricks", "cards")
    texts = [
        f"A box holds {n} {one} and a bag holds {n + 3} of them. How many {one} do {n} boxes and {n + 1} bags hold in all?"
        for n in range(2, 20)
        for one in thing
    ]
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8"
    )
    command = [
        sys.executable,
        "speed/steady_server.py",
        str(folder / "texts.jsonl"),
        "text",
        str(folder / "received"),
    ]
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.stdin.close()


def overrides(url: str | None, output: Path) -> dict[str, object]:
    """Overrides of the profile pocket for a small build; without `url` the models are at OPENAI_BASE_URL."""
    role = {"model": "scripted", "base_url": url, "serve": None, "api_key_env": "TEAM_API_KEY"}
    return {
        **{f"models.{name}": role for name in ("evolver", "quality_judge", "teacher", "equivalence_judge")},
        "models.teacher.model": "pocket/teacher", "cluster.judge": "never",
        "run.output": str(output), "run.cpu_workers": 1, "aggregate.test_problems": 0,
        "aggregate.sources": [{"kind": "pocket", "name": "pocket", "seed": 0, "counts": dict.fromkeys(Tier, 4)}],
        "evolve.branches": dict.fromkeys(Tier, 1), "evolve.rounds": dict.fromkeys(Tier, 1), "decontam.benchmarks": [],
        "select.target": 8, "sample.num_samples": 2, "distill": None,
    }  # fmt: skip


def files_with_a_key(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and MARK in file.read_bytes()]


@pytest.mark.slow
def test_no_key_of_a_build_is_found_anywhere(trials: Trials, prefect_server: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with models(tmp_path) as url:
        keys = [*GOOD, *MALFORMED]
        builds = [
            (f"key-{number}", key, overrides(url, output / str(number))) for number, key in enumerate(keys)
        ]
        builds.append(("address", GOOD[0], overrides(None, output / "address")))
        environment = os.environ | {
            "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(PROJECT_ROOT),
            "OPENAI_BASE_URL": url.replace("http://", f"http://team:{PASSWORD}@"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-P", "-c", BUILDS], input=json.dumps(builds), cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    (output / "terminal").write_text(done.stdout, encoding="utf-8")
    states = {
        words[1]: words[0] for line in done.stdout.splitlines() if len(words := line.split(" ", 2)) == 3
    }
    assert {name: states.get(name) for name, _, _ in builds} == {
        name: "ended" if name in ("key-0", "key-1", "key-2") else "refused" for name, _, _ in builds
    }, done.stdout[-4000:]
    assert (
        "the key in TEAM_API_KEY has a blank or" in done.stdout
        and "has a user name, a password" in done.stdout
    )
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition(":///")[2].partition("?")[0])
    assert (
        database.is_file()
        and (output / "0" / "ledger.sqlite").is_file()
        and (output / "0" / "report.html").is_file()
    )
    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs(limit=200) if str(output) in json.dumps(run.parameters)]
        logs = client.read_logs(limit=200)
    assert len(runs) == len(builds) and logs
    shown = [run.name for run in runs if MARK.decode() in run.model_dump_json()]
    found = [*files_with_a_key(output), *files_with_a_key(database.parent), *shown]
    trials.add("keys of builds", len(builds), found)
