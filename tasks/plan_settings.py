"""The section `plan` of a profile: assumptions and rates of `make plan`."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from tasks.settings import Settings, resource

PlanRole = Literal["evolver", "quality_judge", "teacher", "equivalence_judge", "student"]


class Rate(Settings):
    """Tokens per second of one GPU; an assumption until measured on the target machine."""

    prompt: PositiveFloat
    output: PositiveFloat


class TrainingRates(Settings):
    """Tokens per second of one GPU in the phases of a training step: responses of a rollout engine, forward passes of a frozen
    model, forward and backward passes of the student. Assumptions until measured on the target machine."""

    generation: PositiveFloat
    scoring: PositiveFloat
    training: PositiveFloat


class PlanSettings(Settings):
    """Assumptions of the plan of a run. No result depends on them.

    `problem_chars`: length of a problem that has not been read (the mean is 313 for OlympiadBench, 235 for GSM8K).
    `growth`: length of a child relative to its parent (1.36 and 1.25 in the first two rounds of a small pocket build).
    `answer_tokens`: length of a final answer. `solution_tokens`: length of a response of teacher or student; without it
    the plan gives only upper bounds for solutions. `rates`: throughput by role; without it the plan gives no GPU-hours.

    For experiments: `training_prompts`, problems of a dataset that is trained on in epochs; `training_rates`, without which those
    of stored cells are taken; `gpu_hour_price` in any currency.
    """

    problem_chars: PositiveInt = resource(300)
    growth: PositiveFloat = resource(1.3)
    answer_tokens: PositiveInt = resource(8)
    solution_tokens: PositiveInt | None = resource(None)
    rates: dict[PlanRole, Rate] = resource({})
    training_prompts: PositiveInt | None = resource(None)
    training_rates: TrainingRates | None = resource(None)
    gpu_hour_price: PositiveFloat | None = resource(None)
