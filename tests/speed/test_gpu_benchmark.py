"""speed/gpu.py on a CPU without the packages that a bare GPU machine lacks, and the counts behind its lower bounds."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.algorithms import load_algorithm
from training.config import LengthSettings, TrainerSettings
from training.data.batches import TokenSequence
from training.preflight.memory import ModelDimensions, count_parameters

ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    "accelerate aiohttp datasets deepspeed hypothesis matplotlib pandas peft prefect psutil pyarrow pydantic ray"
    " tensorboard trl vllm xxhash"
).split()
BARE = f"""
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT} else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
TINY = (
    "--device cpu --hidden 64 --layers 2 --vocabulary 1000 --k 16 --tokens 24 40 --chunks 16 32 --longest 64"
    " --micro-batch 128 --sequences 12 --head-chunk 16 --product 64 --repeats 2"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The output of one run, and its JSON lines, of which the first describes the device."""

    printed: str
    lines: list[dict[str, Any]]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["row"] == name]


def bare_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(BARE, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bare")
    done = bare_python(folder, str(ROOT / "speed" / "gpu.py"), *TINY, "--out", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return Run(printed=done.stdout, lines=[json.loads(line) for line in lines])


@pytest.fixture()
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a module of the command by name."""
    monkeypatch.syspath_prepend(ROOT / "speed")
    return import_module


def test_the_simulated_bare_machine_lacks_the_packages(tmp_path: Path) -> None:
    source = """
import sys, numpy
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name)
"""
    done = bare_python(tmp_path, "-c", source, *ABSENT)
    assert done.stdout.split() == ABSENT, done.stderr


def test_every_case_has_a_row_in_the_tables_and_in_the_file(run: Run) -> None:
    assert [line["row"] for line in run.lines] == ["device"] + ["head"] * 10 + ["student"] * 3 + [
        "teacher"
    ] * 2
    assert [(row["tokens"], row["way"], row["chunk"]) for row in run.rows("head")[5:]] == [
        (40, "naive", None),
        (40, "chunked", 16),
        (40, "chunked, head frozen", 16),
        (40, "chunked", 32),
        (40, "chunked, head frozen", 32),
    ]
    assert [row["chunk"] for row in run.rows("head")[:5]] == [None, 16, 16, 24, 24]
    table = [line for line in run.printed.splitlines() if line.startswith("|")]
    heads = sum(line.startswith("|---") for line in table)
    assert heads == 4 and len(table) == 2 * heads + 15
    assert all(line.endswith(" n/a |") for line in table[-2:]), "no memory is measured on a CPU"
    assert run.printed.startswith(f"device {run.lines[0]['device']}, torch {torch.__version__}")


def test_times_are_positive_and_ratios_match_them(run: Run) -> None:
    for row in run.lines[1:]:
        times = [value for name, value in row.items() if "second" in name]
        assert len(times) >= 3 and all(math.isfinite(value) and value > 0 for value in times)
        assert row["ratio"] == pytest.approx(row["seconds"] / row["floor_seconds"]) and row["ratio"] > 0
        assert row["peak_mib"] is None and row["extra_mib"] is None
    for row in run.rows("teacher"):
        assert row["head_ratio"] == pytest.approx(row["head_seconds"] / row["head_floor_seconds"])
        assert 0 < row["head_share"] < 1


def test_all_implementations_of_the_head_agree(run: Run) -> None:
    for tokens in (24, 40):
        naive, *others = (row for row in run.rows("head") if row["tokens"] == tokens)
        assert naive["gradient_error"] is None and len(others) == 4
        for row in others:
            assert row["loss"] == pytest.approx(naive["loss"], rel=1e-4)
            assert row["gradient_error"] < 0.01, "bf16"


def test_all_layouts_of_the_student_compute_the_same_update(run: Run) -> None:
    packed, plain, single = run.rows("student")
    assert packed["loss"] == pytest.approx(math.log(1000), rel=0.05), (
        "random weights predict a uniform distribution"
    )
    assert [row["loss"] for row in (plain, single)] == pytest.approx([packed["loss"]] * 2, rel=1e-3)
    assert packed["laid_out"] == plain["laid_out"] < single["laid_out"]
    assert packed["tokens"] == single["tokens"] == run.rows("teacher")[0]["tokens"] <= packed["laid_out"]
    assert packed["utilisation_all_work"] > packed["utilisation"]
    assert plain["utilisation_all_work"] == pytest.approx(plain["utilisation"])


@pytest.mark.parametrize(("hidden", "layers", "tied"), [(2048, 28, True), (4096, 36, False)])
def test_the_models_have_the_parameter_counts_of_the_papers(
    parts: Any, hidden: int, layers: int, tied: bool
) -> None:
    dims = ModelDimensions(
        kind="qwen3", hidden=hidden, layers=layers, heads=hidden // 128, kv_heads=8, head_dim=128,
        intermediate=3 * hidden, vocab=151_936, tied=tied, attention_bias=False,
    )  # fmt: skip
    model = parts("gpu_models").build_model(
        hidden=hidden, layers=layers, vocabulary=151_936, tied=tied, device=torch.device("meta")
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(dims)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_flops_match_a_count_by_hand(parts: Any) -> None:
    models = parts("gpu_models")
    model = models.build_model(hidden=64, layers=2, vocabulary=1000, tied=True, device=torch.device("meta"))
    sequences = [TokenSequence(tokens=np.zeros(n, np.int32), prompt_length=p) for n, p in ((5, 2), (3, 1))]
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 192)  # one head of 64: q, k, v and o are square
    attention = 2 * (4 * 64 * (5 * 5 + 3 * 3) // 2)  # scores and weighted sums, for half of the pairs
    assert models.forward_flops(model, sequences) == (2 * matrices * 8 + attention, 2 * 1000 * 64 * (3 + 2))


def test_the_defaults_are_those_of_the_training_stage(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = parts("gpu").parse([])
    trainer = TrainerSettings()
    assert (options.head_chunk, options.micro_batch) == (trainer.head_chunk, trainer.micro_batch_tokens)
    assert (options.k, options.longest) == (
        load_algorithm("uopd").scorers[0].top_k,
        LengthSettings().max_response_tokens,
    )
    sequences = parts("gpu_models").draw_sequences(24, options.longest, options.vocabulary)
    sizes = [(one.prompt_length, len(one.response)) for one in sequences]
    assert all(65 <= prompt <= 257 and 1 <= response <= 4096 for prompt, response in sizes)
    assert 700 < np.median([response for _, response in sizes]) < 1400


def test_a_case_that_runs_out_of_memory_is_reported_and_the_next_one_runs(
    parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meter, head = parts("gpu_meter"), parts("gpu_head").HEAD
    report = meter.Report(tmp_path / "rows.jsonl")

    def too_much() -> Any:
        raise torch.OutOfMemoryError("of 80 GiB")

    assert report.attempt(head, {"tokens": 8192, "way": "naive"}, too_much)["error"] == "out of memory"
    report.attempt(head, {"tokens": 8192, "way": "chunked"}, lambda: {"seconds": 0.25})
    first, second = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines())
    assert "seconds" not in first and second["seconds"] == 0.25
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("| n/a | 8,192 | naive | n/a | out of memory | n/a |")
    assert second.startswith("| n/a | 8,192 | chunked | n/a | 0.25 | n/a |")


def test_the_possible_gain_is_the_time_outside_the_matrix_products(parts: Any) -> None:
    row = {"hidden": 2048, "tokens": 8192, "chunk": 512, "ratio": 1.6, "whole_ratio": 2.0}
    output = parts("gpu_head").what_is_to_win(row)
    assert "fastest with chunks of 512. Its three matrix products alone take 62% of that time" in output
    assert "at most 38% of the time, or 50% without chunking" in output


def test_without_a_gpu_the_command_gives_advice(
    parts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parts("gpu").parse([])
    assert "no CUDA device is available: use --device cpu with small sizes" in capsys.readouterr().err
