"""Throughput of the stage `sample` compared with a bare `LLM.generate` call.

    python speed/sampling.py [--problems 1000] [--samples 8] [--order bare stage stage bare]

Both use the same pocket problems, seeds and engine settings, and return the same samples. Each has its own engine, started and
warmed up beforehand; only one runs at a time, in the given order. The side `stage` includes everything that the stage does with a
problem: rendering, encoding, sampling, sums over tokens, transfer from the engine's process, answer extraction, the ledger. The
side `bare` is one call of `generate` on rendered prompts with the log-probabilities of sampled tokens; the side `text` is the
same call without them, an upper bound of the engine's throughput. CPU seconds are those of all processes involved; compare them
on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from tasks.config import PROJECT_ROOT, Config, load_config
from tasks.llm.ledger import Ledger
from tasks.llm.model_folder import model_folder
from tasks.llm.model_identity import model_identity
from tasks.llm.sampler import TeacherSampler
from tasks.llm.vllm_options import engine_environment, engine_options
from tasks.processes.machine import device_is_cpu
from tasks.rows import Problem, Response
from tasks.runtime.driver import Lazy, Run
from tasks.runtime.sampling import sample_prompt, sampled
from tasks.seeds.registry import load, resolve
from tasks.storage.artifacts import Store

RECIPE = "benchmark"
WARM_UP = 16  # problems
SIDES = ("bare", "text", "stage")

Requests = list[tuple[str, dict[str, Any]]]  # rendered prompt, arguments of SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One pass over all prompts."""

    side: str
    seconds: float
    cpu: float  # seconds
    tokens: int
    texts: tuple[str, ...]  # in the order of prompts and samples

    def line(self) -> str:
        """Return a line with the figures of this pass."""
        rates = f"{self.tokens / self.seconds:,.0f} tokens/s, {self.tokens / self.cpu:,.0f} per CPU second"
        return f"{self.side:6s} {self.seconds:8.2f} s {self.cpu:8.2f} CPU s  {rates}"


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its running descendants: both engines and Ray. One side runs at a time."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def settings(problems: int, samples: int) -> Config:
    """Return the pocket profile with the same number of problems in each tier."""
    counts = dict.fromkeys(("easy", "medium", "hard", "competition"), -(-problems // 4))
    source = {"kind": "pocket", "name": "pocket", "seed": 17, "counts": counts}
    overrides = {"aggregate.sources": [source], "aggregate.test_problems": 0, "sample.num_samples": samples}
    return resolve(load_config("pocket", overrides))


def bare_engine(connection: Any, environment: dict[str, str], options: dict[str, Any]) -> None:
    """Run a plain engine that answers lists of (text, arguments of SamplingParams) until it receives None."""
    os.environ.update(environment, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM, SamplingParams

    engine = LLM(**options)
    connection.send("ready")
    while (requests := connection.recv()) is not None:
        texts = [text for text, _ in requests]
        params = [SamplingParams(**arguments) for _, arguments in requests]
        started = time.perf_counter()
        outputs = engine.generate(texts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        found = [(sample.text, len(sample.token_ids)) for output in outputs for sample in output.outputs]
        connection.send((seconds, found))


class Bare:
    """The bare engine, started with the settings of the teacher's actor."""

    def __init__(self, config: Config) -> None:
        role = config.models.teacher
        assert role.serve is not None
        folder = model_folder(role.model, PROJECT_ROOT)
        on_cpu = device_is_cpu()
        environment = engine_environment(role.serve, local=folder is not None, on_cpu=on_cpu, engines=1)
        options = engine_options(role, role.serve, str(folder or role.model), "raw", on_cpu=on_cpu)
        self._config, self._folder = config, folder
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=bare_engine, args=(theirs, environment, options), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def requests(self, rows: Sequence[Problem]) -> Requests:
        """Return the rendered prompts with their sampling parameters, for the bare call."""
        from transformers import AutoTokenizer

        role, sampling = self._config.models.teacher, self._config.sample.sampling
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(self._folder or role.model), trust_remote_code=False
        )
        requests: Requests = []
        for row in rows:
            prompt = sample_prompt(row, RECIPE)
            text = tokenizer.apply_chat_template(
                [dict(message) for message in prompt.messages], tokenize=False, add_generation_prompt=True,
                enable_thinking=role.thinking,
            )  # fmt: skip
            free_tokens = role.max_model_len - len(tokenizer.encode(text, add_special_tokens=False))
            arguments = sampling.model_dump() | {
                "n": self._config.sample.num_samples, "seed": prompt.seed, "logprobs": 0,
                "max_tokens": min(sampling.max_tokens, free_tokens),
            }  # fmt: skip
            requests.append((text, arguments))
        return requests

    def run(self, requests: Requests, side: str) -> Measurement:
        """Call `generate` once; the side `text` requests no log-probabilities."""
        dropped, cpu = {"text": "logprobs"}.get(side), cpu_seconds()
        self._connection.send(
            [
                (text, {name: value for name, value in given.items() if name != dropped})
                for text, given in requests
            ]
        )
        seconds, found = self._connection.recv()
        cpu = cpu_seconds() - cpu
        texts = tuple(text for text, _ in found)
        return Measurement(
            side=side, seconds=seconds, cpu=cpu, tokens=sum(count for _, count in found), texts=texts
        )

    def close(self) -> None:
        """End the engine's process."""
        self._connection.send(None)
        self._process.join()


def measure_stage(rows: Sequence[Problem], config: Config, sampler: Lazy[TeacherSampler]) -> Measurement:
    """Run the stage's own function with an empty ledger."""
    identity = model_identity(config.models.teacher.model, None, PROJECT_ROOT)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        run = Run(config=config, store=Store(Path(folder)), identities={"teacher": identity})
        started, cpu = time.perf_counter(), cpu_seconds()
        samples, _ = sampled(rows, run, RECIPE, sampler, ledger, lambda _done: None)
        ledger.flush()
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    responses = [item for row in rows for item in samples[row.id]]
    good = [item for item in responses if isinstance(item, Response)]
    assert len(good) == len(responses), "a problem could not be sampled"
    tokens = sum(item.token_count for item in good)
    texts = tuple(item.text for item in good)
    return Measurement(side="stage", seconds=seconds, cpu=cpu, tokens=tokens, texts=texts)


def report(measurements: Sequence[Measurement], samples: int) -> str:
    """Return whether all passes gave the same texts, and the stage's throughput relative to the other sides."""
    sides = {
        side: [one for one in measurements if one.side == side]
        for side in dict.fromkeys(one.side for one in measurements)
    }
    same = all(one.texts == measurements[0].texts for one in measurements)
    texts = len(measurements[0].texts)
    lines = [
        f"{texts // samples:,} problems x {samples} samples, identical texts in every pass: {'yes' if same else 'NO'}"
    ]
    stage = sides.pop("stage", [])
    for side, found in sides.items() if stage else ():
        wall = fmean(one.seconds for one in found) / fmean(one.seconds for one in stage)
        cpu = fmean(one.cpu for one in found) / fmean(one.cpu for one in stage)
        lines.append(f"the stage reaches {wall:.1%} of the throughput of {side}; {cpu:.1%} per CPU second")
    return "\n".join(lines)


def main() -> None:
    """Print the figures of every pass and the stage's throughput relative to the bare engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--order", nargs="+", choices=SIDES, default=["bare", "stage", "stage", "bare"])
    arguments = parser.parse_args()
    config = settings(arguments.problems, arguments.samples)
    outcomes = load(config.aggregate.sources[0]).outcomes
    rows = [row for row in outcomes if isinstance(row, Problem)][: arguments.problems]
    role = config.models.teacher

    def open_sampler() -> TeacherSampler:
        return TeacherSampler(role, root=PROJECT_ROOT, identity="teacher")

    bare = Bare(config)
    requests = bare.requests(rows)
    with Lazy(open_sampler) as sampler:

        def measure_once(side: str, count: int) -> Measurement:
            if side == "stage":
                return measure_stage(rows[:count], config, sampler)
            return bare.run(requests[:count], side)

        for side in dict.fromkeys(arguments.order):
            measure_once(side, WARM_UP)
        measurements: list[Measurement] = []
        for side in arguments.order:
            measurements.append(measure_once(side, len(rows)))
            print(measurements[-1].line(), flush=True)
    bare.close()
    print(report(measurements, arguments.samples))


if __name__ == "__main__":
    main()
