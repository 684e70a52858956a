"""Offline engines in processes of this machine and on Ray: equal samples, and a sentence for each failure. Real vLLM engines."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm.engine_hosts import EngineFailed, gpus_of, on_this_machine
from tasks.llm.engines import Engines
from tasks.llm.offline_engine import Result, SampleFailure, SamplePrompt
from tasks.processes import machine
from tasks.processes.ray_session import RaySession
from tests.tiny_model import write_tiny_model

SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=24)


def test_engines_of_a_machine_have_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    assert gpus_of(1, 0) == {}
    assert gpus_of(1, 2) == {"CUDA_VISIBLE_DEVICES": "2,3"}  # none is listed: of another maker
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert [gpus_of(number, 2)["CUDA_VISIBLE_DEVICES"] for number in range(2)] == ["0,1", "2,10"]
    with pytest.raises(
        UserError, match=r"engine 3 needs GPUs of its own \(2\), and there are 4 \(0, 1, 2, 10\): low"
    ):
        gpus_of(2, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7,6")
    assert gpus_of(1, 1) == {"CUDA_VISIBLE_DEVICES": "GPU-7"}
    with pytest.raises(
        UserError, match=r"engine 2 needs .* there are 3 \(4, GPU-7, 6\): lower `serve.engines`, or set"
    ):
        gpus_of(1, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden by the user
    with pytest.raises(UserError, match=r"there are 0 \(none\)"):
        gpus_of(0, 1)


# --- causes of a failure, without an engine ----------------------------------------------------------------------


def fails(number: int) -> None:
    raise ValueError(f"too little memory for the cache: {number}")


def fails_elsewhere(_: object) -> None:
    print("(Worker pid=7) ERROR 11-21 09:00:00 [core.py:12] OSError: the weights are cut off", flush=True)
    raise RuntimeError("Engine core initialization failed. See root cause above.")


def refuses(_: object) -> None:
    raise UserError("the tokenizer is unusable: take another one")


def ends(status: int) -> None:
    print("INFO 11-21 09:00:00 [x.py:1] reading", flush=True)
    os._exit(status)


def is_killed(_: object) -> None:
    print("INFO 11-21 09:00:00 [x.py:1] reading", flush=True)
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("function", "error", "cause"),
    [
        (fails, EngineFailed, "^ValueError: too little memory for the cache: 3$"),
        (fails_elsewhere, EngineFailed, "^OSError: the weights are cut off$"),
        (refuses, UserError, "^the tokenizer is unusable: take another one$"),
        (ends, EngineFailed, "^its process ended with status 3, reading$"),
        (is_killed, EngineFailed, "^its process ended with status -9, possibly out of memory$"),
    ],
)
def test_the_cause_of_a_failure(function: Any, error: type[Exception], cause: str) -> None:
    with on_this_machine(1, 0) as (host,), pytest.raises(error, match=cause):
        host._run(function, 3)  # type: ignore[attr-defined]


# --- engines -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("hosts") / "tiny")


def opened(folder: Path, engines: int) -> Engines:
    serve = Serve(kv_cache_gib=1, max_num_seqs=32, health_timeout_s=400.0, engines=engines)
    role = ModelRole(model=str(folder), dtype="float32", max_model_len=128, serve=serve)
    return Engines(role, serve, folder, "raw", None)


def prompts(count: int) -> list[SamplePrompt]:
    return [
        SamplePrompt(
            problem_id=f"p{number}", prompt="teacher/solve", values={"problem": f"Solve {number} plus 4"}, seed=1000 * number
        )
        for number in range(count)
    ]  # fmt: skip


def drawn(engines: Engines, count: int) -> dict[int, Result]:
    found: dict[int, Result] = {}
    engines.draw(prompts(count), 3, SAMPLING, "f", found.__setitem__, None)
    return found


def engine_processes() -> list[psutil.Process]:
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if any(word in " ".join(one.cmdline()) for word in ("tasks.processes.worker_process", "ray::OfflineEngine"))
    ]  # fmt: skip


def killed_while_drawing(engines: Engines) -> str:
    """Kill an engine while it works; return the sentence."""

    def kill() -> None:
        time.sleep(1.0)
        engine_processes()[0].kill()

    threading.Thread(target=kill).start()
    with pytest.raises(UserError) as caught:
        while True:
            drawn(engines, 64)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_engines_here_and_on_ray_give_equal_samples_and_their_death_is_a_sentence(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = opened(tiny, 2)
    samples = drawn(here, 11)
    assert sorted(samples) == list(range(11)) and len(engine_processes()) == 2
    assert not any(isinstance(found, SampleFailure) for found in samples.values())
    sentence = killed_while_drawing(here)
    assert sentence == (
        f"the engine of {tiny} failed: its process ended with status -9, possibly out of memory; check `serve` and the"
        " model folder"
    )
    here.close()
    assert engine_processes() == []
    with RaySession(1):
        monkeypatch.setenv("RAY_ADDRESS", "auto")  # this process is connected already
        there = opened(tiny, 1)
        assert drawn(there, 11) == samples and there.template == here.template
        assert len(engine_processes()) == 1
        assert killed_while_drawing(there).startswith(f"the engine of {tiny} failed: ")
        there.close()


@pytest.mark.slow
def test_a_model_that_vllm_does_not_know_is_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = shutil.copytree(tiny, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Unheard"]}))
    with pytest.raises(
        UserError,
        match=r"^the engine of .* failed: \w+Error: .*Unheard.*; check `serve` and the model folder$",
    ):
        opened(folder, 1)
    assert engine_processes() == []
