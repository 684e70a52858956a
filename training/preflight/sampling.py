"""Sampling parameters of a run: for rollouts and for evaluation."""

from __future__ import annotations

from dataclasses import replace

from training.preflight.check import Prepared
from training.rollouts.engine import RolloutSampling


def sampling(prepared: Prepared) -> RolloutSampling:
    """Return the sampling settings of rollouts, which stop at the run's end tokens."""
    run = prepared.run
    return RolloutSampling(
        temperature=run.rollouts.temperature,
        top_p=run.rollouts.top_p,
        top_k=run.rollouts.top_k,
        max_tokens=run.lengths.max_response_tokens,
        stop_token_ids=prepared.end_tokens,
    )


def evaluation_sampling(prepared: Prepared) -> RolloutSampling:
    """Return the sampling settings of held-out problems."""
    settings = prepared.run.evaluation
    drawn = sampling(prepared)
    return (
        drawn if settings is None else replace(drawn, temperature=settings.temperature, top_p=1.0, top_k=None)
    )
