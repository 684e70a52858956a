"""Near-duplicates: hand-computed similarities, brute force over word tuples, and independence of the input order."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import pytest

from tasks.problems import dedup
from tasks.problems.dedup import (
    Banding,
    agreements,
    band_keys,
    banding_for,
    candidate_pairs,
    candidate_pairs_between,
    decide,
    joined,
    near_duplicates,
    shingle_matrix,
    sketch,
    template_key,
)

VOCABULARY = [
    f"{a}{b}" for a in "ba ke li mo nu pa re si to vu wa xe yo zi".split() for b in "ra le mi no tu".split()
]


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(VOCABULARY, k=words))


def edited(text: str, rng: random.Random, edits: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), min(edits, len(words))):
        words[place] = rng.choice(VOCABULARY)
    return " ".join(words)


def families(seed: int, count: int = 60) -> list[str]:
    """Return texts of 1 to 80 words, each with up to four edited copies, some of them equal."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = sentence(rng, rng.randint(1, 80))
        texts += [text, *(edited(text, rng, rng.randint(0, 3)) for _ in range(rng.randint(0, 4)))]
    rng.shuffle(texts)
    return texts


def shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    if len(words) < ngram:
        return {tuple(words)}
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def jaccard(a: str, b: str, ngram: int) -> float:
    first, second = shingles(a, ngram), shingles(b, ngram)
    return len(first & second) / len(first | second)


def brute_force_keep(texts: list[str], order: list[int], threshold: float, ngram: int) -> set[int]:
    kept: list[int] = []
    for index in order:
        if all(jaccard(texts[index], texts[other], ngram) < threshold for other in kept):
            kept.append(index)
    return set(kept)


def test_the_jaccard_of_an_edge_agrees_with_a_hand_computation() -> None:
    # 3-grams: abc bcd cde def efg | abc bcd cde def efx: 4 shared of 6
    result = near_duplicates(["a b c d e f g", "a b c d e f x"], threshold=0.6)
    assert result.edges.tolist() == [(0, 1, 4 / 6)]
    assert result.keep.tolist() == [True, False]
    assert result.cluster_id.tolist() == [0, 0]


def test_a_pair_exactly_at_the_threshold_is_a_duplicate_and_one_just_below_is_not() -> None:
    words = VOCABULARY[:20]
    shared_14_of_20 = [" ".join(words[:17]), " ".join(words[3:20])]  # single words: 14 shared, 20 together
    assert near_duplicates(shared_14_of_20, threshold=0.7, ngram=1).edges.tolist() == [(0, 1, 0.7)]
    assert near_duplicates(shared_14_of_20, threshold=0.7001, ngram=1).keep.all()


def test_repeated_shingles_count_once() -> None:
    text, repeated = "a b c d", "a b c d a b c d"  # {abc bcd} and {abc bcd cda dab}
    assert near_duplicates([text, repeated], threshold=0.5).edges.tolist() == [(0, 1, 0.5)]


def test_a_text_shorter_than_the_ngram_is_one_shingle_of_all_its_words() -> None:
    result = near_duplicates(["a b", "a c", "A  b", "a b c", "", " "])
    assert result.cluster_id.tolist() == [0, 1, 0, 3, 4, 4]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many apples are left?", "how many\n APPLES are  left?"),
        ("Ann has $18$ hens and $2$ eggs.", "Ann has 18 hens and 2 eggs."),
        (r"For any integer \( n \), find \( 8! \).", "For any integer $n$, find $8!$."),
        ("Sam grew 3 carrots. How many in total ?", "Sam grew 3 carrots . How many in total?"),
        (r"Find $\dfrac{1}{2} \leq x$ if $A B = C D$", r"Find \[ \frac12 \le x \] if $AB = CD$"),
    ],
)
def test_texts_that_differ_in_layout_only_are_equal(one: str, other: str) -> None:
    result = near_duplicates([one, other])
    assert result.edges.tolist() == [(0, 1, 1.0)] and result.keep.tolist() == [True, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve $x + 3 = 5$", "Solve $x - 3 = 5$"),
        ("Solve $2(x + 3) = 10$", "Solve $2x + 3 = 10$"),
        ("Simplify $2^{n+1}$", "Simplify $2^n+1$"),
        (r"Write $0.\overline{7}$ as a fraction", "Write $0.7$ as a fraction"),
        ("How many squares? [asy]draw(A);[/asy]", "How many squares? [asy]draw(B--C);[/asy]"),
    ],
)
def test_short_problems_that_differ_in_more_than_layout_are_not_equal(one: str, other: str) -> None:
    assert near_duplicates([one, other], threshold=1.0).keep.all()


@pytest.mark.parametrize("ngram", [1, 2, 3, 4])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_edges_and_kept_texts_agree_with_brute_force(threshold: float, ngram: int) -> None:
    texts = families(seed=ngram)
    result = near_duplicates(texts, threshold=threshold, ngram=ngram)
    normal = [" ".join(text.lower().split()) for text in texts]
    distinct = [i for i in range(len(texts)) if normal.index(normal[i]) == i]
    expected = {
        (i, j): value
        for i, j in combinations(distinct, 2)
        if (value := jaccard(texts[i], texts[j], ngram)) >= threshold
    }
    copies = {(normal.index(normal[j]), j): 1.0 for j in range(len(texts)) if j not in set(distinct)}
    assert len(expected) > 5 and copies
    assert {(i, j): value for i, j, value in result.edges.tolist()} == expected | copies
    assert result.edges.tolist() == sorted(result.edges.tolist())
    kept = set(np.flatnonzero(result.keep).tolist())
    assert kept == brute_force_keep(texts, list(range(len(texts))), threshold, ngram)


def test_a_removed_text_refers_to_an_earlier_kept_text_within_the_threshold() -> None:
    texts = families(seed=11)
    result = near_duplicates(texts)
    removed = np.flatnonzero(~result.keep).tolist()
    assert removed
    for index in removed:
        keeper = int(result.cluster_id[index])
        assert result.keep[keeper] and keeper < index and jaccard(texts[keeper], texts[index], 3) >= 0.7
    assert (result.cluster_id[result.keep] == np.flatnonzero(result.keep)).all()


def test_with_priorities_the_kept_texts_do_not_depend_on_the_order_of_the_input() -> None:
    rows = [((index % 3, f"id{index}"), text) for index, text in enumerate(families(seed=5))]
    outcomes = set()
    for shuffle in range(5):
        random.Random(shuffle).shuffle(rows)
        priority, texts = [row[0] for row in rows], [row[1] for row in rows]
        result = near_duplicates(texts, priority=priority)
        pairs = [(priority[i], priority[int(c)]) for i, c in enumerate(result.cluster_id)]
        outcomes.add(tuple(sorted(pairs)))
        order = sorted(range(len(texts)), key=priority.__getitem__)
        assert set(np.flatnonzero(result.keep).tolist()) == brute_force_keep(texts, order, 0.7, 3)
    assert len(outcomes) == 1


def test_the_smallest_priority_is_kept_even_among_equal_texts() -> None:
    result = near_duplicates(["same text here", "same text here", "Same text here"], priority=[2, 1, 3])
    assert result.keep.tolist() == [False, True, False]
    assert result.edges.tolist() == [(0, 1, 1.0), (1, 2, 1.0)]


@pytest.mark.parametrize(("order", "kept"), [((0, 1, 2, 3, 4, 5), {0, 2, 4}), ((1, 4, 0, 2, 3, 5), {1, 4})])
def test_a_chain_of_evolutions_is_not_merged_into_its_seed(order: tuple[int, ...], kept: set[int]) -> None:
    # windows of 44 words, each 6 words further: 38/50 = 0.76 to the next, 32/56 = 0.57 to the one after
    words = [f"{a}{b}" for a in VOCABULARY for b in ("", "ka")]
    chain = [" ".join(words[6 * k : 6 * k + 44]) for k in range(6)]
    result = near_duplicates(chain, ngram=1, priority=[order.index(k) for k in range(6)])
    assert result.edges.tolist() == [(k, k + 1, 0.76) for k in range(5)]  # one connected component
    assert set(np.flatnonzero(result.keep).tolist()) == kept


def test_many_equal_texts_take_linear_space() -> None:
    result = near_duplicates(["The same problem again and again."] * 20_000)
    assert result.keep.sum() == 1 and len(result.edges) == 19_999 and not result.cluster_id.any()


def test_the_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = families(seed=3)
    whole = near_duplicates(texts, threshold=0.5)
    for name, value in (("_TEXTS_AT_ONCE", 7), ("_PAIRS_AT_ONCE", 3), ("_SHINGLES_AT_ONCE", 50)):
        monkeypatch.setattr(dedup, name, value)
    cut = near_duplicates(texts, threshold=0.5)
    assert cut.edges.tolist() == whole.edges.tolist() and cut.cluster_id.tolist() == whole.cluster_id.tolist()


@pytest.mark.parametrize("limit", [0, 3, 200])
def test_with_too_many_edges_the_kept_texts_and_their_edges_are_the_same(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    rng = random.Random(limit)
    templated = [
        f"{' '.join(VOCABULARY[:30])} {rng.randrange(50)} {' '.join(VOCABULARY[5:20])}" for _ in range(60)
    ]
    texts = [*families(seed=8), *templated]
    rng.shuffle(texts)
    sketched = sketch(texts, threshold=0.7, ngram=3, seed=1)
    for fixed in (0, 9):
        order = np.concatenate(
            [np.arange(fixed), fixed + np.random.default_rng(1).permutation(len(texts) - fixed)]
        )
        whole = decide(sketched, order, threshold=0.7, fixed=fixed)
        with monkeypatch.context() as patch:
            patch.setattr(dedup, "_AGREEMENTS", limit)
            patch.setattr(dedup, "_AGREEMENTS_OF_A_TEXT", 0)
            cut = decide(sketched, order, threshold=0.7, fixed=fixed)
        assert whole.whole and not cut.whole and cut.agreements == whole.agreements
        assert cut.compared < whole.compared < whole.agreements
        assert (
            cut.cluster_id.tolist() == whole.cluster_id.tolist() and cut.keep.tolist() == whole.keep.tolist()
        )
        assert cut.keep[:fixed].all()
        rank = {text: place for place, text in enumerate(order.tolist())}
        normal = [" ".join(text.lower().split()) for text in texts]
        expected = [
            edge for edge in whole.edges.tolist()
            if cut.keep[min(edge[:2], key=rank.__getitem__)] or normal[edge[0]] == normal[edge[1]]
        ]  # fmt: skip
        assert cut.edges.tolist() == expected and len(expected) < len(whole.edges)


def test_joined_sketches_of_parts_equal_the_sketch_of_the_whole() -> None:
    texts = families(seed=2)
    whole = sketch(texts, threshold=0.7, ngram=3, seed=1)
    cuts = (0, 1, 1, 40, len(texts))
    parts = [sketch(texts[low:high], threshold=0.7, ngram=3, seed=1) for low, high in pairwise(cuts)]
    together = joined(parts)
    assert parts == []
    for name in ("digests", "shingles", "counts", "keys"):
        assert getattr(together, name).tolist() == getattr(whole, name).tolist()


def test_every_candidate_pair_between_two_sets_is_yielded_once() -> None:
    left, right = (
        np.random.default_rng(seed).integers(0, 12, size=(size, 5), dtype=np.uint32)
        for seed, size in ((0, 40), (1, 30))
    )
    pairs = [
        pair
        for first, second in candidate_pairs_between(left, right)
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert sorted(pairs) == [(i, j) for i in range(40) for j in range(30) if (left[i] == right[j]).any()]


def test_agreements_count_a_pair_once_per_common_key() -> None:
    keys = np.random.default_rng(2).integers(0, 7, size=(30, 4), dtype=np.uint32)
    assert agreements(keys) == sum(int((keys[i] == keys[j]).sum()) for i, j in combinations(range(30), 2))


def test_every_candidate_pair_is_yielded_once() -> None:
    keys = np.random.default_rng(0).integers(0, 12, size=(60, 5), dtype=np.uint32)
    pairs = [
        pair
        for first, second in candidate_pairs(keys)
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    expected = [(i, j) for i, j in combinations(range(60), 2) if (keys[i] == keys[j]).any()]
    assert sorted(pairs) == expected


def test_banding_finds_a_pair_at_any_threshold() -> None:
    assert Banding(bands=32, rows=4).recall(0.7) == pytest.approx(1 - (1 - 0.7**4) ** 32)
    assert banding_for(0.7) == Banding(bands=40, rows=4)
    assert min(banding_for(threshold / 100).recall(threshold / 100) for threshold in range(2, 101)) >= 0.9999


def test_band_keys_agree_as_often_as_expected() -> None:
    # 500 pairs that share 60 of 100 words: a key of 2 rows agrees with probability 0.36, standard error 0.004
    rng = random.Random(0)
    pairs = []
    for number in range(500):
        words = [f"{number}-{place}" for place in range(100)]
        rng.shuffle(words)
        pairs += [" ".join(words[:80]), " ".join(words[20:])]
    keys = band_keys(shingle_matrix(pairs, 1), Banding(bands=32, rows=2), seed=1)
    assert (keys[::2] == keys[1::2]).mean() == pytest.approx(0.36, abs=0.015)


def test_no_texts_and_one_text_are_accepted() -> None:
    assert near_duplicates([]).keep.tolist() == []
    assert near_duplicates(["alone"]).keep.tolist() == [True]


def test_texts_with_lone_surrogates_and_other_scripts_are_accepted() -> None:
    result = near_duplicates(["\ud800 x y z", "求 x 的 值", "求 x 的 值"])
    assert result.keep.tolist() == [True, True, False]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], threshold=0.0)
    with pytest.raises(ValueError, match="ngram"):
        near_duplicates(["a"], ngram=0)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="Seed must be between 0 and"):
            near_duplicates(["a"], seed=seed)
    with pytest.raises(ValueError, match="2 priorities for 1 texts"):
        near_duplicates(["a"], priority=[1, 2])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Tom has 12 apples and  3.5 pears.", "tom has # apples and # pears"),
        ("It costs $1,250,000 or 0.99.", "it costs # or #"),
        ("Let $n = 1{,}000$ and \\frac{1}{2}", "let n = # and # / #"),
        ("The point (13,4) and x^2", "the point ( # # ) and x ^ #"),
    ],
)
def test_the_template_key_masks_every_number(text: str, key: str) -> None:
    assert template_key(text) == key


def test_renumbered_problems_share_their_template_key_and_others_do_not() -> None:
    assert template_key("Ann buys 3 pens at $2.") == template_key("ann buys 41 pens\nat $1,999.50.")
    assert template_key("Ann buys 3 pens.") != template_key("Ann buys 3 cups.")
