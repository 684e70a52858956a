"""The release folder of a dataset: it loads everywhere, and its papers agree with its rows."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.errors import UserError
from tasks.release.contract import check, read_built
from tasks.release.dataset_folder import Naming, write_dataset_release
from tasks.storage.dataset_card import seed_words
from tasks.storage.manifest import damage
from tests.release.small_release import rows, write_small
from tests.storage.test_dataset import digests

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"default": (6, 2), "decontaminated": (5, 2), "responses": (24, 8)}
BY_LICENCE = {
    "mit": (4, 2),
    "cc-by-nc-sa-4.0": (2, 0),
    "responses-mit": (16, 8),
    "responses-cc-by-nc-sa-4.0": (8, 0),
}


def released(folder: Path, version: str = "1.0.0", previous: Path | None = None, count: int = 8) -> Path:
    built = read_built(write_small(folder / "dataset", count))
    check(built)
    place = folder / f"dataset-{version}"
    write_dataset_release(place, built, Naming(version=version, repo="group/sure-math"), previous)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("release"))


def metadata(place: Path) -> dict[str, Any]:
    return yaml.safe_load((place / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def load(place: Path, cache: Path, config: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(place), config, cache_dir=str(cache))


@pytest.mark.parametrize(("config", "counts"), [*SPLITS.items(), *BY_LICENCE.items()])
def test_every_config_loads_with_the_rows_and_features_of_the_card(
    place: Path, tmp_path: Path, config: str, counts: tuple[int, int]
) -> None:
    import datasets

    found = load(place, tmp_path, config)
    assert (len(found["train"]), len(found["test"]) if "test" in found else 0) == counts
    (info,) = (one for one in metadata(place)["dataset_info"] if one["config_name"] == config)
    features = datasets.Features._from_yaml_list(info["features"])
    paths = [
        path
        for path in place.rglob("*.parquet")
        if (path.parts[-3] == "responses") == ("responses" in config)
    ]
    assert features == found["train"].features
    assert features == datasets.Features.from_arrow_schema(pq.read_schema(paths[0]))
    if "-" in config:
        licence = config.removeprefix("responses-")
        assert {row for part in found.values() for row in part["licence"]} == {licence}


def test_responses_have_the_problem_and_the_messages_that_the_teacher_saw(
    place: Path, tmp_path: Path
) -> None:
    found = load(place, tmp_path, "responses")["train"]
    texts = {row.id: row for listed in rows().values() for row, _ in listed}
    for row in found:
        problem = texts[row["problem_id"]]
        assert (row["problem"], row["weight"], row["tier"]) == (problem.problem, problem.weight, problem.tier)
        assert row["messages"] == [
            {
                "role": "user",
                "content": f"{problem.problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
            },
            {"role": "assistant", "content": row["text"]},
        ]
    assert sum(found["benchmark_overlap"]) == 4


def test_polars_and_duckdb_read_every_split(place: Path) -> None:
    for config, counts in (SPLITS | BY_LICENCE).items():
        (files,) = (one["data_files"] for one in metadata(place)["configs"] if one["config_name"] == config)
        for split, count in zip(("train", "test"), counts, strict=True):
            patterns = [str(place / path) for one in files if one["split"] == split for path in one["path"]]
            if not count:
                assert patterns == []
                continue
            assert len(polars.concat([polars.read_parquet(path) for path in patterns])) == count
            assert duckdb.execute("SELECT count(*) FROM read_parquet(?)", [patterns]).fetchall() == [(count,)]


@pytest.mark.slow
def test_the_snippets_of_the_card_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        if (ROOT / "pocket/student" / name).exists():
            (model / name).write_bytes((ROOT / "pocket/student" / name).read_bytes())
    snippets = re.findall(
        r"```python\n(.*?)```", (place / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(snippets) == 5
    results: list[dict[str, Any]] = []
    for snippet in snippets:
        scope: dict[str, Any] = {}
        exec(snippet.replace("path/to/this/folder", str(place)).replace("path/to/a/model", str(model)), scope)
        results.append(scope)
    loaded, pandas_rows, polars_rows, duckdb_rows, training = results
    assert (len(loaded["problems"]["train"]), len(loaded["clean"]), len(loaded["responses"])) == (6, 5, 24)
    assert len(pandas_rows["problems"]) == len(polars_rows["problems"]) == 7  # data/ has the unflagged ones
    assert sum(row[1] for row in duckdb_rows["tiers"]) == 7
    assert len(training["texts"]) == 20
    assert all(
        row["problem"] in row["text"] and row["messages"][1]["content"] in row["text"]
        for row in training["texts"]
    )


def test_the_numbers_of_the_card_are_those_of_the_rows(place: Path) -> None:
    """Every table of counts, recomputed from the Parquet files by SQL."""
    card = (place / "README.md").read_text(encoding="utf-8")

    def sql(query: str) -> list[tuple[Any, ...]]:
        for name in ("data", "flagged", "responses"):
            query = query.replace(f"${name}", f"read_parquet('{place}/{name}/*/*.parquet', filename=true)")
        both = f"read_parquet(['{place}/data/*/*.parquet', '{place}/flagged/*/*.parquet'], filename=true)"
        found = duckdb.sql(query.replace("$problems", both))
        assert found is not None
        return found.fetchall()

    split = "regexp_extract(filename, '([a-z]+)-[0-9]+-of', 1)"
    for one, count in sql(f"SELECT {split}, count(*) FROM $problems GROUP BY 1"):
        ((clean,),) = sql(f"SELECT count(*) FROM $data WHERE {split} = '{one}'")
        ((answers,),) = sql(f"SELECT count(*) FROM $responses WHERE {split} = '{one}'")
        assert f"| {one} | {count} | {clean} | {answers} |" in card
    for tier, train, test, weight, entropy in sql(
        f"SELECT tier, count(*) FILTER ({split} = 'train'), count(*) FILTER ({split} = 'test'), avg(weight),"
        " avg(semantic_entropy) FROM $problems GROUP BY 1"
    ):
        assert f"| {tier} | {train} | {test} | {weight:.3f} | {entropy:.3f} |" in card
    for source, licence, role, count in sql(
        "SELECT source, licence, role, count(*) FROM $problems GROUP BY ALL"
    ):
        assert f"| {source} | {licence} | {role} | {count} |" in card
    for reason, count, weight in sql(
        "SELECT finish_reason, count(*), avg(weight) FROM $responses GROUP BY 1"
    ):
        assert f"| {reason} | {count} | {weight:.3f} |" in card
    for strategy, count in sql("SELECT coalesce(strategies[-1], 'none'), count(*) FROM $problems GROUP BY 1"):
        assert f"| {strategy} | {count} |" in card
    ((valid, total),) = sql("SELECT count(answer), count(*) FROM $responses")
    assert f"A readable answer was found in {valid} of {total} responses." in card
    ((flagged, known, everything),) = sql(
        "SELECT count(*) FILTER (benchmark_overlap), count(answer), count(*) FROM $problems"
    )
    assert f"Flagged: {flagged} of {everything} problems" in card
    assert f"is known for {known} of {everything} problems" in card
    for info in metadata(place)["dataset_info"]:
        (files,) = (
            one["data_files"]
            for one in metadata(place)["configs"]
            if one["config_name"] == info["config_name"]
        )
        listed = [path for one in files for pattern in one["path"] for path in place.glob(pattern)]
        assert info["download_size"] == sum(path.stat().st_size for path in listed)
        assert sum(one["num_examples"] for one in info["splits"]) == sum(
            pq.read_metadata(path).num_rows for path in listed
        )


def test_the_metadata_are_those_of_the_hub(place: Path) -> None:
    from huggingface_hub import DatasetCard

    data = DatasetCard(
        (place / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=False
    ).data.to_dict()
    assert data["license"] == ["cc-by-4.0", "cc-by-nc-sa-4.0", "mit"] and data["language"] == ["en"]
    assert data["size_categories"] == ["n<1K"] and data["annotations_creators"] == ["machine-generated"]
    assert data["source_datasets"] == ["original"] and "text-generation" in data["task_categories"]
    assert [one["config_name"] for one in data["configs"]] == [
        "default", "decontaminated", "responses", "cc-by-nc-sa-4.0", "responses-cc-by-nc-sa-4.0", "mit", "responses-mit",
    ]  # fmt: skip
    assert "Procedurally generated seed problems were rewritten" in (place / "README.md").read_text()


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([{"kind": "pocket"}], "Procedurally generated seed problems"),
        ([{"kind": "math"}, {"kind": "pocket", "role": "curated"}], "Public seed problems"),
        ([{"kind": "file"}, {"kind": "hub"}], "Public and the user's own seed problems"),
        ([], "Seed problems"),
    ],
)
def test_seeds_are_named_after_where_they_come_from(sources: list[dict[str, str]], words: str) -> None:
    assert seed_words({"aggregate": {"sources": sources}}) == words


def test_croissant_validates_iterates_and_has_the_checksums(place: Path) -> None:
    import mlcroissant

    found = mlcroissant.Dataset(jsonld=str(place / "croissant.json"))
    assert not found.metadata.ctx.issues.errors and not found.metadata.ctx.issues.warnings
    assert found.metadata.ctx.is_v1_1() and found.metadata.version == "1.0.0"
    assert (
        found.metadata.data_limitations
        and found.metadata.annotations_per_item
        and found.metadata.data_use_cases
    )
    for config, counts in (SPLITS | BY_LICENCE).items():
        assert sum(1 for _ in found.records(config)) == sum(counts)
    (first, *_) = found.records("responses")
    assert first["responses/messages"][0]["responses/messages/role"] == b"user"
    record = json.loads((place / "croissant.json").read_text(encoding="utf-8"))
    sums = {one["@id"]: one["sha256"] for one in record["distribution"] if one["@type"] == "cr:FileObject"}
    files = {path.relative_to(place).as_posix(): path for path in place.rglob("*.parquet")}
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_the_papers_name_licences_version_and_authors(place: Path) -> None:
    licence = (place / "LICENSE").read_text()
    assert "cc-by-4.0: https://spdx.org/licenses/CC-BY-4.0.html" in licence
    assert "- exam: cc-by-nc-sa-4.0, https://spdx.org/licenses/CC-BY-NC-SA-4.0.html" in licence
    cited = yaml.safe_load((place / "CITATION.cff").read_text())
    assert (cited["version"], cited["type"], cited["license"]) == ("1.0.0", "dataset", "CC-BY-4.0")
    assert damage(place) is None


def test_the_same_dataset_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    built = read_built(place.parent / "dataset")
    write_dataset_release(tmp_path / "again", built, Naming(version="1.0.0", repo="group/sure-math"), None)
    assert digests(tmp_path / "again") == digests(place)


def test_the_changelog_counts_rows_added_gone_and_moved_weights(place: Path, tmp_path: Path) -> None:
    new = released(tmp_path, "1.1.0", place, count=10)
    text = (new / "CHANGELOG.md").read_text()
    path = place / "data/mit/train-00000-of-00001.parquet"
    assert (
        "## 1.1.0\n\n- 10 problems, 40 responses\n- 2 problems added\n- 0 problems gone\n- no weight changed\n"
        in text
    )
    assert text.endswith("## 1.0.0\n\n- 8 problems, 32 responses\n- first version\n")
    moved = tmp_path / "moved"
    for file in place.rglob("*.parquet"):
        (moved / file.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
        (moved / file.relative_to(place)).write_bytes(file.read_bytes())
    table = pq.read_table(path)
    weights = [
        weight - 0.25 if index == 0 else weight for index, weight in enumerate(table["weight"].to_pylist())
    ]
    pq.write_table(
        table.set_column(table.column_names.index("weight"), "weight", [weights]),
        moved / path.relative_to(place),
    )
    again = released(tmp_path / "small", "1.2.0", moved, count=7)
    listed = (again / "CHANGELOG.md").read_text()
    moved_line = f"- 1 weight changed: by +0.2500 in the mean, at most by +0.2500 (`{1:032x}`)"
    assert f"- 0 problems added\n- 1 problem gone\n{moved_line}\n" in listed


@pytest.mark.parametrize(
    ("version", "repo"), [("1.0", ""), ("v1.0.0", ""), ("1.0.0", "sure-math"), ("1.0.0", "a/b/c")]
)
def test_a_bad_version_or_repository_is_refused(version: str, repo: str) -> None:
    with pytest.raises(UserError, match="write e"):
        Naming(version=version, repo=repo)
