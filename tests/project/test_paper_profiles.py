"""What the paper profiles take from the papers besides memory: pairs, curated problems, training rows, held-out problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.config import Config, load_config, profiles
from tasks.errors import UserError
from tasks.rows import Example, Problem, Role, Tier
from tasks.runtime.training_run import HeldOutProblem, held_out, run_config, write_held_out
from tasks.seeds.registry import check, load, resolve
from tasks.storage.dataset import write_dataset
from tests.storage.test_dataset import TRAIN, example, manifest, samples
from training.config import RunConfig

PAIRS = {
    "paper-1.7b": ("Qwen3-1.7B", "Qwen3-8B"),
    "paper-4b": ("Qwen3-4B", "Qwen3-8B"),
    "paper-8b-8b": ("Qwen3-8B", "Qwen3-8B"),
    "paper-8b-30b": ("Qwen3-8B", "Qwen3-30B-A3B"),
}


def resolved(profile: str, **overrides: object) -> Config:
    return resolve(load_config(profile, overrides))


def training(config: Config) -> RunConfig:
    assert config.distill is not None
    return run_config(config.distill, Path("dataset"), Path("distill"))


def test_every_pair_of_the_papers_has_a_profile_whose_teacher_annotates() -> None:
    assert {name for name in profiles() if name.startswith("paper-")} == set(PAIRS)
    for profile, (student, teacher_name) in PAIRS.items():
        config = resolved(profile)
        run = training(config)
        assert run.teacher is not None
        assert (Path(run.student.model).name, Path(run.teacher.model).name) == (student, teacher_name)
        assert Path(config.models.teacher.model) == Path(run.teacher.model), profile


def test_the_annotation_of_the_large_teacher_shares_all_earlier_stages_with_the_others() -> None:
    def without_teacher(profile: str) -> dict[str, object]:
        found = resolved(profile).identity()
        return {**found, "models": {**found["models"], "teacher": None}, "distill": None}

    assert without_teacher("paper-8b-30b") == without_teacher("paper-1.7b")
    assert len({resolved(profile).run.output for profile in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize("profile", PAIRS)
def test_a_build_ends_in_the_distillation_on_all_rows_with_held_out_problems(profile: str) -> None:
    config = resolved(profile)
    assert config.distill is not None and config.distill.in_build
    assert training(config).dataset.config == "default"
    override = {"distill.run.dataset.config": "decontaminated"}
    assert training(resolved(profile, **override)).dataset.config == "decontaminated"
    assert config.distill.held_out == "test" and config.aggregate.test_problems == 200
    assert training(config).evaluation is not None


def test_only_evaluated_benchmarks_leave_the_config_decontaminated() -> None:
    decontam = resolved("paper-1.7b").decontam
    assert set(decontam.not_evaluated) == {"omni_math", "math", "numina_math_cot"}
    assert "omni_math" not in {source.name for source in decontam.benchmarks}
    assert resolved("paper-1.7b", **{"decontam.not_evaluated": []}).decontam.not_evaluated == ()
    with pytest.raises(UserError, match=r"decontam.not_evaluated names the source 'omni', which is not in"):
        load_config("paper-1.7b", {"decontam.not_evaluated": ["omni"]})


# --- curated problems --------------------------------------------------------------------------------------------


def curated(path: Path, *rows: Mapping[str, object]) -> object:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (source,) = [one for one in resolved("paper-1.7b").aggregate.sources if one.role == "curated"]
    return source.model_copy(update={"path": path})


def test_curated_problems_have_the_tier_of_their_row(tmp_path: Path) -> None:
    rows = [
        {"problem": f"What is {n} + 1?", "answer": str(n + 1), "tier": str(tier)}
        for n, tier in enumerate(Tier)
    ]
    source = curated(tmp_path / "curated.jsonl", *rows)
    found = [row for row in load(source).outcomes if isinstance(row, Problem)]  # type: ignore[arg-type]
    assert [(row.tier, row.role, row.answer) for row in found] == [
        (tier, Role.CURATED, str(n + 1)) for n, tier in enumerate(Tier)
    ]


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        ({"tier": "expert"}, r"curated.jsonl, line 2 has the tier 'expert': use one of easy, medium"),
        ({"tier": None}, r"curated.jsonl, line 2 has the tier None"),
        ({}, r"curated.jsonl, line 2 has no column 'tier' for the tier"),
    ],
)
def test_a_curated_problem_without_a_valid_tier_is_rejected_before_a_build(
    tmp_path: Path, last: dict[str, object], sentence: str
) -> None:
    whole = {"problem": "What is 1 + 1?", "answer": "2", "tier": "easy"}
    source = curated(tmp_path / "curated.jsonl", whole, {"problem": "And 2 + 2?", "answer": "4", **last})
    with pytest.raises(UserError, match=sentence):
        check(source)  # type: ignore[arg-type]


# --- held-out problems -------------------------------------------------------------------------------------------


def write_split(folder: Path, rows: list[Example]) -> Path:
    """Write a dataset with `rows` as split test."""
    examples = {"train": TRAIN, "test": rows}
    responses = {split: [one for row in found for one in samples(row)] for split, found in examples.items()}
    write_dataset(folder, examples, responses, manifest())
    return folder


def test_the_problems_of_split_test_are_held_out(tmp_path: Path) -> None:
    settings = resolved("paper-1.7b").distill
    assert settings is not None
    rows = [
        example(4, curated=True),
        example(6, curated=True, benchmark_overlap=True, overlap_benchmarks=("aime",)),
    ]
    folder = write_split(tmp_path / "dataset", rows)
    found = held_out(settings, folder)
    assert found == [HeldOutProblem(id=row.id, problem=row.problem, answer=row.answer or "") for row in rows]
    write_held_out(tmp_path / "held_out.jsonl", found)
    lines = (tmp_path / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {"id": rows[1].id, "problem": rows[1].problem, "answer": rows[1].answer}


def test_a_dataset_without_answered_test_problems_cannot_be_held_out(tmp_path: Path) -> None:
    settings = resolved("paper-1.7b").distill
    assert settings is not None
    with pytest.raises(UserError, match=r"distill.held_out is test, but split test of .* has no problem"):
        held_out(settings, write_split(tmp_path / "dataset", []))
    with pytest.raises(UserError, match=r"distill.held_out is test, but aggregate.test_problems is 0"):
        load_config("paper-1.7b", {"aggregate.test_problems": 0})
    load_config("paper-1.7b", {"aggregate.test_problems": 0, "distill.held_out": []})


def test_held_out_sources_are_read_and_the_rows_without_an_answer_left_out(tmp_path: Path) -> None:
    config = resolved(
        "pocket", **{"distill.held_out": [{"kind": "pocket", "role": "curated", "counts": {"easy": 2}}]}
    )
    assert config.distill is not None
    found = held_out(config.distill, tmp_path)
    assert len(found) == 2 and all(row.answer for row in found)
