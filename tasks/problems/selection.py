"""Selection of judged problems for annotation, and of held-out curated problems.

Every draw is decided by a hash, so there is no random state.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash

from tasks.config import SelectSettings
from tasks.errors import UserError
from tasks.rows import Strategy, Tier

Stratum = tuple[Tier | Strategy, ...]
"""(), (tier,) or (tier, strategy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The properties of a problem that the selection depends on."""

    id: str
    tier: Tier
    strategy: Strategy
    root_id: str


def select(candidates: Sequence[Candidate], settings: SelectSettings) -> tuple[str, ...]:
    """Return the ids to keep, in the order in which they are drawn. The order of the input does not matter.

    With `stratify` tier, each draw takes the tier with the fewest problems so far; with tier_strategy, in that tier the
    strategy with the fewest. The shares are thus as equal as the supply allows. There, or among all problems with none,
    the smallest hash of (seed, id) is drawn whose root has fewer than `per_root` selected problems. The selection for a
    smaller target is a prefix of that for a larger one. With `target` None everything that `per_root` allows is drawn.
    Raises ValueError if an id occurs twice.
    """
    _must_be_distinct([candidate.id for candidate in candidates])
    queues = _queues(candidates, settings)
    drawn: list[str] = []
    counts: Counter[Stratum] = Counter()  # of every stratum and of what contains it
    per_root: Counter[str] = Counter()
    while queues and (settings.target is None or len(drawn) < settings.target):
        stratum = min(queues, key=lambda key: ([counts[part] for part in _levels(key)], key))
        queue = queues[stratum]
        candidate = queue.pop()
        if not queue:
            del queues[stratum]
        if settings.per_root is None or per_root[candidate.root_id] < settings.per_root:
            drawn.append(candidate.id)
            counts.update(_levels(stratum))
            per_root[candidate.root_id] += 1
    return tuple(drawn)


def split_curated(
    ids: Sequence[str], test_problems: int, seed: int, strata: Mapping[str, Tier]
) -> dict[str, str]:
    """Return {id: split} in the order of `ids`: "test" for exactly `test_problems` of them, "train" for the others.

    `strata` maps every id to its tier. The test split is stratified by tier (largest remainders); within a tier the
    smallest hashes of (seed, id) are held out. Raises `UserError` if there are fewer ids than test problems.
    """
    _must_be_distinct(ids)
    if test_problems > len(ids):
        raise UserError(
            f"aggregate.test_problems is {test_problems}, but there are only {len(ids)} curated problems: "
            "lower it or add a curated source"
        )
    by_tier: defaultdict[Tier, list[str]] = defaultdict(list)
    for identity in ids:
        by_tier[strata[identity]].append(identity)
    shares = _largest_remainders({tier: len(members) for tier, members in by_tier.items()}, test_problems)
    held_out = {
        identity
        for tier, members in by_tier.items()
        for identity in sorted(members, key=lambda identity: _draw(seed, identity))[: shares[tier]]
    }
    return {identity: "test" if identity in held_out else "train" for identity in ids}


def _draw(seed: int, identity: str) -> tuple[int, str]:
    return xxhash.xxh3_64_intdigest(f"{seed}\x1f{identity}".encode("utf-8", "surrogatepass")), identity


def _must_be_distinct(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = min(identity for identity, count in Counter(ids).items() if count > 1)
        raise ValueError(f"id {twice!r} occurs twice among the candidates")


def _levels(stratum: Stratum) -> list[Stratum]:
    """Return what contains the stratum, largest first, and the stratum: (tier,), (tier, strategy)."""
    return [stratum[:depth] for depth in range(1, len(stratum) + 1)]


def _queues(candidates: Sequence[Candidate], settings: SelectSettings) -> dict[Stratum, list[Candidate]]:
    """Return the candidates of every stratum, smallest hash last."""
    depth = {"none": 0, "tier": 1, "tier_strategy": 2}[settings.stratify]
    queues: defaultdict[Stratum, list[Candidate]] = defaultdict(list)
    ordered = sorted(candidates, key=lambda candidate: _draw(settings.seed, candidate.id), reverse=True)
    for candidate in ordered:
        queues[(candidate.tier, candidate.strategy)[:depth]].append(candidate)
    return dict(queues)


def _largest_remainders(sizes: Mapping[Tier, int], total: int) -> dict[Tier, int]:
    """Divide `total` in proportion to `sizes`; ties between remainders go in the order of the tiers' names."""
    everything = sum(sizes.values())
    shares = {tier: total * size // everything for tier, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda tier: (-(total * sizes[tier] % everything), tier))
    for tier in by_remainder[: total - sum(shares.values())]:
        shares[tier] += 1
    return shares
