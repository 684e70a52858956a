"""`python -m training.launch`: the checks before a run, which take seconds and load no GPU libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tests.training.small_run import (
    copy_model,
    edit,
    example,
    pad_embedding,
    rewrite,
    set_values,
    settings,
    small_run,
    teacher,
    write_small_dataset,
)
from training.launch import main
from training.preflight.check import inspect, prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        example(number, weight=number / 10, semantic_entropy=1.3 - number / 10) for number in range(1, 11)
    ]
    return write_small_dataset(tmp_path / "dataset", rows)


def write(path: Path, data: dict[str, Any]) -> str:
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def test_a_valid_run_is_summarised(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "batches": {"size": 16, "total_prompts": 100},
        "algorithm": {"prompt_weight": {"kind": "binary", "tau": 0.55}},
    }
    assert main([write(tmp_path / "RUN.json", settings(folder, **changes)), "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    longest = max(len(row.prompt_ids) for row in prepare(small_run(folder)).rows)
    # entropies 0.3, 0.4, 0.5 are below 0.55; 0.1 + ... + 1.0 = 5.5; 100 draws are 6 x 16 + 4; 5% of 7 steps is 1
    assert "rows       10 in default/train, 3 used for sampling" in out
    assert "weights    sum of weights 5.5, mean 0.550, 0 rows with weight 0" in out
    assert "sum of binary weights 3.0, mean 0.300" in out
    assert "steps      7: 100 draws, 16 prompts per step, 4 in the last, 7 updates, 1 of them warm-up" in out
    assert f"tokens     at most {400 * (longest + 448):,} in 400 rollouts" in out
    assert "disk       at most 0.1 GB for checkpoints and the trained student, " in out
    assert "machine   student   parameters" in out and "reference" not in out


def test_a_reference_is_reported_with_its_memory(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = settings(folder, algorithm={"reference_kl_coefficient": 0.05})
    assert main([write(tmp_path / "RUN.json", data), "--check"]) == 0
    out, _ = capsys.readouterr()
    assert "reference  the frozen initial student, in bfloat16" in out
    assert "          reference parameters " in out


def test_the_check_loads_neither_torch_nor_ray_nor_vllm(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from training.launch import main; code = main(sys.argv[1:]);"
        " print([m for m in ('torch', 'ray', 'vllm', 'deepspeed', 'prefect') if m in sys.modules], code)"
    )
    path = write(tmp_path / "RUN.json", settings(folder))
    result = subprocess.run(
        [sys.executable, "-c", code, path, "--check"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT_ROOT,
    )
    assert result.stdout.splitlines()[-1] == "[] 0"


def test_the_command_exits_with_2_and_one_sentence_per_problem(tmp_path: Path) -> None:
    data = settings(tmp_path / "nowhere", student={"model": "pocket/nobody"})
    result = subprocess.run(
        [sys.executable, "-m", "training.launch", write(tmp_path / "RUN.json", data), "--check"],
        capture_output=True, text=True, cwd=PROJECT_ROOT, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    student, dataset = result.stderr.splitlines()
    assert student.startswith("student.model: checkpoint folder ")
    assert "is not an exported dataset" in dataset


def test_the_problems_file_contains_only_the_problems(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = tmp_path / "problems.txt"
    assert main([write(tmp_path / "RUN.json", settings(folder)), "--check", "--problems", str(reported)]) == 0
    assert not reported.exists()
    wrong = write(tmp_path / "RUN.json", settings(tmp_path / "nowhere", student={"model": "pocket/nobody"}))
    for options in (["--check"], []):
        capsys.readouterr()
        assert main([wrong, "--problems", str(reported), *options]) == 2
        assert reported.read_text(encoding="utf-8") == capsys.readouterr().err
        assert len(reported.read_text(encoding="utf-8").splitlines()) == 2
        reported.unlink()


def test_invalid_settings_are_reported_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write(tmp_path / "RUN.json", {"bogus": 1}), "--check"]) == 2
    assert "RUN.json: output: this setting is missing (and 3 more)" in capsys.readouterr().err


def test_all_problems_are_reported_at_once(folder: Path, tmp_path: Path) -> None:
    short = copy_model("student", tmp_path / "short")
    edit(short / "config.json", lambda data: data.update(max_position_embeddings=300))
    write_small_dataset(folder, [example(1)], teacher(model="teacher:0123456789abcdef"))
    run = small_run(
        folder,
        student={"model": str(short)},
        lengths={"max_prompt_tokens": 8, "max_response_tokens": 448},
        algorithm={"prompt_weight": {"kind": "binary", "tau": 0.1}},
    )
    found = inspect(run)
    assert found.prepared is None and found.table
    context, annotated, prompt, binary = found.problems
    assert "the student's context ends at 300" in context
    assert "keeps none of 1 prompts: raise tau" in binary
    assert "annotated with teacher teacher:0123456789abcdef" in annotated
    assert "has a prompt of" in prompt
    with pytest.raises(UserError) as refused:
        prepare(run)
    assert str(refused.value).splitlines() == list(found.problems)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"weight": 1.5}, "0002 has weight 1.5"), ({"weight": float("nan")}, "0002 has weight nan"), ({"problem": ""}, "empty")],
)  # fmt: skip
def test_invalid_rows_stop_a_run(folder: Path, row: dict[str, Any], message: str) -> None:
    set_values(folder, 1, row)
    with pytest.raises(UserError, match=message):
        prepare(small_run(folder))


def test_a_machine_with_too_little_memory_is_rejected_with_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = {"kind": "split", "students": 1, "engines": 2, "gpu_memory_gb": 1.0}
    assert main([write(tmp_path / "RUN.json", settings(folder, placement=tight)), "--check"]) == 2
    out, err = capsys.readouterr()
    assert "GPU 2-3" in out and "total, of 1.0 GB" in out
    assert "GPU 0 needs " in err and "KV cache of a rollout engine is too small" in err


def test_a_vllm_teacher_with_large_k_is_rejected_or_warned_about_when_forced(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(k: int, **teacher: Any) -> tuple[int, str, str]:
        chosen = {"model": "pocket/teacher", "backend": "vllm", **teacher}
        data = settings(folder, teacher=chosen, algorithm={"top_k": k})
        code = main([write(tmp_path / "RUN.json", data), "--check"])
        out, err = capsys.readouterr()
        return code, out, err

    code, _, err = check(17)
    assert code == 2 and err.count("\n") == 1
    assert "teacher.backend vllm supports a top_k up to 16, but top_k is 17" in err
    code, out, err = check(16)
    assert (code, err) == (0, "") and "teacher    in a vLLM engine, through prompt_logprobs" in out
    code, out, err = check(17, force=True)
    assert (code, err) == (
        0,
        "",
    ) and "teacher    teacher.force: top_k is 17; in a vLLM engine that is slow" in out


def test_a_vllm_teacher_needs_the_same_vocabulary_size_and_a_spare_position(
    folder: Path, tmp_path: Path
) -> None:
    teacher = copy_model("teacher", tmp_path / "teacher")
    edit(pad_embedding(teacher, 2304) / "config.json", lambda data: data.update(max_position_embeddings=704))
    chosen = {"model": str(teacher), "backend": "vllm"}
    found = inspect(small_run(folder, teacher=chosen, algorithm={"top_k": 16}))
    assert [
        "takes the softmax over all 2,304 ids of the teacher, but the student has 2,048" in found.problems[0],
        "up to 704 tokens, but the teacher's context ends at 704" in found.problems[1],
    ] == [True, True]
    in_process = inspect(small_run(folder, teacher={"model": str(teacher)}, algorithm={"top_k": 16}))
    assert not any("vllm" in problem for problem in in_process.problems)


def test_a_run_is_prepared_completely(folder: Path) -> None:
    made = prepare(small_run(folder, batches={"size": 4, "total_prompts": 8}))
    assert made.shared_vocab == 2048
    assert [draw.row_id == made.rows[draw.row].id for draw in made.schedule.step(1)] == [True] * 4
    assert all(row.prompt_ids for row in made.rows)


def test_the_fingerprint_depends_only_on_settings_that_affect_results(folder: Path, tmp_path: Path) -> None:
    first = prepare(small_run(folder)).fingerprint
    copied = copy_model("student", tmp_path / "elsewhere" / "student")
    assert (
        prepare(small_run(folder, student={"model": str(copied)}, output=str(tmp_path / "x"))).fingerprint
        == first
    )
    assert prepare(small_run(folder, seed=1)).fingerprint != first
    assert prepare(small_run(folder, algorithm={"name": "opd"})).fingerprint != first
    assert prepare(small_run(folder, algorithm={"reference_kl_coefficient": 0.1})).fingerprint != first
    assert prepare(small_run(folder, algorithm={"reference_kl_coefficient": None})).fingerprint == first


def test_the_fingerprint_depends_on_the_rows(folder: Path) -> None:
    found = [prepare(small_run(folder)).fingerprint]
    for changes in ({"weight": 0.75}, {"problem": "What is 1 + 1?"}, {"cluster_labels": [0, 0, 1, 1]}):
        set_values(folder, 1, changes)
        found.append(prepare(small_run(folder)).fingerprint)
    rewrite(folder, lambda table: table.slice(1))
    found.append(prepare(small_run(folder)).fingerprint)
    assert len(set(found)) == len(found)
    rewrite(folder, lambda table: table.take(list(reversed(range(len(table))))))
    assert prepare(small_run(folder)).fingerprint == found[-1]  # rows are sorted by id


def test_weights_that_are_all_zero_are_rejected(folder: Path) -> None:
    agreeing = {"weight": 0.0, "cluster_labels": [0, 0, 0, 0]}
    for row in range(10):
        set_values(folder, row, agreeing)
    for chosen in (None, "soft", "permuted", "constant", "pass_rate"):
        (problem,) = inspect(small_run(folder, algorithm={"prompt_weight": chosen})).problems
        assert problem.startswith("all prompts have weight 0, so nothing would be trained"), chosen
    assert inspect(small_run(folder, algorithm={"prompt_weight": "uniform"})).problems == ()


def test_weights_that_do_not_match_the_configuration_are_rejected_without_a_memory_plan(
    folder: Path, tmp_path: Path
) -> None:
    untied = copy_model("student", tmp_path / "untied")
    edit(untied / "config.json", lambda data: data.update(tie_word_embeddings=False))
    found = inspect(small_run(folder, student={"model": str(untied)}))
    assert [problem.partition(":")[0] for problem in found.problems] == ["student.model"]
    assert "has no tensor lm_head.weight" in found.problems[0] and found.table == ""


def test_a_failing_template_is_reported_once_with_the_other_problems(folder: Path, tmp_path: Path) -> None:
    broken = copy_model("student", tmp_path / "broken")
    (broken / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    set_values(folder, 0, {"weight": 3.0})
    problems = tmp_path / "held_out.jsonl"
    problems.write_text(json.dumps({"id": "a", "problem": "What is 1 + 1?", "answer": "2"}), encoding="utf-8")
    run = small_run(folder, student={"model": str(broken)}, evaluation={"problems": str(problems)})
    template, row = inspect(run).problems
    assert "TemplateSyntaxError" in template and "has weight 3.0" in row


def test_an_output_folder_that_cannot_be_written_is_rejected(folder: Path) -> None:
    (problem,) = inspect(small_run(folder, output="/dev/null/x")).problems
    assert problem.startswith(
        "output: /dev/null/x cannot be created or written (Not a directory): choose another"
    )


def test_held_out_prompts_use_the_thinking_mode_of_the_run(folder: Path, tmp_path: Path) -> None:
    problems = tmp_path / "held_out.jsonl"
    problems.write_text(json.dumps({"id": "a", "problem": "What is 1 + 1?", "answer": "2"}), encoding="utf-8")

    def asked(thinking: bool) -> str:
        run = small_run(
            folder, evaluation={"problems": str(problems)},
            dataset={"folder": str(folder), "allow_mismatch": True},
            lengths={"max_prompt_tokens": 256, "max_response_tokens": 448, "thinking": thinking},
        )  # fmt: skip
        prepared = prepare(run)
        assert prepared.held_out is not None
        return prepared.student.tokenizer.decode(prepared.held_out.prompts[0])

    assert asked(False) == asked(True) + "<think>\n\n</think>\n\n"
