"""Every command on a read-only output folder ends in sentences before it starts anything, and so does every writer on a disk that
is read-only, full or without inodes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.storage.mounts import run_with_mounts

COMMANDS = """
import io, json, os, sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, "scripts")
import annotate, build
from tests.storage.mounts import mount

def refuse(*_, **__):
    raise AssertionError("Prefect was started")

build.started_prefect = annotate.served = refuse
place = Path(sys.argv[1])
mount(place, "ro")
problems = os.environ["PROBLEMS"]
for root in (place, place / "new" / "folder"):
    overrides = {"run.output": str(root), "distill": None, "aggregate.test_problems": 2, "aggregate.sources": [
        {"kind": "pocket", "name": name, "role": role, "counts": {"easy": 2}}
        for name, role in (("pocket", "seed"), ("curated", "curated"))
    ]}
    os.environ |= {"OVERRIDES": json.dumps(overrides), "FILE": problems, "OUT": str(root / "mine"), "COLUMNS": "text=problem"}
    for name, command in {
        **{name: lambda name=name: build.main([name]) for name in ("build", "plan", "validate")},
        "annotate": lambda: annotate.main(["own"]), "reannotate": lambda: annotate.main(["stale"]),
    }.items():
        with redirect_stdout(io.StringIO()) as out:
            status = command()
        print(json.dumps([name, str(root), status, out.getvalue()]))
"""


@pytest.mark.timeout(300)
def test_a_read_only_output_folder_is_reported_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "What is 17 plus 25, minus the number of days of a week?"}\n')
    monkeypatch.setenv("PROBLEMS", str(problems))
    printed = run_with_mounts(COMMANDS, tmp_path / "disk")
    found = [json.loads(line) for line in printed.splitlines()]
    assert len(found) == 10
    for name, root, status, text in found:
        lines = [line for line in text.splitlines() if "Read-only file system" in line]
        assert status == 1 and len(lines) == 1 and "Traceback" not in text, (name, text)
        assert lines[0].startswith("sure-math: ") and "choose another" in lines[0], (name, text)
        assert str(Path(root).parents[1] if name == "plan" and "new" in root else root) in lines[0], (
            name,
            text,
        )


WRITERS = """
import json, os, sys
from pathlib import Path

from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.processes.jobs import local_lines
from tasks.rows import Selected
from tasks.storage.artifacts import Store
from tasks.storage.dataset import write_dataset
from tasks.storage.locks import take_lock
from tasks.storage.versions import write_latest
from tests.storage.mounts import mount
from tests.storage.test_dataset import EXAMPLES, RESPONSES, manifest
from training.evaluation.generation import Clock
from training.student import checkpoints

def ledger(place):
    with Ledger(place / "ledger.sqlite") as opened:
        for number in range(1_000):
            opened.put(str(number), {"text": os.urandom(900).hex()})

def shard(place):
    store = Store(place)
    rows = [Selected(problem_id=os.urandom(900).hex(), split="train") for _ in range(1_000)]
    counts = {"counts": {"in": 1_000, "kept": 1_000, "rejected": {}}}
    store.write_shard(store.folder("rules", "cd" * 32), 0, {"problems": (Selected, rows)}, counts)

def checkpoint(place):
    with checkpoints.writing(place / "checkpoints", 1, {"seed": 7}, keep=1) as folder:
        (folder / "weights").write_bytes(os.urandom(3_000_000))

def clock(place):
    with Clock(place / "clock.jsonl").running():
        pass

writers = {
    "ledger": ledger, "shard": shard, "checkpoint": checkpoint, "clock": clock,
    "job": lambda place: list(local_lines(["true"], folder=Path.cwd(), environment={}, log=place / "logs" / "job.log")),
    "lock": lambda place: take_lock(place / "run.lock"),
    "latest": lambda place: write_latest(place, {"dataset": "dataset", "report": "report.html", "counts": {}}),
    "dataset": lambda place: write_dataset(place / "dataset", EXAMPLES, RESPONSES, manifest()),
}
for kind, options in {"read-only": "ro", "full": "size=1m", "no-inodes": "size=8m,nr_inodes=2"}.items():
    place = Path(sys.argv[1]) / kind
    mount(place, options)
    if kind != "read-only":
        try:
            (place / "filler").write_bytes(bytes(1_100_000 if kind == "full" else 1))
        except OSError:
            pass
    for name, write in writers.items():
        try:
            write(place)
            sentence = None
        except UserError as error:
            sentence = str(error)
        print(json.dumps([kind, name, sentence]))
"""


@pytest.mark.timeout(300)
def test_every_writer_ends_in_a_sentence_that_names_the_file(tmp_path: Path) -> None:
    printed = run_with_mounts(WRITERS, tmp_path)
    found = {(kind, name): sentence for kind, name, sentence in map(json.loads, printed.splitlines())}
    assert len(found) == 3 * 8
    reasons = {
        "read-only": r"Read-only file system|ledger.sqlite cannot be used: put it in a writable folder",
        "full": "disk is full",
        "no-inodes": "no free inodes|No space left|ledger.sqlite cannot be used: put it in a writable folder",
    }
    fits = {
        ("full", name) for name in ("lock", "job")
    }  # an empty file needs no space, and a broken log stops nothing
    for (kind, name), sentence in found.items():
        if (kind, name) not in fits:
            assert sentence is not None and re.search(reasons[kind], sentence), (kind, name, sentence)
            assert str(tmp_path / kind) in sentence and "\n" not in sentence, (kind, name, sentence)
