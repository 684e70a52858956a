"""CORE: distillation on the right rollouts, and DPO between right and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.errors import UserError
from training.algorithms.base import Algorithm, Scorer, Source, Term
from training.algorithms.losses import TopKCrossEntropy
from training.algorithms.preferences import Preference
from training.algorithms.rollout_weights import right_only
from training.losses.reductions import per_sequence_mean, weighted_sequence_mean


@dataclass(frozen=True, kw_only=True)
class Options:
    """`distil_weight`, `contrast_weight`: the factors of the two losses; 0 leaves one out. `alpha`: in their place, alpha and
    1 - alpha. `traces`: the rollouts that are distilled, the right ones, or all of them from a teacher that sees the answer.
    `beta`: of DPO. `solutions`: whether the dataset's own solution is preferred to a right rollout. `fallback`: what a wrong
    rollout is compared with where neither exists, nothing, a right response of the teacher in the dataset
    (`dataset.solutions: majority_sample`), or the first right one of `generated` new responses of the teacher."""

    distil_weight: float = 5.0
    contrast_weight: float = 1.0
    alpha: float | None = None
    traces: Literal["right", "all"] = "right"
    beta: float = 0.1
    solutions: bool = True
    fallback: Literal["skip", "teacher", "generate"] = "teacher"
    generated: int = 4


def variant(options: Options) -> Algorithm:
    """Return the algorithm with these options. Raises `UserError` for weights without a meaning."""
    if options.generated < 1:
        raise UserError(f"generated is {options.generated}: give at least 1, or choose another fallback")
    distil, contrast = _weights(options)
    right = options.traces == "right"
    view = "plain" if right else "answer"
    scorers = (Scorer(role="teacher", view=view, outputs=("top_k",), top_k=512),) if distil else ()
    preference = Preference(beta=options.beta, weight=contrast, chosen=_chosen(options)) if contrast else None
    return Algorithm(
        summary="Distillation on the right rollouts, and preference of right responses over wrong rollouts",
        formula=_formula(options, distil, contrast),
        source="CORE (TCD), an unpublished manuscript",
        scorers=(*scorers, *([] if preference is None else [Scorer(role="reference")])),
        reward=True,
        demonstrations=preference is not None and (options.solutions or options.fallback == "teacher"),
        generated=options.generated if preference is not None and options.fallback == "generate" else 0,
        loss=(Term(loss=TopKCrossEntropy(as_kl=True), weight=distil),) if distil else (),
        sequence_loss=preference,
        rollout_weight=right_only if right and distil else None,
        reduction=weighted_sequence_mean if right and distil else per_sequence_mean,
        whole_updates=right and distil > 0,
        defaults={
            "rollouts": {"group_size": 8, "temperature": 0.7},
            "optimizer": {"learning_rate": 1e-6},
            "batches": {"size": 32, "unit": "prompts", "draw": "epochs", "epochs": 3, "total_prompts": None},
        },
        deviations=(
            "the paper weights the two losses by alpha 5 and 1 - alpha, which would reward errors: the weights are explicit,"
            " 5 and 1, and alpha, where it is set, is from 0 to 1",
            "the paper gives no temperature for the distillation: 1",
            "where no rollout is right and there is no solution, the teacher's response is by default one of the dataset, not a"
            " new one",
            "the calculator and the four examples in the prompt of GSM8K are not built",
        ),
    )


def _formula(options: Options, distil: float, contrast: float) -> str:
    """Return the loss with the constants of the options."""
    which = "right rollouts" if options.traces == "right" else "all rollouts"
    parts = (
        (distil, f"mean over {which} of 1 / |y| sum_t sum_{{j in top k}} p_j / m log(p_j / (m q_j))"),
        (
            contrast,
            f"mean over wrong rollouts of -log sigmoid({options.beta:g} (log q(y+) / q_0(y+) - log q(y-) / q_0(y-)))",
        ),
    )
    return " + ".join(text if weight == 1.0 else f"{weight:g} {text}" for weight, text in parts if weight)


def _weights(options: Options) -> tuple[float, float]:
    if options.alpha is not None:
        if not 0.0 <= options.alpha <= 1.0:
            raise UserError(
                f"alpha is {options.alpha}, so that one of the weights alpha and 1 - alpha is negative and would reward errors:"
                " give a number from 0 to 1, or distil_weight and contrast_weight"
            )
        return options.alpha, 1.0 - options.alpha
    given = options.distil_weight, options.contrast_weight
    if min(given) < 0.0 or max(given) == 0.0:
        raise UserError(
            f"distil_weight is {given[0]:g} and contrast_weight {given[1]:g}: give numbers of at least 0, one of them above 0"
        )
    return given


def _chosen(options: Options) -> tuple[Source, ...]:
    before: tuple[Source, ...] = ("solution",) if options.solutions else ()
    after: tuple[Source, ...] = () if options.fallback == "skip" else ("teacher",)
    return (*before, "rollout", *after)


ALGORITHM = variant(Options())
