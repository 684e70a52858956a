"""Self-distilled reasoner: OPD from the pair's teacher, which sees a solution in its system prompt."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import opd
from training.algorithms.base import Scorer

ALGORITHM = replace(
    opd.ALGORITHM,
    summary="On-policy distillation from a teacher that sees a solution in its system prompt",
    formula="mean over prompts and K rollouts of 1 / |y| sum_t -sum_{j in top k} p_j / m log q_j,"
    " p of the teacher given x and s*",
    source="UOPD (SURE-Math) 4.2, the rival of that name",
    scorers=(Scorer(role="teacher", view="solution_in_system", outputs=("top_k",), top_k=512),),
    deviations=(
        "the paper does not state where solutions come from: rows without one use a sample of the teacher's majority cluster",
    ),
)
