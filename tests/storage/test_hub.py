"""Data sets are read from a hub (a small local server of the real protocol) or from local files; errors are `UserError`s."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.hub import COMMIT, HubSplit, commit, files_digest, hub_rows, local_files, local_rows, reach
from tests.hub_server import Repo, serve

# --- local files -------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    return folder


def found(path: Path, *words: str, alone: bool = False) -> list[str]:
    return [str(file.relative_to(path)) for file in local_files("s", path, words, alone=alone)]


def test_a_part_is_found_by_the_components_of_its_path(tmp_path: Path) -> None:
    touch(
        tmp_path, "algebra/train.jsonl", "train/algebra/7.json", "algebra/train-00000-of-00001.parquet",
        "algebra/test.jsonl", "algebra/train.txt", "geometry/train.jsonl", "intermediate_algebra/train.jsonl",
    )  # fmt: skip
    wanted = ["algebra/train-00000-of-00001.parquet", "algebra/train.jsonl", "train/algebra/7.json"]
    assert found(tmp_path, "algebra", "train") == wanted
    assert found(tmp_path, "algebra", "train", alone=True) == wanted


def test_the_only_part_of_a_source_may_have_any_name(tmp_path: Path) -> None:
    folder = touch(tmp_path / "a", "whatever.jsonl")
    assert found(folder, "train", alone=True) == ["whatever.jsonl"]
    file = folder / "whatever.jsonl"
    assert local_files("s", file, ("train",), alone=True) == (file,)
    for path in (folder, file):
        with pytest.raises(UserError, match=r"Source s: .* has no .* file for train"):
            local_files("s", path, ("train",), alone=False)


def test_a_missing_or_unsuitable_path_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Source s: .*nowhere does not exist: correct the path"):
        local_files("s", tmp_path / "nowhere", ("train",), alone=True)
    with pytest.raises(UserError, match=r"has no \.json, \.jsonl, \.parquet file"):
        local_files("s", touch(tmp_path, "x.csv") / "x.csv", ("train",), alone=True)


ROWS = [{"a": 1, "b": ["x", "y"]}, {"a": 2, "b": []}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("x.json", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("x.json", json.dumps(ROWS)),
        ("x.json", "\n" + json.dumps(ROWS, indent=2)),
        ("x.JSON", "\n" + json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1])),
    ],
)
def test_every_form_of_json_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert list(local_rows(tmp_path / name)) == ROWS


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text(json.dumps(ROWS[0], indent=2))
    assert list(local_rows(tmp_path / "7.json")) == ROWS[:1]


def test_only_the_requested_columns_of_parquet_files_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert list(local_rows(tmp_path / "x.parquet")) == ROWS
    assert list(local_rows(tmp_path / "x.parquet", ("a", "none"))) == [{"a": 1}, {"a": 2}]
    assert list(local_rows(tmp_path / "x.parquet", ("none",))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.json", "[1, 2]", r"x\.json, entry 1 is not a JSON object"),
        ("x.json", "[{}", r"x\.json is not valid JSON"),
        ("x.json", "", r"x\.json is not valid JSON"),
        ("x.jsonl", "{}\n{", r"x\.jsonl, line 2 is not valid JSON"),
        ("x.parquet", "PAR1", r"x\.parquet is not a readable Parquet file"),
    ],
)
def test_a_damaged_file_is_a_user_error(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        list(local_rows(tmp_path / name))


def test_the_digest_covers_names_and_contents(tmp_path: Path) -> None:
    files = tuple(touch(tmp_path, "a.jsonl", "b.jsonl") / name for name in ("a.jsonl", "b.jsonl"))
    first = files_digest(files, tmp_path)
    assert first == files_digest(files, tmp_path) != files_digest(files[:1], tmp_path)
    (tmp_path / "b.jsonl").write_text("{} \n")
    assert files_digest(files, tmp_path) != first
    assert files_digest(files[:1], files[0]) == files_digest(files[:1], tmp_path)


# --- an unreachable hub ------------------------------------------------------------------------------------------

SPLIT = HubSplit(source="mine", hub_id="somebody/set", config=None, split="train")


def test_a_commit_is_returned_without_a_request() -> None:
    assert commit("mine", "somebody/set", "0123456789" * 4) == "0123456789" * 4
    assert not COMMIT.fullmatch("main") and not COMMIT.fullmatch("0123456")


def test_an_unreachable_hub_is_a_user_error_with_source_and_remedy() -> None:
    # the tests run with HF_HUB_OFFLINE=1
    sentence = (
        r"Source mine: somebody/set cannot be reached.*check the network,"
        r" or give a local copy .* `path` of the source 'mine'"
    )
    for ask in (
        lambda: commit("mine", "somebody/set", None),
        lambda: reach("mine", "somebody/set", "0" * 40),
        lambda: next(hub_rows(SPLIT, "0" * 40)),
    ):
        with pytest.raises(UserError, match=sentence):
            ask()


# --- a hub on this machine ---------------------------------------------------------------------------------------

CARD = b"""---
license: mit
configs:
- config_name: first
  data_files:
  - split: train
    path: first/train-*
- config_name: second
  data_files:
  - split: test
    path: second/*.jsonl
---
"""
TOKEN = "hf_a-token-that-nobody-may-see"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=100)
    return buffer.getvalue()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


REPOS = {
    "a/cards": Repo(
        "a" * 40,
        {
            "README.md": CARD,
            "first/train-00000-of-00002.parquet": parquet([{"n": n, "more": "x"} for n in range(250)]),
            "first/train-00001-of-00002.parquet": parquet([{"n": n, "more": "y"} for n in range(250, 300)]),
            "second/part.jsonl": lines([{"n": n} for n in range(3)]),
        },
    ),
    "a/plain": Repo("b" * 40, {"train.json": lines([{"n": n, "text": "é" * 50_000} for n in range(60)])}),
    "a/script": Repo("c" * 40, {"script.py": b"open('ran', 'w')", "train.jsonl": b'{"n": 0}\n'}),
    "a/csv": Repo("d" * 40, {"train.csv": b"n\n1\n"}),
}
WORK = """
import json, sys
from tasks.errors import UserError
from tasks.storage.hub import HubSplit, commit, hub_rows

def asked(hub_id, config, split, revision, columns):
    try:
        at = commit("mine", hub_id, revision)
        rows = list(hub_rows(HubSplit(source="mine", hub_id=hub_id, config=config, split=split), at, columns))
        return {"commit": at, "numbers": [row.get("n") for row in rows], "first": sorted(rows[0])}
    except UserError as error:
        return str(error)

def first_only(hub_id):
    rows = hub_rows(HubSplit(source="mine", hub_id=hub_id, config="first", split="train"), "a" * 40)
    return next(rows)

results = [asked(*case) for case in json.loads(sys.argv[1])]
print(json.dumps({"results": results, "first": first_only("a/cards"), "torch": "torch" in sys.modules}))
"""
CASES: dict[str, tuple[str, str | None, str, str | None, list[str]]] = {
    "parquet": ("a/cards", "first", "train", None, ["n"]),
    "jsonl": ("a/cards", "second", "test", "main", []),
    "json": ("a/plain", None, "train", "b" * 40, []),
    "no split": ("a/cards", "first", "test", None, []),
    "no config": ("a/cards", "third", "train", None, []),
    "no revision": ("a/cards", "first", "train", "e" * 40, []),
    "no branch": ("a/cards", "first", "train", "dev", []),
    "no data set": ("a/nothing", None, "train", None, []),
    "script": ("a/script", None, "train", None, []),
    "csv": ("a/csv", None, "train", None, []),
}


@dataclass(frozen=True)
class Asked:
    """What a separate process read from the hub, and the requests that the hub received."""

    results: dict[str, Any]
    first: dict[str, Any]
    torch: bool
    home: Path
    output: str
    tokens: set[str | None]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    home = tmp_path_factory.mktemp("home")
    (home / "token").write_text("hf_a-token-on-disk")
    with serve(REPOS) as hub:
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "PYTHONPATH": str(PROJECT_ROOT),
        }  # fmt: skip
        process = subprocess.run(
            [sys.executable, "-c", WORK, json.dumps(list(CASES.values()))],
            env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr[-3000:]
        reported = json.loads(process.stdout.splitlines()[-1])
        yield Asked(
            results=dict(zip(CASES, reported["results"], strict=True)), first=reported["first"], torch=reported["torch"],
            home=home, output=process.stdout + process.stderr, tokens={token for _, _, token in hub.asked},
        )  # fmt: skip


def test_a_split_of_a_configuration_is_read_in_the_order_of_its_files(asked: Asked) -> None:
    assert asked.results["parquet"] == {"commit": "a" * 40, "numbers": list(range(300)), "first": ["n"]}
    assert asked.results["jsonl"] == {"commit": "a" * 40, "numbers": [0, 1, 2], "first": ["n"]}
    assert asked.results["json"] == {"commit": "b" * 40, "numbers": list(range(60)), "first": ["n", "text"]}


def test_reading_only_the_first_row_ends_cleanly_and_does_not_import_torch(asked: Asked) -> None:
    assert asked.first == {"n": 0, "more": "x"} and not asked.torch


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            "no split",
            "a/cards (first) is not available from the Hugging Face hub (ValueError: it has no split 'test'",
        ),
        (
            "no config",
            "a/cards (third) is not available from the Hugging Face hub (ValueError: BuilderConfig 'third'",
        ),
        ("no revision", "a/cards (first) is not available from the Hugging Face hub"),
        ("no branch", "a/cards is not available from the Hugging Face hub (RevisionNotFoundError"),
        ("no data set", "a/nothing is not available from the Hugging Face hub (RepositoryNotFoundError"),
        ("script", "a/script is not available from the Hugging Face hub (RuntimeError: Dataset scripts"),
        ("csv", "train.csv is not a .json, .jsonl, .parquet file; other types are not supported"),
    ],
)
def test_a_request_that_the_hub_rejects_is_a_user_error(asked: Asked, case: str, sentence: str) -> None:
    reported = asked.results[case]
    assert isinstance(reported, str) and sentence in reported, reported
    assert reported.startswith("Source mine: ") and reported.endswith("as `path` of the source 'mine'.")


def test_no_code_of_a_data_set_is_executed(asked: Asked) -> None:
    assert not (asked.home / "ran").exists()


def test_the_token_is_sent_to_the_hub_and_appears_in_no_message(asked: Asked) -> None:
    assert asked.tokens <= {f"Bearer {TOKEN}", None} and f"Bearer {TOKEN}" in asked.tokens
    assert TOKEN not in asked.output and TOKEN not in json.dumps(asked.results)
