"""The annotation of a user's problems and of stale rows, with a scripted teacher that counts its requests, and once with a
real teacher."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from flows.annotate import annotate
from flows.reannotate import reannotate
from prompts import load_prompt
from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.rows import Example
from tasks.stages.opening import open_run
from tasks.storage.artifacts import digest
from tasks.storage.dataset import read_dataset
from tasks.storage.locks import alone
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import Changes, latest, write_version
from tests.reports.page import Page
from tests.scripted_server import ScriptedServer, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

N = 4
TEXTS = [f"Compute {number} + 1." for number in range(20)]


def asked(text: str) -> str:
    """The message to the teacher for a problem."""
    return str(load_prompt("teacher/solve").render(problem=text)[-1]["content"])


def replies_of(*answers: object) -> list[str]:
    """Replies to successive requests; the last one repeats."""
    return [f"ok:It is \\boxed{{{answer}}}." for answer in answers]


@dataclass(frozen=True)
class Desk:
    """A folder with a file of 20 problems, and their scripted teacher."""

    server: ScriptedServer
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def overrides(self, **more: object) -> dict[str, Any]:
        reached = {"serve": None, "base_url": self.server.base_url}
        settings = {
            "models.teacher": reached,
            "models.equivalence_judge": reached,
            "sample.num_samples": N,
            "run.output": str(self.out),
        }
        return {**settings, **more}

    def file(self, texts: list[str], name: str = "mine.csv") -> str:
        rows = [[f"q{n}", text, n + 1] for n, text in enumerate(texts)]
        return self.table(["number", "question", "final"], rows, name)

    def table(self, header: list[str], rows: list[list[object]], name: str) -> str:
        with (self.folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return str(self.folder / name)

    def annotate(self) -> Path:
        columns = {"text": "question", "answer": "final"}
        problems = self.file(TEXTS)
        return Path(
            annotate(problems, str(self.out), overrides=self.overrides(), columns=columns, licence="mit")
        )

    def reannotate(self, problems: str | None = None, **more: object) -> Path:
        return Path(reannotate(overrides=self.overrides(**more), problems=problems))

    @property
    def requests(self) -> int:
        return sum(self.server.counts.values())

    def entries(self) -> int:
        with Ledger(self.out / "ledger.sqlite") as ledger:
            return len(ledger)

    def drift(self) -> dict[str, Any]:
        note = json.loads((self.out / "latest.json").read_text())
        return json.loads((self.out / note["drift"]).with_suffix(".json").read_text())


@contextmanager
def desk(folder: Path, script: Mapping[str, list[str]]) -> Iterator[Desk]:
    with running(script, models=("pocket/teacher", "pocket/student", "pocket/judge")) as server:
        yield Desk(server=server, folder=folder)


def row_of(dataset: Path, text: str) -> Example:
    return next(row for row in read_dataset(dataset)[0] if row.problem == text)


def make_stale(dataset: Path, text: str) -> Example:
    """Change a row so that an older teacher appears to have annotated it."""
    old, row = dataset.with_name("before"), row_of(dataset, text)
    dataset.rename(old)
    dataset.mkdir()
    stale = replace(
        row, teacher_model="older:1", sampling_fingerprint="0" * 64, annotation_fingerprint="1" * 64
    )
    write_version(dataset, old, Changes(updated={row.id: stale}), read_manifest(old))
    return row


def forget(out: Path) -> None:
    """Remove artifacts and ledger, so that every response has to be requested again."""
    shutil.rmtree(out / "artifacts")
    for file in out.glob("ledger.sqlite*"):
        file.unlink()


def script() -> dict[str, list[str]]:
    """Right answers; for problem 1 the teacher answers 2, 2, 2, 3 first and 2 from then on."""
    replies = {asked(text): replies_of(number + 1) for number, text in enumerate(TEXTS)}
    return replies | {asked(TEXTS[1]): replies_of(2, 2, 2, 3, 2), asked("Compute 50 + 1."): replies_of(51)}


def test_own_problems_become_a_dataset_and_a_second_run_sends_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        assert mine.requests == 20 * N and dataset == mine.out / "dataset"
        assert "THE TEACHER POCKET/TEACHER IS A TOY" in caplog.text
        before = digest(dataset)
        assert mine.annotate() == dataset and mine.requests == 20 * N
        with pytest.raises(UserError, match="out was made by make annotate of mine, and make annotate of"):
            annotate(
                mine.file(TEXTS, "other.csv"),
                str(mine.out),
                overrides=mine.overrides(),
                columns={"text": "question"},
            )
        with pytest.raises(UserError, match="out was made by make annotate of mine, and make build would"):
            open_run("pocket", {"run.output": str(mine.out)}).__enter__()
        assert digest(dataset) == before
    opened: Any = load_dataset(str(dataset), cache_dir=str(tmp_path / "cache"))
    assert opened["train"]["problem"] == TEXTS
    assert [json.loads(extra) for extra in opened["train"]["extra"]] == [
        {"number": f"q{n}"} for n in range(20)
    ]
    rows = {row["problem"]: row for row in opened["train"]}
    assert set(rows) == set(TEXTS) and {row["role"] for row in rows.values()} == {"given"}
    sure, unsure = rows[TEXTS[0]], rows[TEXTS[1]]
    assert (sure["weight"], sure["majority_answer"], sure["majority_correct"], sure["licence"]) == (
        1.0,
        "1",
        True,
        "mit",
    )
    # every token has the same log-probabilities, so p = (3/4, 1/4): w = 1 - H / ln 4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert unsure["weight"] == pytest.approx(1 - entropy / math.log(4), abs=1e-12)
    manifest = read_manifest(dataset)
    assert [stage.stage for stage in manifest.stages] == ["problems", "sample", "cluster"]
    assert {row["annotation_fingerprint"] for row in rows.values()} == {manifest.annotation["annotation"]}
    card = (dataset / "README.md").read_text()
    assert (
        "not compared with any benchmark" in card and "evolver model" not in card and "license: mit" in card
    )
    assert Page((mine.out / "report.html").read_text()).foreign_scripts == []


def test_an_invalid_file_is_reported_before_the_teacher_gets_a_request(tmp_path: Path) -> None:
    with desk(tmp_path, {}) as mine:
        (tmp_path / "bad.csv").write_text("text,tier\nHow many?,easy\nHow much?,silly\n")
        with pytest.raises(UserError, match=r"bad\.csv, line 3 has the tier 'silly': use one of"):
            annotate(str(tmp_path / "bad.csv"), str(mine.out), overrides=mine.overrides())
        assert mine.requests == 0 and not mine.out.exists()


def test_one_stale_row_of_twenty_costs_a_twentieth_of_the_requests(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        whole, paid = mine.entries(), mine.requests
        before = make_stale(dataset, TEXTS[1])
        old_bytes = digest(dataset)
        forget(mine.out)
        new = mine.reannotate()
        assert mine.requests - paid == N == paid / 20
        assert mine.entries() == whole / 20
        assert new.parents[1] == mine.out / "versions" and digest(dataset) == old_bytes
        assert latest(mine.out)["dataset"] == str(new)
        after = row_of(new, TEXTS[1])
        assert (after.weight, after.teacher_model) == (
            1.0,
            before.teacher_model,
        )  # the answer is now 2 four times
        others = [
            [row for row in read_dataset(folder)[0] if row.problem != TEXTS[1]] for folder in (dataset, new)
        ]
        assert others[0] == others[1]
        found = mine.drift()
        assert found["causes"] == {"teacher": 1} and found["annotated_again"] == 1 and found["problems"] == 20
        assert found["cost"]["sampled"] == 1 and found["cost"]["responses"] == N
        assert found["cost"]["sent"] == mine.entries()
        (mover,) = found["largest_movers"]
        assert (
            mover["change"] == pytest.approx(1.0 - before.weight)
            and mover["old_right"]
            and mover["new_right"]
        )
        assert (
            read_manifest(new).stages[-1].stage == "reannotate-1" and read_manifest(new).stages[-1].kept == 20
        )
        assert len(load_dataset(str(new), cache_dir=str(tmp_path / "cache"))["train"]) == 20
        assert "Compute 1 + 1." in (new.parent / "drift.html").read_text()


def test_rows_with_one_text_are_paid_once_and_all_come_back_also_when_they_are_stale(tmp_path: Path) -> None:
    def rows_of(dataset: Path) -> list[tuple[str, str, bool | None, float]]:
        found = read_dataset(dataset)[0]
        return [(row.source_id, row.problem, row.majority_correct, row.weight) for row in found]

    with desk(tmp_path, script()) as mine:
        rows: list[list[object]] = [
            ["c", TEXTS[1], 2], ["a", TEXTS[2], 3], ["b", TEXTS[1], 5], ["a", TEXTS[3], ""],
        ]  # fmt: skip
        path = mine.table(["id", "text", "answer"], rows, "mine.csv")
        dataset = Path(annotate(path, str(mine.out), overrides=mine.overrides()))
        assert mine.requests == 3 * N
        first = rows_of(dataset)
        assert [row[1:3] for row in first] == [
            (TEXTS[1], True), (TEXTS[2], True), (TEXTS[1], False), (TEXTS[3], None),
        ]  # fmt: skip
        assert [row[0] for row in first][::2] == ["c", "b"] and len({row[0] for row in first}) == 4
        assert first[0][3] == first[2][3] < 1.0 and len(read_dataset(dataset)[1]) == 4 * N
        new = mine.reannotate(**{"models.teacher.model": "pocket/student"})
        assert mine.requests == 6 * N
        again = rows_of(new)
        assert [row[:3] for row in again] == [row[:3] for row in first] and {row[3] for row in again} == {1.0}


def test_without_stale_rows_no_request_is_sent_and_the_dataset_is_unchanged(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        seen, note = mine.requests, (mine.out / "latest.json").read_bytes()
        assert mine.reannotate() == dataset
        # no row has a judged pair, so another judge makes no row stale
        assert mine.reannotate(**{"models.equivalence_judge.model": "pocket/teacher"}) == dataset
        # known problems are not new, whatever their case and spacing
        known = mine.file([f"  {text.upper()} " for text in TEXTS[:3]], "known.csv").replace(
            "question", "text"
        )
        Path(known).write_text(Path(known).read_text().replace("question,final", "text,answer"))
        assert mine.reannotate(problems=known) == dataset
        assert mine.requests == seen and (mine.out / "latest.json").read_bytes() == note
        assert not (mine.out / "versions").exists()


def test_a_new_problem_and_new_clusters_need_no_repeated_requests(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        paid = mine.requests
        (tmp_path / "more.jsonl").write_text(json.dumps({"text": "Compute 50 + 1.", "answer": "51"}) + "\n")
        grown = mine.reannotate(problems=str(tmp_path / "more.jsonl"))
        assert mine.requests - paid == N and row_of(grown, "Compute 50 + 1.").majority_correct
        assert mine.drift()["files"] == {"shared": 2, "written": 2} and mine.drift()["causes"] == {"new": 1}
        assert (grown / "data/train-00000-of-00002.parquet").samefile(
            dataset / "data/train-00000-of-00001.parquet"
        )
        again = mine.reannotate(**{"cluster.unparsed": "one"})
        assert mine.requests - paid == N and mine.drift()["causes"] == {"clustering": 21}
        for file in sorted((again / "responses").iterdir()):
            assert file.samefile(grown / "responses" / file.name)
        assert [stage.stage for stage in read_manifest(again).stages[-2:]] == ["reannotate-1", "reannotate-2"]
        assert mine.reannotate(**{"cluster.unparsed": "one"}) == again


def test_a_second_run_in_the_same_folder_fails_at_once_and_changes_nothing(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        make_stale(dataset, TEXTS[0])
        before = hashlib.sha256((mine.out / "latest.json").read_bytes()).digest(), mine.requests
        held = alone(mine.out / "run.lock", "a re-annotation")
        with (
            held,
            pytest.raises(UserError, match=r"a re-annotation is already running .* has changed nothing"),
        ):
            mine.reannotate()
        assert before == (hashlib.sha256((mine.out / "latest.json").read_bytes()).digest(), mine.requests)


def test_a_failing_teacher_removes_no_rows(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        note = (mine.out / "latest.json").read_bytes()
        mine.server.script.update({asked(text): ["400"] for text in TEXTS})
        with pytest.raises(
            UserError, match=r"20 of 20 rows could not be annotated again .*model_error.*: 20"
        ):
            mine.reannotate(**{"models.teacher.model": "pocket/student"})
        assert (mine.out / "latest.json").read_bytes() == note and len(read_dataset(dataset)[0]) == 20


@pytest.mark.long
def test_the_real_teacher_is_started_for_one_stale_row(tmp_path: Path) -> None:
    with desk(tmp_path, script()) as mine:
        dataset = mine.annotate()
        make_stale(dataset, TEXTS[1])
        forget(mine.out)
        served: Any = {
            "base_url": None,
            "serve": {"kv_cache_gib": 1, "max_num_seqs": 8, "health_timeout_s": 240},
        }
        asked_before = mine.requests
        new = mine.reannotate(**{"models.teacher": served})
        judged = [body["model"] for body in mine.server.bodies[asked_before:]]
        assert set(judged) <= {"pocket/judge"} and mine.entries() == 1 + len(judged)
        rows, responses = read_dataset(new)
        row = row_of(new, TEXTS[1])
        fresh = [one for one in responses if one.problem_id == row.id]
        assert (
            len(rows) == 20 and len(fresh) == N and "It is" not in fresh[0].text and fresh[0].token_count > 3
        )
        assert mine.drift()["cost"]["sampled"] == 1
