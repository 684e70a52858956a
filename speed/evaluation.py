"""CPU seconds of an evaluation compared with a bare engine, and an evaluation that is killed.

    PYTHONPATH=. python speed/evaluation.py cpu FOLDER [--problems 500] [--samples 16] [--order bare evaluation | --together]
    PYTHONPATH=. python speed/evaluation.py kills FOLDER [--problems 200] [--samples 8] [--kills 3]

- `cpu` evaluates the pocket teacher on the benchmark `pocket` under avg16, and gives the same prompts, seeds and settings to a
  bare `LLM.generate`. Both are processes of their own from start to end: imports, engine, generation and, of the evaluation,
  the ledger, graders, scores and the page. Their texts must be equal. With `--together` both run at once, with one thread each,
  so that a change of the machine's speed concerns both.
- `kills` sends SIGKILL to an evaluation with real engines, each time when its ledger has reached a random number of samples, and
  lets it finish. The result must have the bytes of one that was not killed, and no sample that was in the ledger may be generated
  again.

CPU seconds are those of a process and all of its descendants, as last seen in /proc, so they can be compared on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tasks.config import PROJECT_ROOT
from tasks.evaluate_settings import EvaluateSettings
from tasks.storage.tables import read_rows
from training.evaluation.jobs import open_jobs
from training.evaluation.models import open_evaluated
from training.evaluation.results import SampleRow

MODEL = "pocket/teacher"
POLL_S = 0.2
BOUND = 0.03  # the share of CPU seconds that an evaluation may add


@dataclass(slots=True)
class Meter:
    """The CPU seconds of a process and its descendants. Short-lived ones lose at most what they take between two polls."""

    seen: dict[tuple[int, float], float] = field(default_factory=dict)
    names: dict[tuple[int, float], str] = field(default_factory=dict)

    def poll(self, process: psutil.Process) -> None:
        """Read the counters of all processes that are alive."""
        family = [process]
        with contextlib.suppress(psutil.Error):
            family += process.children(recursive=True)
        for one in family:
            with contextlib.suppress(psutil.Error):
                times, key = one.cpu_times(), (one.pid, one.create_time())
                self.seen[key] = times.user + times.system
                self.names[key] = shown(one.cmdline()) or self.names.get(key, "")  # none once it has ended

    @property
    def total(self) -> float:
        return sum(self.seen.values())

    def lines(self) -> list[str]:
        """Return the processes that took half a second or more, the largest first."""
        ordered = sorted(self.seen.items(), key=lambda item: -item[1])
        return [
            f"  {seconds:8.1f} CPU s  {self.names.get(key, '')}" for key, seconds in ordered if seconds >= 0.5
        ]


def shown(command: Sequence[str]) -> str:
    """Return the command line of a process without options and folders, in at most 60 characters."""
    words = [word for word in " ".join(command).split() if not word.startswith("-") or word == "-m"]
    return " ".join(Path(word).name for word in words)[:60]


def measured(command: Sequence[str], log: Path) -> tuple[Meter, float]:
    """Run a command to its end; return the CPU seconds of its processes, and its seconds."""
    meter, began = Meter(), time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=file, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            meter.poll(watched)
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: see {log}")
    return meter, time.monotonic() - began


def settings(folder: Path, problems: int, samples: int) -> EvaluateSettings:
    """Return the settings of the evaluation."""
    return EvaluateSettings(
        model=MODEL, benchmarks=("pocket",), protocols=("avg16",), out=folder, samples=samples, limit=problems,
        kv_cache_gib=2, max_num_seqs=512,
    )  # fmt: skip


def evaluation_command(folder: Path, chosen: EvaluateSettings) -> list[str]:
    """Return the command of an evaluation whose results are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "EVALUATE.json"
    path.write_text(json.dumps(chosen.model_dump(mode="json")), encoding="utf-8")
    return [sys.executable, "-m", "training.evaluate", "--settings", str(path)]


def result_of(folder: Path) -> Path:
    """Return the folder of the only result below `folder`."""
    (path,) = folder.rglob("samples.parquet")
    return path.parent


# --- the bare engine ---------------------------------------------------------------------------------------------


def bare(folder: Path, problems: int, samples: int) -> None:
    """Generate the samples of the evaluation with one call of `LLM.generate`, and write their texts."""
    from tasks.llm.vllm_options import engine_environment, engine_options

    chosen = settings(folder, problems, samples)
    (job,) = open_jobs(chosen)
    model = open_evaluated(chosen, folder, print)
    prompts = [job.prompt(place) for place in job.places()]
    ids = [model.prompt_ids(prompt, thinking=False) for prompt in prompts[::samples]]
    longest = max(map(len, ids)) + job.sampling.max_tokens
    role = model.role(thinking=False, tokens=longest)
    assert role.serve is not None
    os.environ.update(engine_environment(role.serve, local=True, on_cpu=True, engines=1))
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    engine = LLM(**engine_options(role, role.serve, role.model, "raw", on_cpu=True))
    given: list[Any] = [{"prompt_token_ids": ids[number // samples]} for number in range(len(prompts))]
    params = [SamplingParams(seed=prompt.seed, **job.sampling.model_dump()) for prompt in prompts]
    outputs = engine.generate(given, params, use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")


def one_side(folder: Path, problems: int, samples: int, number: int, side: str) -> float:
    """Run a side to its end, print its seconds and return its CPU seconds."""
    place = folder / f"{side}-{number}"
    place.mkdir()
    common = ["--problems", str(problems), "--samples", str(samples)]
    command = [sys.executable, __file__, "bare", str(place), *common]
    if side == "evaluation":
        command = evaluation_command(place, settings(place, problems, samples))
    meter, seconds = measured(command, folder / f"{side}-{number}.log")
    print(f"{side:10s} {meter.total:8.1f} CPU s {seconds:8.1f} s", *meter.lines(), sep="\n", flush=True)
    return meter.total


def compare_cpu(folder: Path, problems: int, samples: int, order: Sequence[str], threads: int) -> None:
    """Print CPU seconds and seconds of each side, and the share that the evaluation adds. So many sides run at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        totals = list(pool.map(lambda one: one_side(folder, problems, samples, *one), list(enumerate(order))))
    if len(set(order)) == 2:
        own, plain = (
            statistics.mean(total for total, side in zip(totals, order, strict=True) if side == name)
            for name in ("evaluation", "bare")
        )
        texts = json.loads(next(folder.glob("bare-*/texts.json")).read_text(encoding="utf-8"))
        rows = read_rows(
            result_of(next(folder.glob("evaluation-*/"))) / "samples.parquet", SampleRow
        )  # the first of several
        same = [row.text for row in rows] == texts
        print(
            f"the evaluation adds {own / plain - 1:.1%} (bound {BOUND:.0%}); equal texts: {'yes' if same else 'NO'}"
        )


# --- kills -------------------------------------------------------------------------------------------------------


def known(folder: Path) -> int:
    """Return the number of samples in the ledger of an evaluation."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return 0
    with (
        contextlib.suppress(sqlite3.OperationalError),  # it is being created
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
    ):
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])
    return 0


def kill_and_finish(folder: Path, problems: int, samples: int, kills: int) -> None:
    """Kill an evaluation, finish it, and compare its bytes with those of one that was not killed."""
    total = problems * samples
    targets = sorted(random.Random(0).sample(range(1, 3 * total // 4), kills))
    whole, killed = folder / "whole", folder / "killed"
    measured(evaluation_command(whole, settings(whole, problems, samples)), folder / "whole.log")
    command, counts = evaluation_command(killed, settings(killed, problems, samples)), [0]
    for number, target in enumerate(targets):
        with (folder / f"killed-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            while known(killed) < target and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        counts.append(known(killed))
        print(f"killed with {counts[-1]:,} of {total:,} samples in the ledger", flush=True)
    measured(command, folder / "finish.log")
    first = f"{counts[-1]:,} of {total:,} samples are known"
    continued = first in (folder / "finish.log").read_text(encoding="utf-8", errors="replace")
    names = ("samples.parquet", "problems.parquet", "metrics.json", "index.html", "model-index.yml")
    same = all(
        (result_of(whole) / name).read_bytes() == (result_of(killed) / name).read_bytes() for name in names
    )
    print(
        f"continued with the samples in the ledger: {'yes' if continued else 'NO'}; equal bytes: {'yes' if same else 'NO'}"
    )


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("cpu", "kills", "bare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--order", nargs="+", choices=("bare", "evaluation"), default=["bare", "evaluation"])
    parser.add_argument("--together", action="store_true")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.part == "bare":
        bare(folder, given.problems, given.samples)
    elif given.part == "cpu":
        if given.together:
            os.environ["OMP_NUM_THREADS"] = "1"
        compare_cpu(
            folder, given.problems, given.samples, given.order, len(given.order) if given.together else 1
        )
    else:
        kill_and_finish(folder, given.problems, given.samples, given.kills)


if __name__ == "__main__":
    main()
