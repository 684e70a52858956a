"""What a run will ask of its models, told before anything is spent: requests, tokens, GPU-hours, bytes on disk. Pure.

Requests are those of a run in which nothing is rejected, hence the most that can be sent. Tokens are estimated:

- a prompt is its fixed text, the marks of the chat template and the problem, each counted by the role's own tokenizer
  where that is on this machine, else a token for every four characters;
- a problem that was not read has `plan.problem_chars` characters, and a child `plan.growth` times its parent's length;
- an evolver's reply is the child between its tags, a judge's the shortest that its schema admits, a solution has
  `plan.solution_tokens`;
- the most is `max_tokens` for every reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.core.config import Config, EvolveSettings, PlanRole, PlanSettings, Rate
from tasks.core.evolution_plan import planned_totals, with_target
from tasks.core.rows import Tier

CHARS_PER_TOKEN = 4.0
MESSAGE_MARKS = 5
"""Tokens that a Qwen chat template puts around a message: start, role, line end, end, line end."""
REPLY_MARKS = 7
"""Tokens that open the reply: start, role, line end, and the four of Qwen3's empty thinking."""
ROW_BYTES = 300  # of a problem's row in a table, its text aside
ENTRY_BYTES = 400  # of a request in the ledger, its reply aside; a judge's reply included
CANDIDATE_COPIES = 4  # of a candidate's text: its round, rules, deduplicate, judge
SELECTED_COPIES = 4  # of a selected problem's: select, sample, dataset, report
RESPONSE_COPIES = 3  # of a response's: the ledger, sample, dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """What one source brings: `basis` says how that is known."""

    name: str
    role: str
    problems: Mapping[Tier, int]
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean lengths of a run's texts in one measure: the tokens of one role's model, or characters.

    `prompts` are the fixed texts of prompts, marks included; `frame` is that of a role's replies: a judge's shortest
    verdict, the tags around an evolved problem.
    """

    seeds: Mapping[Tier, float]
    curated: float
    prompts: Mapping[str, float]
    frame: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """What a distillation will draw from its student."""

    number: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One stage's requests to one role. `expected` and `gpu_hours` are None where nothing tells them."""

    stage: str
    role: str
    requests: int
    prompt_tokens: int
    expected: int | None  # output tokens
    most: int  # output tokens
    gpu_hours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`branches` are those of the run, so multiplied for `evolve.target`; `disk` is in bytes."""

    profile: str
    sources: tuple[SourceCount, ...]
    seeds: Mapping[Tier, int]
    curated: int
    rounds: Mapping[Tier, int]
    branches: Mapping[Tier, int]
    candidates: int
    problems: int  # annotated: selected and curated
    lines: tuple[Line, ...]
    disk: Mapping[str, int]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return asdict(self)


# --- what comes through the stages -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The candidates of one round and tier."""

    tier: Tier
    round: int
    count: int


def candidate_groups(seeds: Mapping[Tier, int], settings: EvolveSettings) -> tuple[Group, ...]:
    """All candidates when nothing is rejected; `settings` with the branches of the run."""
    return tuple(
        Group(tier=tier, round=round, count=count)
        for tier, number in seeds.items()
        for round, count in planned_totals({tier: number}, settings).items()
    )


def make_plan(
    config: Config,
    sources: Sequence[SourceCount],
    lengths: Mapping[str, Lengths],
    *,
    rollouts: Rollouts | None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of a run. `lengths` has one entry for each role, `student` included where there are rollouts, and
    `chars`. `UserError` when `evolve.target` cannot be reached."""
    seeds, curated = tier_counts(sources, "seed"), sum(tier_counts(sources, "curated").values())
    evolve = with_target(seeds, config.evolve)
    config = config.model_copy(update={"evolve": evolve})
    groups = candidate_groups(seeds, evolve)
    candidates = sum(group.count for group in groups)
    selected = candidates if config.select.target is None else min(config.select.target, candidates)
    lines = [
        *evolve_lines(config, groups, lengths["evolver"]),
        judge_line(config, groups, lengths["quality_judge"]),
        sample_line(config, groups, selected, curated, lengths["teacher"]),
        cluster_line(config, selected + curated, lengths["equivalence_judge"]),
    ]
    if rollouts is not None:
        lines.append(distill_line(config, groups, rollouts, lengths["student"]))
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
        notes=tuple(notes),
    )


def tier_counts(sources: Sequence[SourceCount], role: str) -> dict[Tier, int]:
    """Problems of all sources of a role by tier, easiest first; tiers without any are left out."""
    totals = {
        tier: sum(source.problems.get(tier, 0) for source in sources if source.role == role) for tier in Tier
    }
    return {tier: count for tier, count in totals.items() if count}


# --- the lines ---------------------------------------------------------------------------------------------------


def evolve_lines(config: Config, groups: Sequence[Group], lengths: Lengths) -> list[Line]:
    """One line a round."""
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
    """Mean fixed text of the strategies that a group's parents are asked with."""
    weights = settings.strategy_weights[group.tier]
    if group.round > 1:
        weights = dict.fromkeys(settings.follow_ups, 1.0)
    total = sum(weights.values())
    return sum(
        weight * lengths.prompts[f"evolution/{strategy}"] / total for strategy, weight in weights.items()
    )


def judge_line(config: Config, groups: Sequence[Group], lengths: Lengths) -> Line:
    """A verdict for every candidate."""
    requests, most = sum(group.count for group in groups), config.judge.sampling.max_tokens
    prompts = requests * (lengths.prompts["judge/quality"] + mean_candidate(groups, lengths, config.plan))
    replies = requests * lengths.frame
    return _line(config.plan, "judge", "quality_judge", requests, prompts, replies, requests * most)


def mean_candidate(groups: Sequence[Group], lengths: Lengths, plan: PlanSettings) -> float:
    """Mean length of a candidate; 0 when there is none."""
    total = sum(group.count for group in groups)
    weighted = sum(group.count * lengths.seeds[group.tier] * plan.growth**group.round for group in groups)
    return weighted / total if total else 0.0


def sample_line(
    config: Config, groups: Sequence[Group], selected: int, curated: int, lengths: Lengths
) -> Line:
    """N responses to every selected and curated problem; a request asks for all of one problem."""
    number, cap = config.sample.num_samples, config.sample.sampling.max_tokens
    problems = selected + curated
    prompts = problems * lengths.prompts["teacher/solve"] + curated * lengths.curated
    prompts += selected * mean_candidate(groups, lengths, config.plan)
    replies = _solutions(config.plan, problems * number, cap)
    return _line(config.plan, "sample", "teacher", problems, prompts, replies, problems * number * cap)


def cluster_line(config: Config, problems: int, lengths: Lengths) -> Line:
    """Both orders of every pair of answers, as if all differed and none were decided without the judge."""
    number = config.sample.num_samples
    requests = 0 if config.cluster.judge == "never" else problems * number * (number - 1)
    answers = 2 * config.plan.answer_tokens
    prompts = requests * (lengths.prompts["judge/equivalence"] + answers)
    replies, most = requests * (lengths.frame + answers), requests * config.cluster.sampling.max_tokens
    return _line(config.plan, "cluster", "equivalence_judge", requests, prompts, replies, most)


def distill_line(config: Config, groups: Sequence[Group], rollouts: Rollouts, lengths: Lengths) -> Line:
    """The student's rollouts."""
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
    """Hours of one GPU for these tokens; None without a rate."""
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
    """Bytes by what takes them, uncompressed, one byte a character. `lengths` are characters."""
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


# --- in words ----------------------------------------------------------------------------------------------------


def describe(plan: Plan) -> list[str]:
    """The plan as lines of text: sources, evolution, the table of requests, disk, and what is to be known."""
    seeds = ", ".join(f"{tier} {count:,}" for tier, count in plan.seeds.items()) or "none"
    width = max((len(source.name) for source in plan.sources), default=0)
    sources = [
        f"  {source.name:<{width}}  {source.role:<7}  {sum(source.problems.values()):>7,}  {source.basis}"
        for source in plan.sources
    ]
    disk = ", ".join(f"{name} {size_text(count)}" for name, count in plan.disk.items())
    return [
        f"plan of {plan.profile}: the most that is sent when nothing is rejected and every pair of answers is judged",
        *sources,
        f"seeds {sum(plan.seeds.values()):,} ({seeds}); curated {plan.curated:,}",
        f"rounds {_by_tier(plan.rounds)}, branches {_by_tier(plan.branches)}: {plan.candidates:,} candidates; "
        f"{plan.problems:,} problems are annotated",
        *table(plan.lines),
        f"disk {size_text(sum(plan.disk.values()))}: {disk}",
        *plan.notes,
    ]


def _by_tier(values: Mapping[Tier, int]) -> str:
    """'1/2/3/5', or '2' where all are alike."""
    numbers = [values[tier] for tier in Tier]
    return str(numbers[0]) if len(set(numbers)) == 1 else "/".join(map(str, numbers))


def table(lines: Sequence[Line]) -> list[str]:
    """Requests and tokens of every stage in aligned columns, and their sums."""
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
    """None when one of the values is unknown."""
    return None if None in values else sum(value for value in values if value is not None)


def size_text(count: int) -> str:
    """'1.2 GB', in powers of ten."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
