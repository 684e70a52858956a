"""Annotated rows built from the answers to a problem, for the tests of validation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.rows import Example, Response, Tier
from tasks.uncertainty.entropy import majority
from tasks.uncertainty.measures import entropies_by_size, uncertainties
from tests.storage.test_dataset import example, samples


def annotated(
    number: int, answers: Sequence[str | None], *, truth: str | None = None, seed: int = 0, **changes: Any
) -> tuple[Example, list[Response]]:
    """Return a row and its responses. Equal answers form a cluster; each missing answer (None) is its own cluster."""
    rng = random.Random(f"{seed} {number}")
    names = [answer if answer is not None else f"none {index}" for index, answer in enumerate(answers)]
    order = list(dict.fromkeys(names))
    labels = tuple(order.index(name) for name in names)
    row = replace(example(number), num_samples=len(answers))
    responses = [
        replace(response, answer=answer, token_count=rng.randint(20, 60), logprob_sum=-rng.uniform(1.0, 9.0))
        for response, answer in zip(samples(row), answers, strict=True)
    ]
    found, sizes = uncertainties(responses, labels), entropies_by_size(responses, labels)
    representatives = tuple(answers[labels.index(label)] for label in range(len(order)))
    row = replace(
        row,
        answer=truth,
        majority_answer=representatives[majority(labels)],
        semantic_entropy=found.semantic_entropy,
        weight=found.weight,
        discrete_entropy=found.discrete_entropy,
        predictive_entropy=found.predictive_entropy,
        normalised_entropy=found.normalised_entropy,
        mean_logprob=found.mean_logprob,
        majority_share=found.majority_share,
        sizes=tuple(sizes),
        entropy_by_size=tuple(None if one is None else one.entropy for one in sizes.values()),
        weight_by_size=tuple(None if one is None else one.weight for one in sizes.values()),
        cluster_labels=labels,
        cluster_probs=found.cluster_probs,
        cluster_answers=representatives,
        num_valid=sum(answer is not None for answer in answers),
    )
    return replace(row, **changes), responses


def crowd(rows: int = 120, samples_each: int = 8, seed: int = 0) -> list[tuple[Example, list[Response]]]:
    """Return problems of all tiers; harder tiers have more wrong answers, and every sixth problem has no known truth."""
    rng = random.Random(seed)
    made = []
    for number in range(rows):
        tier = list(Tier)[number % 4]
        skill = rng.uniform(0.2, 1.0) - 0.12 * (number % 4)
        right = str(number + 1)
        answers = [
            None
            if rng.random() < 0.03
            else right
            if rng.random() < skill
            else str(number + rng.randint(2, 5))
            for _ in range(samples_each)
        ]
        truth = None if number % 6 == 5 else right
        text = f"A text that nobody but the row knows the answer of, number {number}."
        made.append(annotated(number, answers, truth=truth, seed=seed, tier=tier, problem=text))
    return made
