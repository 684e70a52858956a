"""REOPOLD: a policy gradient with the teacher's log-ratio as reward, bounded from below, on some of the tokens.

The paper is known here through the description and the code of PW-OPSD, which trains it as a rival. Not known from the paper
itself: whether the floor is log(l) / (1 - l) with l = 0.1, or log(l / (1 - l)) with l from 0.2 to 0.3 and half of the tokens;
whether tokens are ranked by entropy within a batch, as here, or a sequence; whether the reward is bounded also in the second
phase, as here; and its own run settings, of which only the switch after 150 of 300 steps is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

from tasks.errors import UserError
from training.algorithms.advantages import TeacherAdvantage
from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import AdvantageLikelihood
from training.algorithms.token_weights import TwoPhases
from training.losses.reductions import weighted_token_mean


@dataclass(frozen=True, kw_only=True)
class Options:
    """`floor`: the least reward of a token, as a formula of `mixture` l; the second reading goes with l from 0.2 to 0.3 and
    `entropy_share` 0.5. `switch_step`: the number of rollout batches of the first phase, in which tokens below the floor are left
    out. `entropy_share`: the share of tokens that later phases train on, those with the highest entropy of the student.
    `teacher`: the checkpoint `teacher.model`, or as in PW-OPSD the frozen start, which sees a solution."""

    floor: Literal["log(l)/(1-l)", "log(l/(1-l))"] = "log(l)/(1-l)"
    mixture: float = 0.1
    switch_step: int = 50
    entropy_share: float = 0.2
    teacher: Literal["teacher", "start_with_solution"] = "teacher"


def variant(options: Options) -> Algorithm:
    """Return the algorithm with these options."""
    floor = reward_floor(options.floor, options.mixture)
    scorer = (
        Scorer(role="teacher", outputs=("sampled",))
        if options.teacher == "teacher"
        else Scorer(role="start", view="solution", outputs=("sampled",))
    )
    return Algorithm(
        summary="Policy gradient with the teacher's log-ratio as reward, bounded from below, on two sets of tokens in turn",
        formula="-sum_t R_t M_t log q(y_t) / sum_t M_t, R_t = max(log p(y_t) - log q_old(y_t), f), f ="
        f" {options.floor.replace('/', ' / ')}, l = {options.mixture:g}, M_t = [log p(y_t) - log q_old(y_t) >= f], after"
        f" {options.switch_step} batches [H(q_t) in the top {options.entropy_share:.4g}]",
        source="REOPOLD (arXiv:2603.11137), as the rival of PW-OPSD",
        scorers=(scorer,),
        student_outputs=("sampled", "entropy"),
        advantages=TeacherAdvantage(floor=floor),
        loss=(Term(loss=AdvantageLikelihood()),),
        token_weight=TwoPhases(floor=floor, switch_step=options.switch_step, share=options.entropy_share),
        reduction=weighted_token_mean,
        whole_updates=True,
        defaults={
            "rollouts": {"group_size": 1},
            "lengths": {"max_response_tokens": 1024, "thinking": False},
            "optimizer": {"learning_rate": 5e-6, "max_gradient_norm": 0.1},
            "batches": {"size": 32, "unit": "prompts", "total_prompts": 3200, "draw": "epochs"},
            "seed": 42,
        },
        deviations=(
            "not checked against the paper itself: the formula and the run settings are those of PW-OPSD's code, which switches"
            " after 50 of 100 steps",
            "two readings of the floor are in circulation (algorithm.options.floor)",
            "tokens are ranked by entropy within an update, over all ranks",
            "rollouts are sampled at temperature 1 without truncation, and the weights are trained in full, without LoRA",
        ),
    )


def reward_floor(formula: str, mixture: float) -> float:
    """Return the floor in nats. Raises `UserError` for a mixture that is not between 0 and 1."""
    if not 0.0 < mixture < 1.0:
        raise UserError(f"the mixture of the reward floor is {mixture}: give a number between 0 and 1")
    return log(mixture) / (1.0 - mixture) if formula == "log(l)/(1-l)" else log(mixture / (1.0 - mixture))


ALGORITHM = variant(Options())
