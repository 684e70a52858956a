"""Recovery of a run of 20,000 candidates from twenty `kill -9`, and the work that is redone after one change.

    PYTHONPATH=. python speed/kills.py gsm8k_train.jsonl FOLDER whole
    PYTHONPATH=. python speed/kills.py gsm8k_train.jsonl FOLDER kill --kills 20
    PYTHONPATH=. python speed/kills.py gsm8k_train.jsonl FOLDER change
    PYTHONPATH=. python speed/kills.py pocket FOLDER pairs --candidates 2000 --pairs 13

The first argument is a file of problems, or `pocket` for generated ones. A run of 2,000 candidates that is killed 100 times takes
half an hour on two quiet cores: `whole`, then `kill --kills 100`, both with `--candidates 2000`. Kills of a training run are in
`resume.py`.

The flow of flows/build.py runs from the questions of the file to the dataset. All models are served by `steady_server.py`, whose
replies depend only on the request; every run is a separate process on one Prefect server.

- `whole` runs the flow without interruption.
- `kill` repeatedly starts it in another folder and sends SIGKILL at a random time after its first new request or shard, then lets
  it finish. The dataset must have the same bytes, and no request that was in the ledger at a kill may be received again.
- `pairs` starts two runs with different settings in one folder at once, a second apart at most. One of them must be refused, no
  request may be received twice, and `config.json` must be that of the other one.
- `change` copies the output of the uninterrupted run and runs the flow on it after one change: a seed, a prompt, the export.

A part that was stopped by `--seconds` continues when it is started again. All parts run a copy of the code, so that the original
may be changed meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket.world.generate import problem
from tasks.config import PROJECT_ROOT
from tasks.llm.ledger import BATCH, Ledger
from tasks.rows import Tier
from tasks.storage.artifacts import digest

PROJECT_FOLDERS = ("configs", "data_cards", "flows", "pocket", "prompts", "speed", "tasks", "training")
CAP = 64  # requests in flight
RECORD = 9  # bytes of one received request, see steady_server.py
KINDS = {"e": "evolve", "j": "judge", "s": "sample"}
CHANGES = ("nothing", "one seed", "one seed more", "evolution prompt", "judge prompt", "export")
BEGINS = re.compile(r"Beginning flow run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The files of this benchmark: its folder, the file of seed problems, and the column of their texts."""

    root: Path
    seeds: Path
    column: str

    @property
    def project(self) -> Path:
        """The copy of the code."""
        return self.root / "project"

    @property
    def notes(self) -> Path:
        """The results of earlier parts."""
        return self.root / "notes.json"

    def read_notes(self) -> dict[str, Any]:
        return json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.exists() else {}

    def write_notes(self, **notes: Any) -> None:
        self.notes.write_text(json.dumps(self.read_notes() | notes, indent=2) + "\n", encoding="utf-8")


# --- servers and flow processes ----------------------------------------------------------------------------------


@contextmanager
def prefect_server(place: Place) -> Iterator[str]:
    """Start a Prefect server for the duration of the block and yield its API address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    home = {"PREFECT_HOME": str(place.root / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    log = (place.root / "prefect.log").open("ab")
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.processes.supervisor", "--", sys.executable, "-m", *command],
        stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | home,
    )  # fmt: skip
    try:
        api = f"http://127.0.0.1:{port}/api"
        while process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=2):
                break
            time.sleep(0.3)
        yield api
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


@contextmanager
def model_server(place: Place, received: Path) -> Iterator[str]:
    """Start the scripted server, which records every request in `received`, and yield its address."""
    command = [sys.executable, "speed/steady_server.py", str(place.seeds), place.column, str(received)]
    with subprocess.Popen(
        command, cwd=place.project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.stdin.close()


def settings(place: Place, output: Path, url: str, candidates: int) -> dict[str, Any]:
    """Return overrides of the pocket profile: two evolution rounds from `candidates` / 4 seeds, all models at `url`."""
    role = {"model": "scripted", "base_url": url, "serve": None, "concurrency": CAP}
    seeds = {
        "kind": "file", "name": "seeds", "path": str(place.seeds), "columns": {"text": place.column}, "tier": "medium",
        "licence": "mit", "limit": candidates // 4,
    }  # fmt: skip
    return {
        **{f"models.{name}": role for name in ("evolver", "quality_judge", "teacher", "equivalence_judge")},
        "models.teacher.model": "pocket/teacher",
        "run.output": str(output), "run.shard_rows": max(20, candidates // 20), "run.cpu_workers": 1,
        "aggregate.sources": [seeds],
        "aggregate.test_problems": 0, "evolve.branches": dict.fromkeys(Tier, 2), "evolve.rounds": dict.fromkeys(Tier, 2),
        "decontam.benchmarks": [],
        "select.target": 300, "distill": None,
    }  # fmt: skip


def start(project: Path, api: str, overrides: dict[str, Any]) -> subprocess.Popen[str]:
    """Start the flow in a separate process."""
    code = (
        f"import json; from flows.build import build; build('pocket', json.loads({json.dumps(overrides)!r}))"
    )
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Wait for a flow to finish. Return the seconds since the flow run began, and its log."""
    assert process.stdout is not None
    lines, began = [], time.monotonic()
    for line in process.stdout:
        lines.append(line)
        if BEGINS.search(line):
            began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit("".join(lines[-30:]))
    return time.monotonic() - began, "".join(lines)


def killed(process: subprocess.Popen[str], seconds: float, work: Callable[[], tuple[int, int]]) -> str | None:
    """Kill a flow `seconds` after `work` first changed. Return its last log line, or None if it had already finished."""
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    before = work()
    while process.poll() is None and work() == before:
        time.sleep(0.02)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    over = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    reader.join()
    if over and process.returncode != 0:
        raise SystemExit("".join(lines[-30:]))
    return None if over else lines[-1].split("|")[-1].strip()


def work_done(output: Path, received: Path) -> tuple[int, int]:
    """Return the bytes of the received requests' records and the number of written shards."""
    size = received.stat().st_size if received.exists() else 0
    return size, sum(1 for _ in (output / "artifacts").glob("*/shard-*"))


# --- received requests and ledger entries ------------------------------------------------------------------------


def requests_in(received: Path, start: int = 0) -> list[tuple[int, str]]:
    """Return (hash, kind) of the requests received by the server, from index `start` on."""
    data = received.read_bytes() if received.exists() else b""
    places = range(start * RECORD, len(data) - RECORD + 1, RECORD)
    return [(int.from_bytes(data[at : at + 8], "big"), chr(data[at + 8])) for at in places]


def ledgered(output: Path) -> set[int]:
    """Return the hashes of the requests whose answers are in the ledger, except those of the stage sample, which stores all
    samples of a problem as one entry."""
    path = output / "ledger.sqlite"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path, timeout=60)) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM entries")]
    with Ledger(path) as ledger:
        values = ledger.get_many(keys).values()
    return {value["prompt_tokens"] for value in values if "prompt_tokens" in value}


# --- the parts ---------------------------------------------------------------------------------------------------


def whole(place: Place, candidates: int) -> None:
    """Run the flow without interruption and record its results."""
    output, received = place.root / "whole", place.root / "whole.received"
    with prefect_server(place) as api, model_server(place, received) as url:
        seconds, _ = finished(start(place.project, api, settings(place, output, url, candidates)))
    kinds = Counter(KINDS[kind] for _, kind in requests_in(received))
    place.write_notes(seconds=seconds, requests=dict(kinds), digest=digest(output / "dataset"))
    print(f"uninterrupted: {seconds:.0f} s, requests {dict(kinds)}")


def kill(place: Place, candidates: int, kills: int, seed: int, until: float) -> None:
    """Kill the flow `kills` times and print a line for each, then finish and compare the run, unless the time is over."""
    notes = place.read_notes()
    output, received = place.root / "killed", place.root / "killed.received"
    table: list[dict[str, Any]] = notes.get("kills", [])
    known = {number for row in table for number in row["ledgered"]}
    with prefect_server(place) as api, model_server(place, received) as url:
        overrides = settings(place, output, url, candidates)
        while len(table) < kills and time.monotonic() < until:
            before = len(requests_in(received))
            seconds = 2 * notes["seconds"] / (kills + 4) * random.Random(seed + len(table)).random()
            last = killed(start(place.project, api, overrides), seconds, lambda: work_done(output, received))
            if last is None:
                print("the run finished before this kill")
                break
            time.sleep(0.3)  # the server records requests in flight
            table.append(after_kill(output, received, before, known, seconds, last))
            known |= set(table[-1]["ledgered"])
            place.write_notes(kills=table)
            row = table[-1]
            print(
                f"kill {len(table):>2} after {seconds:4.1f} s: {row['received']:>6,} received, {row['repeated']:>4} of them"
                f" repeated, {row['from_ledger']} already in the ledger; ledger has {len(known):>6,}; {last[:60]}",
                flush=True,
            )
        if time.monotonic() < until:
            before = len(requests_in(received))
            finished(start(place.project, api, overrides))
            compare(place, table, requests_in(received), before, known)


def after_kill(
    output: Path, received: Path, before: int, known: set[int], seconds: float, last: str
) -> dict[str, Any]:
    """Return counts for one session: requests received, received before, received although in the ledger, and the hashes that
    the ledger gained."""
    everything = requests_in(received)
    earlier, session = {number for number, _ in everything[:before]}, [n for n, _ in everything[before:]]
    return {
        "seconds": seconds, "last": last, "received": len(session), "repeated": sum(n in earlier for n in session),
        "from_ledger": sum(n in known for n in session), "ledgered": sorted(ledgered(output) - known),
    }  # fmt: skip


def compare(
    place: Place, table: list[dict[str, Any]], everything: list[tuple[int, str]], before: int, known: set[int]
) -> None:
    """Record and print the totals over all sessions, and whether the dataset is that of the uninterrupted run."""
    earlier = {number for number, _ in everything[:before]}
    again = [row["repeated"] for row in table] + [sum(number in earlier for number, _ in everything[before:])]
    from_ledger = sum(number in known for number, _ in everything[before:])
    from_ledger += sum(row["from_ledger"] for row in table)
    same = digest(place.root / "killed" / "dataset") == place.read_notes()["digest"]
    place.write_notes(outcome={"same": same, "repeated": max(again), "from_ledger": from_ledger})
    print(
        f"finished after {len(table)} kills: dataset bytes {'are the same' if same else 'DIFFER'}; {len(everything):,} requests"
        f" received, {sum(again)} of them repeated, at most {max(again)} after one kill ({CAP} in flight, batches of {BATCH});"
        f" received although in the ledger: {from_ledger}"
    )


# --- two runs in one folder ----------------------------------------------------------------------------------------


def pairs(place: Place, candidates: int, count: int, seed: int) -> None:
    """Start `count` pairs of runs that differ in `select.target`, and print what became of each."""
    with prefect_server(place) as api:
        for number in range(count):
            clear_pair(place)
            wrong = pair(place, api, candidates, random.Random(seed + number).random())
            print(
                f"pair {number + 1:>2}: {'; '.join(wrong) or 'one run completed, the other was refused'}",
                flush=True,
            )


def clear_pair(place: Place) -> None:
    """Remove the output of an earlier pair."""
    shutil.rmtree(place.root / "pair", ignore_errors=True)
    (place.root / "pair.received").unlink(missing_ok=True)


def pair(place: Place, api: str, candidates: int, delay: float) -> list[str]:
    """Start two runs in one folder, the second after `delay` seconds, and return what is wrong."""
    output, received = place.root / "pair", place.root / "pair.received"
    with model_server(place, received) as url:
        runs = {}
        for target in (300, 301):
            chosen = settings(place, output, url, candidates) | {"select.target": target}
            runs[target] = start(place.project, api, chosen)
            time.sleep(delay)
        logs = {target: process.communicate()[0] for target, process in runs.items()}
    completed = [target for target, process in runs.items() if process.returncode == 0]
    refused = [target for target, log in logs.items() if "a build is already running in" in log]
    found = json.loads((output / "config.json").read_text(encoding="utf-8"))
    repeated = len(requests_in(received)) - len({number for number, _ in requests_in(received)})
    wrong = [] if len(completed) == 1 and set(runs) == {*completed, *refused} else [
        f"completed {completed}, refused {refused}: {[log[-300:] for log in logs.values()]}"
    ]  # fmt: skip
    wrong += [f"{repeated} requests were received twice"] if repeated else []
    return wrong + (
        [] if found["select"]["target"] in completed else ["config.json is that of the other run"]
    )


# --- after one change --------------------------------------------------------------------------------------------


def change(place: Place, candidates: int, until: float) -> None:
    """For each change that is not yet recorded, print the shards and requests that every stage redoes."""
    with prefect_server(place) as api:
        for name in CHANGES:
            done = place.read_notes().get("changes", [])
            if name not in done and time.monotonic() < until:
                changed(place, name, api, candidates)
                place.write_notes(changes=[*done, name])


def changed(place: Place, name: str, api: str, candidates: int) -> None:
    """Run the flow on a copy of the uninterrupted run's output after one change, and print the redone work."""
    folder = place.root / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place.root / "whole", folder / "output")
    shutil.copytree(place.project, folder / "project")
    mine = Place(root=folder, seeds=folder / "seeds.jsonl", column=place.column)
    lines = place.seeds.read_text(encoding="utf-8").splitlines()
    if name.startswith("one seed"):  # replace the middle one, or insert one before it
        middle = candidates // 8
        row = json.loads(lines[middle])
        new = json.dumps(row | {place.column: row[place.column] + " Give the answer as a number."})
        lines[middle : middle + (name == "one seed")] = [new]
    mine.seeds.write_text("\n".join(lines) + "\n", encoding="utf-8")
    edited = {"evolution prompt": "evolution/harder.md", "judge prompt": "judge/quality.md"}.get(name)
    if edited is not None:
        prompt = mine.project / "prompts" / edited
        prompt.write_text(prompt.read_text(encoding="utf-8").rstrip() + " Be brief.\n", encoding="utf-8")
    before = shards(folder / "output")
    received = folder / "received"
    with model_server(place, received) as url:
        overrides = settings(mine, folder / "output", url, candidates)
        if name == "export":
            overrides["export.report_problems"] = 5
        seconds, _ = finished(start(mine.project, api, overrides))
    print(f"\n{name} changed, {seconds:.0f} s:", flush=True)
    requests = Counter(KINDS[kind] for _, kind in requests_in(received))
    same = digest(folder / "output" / "dataset") == place.read_notes()["digest"]
    new = shards(folder / "output") - before
    for stage in dict.fromkeys(stage for stage, _ in sorted(before | new)):
        total = sum(one == stage for one, _ in new) or sum(one == stage for one, _ in before)
        made = sum(one == stage and not taken_over(shard) for one, shard in new)
        print(f"  {stage:<14} {made:>3} of {total:>3} shards written, {requests.get(stage, 0):>6,} requests")
    print(f"  dataset bytes {'are the same' if same else 'differ'}; requests {sum(requests.values())}")


def shards(output: Path) -> set[tuple[str, Path]]:
    """Return (stage, folder) of every shard. The rounds of evolution count as one stage."""
    folders = (output / "artifacts").glob("*/shard-*")
    return {(folder.parent.name.split("-")[0], folder) for folder in folders}


def taken_over(shard: Path) -> bool:
    """Return whether a shard was reused from an earlier run with the same content."""
    return "taken_from" in json.loads((shard / "record.json").read_text(encoding="utf-8"))


def main() -> None:
    """Parse the arguments and run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="JSON Lines; pocket: generated problems")
    parser.add_argument("folder", type=Path, help="working folder of the benchmark")
    parser.add_argument("part", choices=("whole", "kill", "pairs", "change"))
    parser.add_argument("--column", default="question")
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=13)
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing new after this time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    arguments = parser.parse_args()
    place = prepared(arguments.folder.resolve(), arguments.file, arguments.column, arguments.candidates)
    until = time.monotonic() + arguments.seconds
    if arguments.part == "whole":
        whole(place, arguments.candidates)
    elif arguments.part == "kill":
        kill(place, arguments.candidates, arguments.kills, arguments.seed, until)
    elif arguments.part == "pairs":
        pairs(place, arguments.candidates, arguments.pairs, arguments.seed)
    else:
        change(place, arguments.candidates, until)


def prepared(root: Path, file: str, column: str, candidates: int) -> Place:
    """Create the working folder: a copy of the code, and with `pocket` a file of generated problems."""
    root.mkdir(parents=True, exist_ok=True)
    place = Place(root=root, seeds=Path(file).resolve(), column=column)
    if file == "pocket":
        place = Place(root=root, seeds=root / "seeds.jsonl", column=column)
        texts = dict.fromkeys(problem(0, "hard", number).text for number in range(candidates))
        rows = [json.dumps({column: text}) for text in list(texts)[: candidates // 4]]
        place.seeds.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if not place.project.exists():
        for name in PROJECT_FOLDERS:
            shutil.copytree(PROJECT_ROOT / name, place.project / name)
    return place


if __name__ == "__main__":
    main()
