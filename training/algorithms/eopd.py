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
        formula=f"mean over tokens of {of_token(options)}, {_advantage(options)}",
        source="EOPD (arXiv:2603.07079), Eq. 7 to 10",
        scorers=(scorer,),
        loss=tuple(terms),
    )


def of_token(options: Options) -> str:
    """Return the loss of a token as a formula."""
    chosen = {
        "uncertain": f"[H(p_t) > {options.threshold:g}] ",
        "random": f"[u_t < {options.share:g}] ",
        "everywhere": "",
    }
    found = opd_rkl.clipped(options.clip)
    if options.forward_kl != "none":
        found += f" + {chosen[options.forward_kl]}sum_{{j in top k}} p_j / m log(p_j / (m q_j))"
    return found + (f" - {options.entropy_bonus:g} H(q_t)" if options.entropy_bonus else "")


def _advantage(options: Options) -> str:
    own = "log p(y_t) - log q_old(y_t)"
    if options.shaping is None:
        return f"A_t = {own}"
    return f"A_t = R_t + min({options.shaping:g} H(q_t), |R_t| / 2), R_t = {own}"


ALGORITHM = variant(Options())
