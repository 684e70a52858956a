"""Settings of a run: the defaults are the papers' values, and every invalid setting gives one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from training.algorithms import algorithm_names
from training.config import (
    RENAMED_KEYS,
    AlgorithmSettings,
    BinaryWeight,
    PlainWeight,
    RunConfig,
    load_run,
    project_path,
    run_from,
)

REQUIRED: dict[str, Any] = {
    "output": "output/run",
    "dataset": {"folder": "output/dataset"},
    "student": {"model": "pocket/student"},
    "teacher": {"model": "pocket/teacher"},
}


def run(**changes: Any) -> RunConfig:
    return run_from(REQUIRED | changes, "test")


def test_defaults_are_the_papers() -> None:
    made = run()
    assert (made.rollouts.group_size, made.rollouts.temperature, made.lengths.max_response_tokens) == (
        4,
        1.0,
        4096,
    )
    optimizer = made.optimizer
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.beta2) == (3e-6, 0.9, 0.95)
    assert (optimizer.warmup_fraction, optimizer.max_gradient_norm) == (0.05, 1.0)
    assert (made.batches.size, made.batches.unit, made.batches.total_prompts) == (128, "prompts", 50_000)
    assert (made.batches.draw, made.batches.epochs) == ("with_replacement", 1)
    assert made.algorithm == AlgorithmSettings(name="uopd")
    assert (made.overlap, made.lengths.thinking) == ("on_policy", False)


def test_a_batch_of_128_rollouts_has_32_prompts() -> None:
    assert [run(batches={"unit": unit}).prompts_per_step for unit in ("prompts", "rollouts")] == [128, 32]


def test_a_run_need_not_have_a_teacher() -> None:
    without = {key: value for key, value in REQUIRED.items() if key != "teacher"}
    assert run_from(without, "test").teacher is None


@pytest.mark.parametrize("name", algorithm_names())
def test_every_shipped_algorithm_can_be_chosen_and_its_defaults_are_valid(name: str) -> None:
    assert run(algorithm={"name": name}).algorithm.name == name


def test_a_prompt_weight_is_a_string_or_an_object() -> None:
    for word in ("uniform", "soft", "pass_rate", "permuted", "constant"):
        assert run(algorithm={"prompt_weight": word}).algorithm.prompt_weight == PlainWeight.model_validate(
            {"kind": word}
        )
    binary = run(algorithm={"prompt_weight": {"kind": "binary", "tau": 0.3}}).algorithm.prompt_weight
    assert binary == BinaryWeight(kind="binary", tau=0.3, scale="raw")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"studnet": {}}, "test: studnet: unknown key; see training/config.py"),
        ({"trainer": {"zero": 3}}, "trainer.zero: unknown key"),
        ({"trainer": {"zero_stage": 4}}, "trainer.zero_stage: Input should be 0, 1, 2 or 3"),
        ({"student": {}}, "student.model: this setting is missing"),
        ({"algorithm": {"name": "magic"}}, "^test: algorithm.name: unknown algorithm 'magic': choose one of .*opd.*uopd"),
        ({"algorithm": {"prompt_weight": "binary"}}, "prompt_weight.binary.tau: this setting is missing"),
        ({"algorithm": {"prompt_weight": {"kind": "soft", "tau": 0.3}}}, "prompt_weight.soft.tau: unknown key"),
        (
            {"algorithm": {"prompt_weight": {"kind": "binary", "tau": 1.5, "scale": "normalised"}}},
            "tau on the normalised scale must be between 0 and 1",
        ),
        ({"algorithm": {"top_k": 0}}, "algorithm.top_k"),
        (
            {"algorithm": {"reference_kl_coefficient": -0.1}},
            "algorithm.reference_kl_coefficient: Input should be greater than or equal to 0",
        ),
        (
            {"algorithm": {"reference_kl_coefficient": float("nan")}},
            "algorithm.reference_kl_coefficient: Input should be a finite number",
        ),
        ({"algorithm": {"name": 3}}, "algorithm.name: Input should be a valid string"),
        ({"algorithm": {"temperature": 0.0}}, "algorithm.temperature: Input should be greater than 0"),
        ({"algorithm": {"position_schedule": "steep"}}, "algorithm.position_schedule: Input should be 'uniform', 'mild'"),
        ({"algorithm": {"reduction": "sum"}}, "algorithm.reduction: Input should be 'sequence_mean' or 'token_mean'"),
        ({"algorithm": {"updates_per_batch": 0}}, "algorithm.updates_per_batch: Input should be greater than 0"),
        ({"algorithm": {"importance_correction": "both"}}, "importance_correction: Input should be 'none', 'token' or"),
        ({"algorithm": {"importance_cap": 0.0}}, "algorithm.importance_cap: Input should be greater than 0"),
        (
            {"algorithm": {"divergence_beta": 0.5, "top_k": "full", "top_k_form": "tail_bucket"}},
            "algorithm: top_k_form tail_bucket applies to the cross-entropy, which divergence_beta replaces: remove one of",
        ),
        (
            {"algorithm": {"divergence_beta": 1.5, "top_k": "full"}},
            "algorithm.divergence_beta: Input should be less than or equal to 1",
        ),
        (
            {"algorithm": {"divergence_beta": float("nan"), "top_k": "full"}},
            "algorithm.divergence_beta: Input should be a finite number",
        ),
        ({"rollouts": {"temperature": 0.0}}, "rollouts.temperature: Input should be greater than 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate: Input should be a finite number"),
        ({"optimizer": {"weight_decay": float("inf")}}, "optimizer.weight_decay: Input should be a finite number"),
        (
            {"batches": {"unit": "rollouts", "size": 10}},
            r"batches.size 10 \(rollouts\) is not a multiple of rollouts.group_size 4",
        ),
        ({"trainer": {"micro_batch_tokens": 5119}}, "one sequence may have 5120 tokens"),
        ({"teacher": {"model": "t", "scorer": "vllm"}}, "teacher.scorer: unknown key"),
        ({"teacher": {"model": "t", "backend": "sglang"}}, "teacher.backend: Input should be 'in_process' or 'vllm'"),
        (
            {"batches": {"total_prompts": None}},
            'batches.total_prompts is null, but prompts are drawn with replacement: set it, or batches.draw to "epochs"',
        ),
        ({"batches": {"draw": "epochs", "epochs": 0}}, "batches.epochs: Input should be greater than 0"),
        ({"rollouts": {"top_p": 0.0}}, "rollouts.top_p: Input should be greater than 0"),
        ({"rollouts": {"top_p": 1.5}}, "rollouts.top_p: Input should be less than or equal to 1"),
        ({"dataset": {"folder": "d", "labels": "guess"}}, "dataset.labels: Input should be 'gold', 'teacher_majority' or"),
        ({"placement": {"kind": "colocated", "students": 4, "engines": 2}}, "engines is 2: set both to the number of GPUs"),
        (
            {"placement": {"kind": "colocated", "students": 2, "engines": 2}, "overlap": "one_step_off"},
            "colocated engines sleep meanwhile: choose placement split or overlap on_policy",
        ),
        ({"trainer": {"lora": {"targets": ["lm_head"]}}}, "trainer.lora.targets.0"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, f"seed: Input should be less than {2**63}"),
        ({"optimizer": {"beta1": 1.0}}, "optimizer.beta1: Input should be less than 1"),
        ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2: Input should be less than 1"),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_rejected_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        run(**changes)
    assert "\n" not in str(refused.value)


def test_the_backend_of_the_teacher_is_part_of_the_identity_and_force_is_not() -> None:
    small = run(teacher={"model": "t", "backend": "vllm"}, algorithm={"top_k": 16})
    assert small.identity() != run(algorithm={"top_k": 16}).identity()  # bf16 kernels of their own
    assert run(teacher={"model": "t", "force": True}).identity() == run().identity()


def test_paths_and_resources_are_not_part_of_the_identity() -> None:
    made = run()
    elsewhere = run(
        output="/elsewhere", dataset={"folder": "/d"}, student={"model": "/s"}, teacher={"model": "/t"},
        trainer={"zero_stage": 3, "micro_batch_tokens": 16384, "gradient_checkpointing": False},
        placement={"kind": "colocated", "students": 8, "engines": 8}, checkpoints={"every": 1}, self_tests=False,
    )  # fmt: skip
    assert made.identity() == elsewhere.identity()
    changes: tuple[dict[str, Any], ...] = (
        {"seed": 1},
        {"algorithm": {"top_k": 64}},
        {"lengths": {"max_response_tokens": 64}},
        {"overlap": "one_step_off"},
    )
    for change in changes:
        assert run(**change).identity() != made.identity()


def test_the_identity_names_every_setting_of_the_algorithm_that_was_given() -> None:
    assert run(algorithm={"top_k": None}).identity() == run().identity()
    given: dict[str, Any] = {
        "prompt_weight": {"kind": "soft"}, "top_k": "full", "divergence_beta": 0.0, "reference_kl_coefficient": 0.1,
        "temperature": 1.1, "position_schedule": "mild", "reduction": "token_mean", "updates_per_batch": 2,
        "importance_correction": "token", "importance_cap": 3.0,
    }  # fmt: skip
    named = run(algorithm=given).identity()["algorithm"]
    assert {name: named[name] for name in given} == given and named["name"] == "uopd"
    found = [run(algorithm={name: value}).identity() for name, value in given.items()]
    assert all(one != run().identity() for one in found)  # also the forward KL, beta 0


def test_a_run_round_trips_through_its_file(tmp_path: Path) -> None:
    made = run(
        algorithm={
            "prompt_weight": {"kind": "binary", "tau": 0.5},
            "top_k": "full",
            "reference_kl_coefficient": 0.25,
            "divergence_beta": 0.5,
        },
        trainer={"lora": {"rank": 8}},
    )
    path = tmp_path / "RUN.json"
    path.write_text(made.model_dump_json(), encoding="utf-8")
    assert load_run(path) == made


def test_an_invalid_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "RUN.json"
    with pytest.raises(UserError, match=r"RUN\.json does not exist"):
        load_run(path)
    path.write_text('{"output": "o",\n "seed": }', encoding="utf-8")
    with pytest.raises(UserError, match=r"RUN\.json is not valid JSON: line 2, column 10"):
        load_run(path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(UserError, match=r"RUN\.json is not a JSON object"):
        load_run(path)
    path.write_text(json.dumps(REQUIRED | {"bogus": 1}), encoding="utf-8")
    with pytest.raises(UserError, match=r"RUN\.json: bogus: unknown key"):
        load_run(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"RUN\.json cannot be read"):
        load_run(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deeply to be read: write the settings"),
        ('{"seed": 1, "output": "a", "seed": 2}', "has the key 'seed' twice in one object: remove one"),
        ('{"optimizer": {"beta1": 0.9, "beta1": 0.8}}', "has the key 'beta1' twice"),
        ('{"optimizer": {"learning_rate": NaN}}', "contains NaN, which is not valid JSON"),
        ('{"optimizer": {"learning_rate": -Infinity}}', "contains -Infinity, which is not valid JSON"),
        ('{"seed": ' + "9" * 5000 + "}", "cannot be read"),
    ],
)
def test_json_that_python_accepts_or_fails_on_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "RUN.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        load_run(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_relative_paths_are_relative_to_the_project() -> None:
    assert project_path("pocket/student") == Path(__file__).resolve().parents[2] / "pocket" / "student"
    assert project_path("/tmp/x") == Path("/tmp/x")


def test_importing_the_settings_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "ray", "vllm", "deepspeed", "prefect")
    code = f"import sys, training.config; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batches": {"size": 16, "draws": 800}},
            "test: batches.draws: this key is now batches.total_prompts; see",
        ),
        ({"engine": {"zero_stage": 3}}, "test: engine: this key is now trainer; see training/config.py"),
        (
            {"rollouts": {"per_prompt": 2}},
            "test: rollouts.per_prompt: this key is now rollouts.group_size; see",
        ),
        (
            {"teacher": {"model": "t", "engine": "vllm"}},
            "test: teacher.engine: this key is now teacher.backend; see",
        ),
    ],
)
def test_an_old_key_is_refused_with_the_key_that_replaced_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        run(**changes)


def test_every_old_key_has_a_new_one_that_exists() -> None:
    made = run()
    for old, new in RENAMED_KEYS.items():
        value: Any = made
        for part in new.split("."):
            value = getattr(value, part)
        with pytest.raises(AttributeError):
            getattr(made if "." not in old else getattr(made, old.split(".")[0]), old.split(".")[-1])
