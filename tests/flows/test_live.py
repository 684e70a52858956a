"""A tiny build with scripted models: what the Prefect UI shows while it works, and two model servers instead of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.context import FlowRunContext

from flows.build import build
from speed import kills
from tasks.config import PROJECT_ROOT
from tasks.llm.ledger import Ledger
from tasks.runtime import progress
from tasks.runtime.live import Live
from tasks.storage.artifacts import digest
from tasks.storage.manifest import Manifest, read_manifest
from tests.small_build import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CANDIDATES = 40
KEYS = ("funnel", "strategies", "judge", "cost")
PRICES = {"prompt": 1.0, "output": 1000.0}


def artifacts(key: str, flow_run: str) -> list[Artifact]:
    """The artifacts of a flow run with this key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [one for one in found if str(one.flow_run_id) == flow_run]


def table(artifact: Artifact) -> list[dict[str, Any]]:
    return json.loads(str(artifact.data))


@dataclass
class Watched:
    """A build, and the funnel that the UI showed after each of its shards."""

    output: Path
    flow_run: str = ""
    funnels: list[list[dict[str, Any]]] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.output / "dataset")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> kills.Place:
    root = tmp_path_factory.mktemp("live")
    (root / "project").symlink_to(PROJECT_ROOT)
    return kills.prepared(root, "pocket", "question", CANDIDATES)


def built(place: kills.Place, name: str, servers: int) -> Path:
    """Build with so many model servers, and return the output folder."""
    output = place.root / name
    with ExitStack() as stack:
        urls = [
            stack.enter_context(kills.model_server(place, place.root / f"{name}-{number}"))
            for number in range(servers)
        ]
        settings = kills.settings(place, output, urls[0], CANDIDATES)
        for role in ("evolver", "quality_judge", "teacher", "equivalence_judge"):
            settings[f"models.{role}"] = {**settings[f"models.{role}"], "base_url": urls, "concurrency": 4}
        settings["models.quality_judge.prices"] = PRICES
        build("pocket", settings)
    return output


@pytest.fixture(scope="module")
def watched(place: kills.Place, prefect_server: str) -> Iterator[Watched]:
    """A build with two servers, watched after each shard."""
    found, after = Watched(output=place.root / "two"), Live.show

    def show(live: Live, run: Any, *, last: bool = False) -> None:
        after(live, run, last=last)
        context = FlowRunContext.get()
        if last and context is not None and context.flow_run is not None:
            found.flow_run = str(context.flow_run.id)
            found.funnels += [table(one) for one in artifacts("funnel", found.flow_run)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "TABLE_SECONDS", 0.0)
        patch.setattr(Live, "show", show)
        built(place, "two", servers=2)
    yield found


def test_the_funnel_is_one_artifact_that_grows_with_the_stages(watched: Watched) -> None:
    assert all(len(artifacts(key, watched.flow_run)) == 1 for key in KEYS)
    sizes = [len(funnel) for funnel in watched.funnels]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == len(STAGES)
    at_work = [row["state"] for funnel in watched.funnels for row in funnel if row["state"] != "done"]
    assert all(" of " in state for state in at_work)


def test_the_last_tables_agree_with_the_manifest(watched: Watched) -> None:
    funnel, strategies, judge, _ = (table(artifacts(key, watched.flow_run)[0]) for key in KEYS)
    manifest = watched.manifest
    assert [(row["stage"], row["in"], row["kept"], row["rejected"]) for row in funnel] == [
        (one.stage, one.rows_in, one.kept, one.dropped) for one in manifest.stages
    ]
    assert {row["state"] for row in funnel} == {"done"}
    evolved = Counter[str]()
    for count in manifest.evolution:
        evolved.update({name: number for name, number in count.problems.items() if number})
    assert {row["strategy"]: int(row["evolved"]) for row in strategies} == dict(evolved)
    counts = {one.stage: one for one in manifest.stages}
    for stage in ("rules", "deduplicate", "judge"):
        assert sum(int(row[f"kept by {stage}"]) for row in strategies) == counts[stage].kept
    rejected = {row["reason"]: int(row["rejected for it"]) for row in judge if row["rejected for it"] != "0"}
    assert rejected == dict(counts["judge"].reasons)


def test_the_tokens_by_role_agree_with_the_ledger(watched: Watched) -> None:
    rows = table(artifacts("cost", watched.flow_run)[0])
    with Ledger(watched.output / "ledger.sqlite") as ledger:
        spent = ledger.spent()
    own = [row for row in rows if ", this run" in row["what"]]
    assert [row["what"].split(",")[0] for row in own][:3] == ["evolver", "quality judge", "teacher"]
    for column, number in (
        ("requests", lambda one: one.requests),
        ("prompt tokens", lambda one: one.prompt_tokens),
        ("output tokens", lambda one: one.completion_tokens),
    ):
        assert sum(int(row[column].replace(",", "")) for row in own) == sum(map(number, spent.values()))
    judge = own[1]
    tokens = {name: int(judge[f"{name} tokens"].replace(",", "")) for name in PRICES}
    expected = sum(tokens[name] * PRICES[name] for name in PRICES) / 1e6
    assert judge["cost"] == judge["projected cost"] == f"{expected:,.2f}"
    assert all(row["cost"] == "" for row in own if row is not judge)


def test_one_server_gives_the_same_dataset(watched: Watched, place: kills.Place) -> None:
    one = built(place, "one", servers=1)
    assert digest(one / "dataset") == digest(watched.output / "dataset")
    asked = [kills.requests_in(place.root / f"two-{number}") for number in range(2)]
    whole = Counter(kills.requests_in(place.root / "one-0"))
    assert all(len(part) > sum(whole.values()) / 10 for part in asked)
    assert Counter(asked[0] + asked[1]) == whole, "every request was sent once, to one of the servers"
