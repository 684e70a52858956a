"""Which concurrency limits a run occupies, and how many slots of each."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from tasks.config import load_config
from tasks.runtime.limits import addresses, node_limit, server_limit, wanted_slots

AT = {"serve": None, "base_url": "https://Models.example/v1", "concurrency": 8}
BESIDE = {"serve": None, "base_url": "http://10.0.0.7:8000/v1", "concurrency": 16}
ROLES = ("evolver", "quality_judge", "teacher", "equivalence_judge")


def test_limits_are_named_after_machine_and_server() -> None:
    assert node_limit("GPU_01.Example") == "sure-math-node-gpu-01.example"
    assert node_limit().startswith("sure-math-node-") and platform.node().lower()[:3] in node_limit()
    assert server_limit("http://10.0.0.7:8000/v1") == "sure-math-server-10.0.0.7-8000"
    assert server_limit("https://[::1]/v1") == "sure-math-server-1-443"
    assert addresses(None) == () and addresses("a") == ("a",) and addresses(("a", "b")) == ("a", "b")


@pytest.mark.parametrize(("overrides", "work", "expected"), [
    ({}, "build", {"NODE": 1}),
    ({}, "distill", {"NODE": 1}),
    ({"distill.ray_address": "http://head:8265"}, "distill", {}),
    ({"evaluate.base_url": "http://10.0.0.7:8000/v1"}, "evaluate", {"sure-math-server-10.0.0.7-8000": 64}),
    ({}, "evaluate", {"NODE": 1}),
    ({"models.teacher": AT}, "annotate", {"NODE": 1, "sure-math-server-models.example-443": 8}),
    ({f"models.{role}": AT for role in ROLES}, "annotate", {"sure-math-server-models.example-443": 8}),
    ({f"models.{role}": AT for role in ROLES}, "build", {"NODE": 1, "sure-math-server-models.example-443": 8}),
    ({**{f"models.{role}": AT for role in ROLES}, "models.evolver": BESIDE, "distill.in_build": False}, "build",
     {"sure-math-server-10.0.0.7-8000": 16, "sure-math-server-models.example-443": 8}),
    ({f"models.{role}": {**AT, "concurrency": 4 * place + 4} for place, role in enumerate(ROLES)}, "reannotate",
     {"sure-math-server-models.example-443": 16}),
])  # fmt: skip
def test_a_run_occupies_its_machine_and_its_servers(
    overrides: dict[str, Any], work: Any, expected: dict[str, int]
) -> None:
    named = {node_limit() if name == "NODE" else name: slots for name, slots in expected.items()}
    assert wanted_slots(load_config("pocket", overrides), work) == named
