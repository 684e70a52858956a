"""Runs that would train nothing, or something other than their algorithm: each is refused with one sentence before it starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.training.small_run import example, response, settings, write_small_dataset
from training.algorithms import load_algorithm
from training.algorithms.advantages import group_centred
from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import GeneralisedJSD, PolicyGradient, TopKCrossEntropy
from training.config import run_from
from training.launch import main
from training.plan import RunPlan, resolve
from training.preflight.algorithm_checks import algorithm_problems, teacher_warning
from training.preflight.check import inspect

VLLM = {"model": "pocket/teacher", "backend": "vllm"}
BY_START = {"algorithm": {"name": "opsd"}, "lengths": {"max_prompt_tokens": 256, "max_response_tokens": 448}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset whose rows have neither a ground truth nor a right sample: a majority answer only."""
    rows = [example(number) for number in range(1, 5)]
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)


WRONG: list[tuple[dict[str, Any], str]] = [
    # unknown or malformed
    ({"algorithm": {"name": "updo"}}, "RUN.json: algorithm.name: unknown algorithm 'updo': choose one of core, eopd, grpo,"),
    ({"algorithm": {"preset": "uopd"}}, "RUN.json: algorithm.preset: this key is now algorithm.name; see"),
    ({"objective": {"name": "uopd"}}, "RUN.json: objective: this key is now algorithm; see training/config.py"),
    ({"algorithm": {"name": "my.method"}}, "the module of algorithm 'my.method' cannot be imported (No module named 'my'):"),
    # settings that the algorithm does not have
    ({"algorithm": {"name": "sft", "top_k": 8}}, "algorithm.top_k is set, but sft does not use a teacher's top k: remove it"),
    ({"algorithm": {"name": "grpo", "temperature": 2.0}}, "algorithm.temperature is set, but grpo has no distillation loss:"),
    ({"algorithm": {"importance_correction": "token"}}, "algorithm.importance_correction is set, but uopd has no advantages"),
    ({"algorithm": {"divergence_beta": 0.5}}, "algorithm.divergence_beta needs the full distribution, but top_k is 512: set"),
    (
        {"algorithm": {"temperature": 2.0, "top_k_form": "tail_bucket"}},
        "the cross-entropy has temperature 2.0 with form tail_bucket: a temperature other than 1 needs form teacher_renorm",
    ),
    # models
    ({"teacher": None}, "uopd needs a teacher, but the run has none: set teacher.model"),
    ({"teacher": None, "algorithm": {"name": "kd"}}, "kd needs a teacher, but the run has none: set teacher.model"),
    ({"algorithm": {"top_k": 2049}}, 'algorithm.top_k is 2,049, but the models share only 2,048 tokens: lower it, or set "full"'),
    (
        {"teacher": VLLM, "algorithm": {"top_k": 17}},
        "teacher.backend vllm supports a top_k up to 16, but top_k is 17: choose teacher.backend in_process, whose cost",
    ),
    (
        {"teacher": VLLM, "algorithm": {"top_k": "full"}},
        "teacher.backend vllm supports a top_k up to 16, but the full distribution is needed: choose teacher.backend",
    ),
    (
        {
            "teacher": VLLM, "algorithm": {"top_k": 16},
            "placement": {"kind": "colocated", "students": 2, "engines": 2, "engine_memory_fraction": 0.1},
        },
        "teacher.backend vllm needs a GPU of its own, but placement colocated shares every GPU: choose placement split or",
    ),
    # rollouts and batches
    (
        {"algorithm": {"name": "grpo"}, "rollouts": {"top_p": 0.9, "top_k": 20}},
        "rollouts.top_p 0.9 and top_k 20 truncate sampling, so that the ratios of the policy gradient of grpo are those of",
    ),
    (
        {"algorithm": {"name": "grpo"}, "rollouts": {"group_size": 1}},
        "grpo compares the rollouts of a prompt, but rollouts.group_size is 1, so that every advantage is 0: set it to at",
    ),
    (
        {"algorithm": {"name": "grpo"}, "batches": {"size": 3}},
        "a rollout batch has 3 prompts for 4 updates: lower algorithm.updates_per_batch, or raise batches.size",
    ),
    (
        {"algorithm": {"updates_per_batch": 3}, "batches": {"size": 8, "unit": "rollouts"}},
        "a rollout batch has 2 prompts for 3 updates: lower algorithm.updates_per_batch, or raise batches.size",
    ),
    ({"batches": {"total_prompts": None}}, "RUN.json: batches.total_prompts is null, but prompts are drawn with replacement:"),
    # the dataset
    (
        {"algorithm": {"name": "grpo"}, "labels": "gold"},
        "row 00000000000000000000000000000001 has no label to train on: it has no ground truth (and 3 more rows of 4 without",
    ),
    (
        {**BY_START, "solutions": "gold"},
        "row 00000000000000000000000000000001 has no solution to train on: it has no solution (and 3 more rows of 4 without",
    ),
    (
        {"algorithm": {"name": "sft"}, "lengths": {"max_prompt_tokens": 256, "max_response_tokens": 3}},
        "no row has a response to train on: 4 rows without a finished response to train on, 16 responses: more than",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence[:60] for _, sentence in WRONG])
def test_a_wrong_run_is_refused_with_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    given = {name: changes[name] for name in ("labels", "solutions", "allow_mismatch") if name in changes}
    rest = {name: value for name, value in changes.items() if name not in given}
    data = settings(folder, dataset={"folder": str(folder), **given}, **rest)
    path = tmp_path / "RUN.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert main([str(path), "--check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and sentence in lines[0]


@pytest.mark.parametrize(
    "name",
    [
        "core", "eopd", "grpo", "kd", "opd", "opd_rkl", "opsd", "pw_opsd", "reopold", "self_distilled_reasoner", "sft", "uopd",
        "uopd_eopd", "uopd_grpo", "uopd_pw",
    ],
)  # fmt: skip
def test_every_algorithm_passes_the_check_on_a_dataset_of_the_flow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows = [example(number, answer=str(number) if number % 2 else None) for number in range(1, 5)]
    given = [
        response(row, index, answer=row.answer or row.majority_answer or "")
        for row in rows
        for index in range(4)
    ]
    folder = write_small_dataset(tmp_path / "dataset", rows, responses=given)
    data = settings(folder, algorithm={"name": name}, batches={"size": 4})
    (tmp_path / "RUN.json").write_text(json.dumps(data), encoding="utf-8")
    assert main([str(tmp_path / "RUN.json"), "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"algorithm  {name}: {load_algorithm(name).summary}" in out
    # a row with a ground truth has as its solution a sample with this answer, others one of the majority cluster
    assert ("labels     2 gold, 2 teacher_majority" in out) == (name in ("core", "grpo", "uopd_grpo"))
    assert ("solutions  2 correct_sample, 2 majority_sample" in out) == (name in (*PRIVILEGED, "core"))
    has_teacher = name not in ("grpo", "opsd", "pw_opsd", "sft", "uopd_grpo")
    assert ("          teacher   parameters" in out) == has_teacher
    assert ("          reference parameters" in out) == (name in ("core", "opsd", "pw_opsd"))


PRIVILEGED = ("opsd", "pw_opsd", "self_distilled_reasoner")


def test_rows_without_a_label_are_left_out_and_counted_if_the_run_says_so(tmp_path: Path) -> None:
    rows = [example(number, answer=str(number) if number % 2 else None) for number in range(1, 6)]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    given = {"folder": str(folder), "labels": "gold", "without": "leave_out"}
    data = settings(folder, dataset=given, algorithm={"name": "grpo"}, batches={"size": 4}, teacher=None)
    found = inspect(run_from(data, "test"))
    assert found.problems == () and found.prepared is not None
    assert found.prepared.left_out == {"rows without a label: no ground truth": 2}
    assert [found.prepared.label(row) for row in range(3)] == ["1", "3", "5"]
    assert [row.id for row in found.prepared.rows] == [rows[n].id for n in (0, 2, 4)]
    assert found.prepared.schedule.total_prompts == 9 and found.prepared.teachers == ()  # three epochs


# --- algorithms of other people ----------------------------------------------------------------------------------


def made(algorithm: Algorithm, **changes: Any) -> RunPlan:
    return RunPlan(run=run_from(settings(Path("d"), **changes), "test"), algorithm=algorithm)


POLICY = replace(load_algorithm("grpo"), updates_per_batch=1)


def test_a_dataset_has_no_log_probabilities_for_a_policy_gradient() -> None:
    (problem,) = algorithm_problems(made(replace(POLICY, rollouts="dataset")))
    assert problem == (
        "uopd trains on the dataset's responses, but its loss needs the log-probabilities that they were sampled with, which a"
        " dataset does not have: choose rollouts of the student"
    )


def test_centred_advantages_need_groups_too_and_others_do_not() -> None:
    one = {"group_size": 1}
    centred = replace(POLICY, advantages=group_centred)
    assert "so that every advantage is 0" in algorithm_problems(made(centred, rollouts=one))[0]
    assert algorithm_problems(made(centred)) == []
    elsewhere = replace(POLICY, advantages=lambda columns: columns.values["rollout_logprobs"])
    assert algorithm_problems(made(elsewhere, rollouts=one)) == []


def test_truncated_rollouts_are_allowed_where_asked_for_and_without_ratios() -> None:
    truncated = {"top_p": 0.9}
    assert len(algorithm_problems(made(POLICY, rollouts=truncated))) == 1
    assert algorithm_problems(made(POLICY, rollouts=truncated | {"allow_truncated": True})) == []
    assert algorithm_problems(made(load_algorithm("opd"), rollouts=truncated)) == []


def test_the_start_with_the_plain_prompt_has_no_gradient() -> None:
    plain = Scorer(role="start", outputs=("full",))
    jsd = Term(loss=GeneralisedJSD(beta=0.0))
    (problem,) = algorithm_problems(made(replace(load_algorithm("opsd"), scorers=(plain,), loss=(jsd,))))
    assert problem.startswith("uopd would distil the student from itself with the same prompt")
    own = {"teacher": {"model": "pocket/student"}}
    assert algorithm_problems(made(load_algorithm("self_distilled_reasoner"), **own)) == []


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (replace(load_algorithm("uopd"), scorers=()), "teacher_logprobs"),
        (replace(load_algorithm("uopd"), scorers=(Scorer(role="teacher"),)), "teacher_logprobs"),
        (replace(POLICY, advantages=None), "advantages"),
    ],
)
def test_a_loss_without_its_inputs_is_refused(algorithm: Algorithm, name: str) -> None:
    (problem,) = algorithm_problems(made(algorithm))
    assert problem.startswith(
        f"uopd declares a loss that reads {name}, which none of its scorers, rewards or"
    )


def test_a_vllm_teacher_gives_no_entropy() -> None:
    scorers = (Scorer(role="teacher", outputs=("top_k", "entropy"), top_k=16),)
    algorithm = replace(load_algorithm("opd"), scorers=scorers)
    (problem,) = algorithm_problems(made(algorithm, teacher=VLLM))
    assert problem == (
        "uopd needs the entropy of the teacher's whole distribution, which teacher.backend vllm does not return:"
        " choose in_process"
    )
    assert algorithm_problems(made(algorithm)) == []


def test_a_large_k_of_a_vllm_teacher_is_a_warning_if_forced() -> None:
    def warning(**changes: Any) -> str | None:
        plan = resolve(run_from(settings(Path("d"), **changes), "test"))
        assert algorithm_problems(plan) == []
        return teacher_warning(plan)

    forced = {**VLLM, "force": True}
    assert warning(teacher=forced, algorithm={"top_k": 16}) is None
    assert warning(algorithm={"top_k": 512}) is None
    expected = "teacher.force: {}; in a vLLM engine that is slow, because every entry of every token passes through Python"
    assert str(warning(teacher=forced, algorithm={"top_k": 17})).startswith(expected.format("top_k is 17"))
    full = str(warning(teacher=forced, algorithm={"top_k": "full"}))
    assert full.startswith(expected.format("the full distribution is needed"))


def test_one_term_may_have_a_policy_gradient_beside_a_distillation() -> None:
    both = replace(
        load_algorithm("opd"),
        reward=True,
        advantages=POLICY.advantages,
        loss=(Term(loss=TopKCrossEntropy()), Term(loss=PolicyGradient(), weight=0.5)),
    )
    assert algorithm_problems(made(both)) == []
    assert "truncate sampling" in algorithm_problems(made(both, rollouts={"top_k": 5}))[0]


def test_a_wrong_setting_of_a_loss_is_refused_where_it_is_declared() -> None:
    for declare, sentence in (
        (lambda: GeneralisedJSD(beta=0.5, entry_clip=0.1), "only forward KL"),
        (lambda: PolicyGradient(clip_low=1.5), "clip_low is 1.5: give a number above 0, up to 1"),
        (lambda: TopKCrossEntropy(temperature=0.0), "temperature is 0.0: give a finite number above 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            declare()
