"""The plan of a run: what each algorithm needs, every setting that changes a part of it, and the defaults that it brings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.training.small_run import settings
from training import algorithms
from training.algorithms import algorithm_names, load_algorithm, options_of, rollout_weights
from training.algorithms.advantages import group_normalised
from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import (
    GeneralisedJSD,
    NegativeLogLikelihood,
    PolicyGradient,
    ReferenceKL,
    TopKCrossEntropy,
)
from training.algorithms.rollout_weights import answer_share, right_only
from training.algorithms.token_weights import SCHEDULES, Product, RandomTokens
from training.config import AlgorithmSettings, run_from
from training.losses.prompt_weights import Binary, Constant, PassRate, Permuted, Soft, Uniform
from training.losses.reductions import per_sequence_mean, token_mean
from training.plan import RunPlan, resolve
from training.preflight.algorithm_checks import algorithm_problems
from training.scorers.scores import ScoreRequest

NAMES = (
    "core", "eopd", "grpo", "kd", "opd", "opd_rkl", "opsd", "pw_opsd", "reopold", "self_distilled_reasoner", "sft", "uopd",
    "uopd_eopd", "uopd_grpo", "uopd_pw",
)  # fmt: skip
POLICIES = ("eopd", "grpo", "opd_rkl", "reopold", "uopd_eopd", "uopd_grpo")
"""Those with advantages."""


def plan(
    name: str = "uopd", /, *, seed: int = 0, teacher: object = "in_process", **algorithm: Any
) -> RunPlan:
    backend = {"model": "t", "backend": teacher} if teacher else None
    data = settings(Path("d"), seed=seed, teacher=backend, algorithm={"name": name, **algorithm})
    return resolve(run_from(data, "test"))


def scored(made: RunPlan) -> list[tuple[str, str, ScoreRequest]]:
    return [(one.worker, one.view, one.request) for one in made.passes]


# --- the algorithms ----------------------------------------------------------------------------------------------


def test_every_file_is_an_algorithm_and_has_a_row_below() -> None:
    assert algorithm_names() == list(NAMES)
    assert all(isinstance(load_algorithm(name), Algorithm) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_without_changes_the_plan_has_the_algorithm_itself(name: str) -> None:
    assert plan(name).algorithm == load_algorithm(name)


TOP = ScoreRequest(top_k=512)
STATES = ScoreRequest(states=True)
SAMPLED = ScoreRequest(sampled=True)
UNCERTAIN = ScoreRequest(sampled=True, top_k=16, entropy=True)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("uopd", [("teacher", "plain", TOP)]),
        ("opd", [("teacher", "plain", TOP)]),
        ("self_distilled_reasoner", [("teacher", "solution_in_system", TOP)]),
        ("kd", [("teacher", "plain", ScoreRequest(top_k=16))]),
        ("opsd", [("reference", "solution", STATES)]),
        ("pw_opsd", [("reference", "solution", STATES)]),
        ("grpo", []),
        ("sft", []),
        ("opd_rkl", [("teacher", "plain", SAMPLED)]),
        ("eopd", [("teacher", "plain", UNCERTAIN)]),
        ("reopold", [("teacher", "plain", SAMPLED)]),
        ("core", [("teacher", "plain", TOP), ("reference", "plain", SAMPLED)]),
        ("uopd_pw", [("teacher", "plain", TOP)]),
        ("uopd_eopd", [("teacher", "plain", UNCERTAIN)]),
        ("uopd_grpo", []),
    ],
)
def test_each_algorithm_has_its_passes_workers_and_views(
    name: str, passes: list[tuple[str, str, ScoreRequest]]
) -> None:
    made = plan(name)
    assert scored(made) == passes
    workers = {worker for worker, *_ in passes}
    assert (made.has_teacher, made.has_reference) == ("teacher" in workers, "reference" in workers)
    assert made.views == tuple(view for _, view, _ in passes if view != "plain")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # samples, in_groups, needs_labels, needs_solutions, updates_per_batch, top_k, from_states
        ("uopd", (True, False, False, False, 1, 512, None)),
        ("opd", (True, False, False, False, 1, 512, None)),
        ("self_distilled_reasoner", (True, False, False, True, 1, 512, None)),
        ("kd", (False, False, False, False, 1, 16, None)),
        ("opsd", (True, False, False, True, 1, None, "reference")),
        ("pw_opsd", (True, False, False, True, 1, None, "reference")),
        ("grpo", (True, True, True, False, 4, None, None)),
        ("sft", (False, False, False, False, 1, None, None)),
        ("opd_rkl", (True, True, False, False, 4, None, None)),
        ("eopd", (True, True, False, False, 4, 16, None)),
        ("reopold", (True, True, False, False, 1, None, None)),
        ("core", (True, False, True, False, 1, 512, None)),
        ("uopd_pw", (True, False, False, False, 1, 512, None)),
        ("uopd_eopd", (True, True, False, False, 4, 16, None)),
        ("uopd_grpo", (True, True, True, False, 4, None, None)),
    ],
)
def test_each_algorithm_needs_what_it_declares(name: str, expected: tuple[Any, ...]) -> None:
    made = plan(name)
    found = (
        made.samples, made.in_groups, made.needs_labels, made.needs_solutions, made.updates_per_batch, made.top_k,
        made.from_states,
    )  # fmt: skip
    assert found == expected


def test_uopd_is_as_in_the_paper_and_opd_is_uopd_with_uniform_weights() -> None:
    uopd, opd = load_algorithm("uopd"), load_algorithm("opd")
    assert uopd.loss == (Term(loss=TopKCrossEntropy(form="teacher_renormalised")),)
    assert (uopd.prompt_weight, uopd.reduction, uopd.defaults) == (Soft(), per_sequence_mean, {})
    named = replace(opd, summary=uopd.summary, formula=uopd.formula, source=uopd.source)
    assert replace(named, prompt_weight=Soft()) == uopd
    assert opd.prompt_weight == Uniform()


def test_pw_opsd_is_opsd_with_token_weights_and_the_mean_over_sequences() -> None:
    opsd, weighted = load_algorithm("opsd"), load_algorithm("pw_opsd")
    assert (opsd.token_weight, opsd.reduction) == (None, token_mean)
    assert (weighted.token_weight, weighted.reduction) == (SCHEDULES["moderate"], per_sequence_mean)
    assert weighted.loss == opsd.loss and weighted.scorers == opsd.scorers
    assert opsd.loss == (Term(loss=GeneralisedJSD(beta=0.0, temperature=1.1, entry_clip=0.05)),)


def test_grpo_kd_and_sft_have_their_losses() -> None:
    grpo = load_algorithm("grpo")
    assert (grpo.loss, grpo.advantages) == (
        (Term(loss=PolicyGradient(clip_low=0.2, clip_high=0.2)),),
        group_normalised,
    )
    half = (Term(loss=NegativeLogLikelihood(), weight=0.5), Term(loss=TopKCrossEntropy(), weight=0.5))
    assert load_algorithm("kd").loss == half
    assert load_algorithm("sft").loss == (Term(loss=NegativeLogLikelihood()),)


# --- settings ----------------------------------------------------------------------------------------------------


def changed(name: str, **given: Any) -> dict[str, Any]:
    """Return the parts of the algorithm that these settings change."""
    made, own = plan(name, **given).algorithm, load_algorithm(name)
    fields = (field for field in type(own).__dataclass_fields__)
    return {field: getattr(made, field) for field in fields if getattr(made, field) != getattr(own, field)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("chosen", "weight"),
    [
        ("uniform", Uniform()),
        ("soft", Soft()),
        ("pass_rate", PassRate()),
        ("permuted", Permuted(seed=7)),
        ("constant", Constant()),
        ({"kind": "binary", "tau": 0.3}, Binary(tau=0.3, scale="raw")),
    ],
)
def test_every_algorithm_has_the_prompt_weight_of_the_settings(name: str, chosen: Any, weight: Any) -> None:
    assert plan(name, seed=7, prompt_weight=chosen).algorithm.prompt_weight == weight


def test_top_k_changes_the_scorer_alone() -> None:
    assert changed("uopd", top_k=64) == {"scorers": (Scorer(role="teacher", outputs=("top_k",), top_k=64),)}
    assert changed("kd", top_k=64) == {"scorers": (Scorer(role="teacher", outputs=("top_k",), top_k=64),)}
    full = plan("self_distilled_reasoner", top_k="full")
    assert full.algorithm.scorers == (Scorer(role="teacher", view="solution_in_system", outputs=("full",)),)
    assert (full.top_k, full.from_states) == (None, "teacher")
    assert scored(full) == [("teacher", "solution_in_system", STATES)]


def test_a_vllm_teacher_sends_no_hidden_states_and_the_start_still_does() -> None:
    (one,) = plan(top_k="full", teacher="vllm").passes
    assert one.full and one.request == ScoreRequest(whole=True)
    assert plan(top_k="full", teacher="vllm").from_states is None
    assert plan("opsd", teacher="vllm").from_states == "reference"


def evaluated(name: str = "uopd", /, **changes: Any) -> RunPlan:
    """Return the plan of a run with evaluations."""
    data = settings(Path("d"), **{"algorithm": {"name": name}, "evaluation": {"problems": "p"}, **changes})
    return resolve(run_from(data, "test"))


@pytest.mark.parametrize("name", ["uopd", "eopd", "self_distilled_reasoner", "kd"])
def test_an_evaluation_compares_with_the_only_teacher_on_plain_prompts(name: str) -> None:
    made = evaluated(name)
    one = made.evaluation_pass(151_936)
    assert one is not None and (one.worker, one.view) == ("teacher", "plain")
    assert one.request == ScoreRequest(top_k=512, entropy=True) and one not in made.passes
    small = made.evaluation_pass(300)
    assert small is not None and small.request.top_k == 300


def test_an_evaluation_compares_with_no_teacher_without_one_that_gives_entropies_and_has_memory() -> None:
    several = [{"name": name, "model": name, "weight_column": f"weight_{name}"} for name in ("a", "b")]
    without = [
        evaluated(evaluation=None),
        evaluated("grpo"),
        evaluated("opsd"),  # its teacher is the initial student
        evaluated(teacher={"model": "t", "backend": "vllm"}),
        evaluated(placement={"kind": "colocated", "engines": 1, "students": 1}),
        evaluated(teacher=None, teachers=several, routing="lowest_entropy"),
    ]
    assert [one.evaluation_pass(151_936) for one in without] == [None] * len(without)


def test_the_form_of_the_cross_entropy_is_changed_in_its_term() -> None:
    assert changed("uopd", top_k_form="tail_bucket") == {
        "loss": (Term(loss=TopKCrossEntropy(form="tail_bucket")),)
    }
    (first, second) = plan("kd", top_k_form="unnormalised").algorithm.loss
    assert first == Term(loss=NegativeLogLikelihood(), weight=0.5)
    assert second == Term(loss=TopKCrossEntropy(form="unnormalised"), weight=0.5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_divergence_replaces_the_cross_entropy(beta: float) -> None:
    full = (Scorer(role="teacher", outputs=("full",)),)
    found = changed("uopd", top_k="full", divergence_beta=beta)
    assert found == {"scorers": full, "loss": (Term(loss=GeneralisedJSD(beta=beta)),)}


def test_a_divergence_keeps_the_temperature_of_the_loss_that_it_replaces() -> None:
    assert changed("opsd", divergence_beta=0.5) == {
        "loss": (Term(loss=GeneralisedJSD(beta=0.5, temperature=1.1)),)
    }
    warmer = GeneralisedJSD(beta=0.5, temperature=2.0)
    assert changed("opsd", divergence_beta=0.5, temperature=2.0) == {"loss": (Term(loss=warmer),)}


@pytest.mark.parametrize("top_k", [None, 64])
def test_a_divergence_without_the_full_distribution_is_refused(top_k: int | None) -> None:
    k = top_k or 512
    with pytest.raises(
        UserError, match=f"divergence_beta needs the full distribution, but top_k is {k}: set"
    ):
        plan(divergence_beta=0.0, top_k=top_k)


def test_a_temperature_applies_to_the_distillation_loss() -> None:
    assert changed("uopd", temperature=2.0) == {"loss": (Term(loss=TopKCrossEntropy(temperature=2.0)),)}
    own = GeneralisedJSD(beta=0.0, temperature=1.0, entry_clip=0.05)
    assert changed("opsd", temperature=1.0) == {"loss": (Term(loss=own),)}
    with pytest.raises(UserError, match=r"temperature 2\.0 with form tail_bucket: .* needs form"):
        plan(temperature=2.0, top_k_form="tail_bucket")


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_kl_adds_a_term_and_a_pass_of_the_start(name: str) -> None:
    own, made = plan(name), plan(name, reference_kl_coefficient=0.05)
    assert made.algorithm.loss == (*own.algorithm.loss, Term(loss=ReferenceKL(), weight=0.05))
    one = ("reference", "plain", ScoreRequest(sampled=True))
    assert scored(made) == [*(given for given in scored(own) if given != one), one]
    assert made.has_reference and made.has_teacher == own.has_teacher
    assert plan(name, reference_kl_coefficient=0.0).algorithm == own.algorithm


def test_two_passes_of_the_start_are_two_views_of_one_worker() -> None:
    made = plan("opsd", reference_kl_coefficient=0.1)
    assert scored(made) == [
        ("reference", "solution", STATES), ("reference", "plain", ScoreRequest(sampled=True)),
    ]  # fmt: skip
    assert (made.has_teacher, made.has_reference, made.from_states) == (False, True, "reference")


def test_all_outputs_of_one_model_and_view_come_from_one_pass() -> None:
    own = load_algorithm("uopd")
    entropy = Scorer(role="teacher", outputs=("sampled", "entropy"))
    hint = Scorer(role="teacher", view="answer", outputs=("sampled",))
    start = Scorer(role="reference")
    run = plan().run
    made = RunPlan(run=run, algorithm=replace(own, scorers=(start, *own.scorers, hint, entropy)))
    assert scored(made) == [
        ("teacher", "plain", ScoreRequest(sampled=True, top_k=512, entropy=True)),
        ("teacher", "answer", ScoreRequest(sampled=True)),
        ("reference", "plain", ScoreRequest(sampled=True)),
    ]
    assert made.passes[0].scorers == (*own.scorers, entropy)
    assert (made.views, made.needs_labels, made.needs_solutions) == (("answer",), True, False)


@pytest.mark.parametrize("name", NAMES)
def test_weights_reduction_and_updates_are_those_of_the_settings(name: str) -> None:
    own = load_algorithm(name)
    for schedule, weight in {"uniform": None, **SCHEDULES}.items():
        made = plan(name, position_schedule=schedule).algorithm
        expected = replace(own, token_weight=weight)
        if name == "reopold":  # its choice of tokens stays
            mask = own.token_weight
            assert mask is not None
            expected = replace(
                own, token_weight=mask if weight is None else Product(first=mask, second=weight)
            )
        assert made == expected
    for reduction, function in (("sequence_mean", per_sequence_mean), ("token_mean", token_mean)):
        assert plan(name, reduction=reduction).algorithm == replace(own, reduction=function)
    assert plan(name, updates_per_batch=3).updates_per_batch == 3


def test_an_importance_correction_changes_no_part_and_needs_advantages() -> None:
    made = plan("grpo", importance_correction="token", importance_cap=3.0)
    assert made.algorithm == load_algorithm("grpo")
    assert (made.run.algorithm.importance_correction, made.run.algorithm.importance_cap) == ("token", 3.0)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        *((name, {"top_k": 8}, f"algorithm.top_k is set, but {name} does not use a teacher's top k: remove it")
          for name in ("grpo", "sft", "opsd", "pw_opsd", "opd_rkl", "reopold", "uopd_grpo")),
        *((name, {"top_k_form": "tail_bucket"}, f"algorithm.top_k_form is set, but {name} has no distillation loss: remove it")
          for name in ("grpo", "sft")),
        *((name, {"top_k_form": "tail_bucket"}, f"algorithm.top_k_form is set, but {name} has no top-k cross-entropy: remove it")
          for name in ("opsd", "pw_opsd")),
        *((name, {"divergence_beta": 0.5}, f"algorithm.divergence_beta is set, but {name} has no distillation loss: remove it")
          for name in ("grpo", "sft")),
        *((name, {"temperature": 2.0}, f"algorithm.temperature is set, but {name} has no distillation loss: remove it")
          for name in ("grpo", "sft")),
        *((name, {"importance_correction": "token"},
           f"algorithm.importance_correction is set, but {name} has no advantages that it corrects: remove it")
          for name in NAMES if name not in POLICIES),
    ],
)  # fmt: skip
def test_a_setting_that_an_algorithm_does_not_have_is_refused_in_one_sentence(
    name: str, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        plan(name, **given)
    assert str(refused.value) == sentence


def test_every_setting_is_tested_above() -> None:
    assert set(AlgorithmSettings.model_fields) == {
        "name", "prompt_weight", "top_k", "top_k_form", "reference_kl_coefficient", "divergence_beta", "temperature",
        "position_schedule", "reduction", "updates_per_batch", "importance_correction", "importance_cap", "options",
        "rollout_weight",
    }  # fmt: skip


# --- rollout weights, options and combinations -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_answer_shares_weight_the_rollouts_of_every_algorithm(name: str) -> None:
    own, made = load_algorithm(name), plan(name, rollout_weight="answer_share")
    weight = (
        answer_share
        if own.rollout_weight is None
        else rollout_weights.Product(first=right_only, second=answer_share)
    )
    assert made.algorithm == replace(own, rollout_weight=weight, answer_shares=True)
    assert made.grades and (own.rollout_weight is not None) == (name == "core")


def test_options_change_the_algorithm_that_defines_them() -> None:
    own, made = load_algorithm("eopd"), plan("eopd", options={"forward_kl": "random", "share": 0.1}).algorithm
    policy, kl = own.loss
    changed = (policy, replace(kl, token_weight=RandomTokens(share=0.1)))
    assert made == replace(own, loss=changed, formula=made.formula) and "u_t < 0.1" in made.formula
    bare = plan("eopd", options={"forward_kl": "none"})
    assert (bare.algorithm.loss, bare.top_k) == ((policy,), None)
    assert plan("core", options={"distil_weight": 0.0}).has_teacher is False
    assert plan("core", options={"contrast_weight": 0}).has_reference is False
    start = plan("reopold", options={"teacher": "start_with_solution"})
    assert (start.has_teacher, start.needs_solutions) == (False, True)
    answers = plan("core", options={"traces": "all"})
    assert answers.views == ("answer",) and answers.algorithm.rollout_weight is None
    assert plan("eopd", options={}).algorithm == own


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "eopd", {"tau": 1},
            "algorithm.options.tau is set, but eopd has no such option: choose among forward_kl, threshold, share, entropy_bonus,"
            " shaping, clip, teacher",
        ),
        ("sft", {"tau": 1}, "algorithm.options.tau is set, but sft has no such option: remove it"),
        (
            "eopd", {"forward_kl": "no"},
            "algorithm.options.forward_kl: Input should be 'uncertain', 'random', 'everywhere' or 'none'",
        ),
        (
            "eopd", {"share": 2, "forward_kl": "random"},
            "algorithm.options of eopd: the share of random tokens is 2.0: give a number above 0, up to 1",
        ),
        (
            "core", {"alpha": 5},
            "algorithm.options of core: alpha is 5.0, so that one of the weights alpha and 1 - alpha is negative and would reward"
            " errors: give a number from 0 to 1, or distil_weight and contrast_weight",
        ),
        (
            "core", {"contrast_weight": 0, "distil_weight": 0},
            "algorithm.options of core: distil_weight is 0 and contrast_weight 0: give numbers of at least 0, one of them above"
            " 0",
        ),
        (
            "reopold", {"mixture": 1},
            "algorithm.options of reopold: the mixture of the reward floor is 1.0: give a number between 0 and 1",
        ),
        (
            "opd_rkl", {"discount": 2},
            "algorithm.options of opd_rkl: the discount of the advantages is 2.0: give a number from 0 to 1",
        ),
    ],
)  # fmt: skip
def test_options_without_a_meaning_are_refused_in_one_sentence(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        plan(name, options=options)
    assert str(refused.value) == sentence


def test_the_algorithm_is_the_variant_of_its_default_options() -> None:
    for name in NAMES:
        options, _ = options_of(name)
        if options:
            assert load_algorithm(name, options) == load_algorithm(name)


WEIGHTS: list[Any] = ["uniform", "soft", "pass_rate", "permuted", "constant", {"kind": "binary", "tau": 0.3}]


@pytest.mark.parametrize("name", NAMES)
def test_every_combination_of_weights_resolves_to_a_loss_or_is_refused_in_one_sentence(name: str) -> None:
    resolved = refused = 0
    for weight, schedule, share, reduction in product(
        WEIGHTS, [None, "uniform", *SCHEDULES], [None, "answer_share"], [None, "sequence_mean", "token_mean"]
    ):
        chosen = {
            "prompt_weight": weight, "position_schedule": schedule, "rollout_weight": share, "reduction": reduction,
        }  # fmt: skip
        try:
            made = plan(name, **{key: value for key, value in chosen.items() if value is not None})
        except UserError as error:
            assert "\n" not in str(error) and ": " in str(error)
            refused += 1
            continue
        made.token_loss()
        assert algorithm_problems(made) == []
        resolved += 1
    assert (resolved, refused) == (6 * 6 * 2 * 3, 0)


# --- defaults of an algorithm ------------------------------------------------------------------------------------

BARE: dict[str, Any] = {"output": "o", "dataset": {"folder": "d"}, "student": {"model": "s"}}


def run_of(name: str, **changes: Any) -> Any:
    return run_from({**BARE, "algorithm": {"name": name}, **changes}, "test")


def test_defaults_of_an_algorithm_apply_where_the_run_gives_no_value() -> None:
    made = run_of("opsd")
    assert (
        made.rollouts.group_size,
        made.rollouts.temperature,
        made.rollouts.top_p,
        made.rollouts.top_k,
    ) == (1, 1.1, 0.95, 20)
    assert (made.optimizer.learning_rate, made.optimizer.max_gradient_norm) == (5e-6, 0.1)
    assert made.optimizer.beta2 == 0.95  # of training.config
    assert (made.batches.size, made.batches.total_prompts, made.batches.draw) == (32, 3200, "epochs")
    assert made.trainer.lora is not None and made.trainer.lora.dropout == 0.05
    assert (made.lengths.max_response_tokens, made.lengths.max_prompt_tokens, made.seed) == (1024, 1024, 42)
    grpo = run_of("grpo")
    assert (grpo.rollouts.group_size, grpo.batches.epochs, grpo.batches.total_prompts) == (8, 3, None)


def test_what_the_run_says_counts_key_by_key_and_null_is_a_value() -> None:
    made = run_of(
        "opsd",
        rollouts={"group_size": 4, "top_k": None},
        optimizer={"learning_rate": 1e-4},
        batches={"total_prompts": None, "epochs": 2},
        trainer={"lora": None},
        seed=0,
    )
    assert (made.rollouts.group_size, made.rollouts.top_k, made.rollouts.top_p) == (4, None, 0.95)
    assert (made.optimizer.learning_rate, made.optimizer.max_gradient_norm) == (1e-4, 0.1)
    assert (made.batches.total_prompts, made.batches.epochs, made.batches.size) == (None, 2, 32)
    assert (made.trainer.lora, made.seed) == (None, 0)
    assert run_of("opsd", trainer={"lora": {"rank": 8}}).trainer.lora.dropout == 0.05
    with pytest.raises(UserError, match=r"test: rollouts\.group_size: Input should be a valid integer"):
        run_of("opsd", rollouts={"group_size": None})


def test_the_defaults_of_uopd_apply_to_a_run_that_names_no_algorithm() -> None:
    assert run_from(BARE, "test") == run_of("uopd") == run_from({**BARE, "algorithm": {}}, "test")


# --- algorithms elsewhere ----------------------------------------------------------------------------------------

ELSEWHERE = """
from training.algorithms.base import Algorithm, Term
from training.algorithms.losses import NegativeLogLikelihood
ALGORITHM = Algorithm(
    summary="s", formula="f", source="p", rollouts="dataset", loss=(Term(loss=NegativeLogLikelihood()),),
    defaults={"seed": 11, "rollouts": {"group_size": 2}},
)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "plan_test_methods"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("plan_test_methods")]:
        del sys.modules[name]


def test_an_algorithm_of_another_package_is_found_by_its_module_with_its_defaults(package: Path) -> None:
    (package / "mine.py").write_text(ELSEWHERE, encoding="utf-8")
    made = run_of("plan_test_methods.mine")
    assert (made.seed, made.rollouts.group_size) == (11, 2)
    found = resolve(made)
    assert (found.passes, found.samples, found.algorithm.summary) == ((), False, "s")
    with pytest.raises(
        UserError, match=r"top_k is set, but plan_test_methods\.mine does not use a teacher's"
    ):
        resolve(run_of("plan_test_methods.mine", algorithm={"name": "plan_test_methods.mine", "top_k": 4}))


def test_an_algorithm_is_found_by_its_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_method_of_tomorrow.py").write_text(ELSEWHERE, encoding="utf-8")
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "training.algorithms.a_method_of_tomorrow", raising=False)
    assert "a_method_of_tomorrow" in algorithm_names()
    assert load_algorithm("a_method_of_tomorrow").summary == "s"
    monkeypatch.delitem(sys.modules, "training.algorithms.a_method_of_tomorrow")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("updo", "", r"^test: algorithm.name: unknown algorithm 'updo': choose one of core, .*uopd_pw$"),
        ("losses", "", "unknown algorithm 'losses': choose one of"),
        ("", "", "unknown algorithm '': choose one of"),
        ("plan_test_methods.none", "", r"'plan_test_methods.none' cannot be imported \(No module .*PYTHONPATH"),
        ("plan_test_methods.mine", "OTHER = 1", r"mine\.py defines no ALGORITHM: assign an Algorithm to that name"),
        ("plan_test_methods.mine", "ALGORITHM = 'uopd'", "defines no ALGORITHM"),
        ("plan_test_methods.mine", "import no_such_library", r"cannot be imported \(No module named 'no_such_library'\)"),
        ("plan_test_methods.mine", "1 +", r"cannot be imported \(SyntaxError: invalid syntax .*\): correct it"),
        (
            "plan_test_methods.mine",
            "from training.algorithms.losses import GeneralisedJSD\nGeneralisedJSD(beta=2.0)",
            "the module of algorithm 'plan_test_methods.mine': the divergence's beta is 2.0: give a number",
        ),
        (".mine", "", r"the module of algorithm '\.mine' cannot be imported \(TypeError: .*\): correct it"),
    ],
)  # fmt: skip
def test_an_algorithm_that_cannot_be_loaded_is_refused_in_one_sentence(
    package: Path, name: str, text: str, sentence: str
) -> None:
    (package / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as refused:
        run_of(name)
    assert "\n" not in str(refused.value)


# --- declarations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (
            {"role": "teacher", "outputs": ("top_k",)},
            "top_k is None with outputs top_k: set top_k if and only if",
        ),
        ({"role": "teacher", "outputs": ("full",), "top_k": 4}, "top_k is 4 with outputs full"),
        ({"role": "teacher", "outputs": ("top_k",), "top_k": 0}, "top_k is 0: give at least 1"),
        ({"role": "teacher", "outputs": ()}, "a scorer has the outputs none: give at least one"),
        ({"role": "teacher", "outputs": ("top_k", "full"), "top_k": 4}, "not both 'top_k' and 'full'"),
        ({"role": "reference", "view": "solution"}, "a reference has the plain prompt"),
        ({"role": "reference", "outputs": ("full",)}, "returns 'sampled' only: choose role 'start'"),
    ],
)
def test_contradictory_scorers_are_refused(declared: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Scorer(**declared)
