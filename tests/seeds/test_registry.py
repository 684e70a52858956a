"""Kinds of sources: each file is discovered, its settings are validated, and errors name the file with the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import seeds
from tasks.config import Config, load_config
from tasks.errors import UserError
from tasks.identity import fingerprint
from tasks.rows import Problem
from tasks.seeds import registry
from tasks.seeds.registry import kinds, load, resolve, source_digest

PUBLIC = (
    "scalequest", "numina_math_cot", "math", "omni_math", "olympiad_bench", "matharena", "amo_bench",
)  # fmt: skip


def configured(*sources: dict[str, Any], **overrides: Any) -> Config:
    return resolve(load_config("pocket", {"aggregate.sources": list(sources), **overrides}))


def test_every_source_of_the_paper_is_a_kind() -> None:
    assert {*PUBLIC, "benchmark", "file", "hub", "pocket"} == set(kinds())


@pytest.mark.parametrize("kind", PUBLIC)
def test_a_public_source_needs_only_its_kind(kind: str) -> None:
    source: Any = configured({"kind": kind}).aggregate.sources[0]
    assert source.name == source.kind == kind and source.licence and source.parts
    assert "path" not in source.identity() and source.identity()["tier"] in (
        "easy",
        "medium",
        "hard",
        "competition",
    )


def test_the_public_sources_are_those_of_the_paper() -> None:
    sources: Any = configured(*({"kind": kind} for kind in PUBLIC)).aggregate.sources
    reported = {source.kind: (source.tier.value, source.target, source.licence) for source in sources}
    assert reported == {
        "scalequest": ("easy", 15_000, "apache-2.0"),
        "numina_math_cot": ("medium", 10_000, "apache-2.0"),
        "math": ("medium", 12_500, "mit"),
        "omni_math": ("hard", 4_400, "apache-2.0"),
        "olympiad_bench": ("hard", 5_000, "apache-2.0"),
        "matharena": ("competition", None, "cc-by-nc-sa-4.0"),
        "amo_bench": ("competition", None, "mit"),
    }


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            {"kind": "nothing"},
            r"sources\.0\.kind: unknown kind 'nothing': choose one of amo_bench, ",
        ),
        (
            {"kind": "pocket", "colour": 1},
            r"sources\.0\.colour: unknown key; see tasks/seeds/pocket_source\.py",
        ),
        ({"kind": "file", "path": "x.jsonl", "tier": "easy"}, r"sources\.0\.name: this setting is missing"),
        ({"kind": "file", "name": "x", "path": "x.jsonl"}, r"sources\.0: set tier"),
        (
            {"kind": "math", "columns": {"colour": "c"}},
            r"columns has unknown key 'colour': use text, solution",
        ),
        (
            {"kind": "math", "revisions": {"a/b": "c"}},
            r"revisions has unknown data set 'a/b': use .*EleutherAI/hendrycks_math",
        ),
        ({"kind": "math", "target": 0}, r"sources\.0\.target: Input should be greater than 0"),
        ({"kind": "omni_math", "drop": ["rain"]}, r"sources\.0\.drop\.0: Input should be"),
        ({"kind": "scalequest", "role": "curated"}, r"sources\.0\.role: Input should be 'seed'"),
        (
            {"kind": "hub"},
            r"sources\.0\.name: this setting is missing \(and 2 more\); see tasks/seeds/any_hub\.py",
        ),
    ],
)
def test_an_invalid_setting_is_reported_in_one_sentence_with_key_and_file(
    source: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        configured(source)


def test_an_error_in_a_source_gives_its_index() -> None:
    with pytest.raises(UserError, match=r"aggregate\.sources\.1\.seeds: unknown key"):
        configured({"kind": "pocket"}, {"kind": "pocket", "name": "other", "seeds": 1})


def test_two_sources_with_one_name_are_rejected_on_loading() -> None:
    for pair in (
        [{"kind": "math"}, {"kind": "math"}],
        [{"kind": "math"}, {"kind": "pocket", "name": "math"}],
    ):
        with pytest.raises(UserError, match="two sources have the name 'math'"):
            load_config("pocket", {"aggregate.sources": pair})


def test_resolving_again_changes_nothing_and_the_whole_config_can_be_dumped() -> None:
    config = configured({"kind": "pocket", "counts": {"easy": 2}}, {"kind": "amo_bench"})
    assert resolve(config) == config
    written = config.model_dump(mode="json")["aggregate"]["sources"]
    assert written[0]["counts"] == {"easy": 2} and written[1]["licence"] == "mit"


def test_implicit_and_explicit_defaults_have_the_same_fingerprint() -> None:
    def identity(source: dict[str, Any]) -> str:
        return fingerprint(stage="s", version=1, settings=configured(source).aggregate.identity())

    short = identity({"kind": "olympiad_bench"})
    assert identity({"kind": "olympiad_bench", "target": 5000, "path": "somewhere"}) == short
    assert identity({"kind": "olympiad_bench", "target": 4999}) != short
    assert identity({"kind": "olympiad_bench", "drop": ["figure"]}) != short


def test_an_unresolved_source_is_rejected() -> None:
    with pytest.raises(TypeError, match="is not resolved"):
        load(load_config("pocket").aggregate.sources[0])


def test_the_pocket_source_loads_as_before() -> None:
    source = configured({"kind": "pocket", "seed": 3, "counts": {"easy": 2, "hard": 1}}).aggregate.sources[0]
    loaded = load(source)
    assert [str(row.tier) for row in loaded.outcomes if isinstance(row, Problem)] == ["easy", "easy", "hard"]
    assert (loaded.seen, loaded.target, source_digest(source)) == (3, None, "pocket-2/3")


def test_a_local_file_needs_no_code_and_has_answers_only_if_curated(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"q": "What is 1+1?", "a": 2}\n{"q": "What is 1+2?", "a": 3}\n')
    entry = {
        "kind": "file", "name": "mine", "path": str(tmp_path / "mine.jsonl"), "tier": "hard", "licence": "mit",
        "columns": {"text": "q", "answer": "a"}, "benchmark": True,
    }  # fmt: skip
    for role, answers in (("seed", [None, None]), ("curated", ["2", "3"])):
        source = configured({**entry, "role": role}).aggregate.sources[0]
        registry.check(source)
        rows = [row for row in load(source).outcomes if isinstance(row, Problem)]
        assert [(row.answer, row.role, row.benchmark_root) for row in rows] == [
            (one, role, True) for one in answers
        ]
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write('{"q": ""}\n')
    with pytest.raises(UserError, match=r"mine\.jsonl, line 3"):
        registry.check(configured(entry).aggregate.sources[0])


def test_an_inserted_line_does_not_change_other_ids(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    entry = {
        "kind": "file",
        "name": "mine",
        "path": str(path),
        "tier": "hard",
        "licence": "mit",
        "columns": {"text": "q"},
    }

    def ids(*texts: str) -> list[str]:
        path.write_text("".join(json.dumps({"q": text}) + "\n" for text in texts), encoding="utf-8")
        loaded = load(configured(entry).aggregate.sources[0])
        return [row.id for row in loaded.outcomes if isinstance(row, Problem)]

    one, two = ids("What is 1+1?", "What is 1+2?")
    assert one != two and ids("What is 0+1?", "What is 1+1?", "What is 1+2?")[1:] == [one, two]


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    kinds.cache_clear()
    yield
    kinds.cache_clear()


NEW_FILE = """
from typing import Literal
from tasks.rows import Tier
from tasks.seeds.hub_source import Found, HubSource, HubPart, hub_kind, written

class Settings(HubSource):
    kind: Literal["brand_new"] = "brand_new"
    name: str = "brand_new"
    column_names = {"text": "question"}
    parts: tuple[HubPart, ...] = (HubPart(hub_id="somebody/new", split="train"),)
    tier: Tier = Tier.EASY
    licence: str = "mit"
    target: int | None = 3

SOURCE = hub_kind(Settings, lambda values, source, part: Found(text=written(values["text"])))
"""


@pytest.mark.usefixtures("fresh_registry")
def test_a_new_file_in_the_folder_is_a_new_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brand_new_source.py").write_text(NEW_FILE)
    (tmp_path / "rows.jsonl").write_text('{"question": "What is 1+1?"}\n{"question": "What is 1+2?"}\n')
    monkeypatch.setattr(seeds, "__path__", [*seeds.__path__, str(tmp_path)])
    source = configured({"kind": "brand_new", "path": str(tmp_path / "rows.jsonl")}).aggregate.sources[0]
    loaded = registry.load(source)
    assert {row.text for row in loaded.outcomes} == {"What is 1+1?", "What is 1+2?"} and loaded.shortfall == 1
