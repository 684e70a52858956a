"""Overhead of the client for model servers: CPU per request, memory, and utilisation of the concurrency limit.

    PYTHONPATH=. python speed/request_path.py cost --candidates 10000
    PYTHONPATH=. python speed/request_path.py latency --requests 30000 --seconds 2 --cap 256

A scripted OpenAI-compatible server in a separate process answers immediately or after a fixed time. `cost` takes seeds on disk
through the stages evolve and judge like a run, but without Prefect: requests are planned, sent, parsed and written shard by
shard, with the ledger on disk. CPU is that of the client process, all threads, user and system. For comparison, another process
sends the same messages by a bare `asyncio.gather` over a default openai client, with a semaphore as the concurrency limit: no
ledger, no retries, no parsing of replies. If distilabel is installed in its own folder
(`pip install --target FOLDER "distilabel[openai]"`), `--distilabel FOLDER` adds its OpenAI client, batch by batch.

`latency` is measured on the server: the number of requests in progress (received but not yet answered), integrated over time and
divided by the concurrency limit times the client's wall time from its first request to its last answer, including the ramp-up
and the end. `evolve in shards` sends 5,000 requests at a time, like a run with `shard_rows: 5000`; `one stream` sends all.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, cast

import openai
import psutil
from openai.types.chat import ChatCompletionMessageParam

from tasks.config import Config, load_config
from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest
from tasks.llm.ledger import Ledger
from tasks.llm.turns import Turns
from tasks.problems.evolution_plan import planned_round
from tasks.rows import Problem, Role, Tier
from tasks.runtime import evolution
from tasks.runtime.chunks import shard_rows
from tasks.runtime.driver import Run, Shard, Stage
from tasks.runtime.models import RequestsAhead
from tasks.runtime.pending import Pending, rows_digest
from tasks.stages import judge
from tasks.storage.artifacts import Artifact, Store

MIB = 2**20
Answered = Sequence[tuple[Any, ChatOutcome]]
"""The items of a shard with the outcomes of their requests."""


@contextmanager
def server(seconds: float) -> Iterator[tuple[str, list[float]]]:
    """Start the server and yield its address and a list, to which its request-seconds are appended at the end of the block."""
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
            id=f"{number:016x}", text=text, tier=Tier.EASY, source="request_path", source_id=str(number), licence="none",
            role=Role.SEED, root_id=f"{number:016x}",
        )  # fmt: skip


def requests_of(run: Run, count: int) -> Iterator[ChatRequest]:
    """Yield evolve requests like those of the stage."""
    recipe = evolution.request_recipe(run)
    for row, child in planned_round(list(parents(count)), 1, run.config.evolve):
        yield evolution.request(row, child, run.config, recipe)


def seeds_on_disk(store: Store, count: int, size: int) -> Artifact:
    """Write `count` seeds as an artifact with shards of `size` rows."""
    folder, rows = store.folder("seeds", "seeds"), parents(count)
    for index in range(-(-count // size)):
        part = list(islice(rows, size))
        shard = Shard(incoming=len(part), tables={"problems": (Problem, part)})
        store.write_shard(folder, index, shard.tables, {"counts": shard.counts("problems")})
    return store.finish("seeds", "seeds", -(-count // size), {})


class Account:
    """Memory of this process, recorded when 10% and when all rows of a stage are done."""

    def __init__(self, count: int) -> None:
        self._marks, self.memory = (count // 10, count), dict[str, float]()
        self._left: dict[str, tuple[int, ...]] = {}

    def note(self, stage: str, done: int) -> None:
        """Record the memory if due. Call it after every shard, with the number of rows done so far."""
        while self._left.get(stage, self._marks)[:1] and done >= self._left.get(stage, self._marks)[0]:
            self.memory[f"{stage} {done:,}"] = psutil.Process().memory_info().rss / MIB
            self._left[stage] = self._left.get(stage, self._marks)[1:]


def evolved(run: Run, seeds: Artifact, model: ChatModel, account: Account) -> Artifact:
    """Run round 1 of the stage evolve, on disk."""
    stage = Stage(name="evolve-1", version=1, settings={}, inputs=(seeds,))
    evolution_round, recipe = evolution.EvolutionRound(run, seeds, 1), evolution.request_recipe(run)
    pending = Pending(run.store, stage, lambda index: rows_digest(evolution_round.shard(index)))

    def requests_of(index: int) -> tuple[evolution.Plan, list[ChatRequest]]:
        part = evolution_round.shard(index)
        return part, [evolution.request(*pair, run.config, recipe) for pair in part]

    def results(pairs: Answered) -> Shard:
        return evolution.collect(
            [evolution.evolved(parent, child, reply, run) for (parent, child), reply in pairs]
        )

    return in_shards(
        run, stage, model, requests_of, lambda: len(evolution_round.sizes), pending, results, account
    )


def judged(run: Run, candidates: Artifact, model: ChatModel, account: Account) -> Artifact:
    """Run the stage judge, on disk."""
    stage = Stage(name="judge", version=1, settings={}, inputs=(candidates,))
    pending = Pending(run.store, stage, lambda index: run.store.table_digest(candidates, index, "problems"))
    count = run.store.record(candidates)["num_shards"]

    def requests_of(index: int) -> tuple[list[Problem], list[ChatRequest]]:
        rows = shard_rows(run.store, candidates, index, "problems", Problem)
        return rows, [judge.request(row, run) for row in rows]

    def results(pairs: Answered) -> Shard:
        return judge.collect([judge.judged(row, reply, run) for row, reply in pairs])

    return in_shards(run, stage, model, requests_of, lambda: count, pending, results, account)


def in_shards(
    run: Run, stage: Stage, model: ChatModel, requests_of: Any, count: Callable[[], int], pending: Pending,
    results: Callable[[Answered], Shard], account: Account,
) -> Artifact:  # fmt: skip
    """Do what `run_shards` does for a stage that calls a model."""
    folder, done = run.store.folder(stage.name, stage.fingerprint), 0
    with Turns(lambda: model) as turns:
        ahead = RequestsAhead(turns, requests_of, count, pending)
        for index in range(count()):
            shard = results(ahead.outcomes(index, lambda _done: None))
            record = {"counts": shard.counts("problems"), "key": pending.key(index)}
            run.store.write_shard(folder, index, shard.tables, record)
            done += shard.incoming
            account.note(stage.name.split("-")[0], done)
    return run.store.finish(stage.name, stage.fingerprint, count(), {}, inputs=stage.inputs)


def request_path(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """Evolve and judge `count` candidates; return CPU and memory of this process."""
    config, account = settings(url, cap), Account(count)
    identities = {"evolver": "scripted@1", "quality_judge": "scripted@1"}
    run = Run(config=config, store=Store(folder), identities=identities)
    seeds = seeds_on_disk(run.store, count, config.run.shard_rows)
    with Ledger(run.ledger_path) as ledger:
        evolver, judges = (
            ChatModel(config.models.evolver, url, "scripted", "scripted@1", ledger) for _ in range(2)
        )
        began, cpu = time.perf_counter(), time.process_time()
        kept = judged(run, evolved(run, seeds, evolver, account), judges, account).num_rows
        used, wall = time.process_time() - cpu, time.perf_counter() - began
    sent = evolver.usage.attempts + judges.usage.attempts
    assert kept == count and sent == 2 * count == evolver.usage.completions + judges.usage.completions
    return {"sent": sent, "cpu_ms": 1000 * used / sent, "seconds": wall, "memory": account.memory}


def bare(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """Send the same evolve messages by `asyncio.gather` over the openai client."""
    config = settings(url, cap)
    run = Run(config=config, store=Store(folder), identities={"evolver": "scripted@1"})
    requests = list(requests_of(run, count))

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

    began, cpu = time.perf_counter(), time.process_time()
    sent = asyncio.run(everything())
    return peer_figures(sent, cpu=time.process_time() - cpu, wall=time.perf_counter() - began)


def peer_figures(sent: int, *, cpu: float, wall: float) -> dict[str, Any]:
    """Return the figures of a comparison that sent `sent` requests in `cpu` CPU seconds and `wall` seconds."""
    memory = {f"peak at {sent:,}": peak_mib()}
    return {"sent": sent, "cpu_ms": 1000 * cpu / sent, "seconds": wall, "memory": memory}


def distilabel(url: str, count: int, cap: int, folder: Path, *, library: str) -> dict[str, Any]:
    """Send the same messages by distilabel's client for OpenAI-compatible servers, in batches of `cap`. The replies are
    discarded."""
    run = Run(config=settings(url, cap), store=Store(folder), identities={"evolver": "scripted@1"})
    flow, sent = (list(request.messages) for request in requests_of(run, count)), 0
    sys.path.append(library)  # this environment's packages take precedence
    client = import_module("distilabel.models.llms").OpenAILLM(
        model="scripted", base_url=url, api_key="EMPTY"
    )
    client.load()
    began, cpu = time.perf_counter(), time.process_time()
    while batch := list(islice(flow, cap)):
        replies = client.generate_outputs(batch, max_new_tokens=2048, temperature=0.7)
        sent += sum(reply["generations"][0] is not None for reply in replies)
    return peer_figures(sent, cpu=time.process_time() - cpu, wall=time.perf_counter() - began)


def one_stream(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """Send all evolve requests in one call of `complete` of the adaptive client."""

    async def everything(model: ChatModel, run: Run) -> int:
        return sum([1 async for _ in model.complete(requests_of(run, count))])

    return patient(url, cap, folder, lambda model, run: asyncio.run(everything(model, run)))


def shard_by_shard(url: str, count: int, cap: int, folder: Path) -> dict[str, Any]:
    """Send the same requests 5,000 at a time, like the stages: the next 5,000 begin when the last of these has been sent."""

    def everything(model: ChatModel, run: Run) -> int:
        """Send all shards one after another."""
        flow = list(requests_of(run, count))
        with Turns(lambda: model) as turns:
            parts = [turns.ask(flow[start : start + 5_000]) for start in range(0, len(flow), 5_000)]
            return sum(len(part.wait(lambda _done: None)) for part in parts)

    return patient(url, cap, folder, everything)


def patient(url: str, cap: int, folder: Path, everything: Callable[[ChatModel, Run], int]) -> dict[str, Any]:
    """Return the figures of `everything`, a function that returns the number of answered requests."""
    config = settings(url, cap)
    run = Run(config=config, store=Store(folder), identities={"evolver": "scripted@1"})
    with Ledger(run.ledger_path) as ledger:
        model = ChatModel(config.models.evolver, url, "scripted", "scripted@1", ledger)
        began, cpu = time.perf_counter(), time.process_time()
        sent = everything(model, run)
        used, wall = time.process_time() - cpu, time.perf_counter() - began
    memory = {f"peak at {sent:,}": peak_mib()}
    return {"sent": sent, "cpu_ms": 1000 * used / sent, "seconds": wall, "memory": memory}


def peak_mib() -> float:
    """Return the peak memory of this process (getrusage would include its parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def apart(way: Any, url: str, count: int, cap: int) -> dict[str, Any]:
    """Call a function in a separate process, to measure its memory alone."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(way, (url, count, cap, Path(folder)))


def show(name: str, found: dict[str, Any]) -> None:
    memory = ", ".join(f"{when}: {mib:.0f} MiB" for when, mib in found["memory"].items())
    print(
        f"{name:<22}{found['sent']:>9,} requests {found['cpu_ms']:6.2f} ms CPU each "
        f"{found['sent'] / found['seconds']:7.0f}/s  {memory}"
    )


def main() -> None:
    """Parse the arguments, run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("cost", "latency"))
    parser.add_argument(
        "--candidates", type=int, default=10_000, help="for `cost`: a multiple of 5,000; two requests each"
    )
    parser.add_argument("--requests", type=int, default=30_000, help="for `latency`")
    parser.add_argument("--seconds", type=float, default=2.0, help="the server's latency")
    parser.add_argument("--cap", type=int, default=256)
    parser.add_argument("--distilabel", metavar="FOLDER", help="for `cost`: folder with distilabel")
    arguments = parser.parse_args()
    if arguments.what == "cost":
        with server(0.0) as (url, _):
            show("evolve + judge", apart(request_path, url, arguments.candidates, arguments.cap))
            few = min(arguments.candidates, 2_000)
            show("bare gather", apart(bare, url, few, arguments.cap))
            if arguments.distilabel is not None:
                way = partial(distilabel, library=arguments.distilabel)
                show("distilabel", apart(way, url, few, arguments.cap))
        return
    few = min(arguments.requests, 10_000)
    ways = (one_stream, arguments.requests), (shard_by_shard, arguments.requests), (bare, few)
    for name, (way, count) in zip(("one stream", "evolve in shards", "bare gather"), ways, strict=True):
        with server(arguments.seconds) as (url, busy):
            found = apart(way, url, count, arguments.cap)
        show(name, found)
        share = busy[0] / (arguments.cap * found["seconds"])
        print(
            f"{'':<22}{share:.1%} of the concurrency limit used over {found['seconds']:.0f} s, including ramp-up and end"
        )


if __name__ == "__main__":
    main()
