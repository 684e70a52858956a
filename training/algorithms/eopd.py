"""EOPD: reverse KL of the sampled token, and forward KL to the teacher's top k where the teacher is uncertain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from training.algorithms import opd_rkl
from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import NegativeEntropy, PolicyGradient, TopKCrossEntropy
from training.algorithms.token_weights import RandomTokens, TeacherUncertain


@dataclass(frozen=True, kw_only=True)
class Options:
    """`forward_kl`: the tokens with a forward KL: those where the teacher's entropy is above `threshold` nats, the share `share`
    of all at random, all, or none. The paper tries thresholds from 0.6 to 1.6. `entropy_bonus`: the coefficient of the student's
    entropy, which is subtracted from the loss. `shaping` c: the advantage is A + min(c H, |A| / 2), 0.1 in the paper. `clip`:
    eps. `teacher`: the checkpoint `teacher.model`, or as in PW-OPSD the frozen start, which sees a solution."""

    forward_kl: Literal["uncertain", "random", "everywhere", "none"] = "uncertain"
    threshold: float = 0.8
    share: float = 0.2
    entropy_bonus: float = 0.0
    shaping: float | None = None
    clip: float = 0.2
    teacher: Literal["teacher", "start_with_solution"] = "teacher"


def variant(options: Options) -> Algorithm:
    """Return the algorithm with these options."""
    policy = PolicyGradient(clip_low=options.clip, clip_high=options.clip, shaping=options.shaping)
    terms = [Term(loss=policy)]
    scorer = Scorer(role="teacher", outputs=("sampled",))
    if options.teacher == "start_with_solution":
        scorer = replace(scorer, role="start", view="solution")
    if options.forward_kl != "none":
        weights = {
            "uncertain": TeacherUncertain(threshold=options.threshold),
            "random": RandomTokens(share=options.share),
            "everywhere": None,
        }
        terms.append(Term(loss=TopKCrossEntropy(as_kl=True), token_weight=weights[options.forward_kl]))
        scorer = replace(scorer, outputs=("sampled", "top_k", "entropy"), top_k=16)
    if options.entropy_bonus:
        terms.append(Term(loss=NegativeEntropy(), weight=options.entropy_bonus))
    return replace(
        opd_rkl.ALGORITHM,
        summary="On-policy distillation by the reverse KL of the sampled tokens, and a forward KL where the teacher is uncertain",
        formula="mean over tokens of max(-r_t A_t, -clip(r_t, 1 - eps, 1 + eps) A_t)"
        " + [H(p_t) > 0.8] sum_{j in top 16} p_j / m log(p_j / (m q_j)), A_t = log p(y_t) - log q_old(y_t)",
        source="EOPD (arXiv:2603.07079), Eq. 7 to 10",
        scorers=(scorer,),
        loss=tuple(terms),
    )


ALGORITHM = variant(Options())
