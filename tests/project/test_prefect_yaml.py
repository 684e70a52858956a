"""Every deployment of prefect.yaml names a flow that loads and accepts its parameters."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from tasks.config import profiles

ROOT = Path(__file__).resolve().parents[2]
PLAN: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = PLAN["deployments"]
ENTRYPOINTS = sorted({deployment["entrypoint"] for deployment in DEPLOYMENTS})


def imported_flow(entrypoint: str) -> Flow[..., Any]:
    """Import the flow from its file, without Prefect's placeholder for failed imports."""
    file, name = entrypoint.split(":")
    spec = importlib.util.spec_from_file_location(f"entrypoint_{Path(file).stem}", ROOT / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_the_entrypoint_imports_to_a_flow(entrypoint: str) -> None:
    assert isinstance(imported_flow(entrypoint), Flow)


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_prefect_loads_the_flow_with_flows_first_on_the_path(
    entrypoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "flows")
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert flow.name == imported_flow(entrypoint).name
    assert list(inspect.signature(flow.fn).parameters) == list(
        inspect.signature(imported_flow(entrypoint).fn).parameters
    )


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_passes_only_parameters_of_its_flow(deployment: dict[str, Any]) -> None:
    flow = imported_flow(deployment["entrypoint"])
    known = inspect.signature(flow.fn).parameters
    assert set(deployment.get("parameters", {})) <= set(known)
    assert deployment.get("parameters", {}).get("profile", "pocket") in profiles()
    assert deployment["work_pool"]["name"] == "sure-math"


def test_deployments_are_named_after_what_they_do_and_tagged() -> None:
    names = {f"{imported_flow(d['entrypoint']).name}/{d['name']}" for d in DEPLOYMENTS}
    assert names == {
        "sure-math/build", "sure-math/plan", "sure-math-distill/uopd", "sure-math-validate/truth",
        "sure-math-evaluate/benchmarks", "sure-math-reannotate/stale", "sure-math-annotate/file",
        "sure-math-release/dataset", "sure-math-release/model", "sure-math-experiment/cells",
    }  # fmt: skip
    assert all(d["tags"] for d in DEPLOYMENTS)


def test_deployments_have_distinct_names_and_no_machine_path() -> None:
    names = [(deployment["entrypoint"], deployment["name"]) for deployment in DEPLOYMENTS]
    assert len(set(names)) == len(names)
    (step,) = PLAN["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $PWD }}"}}


def test_every_flow_file_has_a_deployment() -> None:
    files = {
        f"flows/{path.name}"
        for path in (ROOT / "flows").glob("*.py")
        if path.name != "__init__.py" and "@flow(" in path.read_text(encoding="utf-8")
    }
    assert files == {entrypoint.split(":")[0] for entrypoint in ENTRYPOINTS}


def test_the_weekly_reannotation_has_an_inactive_schedule() -> None:
    (weekly,) = (d for d in DEPLOYMENTS if d["name"] == "stale")
    assert imported_flow(weekly["entrypoint"]).name == "sure-math-reannotate"
    assert weekly["schedules"] == [{"cron": "0 4 * * 1", "timezone": "UTC", "active": False}]
    assert all("schedules" not in d for d in DEPLOYMENTS if d is not weekly)
