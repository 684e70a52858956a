"""What the cells of experiments cost, estimated before anything runs: requests, tokens, GPU-hours, money.

Every assumption is a setting in section `plan` of the profile, and is printed. A prompt is the fixed text of the student's prompt
and a problem of `problem_chars` characters, at four characters a token; a response has `solution_tokens`, at most
`lengths.max_response_tokens`, which also stand for an unknown length. Rates are those of `training_rates`, else the means of
stored cells of the same profile. The phases of a step follow each other and every GPU of the placement is held throughout:
GPU-hours are the hours of a cell times its GPUs. Loading models, weight syncs and checkpoints are not counted, nor is the dataset
(`make plan PROFILE=...`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompts import load_prompt
from tasks.config import Config, load_config
from tasks.errors import UserError
from tasks.plan_settings import PlanSettings, TrainingRates
from tasks.runtime.estimate import CHARS_PER_TOKEN
from tasks.runtime.plan import estimated_tokens, prompt_length
from tasks.runtime.training_run import held_out, run_config
from tasks.text import counted
from training.config import RunConfig, project_path
from training.data.model_files import PROMPT
from training.experiments.cell import Cell
from training.experiments.grid import EXPERIMENTS, experiment_path, load_experiment, row_cells
from training.experiments.stored import CellResult
from training.plan import RunPlan, resolve
from training.preflight.memory import placement_of

__all__ = ["Cost", "Work", "cell_work", "experiment_files", "measured_rates", "plan_lines", "row_costs"]

_FOLDER = Path("dataset")
"""Stands for folders in settings that are not used for a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of one cell. `requests`: sampled responses, `generated`: their tokens. `scored`: tokens that pass through a frozen
    model, or forward through the student. `trained`: tokens that pass forward and backward through the student. The others: the
    devices of these three phases, and all that the cell holds."""

    requests: int
    generated: float
    scored: float = 0.0
    trained: float = 0.0
    engines: int
    scorers: int
    students: int
    gpus: int

    def hours(self, rates: TrainingRates) -> float:
        """Return the hours of the cell."""
        seconds = self.generated / (rates.generation * self.engines)
        seconds += self.scored / (rates.scoring * self.scorers)
        return (seconds + self.trained / (rates.training * self.students)) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the cells of a row take that no row before it has. `hours` and `gpu_hours`: None without rates; `left`: GPU-hours of
    the cells without a stored result."""

    label: str
    cells: int
    stored: int
    requests: int
    generated: float
    scored: float
    trained: float
    hours: float | None
    gpu_hours: float | None
    left: float | None


# --- work of a cell ----------------------------------------------------------------------------------------------


def cell_work(cell: Cell, config: Config) -> Work:
    """Return the work of a cell; `config` has the assumptions. Raises `UserError` for one that is missing."""
    plan = _plan_of(cell)
    run, evaluated = plan.run, _evaluated(cell, plan.run, config)
    prompt, response = _lengths(run, config.plan)
    if cell.baseline is not None:
        return Work(requests=evaluated, generated=evaluated * response, **_devices(plan))
    rollouts = _rollouts(run, config, response)
    requests = evaluated * _evaluations(run, rollouts) + (rollouts if plan.samples else 0)
    tokens = rollouts * (prompt + response)
    forward = len(plan.passes) + bool(plan.student_outputs) + (plan.algorithm.sequence_loss is not None)
    return Work(
        requests=requests,
        generated=requests * response,
        scored=forward * tokens,
        trained=tokens,
        **_devices(plan),
    )


def _plan_of(cell: Cell) -> RunPlan:
    return resolve(run_config(cell.settings(), _FOLDER, _FOLDER))


def _devices(plan: RunPlan) -> dict[str, int]:
    where = plan.run.placement
    return {
        "engines": where.engines,
        "scorers": where.students if where.kind == "colocated" else 1,
        "students": where.students,
        "gpus": 1 if where.kind == "cpu" else len(placement_of(plan).bundles()),
    }


def _evaluated(cell: Cell, run: RunConfig, config: Config) -> int:
    """Return the number of samples of one evaluation."""
    settings = cell.settings()
    if settings.held_out == "test":
        problems = config.aggregate.test_problems
    else:
        problems = run.dataset.held_out or len(held_out(settings, _FOLDER))
    return problems * (0 if run.evaluation is None else run.evaluation.samples)


def _lengths(run: RunConfig, plan: PlanSettings) -> tuple[float, float]:
    """Return the tokens of a prompt and of a response."""
    prompt = prompt_length(load_prompt(PROMPT), estimated_tokens) + plan.problem_chars / CHARS_PER_TOKEN
    most = run.lengths.max_response_tokens
    return prompt, min(plan.solution_tokens or most, most)


def _rollouts(run: RunConfig, config: Config, response: float) -> int:
    """Return the number of rollouts, in whole batches, until the last prompt or the budget of tokens."""
    prompts = run.batches.total_prompts
    if prompts is None:
        if config.plan.training_prompts is None:
            raise UserError(
                f"profile {config.profile} trains on all problems of its dataset, whose number is unknown: set"
                " plan.training_prompts, in the profile or by OVERRIDES"
            )
        prompts = run.batches.epochs * config.plan.training_prompts
    batch = run.prompts_per_step * run.rollouts.group_size
    steps = -(-prompts // run.prompts_per_step)
    if run.budget.max_tokens is not None:
        steps = min(steps, -(-run.budget.max_tokens // round(batch * response)))
    return steps * batch


def _evaluations(run: RunConfig, rollouts: int) -> int:
    """Return the number of evaluations: before the first step, after the last, and between them."""
    every = None if run.evaluation is None else run.evaluation.every_steps
    steps = rollouts // (run.prompts_per_step * run.rollouts.group_size)
    return 2 if every is None else 2 + (steps - 1) // every


# --- rates -------------------------------------------------------------------------------------------------------


def measured_rates(results: Iterable[CellResult]) -> TrainingRates | None:
    """Return the mean rates of stored trainings, of one device; None unless all three phases have one."""
    found: dict[str, list[float]] = {"generation": [], "scoring": [], "training": []}
    for result in results:
        devices = _devices(_plan_of(result.as_cell()))
        metrics = result.metrics
        scoring = (
            metrics.get("tokens", 0.0) / metrics["seconds_teacher"] if "seconds_teacher" in metrics else 0.0
        )
        for name, rate, number in (
            ("generation", metrics.get("rollout_tokens_per_second", 0.0), devices["engines"]),
            ("scoring", scoring, devices["scorers"]),
            ("training", metrics.get("trained_tokens_per_second", 0.0), devices["students"]),
        ):
            found[name] += [rate / number] if rate > 0 else []
    if not all(found.values()):
        return None
    return TrainingRates(**{name: sum(values) / len(values) for name, values in found.items()})


# --- the plan ----------------------------------------------------------------------------------------------------


def experiment_files(names: str) -> list[Path]:
    """Return the files of experiments by names with commas between them; the name of an edition (`paper`) means all of it."""
    found = []
    for name in filter(None, (one.strip() for one in names.split(","))):
        folder = project_path(EXPERIMENTS) / name
        found += sorted(folder.glob("*.yaml")) if folder.is_dir() else [experiment_path(name)]
    return found


def plan_lines(names: str, overrides: Mapping[str, Any], results: Mapping[str, CellResult]) -> list[str]:
    """Return the plan of experiments as lines. Cells that they share are counted once. `overrides`: settings of section `plan`.
    Raises `UserError` for a wrong experiment, and for an assumption that is missing."""
    if other := next((key for key in overrides if key.partition(".")[0] != "plan"), None):
        raise UserError(
            f"OVERRIDES has {other}, but cells have the settings of their experiment: with EXPERIMENT only plan.* can be set"
        )
    seen: set[str] = set()
    lines, totals, notes = [], list[Cost](), dict[str, None]()
    for path in experiment_files(names):
        experiment = load_experiment(path)
        config = load_config(experiment.profile, overrides)
        own = [one for one in results.values() if one.cell["profile"] == experiment.profile]
        rates, origin = config.plan.training_rates, "given"
        if rates is None:
            rates, origin = measured_rates(own), "measured"
        rows = [(row.label, row_cells(experiment, row)) for row in experiment.rows]
        costs = row_costs(rows, config, rates, results, seen)
        lines += [
            f"{path.parent.name}/{path.stem}: {experiment.title} ({experiment.source})",
            *_table(costs),
            "",
        ]
        totals += costs
        notes |= dict.fromkeys(_assumptions(config, rates, origin))
    return [*lines, *_total(totals, load_config(experiment.profile, overrides).plan.gpu_hour_price), *notes]


def row_costs(
    rows: Sequence[tuple[str, Sequence[Cell]]],
    config: Config,
    rates: TrainingRates | None,
    results: Mapping[str, CellResult],
    seen: set[str],
) -> list[Cost]:
    """Return the cost of each row without the cells whose keys are in `seen`, to which all others are added."""
    found = []
    for label, cells in rows:
        new = {cell.key: cell for cell in cells if cell.key not in seen}
        seen.update(new)
        works = [(key, cell_work(cell, config)) for key, cell in new.items()]
        hours = {key: None if rates is None else work.hours(rates) for key, work in works}
        gpu = {key: None if (one := hours[key]) is None else one * work.gpus for key, work in works}
        found.append(
            Cost(
                label=label,
                cells=len(works),
                stored=sum(key in results for key, _ in works),
                requests=sum(work.requests for _, work in works),
                generated=sum(work.generated for _, work in works),
                scored=sum(work.scored for _, work in works),
                trained=sum(work.trained for _, work in works),
                hours=_sum(hours.values()),
                gpu_hours=_sum(gpu.values()),
                left=_sum(one for key, one in gpu.items() if key not in results),
            )
        )
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    given = list(values)
    return None if None in given else sum(one for one in given if one is not None)


# --- text --------------------------------------------------------------------------------------------------------


def _table(costs: Sequence[Cost]) -> list[str]:
    width = max(len("row"), *(len(cost.label) for cost in costs))
    head = f"  {'row':<{width}} {'cells':>6} {'stored':>6} {'requests':>10} {'generated':>10} {'scored':>10} {'trained':>10}"
    return [
        f"{head} {'hours':>8} {'GPU-hours':>10}",
        *(f"  {cost.label:<{width}} {_numbers(cost)}" for cost in costs),
    ]


def _numbers(cost: Cost) -> str:
    tokens = " ".join(f"{_short(one):>10}" for one in (cost.generated, cost.scored, cost.trained))
    hours, gpu_hours = ("-" if one is None else f"{one:,.1f}" for one in (cost.hours, cost.gpu_hours))
    return f"{cost.cells:>6} {cost.stored:>6} {cost.requests:>10,} {tokens} {hours:>8} {gpu_hours:>10}"


def _short(tokens: float) -> str:
    """Return a number of tokens as '812', '1.2M', '3.45G'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:,.1f}{unit}"
    return f"{tokens:.0f}"


def _total(costs: Sequence[Cost], price: float | None) -> list[str]:
    total = Cost(
        label="total",
        cells=sum(one.cells for one in costs),
        stored=sum(one.stored for one in costs),
        requests=sum(one.requests for one in costs),
        generated=sum(one.generated for one in costs),
        scored=sum(one.scored for one in costs),
        trained=sum(one.trained for one in costs),
        hours=_sum(one.hours for one in costs),
        gpu_hours=_sum(one.gpu_hours for one in costs),
        left=_sum(one.left for one in costs),
    )
    lines = ["all of them; cells that rows share are counted in the first", *_table([total])]
    if total.gpu_hours is None or total.left is None:
        return [*lines, "GPU-hours need rates: set plan.training_rates, or run some cells of the profile"]
    lines.append(f"left: {counted(total.cells - total.stored, 'cell')}, {total.left:,.1f} GPU-hours")
    if price is None:
        return [*lines, "money: set plan.gpu_hour_price"]
    money = f"{total.gpu_hours * price:,.0f} for all, {total.left * price:,.0f} for what is left"
    return [*lines, f"money: {money}, at {price:g} a GPU-hour (plan.gpu_hour_price)"]


def _assumptions(config: Config, rates: TrainingRates | None, origin: str) -> list[str]:
    """Return the assumptions behind the numbers of a profile, one per line."""
    plan = config.plan
    known = "unknown" if plan.training_prompts is None else f"{plan.training_prompts:,}"
    length = (
        "unknown, so the most that is allowed"
        if plan.solution_tokens is None
        else f"{plan.solution_tokens:,}"
    )
    found = [
        f"assumptions of {config.profile}: characters of a problem (plan.problem_chars) {plan.problem_chars:,}; tokens of a"
        f" response (plan.solution_tokens) {length}; problems of a dataset in epochs (plan.training_prompts) {known}",
        f"not counted: the dataset of {config.profile} (make plan PROFILE={config.profile}), loading, weight syncs, checkpoints",
    ]
    if rates is not None:
        where = "plan.training_rates" if origin == "given" else "measured in stored cells"
        found.append(
            f"rates of {config.profile}, tokens per second of one device ({where}): generation {rates.generation:,.0f}, scoring"
            f" {rates.scoring:,.0f}, training {rates.training:,.0f}"
        )
    return found
