"""Everything that would end a run later is found before it starts: all of it at once, one sentence each."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.rows import Problem
from tasks.runtime.plan import write_plan
from tasks.runtime.preflight import check_run, output_problems, require_ready
from tasks.seeds.registry import resolve
from tasks.storage import hub_lookup
from tasks.storage.artifacts import Store
from tests.scripted_server import running
from tests.small_build import SMALL

TRAINED = {name: value for name, value in SMALL.items() if name != "distill"}


def problems_of(tmp_path: Path, work: Any = "build", **overrides: Any) -> list[str]:
    given = {**TRAINED, "run.output": str(tmp_path / "out"), "distill.in_build": False, **overrides}
    return check_run(resolve(load_config("pocket", given)), work)


def test_the_pocket_profile_has_no_problem_and_nothing_is_written(tmp_path: Path) -> None:
    assert problems_of(tmp_path, **{"distill.in_build": True}) == []
    assert list(tmp_path.iterdir()) == []


def test_problems_of_all_stages_are_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = problems_of(
            tmp_path,
            **{
                "models.evolver.model": "pocket/nobody",
                "models.equivalence_judge.serve.port": port,
                "models.quality_judge.max_model_len": 100_000,
                "sample.sampling.temperature": 0.0,
                "decontam.benchmarks": [
                    {"kind": "file", "name": "exam", "path": "none.jsonl", "tier": "easy"}
                ],
                "distill.in_build": True,
                "distill.run.student.model": "pocket/nobody",
            },
        )
    patterns = (
        "models.evolver: model folder .*pocket/nobody does not exist",
        "models.quality_judge: max_model_len is 100,000, but the context of .*pocket/judge ends at 2,048",
        f"models.equivalence_judge: port {port} of 127.0.0.1 cannot be used",
        "8 samples at temperature 0 are all the same",
        "none.jsonl",
        "distill.run: student.model: checkpoint folder .*pocket/nobody does not exist",
    )
    assert len(found) == len(patterns)
    for pattern in patterns:
        (one,) = [line for line in found if re.search(pattern, line)]
        assert "\n" not in one and "Traceback" not in one


def test_the_teacher_of_the_student_follows_the_teacher_of_the_dataset(tmp_path: Path) -> None:
    changed = {"models.teacher.model": "pocket/student", "distill.in_build": True}
    config = load_config("pocket", changed)
    assert config.distill is not None and config.distill.run["teacher"] == {"model": "pocket/student"}
    assert problems_of(tmp_path, **changed) == []
    (problem,) = problems_of(tmp_path, **changed, **{"distill.run.teacher.model": "pocket/teacher"})
    assert problem.startswith(
        "models.teacher.model is pocket/student, but distill.run.teacher.model is pocket/teacher, another model: remove"
        " distill.run.teacher.model"
    )
    allowed = {"distill.run.teacher.model": "pocket/teacher", "distill.run.dataset.allow_mismatch": True}
    assert problems_of(tmp_path, **changed, **allowed) == []


def test_a_copy_of_the_teacher_is_the_same_teacher(tmp_path: Path) -> None:
    copy = shutil.copytree(PROJECT_ROOT / "pocket/teacher", tmp_path / "copy")
    given = {"distill.in_build": True, "distill.run.teacher.model": str(copy)}
    assert problems_of(tmp_path, **given) == []
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    (problem,) = problems_of(tmp_path, **given)
    assert "another model" in problem


def test_curated_problems_and_the_target_are_counted(tmp_path: Path) -> None:
    (few,) = problems_of(tmp_path, **{"aggregate.test_problems": 9})
    assert few.startswith("aggregate.test_problems is 9, but the curated sources have only 8 problems")
    (target,) = problems_of(tmp_path, **{"evolve.target": 3})
    assert target.startswith("evolve.target is 3, but evolve.branches already give 36 candidates")


@pytest.mark.parametrize("work", ["distill", "validate", "reannotate"])
def test_a_missing_dataset_is_reported_with_the_command_that_makes_one(tmp_path: Path, work: Any) -> None:
    (problem,) = problems_of(tmp_path, work)
    assert problem.endswith("build one first (make build)")


def test_a_distillation_needs_none_of_the_factorys_models(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "distill", **{"models.evolver.model": "pocket/nobody"})
    assert len(found) == 1 and "no finished dataset" in found[0]


def test_several_problems_are_one_error_with_a_line_each(tmp_path: Path) -> None:
    given = {**SMALL, "run.output": str(tmp_path / "out"), "aggregate.test_problems": 9, "evolve.target": 3}
    with pytest.raises(UserError) as refused:
        require_ready(resolve(load_config("pocket", given)), "build")
    assert len(str(refused.value).splitlines()) == 2


def test_the_plan_lists_the_same_problems(tmp_path: Path) -> None:
    given = {**SMALL, "run.output": str(tmp_path / "out"), "models.teacher.model": "Nobody/Nothing-1B"}
    _, plan = write_plan("pocket", given)
    assert plan.errors == tuple(check_run(resolve(load_config("pocket", given)), "build")) != ()
    assert json.loads((tmp_path / "out/plan.json").read_text())["errors"] == list(plan.errors)


# --- disk --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(total=1, used=1, free=5_000_000))
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"run.output: the disk of {tmp_path} is full, 5 MB are free")


def test_a_disk_that_refuses_a_write_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    (problem,) = problems_of(tmp_path)
    assert problem == (
        f"run.output: {tmp_path / 'out'} cannot be written (No space left on device): free some space or choose another folder"
    )


# --- hub and servers ---------------------------------------------------------------------------------------------

HUB = {
    "models.evolver.model": "Nobody/Nothing-1B",
    "aggregate.sources": [
        {"kind": "omni_math"},
        {"kind": "pocket", "name": "curated", "role": "curated", "counts": {"easy": 9}},
    ],
}


def test_offline_all_hub_models_and_sources_are_in_one_sentence(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, **HUB)  # the tests run with HF_HUB_OFFLINE=1
    assert problem.startswith("the Hugging Face hub cannot be reached (HF_HUB_OFFLINE is set)")
    assert "Nobody/Nothing-1B (models.evolver.model)" in problem
    assert "KbsdJames/Omni-MATH (source omni_math)" in problem


def test_each_model_and_data_set_that_the_hub_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_self: object, name: str, **_: object) -> None:
        raise RepositoryNotFoundError(f"404 for {name}", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(hub_lookup, "_silence", lambda: None)
    monkeypatch.setattr(HfApi, "model_info", absent)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)
    (problem,) = problems_of(tmp_path, **HUB)
    assert problem.startswith("models.evolver.model: the Hugging Face hub has no model Nobody/Nothing-1B")


def test_servers_are_asked_for_their_models(tmp_path: Path) -> None:
    with running({}, models=("served",)) as server:
        reached = {"serve": None, "base_url": server.base_url}
        found = problems_of(
            tmp_path,
            **{
                "models.evolver": {**reached, "model": "served"},
                "models.quality_judge": {**reached, "model": "other"},
                "models.teacher": {**reached, "model": "served", "base_url": "http://127.0.0.1:9/v1"},
                "cluster.judge": "never",
            },
        )
    assert len(found) == 2
    assert any(
        "models.quality_judge: model server" in one and "does not offer 'other'" in one for one in found
    )
    assert any(
        "models.teacher: model server http://127.0.0.1:9/v1/models does not answer" in one for one in found
    )


def test_a_server_whose_stage_is_finished_is_not_needed(tmp_path: Path) -> None:
    gone = {"models.quality_judge": {"serve": None, "base_url": "http://127.0.0.1:9/v1"}}
    assert len(problems_of(tmp_path, **gone)) == 1
    store, fingerprint = Store(tmp_path / "out"), "0123456789abcdef" * 4
    counts = {"counts": {"in": 0, "kept": 0, "rejected": {}}}
    store.write_shard(store.folder("judge", fingerprint), 0, {"problems": (Problem, [])}, counts)
    store.finish("judge", fingerprint, 1, {"models": [model_identity("pocket/judge", None, PROJECT_ROOT)]})
    assert problems_of(tmp_path, **gone) == []


def test_a_dataset_that_cannot_be_replaced_and_a_name_that_is_not_utf8_are_reported_first(
    tmp_path: Path,
) -> None:
    root = tmp_path / "out"
    root.mkdir()
    (root / "dataset").symlink_to(tmp_path / "elsewhere")
    (problem,) = output_problems(root)
    assert problem.startswith(
        f"{root / 'dataset'} is a symbolic link, but this folder is replaced as a whole"
    )
    (root / "dataset").unlink()
    (root / "dataset").write_text("a file")
    (problem,) = output_problems(root)
    assert "dataset is not a folder" in problem
    (problem,) = output_problems(tmp_path / os.fsdecode(b"caf\xe9"))
    assert "has a name that is not UTF-8: choose another folder" in problem


def test_a_cluster_that_does_not_respond_is_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, **{"ray.address": "ray://127.0.0.1:9"})
    assert problem.startswith("ray.address: no Ray cluster responds at ray://127.0.0.1:9")


def test_the_checks_load_neither_prefect_nor_torch_nor_vllm() -> None:
    program = (
        "import sys, tasks.runtime.preflight; print({'prefect', 'torch', 'vllm', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
