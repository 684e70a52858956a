"""The training profiles of the papers' other pairs: their models, data and settings, and the checks of a run on a simulated node
with the published config.json files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.benchmarks.protocols import find_protocol
from tasks.benchmarks.registry import find
from tasks.config import Config, load_config, profiles
from tasks.runtime.training_run import run_config
from tasks.seeds.registry import resolve
from tests.published_models import CONFIGS, write_stand_in
from tests.tiny_decoders import LLAMA3
from training.config import RunConfig
from training.plan import resolve as plan_of
from training.preflight.check import early_problems
from training.preflight.disk import stored_bytes
from training.preflight.memory import MemoryPlan, memory_plan, memory_table
from training.preflight.shapes import model_dimensions

MATH, OPEN_THOUGHTS = "DigitalLearningGmbH/MATH-lighteval", "siyanzhao/Openthoughts_math_30k_opsd"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a profile must have. `decoder`: whose tokenizer and template stand in for those of the models. `peak`: GB of the
    fullest of four GPUs; `disk`: GB of checkpoints and student."""

    student: str
    teacher: str | None
    decoder: str
    peak: float
    disk: float
    settings: Mapping[str, Any] = field(default_factory=dict)


EOPD = {"algorithm.name": "eopd", "dataset.source.hub_id": MATH, "lengths.max_response_tokens": 4096, "batches.size": 128,
        "batches.epochs": 3, "optimizer.learning_rate": 3e-6, "rollouts.temperature": 1.0, "rollouts.top_p": 1.0,
        "rollouts.group_size": 1, "lengths.thinking": False, "trainer.lora": None}  # fmt: skip
PW_OPSD = {"algorithm.name": "pw_opsd", "dataset.source.hub_id": OPEN_THOUGHTS, "lengths.max_response_tokens": 1024,
           "batches.size": 32, "batches.total_prompts": 3200, "optimizer.learning_rate": 5e-6, "trainer.lora.rank": 64,
           "trainer.lora.alpha": 128.0, "trainer.lora.dropout": 0.05, "lengths.thinking": False, "seed": 42}  # fmt: skip
PAIRS = {
    "eopd-0.6b": Pair(
        student="Qwen3-0.6B-Base", teacher="Qwen3-8B", decoder="qwen3", peak=75.1, disk=34.6, settings=EOPD
    ),
    "eopd-1.7b": Pair(
        student="Qwen3-1.7B-Base", teacher="Qwen3-8B", decoder="qwen3", peak=76.0, disk=99.8, settings=EOPD
    ),
    "eopd-4b": Pair(
        student="Qwen3-4B-Base", teacher="Qwen3-8B", decoder="qwen3", peak=65.9, disk=233.3, settings=EOPD
    ),
    "eopd-llama-3b": Pair(
        student="Llama-3.2-3B-Instruct", teacher="Llama-3.1-8B-Instruct", decoder="llama", peak=74.5, disk=186.3,
        settings=EOPD | {"rollouts.top_p": 0.8, "rollouts.allow_truncated": True},
    ),
    "pw-opsd-4b": Pair(
        student="Qwen3-4B", teacher=None, decoder="qwen3", peak=56.7, disk=47.9, settings=PW_OPSD
    ),
    "pw-opsd-deepseek-8b": Pair(
        student="DeepSeek-R1-Distill-Llama-8B", teacher=None, decoder="deepseek", peak=74.2, disk=90.0, settings=PW_OPSD,
    ),
    "pw-opsd-olmo-7b": Pair(
        student="Olmo-3-7B-Think", teacher=None, decoder="olmo3", peak=70.5, disk=82.3, settings=PW_OPSD
    ),
}  # fmt: skip


def training(profile: str, **overrides: Any) -> RunConfig:
    config: Config = resolve(load_config(profile, overrides))
    assert config.distill is not None
    return run_config(config.distill, Path("dataset"), Path("distill"))


ROWS = {  # one row of each data set, with its columns
    MATH: {"problem": "What is 1 + 1?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."},
    OPEN_THOUGHTS: {"problem": "What is 1 + 1?", "solution": "It is $\\boxed{2}$.", "Answer": "2", "source": "x"},
}  # fmt: skip


def local_problems(run: RunConfig, place: Path) -> tuple[str, ...]:
    """Return the problems of a run whose data set is a local file with the same columns, in a new output folder."""
    source: Any = run.dataset.source
    path = place / "rows.jsonl"
    path.write_text(json.dumps(ROWS[source.hub_id]) + "\n", encoding="utf-8")
    dataset = run.dataset.model_copy(update={"source": type(source)(path=path, columns=source.columns)})
    return early_problems(run.model_copy(update={"output": place / "out", "dataset": dataset}), has_data=True)


def planned(run: RunConfig) -> MemoryPlan:
    plan = plan_of(run)
    dims = [
        model_dimensions(CONFIGS[Path(one.model).name], one.model)
        for one in (run.student, run.teacher)
        if one is not None
    ]
    return memory_plan(plan, *(dims if plan.has_teacher else dims[:1]))


def test_every_pair_has_a_profile() -> None:
    assert set(PAIRS) == {name for name in profiles() if name.startswith(("eopd-", "pw-opsd-"))}


@pytest.mark.parametrize("profile", PAIRS)
def test_a_profile_has_the_models_data_and_settings_of_its_paper(profile: str) -> None:
    pair, run = PAIRS[profile], training(profile)
    assert Path(run.student.model).name == pair.student
    plan = plan_of(run)
    assert plan.has_teacher == (pair.teacher is not None)
    if run.teacher is not None:
        assert Path(run.teacher.model).name == (pair.teacher or pair.student)
    for name, value in pair.settings.items():
        found: Any = run
        for key in name.split("."):
            found = getattr(found, key)
        assert found == value, name
    config = load_config(profile)
    assert config.distill is not None and not config.distill.in_build and config.distill.held_out == ()


@pytest.mark.parametrize("profile", PAIRS)
def test_a_profile_evaluates_like_its_paper(profile: str) -> None:
    chosen = load_config(profile).evaluate
    if profile.startswith("eopd-"):
        expected = "math500", "amc2023", "minerva", "olympiadbench", "aime2024", "aime2025"
        protocol = (8, 1.0, 0.8, 8192, False)
    else:
        expected = "math500", "aime2024", "aime2025", "hmmt_feb_2025"
        protocol = (12, 1.0, 0.95, 38_912, True)
    assert chosen.benchmarks == expected and all(find(name).name == name for name in expected)
    (one,) = map(find_protocol, chosen.protocols)
    assert (one.samples, one.temperature, one.top_p, one.max_tokens, one.thinking) == protocol


@pytest.mark.parametrize("profile", PAIRS)
def test_the_check_passes_on_four_gpus_with_configs_alone(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = PAIRS[profile]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    run = training(
        profile,
        **{
            f"distill.run.{role}.model": str(write_stand_in(tmp_path / name, name, pair.decoder))
            for role, name in (("student", pair.student), ("teacher", pair.teacher or pair.student))
        },
    )
    assert local_problems(run, tmp_path) == ()
    memory = planned(run)
    assert len(memory.devices) == 4 and run.placement.gpu_memory_gb == 80.0 and memory.fits
    assert round(max(device.peak for device in memory.devices) / 1e9, 1) == pair.peak
    assert "GPU 0" in memory_table(memory)
    dims = model_dimensions(CONFIGS[pair.student], pair.student)
    assert round(stored_bytes(run, dims) / 1e9, 1) == pair.disk


@pytest.mark.parametrize(
    "profile", [name for name, pair in PAIRS.items() if pair.settings == EOPD or "llama" in name]
)
def test_a_profile_has_the_lowest_zero_stage_from_1_that_fits(profile: str) -> None:
    run = training(profile)
    stages = [training(profile, **{"distill.run.trainer.zero_stage": stage}) for stage in (1, 2, 3)]
    assert run.trainer.zero_stage == next(one.trainer.zero_stage for one in stages if planned(one).fits)


def test_the_templates_of_llama_make_the_same_prompts_on_the_day_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    pair = PAIRS["eopd-llama-3b"]
    student = write_stand_in(tmp_path / pair.student, pair.student, "llama")
    teacher = write_stand_in(tmp_path / "teacher", "Llama-3.1-8B-Instruct", "llama")
    (teacher / "chat_template.jinja").write_text(LLAMA3.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'"))
    models = {"distill.run.student.model": str(student), "distill.run.teacher.model": str(teacher)}

    def problems(**overrides: Any) -> tuple[str, ...]:
        return local_problems(training("eopd-llama-3b", **models, **overrides), tmp_path)

    assert problems() == ()
    (problem,) = problems(**{"models.teacher.template_date": "2026-01-31"})
    assert "build different prompts from the same problem" in problem
