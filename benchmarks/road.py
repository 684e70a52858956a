"""What the road to a model server costs: CPU per request, memory, and how much of the allowed concurrency is in use.

    PYTHONPATH=. python benchmarks/road.py cost --candidates 10000
    PYTHONPATH=. python benchmarks/road.py latency --requests 20000 --seconds 2 --cap 256

A scripted OpenAI-compatible server in a process of its own answers at once, or after some seconds. `cost` drives the real
requests and readers of the stages evolve and judge over it, shard by shard, with the ledger on disk; CPU is the client
process's own, all threads. Beside it, in a process of its own too, a bare `asyncio.gather` over the openai client sends the
same messages, with a semaphore for the cap and nothing else: no ledger, no retries, no reading of replies.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import openai
import psutil
from openai.types.chat import ChatCompletionMessageParam

from tasks.core.config import Config, load_config
from tasks.core.evolution_plan import children
from tasks.core.rows import Problem, Role, Tier
from tasks.io.artifacts import Store
from tasks.io.chat import ChatModel, ChatRequest
from tasks.io.ledger import Ledger
from tasks.stages import evolve, judge
from tasks.stages.driver import Run
from tasks.stages.models import ask

MIB = 2**20


@contextmanager
def server(seconds: float) -> Iterator[tuple[str, list[float]]]:
    """The server's address, and a list that holds the request-seconds it has seen after the block."""
    command = [sys.executable, str(Path(__file__).with_name("instant_server.py")), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        busy: list[float] = []
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1", busy
        finally:
            process.stdin.close()
            busy.append(float(process.stdout.readline()))


def settings(url: str, cap: int) -> Config:
    role = {"model": "scripted", "base_url": url, "serve": None, "concurrency": cap}
    roles = ("evolver", "quality_judge", "teacher", "equivalence_judge")
    models = {f"models.{name}": role for name in roles}
    return load_config("pocket", {**models, "evolve.branches": dict.fromkeys(Tier, 1)})


def parents(count: int) -> Iterator[Problem]:
    for number in range(count):
        text = (
            f"A farmer packs {number} boxes with 24 apples each. He sells 5 boxes in the morning and 7 in the afternoon, and"
            " gives 11 apples to a neighbour. How many apples does the farmer have left at the end of the day?"
        )
        yield Problem(
            id=f"{number:016x}", text=text, tier=Tier.EASY, source="road", source_id=str(number), licence="none",
            role=Role.SEED, root_id=f"{number:016x}",
        )  # fmt: skip


def shards(run: Run, count: int, size: int) -> Iterator[list[ChatRequest]]:
    """Evolve requests, shard by shard, as the stage makes them."""
    recipe, rows = evolve.request_recipe(run), parents(count)
    for _ in range(0, count, size):
        chunk = list(islice(rows, size))
        yield [
            evolve.request(row, child, run.config, recipe)
            for row in chunk
            for child in children(row, 1, run.config.evolve)
        ]


def road(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """Evolve and judge `count` candidates; CPU and memory of this process."""
    config = settings(url, cap)
    run = Run(
        config=config,
        store=Store(folder),
        identities=dict.fromkeys(("evolver", "quality_judge"), "scripted@1"),
    )
    recipe, size, rows = evolve.request_recipe(run), config.run.shard_rows, parents(count)
    memory: dict[int, float] = {}
    kept, done = 0, 0
    with Ledger(run.ledger_path) as ledger:
        evolver, judges = (
            ChatModel(config.models.evolver, url, "scripted", "scripted@1", ledger) for _ in range(2)
        )
        began, cpu = time.perf_counter(), cpu_seconds()
        while part := list(islice(rows, size)):
            plan = [(row, child) for row in part for child in children(row, 1, config.evolve)]
            requests = [evolve.request(row, child, config, recipe) for row, child in plan]
            replies = ask(evolver, requests, lambda _done: None)
            results = [evolve.evolved(*pair, reply, run) for pair, reply in zip(plan, replies, strict=True)]
            candidates = evolve.collect(results).tables["problems"][1]
            verdicts = ask(judges, [judge.request(row, run) for row in candidates], lambda _done: None)
            marks = [judge.judged(row, reply, run) for row, reply in zip(candidates, verdicts, strict=True)]
            kept += len(judge.collect(marks).tables["problems"][1])
            done += len(part)
            if done in (count // 10, count):
                memory[done] = psutil.Process().memory_info().rss / MIB
        used, wall = cpu_seconds() - cpu, time.perf_counter() - began
    sent = evolver.usage.attempts + judges.usage.attempts
    return {"sent": sent, "kept": kept, "cpu_ms": 1000 * used / sent, "seconds": wall, "memory": memory}


def bare(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """The same evolve messages through `asyncio.gather` of the openai client."""
    config = settings(url, cap)
    run = Run(config=config, store=Store(folder), identities={"evolver": "scripted@1"})
    requests = [request for shard in shards(run, count, 500) for request in shard]

    async def everything() -> int:
        client = openai.AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=0, timeout=600.0)
        places = asyncio.Semaphore(cap)

        async def one(request: ChatRequest) -> str | None:
            async with places:
                reply = await client.chat.completions.create(
                    model="scripted",
                    messages=cast("list[ChatCompletionMessageParam]", request.messages),
                    temperature=0.7,
                    max_tokens=2048,
                    seed=request.seed,
                )
            return reply.choices[0].message.content

        return len(await asyncio.gather(*map(one, requests)))

    began, cpu = time.perf_counter(), cpu_seconds()
    sent = asyncio.run(everything())
    used, wall = cpu_seconds() - cpu, time.perf_counter() - began
    return {"sent": sent, "cpu_ms": 1000 * used / sent, "seconds": wall, "memory": {sent: peak_mib()}}


def patient(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """One long `complete` of evolve requests through the adaptive client."""
    config = settings(url, cap)
    run = Run(config=config, store=Store(folder), identities={"evolver": "scripted@1"})

    async def everything(model: ChatModel) -> int:
        flow = (request for shard in shards(run, count, 500) for request in shard)
        return sum([1 async for _ in model.complete(flow)])

    with Ledger(run.ledger_path) as ledger:
        model = ChatModel(config.models.evolver, url, "scripted", "scripted@1", ledger)
        began, cpu = time.perf_counter(), cpu_seconds()
        sent = asyncio.run(everything(model))
        used, wall = cpu_seconds() - cpu, time.perf_counter() - began
    return {"sent": sent, "cpu_ms": 1000 * used / sent, "seconds": wall, "memory": {sent: peak_mib()}}


def cpu_seconds() -> float:
    return sum(os.times()[:2])


def peak_mib() -> float:
    """Most memory that this process ever held (getrusage would count its parent's, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def apart(way: Any, url: str, count: int, cap: int) -> dict[str, Any]:
    """Run in a process of its own, so that its memory is its own."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(way, (url, count, cap, Path(folder)))


def show(name: str, found: dict[str, Any]) -> None:
    memory = ", ".join(f"{mib:.0f} MiB at {done:,}" for done, mib in found["memory"].items())
    print(
        f"{name:<22}{found['sent']:>9,} requests {found['cpu_ms']:6.2f} ms CPU each "
        f"{found['sent'] / found['seconds']:7.0f}/s  {memory}"
    )


def main() -> None:
    """Read the arguments, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("cost", "latency"))
    parser.add_argument(
        "--candidates", type=int, default=10_000, help="of `cost`, a multiple of 5,000; each is two requests"
    )
    parser.add_argument("--requests", type=int, default=20_000, help="of `latency`")
    parser.add_argument("--seconds", type=float, default=2.0, help="the server's latency")
    parser.add_argument("--cap", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.what == "cost":
        with server(0.0) as (url, _):
            show("evolve + judge", apart(road, url, arguments.candidates, arguments.cap))
            show("bare gather", apart(bare, url, min(arguments.candidates, 2_000), arguments.cap))
        return
    for name, way in (("adaptive client", patient), ("bare gather", bare)):
        with server(arguments.seconds) as (url, busy):
            found = apart(way, url, arguments.requests, arguments.cap)
        show(name, found)
        share = busy[0] / (arguments.cap * found["seconds"])
        print(f"{'':<22}{share:.1%} of the cap in use over the whole run")


if __name__ == "__main__":
    main()
