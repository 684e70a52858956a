"""EOPD with the prompt weights of UOPD. Not from a paper."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import eopd
from training.losses.prompt_weights import Soft

ALGORITHM = replace(
    eopd.ALGORITHM,
    summary="EOPD, each prompt weighted by the teacher's semantic certainty",
    formula=f"mean over tokens of w ({eopd.of_token(eopd.Options())}), w = 1 - H / log N",
    source="ours: EOPD with the prompt weight of UOPD",
    prompt_weight=Soft(),
)
