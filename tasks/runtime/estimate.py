"""The cost of a run, estimated in advance: requests, tokens, GPU-hours, bytes on disk. Pure.

Requests assume that nothing is rejected, so they are upper bounds. Tokens are estimates:

- A prompt consists of its fixed text, the special tokens of the chat template and the problem. Each is counted with the
  role's own tokenizer if that is on this machine, otherwise as one token per four characters.
- A problem that has not been read has `plan.problem_chars` characters; a child has `plan.growth` times its parent's length.
- An evolver's reply is the child between its tags; a judge's reply is the shortest that its schema allows; a solution has
  `plan.solution_tokens`.
- The upper bound is `max_tokens` for every reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from tasks.config import Config, EvolveSettings
from tasks.plan_settings import PlanRole, PlanSettings, Rate
from tasks.problems.evolution_plan import planned_totals, with_target
from tasks.rows import Tier
from tasks.text import counted

CHARS_PER_TOKEN = 4.0
MESSAGE_MARKS = 5
"""Tokens that a Qwen chat template adds to a message: start, role, newline, end, newline."""
REPLY_MARKS = 7
"""Tokens before the reply: start, role, newline, and the four tokens of Qwen3's empty thinking block."""
ROW_BYTES = 300  # a problem's row in a table, without its text
ENTRY_BYTES = 400  # a request in the ledger, without its reply (but including a judge's)
CANDIDATE_COPIES = 4  # copies of a candidate's text: its round, rules, deduplicate, judge
SELECTED_COPIES = 4  # copies of a selected problem's text: select, sample, dataset, report
RESPONSE_COPIES = 3  # copies of a response's text: the ledger, sample, dataset
REASON_TOKENS = 30  # a judge's reason of one sentence


UNREAD: Final = "unread"
PlannedTier = Tier | Literal["unread"]
"""A tier, or `UNREAD` for problems of a file that is not here, whose tiers are in a column of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSource:
    """The number of problems of one source, by tier. `basis` describes where the number comes from."""

    name: str
    role: str
    problems: Mapping[PlannedTier, int]
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean lengths of a run's texts in one unit: tokens of one role's model, or characters.

    `prompts` are the lengths of the prompts' fixed texts, including the chat template; `frame` is the fixed part of a
    role's replies: a judge's shortest verdict, or the tags around an evolved problem.
    """

    seeds: Mapping[Tier, float]
    curated: float
    prompts: Mapping[str, float]
    frame: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """The rollouts of a distillation."""

    number: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One stage's requests to one role. `expected` and `gpu_hours` are None if they cannot be estimated."""

    stage: str
    role: str
    requests: int
    prompt_tokens: int
    expected: int | None  # output tokens
    most: int  # upper bound of the output tokens
    gpu_hours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a run. `branches` are already multiplied for `evolve.target`; `disk` is in bytes; `errors` would end the run
    at its start."""

    profile: str
    sources: tuple[PlannedSource, ...]
    seeds: Mapping[Tier, int]
    curated: int
    rounds: Mapping[Tier, int]
    branches: Mapping[Tier, int]
    candidates: int
    problems: int  # annotated: selected and curated
    lines: tuple[Line, ...]
    disk: Mapping[str, int]
    notes: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        return asdict(self)


# --- rows per stage ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The candidates of one round and tier."""

    tier: Tier
    round: int
    count: int


def candidate_groups(seeds: Mapping[Tier, int], settings: EvolveSettings) -> tuple[Group, ...]:
    """Return all candidates if nothing is rejected. `settings` must have the final branches (see `with_target`)."""
    return tuple(
        Group(tier=tier, round=round, count=count)
        for tier, number in seeds.items()
        for round, count in planned_totals({tier: number}, settings).items()
    )


def make_plan(
    config: Config,
    sources: Sequence[PlannedSource],
    lengths: Mapping[str, Lengths],
    *,
    rollouts: Rollouts | None,
    notes: Sequence[str] = (),
) -> Plan:
    """Return the plan of a run.

    `lengths` has one entry per role (including `student` if there are rollouts) and the entry `chars`. Raises
    `UserError` if `evolve.target` cannot be reached.
    """
    seeds, curated = tier_counts(sources, "seed"), curated_count(sources)
    evolve = with_target(seeds, config.evolve)
    config = config.model_copy(update={"evolve": evolve})
    groups = candidate_groups(seeds, evolve)
    candidates = sum(group.count for group in groups)
    selected = candidates if config.select.target is None else min(config.select.target, candidates)
    lines = [
        *evolve_lines(config, groups, lengths["evolver"]),
        judge_line(config, groups, lengths["quality_judge"]),
        *neighbour_lines(config, groups, selected, curated, lengths["quality_judge"]),
        sample_line(config, groups, selected, curated, lengths["teacher"]),
        cluster_line(config, selected + curated, lengths["equivalence_judge"]),
        *([distill_line(config, groups, rollouts, lengths["student"])] if rollouts is not None else []),
    ]
    return Plan(
        profile=config.profile,
        sources=tuple(sources),
        seeds=seeds,
        curated=curated,
        rounds=evolve.rounds,
        branches=evolve.branches,
        candidates=candidates,
        problems=selected + curated,
        lines=tuple(lines),
        disk=disk_bytes(config, groups, lengths["chars"], selected, curated, lines),
        notes=(*notes, *_target_notes(config, selected + curated)),
    )


def _target_notes(config: Config, problems: int) -> list[str]:
    if config.select.target is not None:
        return []
    return [f"select.target is null: {annotation_cost(config, problems)}"]


def tier_counts(sources: Sequence[PlannedSource], role: str) -> dict[Tier, int]:
    """Return the number of problems of all sources of a role by tier, easiest first, without empty tiers."""
    totals = {
        tier: sum(source.problems.get(tier, 0) for source in sources if source.role == role) for tier in Tier
    }
    return {tier: count for tier, count in totals.items() if count}


def curated_count(sources: Sequence[PlannedSource]) -> int:
    """Return the number of curated problems, whose tiers may be unread."""
    return sum(sum(source.problems.values()) for source in sources if source.role == "curated")


# --- the lines ---------------------------------------------------------------------------------------------------


def evolve_lines(config: Config, groups: Sequence[Group], lengths: Lengths) -> list[Line]:
    """Return one line per round."""
    settings, growth = config.evolve, config.plan.growth
    found = []
    for round in sorted({group.round for group in groups}):
        requests, prompts, replies = 0, 0.0, 0.0
        for group in (group for group in groups if group.round == round):
            parent = lengths.seeds[group.tier] * growth ** (round - 1)
            requests += group.count
            prompts += group.count * (_evolution_prompt(group, settings, lengths) + parent)
            replies += group.count * min(parent * growth + lengths.frame, settings.sampling.max_tokens)
        most = requests * settings.sampling.max_tokens
        found.append(_line(config.plan, f"evolve-{round}", "evolver", requests, prompts, replies, most))
    return found


def _evolution_prompt(group: Group, settings: EvolveSettings, lengths: Lengths) -> float:
    """Return the mean length of the prompts' fixed texts over the strategies of a group."""
    weights = settings.strategy_weights[group.tier]
    if group.round > 1:
        weights = {strategy: weights.get(strategy, 0.0) for strategy in settings.follow_ups}
    total = sum(weights.values())
    return sum(
        weight * lengths.prompts[f"evolution/{strategy}"] / total for strategy, weight in weights.items()
    )


def judge_line(config: Config, groups: Sequence[Group], lengths: Lengths) -> Line:
    """Return the line of the quality judge: one verdict per candidate."""
    requests, most = sum(group.count for group in groups), config.judge.sampling.max_tokens
    prompts = requests * (lengths.prompts["judge/quality"] + mean_candidate(groups, lengths, config.plan))
    replies = requests * lengths.frame
    return _line(config.plan, "judge", "quality_judge", requests, prompts, replies, requests * most)


def neighbour_lines(
    config: Config, groups: Sequence[Group], selected: int, curated: int, lengths: Lengths
) -> list[Line]:
    """Return the line of the quality judge about near benchmark problems, as if no problem had a flag and each had the most
    neighbours; none if `decontam.judge` is off. A benchmark problem is taken to be as long as a candidate."""
    judge = config.decontam.judge
    if judge is None:
        return []
    candidate = mean_candidate(groups, lengths, config.plan)
    requests = judge.count * (selected + curated)
    prompts = requests * (lengths.prompts["judge/overlap"] + candidate)
    prompts += judge.count * (selected * candidate + curated * lengths.curated)
    replies = requests * min(lengths.frame + REASON_TOKENS, judge.sampling.max_tokens)
    most = requests * judge.sampling.max_tokens
    return [_line(config.plan, "neighbours", "quality_judge", requests, prompts, replies, most)]


def mean_candidate(groups: Sequence[Group], lengths: Lengths, plan: PlanSettings) -> float:
    """Return the mean length of a candidate; 0 if there are none."""
    total = sum(group.count for group in groups)
    weighted = sum(group.count * lengths.seeds[group.tier] * plan.growth**group.round for group in groups)
    return weighted / total if total else 0.0


def sample_line(
    config: Config, groups: Sequence[Group], selected: int, curated: int, lengths: Lengths
) -> Line:
    """Return the line of the teacher: N responses per selected or curated problem, one request per problem."""
    number, cap = config.sample.num_samples, config.sample.sampling.max_tokens
    problems = selected + curated
    prompts = problems * lengths.prompts["teacher/solve"] + curated * lengths.curated
    prompts += selected * mean_candidate(groups, lengths, config.plan)
    replies = _solutions(config.plan, problems * number, cap)
    return _line(config.plan, "sample", "teacher", problems, prompts, replies, problems * number * cap)


def annotation_cost(config: Config, problems: int) -> str:
    """Return in one sentence what the annotation of so many problems takes: responses, their tokens, judged pairs."""
    number, cap, plan = config.sample.num_samples, config.sample.sampling.max_tokens, config.plan
    responses = problems * number
    tokens = f"at most {responses * cap:,} tokens"
    if (expected := _solutions(plan, responses, cap)) is not None:
        tokens = f"about {round(expected):,} tokens ({tokens})"
        if (hours := gpu_hours(plan.rates.get("teacher"), 0.0, expected)) is not None:
            tokens = f"{tokens[:-1]}; {hours:,.1f} GPU-hours)"
    pairs = 0 if config.cluster.judge == "never" else problems * number * (number - 1)
    return (
        f"annotating all {problems:,} problems takes {responses:,} responses of the teacher, {tokens}, and at most {pairs:,}"
        " requests to the equivalence judge; set select.target to annotate fewer"
    )


def cluster_line(config: Config, problems: int, lengths: Lengths) -> Line:
    """Return the line of the equivalence judge: both orders of every pair, as if no pair were decided without it."""
    number = config.sample.num_samples
    requests = 0 if config.cluster.judge == "never" else problems * number * (number - 1)
    answers = 2 * config.plan.answer_tokens
    prompts = requests * (lengths.prompts["judge/equivalence"] + answers)
    replies, most = requests * (lengths.frame + answers), requests * config.cluster.sampling.max_tokens
    return _line(config.plan, "cluster", "equivalence_judge", requests, prompts, replies, most)


def distill_line(config: Config, groups: Sequence[Group], rollouts: Rollouts, lengths: Lengths) -> Line:
    """Return the line of the student's rollouts."""
    number, cap = rollouts.number, rollouts.max_tokens
    prompts = number * (lengths.prompts["teacher/solve"] + mean_candidate(groups, lengths, config.plan))
    replies = _solutions(config.plan, number, cap)
    return _line(config.plan, "distill", "student", number, prompts, replies, number * cap)


def _solutions(plan: PlanSettings, number: int, cap: int) -> float | None:
    return None if plan.solution_tokens is None else number * min(plan.solution_tokens, cap)


def _line(
    plan: PlanSettings,
    stage: str,
    role: PlanRole,
    requests: int,
    prompts: float,
    replies: float | None,
    most: int,
) -> Line:
    return Line(
        stage=stage,
        role=role,
        requests=requests,
        prompt_tokens=round(prompts),
        expected=None if replies is None else round(replies),
        most=most,
        gpu_hours=None if replies is None else gpu_hours(plan.rates.get(role), prompts, replies),
    )


def gpu_hours(rate: Rate | None, prompts: float, replies: float) -> float | None:
    """Return the GPU-hours for these numbers of tokens; None without a rate."""
    return None if rate is None else (prompts / rate.prompt + replies / rate.output) / 3600


# --- disk --------------------------------------------------------------------------------------------------------


def disk_bytes(
    config: Config,
    groups: Sequence[Group],
    chars: Lengths,
    selected: int,
    curated: int,
    lines: Sequence[Line],
) -> dict[str, int]:
    """Return the disk usage in bytes by part, uncompressed, one byte per character. `lengths` are in characters."""
    candidates = sum(group.count for group in groups)
    candidate = mean_candidate(groups, chars, config.plan)
    problems, (sampled,) = selected + curated, [line for line in lines if line.stage == "sample"]
    responses = CHARS_PER_TOKEN * (sampled.most if sampled.expected is None else sampled.expected)
    rows = candidates * CANDIDATE_COPIES * (ROW_BYTES + candidate)
    rows += problems * SELECTED_COPIES * (ROW_BYTES + max(candidate, chars.curated))
    requests = sum(line.requests for line in lines if line.stage != "distill")
    return {
        "problems": round(rows),
        "responses": round(RESPONSE_COPIES * responses),
        "ledger": round(requests * ENTRY_BYTES + candidates * candidate),
    }


# --- text --------------------------------------------------------------------------------------------------------


def describe(plan: Plan) -> list[str]:
    """Return the plan as lines of text: sources, evolution, the table of requests, disk, notes."""
    seeds = ", ".join(f"{tier} {count:,}" for tier, count in plan.seeds.items()) or "none"
    width = max((len(source.name) for source in plan.sources), default=0)
    sources = [
        f"  {source.name:<{width}}  {source.role:<7}  {sum(source.problems.values()):>7,}  {source.basis}"
        for source in plan.sources
    ]
    disk = ", ".join(f"{name} {size_text(count)}" for name, count in plan.disk.items())
    return [
        f"plan of {plan.profile} (upper bounds: nothing is rejected, every pair of answers is judged)",
        *sources,
        f"seeds {sum(plan.seeds.values()):,} ({seeds}); curated {plan.curated:,}",
        f"rounds {_by_tier(plan.rounds)}, branches {_by_tier(plan.branches)}: {counted(plan.candidates, 'candidate')}; "
        f"{counted(plan.problems, 'problem is', 'problems are')} annotated",
        *table(plan.lines),
        f"disk {size_text(sum(plan.disk.values()))}: {disk}",
        *plan.notes,
        *([f"errors that end this run at its start: {len(plan.errors)}"] if plan.errors else []),
        *(f"  {error}" for error in plan.errors),
    ]


def _by_tier(values: Mapping[Tier, int]) -> str:
    """Format as '1/2/3/5', or as '2' if all values are equal."""
    numbers = [values[tier] for tier in Tier]
    return str(numbers[0]) if len(set(numbers)) == 1 else "/".join(map(str, numbers))


def table(lines: Sequence[Line]) -> list[str]:
    """Return the requests and tokens of every stage in aligned columns, and their sums."""
    columns = {
        "requests": [line.requests for line in lines],
        "prompt tokens": [line.prompt_tokens for line in lines],
        "output expected": [line.expected for line in lines],
        "output at most": [line.most for line in lines],
        "GPU-hours": [line.gpu_hours for line in lines],
    }
    if all(line.gpu_hours is None for line in lines):
        del columns["GPU-hours"]
    names = [
        ("stage", [line.stage for line in lines] + ["all"]),
        ("role", [line.role for line in lines] + [""]),
    ]
    cells = [_padded([name, *column], "<") for name, column in names]
    cells += [_padded([name, *map(_cell, [*column, _sum(column)])], ">") for name, column in columns.items()]
    return ["  ".join(row) for row in zip(*cells, strict=True)]


def _padded(cells: Sequence[str], side: str) -> list[str]:
    width = max(map(len, cells))
    return [f"{cell:{side}{width}}" for cell in cells]


def _cell(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _sum(values: Sequence[float | None]) -> float | None:
    """Return the sum, or None if one of the values is unknown."""
    return None if None in values else sum(value for value in values if value is not None)


def size_text(count: int) -> str:
    """Format a size in bytes as '1.2 GB', in powers of ten."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
