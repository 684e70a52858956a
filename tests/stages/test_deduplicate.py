"""Rejection of candidates that are near-duplicates of a source problem or of each other, shard by shard."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from tasks.config import DedupSettings
from tasks.problems.dedup import template_key
from tasks.rows import Edge, Problem, Reject, Role, Tier
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.deduplication import decide, dedup_work, edges_of
from tasks.runtime.driver import Shard
from tasks.runtime.shard_work import reject_near_duplicates
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import schema

WORDS = [f"{a}{b}" for a in "ba ke li mo nu pa re si".split() for b in "ra le mi no tu".split()]
LONG = "A farmer has 12 crates with 30 apples each and sells half of all the apples that he has on the market today"


def problem(name: str, text: str, role: Role = Role.EVOLVED) -> Problem:
    return Problem(
        id=name, text=text, tier=Tier.EASY, source="s", source_id=name, licence="l", role=role, root_id=name
    )


def artifact(store: Store, name: str, rows: Sequence[Problem], size: int) -> Artifact:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)] or [[]]
    for index, part in enumerate(parts):
        counts = {"in": len(part), "kept": len(part), "rejected": {}}
        store.write_shard(store.folder(name, name), index, {"problems": (Problem, part)}, {"counts": counts})
    return store.finish(name, name, len(parts), {})


def decided(
    folder: Path, fixed: Sequence[Problem], candidates: Sequence[Problem], size: int
) -> tuple[list[str], dict[str, Reject], list[Edge]]:
    """Return the kept ids, the rejects by id and the edges of all shards of `size` candidates."""
    store = Store(folder)
    sources, copies = artifact(store, "sources", fixed, size), artifact(store, "copies", candidates, size)
    sizes = shard_sizes(store, copies)
    decision = decide(store, sources, copies, DedupSettings(), map)
    kept: list[str] = []
    rejects: dict[str, Reject] = {}
    edges: list[Edge] = []
    for index in range(len(sizes)):
        tables = reject_near_duplicates(dedup_work(decision, store, copies, index, sizes))
        shard = Shard(incoming=sizes[index], tables=tables)
        counts = shard.counts("problems")
        assert counts["in"] == sizes[index] == counts["kept"] + sum(counts["rejected"].values())
        assert tables["problems"][1].schema.equals(schema(Problem))
        kept += tables["problems"][1]["id"].to_pylist()
        rejects |= {row.problem_id: row for row in tables["rejects"][1]}
        edges += [Edge(**row) for row in edges_of(decision, index, sizes).to_pylist()]
    return kept, rejects, edges


@pytest.mark.parametrize("size", [1, 2, 10])
def test_candidates_near_a_source_problem_are_rejected_and_the_smallest_id_of_the_others_is_kept(
    tmp_path: Path, size: int
) -> None:
    fixed = [
        problem("seed", LONG, Role.SEED),
        problem(
            "twin", LONG + " again", Role.SEED
        ),  # near the seed; a candidate near it is rejected all the same
    ]
    other = LONG.replace("farmer", "sailor").replace("apples", "ropes").replace("market", "ship")
    candidates = [
        problem("e9", other),
        problem("e2", LONG + " again and"),
        problem("e5", other.replace("12", "15")),
        problem("e7", other.upper()),
        problem("e1", "Something else that nobody has ever asked before in such words"),
    ]
    kept, rejects, edges = decided(tmp_path, fixed, candidates, size)
    assert kept == ["e5", "e1"]
    assert {name: reject.detail for name, reject in rejects.items()} == {
        "e9": "near evolved problem e5; they differ in numbers only",
        "e2": "near seed problem twin",
        "e7": "near evolved problem e5; they differ in numbers only",
    }
    pairs = {(edge.first_id, edge.second_id): edge for edge in edges}
    assert list(pairs) == [("seed", "e2"), ("twin", "e2"), ("e9", "e7"), ("e5", "e7")]
    assert pairs["twin", "e2"].jaccard > pairs["seed", "e2"].jaccard >= 0.7
    assert pairs["e5", "e7"].same_template and not pairs["twin", "e2"].same_template


def families(rng: random.Random) -> list[str]:
    texts: list[str] = []
    for _ in range(40):
        words = rng.choices(WORDS, k=rng.randint(8, 40))
        for _ in range(rng.randint(1, 5)):
            copy = words.copy()
            for place in rng.sample(range(len(copy)), rng.randint(0, 3)):
                copy[place] = rng.choice([*WORDS, str(rng.randrange(100))])
            texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


def jaccard(one: str, other: str) -> float:
    first, second = (
        {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        for words in (one.lower().split(), other.lower().split())
    )
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("seed", range(4))
def test_the_decision_equals_a_brute_force_comparison_of_all_pairs(tmp_path: Path, seed: int) -> None:
    texts = families(random.Random(seed))
    fixed = [problem(f"s{place}", text, Role.SEED) for place, text in enumerate(texts[:20])]
    candidates = [problem(f"c{place * 7919 % 1000:03}", text) for place, text in enumerate(texts[20:])]
    kept, rejects, edges = decided(tmp_path, fixed, candidates, 7)

    stay: list[Problem] = []
    for row in sorted(candidates, key=lambda row: row.id):
        close = [one for one in fixed if jaccard(one.text, row.text) >= 0.7]
        if close:
            best = max(jaccard(one.text, row.text) for one in close)
            nearest = [one for one in close if jaccard(one.text, row.text) == best][-1]
        else:
            nearest = next((one for one in stay if jaccard(one.text, row.text) >= 0.7), None)
        if nearest is None:
            stay.append(row)
            assert row.id not in rejects
        elif row.text != nearest.text and close:
            assert rejects[row.id].detail.startswith(f"near seed problem {nearest.id}")
    assert kept == [row.id for row in candidates if row in stay]
    assert rejects.keys() == {row.id for row in candidates} - set(kept)

    distinct = {
        row.text: row for row in reversed([*fixed, *sorted(candidates, key=lambda row: row.id)])
    }.values()
    by_id = {row.id: row for row in [*fixed, *candidates]}
    found = {frozenset((edge.first_id, edge.second_id)): edge for edge in edges}
    for one, other in combinations(distinct, 2):
        if Role.EVOLVED in (one.role, other.role) and jaccard(one.text, other.text) >= 0.7:
            assert found[frozenset((one.id, other.id))].jaccard == jaccard(one.text, other.text)
    for edge in edges:
        one, other = by_id[edge.first_id].text, by_id[edge.second_id].text
        assert jaccard(one, other) >= 0.7
        assert edge.same_template == (template_key(one) == template_key(other))


def test_a_candidate_rejected_for_a_source_problem_does_not_reject_another(tmp_path: Path) -> None:
    # windows of 46 words, shifted by 5: neighbours share 39/49 = 0.8 of their 3-grams, the next but one 0.63
    words = [f"{chr(97 + word // 26)}{chr(97 + word % 26)}" for word in range(61)]
    chain = [" ".join(words[5 * start : 5 * start + 46]) for start in range(4)]
    fixed = [problem(f"s{place}", chain[place], Role.SEED) for place in range(2)]
    candidates = [problem("c1", chain[2]), problem("c2", chain[3])]
    kept, rejects, _ = decided(tmp_path, fixed, candidates, 5)
    assert kept == ["c2"]  # near c1, which is rejected because of s1, which is itself near s0
    assert {name: reject.detail for name, reject in rejects.items()} == {"c1": "near seed problem s1"}


def test_without_candidates_or_sources_nothing_is_rejected(tmp_path: Path) -> None:
    assert decided(tmp_path / "none", [problem("s", LONG, Role.SEED)], [], 5) == ([], {}, [])
    kept, rejects, edges = decided(tmp_path / "alone", [], [problem("c", LONG)], 5)
    assert (kept, rejects, edges) == (["c"], {}, [])
