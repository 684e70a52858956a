"""Kill a training run at random steps and check that the resumed run ends with the weights of an uninterrupted one.

    PYTHONPATH=. taskset -c 1 python speed/resume.py output/pocket/distill/RUN/RUN.json --work output/resume
    PYTHONPATH=. taskset -c 1 python speed/resume.py RUN.json --work output/resume --trials 1 --kills 30

Takes the RUN.json of a distillation and shortens the run to 60 steps of 4 prompts x 2 rollouts with a checkpoint every 7 steps.
One run is not interrupted. Each trial kills the same run at a random moment of a random step (during generation, an update or a
checkpoint), restarts it, and compares the SHA-256 of the final weights. With `--kills` a trial kills its run at so many random
steps, and then lets it finish. Use a fixed set of cores, since sums depend on the number of threads. Exits with code 1 if weights
differ. Finished runs in `--work` are reused, so trials can be run one by one (`--trials 2`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT

POLL_S = 0.05


def small_run(source: Mapping[str, Any], output: Path, steps: int) -> dict[str, Any]:
    """Return the settings of `source`, shortened to `steps` small steps without evaluation, with the given output folder."""
    lengths = source["lengths"] | {"max_response_tokens": min(source["lengths"]["max_response_tokens"], 96)}
    return {
        **source,
        "output": str(output),
        "dataset": source["dataset"] | {"allow_mismatch": True},
        "rollouts": source["rollouts"] | {"group_size": 2},
        "batches": {"size": 4, "unit": "prompts", "total_prompts": 4 * steps},
        "lengths": lengths,
        "checkpoints": {"every": 7, "keep": 2},
        "evaluation": None,
        "self_tests": False,
    }


def write_run(source: Path, output: Path, steps: int) -> Path:
    """Write RUN.json of the shortened run into `output` and return its path."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "RUN.json"
    small = small_run(json.loads(source.read_text(encoding="utf-8")), output, steps)
    path.write_text(json.dumps(small, indent=2), encoding="utf-8")
    return path


def start(run: Path) -> subprocess.Popen[str]:
    """Start the run in a process whose output is appended to `train.log` in the folder of RUN.json."""
    with (run.parent / "train.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "training.launch", str(run)],
            cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def finish(run: Path) -> float:
    """Run to the end, which is immediate if the run has finished before, and return the seconds. Raises RuntimeError with the end
    of the log if the run fails."""
    started = time.monotonic()
    code = start(run).wait()
    if code != 0:
        log = (run.parent / "train.log").read_text(encoding="utf-8")
        raise RuntimeError(f"{run} exited with {code}:\n{log[-3000:]}")
    return time.monotonic() - started


def steps_done(run: Path) -> int:
    """Return the number of rows in the run's metrics."""
    return sum(path.read_bytes().count(b"\n") for path in run.parent.glob("*/metrics.jsonl"))


def kill_after(run: Path, step: int, delay: float) -> int:
    """Start the run, kill it `delay` seconds after it has done `step` steps, and return the number of steps done.

    The metrics of an earlier start hold steps after its last checkpoint, so they count only after the first step of this start.
    Raises RuntimeError if the run ends before.
    """
    log = run.parent / "train.log"
    before = log.stat().st_size if log.exists() else 0
    process = start(run)
    while not re.search(rb"step \d+ of", log.read_bytes()[before:]) or steps_done(run) < step:
        if process.poll() is not None:
            raise RuntimeError(f"{run} exited with {process.returncode} before step {step}")
        time.sleep(POLL_S)
    time.sleep(delay)
    process.kill()
    process.wait()
    return steps_done(run)


def weights(run: Path) -> str:
    """Return the SHA-256 of the exported student's weights."""
    (path,) = run.parent.glob("*/student/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trial(number: int, run: Path, steps: int, kills: int) -> str:
    """Kill and resume one run. Return a row of the table without the last column."""
    draw, note = random.Random(number), run.parent / "killed-after"
    kills_at = [(step, draw.random()) for step in sorted(draw.sample(range(1, steps - 2), kills))]
    done = note.read_text(encoding="ascii").split() if note.exists() else []
    for step, delay in kills_at[len(done) :]:
        done.append(str(kill_after(run, step, delay)))
        note.write_text(" ".join(done), encoding="ascii")
    killed = ", ".join(done)
    seconds = finish(run)
    log = (run.parent / "train.log").read_text(encoding="utf-8")
    found = re.findall(r"continuing after step (\d+)", log)
    return f"| {number} | {killed} | {found[-1] if found else '0'} | {seconds:.0f} | {weights(run)[:16]}"


def main() -> None:
    """Parse the arguments, run the trials and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="RUN.json of a distillation")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--trials", type=int, nargs="*", default=[1, 2, 3], help="numbers of the trials; each seeds its kill"
    )
    parser.add_argument("--kills", type=int, default=1, help="kills of each trial")
    options = parser.parse_args()
    if not 0 < options.kills < options.steps - 2:
        parser.error(f"--kills is at least 1 and at most {options.steps - 3}, for {options.steps} steps")
    work = options.work.resolve()
    whole = write_run(options.run, work / "undisturbed", options.steps)
    seconds, expected = finish(whole), weights(whole)
    print("| trial | killed after step | resumed after step | seconds to the end | weights | equal |")
    print(f"|---|---|---|---|---|---|\n| uninterrupted | | | {seconds:.0f} | {expected[:16]} | |", flush=True)
    same = True
    for number in options.trials:
        run = write_run(options.run, work / f"killed-{number}", options.steps)
        row = trial(number, run, options.steps, options.kills)
        equal = weights(run) == expected
        same = same and equal
        print(f"{row} | {'yes' if equal else 'NO'} |", flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
