"""The chain with real engines: one `prefect deployment run` of a build ends in a distilled, evaluated student and candidates."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.config import PROJECT_ROOT
from tasks.rows import Tier
from tasks.storage.lineage import Kind, outline, products
from tests.reports.page import Page
from tests.small_build import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3000)]

PROJECT_FILES = (
    "CITATION.cff", "configs", "data_cards", "flows", "pocket", "prefect.yaml", "prompts", "scripts", "speed", "tasks",
    "training",
)  # fmt: skip
OVERRIDES = {
    **{name: value for name, value in SMALL.items() if name != "distill"},
    "distill.held_out": [
        {"kind": "pocket", "name": "held-out", "role": "curated", "seed": 4, "counts": dict.fromkeys(Tier, 1)}
    ],
    "distill.run.batches": {"size": 8, "total_prompts": 8},
    "distill.run.lengths": {"max_prompt_tokens": 384, "max_response_tokens": 128},
    "evaluate.limit": 4,
    "evaluate.max_tokens": 128,
}
CHAIN = ["sure-math", "sure-math-candidate", "sure-math-candidate", "sure-math-distill", "sure-math-evaluate"]
"""The flows that must have run, in order of their names."""


@contextmanager
def user_interface(root: Path) -> Iterator[dict[str, str]]:
    """Run `make ui` of a copy of the project; yield the environment of `make shell`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(root)}
    server = subprocess.Popen(
        [sys.executable, "scripts/build.py", "ui"], cwd=root, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        output = list[str]()
        for line in server.stdout:
            output.append(line)
            if "the Prefect UI is at" in line:
                break
        address = re.search(r"the Prefect UI is at (http:[\w.:/]+)", output[-1])
        assert address is not None, "".join(output)[-3000:]
        secret = (root / ".prefect/auth-string").read_text(encoding="ascii")
        yield {
            **environment, "PREFECT_API_URL": f"{address[1]}/api", "PREFECT_API_AUTH_STRING": secret,
            "PREFECT_HOME": str(root / ".prefect"), "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        }  # fmt: skip
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(120)


@contextmanager
def client_of(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    wanted: dict[Any, str] = {
        PREFECT_API_URL: environment["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: environment["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(wanted), get_client(sync_client=True) as client:
        yield client


def finished_runs(client: SyncPrefectClient, root: Path) -> list[FlowRun]:
    """Wait until as many runs as the chain has are in a final state; one that is not Completed ends the wait."""
    while True:
        runs = client.read_flow_runs()
        final = [run for run in runs if run.state is not None and run.state.is_final()]
        bad = [run for run in final if run.state is not None and not run.state.is_completed()]
        logs = "".join(
            path.read_text(errors="replace")[-6000:] for path in (root / "output/logs").glob("ui-*")
        )
        assert not bad, f"{bad[0].name}: {bad[0].state}\n{logs}"
        if len(final) >= len(CHAIN):
            return final
        time.sleep(2.0)


def names_of(client: SyncPrefectClient, runs: list[FlowRun]) -> list[str]:
    return sorted(client.read_flow(run.flow_id).name for run in runs)


def test_one_run_of_the_build_ends_in_a_release_candidate(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    for name in PROJECT_FILES:
        source = PROJECT_ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, root / name)
    plan = (root / "prefect.yaml").read_text(encoding="utf-8")
    assert plan.count("&chain false") == 1
    (root / "prefect.yaml").write_text(plan.replace("&chain false", "&chain true"), encoding="utf-8")
    with user_interface(root) as environment:
        command = [
            "prefect",
            "deployment",
            "run",
            "sure-math/build",
            "-p",
            f"overrides={json.dumps(OVERRIDES)}",
        ]
        subprocess.run([sys.executable, "-m", *command], env=environment, cwd=root, check=True)
        with client_of(environment) as client:
            runs = finished_runs(client, root)
            assert names_of(client, runs) == CHAIN
            artifacts = [
                (str(one.flow_run_id), one) for one in client.read_artifacts() if one.key == "lineage"
            ]
        assert {run for run, _ in artifacts} == {str(run.id) for run in runs}
    check_products(root / "output/pocket", {str(run.id): run for run in runs}, dict(artifacts))


def check_products(output: Path, runs: dict[str, FlowRun], artifacts: dict[str, Any]) -> None:
    """The lineage goes from the seeds to both candidates, each made by its run, and nothing was sent."""
    known = products(output)
    kinds = [one.kind for one in known.values()]
    assert kinds == [Kind.SEEDS, Kind.DATASET, Kind.STUDENT, Kind.EVALUATION, Kind.RELEASE, Kind.RELEASE]
    by_kind = {kind: [one for one in known.values() if one.kind is kind] for kind in Kind}
    (seeds,), (dataset,), (student,), (evaluation,) = (by_kind[kind] for kind in list(Kind)[:4])
    assert dataset.made_from == (seeds.key,) and student.made_from == (dataset.key,)
    assert evaluation.made_from == (student.key,)
    candidates = {one.name: one for one in by_kind[Kind.RELEASE]}
    assert candidates["dataset"].made_from == (dataset.key,)
    assert candidates["model"].made_from == (student.key, evaluation.key)
    assert all(one.facts["state"] == "not sent" for one in candidates.values())
    assert [depth for depth, _ in outline(known)] == [0, 1, 2, 3, 4, 2]
    assert {one.maker.run_id for one in known.values()} == runs.keys()
    last = artifacts[candidates["model"].maker.run_id].data
    assert all(one.short in last for one in known.values() if one is not candidates["dataset"])
    page = Page((output / "report.html").read_text(encoding="utf-8"))
    assert all(one.short in page.words for one in known.values()) and page.broken == []
    assert (output / "release/candidate/dataset/croissant.json").is_file()
    card = (output / "release/candidate/model/README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert evaluation.facts["benchmark"] not in card  # a part of its problems is no result of the benchmark
