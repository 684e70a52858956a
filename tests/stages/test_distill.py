"""Stage distill: the check, the folder and settings of a run, its errors, and the display of its steps."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pytest
from markdown_it import MarkdownIt

from tasks.config import DistillSettings
from tasks.errors import UserError
from tasks.processes.jobs import JobFailed
from tasks.runtime import training_job
from tasks.runtime.progress import LiveTable
from tasks.stages import distill
from tasks.storage.metrics import METRICS
from tasks.storage.rollout_samples import write_samples
from tasks.text import visible
from tests.training.small_run import copy_model, example, small_run, teacher, write_small_dataset
from training.config import RunConfig, run_folder
from training.evaluation.history import described
from training.evaluation.stored import stored_or_new
from training.preflight.check import inspect, prepare
from training.student.checkpoints import latest, read_record


def settled(run: Any) -> str:
    return json.dumps(run.model_dump(mode="json"))


def test_the_check_returns_the_fingerprint_that_names_the_folder(tmp_path: Path) -> None:
    run = small_run(write_small_dataset(tmp_path / "dataset", [example(n) for n in range(4)]))
    printed: list[str] = []
    found = training_job.check_run(tmp_path, settled(run), lambda _format, line: printed.append(line))
    assert found == prepare(run).fingerprint and any(line.startswith("steps ") for line in printed)
    assert not any(line.startswith(("device", "machine")) for line in printed)  # the table of memory
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert run_folder(tmp_path, found) == tmp_path / found[:12]


def test_the_stage_raises_all_errors_of_the_check_one_per_line(tmp_path: Path) -> None:
    run = small_run(
        write_small_dataset(tmp_path / "dataset", [example(1)], teacher(model="teacher:0123456789abcdef")),
        student={"model": str(with_context(300, tmp_path / "short"))},
        lengths={"max_prompt_tokens": 8, "max_response_tokens": 448},
        algorithm={"prompt_weight": {"kind": "binary", "tau": 0.1}},
        evaluation={"problems": str(tmp_path / "nowhere.jsonl")},
        placement={"kind": "split", "students": 1, "engines": 2, "gpu_memory_gb": 1.0},
    )
    with pytest.raises(UserError) as refused:
        training_job.check_run(tmp_path / "output", settled(run), lambda *_: None)
    found = inspect(run)
    assert len(found.problems) > 5 and found.table
    assert str(refused.value).splitlines() == [f"distill.run: {problem}" for problem in found.problems]
    assert list((tmp_path / "output").iterdir()) == []


def with_context(tokens: int, folder: Path) -> Path:
    """Copy the student with a context of only `tokens` tokens."""
    config = copy_model("student", folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": tokens}))
    return folder


def test_a_check_that_crashes_keeps_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training_job, "command", lambda *_: [sys.executable, "-c", "raise ValueError('a bug')"]
    )
    with pytest.raises(JobFailed, match="ValueError: a bug") as broken:
        training_job.check_run(tmp_path, "{}", lambda *_: None)
    (log,) = tmp_path.glob("*/check.log")
    assert str(broken.value).endswith(f"(log: {log})") and "ValueError: a bug" in log.read_text()


def test_concurrent_checks_in_one_output_do_not_interfere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_wrote, both_logged = Barrier(2, timeout=20), Barrier(2, timeout=20)

    def slow(command: list[str], *, log: Path, **_: Any) -> Iterator[str]:
        both_wrote.wait()
        seed = json.loads(Path(command[-1]).read_text())["seed"]
        log.write_text(str(seed))
        both_logged.wait()
        assert log.read_text() == str(seed)
        yield f"run        {seed:064x}"

    monkeypatch.setattr(training_job, "local_lines", slow)
    with ThreadPoolExecutor(2) as flows:
        found = flows.map(
            lambda seed: training_job.check_run(tmp_path, json.dumps({"seed": seed}), lambda *_: None), (1, 2)
        )
    assert list(found) == [f"{1:064x}", f"{2:064x}"]
    assert list(tmp_path.iterdir()) == []


def test_errors_come_only_from_the_launcher_of_this_start(tmp_path: Path) -> None:
    problems = tmp_path / training_job.PROBLEMS
    problems.write_text("Of an earlier start.\n")
    with (
        pytest.raises(JobFailed, match="killed: WARNING of an engine"),
        training_job.job_failed_as_user_error(tmp_path),
    ):
        raise JobFailed("killed: WARNING of an engine")
    with (
        pytest.raises(UserError, match="no cluster answers"),
        training_job.job_failed_as_user_error(tmp_path),
    ):
        problems.write_text("The disk is full.\n")
        raise UserError("no cluster answers")
    with pytest.raises(UserError) as reported, training_job.job_failed_as_user_error(tmp_path):
        problems.write_text("The disk is full.\nThe model is gone.\n")
        raise JobFailed("RUN.json ended with 2: noise | The model is gone. | noise")
    assert str(reported.value) == "distill.run: The disk is full.\ndistill.run: The model is gone."


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunConfig], Path]:
    """The stage's task without Prefect."""
    monkeypatch.setattr(distill, "get_run_logger", logging.getLogger)
    return lambda run: distill.train.fn(run, DistillSettings(run={}))


def test_the_stage_raises_the_errors_of_the_trainer_one_per_line(
    tmp_path: Path, train: Callable[[RunConfig], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path / "nowhere", student={"model": "pocket/nobody"}, output=str(tmp_path))
    monkeypatch.setattr(
        distill, "check_run", lambda *_: "f" * 64
    )  # as if the dataset had existed during the check
    with pytest.raises(UserError) as refused:
        train(run)
    assert str(refused.value).splitlines() == [f"distill.run: {one}" for one in inspect(run).problems]
    assert json.loads((tmp_path / "ffffffffffff/RUN.json").read_text())["seed"] == 0


@pytest.mark.slow
@pytest.mark.long
def test_an_interrupted_training_run_saves_the_current_step(
    tmp_path: Path, train: Callable[[RunConfig], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(
        write_small_dataset(tmp_path / "dataset", [example(n) for n in range(4)]), output=str(tmp_path / "output"),
        batches={"size": 4, "total_prompts": 400}, lengths={"max_prompt_tokens": 128, "max_response_tokens": 96},
        checkpoints={"every": 1000, "keep": 2},
    )  # fmt: skip

    def interrupt(lines: Iterable[str], *_: object) -> None:
        next(line for line in lines if training_job.STEP.match(line))
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "follow", interrupt)
    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        train(run)
    (log,) = tmp_path.glob("output/*/train.log")
    stopped = re.search(r"train: stopped after step (\d+) of 100", log.read_text())
    saved = latest(log.parent / "checkpoints")
    assert stopped is not None and saved is not None and read_record(saved)["step"] == int(stopped[1])
    assert set(psutil.Process().children()) <= before


def metrics(folder: Path, *steps: int) -> None:
    rows = [
        {"step": step, "loss": 1 / step, "weight_mean": 0.71, "seconds": 2.0, "other": 5.0} for step in steps
    ]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_output_of_the_run_is_logged_and_its_steps_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    tables: dict[str, list[tuple[list[dict[str, str]], bool]]] = {}

    class Table:
        def __init__(self, key: str, _description: str) -> None:
            self.key = key

        def show(self, rows: Any, *, last: bool = False) -> None:
            tables.setdefault(self.key, []).append((rows(), last))

    class Shown:
        def __init__(self, _name: str, total: int, *_: object, **__: object) -> None:
            self.total = total

        def update(self, step: int) -> None:
            shown.append(step)

        def shard_done(self, total: int) -> None:
            shown.append(-total)

        def finish(self) -> None:
            shown.append(0)

    metrics(tmp_path, 1, 2, 3)
    for step, right in ((0, 1), (3, 2), (6, 2)):  # the last one of a run that was killed after its evaluation
        grades = [[number < right] * 2 for number in range(4)]
        stored_or_new(tmp_path, step, "aa", lambda grades=grades: (grades, {}))
    monkeypatch.setattr(training_job, "LiveTable", Table)
    monkeypatch.setattr(training_job, "Progress", Shown)
    logged: list[str] = []
    lines = ["noise of an engine", "train: step 1 of 3, loss 0.5", "train: step 3 of 3, loss 0.4"]
    training_job.follow(lines, lambda text, *values: logged.append(text % values), tmp_path)
    assert logged == ["distill: step 1 of 3, loss 0.5", "distill: step 3 of 3, loss 0.4"]
    assert shown == [1, 3, -3, 0]
    assert tables.keys() == {"distill-steps", "distill-rollouts", "distill-evaluations"}
    assert all([last for _, last in shown_] == [False, False, True] for shown_ in tables.values())
    steps, rollouts, evaluations = (shown_[-1][0] for shown_ in tables.values())
    assert steps[0] == {"step": "3", "loss": "0.3333", "mean weight": "0.71", "seconds": "2"}
    assert rollouts == []
    assert [(row["step"], row["pass@1"]) for row in evaluations] == [("0", "25.0%"), ("3", "50.0%")]


def test_the_evaluations_so_far_are_those_that_the_result_will_have(tmp_path: Path) -> None:
    metrics(tmp_path, 1, 2)
    made = [
        stored_or_new(tmp_path, step, "aa", lambda right=right: ([[right, True], [False, right]], {}))
        for step, right in ((0, False), (2, True))
    ]
    (tmp_path / "evaluations" / "step-00000001.json").write_text("{half of a fi")
    assert training_job.evaluations_so_far(tmp_path) == described(made)


def test_a_hostile_problem_in_a_sample_rollout_shows_itself_and_does_nothing(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)> **a** [x](javascript:alert(1)) | `c` ~~d~~ $e$ &lt; # f \\( \x1b[2J \u202e"
    row = {"step": 1, "group": 0, "weight": 0.5, "reward": None, "tokens": 3, "finish_reason": "stop"}
    write_samples(tmp_path, 1, [{**row, "problem": hostile, "response": f"```\n{hostile}\n- g"}])
    (found,) = training_job.sample_rollouts(tmp_path)
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])  # with HTML
    for name, text in (("problem", hostile), ("response", f"``` {hostile} - g")):
        page = Rendered(markdown.render(found[name]))
        assert page.tags == ["p"], "neither markup nor HTML"
        assert page.text.strip() == visible(text)


class Rendered(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = list[str](), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_table_has_the_last_twenty_steps_newest_first(tmp_path: Path) -> None:
    assert training_job.last_steps(tmp_path) == []
    metrics(tmp_path, *range(1, 31))
    assert [int(row["step"]) for row in training_job.last_steps(tmp_path)] == list(range(30, 10, -1))


def test_a_metric_that_some_steps_have_is_a_column_of_all(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "held_out_accuracy": 0.75},
        {"step": 3, "loss": 1},
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_job.last_steps(tmp_path) == [
        {"step": "3", "loss": "1", "held-out accuracy": ""},
        {"step": "2", "loss": "0.25", "held-out accuracy": "0.75"},
        {"step": "1", "loss": "0.5", "held-out accuracy": ""},
    ]


def test_the_evaluations_and_the_exported_step_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: dict[str, list[dict[str, str]]] = {}
    monkeypatch.setattr(
        distill, "create_table_artifact", lambda table, key, description: tables.update({key: table})
    )
    monkeypatch.setattr(distill, "create_markdown_artifact", lambda *_, **__: None)
    grades = [
        {"step": 0, "accuracy": 0.25, "pass_at_n": 0.5},
        {"step": 1000, "accuracy": 0.5, "pass_at_n": 1.0},
    ]
    held_out = {name: {"value": 0.1, "low": 0.0, "high": 0.2, "n": 4} for name in ("before", "after", "gain")}
    distill.publish(
        {"cost": {"seconds": 1.0}, "held_out": held_out, "evaluations": grades, "exported": {"step": 1000}}
    )
    assert tables["distill-evaluations"] == [
        {"step": "0", "pass@1": "25.0%", "correct in at least one sample": "50.0%", "exported": ""},
        {"step": "1,000", "pass@1": "50.0%", "correct in at least one sample": "100.0%", "exported": "yes"},
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_table_is_one_artifact_that_is_updated_when_due_and_at_the_end() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterId

    times = iter([0.0, 3.0, 11.0, 12.0])
    table = LiveTable("distill-steps", "steps", clock=lambda: next(times))
    table.show(lambda: [{"step": "1"}])
    assert table.artifact is not None
    for step, last, expected in ((2, False, 1), (3, False, 3), (4, True, 4)):
        table.show(lambda step=step: [{"step": str(step)}], last=last)
        with get_client(sync_client=True) as client:
            wanted = ArtifactFilter(id=ArtifactFilterId(any_=[table.artifact]))
            (artifact,) = client.read_artifacts(artifact_filter=wanted)
        assert artifact.type == "table" and artifact.key == "distill-steps"
        assert json.loads(str(artifact.data)) == [{"step": str(expected)}]
