"""Learning of the pocket student: UOPD, OPD and two weight controls, on the same prompts and seeds.

    PYTHONPATH=. python speed/learning.py output/pocket/dataset --seeds 0 1 2 --jobs 2

Every run is `python -m training.launch` with the settings of the profile's section `distill`; finished runs are reused. Prints
pass@1 on the held-out problems for student, teacher and every method, and writes `learning.json` to the folder of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from queue import SimpleQueue
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from pocket.engine import replies
from prompts import load_prompt
from tasks.answers.grading import grade
from tasks.config import PROJECT_ROOT, DistillSettings, load_config
from tasks.runtime.training_run import held_out, run_config, write_held_out
from tasks.seeds.registry import resolve
from training.export import LATEST

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "UOPD": {"name": "uopd"},
    "OPD (uniform weights)": {"name": "opd"},
    "UOPD, weights permuted": {"name": "uopd", "prompt_weight": "permuted"},
    "UOPD, constant weight": {"name": "uopd", "prompt_weight": "constant"},
}
TEACHER_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training run of a variant, in its own folder."""

    variant: str
    seed: int
    folder: Path


def settings_of(trial: Trial, profile: DistillSettings) -> DistillSettings:
    """Return the profile's settings with the variant's algorithm and the trial's seed."""
    algorithm = {**profile.run.get("algorithm", {}), **VARIANTS[trial.variant]}
    return profile.model_copy(update={"run": {**profile.run, "algorithm": algorithm, "seed": trial.seed}})


def run_trial(
    trial: Trial, profile: DistillSettings, dataset: Path, cores: SimpleQueue[str]
) -> dict[str, Any]:
    """Train on a free set of cores, or reuse the finished run, and return its result. Raises RuntimeError with the end of the log
    if the run fails."""
    config = run_config(settings_of(trial, profile), dataset, trial.folder)
    write_held_out(trial.folder / "held_out.jsonl", held_out(profile, dataset))
    path = trial.folder / "RUN.json"
    path.write_text(json.dumps(config.model_dump(mode="json"), indent=2), encoding="utf-8")
    mine = cores.get()
    try:
        with (trial.folder / "train.log").open("w", encoding="utf-8") as log:
            command = ["taskset", "-c", mine, sys.executable, "-m", "training.launch", str(path)]
            done = subprocess.run(
                command, cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
            )
    finally:
        cores.put(mine)
    if done.returncode != 0:
        tail = (trial.folder / "train.log").read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"{trial.variant}, seed {trial.seed} exited with {done.returncode}:\n{tail}")
    latest = json.loads((trial.folder / LATEST).read_text(encoding="utf-8"))["run"]
    found = json.loads((trial.folder / latest / "result.json").read_text(encoding="utf-8"))
    after, gain = found["held_out"]["after"]["value"], found["held_out"]["gain"]["value"]
    print(f"{trial.variant}, seed {trial.seed}: {after:.1%}, {100 * gain:+.1f} points", flush=True)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% Student-t interval of the mean over seeds; infinite for a single value."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = float(student_t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def teacher_accuracy(profile: DistillSettings, dataset: Path, temperature: float) -> float:
    """Return the pass@1 of the teacher on the held-out problems."""
    rows = held_out(profile, dataset)
    questions = [load_prompt("teacher/solve").render(problem=row.problem) for row in rows]
    folder = PROJECT_ROOT / str(profile.run["teacher"]["model"])
    sampled = replies(folder, questions, TEACHER_SAMPLES, temperature)
    return mean(
        grade(one.text, row.answer) for row, group in zip(rows, sampled, strict=True) for one in group
    )


def core_sets(jobs: int) -> SimpleQueue[str]:
    """Split this process's cores into `jobs` lists in the format of `taskset`."""
    cores = sorted(os.sched_getaffinity(0))
    free: SimpleQueue[str] = SimpleQueue()
    for number in range(jobs):
        free.put(",".join(str(core) for core in cores[number::jobs] or cores))
    return free


def line(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return a row of the table: accuracy after training, and the gain with its interval over the seeds."""
    after = mean(result["held_out"]["after"]["value"] for result in results)
    gains = [100 * result["held_out"]["gain"]["value"] for result in results]
    low, high = interval(gains)
    minutes = mean(result["cost"]["seconds"] for result in results) / 60
    seeds = ", ".join(f"{gain:+.1f}" for gain in gains)
    return (
        f"| {name} | {after:.1%} | {mean(gains):+.1f} [{low:+.1f}, {high:+.1f}] | {seeds} | {minutes:.1f} |"
    )


def main() -> None:
    """Parse the arguments, run the trials and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="an exported dataset folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, which divide the cores")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "output" / "learning")
    arguments = parser.parse_args()
    profile = resolve(load_config("pocket")).distill
    assert profile is not None
    trials = [
        Trial(variant=name, seed=seed, folder=arguments.out.resolve() / f"{number}-{seed}")
        for seed in arguments.seeds
        for number, name in enumerate(VARIANTS)
    ]
    for trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
    cores, dataset = core_sets(arguments.jobs), arguments.dataset.resolve()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda trial: run_trial(trial, profile, dataset, cores), trials))
    by_variant = {
        name: [result for trial, result in zip(trials, results, strict=True) if trial.variant == name]
        for name in VARIANTS
    }
    before = results[0]["held_out"]["before"]
    temperature = results[0]["settings"]["evaluation"]["temperature"]
    teacher = teacher_accuracy(profile, dataset, temperature)
    print(
        f"\n| method | pass@1 | gain in points [95% over {len(arguments.seeds)} seeds] | by seed | minutes |"
    )
    print("|---|---:|---:|---|---:|")
    print(f"| student before | {before['value']:.1%} | | | |\n| teacher | {teacher:.1%} | | | |")
    for name, found in by_variant.items():
        print(line(name, found))
    record = {"before": before, "teacher": teacher, "runs": by_variant}
    (arguments.out / "learning.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
