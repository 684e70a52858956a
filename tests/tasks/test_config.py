"""Profiles that extend other profiles: merging, cycles and unknown names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import config
from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Tier

BASE = """
run: {output: output/base, shard_rows: 7}
aggregate: {sources: [{kind: pocket, counts: {easy: 1}}], test_problems: 0}
evolve: {branches: {easy: 2, medium: 2, hard: 2, competition: 2}}
models:
  evolver: &model {model: pocket/assistant, serve: {kv_cache_gib: 1}}
  quality_judge: *model
  teacher: *model
  equivalence_judge: *model
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(config, "PROFILES", tmp_path)

    def files(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")

    files(base=BASE)
    return files


def test_a_profile_is_merged_into_the_one_it_extends(write) -> None:
    write(
        middle="extends: base\nrun: {output: output/middle}\nevolve: {branches: {easy: 5}}\n",
        last="extends: middle\nselect: {target: 3}\nmodels: {evolver: {model: pocket/judge}}\n",
    )
    found = load_config("last", {"run.shard_rows": 9})
    assert (found.profile, str(found.run.output), found.run.shard_rows) == ("last", "output/middle", 9)
    assert found.evolve.branches == {Tier.EASY: 5, Tier.MEDIUM: 2, Tier.HARD: 2, Tier.COMPETITION: 2}
    assert (found.select.target, found.models.evolver.model) == (3, "pocket/judge")
    assert found.models.teacher.model == "pocket/assistant"  # a YAML alias of the evolver in the base
    assert load_config("base").evolve.branches[Tier.EASY] == 2


def test_a_list_replaces_the_list_of_the_base(write) -> None:
    write(other="extends: base\naggregate: {sources: [{kind: math}]}\n")
    found = load_config("other")
    assert [source.kind for source in found.aggregate.sources] == ["math"]
    assert found.aggregate.test_problems == 0


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            {"one": "extends: nobody"},
            r"configs/one\.yaml extends an unknown profile 'nobody': choose one of base, one$",
        ),
        (
            {"one": "extends: [base]"},
            r"configs/one\.yaml extends an unknown profile \['base'\]: choose one of base, one$",
        ),
        ({"one": "extends: one"}, r"in a circle \(one > one\): remove one `extends`"),
        (
            {"one": "extends: two", "two": "extends: three", "three": "extends: two"},
            r"configs/three\.yaml: profiles extend each other in a circle \(one > two > three > two\)",
        ),
        ({"one": "extends: two", "two": "a: [1"}, r"configs/two\.yaml is not valid YAML"),
        ({"one": "[1, 2]"}, r"configs/one\.yaml is not a mapping"),
        ({"one": "extends: base\nevolve: {colour: 1}"}, r"configs/one\.yaml: evolve\.colour: unknown key"),
    ],
)
def test_an_invalid_base_is_reported_in_one_sentence(write, texts: dict[str, str], sentence: str) -> None:
    write(**texts)
    with pytest.raises(UserError, match=sentence):
        load_config("one")


def test_an_override_of_one_role_changes_neither_the_others_nor_the_callers_mapping(write) -> None:
    given = {"models.evolver": {"serve": {"kv_cache_gib": 2}}, "models.evolver.serve.port": 81}
    models = load_config("base", given).models
    assert models.evolver.serve is not None and models.quality_judge.serve is not None
    assert (models.evolver.serve.kv_cache_gib, models.evolver.serve.port) == (2, 81)
    assert (models.quality_judge.serve.kv_cache_gib, models.quality_judge.serve.port) == (1, None)
    assert given["models.evolver"] == {"serve": {"kv_cache_gib": 2}}
    load_config("base", {"plan": (sections := {"growth": 2.0}), "plan.problem_chars": 5})
    assert sections == {"growth": 2.0}


def test_a_role_without_an_address_and_a_server_is_at_the_address_of_the_environment(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", " http://models.invalid/v1\n")
    overrides = {"models.evolver.serve": None, "models.teacher": {"serve": None, "base_url": "http://own/v1"}}
    models = load_config("base", overrides).models
    assert models.evolver.base_url == "http://models.invalid/v1"
    assert models.teacher.base_url == "http://own/v1"
    assert models.quality_judge.base_url is None and models.quality_judge.serve is not None
    monkeypatch.setenv("OPENAI_BASE_URL", " ")
    with pytest.raises(UserError, match=r"models\.evolver: give either serve or base_url"):
        load_config("base", overrides)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_the_range_of_the_generator_is_reported(seed: int) -> None:
    with pytest.raises(UserError, match=r"dedup\.seed"):
        load_config("pocket", {"dedup.seed": seed})
    assert load_config("pocket", {"dedup.seed": 2**32 - 1}).dedup.seed == 2**32 - 1
