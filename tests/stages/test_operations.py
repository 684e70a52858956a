"""What operators need, on a real Prefect server: reports of failures, asset events, concurrency limits, retries of trainings."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import Artifact as ArtifactOfRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.config import DistillSettings, load_config
from tasks.errors import UserError
from tasks.processes.jobs import JobFailed
from tasks.rows import Problem, Role, Tier
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.limits import node_limit
from tasks.runtime.training_job import last_checkpoint
from tasks.stages import distill
from tasks.stages.failure import check_block, report_failure
from tasks.stages.flow_runs import flow
from tasks.stages.limits import existing, within_limits
from tasks.stages.lineage import record_products
from tasks.storage.artifacts import Store
from tasks.storage.lineage import Kind, Product, products
from tests.training.small_run import small_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

PATH = "T0123456789-this-is-the-secret"


class Receiver:
    """A server that keeps what it is sent, and answers with `status`."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, json.loads(body)))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{PATH}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def problem(name: str) -> Problem:
    return Problem(
        id=name,
        text=name,
        tier=Tier.EASY,
        source="s",
        source_id=name,
        licence="l",
        role=Role.SEED,
        root_id="r",
    )


@flow(name="sure-math", what="build")
def failing(profile: str = "pocket", overrides: dict[str, Any] | None = None) -> None:
    """Fail in the second shard of the second stage, which works shard by shard."""
    config = load_config(profile, overrides)
    run = Run(config=config, store=Store(config.run.output), identities={})

    def letters(index: int, _on_progress: object) -> Shard:
        return Shard(incoming=2, tables={"problems": (Problem, [problem(f"{name}{index}") for name in "ab"])})

    def capitals(index: int, on_progress: Callable[[int], None]) -> Shard:
        if index == 1:
            raise UserError(f"the model {overrides} is gone: start it")
        return letters(index, on_progress)

    given = run_shards(run, Stage(name="letters", version=1, settings={}), lambda: (2, 2), letters)
    stage = Stage(name="capitals", version=1, settings={}, inputs=(given,), shardwise=True)
    run_shards(run, stage, lambda: (2, 2), capitals)


def artifacts(key: str) -> list[ArtifactOfRun]:
    with get_client(sync_client=True) as client:
        found = [one for one in client.read_artifacts() if one.key == key]
        return sorted(found, key=lambda one: str(one.created))


@pytest.mark.parametrize("status", [200, 500])
def test_a_failed_run_says_why_which_rows_and_how_to_continue_and_calls_the_block(
    tmp_path: Path, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("TEAM_API_KEY", "sk-0123456789abcdef")
    Webhook(url=receiver.url).save("ops", overwrite=True)  # type: ignore[arg-type]
    receiver.status = status
    overrides = {
        "run.output": str(tmp_path), "run.failure_block": "webhook/ops", "export.name": "sk-0123456789abcdef"
    }  # fmt: skip
    before = {one.id for one in artifacts("failure")}
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="is gone: start it"):
        failing("pocket", overrides)
    (path, sent), (one,) = receiver.got[-1], [one for one in artifacts("failure") if one.id not in before]
    assert path == f"/{PATH}" and len(receiver.got) == 1 and sent["flow"] == "sure-math"
    assert sent["state"] == "Failed" and sent["run_id"] == str(one.flow_run_id)
    rows = "stage capitals, shard 2 of 2, rows 3 to 4 of 4, the first being a1, b1"
    assert sent["rows"] == [rows] and "is gone: start it" in sent["sentences"][0]
    assert sent["continue"].startswith("make build PROFILE=pocket OVERRIDES=")
    page = str(one.data)
    assert rows in page and "is gone: start it" in page and "make build PROFILE=pocket" in page
    assert "sk-0123456789abcdef" not in page + json.dumps(sent) and PATH not in page + caplog.text
    expected = "webhook/ops was called" if status == 200 else "could not be called (HTTPStatusError)"
    assert expected in caplog.text


def test_nothing_is_sent_without_the_setting_and_a_crashed_run_is_reported(
    tmp_path: Path, receiver: Receiver
) -> None:
    Webhook(url=receiver.url).save("ops", overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        failing("pocket", {"run.output": str(tmp_path)})
    assert receiver.got == []
    with get_client(sync_client=True) as client:
        given = {"profile": "pocket", "overrides": {"run.failure_block": "webhook/ops", "select.aim": 5}}
        run = client.create_flow_run(failing, parameters=given)
    report_failure(failing, run, Crashed(message="the process ended with exit code -9"))
    assert receiver.got == [], "with overrides that are refused, the block is that of the profile: none"
    run.parameters["overrides"].pop("select.aim")
    report_failure(failing, run, Crashed(message="the process ended with exit code -9"))
    ((_, sent),) = receiver.got
    assert sent["sentences"] == ["the process ended with exit code -9"] and sent["state"] == "Crashed"


def test_the_block_is_called_also_if_the_artifact_cannot_be_written(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Webhook(url=receiver.url).save("ops", overwrite=True)  # type: ignore[arg-type]
    with get_client(sync_client=True) as client:
        given = {"profile": "pocket", "overrides": {"run.failure_block": "webhook/ops"}}
        run = client.create_flow_run(failing, parameters=given)

    def unreachable(**_: Any) -> None:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr("tasks.stages.failure.get_client", unreachable)
    report_failure(failing, run, Crashed(message="the process ended with exit code -9"))
    ((_, sent),) = receiver.got
    assert sent["sentences"] == ["the process ended with exit code -9"]
    assert "the artifact of the failure could not be written (ConnectError)" in caplog.text


def test_a_block_that_does_not_exist_is_refused_before_the_run_starts() -> None:
    with pytest.raises(UserError, match=r"run\.failure_block: Prefect has no block webhook/nowhere"):
        check_block(load_config("pocket", {"run.failure_block": "webhook/nowhere"}))
    check_block(load_config("pocket"))


@flow(name="sure-math-test", what="test")
def recording(root: str, made: list[str]) -> None:
    """Record the products with these digests, each made from the one before."""
    kinds, above = list(Kind), list[str]()
    for place, digest in enumerate(made):
        one = Product(kind=kinds[place], digest=digest, folder=digest, made_from=tuple(above))
        record_products(Path(root), "lineage-test", [one])
        above = [one.key]


def events(name: str) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        wanted = {"filter": {"event": {"name": [name]}, "order": "DESC"}, "limit": 50}
        return client._client.post("/events/filter", json=wanted).json()["events"]


def test_every_new_product_is_an_asset_event_with_what_it_was_made_from(tmp_path: Path) -> None:
    recording(str(tmp_path), ["s1", "d1", "t1"])
    recording(str(tmp_path), ["s1", "d2"])
    deadline, keys = time.monotonic() + 60, list[str]()
    while time.monotonic() < deadline and len(keys) < 4:
        found = [
            event
            for event in events("prefect.asset.materialization.succeeded")
            if event["resource"]["prefect.resource.id"].startswith("suremath://lineage-test/")
        ]
        keys = [event["resource"]["prefect.resource.id"] for event in found]
        time.sleep(0.5)
    chain = [f"suremath://lineage-test/{kind}" for kind in ("seeds", "dataset", "student", "dataset")]
    assert sorted(keys) == sorted(chain), (
        "s1 is recorded once, and the second dataset materialises the asset again"
    )
    student = next(event for event in found if event["resource"]["prefect.resource.id"] == chain[2])
    related = [
        one["prefect.resource.id"]
        for one in student["related"]
        if one.get("prefect.resource.role") == "asset"
    ]
    assert related == [chain[1]] and student["payload"]["digest"] == "t1"
    known = products(tmp_path)
    assert [one.digest for one in known.values()] == ["s1", "d1", "d2", "t1"]
    assert known["dataset:d1"].maker.run_id != known["dataset:d2"].maker.run_id
    last = str(artifacts("lineage")[-1].data)
    assert "| sure-math-test" not in last and last.count("/runs/flow-run/") >= 2


def create_limit(name: str, limit: int, *, active: bool = True) -> None:
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=limit, active=active)
        )


def test_only_limits_that_exist_count_and_at_most_all_their_slots() -> None:
    create_limit("server-a", 4)
    create_limit("server-b", 128)
    create_limit("server-c", 2, active=False)
    assert existing({"server-a": 64, "server-b": 64, "server-c": 64, "server-d": 64}) == {
        "server-a": 4,
        "server-b": 64,
    }


@contextmanager
def limit_of_this_machine() -> Iterator[None]:
    create_limit(node_limit(), 1)
    try:
        yield
    finally:
        with get_client(sync_client=True) as client:
            client.delete_global_concurrency_limit_by_name(node_limit())
            with pytest.raises(ObjectNotFound):
                client.read_global_concurrency_limit_by_name(node_limit())


@flow(name="sure-math-test", what="test")
def waiting(entered: str) -> None:
    """Write the file `entered` while the slots are held."""
    with within_limits(load_config("pocket"), "distill"):
        Path(entered).write_text("entered")


def test_a_run_waits_until_another_one_leaves_the_machine(tmp_path: Path) -> None:
    entered = tmp_path / "entered"
    other = threading.Thread(target=waiting, args=(str(entered),), daemon=True)
    with limit_of_this_machine():
        with concurrency(node_limit(), occupy=1):
            other.start()
            time.sleep(8.0)
            assert not entered.exists() and other.is_alive()
        other.join(120)
        assert entered.read_text() == "entered"


@pytest.mark.parametrize(
    ("checkpoints", "starts"),
    [((1, 2), 3), ((1, 1), 2), ((), 1)],
    ids=["each start advances", "the second start does not", "no checkpoint"],
)
def test_a_training_is_started_again_only_if_it_had_advanced(
    tmp_path: Path, checkpoints: tuple[int, ...], starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of the training is replaced by one that writes a checkpoint, if there is a next one, and fails."""
    run, left, started = small_run(tmp_path / "dataset", output=str(tmp_path)), list(checkpoints), list[int]()

    def failing_job(*_: object, **where: Any) -> Iterator[str]:
        started.append(len(started))
        if left:
            place = Path(where["log"]).parent / "checkpoints" / f"step-{left.pop(0):06d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "record.json").write_text("{}")
        yield "train: a line"
        raise JobFailed("RUN.json failed with exit status -9")

    monkeypatch.setattr(distill, "check_run", lambda *_: "f" * 64)
    monkeypatch.setattr(distill, "local_lines", failing_job)
    task = distill.train.with_options(retry_delay_seconds=0)

    @flow(name="sure-math-test", what="test")
    def training() -> None:
        task(run, DistillSettings(run={}))

    with pytest.raises(JobFailed, match="exit status -9"):
        training()
    assert len(started) == starts
    assert last_checkpoint(tmp_path / "ffffffffffff") == max(checkpoints, default=-1)
