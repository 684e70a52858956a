"""The data of the report's script: every row once, the details in chunks, and never more than fits."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.reports import explorer
from tasks.reports.explorer import CHUNK, EXPORTED, PREVIEW, REJECTED, SEED, Pool, pack
from tasks.reports.mathml import Typesetter
from tasks.reports.report import write_report
from tasks.rows import Reason, Reject
from tasks.storage.cards import CARDS
from tests.reports import test_report as report
from tests.reports.page import Page

FAMILY = report.FAMILY
DATA = report.make_data(CHUNK + 20)


def decoded(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def reject(name: str, stage: str, reason: Reason, text: str = "a text") -> Reject:
    return Reject(problem_id=name, stage=stage, reason=reason, detail="why", text=text)


REJECTS = [
    reject("seed", "evolve-1", Reason.ECHO, "a reply"),
    reject("a", "deduplicate", Reason.NEAR_DUPLICATE),
    reject("unknown", "aggregate", Reason.OTHER_LANGUAGE, "un texte"),
]
POOL = Pool(
    examples=DATA.examples,
    responses=DATA.responses,
    truths=DATA.truths or {},
    others=FAMILY[:3],
    rejects=REJECTS,
)


def test_every_problem_is_listed_once_with_its_state_and_reason() -> None:
    packed = pack(POOL, Typesetter())
    rows = decoded(packed.scripts["index"])
    assert [row["id"] for row in rows[: len(DATA.examples)]] == [row.id for row in DATA.examples]
    others = [
        (row["id"], row["s"], row.get("why"), row["t"], row.get("parent"))
        for row in rows[len(DATA.examples) :]
    ]
    assert others == [
        ("reject-1", REJECTED, "echo", "a reply", "seed"),
        ("a", REJECTED, "near duplicate", FAMILY[1].text, "seed"),
        ("reject-3", REJECTED, "other language", "un texte", "unknown"),
        ("seed", SEED, None, FAMILY[0].text, None),
        ("b", SEED, None, FAMILY[2].text, "seed"),
    ]
    assert packed.choices["state"] == {EXPORTED: CHUNK + 20, REJECTED: 3, SEED: 2} and packed.left_out == 0
    assert packed.choices["why"] == {"echo": 1, "near duplicate": 1, "other language": 1}
    assert sum(packed.choices["tier"].values()) == CHUNK + 24


def test_details_stand_at_the_place_of_their_row() -> None:
    packed = pack(POOL, Typesetter())
    assert set(packed.scripts) == {"index", "d0", "d1"}
    details = [one for name in ("d0", "d1") for one in decoded(packed.scripts[name])]
    assert len(details) == packed.rows
    for row, found in zip(DATA.examples, details, strict=False):
        own = [one for one in DATA.responses if one.problem_id == row.id]
        assert [(line[0], line[4]) for line in found["samples"]] == [
            (one.index + 1, one.token_count) for one in own
        ]
        assert sorted(line[3] for line in found["clusters"]) == sorted(
            round(float(p), 3) for p in row.cluster_probs
        )
        assert found["of"] == [8, len(row.cluster_probs)] and found["page"] == 0


def test_a_long_response_is_cut_and_whole_in_a_page_beside_the_report(tmp_path: Path) -> None:
    long = "word " * 100 + "END"
    responses = [
        replace(one, text=long) if one.problem_id == DATA.examples[1].id else one for one in DATA.responses
    ]
    write_report(tmp_path / "report.html", replace(DATA, responses=responses))
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["0001.html"]
    page = Page((tmp_path / "report" / "0001.html").read_text())
    assert page.broken == [] and page.open == [] and "script" not in page.tags
    assert page.words.count("END") == 8 and page.tags["article"] == 1
    packed = pack(replace(POOL, responses=responses), Typesetter())
    assert packed.beside == {DATA.examples[1].id: 1}
    sample = decoded(packed.scripts["d0"])[1]["samples"][0]
    assert sample[6] == long[:PREVIEW] and sample[7] == 1
    write_report(tmp_path / "report.html", DATA)
    assert list((tmp_path / "report").iterdir()) == []


def test_where_the_details_do_not_fit_they_are_in_pages_and_the_index_says_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = len(pack(POOL, Typesetter()).scripts["index"])
    monkeypatch.setattr(explorer, "MAX_BYTES", size)
    packed = pack(POOL, Typesetter())
    assert set(packed.scripts) == {"index", "pages"} and packed.left_out == 0
    assert decoded(packed.scripts["pages"]) == packed.beside
    assert [packed.beside[row.id] for row in DATA.examples] == [1] * CHUNK + [2] * 20
    monkeypatch.setattr(explorer, "MAX_BYTES", size // 2)
    packed = pack(POOL, Typesetter())
    assert len(packed.scripts["index"]) <= size // 2 and len(decoded(packed.scripts["index"])) == packed.rows
    assert packed.rows + packed.left_out == len(DATA.examples) + 5 and packed.left_out > 0
    monkeypatch.undo()
    monkeypatch.setattr(explorer, "MAX_PROBLEMS", len(DATA.examples) - 1)
    assert set(pack(POOL, Typesetter()).scripts) == {"index", "pages"}


def test_the_script_is_short_requests_nothing_and_makes_html_in_one_place() -> None:
    script = (CARDS / "report.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) <= 300
    assert not re.search(
        r"\b(?:fetch|XMLHttpRequest|WebSocket|import|eval|Function|outerHTML|insertAdjacentHTML)\b *\(",
        script,
    )
    assert script.count("innerHTML") == 1 and "http" not in script
    assert "</script" not in script and "<!--" not in script
