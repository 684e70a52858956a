"""The run log, progress output, curves, model card and held-out problems."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.metrics import METRICS, read_metrics
from tests.training.small_run import example, small_run, write_small_dataset
from training import console
from training.config import EvaluationSettings, LengthSettings
from training.console import log_line
from training.data.model_files import open_model
from training.evaluation.held_out import held_out_problems, read_held_out
from training.evaluation.history import estimates
from training.export import _method, cost, draw_curves, model_card, write_metrics
from training.plan import resolve
from training.preflight.check import Prepared, prepare
from training.run_log import RunLog, RunTimer, terminal


def row(step: int, **more: float) -> dict[str, float]:
    seconds = {f"seconds_{name}": 1.0 for name in ("rollout", "teacher", "student", "sync")}
    shares = {f"share_{name}": 0.25 for name in ("rollout", "teacher", "student", "sync")}
    basic = {"step": step, "loss": 0.5, "weight_mean": 0.7, "response_tokens_mean": 90.0, "seconds": 4.0}
    return {**basic, **seconds, **shares, **more}


def test_a_continued_run_removes_the_rows_of_repeated_steps(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0, steps=5) as run_log:
        for step in (1, 2, 3):
            run_log.write(row(step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with RunLog(tmp_path, step=2, steps=5) as run_log:
        run_log.write(row(3, loss=0.1))
    assert [(found["step"], found["loss"]) for found in read_metrics(tmp_path)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.1),
    ]


def test_the_progress_line_counts_from_the_continued_step(tmp_path: Path) -> None:
    now = [100.0]
    with RunLog(tmp_path, step=10, steps=60, clock=lambda: now[0]) as run_log:
        now[0] = 120.0
        line = run_log.line(row(20))
    assert line.startswith(
        "step 20 of 60, loss 0.5000, weight 0.70, 90 tokens per response, 2.0 s per step (rollout 25%"
    )
    assert line.endswith("80 s left")


def test_the_remaining_time_follows_recent_steps_and_not_the_first_one(tmp_path: Path) -> None:
    """The first step takes 300 s, the next ten 2 s each: 40 steps remain, 80 s, while the mean since the start gives 1,164 s."""
    now = [0.0]
    with RunLog(tmp_path, step=0, steps=51, clock=lambda: now[0]) as run_log:
        for step in range(1, 12):
            now[0] += 300.0 if step == 1 else 2.0
            run_log.write(row(step))
        assert run_log.line(row(11)).endswith("80 s left")


def test_a_silent_phase_of_the_training_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "NOTICE_S", 0.5)
    with console.phase(lambda seconds: f"starting the workers, {seconds:.0f} s"):
        time.sleep(2.3)
    lines = capsys.readouterr().out.splitlines()
    assert 1 <= len(lines) <= 2 and all(line.startswith("train: starting the workers, ") for line in lines)


def shown(output: io.StringIO) -> str:
    """Return the output without terminal control sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", output.getvalue())


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def test_on_a_terminal_a_bar_shows_the_step_below_other_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, now = io.StringIO(), [100.0]
    console = Console(force_terminal=True, file=output, width=140, legacy_windows=False)
    with RunLog(tmp_path, step=10, steps=60, clock=lambda: now[0], console=console) as run_log:
        now[0] = 120.0
        run_log.write(row(20))
        log_line("stop requested [1/2]")
        assert output.getvalue().count(HIDE) == 1 and SHOW not in output.getvalue()
        now[0] = 122.0
        run_log.write(row(21, loss=0.25))
    lines = [line.strip() for line in shown(output).replace("\r", "\n").splitlines() if line.strip()]
    assert lines.count("train: stop requested [1/2]") == 1  # on its own line, not parsed as rich markup
    (step,) = {line for line in lines if line.startswith("train: step 20 of 60 ")}
    assert re.search(r"━+ \d:\d\d:\d\d 80 s left$", step)
    assert lines[-2].startswith("train: step 21 of 60 ") and lines[-2].endswith("78 s left")
    shares = "rollout 25%, teacher 25%, student 25%, sync 25%"
    assert lines[-1] == f"loss 0.2500, weight 0.70, 90 tokens per response, 2.0 s per step ({shares})"
    assert output.getvalue().rstrip().endswith(SHOW)
    assert capsys.readouterr().out == "" and len(read_metrics(tmp_path)) == 2
    log_line("after it")
    assert capsys.readouterr().out == "train: after it\n"


def test_ctrl_c_restores_the_cursor(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(force_terminal=True, file=output, width=100, legacy_windows=False)
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, step=0, steps=2, console=console) as run_log:
        run_log.write(row(1))
        raise KeyboardInterrupt
    assert output.getvalue().rfind(SHOW) > output.getvalue().rfind(HIDE) >= 0


def test_only_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich assume a terminal
    assert terminal() is None
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as screen, os.fdopen(ours, "rb"):
        monkeypatch.setattr("sys.stdout", screen)
        assert terminal() is not None
        monkeypatch.setenv("TERM", "dumb")
        assert terminal() is None


def test_a_metric_that_is_nan_raises(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0, steps=1) as run_log, pytest.raises(ValueError):
        run_log.write(row(1, loss=float("nan")))


def test_a_full_disk_is_reported_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing fails too, since its buffer cannot be written
    with RunLog(tmp_path, step=0, steps=1) as run_log:
        monkeypatch.setattr(run_log, "_file", full)
        with pytest.raises(
            UserError, match=r"^The disk is full: .*metrics.jsonl needs at least [\d,]+ bytes; free"
        ):
            run_log.write(row(1))
        monkeypatch.undo()
    with suppress(OSError):
        full.close()


def test_a_killed_start_counts_up_to_its_last_save(tmp_path: Path) -> None:
    times = iter([100.0, 130.0, 1000.0, 1007.0, 1010.0])
    killed = RunTimer(tmp_path, clock=lambda: next(times))
    killed.save()  # 30 s, then killed
    again = RunTimer(tmp_path, clock=lambda: next(times))
    again.save()
    assert again.total() == (2, 40.0)  # 30 and 1,010 - 1,000


def test_the_timer_ignores_copies_and_names_a_damaged_file(tmp_path: Path) -> None:
    times = iter((100.0, 110.0, 200.0, 205.0))
    RunTimer(tmp_path, clock=lambda: next(times)).save()
    (tmp_path / "starts/0001 (copy).json").write_text("{")
    again = RunTimer(tmp_path, clock=lambda: next(times))
    assert again.total() == (2, 15.0)
    (tmp_path / "starts/0001.json").write_text("[]")
    with pytest.raises(UserError, match=r"0001\.json is damaged: delete it"):
        RunTimer(tmp_path, clock=lambda: 0.0).total()


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[]", b"3", b"{}"])
def test_a_damaged_line_of_the_metrics_is_named_unless_it_is_the_last(tmp_path: Path, line: bytes) -> None:
    good = [json.dumps(row(step)).encode() for step in (1, 2)]
    (tmp_path / METRICS).write_bytes(b"\n".join([*good, line]))
    assert [found["step"] for found in read_metrics(tmp_path)] == [1, 2]
    (tmp_path / METRICS).write_bytes(b"\n".join([good[0], line, good[1]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged: correct or delete the line"):
        read_metrics(tmp_path)


def test_the_cost_separates_completed_steps_from_all_other_time(tmp_path: Path) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])
    prepared = prepare(small_run(dataset, placement={"kind": "split", "students": 1, "engines": 2}))
    rows = [row(step, tokens=100.0, response_tokens=60.0) for step in (1, 2)]
    found = cost(rows, prepared, 3, 900.0)
    assert (found["seconds"], found["seconds_all"], found["starts"]) == (8.0, 900.0, 3)
    assert found["gpu_hours"] == 4 * 900 / 3600  # student, teacher and two engines
    assert (found["seconds_rollout"], found["overlap"], found["tokens"]) == (2.0, 1.0, 200.0)


def test_table_and_curves_are_written_from_the_rows(tmp_path: Path) -> None:
    rows = [row(step, gradient_norm=1.0) for step in (1, 2)]
    write_metrics(tmp_path / "metrics.parquet", rows)
    assert pq.read_table(tmp_path / "metrics.parquet").to_pylist() == rows
    draw_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_keeps_every_metric_that_any_step_had(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0, "entropy": 0.5},
        {"step": 3, "truncated": 0.25},
    ]
    write_metrics(tmp_path / "metrics.parquet", rows)
    assert pq.read_table(tmp_path / "metrics.parquet").to_pylist() == [
        {"step": 1, "loss": 2.0, "entropy": None, "truncated": None},
        {"step": 2, "loss": 1.0, "entropy": 0.5, "truncated": None},
        {"step": 3, "loss": None, "entropy": None, "truncated": 0.25},
    ]


HOSTILE = "a | b\n---\n# <script>*x*</script> `c`: [l](u)\n:0123456789abcdef"


def card(*, measured: bool = True, algorithm: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return the model card of an invented result with the settings of a real run."""

    run = small_run(
        Path("dataset"),
        evaluation={"problems": "held_out.jsonl"},
        algorithm={"prompt_weight": {"kind": "binary", "tau": 0.3}} | (algorithm or {}),
    )
    grades = estimates([[False, True], [False, False]], [[True, True], [False, True]])
    names = (
        "seconds",
        "seconds_rollout",
        "seconds_teacher",
        "seconds_student",
        "seconds_sync",
        "seconds_all",
        "gpu_hours",
        "tokens",
    )
    result = {
        "fingerprint": "f" * 64, "algorithm": run.algorithm.name, "steps": 1234, "prompts": 50_000,
        "method": _method(cast(Prepared, SimpleNamespace(plan=resolve(run), references=None, responses=None))),
        "ended": {"by": "steps", "step": 1234, "of": 1234}, "exported": {"step": 1234}, "evaluations": [],
        "student": {"from": "base:01", "to": "student:02"},
        "teacher": "teacher:03", "dataset": "d" * 64, "notices": [],
        "cost": {**dict.fromkeys(names, 90.0), "starts": 2, "overlap": 1.25, "response_tokens": 5678.0},
        "held_out": grades if measured else None, "settings": run.identity(), "versions": {"torch": "2"},
    }  # fmt: skip
    return model_card(result | changes)


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter and the body of a card."""
    _, head, page = text.split("---\n", 2)
    return yaml.safe_load(head), page


def test_the_card_names_models_data_algorithm_gain_and_how_to_load_it() -> None:
    head, page = parts(card())
    assert head["library_name"] == "transformers" and "uopd" in head["tags"]
    assert head["model_name"] == "base, trained by uopd"
    (index,) = head["model-index"]
    assert (
        index["name"] == "base, trained by uopd"
        and index["results"][0]["dataset"]["name"] == "2 held-out problems"
    )
    assert index["results"][0]["metrics"] == [
        {"type": "avg@4", "name": "avg@4 (temperature 0.7)", "value": 75.0}
    ]
    for words in (
        "| base model | base:01 |", "| teacher | teacher:03 |", f"version `{'d' * 64}`", "1,234 steps, 5,678 response tokens",
        "On-policy distillation, each prompt weighted by the teacher", "generated by the student", "| loss | mean over prompts",
        "| scores | teacher, plain prompt:", "of 512 |", "| prompt weight | Binary(tau=0.3", "50,000 prompts drawn in total",
        "AdamW, learning rate 3e-06 with 5.0% of warm-up",
        "| before (base model) | 25.0% |", "| after (this model) | 75.0% |", "| gain | +50.0 points |",
        "on 2 held-out problems, 4 samples each at temperature 0.7", 'from_pretrained("path/to/this/folder")',
        "put your final answer within", "1.5 minutes in total (90.000 GPU hours)",
        "checkpoints, in 2 starts; the steps took 1.5", '"name": "uopd"', "torch 2",
    ):  # fmt: skip
        assert words in page, words


def test_the_card_of_a_run_without_a_teacher_names_none_and_no_imitation() -> None:
    cost = {
        "seconds": 90.0, "seconds_rollout": 90.0, "seconds_student": 90.0, "seconds_sync": 90.0, "seconds_all": 90.0,
        "gpu_hours": 0.0, "tokens": 1.0, "starts": 1, "overlap": 1.0, "response_tokens": 1.0,
    }  # fmt: skip
    _, page = parts(card(measured=False, algorithm={"name": "sft"}, teacher=None, cost=cost))
    assert "| teacher | none |" in page and "from the dataset" in page and "imitates" not in page
    assert "| scores | none |" in page and "rollouts 1.5, student 1.5" in page
    assert "imitates one teacher" in parts(card())[1]


def test_the_card_of_a_run_on_a_source_names_its_content() -> None:
    source = {"name": "train.jsonl", "content": "sha256:0123"}
    notice = "answers: the text after #### in 2 of 2 rows, e.g. 'a | b\\n#### 1' -> '1'"
    page = card(source=source, notices=[notice])
    assert f"version `{'d' * 64}` of the problems in train.jsonl (sha256:0123) |" in page
    assert "The weights of the dataset" not in page and "The weights of the dataset" in card()
    assert "of the problems in" not in card() and "as read" not in card()
    (row,) = (line for line in page.splitlines() if line.startswith("| dataset as read |"))
    assert "in 2 of 2 rows" in row and "a | b" not in row  # a bar would end the cell


def test_the_card_of_a_run_without_evaluation_states_it() -> None:
    assert "model-index" not in parts(card(measured=False))[0]
    assert "This model was not evaluated" in card(measured=False) and "| gain |" not in card(measured=False)


def test_the_card_of_an_adapter_tells_what_merging_loses() -> None:
    assert "| adapter |" not in card()
    (row,) = (line for line in card(lost_by_merging=0.3812).splitlines() if line.startswith("| adapter |"))
    assert "in `adapter/`, for the base model" in row
    assert "rounds to bfloat16, which loses 38.1% of the norm of what was learned" in row


def test_names_on_the_card_are_escaped() -> None:
    head, page = parts(card(student={"from": HOSTILE, "to": HOSTILE}, teacher=HOSTILE, dataset=HOSTILE))
    assert head["model_name"].startswith("a | b") and head.keys() == parts(card())[0].keys()
    assert "<script" not in page and "\n---\n" not in page and not re.search(r"(?<!\\)\]\(u\)", page)
    assert page.count("\n| ") == parts(card())[1].count("\n| ")  # no more cells or rows than with plain names
    (row,) = (line for line in page.splitlines() if line.startswith("| teacher |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        (
            '{"id": "1", "problem": "What is 1 + 1?"}\n',
            "line 1 of .* is not an object with id, problem and answer",
        ),
        ('{"id": "1", "problem": "x", "answer": "2"}\nnot json\n', "line 2 of .* is not an object"),
        (
            '{"id": "1", "problem": " ", "answer": "2"}\n',
            r"line 1 of .*\.jsonl: problem is empty: fill it in",
        ),
        ('{"id": "1", "problem": "x", "answer": 2}\n', "answer is not a string but 2: put it in quotes"),
        ('{"id": 1, "problem": "x", "answer": "2"}\n', "id is not a string but 1: put it in quotes"),
        (
            json.dumps({"id": "1", "problem": "x" * 8001, "answer": "2"}),
            "problem has 8,001 characters, more than the 8,000 allowed",
        ),
        ('{"id": "1", "problem": "\\ud800", "answer": "2"}\n', "problem contains an unpaired surrogate"),
        ("[" * 100_000, "line 1 of .* is not an object with id, problem and answer"),
    ],
)
def test_unusable_held_out_problems_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(text)
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    with pytest.raises(UserError, match=sentence):
        read_held_out(EvaluationSettings(problems=path), student, thinking=False)


def test_held_out_prompts_have_the_format_of_training_prompts(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "What is 1 + 1?", "answer": "2"}) + "\n\n")
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    found = read_held_out(EvaluationSettings(problems=path, samples=2), student, thinking=False)
    assert found is not None and [item.answer for item in found.items] == ["2"]
    asked = student.tokenizer.decode(found.prompts[0])
    assert "What is 1 + 1?" in asked and asked.endswith("</think>\n\n")
    assert read_held_out(None, student, thinking=False) is None


def test_held_out_prompts_that_would_shorten_their_responses_are_named(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    rows = [
        {"id": name, "problem": "1 + " * size + "1", "answer": "2"} for name, size in (("a", 1), ("b", 90))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    found = read_held_out(EvaluationSettings(problems=path), student, thinking=False)
    assert found is not None
    short, long = map(len, found.prompts)
    assert held_out_problems(found, LengthSettings(max_prompt_tokens=long)) == []
    limits = LengthSettings(max_prompt_tokens=long - 1, max_response_tokens=4096)
    (problem,) = held_out_problems(found, limits)
    assert short < long - 1 and problem.startswith(
        f"evaluation.problems: b has a prompt of {long} tokens, but lengths.max_prompt_tokens is {long - 1}, so responses would"
    )


def test_held_out_problems_are_split_only_at_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    texts = ["What is\u20281 + 1?", "What is\x851 + 2?", "What is\u20291 + 3?"]
    rows = [{"id": str(n), "problem": text, "answer": "2"} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), encoding="utf-8")
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    found = read_held_out(EvaluationSettings(problems=path), student, thinking=False)
    assert found is not None and found.ids == ("0", "1", "2")


def test_the_card_names_the_parts_that_few_algorithms_have() -> None:
    page = parts(card(algorithm={"name": "core", "prompt_weight": None, "rollout_weight": "answer_share"}))[1]
    assert "| sequence loss | Preference(beta=0.1, weight=1.0," in page
    assert "answer_share" in page and "| token weight |" not in page
    assert (
        "| tokens of TopKCrossEntropy | TeacherUncertain(threshold=0.8) |"
        in parts(card(algorithm={"name": "eopd", "prompt_weight": None}))[1]
    )
