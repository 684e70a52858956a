"""Concurrent sampling and clustering: the same artifacts as one after the other, also after interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from prompts import MAX_VALUE_CHARS, load_prompt
from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.rows import JudgedPair, Tier, Uncertainty
from tasks.runtime.overlap import Handover, OtherStageFailed
from tasks.stages.annotation import open_annotation
from tasks.stages.own_problems import find_file, own_problems
from tasks.stages.sample_and_cluster import overlaps, sample_and_cluster
from tasks.storage.artifacts import Artifact, Store, digest, shard_folder
from tests.scripted_server import ScriptedServer, running

SHARD, N = 3, 4
TEXTS = [f"Compute {number} + 1." for number in range(2 * SHARD)]
WORDS = (
    "all red",
    "only red",
    "all red",
    "only red",
)  # in both shards: only the judge can decide these answers


def asked(text: str) -> str:
    """The message to the teacher for a problem."""
    return str(load_prompt("teacher/solve").render(problem=text)[-1]["content"])


def put(first: str, second: str) -> str:
    """The message to the judge for two answers."""
    return str(load_prompt("judge/equivalence").render(first=first, second=second)[-1]["content"])


def yes(first: str, second: str) -> str:
    return "ok:" + json.dumps({"first": first, "second": second, "equivalent": True})


PAIRS = {put(*pair): yes(*pair) for pair in (("all red", "only red"), ("only red", "all red"))}


def teacher_replies(number: int) -> list[str]:
    return [rf"ok:It is \boxed{{{answer}}}." for answer in (WORDS if number % SHARD == 1 else [number + 1])]


@dataclass(frozen=True)
class Pair:
    """Two scripted models: a teacher for six problems in two shards, and a judge."""

    teacher: ScriptedServer
    judge: ScriptedServer
    folder: Path

    def write(self, texts: Sequence[str]) -> None:
        lines = (f"{text},{TEXTS.index(text) + 1 if text in TEXTS else 0}" for text in texts)
        (self.folder / "mine.csv").write_text("\n".join(["text,answer", *lines]))

    def settings(self, **more: object) -> dict[str, Any]:
        reached = {"serve": None, "concurrency": 1}
        models = {
            "models.teacher": {**reached, "base_url": self.teacher.base_url},
            "models.equivalence_judge": {**reached, "base_url": self.judge.base_url},
        }
        return {**models, "sample.num_samples": N, "run.shard_rows": SHARD, **more}

    def run(self, name: str, **more: object) -> tuple[Artifact, Artifact]:
        """Run both stages in the folder of that name and return their artifacts."""
        return annotate_file(self.folder / "mine.csv", self.folder / name, self.settings(**more))


@flow
def annotate_file(file: Path, out: Path, settings: dict[str, Any]) -> tuple[Artifact, Artifact]:
    run = open_annotation("pocket", settings, out)
    return sample_and_cluster(run, own_problems(run, find_file(str(file), None, Tier.EASY, "mit")))


@contextmanager
def two_models(folder: Path, **scripts: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    teacher = {asked(text): teacher_replies(number) for number, text in enumerate(TEXTS)}
    judge = {content: [reply] for content, reply in PAIRS.items()}
    folder.mkdir(exist_ok=True)
    with (
        running({**teacher, **scripts.get("teacher", {})}, models=("pocket/teacher",)) as first,
        running({**judge, **scripts.get("judge", {})}, models=("pocket/judge",)) as second,
    ):
        pair = Pair(teacher=first, judge=second, folder=folder)
        pair.write(TEXTS)
        yield pair


def record(artifact: Artifact, index: int) -> dict[str, Any]:
    return json.loads((shard_folder(artifact.path, index) / "record.json").read_text())


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = (folder / "artifacts").rglob("shard-*/*.parquet")
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


# --- the stages, with scripted models --------------------------------------------------------------------------------

staged = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def in_turn(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digests of both artifacts, made one after the other."""
    with two_models(tmp_path_factory.mktemp("in-turn") / "models") as models:
        sampled, clustered = models.run("out", **{"cluster.overlap": "never"})
        assert record(clustered, 0)["started_at"] >= record(sampled, 1)["started_at"]
        rows = list(Store(models.folder / "out").rows(clustered, "uncertainties", Uncertainty))
        verdicts = list(Store(models.folder / "out").rows(clustered, "judged_pairs", JudgedPair))
    assert [row.majority_answer for row in rows] == ["1", "all red", "3", "4", "all red", "6"]
    assert [row.weight for row in rows] == [1.0] * 6 and [row.equivalent for row in verdicts] == [True, True]
    tokens = [
        (notes["judge_prompt_tokens"], notes["judge_completion_tokens"])
        for notes in (record(clustered, index)["notes"] for index in (0, 1))
    ]
    assert tokens == [(14, 6), (14, 6)]  # the pair of the second shard came from the ledger
    return digest(sampled.path), digest(clustered.path)


class TestStages:
    pytestmark = staged

    def test_the_first_shard_is_clustered_before_the_second_is_sampled_and_the_bytes_are_the_same(
        self, in_turn: tuple[str, str], tmp_path: Path
    ) -> None:
        late = {
            asked(TEXTS[-1]): ["429:3", *teacher_replies(len(TEXTS) - 1)]
        }  # the last problem takes three seconds
        with two_models(tmp_path / "models", teacher=late) as models:
            sampled, clustered = models.run("out")
            assert (digest(sampled.path), digest(clustered.path)) == in_turn
            first, second = record(clustered, 0), record(sampled, 1)
            assert first["started_at"] + first["seconds"] < second["started_at"] + second["seconds"] - 0.5
            requests = models.teacher.counts.total(), models.judge.counts.total()
            assert models.run("out") == (sampled, clustered)
            assert requests == (models.teacher.counts.total(), models.judge.counts.total())

    @pytest.mark.parametrize("overlap", ["never", "always"])
    def test_samples_are_in_full_shards_independent_of_the_shards_of_the_problems(
        self, overlap: str, tmp_path: Path
    ) -> None:
        with two_models(tmp_path / "models") as models:
            models.write(
                [TEXTS[0], *(f"{n} {'x' * MAX_VALUE_CHARS}" for n in range(4)), *TEXTS[1:]]
            )  # four are too long
            sampled, clustered = models.run("out", **{"cluster.overlap": overlap})
            given = next((models.folder / "out" / "artifacts").glob("problems-*"))
            kept = [
                json.loads(path.read_text())["counts"]["kept"]
                for path in sorted(given.glob("shard-*/record.json"))
            ]
            assert kept == [1, 1, 3, 1]
            assert [
                record(one, index)["counts"]["kept"] for one in (sampled, clustered) for index in (0, 1)
            ] == [SHARD] * 4
            rows = Store(models.folder / "out").rows(clustered, "uncertainties", Uncertainty)
            assert [row.majority_answer for row in rows] == ["1", "all red", "3", "4", "all red", "6"]

    def test_task_runs_of_both_stages_belong_to_the_flow(self, tmp_path: Path) -> None:
        @flow
        def named() -> str:
            with two_models(tmp_path / "models") as models:
                annotate_file.fn(models.folder / "mine.csv", tmp_path / "out", models.settings())
            return str(flow_run.id)

        mine = named()
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 20  # task runs reach the server as events
            names: set[str] = set()
            while len(names) < 4 and time.monotonic() < deadline:
                runs = [one for one in client.read_task_runs(limit=200) if str(one.flow_run_id) == mine]
                names = {one.name for one in runs if one.state and one.state.is_completed()} & {
                    f"{stage}: shard {number} of 2" for stage in ("sample", "cluster") for number in (1, 2)
                }
                time.sleep(0.5)
        assert len(names) == 4

    def test_an_unreachable_judge_ends_both_stages_without_losing_samples(
        self, in_turn: tuple[str, str], tmp_path: Path
    ) -> None:
        late = {asked(TEXTS[-1]): ["429:1", *teacher_replies(len(TEXTS) - 1)]}
        with two_models(tmp_path / "models", teacher=late) as models:
            nobody = {"serve": None, "base_url": "http://127.0.0.1:9/v1"}
            with pytest.raises(UserError, match=r"127\.0\.0\.1:9.*does not answer"):
                models.run("out", **{"models.equivalence_judge": nobody})
            assert not list((models.folder / "out").rglob("cluster-*/record.json"))
            sampled, clustered = models.run("out")
            assert (digest(sampled.path), digest(clustered.path)) == in_turn
            assert (
                models.teacher.counts.total() == N * len(TEXTS) + 1
            )  # one request was sent twice, after a 429

    def test_a_lost_teacher_ends_both_stages_and_finished_clusters_are_kept(
        self, in_turn: tuple[str, str], tmp_path: Path
    ) -> None:
        lost = {asked(TEXTS[-1]): ["429:3", "401", *teacher_replies(len(TEXTS) - 1)]}
        with two_models(tmp_path / "models", teacher=lost) as models:
            with pytest.raises(UserError, match="rejects the API key"):
                models.run("out")
            (first,) = (models.folder / "out").rglob("cluster-*/shard-00000/uncertainties.parquet")
            before = first.stat().st_ino, first.stat().st_mtime_ns
            sampled, clustered = models.run("out")
            assert (digest(sampled.path), digest(clustered.path)) == in_turn
            assert (first.stat().st_ino, first.stat().st_mtime_ns) == before

    def test_rebuilt_samples_are_clustered_again(self, tmp_path: Path) -> None:
        with two_models(tmp_path / "models") as models:
            sampled, clustered = models.run("out")
            before = files(models.folder / "out")
            Store(models.folder / "out").discard(sampled)
            again = models.run("out")
            assert again == (sampled, clustered)
            after = files(models.folder / "out")
            repeated = {file for file in after if after[file] != before[file]}
            assert {Path(file).parents[1] for file in repeated} == {sampled.path, clustered.path}
            assert models.teacher.counts.total() == N * len(TEXTS)  # all responses came from the ledger

    def test_after_a_kill_shards_with_changed_samples_are_clustered_again(self, tmp_path: Path) -> None:
        with two_models(tmp_path / "models") as models:
            sampled, clustered = models.run("out")
            for artifact in (sampled, clustered):
                (artifact.path / "record.json").unlink()  # as if it had been killed before the end
            (shard_folder(sampled.path, 1) / "responses.parquet").unlink()
            before = files(models.folder / "out")
            models.run("out")
            after = files(models.folder / "out")
            untouched = {Path(file).parent for file in before if after[file] == before[file]}
            assert shard_folder(sampled.path, 0) in untouched
            assert not untouched & {shard_folder(clustered.path, index) for index in (0, 1)}

    def test_a_run_killed_while_judging_and_sampling_ends_with_the_same_bytes(
        self, in_turn: tuple[str, str], prefect_server: str, tmp_path: Path
    ) -> None:
        last, (first_order, second_order) = asked(TEXTS[-1]), PAIRS
        silent = {
            "teacher": {last: ["silent", *teacher_replies(len(TEXTS) - 1)]},
            "judge": {second_order: ["silent", PAIRS[second_order]]},
        }
        with two_models(tmp_path / "models", **silent) as models:
            settings, out = models.settings(), models.folder / "out"
            code = (
                "from pathlib import Path\nfrom tests.stages.test_sample_and_cluster import annotate_file\n"
                f"annotate_file(Path({str(models.folder / 'mine.csv')!r}), Path({str(out)!r}), {settings!r})"
            )
            environment = os.environ | {"PREFECT_API_URL": prefect_server}
            with subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment) as owner:
                deadline = time.monotonic() + 120
                while not (models.teacher.counts[last] and models.judge.counts[second_order]):
                    assert owner.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
                time.sleep(1.0)  # the ledger commits twice a second
                owner.kill()
            flushed = files(models.folder / "out")
            with Ledger(out / "ledger.sqlite") as ledger:
                assert (
                    len(ledger) == N * (len(TEXTS) - 1) + (len(TEXTS) - 1) + 1
                )  # samples, problems, a verdict
            sampled, clustered = models.run("out")
            assert (digest(sampled.path), digest(clustered.path)) == in_turn
            after = files(models.folder / "out")
            assert flushed and all(after[file] == seen for file, seen in flushed.items())
            again = models.judge.counts
            assert (again[first_order], again[second_order]) == (
                1,
                2,
            )  # only the request in flight is repeated
            assert models.teacher.counts.total() == N * len(TEXTS) + 1


# --- the handover ----------------------------------------------------------------------------------------------------


def handover(folder: Path) -> Handover:
    return Handover(Store(folder), folder / "first")


def test_an_interrupt_of_the_first_stage_ends_the_waiting_second_stage(tmp_path: Path) -> None:
    between, started, ended = handover(tmp_path), threading.Event(), []

    def first() -> Artifact:
        assert started.wait(10)
        raise KeyboardInterrupt

    def second() -> Artifact:
        started.set()
        try:
            between.wait(0)
        except OtherStageFailed as error:
            ended.append(error)
            raise
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        between.run(first, second)
    assert len(ended) == 1


def test_the_error_of_the_second_stage_is_raised_not_the_end_of_the_first(tmp_path: Path) -> None:
    between = handover(tmp_path)

    def first() -> Artifact:
        while True:
            between.check_cancelled()
            time.sleep(0.01)

    def second() -> Artifact:
        raise UserError("the judge is gone")

    with pytest.raises(UserError, match="the judge is gone"):
        between.run(first, second)


def test_the_second_stage_may_fail_after_the_first_has_finished(tmp_path: Path) -> None:
    between = handover(tmp_path)
    artifact = Artifact(name="a", fingerprint="f", path=tmp_path, num_rows=1)

    def second() -> Artifact:
        between.wait(None)
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        between.run(lambda: artifact, second)


SERVED = {"serve": {}, "base_url": None}
REACHED = {"serve": None, "base_url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize(
    ("overlap", "teacher", "judge", "on_cpu", "at_once"),
    [
        ("auto", SERVED, SERVED, True, False),
        ("auto", SERVED, SERVED, False, True),
        ("auto", REACHED, SERVED, True, True),
        ("auto", SERVED, REACHED, True, True),
        ("always", SERVED, SERVED, True, True),
        ("never", REACHED, REACHED, False, False),
    ],
)
def test_stages_overlap_unless_both_models_run_on_the_same_cores(
    monkeypatch: pytest.MonkeyPatch, overlap: str, teacher: Any, judge: Any, on_cpu: bool, at_once: bool
) -> None:
    monkeypatch.setattr("tasks.stages.sample_and_cluster.device_is_cpu", lambda: on_cpu)
    settings = {"models.teacher": teacher, "models.equivalence_judge": judge, "cluster.overlap": overlap}
    assert overlaps(load_config("pocket", settings)) is at_once
