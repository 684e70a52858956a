"""The tables that show a run while it works, from the counts of its finished shards and the usage of its models. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tasks.evaluate_settings import Prices
from tasks.llm.chat import Usage
from tasks.rows import QUALITY_CRITERIA, Strategy
from tasks.storage.artifacts import sum_counts
from tasks.storage.cards import escape_markdown
from tasks.storage.manifest import StageCount
from tasks.text import words

FILTERS = ("rules", "deduplicate", "judge")
"""The stages that reject evolved problems. Their shards are those of the evolution, in the order of its rounds."""
Shards = Mapping[int, "ShardFacts"]
"""The finished shards of a stage, by index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What the tables need of a finished shard: its counts, its kept problems by strategy, and the judge's verdicts, with the
    criteria that do not hold."""

    counts: Mapping[str, Any]
    seconds: float = 0.0
    strategies: Mapping[str, int] = field(default_factory=dict)
    verdicts: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)


def count_so_far(stage: str, shards: Shards) -> StageCount:
    """Return the counts of the finished shards of a stage, as the manifest has those of all of them."""
    counts = sum_counts([facts.counts for facts in shards.values()])
    return StageCount(stage=stage, rows_in=counts["in"], kept=counts["kept"], rejected=counts["rejected"])


def strategy_table(stages: Mapping[str, Shards]) -> list[dict[str, str]]:
    """Return one row for each strategy: the problems that were evolved by it (in their last round) and how many each filter has
    kept so far. `accepted` is the share that is kept of those that the judge has decided about or an earlier stage rejected."""
    evolved = [
        facts.strategies
        for name, shards in stages.items()
        if name.startswith("evolve-")
        for _, facts in sorted(shards.items())
    ]
    written = _total(evolved)
    kept = {name: _total([facts.strategies for facts in stages.get(name, {}).values()]) for name in FILTERS}
    decided = _total([evolved[index] for index in stages.get("judge", {}) if index < len(evolved)])
    return [
        {
            "strategy": words(strategy),
            "evolved": f"{written[strategy]:,}",
            **{f"kept by {name}": f"{kept[name][strategy]:,}" if name in stages else "" for name in FILTERS},
            "accepted": share(kept["judge"][strategy], decided[strategy]),
        }
        for strategy in Strategy
        if written[strategy]
    ]


def judge_table(shards: Shards) -> list[dict[str, str]]:
    """Return one row for each criterion and for each other reason of the judge: the rows rejected for it (the first criterion
    that does not hold), and the verdicts in which it does not hold."""
    count = count_so_far("judge", shards)
    failed = _total([facts.failed for facts in shards.values()])
    verdicts = sum(facts.verdicts for facts in shards.values())
    named = [f"not_{name}" for name in QUALITY_CRITERIA]
    criteria = [
        {
            "reason": words(reason),
            "rejected for it": f"{count.rejected.get(reason, 0):,}",
            "share of judged": share(count.rejected.get(reason, 0), count.rows_in),
            "does not hold": f"{failed[name]:,}",
            "share of verdicts": share(failed[name], verdicts),
        }
        for reason, name in zip(named, QUALITY_CRITERIA, strict=True)
    ]
    others = [
        {
            "reason": words(reason), "rejected for it": f"{number:,}", "share of judged": share(number, count.rows_in),
            "does not hold": "", "share of verdicts": "",
        }
        for reason, number in count.rejected.items()
        if reason not in named
    ]  # fmt: skip
    return [*criteria, *others]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCost:
    """What a role has used in this run. `worked`: rows of its stages that it has worked on; `left`: rows of those that have begun
    which are left. `prompt_tokens` is None for an offline engine, which does not count them."""

    role: str
    model: str
    usage: Usage
    worked: int
    left: int
    prices: Prices | None = None
    counts_prompts: bool = True


def role_row(found: RoleCost) -> dict[str, str]:
    """Return a role's requests, tokens and cost so far, and what they come to when its present stage ends."""
    usage, prices = found.usage, found.prices
    factor = projection(usage, found.worked, found.left)
    cost = None if prices is None else price(prices, usage.prompt_tokens, usage.completion_tokens)
    return {
        "what": f"{words(found.role)}, this run ({escape_markdown(found.model)})",
        "requests": f"{usage.completions:,}",
        "from the ledger": f"{usage.cached:,}",
        "prompt tokens": f"{usage.prompt_tokens:,}" if found.counts_prompts else "",
        "output tokens": f"{usage.completion_tokens:,}",
        "projected tokens": ""
        if factor is None
        else f"{round(factor * (usage.prompt_tokens + usage.completion_tokens)):,}",
        "cost": money(cost),
        "projected cost": money(None if cost is None or factor is None else factor * cost),
    }


def projection(usage: Usage, worked: int, left: int) -> float | None:
    """Return by which factor the tokens grow until no row is left, if the requests of a row and the tokens of a request stay the
    same and no answer is in the ledger; None before the first answer."""
    if not left:
        return 1.0
    if not (worked and usage.completions):
        return None
    requests_left = left * (usage.completions + usage.cached) / worked
    return 1.0 + requests_left / usage.completions


def price(prices: Prices, prompt_tokens: int, output_tokens: int) -> float:
    """Return the price of so many tokens."""
    return (prompt_tokens * prices.prompt + output_tokens * prices.output) / 1e6


def money(value: float | None) -> str:
    """Format an amount in the currency of the prices; empty if there is none."""
    return "" if value is None else f"{value:,.2f}"


def share(part: int, whole: int) -> str:
    """Format a share; empty of nothing."""
    return f"{part / whole:.1%}" if whole else ""


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum of several usages."""
    return Usage(
        **{name: sum(getattr(one, name) for one in usages) for name in (one.name for one in fields(Usage))}
    )


def _total(counts: Sequence[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(dict(one)) for one in counts), Counter[str]())
