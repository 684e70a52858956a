"""Every profile of configs/ resolves with its sources and training, and the paper profiles fit on their 80 GB GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.benchmarks.base import HubData
from tasks.benchmarks.registry import all_benchmarks
from tasks.config import Config, load_config, profiles
from tasks.problems.rules import RULES
from tasks.rows import Problem
from tasks.runtime.plan import benchmark_notes, is_pinned
from tasks.runtime.preflight import check_run
from tasks.runtime.training_run import run_config
from tasks.seeds.benchmark_source import BenchmarkSource
from tasks.seeds.hub_source import HubSource
from tasks.seeds.registry import load, resolve
from tests.published_models import CONFIGS
from training.config import RunConfig
from training.data.sampler import schedule
from training.plan import resolve as plan_of
from training.preflight.memory import (
    ENGINE_WORKING,
    MemoryPlan,
    ModelDimensions,
    count_parameters,
    memory_plan,
    memory_problems,
)
from training.preflight.shapes import model_dimensions

PAPER = ("paper-1.7b", "paper-4b", "paper-8b-8b", "paper-8b-30b")
SAME_TEACHER = PAPER[:3]
GPUS = {"paper-1.7b": 4, "paper-4b": 4, "paper-8b-8b": 4, "paper-8b-30b": 5}
GPU_BYTES = 80e9
CARD_BYTES = 85.0e9  # memory of an 80 GB H100 as reported by torch: 79.2 GiB
PEAKS = {  # peak memory in GB of the fullest GPU: rollout, train, sync
    "paper-1.7b": (72.0, 72.0, 76.0),
    "paper-4b": (66.0, 54.8, 53.0),
    "paper-8b-8b": (81.3, 71.8, 81.1),
    "paper-8b-30b": (72.0, 74.0, 77.9),
}
SEQUENCES = {
    "paper-1.7b": 113,
    "paper-4b": 18,
    "paper-8b-8b": 4,
    "paper-8b-30b": 71,
}  # full-length sequences in an engine's KV cache


DIMENSIONS = {name: model_dimensions(config, name) for name, config in CONFIGS.items()}


def resolved(profile: str) -> Config:
    return resolve(load_config(profile))


def training(profile: str) -> RunConfig:
    settings = resolved(profile).distill
    assert settings is not None
    return run_config(settings, Path("dataset"), Path("distill"))


def dimensions_of(model: str) -> ModelDimensions:
    return DIMENSIONS[model.rpartition("/")[2]]


def planned(run: RunConfig) -> MemoryPlan:
    assert run.teacher is not None
    return memory_plan(plan_of(run), dimensions_of(run.student.model), dimensions_of(run.teacher.model))


def with_stage(run: RunConfig, stage: int) -> RunConfig:
    return run.model_copy(update={"trainer": run.trainer.model_copy(update={"zero_stage": stage})})


def test_the_papers_profiles_are_shipped() -> None:
    assert {"pocket", *PAPER} <= set(profiles())


@pytest.mark.parametrize("profile", profiles())
def test_a_profile_resolves_with_its_sources_and_its_training(profile: str) -> None:
    config = resolved(profile)
    assert config.profile == profile
    if config.distill is not None:
        assert plan_of(training(profile)).passes


def test_every_engine_of_the_pocket_profile_has_a_batch_invariant_data_type() -> None:
    config = load_config("pocket")
    models = config.models
    roles = (models.evolver, models.quality_judge, models.teacher, models.equivalence_judge)
    assert {role.dtype for role in roles} == {"float32"}
    assert config.distill is not None and config.distill.run["rollouts"]["dtype"] == "float32"


def test_parameter_counts_match_the_published_sizes() -> None:
    counts = {name: count_parameters(dims) for name, dims in DIMENSIONS.items()}
    assert {name: round(count / 1e9, 2) for name, count in counts.items()} == {
        "Qwen3-0.6B-Base": 0.6, "Qwen3-1.7B": 1.72, "Qwen3-1.7B-Base": 1.72, "Qwen3-4B": 4.02, "Qwen3-4B-Base": 4.02,
        "Qwen3-8B": 8.19, "Qwen3-30B-A3B": 30.53, "Qwen2.5-3B-Instruct": 3.09, "Qwen2.5-72B-Instruct": 72.71,
        "Llama-3.2-3B-Instruct": 3.21, "Llama-3.1-8B-Instruct": 8.03, "DeepSeek-R1-Distill-Llama-8B": 8.03,
        "Olmo-3-7B-Think": 7.3,
    }  # fmt: skip
    assert (
        counts["Llama-3.2-3B-Instruct"] == 3_212_749_824 and counts["Llama-3.1-8B-Instruct"] == 8_030_261_248
    )


@pytest.mark.parametrize(
    ("profile", "student", "teacher", "placement", "zero"),
    [("paper-1.7b", "Qwen3-1.7B", "Qwen3-8B", "split", 1), ("paper-4b", "Qwen3-4B", "Qwen3-8B", "colocated", 2),
     ("paper-8b-8b", "Qwen3-8B", "Qwen3-8B", "colocated", 3), ("paper-8b-30b", "Qwen3-8B", "Qwen3-30B-A3B", "split", 2)],
)  # fmt: skip
def test_the_training_settings_are_the_papers_and_fit_on_the_node(
    profile: str, student: str, teacher: str, placement: str, zero: int
) -> None:
    run = training(profile)
    assert run.teacher is not None
    assert (Path(run.student.model).name, Path(run.teacher.model).name) == (student, teacher)
    assert run.teacher.model == resolved(profile).models.teacher.model, (
        "the annotation belongs to the teacher"
    )
    assert (run.placement.kind, run.trainer.zero_stage, run.algorithm.name) == (placement, zero, "uopd")
    assert (plan_of(run).top_k, run.rollouts.group_size) == (512, 4)
    assert (run.batches.size, run.batches.unit, run.batches.total_prompts) == (128, "prompts", 50_000)
    draws = schedule(run, ["row"], [True])
    assert (run.optimizer.learning_rate, draws.updates, draws.warmup_updates) == (3e-6, 391, 20)
    plan = planned(run)
    assert len(plan.devices) == GPUS[profile] and memory_problems(run, plan) == [] and plan.fits
    assert run.placement.gpu_memory_gb * 1e9 <= CARD_BYTES - 2e9, (
        "a reserve for memory that is not in the plan"
    )
    peaks = {
        phase: max(device.needed(phase) for device in plan.devices) / 1e9
        for phase in ("rollout", "train", "sync")
    }
    assert tuple(round(peak, 1) for peak in peaks.values()) == PEAKS[profile]
    assert plan.full_sequences == SEQUENCES[profile]


@pytest.mark.parametrize("profile", PAPER)
def test_a_papers_profile_has_the_lowest_zero_stage_from_1_that_fits(profile: str) -> None:
    run = training(profile)
    stages = [stage for stage in (1, 2, 3) if planned(with_stage(run, stage)).fits]
    assert run.trainer.zero_stage == stages[0]


def test_the_8b_student_of_the_30b_teacher_fits_on_no_node_with_fewer_gpus() -> None:
    run = training("paper-8b-30b")
    split = [{"kind": "split", "students": n, "engines": 3 - n} for n in (1, 2)]
    colocated = [
        {"kind": "colocated", "students": n, "engines": n, "engine_memory_fraction": share}
        for n in (1, 2, 3, 4)
        for share in (0.23, 0.3)
    ]
    peaks = {}
    for placement in (*split, *colocated):
        chosen = run.placement.model_validate({"gpu_memory_gb": 83.0} | placement)
        for stage in (0, 1, 2, 3):
            plan = planned(with_stage(run.model_copy(update={"placement": chosen}), stage))
            assert not plan.fits, (placement, stage)
            if len(plan.devices) == 4:
                worst = max(device.peak for device in plan.devices) / 1e9
                peaks[chosen.kind] = min(worst, peaks.get(chosen.kind, worst))
    assert {kind: round(peak) for kind, peak in peaks.items()} == {"split": 90, "colocated": 126}


@pytest.mark.parametrize("profile", PAPER)
def test_a_papers_profile_ends_in_a_distillation_that_is_measured_on_the_test_split(profile: str) -> None:
    config = resolved(profile)
    assert config.distill is not None and config.distill.in_build
    assert config.distill.held_out == "test" and config.distill.held_out_sources == ()
    assert config.aggregate.test_problems == 200
    assert training(profile).evaluation is not None


@pytest.mark.parametrize("profile", PAPER)
def test_every_served_model_fits_its_memory_share_with_one_sequence(profile: str) -> None:
    models = resolved(profile).models
    for name in type(models).model_fields:
        role = getattr(models, name)
        dims, serve = dimensions_of(role.model), role.serve
        assert serve.tensor_parallel_size <= GPUS[profile]
        weights = 2 * count_parameters(dims) / serve.tensor_parallel_size
        sequence = dims.kv_bytes_per_token * role.max_model_len / serve.tensor_parallel_size
        assert weights + sequence + ENGINE_WORKING < serve.gpu_memory_fraction * GPU_BYTES, name
    shared = (models.teacher.serve, models.equivalence_judge.serve)
    assert [one.gpu_memory_fraction for one in shared if one is not None] == [0.65, 0.2]


def test_the_dataset_settings_are_the_papers_and_the_same_for_every_student() -> None:
    first = resolved("paper-1.7b")
    counts = [(source.kind, source.declared) for source in first.aggregate.sources]  # type: ignore[attr-defined]
    assert counts == [
        ("scalequest", ("easy", 15_000)), ("numina_math_cot", ("medium", 10_000)), ("math", ("medium", 12_500)),
        ("omni_math", ("hard", 4_400)), ("olympiad_bench", ("hard", 674)), ("matharena", ("competition", 120)),
        ("amo_bench", ("competition", 50)), ("file", (None, 1_000)),
    ]  # fmt: skip
    assert (first.select.target, first.sample.num_samples) == (8000, 8)
    assert (first.sample.sampling.temperature, first.sample.sampling.top_p) == (0.7, 1.0)
    assert first.evolve.target == 1_000_000
    assert (first.dedup.threshold, first.aggregate.test_problems) == (0.7, 200)
    for other in map(resolved, SAME_TEACHER[1:]):
        assert other.model_copy(update={"distill": None}).identity() == first.model_copy(
            update={"distill": None}
        ).identity()  # fmt: skip


@pytest.mark.parametrize("profile", [*PAPER, "pocket"])
def test_the_papers_rules_are_on_everywhere_and_ours_are_off_in_the_papers_profiles(profile: str) -> None:
    on = {name for name in RULES if getattr(load_config(profile).rules, name)}
    assert on == ({"length", "multiple_choice"} if profile in PAPER else set(RULES))


@pytest.mark.parametrize("profile", PAPER)
def test_the_dataset_is_compared_with_every_complete_benchmark_at_a_pinned_commit(profile: str) -> None:
    config = resolved(profile)
    benchmarks: tuple[BenchmarkSource, ...] = config.decontam.benchmarks  # type: ignore[assignment]
    assert {one.name for one in benchmarks} == {
        "aime2024", "aime2025", "hmmt_feb_2025", "hmmt_nov_2025", "amo_bench", "amc2023", "math500", "olympiadbench",
        "minerva", "gsm8k",
    }  # fmt: skip
    assert {
        name
        for name, one in all_benchmarks().items()
        if isinstance(one.data, HubData) and one.answer == "math"
    } == {one.name for one in benchmarks}, "every mathematics benchmark that a model may be evaluated on"
    assert set(config.evaluate.benchmarks) <= {one.name for one in benchmarks}
    assert all(map(is_pinned, benchmarks))
    (note,) = benchmark_notes(config)
    assert note.startswith("compared with 10 benchmarks") and "not pinned" not in note


ROWS = {  # one row of each data set, with its columns
    "matharena": {"problem_idx": 1, "problem": "What is 1 + 1?", "answer": 2, "problem_type": ["Algebra"]},
    "amo_bench": {
        "question_id": 1, "prompt": "What is 1 + 1? After solving the above problem, please output it.",
        "answer": "\\boxed{2}", "answer_type": "number",
    },
    "amc2023": {"id": 0, "question": "What is 1 + 1?", "answer": "2", "url": "x"},
    "math500": {"problem": "What is 1 + 1?", "answer": "2", "unique_id": "test/algebra/1.json", "level": 1},
    "olympiadbench": {"id": 1, "question": "What is 1 + 1?", "final_answer": ["2"], "is_multiple_answer": False},
    "minerva": {"question": "What is 1 + 1?", "answer": "2"},
    "gsm8k": {"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
}  # fmt: skip


def test_every_benchmark_reads_a_local_copy_with_the_columns_of_its_data_set(tmp_path: Path) -> None:
    benchmarks: tuple[BenchmarkSource, ...] = resolved("paper-1.7b").decontam.benchmarks  # type: ignore[assignment]
    for one in benchmarks:
        folder = tmp_path / one.name
        folder.mkdir()
        row = ROWS.get(one.name) or ROWS["matharena"]
        for part in one.parts:
            line = json.dumps(row | {"problem_idx": len(part.hub_id)})
            (folder / f"{'-'.join(part.words)}.jsonl").write_text(line + "\n", encoding="utf-8")
        found = load(one.model_copy(update={"path": folder}))
        problems = [found for found in found.outcomes if isinstance(found, Problem)]
        assert len(problems) == len(found.outcomes) == len(one.parts), one.name
        for problem in problems:
            assert (problem.text, problem.answer, problem.benchmark_root) == ("What is 1 + 1?", "2", True)


def test_every_data_set_is_pinned_to_the_same_commit_everywhere() -> None:
    config = resolved("paper-1.7b")
    pins: dict[str, set[str]] = {}
    for source in (*config.aggregate.sources, *config.decontam.benchmarks):
        if isinstance(source, HubSource | BenchmarkSource):
            for hub_id, revision in source.revisions.items():
                pins.setdefault(hub_id, set()).add(revision)
    assert len(pins) == 14 and all(len(revisions) == 1 for revisions in pins.values())


def test_a_profile_can_train_on_a_source_without_an_exported_dataset(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n', encoding="utf-8")
    given = {
        "run.output": str(tmp_path / "out"),
        "distill.run.dataset": {"source": {"path": str(path)}},
        "distill.run.algorithm": {"name": "grpo", "top_k": None},
        "distill.run.batches": {"size": 4, "total_prompts": 4},
    }
    config = resolve(load_config("pocket", given))
    assert config.distill is not None
    run = run_config(config.distill, Path("absent"), tmp_path)
    assert run.dataset.folder is None and run.dataset.source is not None and run.dataset.source.path == path
    assert check_run(config, "distill") == []
    path.write_text('{"problem": "What is 1 + 1?"}\n', encoding="utf-8")
    (problem,) = check_run(config, "distill")
    assert problem.startswith("distill.run: row") and "has no label" in problem
    exported = resolve(load_config("pocket", {"run.output": str(tmp_path / "out")}))
    assert "contains no finished dataset" in check_run(exported, "distill")[0]
