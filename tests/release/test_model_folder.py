"""The release folder of a student: it loads, and its card has what the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.release.dataset_folder import Naming
from tasks.release.model_folder import read_trained, write_model_release
from tasks.release.texts import refuse_exposed
from tasks.storage.checksums import sealed
from tasks.storage.model_index import index_result, model_index
from tests.tiny_model import write_tiny_model

HERE = "/" + "home/ada/output"
HEAD = {"library_name": "transformers", "pipeline_tag": "text-generation", "language": ["en"],
        "model_name": "tiny, trained by uopd", "tags": ["mathematics"]}  # fmt: skip
MEASURED = model_index(
    "tiny, trained by uopd",
    [index_result({"type": "held-out", "name": "200 held-out problems"}, {"avg@4": 0.4}, "temperature 0.7")],
)


def result(student: Path, **changes: Any) -> dict[str, Any]:
    made = {
        "fingerprint": "ab" * 32, "algorithm": "uopd", "method": {"summary": "s"}, "prompts": 8, "steps": 2,
        "student": {"from": "tiny:1", "to": model_identity(str(student), None, PROJECT_ROOT)}, "teacher": "teacher:1",
        "dataset": "cd" * 32, "settings": {"seed": 0}, "versions": {"torch": "2"},
        "held_out": {"after": {"value": 0.4, "low": 0.3, "high": 0.5, "n": 200}, "gain": {"value": 0.1}},
    }  # fmt: skip
    return made | changes


def trained(
    folder: Path, *, model: str = "Qwen/Qwen3-1.7B", index: Mapping[str, Any] = MEASURED, **changes: Any
) -> Path:
    write_tiny_model(folder / "student")
    head = yaml.safe_dump({**HEAD, **index})
    (folder / "student/README.md").write_text(f"---\n{head}---\n# tiny, trained by uopd\n")
    for name in ("cost.json", "curves.png", "metrics.parquet"):
        (folder / name).write_bytes(b"{}")
    (folder / "RUN.json").write_text(json.dumps({"output": HERE, "student": {"model": model}}))
    (folder / "result.json").write_text(json.dumps(sealed(result(folder / "student", **changes))))
    return folder


def card(place: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard((place / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=False).data


def test_the_student_loads_from_the_release_and_the_card_has_the_metadata(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = read_trained(trained(tmp_path / "run"))
    place = tmp_path / "model-1.0.0"
    extra = index_result({"name": "AIME 2025", "type": "aime"}, {"pass@1": 0.1}, "pass1_greedy")
    write_model_release(
        place, run, Naming(version="1.0.0", repo="group/student"), licence="apache-2.0", datasets=["group/sure-math"],
        evaluations=[extra],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(place)
    before = AutoModelForCausalLM.from_pretrained(run.student)
    assert all(
        bool((one == two).all()) for one, two in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert AutoTokenizer.from_pretrained(place).encode("7") == AutoTokenizer.from_pretrained(
        run.student
    ).encode("7")
    data = card(place)
    assert (data.license, data.base_model, data.datasets) == (
        "apache-2.0",
        ["Qwen/Qwen3-1.7B"],
        ["group/sure-math"],
    )
    assert [(one.dataset_name, one.metric_value) for one in data.eval_results] == [
        ("200 held-out problems", 40.0), ("AIME 2025", 10.0),
    ]  # fmt: skip
    recipe = json.loads((place / "recipe.json").read_text())
    assert recipe["algorithm"] == "uopd" and recipe["settings"] == {"seed": 0} and recipe["steps"] == 2
    assert {"LICENSE", "CITATION.cff", "cost.json", "curves.png", "metrics.parquet"} <= {
        path.name for path in place.iterdir()
    }
    refuse_exposed(place, [])


def test_a_local_base_model_is_not_named_as_one_of_the_hub(tmp_path: Path) -> None:
    run = read_trained(trained(tmp_path / "run", model="pocket/student", index={}, held_out=None))
    write_model_release(tmp_path / "model", run, Naming(version="1.0.0"), licence="mit")
    data = card(tmp_path / "model")
    assert data.base_model is None and data.eval_results is None


def test_another_student_an_unfinished_run_and_an_unknown_licence_are_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    with pytest.raises(UserError, match="the licence 'mine' is unknown"):
        write_model_release(tmp_path / "model", read_trained(folder), Naming(version="1.0.0"), licence="mine")
    assert not (tmp_path / "model").exists()
    config = folder / "student/config.json"
    config.write_text(config.read_text() + "\n ")
    with pytest.raises(UserError, match="its files were changed; distil again"):
        read_trained(folder)
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_trained(folder)


def test_a_run_of_a_version_whose_results_have_other_keys_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    made = {
        key: value for key, value in result(folder / "student").items() if key not in ("algorithm", "method")
    }
    (folder / "result.json").write_text(json.dumps({**made, "objective": "uopd"}))  # format 1: no checksum
    with pytest.raises(
        UserError,
        match=r"run has no algorithm: its result.json was written by another version, sure-math \(format 1\); distil again",
    ):
        read_trained(folder)
    (folder / "result.json").write_text(json.dumps(sealed(result(folder / "student"))))
    (folder / "curves.png").unlink()
    with pytest.raises(UserError, match=r"run has no curves\.png"):
        read_trained(folder)


def test_a_path_of_this_machine_in_a_text_is_refused(tmp_path: Path) -> None:
    run = read_trained(trained(tmp_path / "run", settings={"output": HERE}))
    write_model_release(tmp_path / "model", run, Naming(version="1.0.0"), licence="mit")
    with pytest.raises(UserError, match=f"recipe[.]json has the machine's path {HERE}"):
        refuse_exposed(tmp_path / "model", [])
