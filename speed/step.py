"""Time of full training steps, compared with TRL's DistillationTrainer on the same models, prompts, lengths, batch and cores.

    PYTHONPATH=. python speed/step.py output/pocket/distill/RUN/RUN.json --trl FOLDER

FOLDER contains TRL (`pip install --no-deps --target FOLDER trl`). It is appended to the path of TRL's process, so all other
packages are those of this project. Both sides train the student of RUN.json on the prompts of this project's schedule, with K
rollouts each and a learning rate so small that the student, and thus the length of its rollouts, does not change. Both are warmed
up; loading models and starting engines is excluded. The time of a step is measured from the end of the previous step to its end.

TRL's trainer has no top-k loss: it uses the forward KL over the full vocabulary (beta 0). This project is measured with the same
loss (`--top-k full`) and with the top k of RUN.json. TRL generates with transformers, its default, since its vLLM mode cannot
load weights into a CPU engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.storage.metrics import read_metrics
from training.config import load_run
from training.data.model_files import PROMPT
from training.metrics import phase_seconds
from training.plan import resolve
from training.preflight.check import prepare

LEARNING_RATE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of one side after the warm-up: `seconds` of each, `tokens` of its responses."""

    name: str
    seconds: tuple[float, ...]
    tokens: tuple[float, ...]

    @property
    def a_second(self) -> float:
        return 1 / mean(self.seconds)

    @property
    def tokens_a_second(self) -> float:
        return sum(self.tokens) / sum(self.seconds)


def write_run(source: Path, folder: Path, steps: int, top_k: int | str | None) -> Path:
    """Write RUN.json for `steps` steps of the run in `source`, without evaluation, self-test or checkpoint, and return its path.
    If `top_k` is None, that of `source` is used."""
    run = json.loads(source.read_text(encoding="utf-8"))
    run |= {"output": str(folder), "evaluation": None, "self_tests": False}
    run["algorithm"] = run.get("algorithm", {}) | ({} if top_k is None else {"top_k": top_k})
    run["optimizer"] |= {"learning_rate": LEARNING_RATE}
    run["checkpoints"] = {"every": 10**6, "keep": 1}
    run["dataset"] |= {"allow_mismatch": True}
    made = load_run(source)
    run["batches"] = run.get("batches", {}) | {"total_prompts": steps * made.prompts_per_step}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RUN.json"
    path.write_text(json.dumps(run, indent=2), encoding="utf-8")
    return path


def checked(command: Sequence[str], log: Path) -> None:
    """Run the command in the project folder with its output in `log`. Raises RuntimeError with the end of the log if it fails."""
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=PROJECT_ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-4000:]}")


# --- this project ------------------------------------------------------------------------------------------------


def ours(run: Path, warm_up: int) -> tuple[Steps, list[dict[str, float]]]:
    """Train; return the steps after the warm-up and their metrics."""
    checked([sys.executable, "-m", "training.launch", str(run)], run.parent / "train.log")
    (metrics,) = run.parent.glob("*/metrics.jsonl")
    ends = step_ends(metrics.parent / "tensorboard")
    rows = read_metrics(metrics.parent)[warm_up:]
    steps = Steps(
        name=f"this project, top k {resolve(load_run(run)).top_k or 'full'}",
        seconds=gaps(ends)[warm_up - 1 :],
        tokens=tuple(row["response_tokens"] for row in rows),
    )
    return steps, rows


def step_ends(events: Path) -> list[float]:
    """Return the wall time at which each step's metrics were written, from its TensorBoard event."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(events))
    reader.Reload()
    return [event.wall_time for event in reader.Scalars("loss")]


def gaps(ends: Sequence[float]) -> tuple[float, ...]:
    """Return the seconds from each end to the next."""
    return tuple(end - before for before, end in pairwise(ends))


def phases(name: str, rows: Sequence[Mapping[str, float]], seconds: float) -> str:
    """Return a row of the table of phases: the seconds of each, their sum, and the seconds of the step."""
    parts = [seconds_of / len(rows) for seconds_of in phase_seconds(rows).values()]
    cells = " | ".join(f"{part:.2f}" for part in (*parts, sum(parts), seconds))
    return f"| {name} | {cells} | {sum(parts) / seconds:.2f} |"


# --- TRL ---------------------------------------------------------------------------------------------------------


def trl(run: Path, options: argparse.Namespace, dtype: str) -> Steps:
    """Run TRL's trainer in a separate process; return the steps after the warm-up."""
    job = run.parent / "trl.json"
    job.write_text(json.dumps(trl_job(run, options, dtype)), encoding="utf-8")
    checked([sys.executable, __file__, "--trl-job", str(job)], run.parent / "trl.log")
    found = json.loads((run.parent / "trl-steps.json").read_text(encoding="utf-8"))
    return Steps(
        name=f"TRL {found['version']}, {dtype}",
        seconds=gaps(found["ends"])[options.warm_up - 1 :],
        tokens=tuple(found["tokens"][options.warm_up :]),
    )


def trl_job(run: Path, options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Return the input of TRL's process: models, settings, and every step's prompts as messages and as this project's token
    ids."""
    prepared = prepare(load_run(run))
    groups = [group for step in range(prepared.schedule.steps) for group in prepared.schedule.step(step)]
    rows = [prepared.rows[group.row] for group in groups for _ in group.seeds]
    settings = prepared.run
    return {
        "folder": str(options.trl.resolve()),
        "student": str(prepared.student.folder),
        "teacher": str(prepared.teacher_files.folder),
        "prompts": [load_prompt(PROMPT).render(problem=row.text) for row in rows],
        "ids": [list(row.prompt_ids) for row in rows],
        "batch": settings.prompts_per_step * settings.rollouts.group_size,
        "accumulation": options.accumulation,
        "response": settings.lengths.max_response_tokens,
        "temperature": settings.rollouts.temperature,
        "thinking": settings.lengths.thinking,
        "dtype": dtype,
        "result": str(run.parent / "trl-steps.json"),
    }


def trl_arguments(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of TRL's DistillationConfig."""
    return {
        "output_dir": str(Path(job["result"]).parent / "trl"),
        "per_device_train_batch_size": job["batch"] // job["accumulation"],
        "gradient_accumulation_steps": job["accumulation"],
        "max_steps": len(job["prompts"]) // job["batch"],
        "learning_rate": LEARNING_RATE,
        "beta": 0.0,
        "temperature": job["temperature"],
        "max_completion_length": job["response"],
        "chat_template_kwargs": {"enable_thinking": job["thinking"]},
        "model_init_kwargs": {"dtype": "bfloat16" if job["dtype"] == "bfloat16" else "float32"},
        "teacher_model_init_kwargs": {"dtype": "bfloat16"},
        "bf16": job["dtype"] != "float32",
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def run_trl(job: Mapping[str, Any]) -> None:
    """Train (in TRL's process) and write the end time of each step and the number of tokens of its responses."""
    sys.path.append(job["folder"])
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    library: Any = import_module("trl")
    tokenizer = AutoTokenizer.from_pretrained(
        job["student"], padding_side="left", truncation_side="left", trust_remote_code=False
    )
    made = tokenizer.apply_chat_template(
        job["prompts"], add_generation_prompt=True, tokenize=True, return_dict=True, enable_thinking=job["thinking"]
    )["input_ids"]  # fmt: skip
    if made != job["ids"]:
        raise RuntimeError(
            "TRL's token ids of the prompts differ from this project's: check the chat template"
        )
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    trainer = library.DistillationTrainer(
        model=job["student"],
        teacher_model=job["teacher"],
        args=library.DistillationConfig(**trl_arguments(job)),
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "loss" in row]
    found = {
        "version": library.__version__,
        "ends": ends,
        "tokens": [length * job["batch"] for length in lengths],
    }
    Path(job["result"]).write_text(json.dumps(found), encoding="utf-8")


# --- tables ------------------------------------------------------------------------------------------------------


def line(steps: Steps, base: Steps) -> str:
    """Return a row of the table; the last two columns are ratios to `base`."""
    return (
        f"| {steps.name} | {len(steps.seconds)} | {mean(steps.seconds):.2f} | {steps.a_second:.3f} | {mean(steps.tokens):,.0f}"
        f" | {steps.tokens_a_second:,.0f} | {steps.a_second / base.a_second:.2f}"
        f" | {steps.tokens_a_second / base.tokens_a_second:.2f} |"
    )


def compare(options: argparse.Namespace, work: Path) -> None:
    """Measure every side and print both tables. Ratios are relative to the fastest run of TRL."""
    theirs = [
        trl(write_run(options.run, work / f"trl-{dtype}", options.steps, None), options, dtype)
        for dtype in options.dtypes
        if options.trl is not None
    ]
    our_rows = []
    names: list[str] = []
    mine: list[Steps] = []
    for number, top_k in enumerate(options.top_k):
        steps, rows = ours(
            write_run(options.run, work / f"ours-{number}", options.steps, top_k), options.warm_up
        )
        mine.append(steps)
        our_rows.append(phases(steps.name, rows, mean(steps.seconds)))
        names = list(phase_seconds(rows))
    base = max(theirs or mine, key=lambda steps: steps.a_second)
    print("| | steps | s/step | steps/s | tokens/step | tokens/s | ratio of steps/s | ratio of tokens/s |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(line(steps, base) for steps in (*theirs, *mine)))
    if our_rows:
        print(f"\n| seconds of | {' | '.join(names)} | sum | step | sum / step |")
        print("|---|" + "---|" * (len(names) + 3) + "\n" + "\n".join(our_rows))


def main() -> None:
    """Parse the arguments, run the measurements and print the tables, or, with `--trl-job`, run TRL's process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="RUN.json of a distillation")
    parser.add_argument("--trl", type=Path, help="folder with TRL; without it only this project is measured")
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument(
        "--top-k", type=lambda text: text if text == "full" else int(text), nargs="*", default=["full", None]
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=["autocast", "bfloat16", "float32"], default=["autocast"],
        help="TRL's student: float32 weights under bf16 autocast (its default), all bf16, all float32",
    )  # fmt: skip
    parser.add_argument("--accumulation", type=int, default=1, help="TRL's micro-batches per step")
    parser.add_argument("--trl-job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl_job:
        run_trl(json.loads(options.trl_job.read_text(encoding="utf-8")))
        return
    if options.run is None or options.warm_up < 1 or options.steps <= options.warm_up:
        parser.error("pass RUN.json, --warm-up of at least 1, and --steps greater than --warm-up")
    with tempfile.TemporaryDirectory() as work:
        compare(options, Path(work))


if __name__ == "__main__":
    main()
