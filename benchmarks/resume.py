"""kill -9 at random steps: a continued run must end in the very weights of the undisturbed one.

    PYTHONPATH=. taskset -c 1 python benchmarks/resume.py output/pocket/distill/RUN/RUN.json --work output/resume

Takes the RUN.json of any distillation and makes it small: 60 steps of 4 prompts x 2 rollouts with a checkpoint after every
7th. One run goes through undisturbed; each trial kills the same run at a random moment of a random step (whatever it is
doing then: generating, updating, writing a checkpoint), starts it again at once, and compares the SHA-256 of the final
weights. Give it one fixed set of cores: threads are part of what makes sums the same. Exit code 1 when weights differ.
Finished runs in `--work` are found again, so the trials can be made one by one (`--trials 2`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.config import PROJECT_ROOT

POLL_S = 0.05


def small_run(source: Mapping[str, Any], output: Path, steps: int) -> dict[str, Any]:
    """The run of `source` cut down to `steps` short steps without a measurement, in `output`."""
    lengths = source["lengths"] | {"max_response_tokens": min(source["lengths"]["max_response_tokens"], 96)}
    return {
        **source,
        "output": str(output),
        "dataset": source["dataset"] | {"allow_mismatch": True},
        "rollouts": source["rollouts"] | {"per_prompt": 2},
        "batches": {"size": 4, "unit": "prompts", "draws": 4 * steps},
        "lengths": lengths,
        "checkpoints": {"every": 7, "keep": 2},
        "evaluation": None,
        "self_tests": False,
    }


def write_run(source: Path, output: Path, steps: int) -> Path:
    """RUN.json of the small run in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "RUN.json"
    small = small_run(json.loads(source.read_text(encoding="utf-8")), output, steps)
    path.write_text(json.dumps(small, indent=2), encoding="utf-8")
    return path


def start(run: Path) -> subprocess.Popen[str]:
    """The run as a process, its output in a file beside RUN.json."""
    with (run.parent / "train.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "training.launch", str(run)],
            cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def finish(run: Path) -> float:
    """Run to the end (at once where it has ended before); seconds. RuntimeError shows the log's end."""
    started = time.monotonic()
    code = start(run).wait()
    if code != 0:
        log = (run.parent / "train.log").read_text(encoding="utf-8")
        raise RuntimeError(f"{run} ended with {code}:\n{log[-3000:]}")
    return time.monotonic() - started


def steps_done(run: Path) -> int:
    """Rows of the run's metrics so far."""
    return sum(path.read_bytes().count(b"\n") for path in run.parent.glob("*/metrics.jsonl"))


def kill_after(run: Path, step: int, delay: float) -> int:
    """Start the run, let it do `step` steps and `delay` seconds more, and kill it; the steps that it had done then."""
    process = start(run)
    while steps_done(run) < step:
        if process.poll() is not None:
            raise RuntimeError(f"{run} ended with {process.returncode} before step {step}")
        time.sleep(POLL_S)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return steps_done(run)


def weights(run: Path) -> str:
    """SHA-256 of the student that the finished run left."""
    (path,) = run.parent.glob("*/student/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trial(number: int, run: Path, steps: int) -> str:
    """Kill and continue one run; a row of the table without the verdict."""
    draw, note = random.Random(number), run.parent / "killed-after"
    if not note.exists():
        note.write_text(str(kill_after(run, draw.randint(3, steps - 3), draw.random())), encoding="ascii")
    killed = int(note.read_text(encoding="ascii"))
    seconds = finish(run)
    log = (run.parent / "train.log").read_text(encoding="utf-8")
    found = re.findall(r"continues after step (\d+)", log)
    return f"| {number} | {killed} | {found[-1] if found else '0'} | {seconds:.0f} | {weights(run)[:16]}"


def main() -> None:
    """Read the arguments, run and kill, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="RUN.json of a distillation")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trials", type=int, nargs="*", default=[1, 2, 3], help="each draws its own moment")
    options = parser.parse_args()
    work = options.work.resolve()
    whole = write_run(options.run, work / "undisturbed", options.steps)
    seconds, expected = finish(whole), weights(whole)
    print("| trial | killed after step | continued after | seconds to the end | weights | equal |")
    print(f"|---|---|---|---|---|---|\n| undisturbed | | | {seconds:.0f} | {expected[:16]} | |", flush=True)
    same = True
    for number in options.trials:
        run = write_run(options.run, work / f"killed-{number}", options.steps)
        row = trial(number, run, options.steps)
        equal = weights(run) == expected
        same = same and equal
        print(f"{row} | {'yes' if equal else 'NO'} |", flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
