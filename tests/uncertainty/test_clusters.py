"""Clusters: equal spellings, verdicts of `same`, union-find, complete linkage, and the pairs that are left to a judge."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers.grouping import settle
from tasks.uncertainty.clusters import PairVerdict, cluster_answers, pairs_to_decide
from tasks.uncertainty.entropy import semantic_entropy


class Oracle:
    """A `same` with a fixed set of equal pairs that records its calls."""

    def __init__(self, *equal: tuple[str, str]) -> None:
        self.equal = {frozenset(pair) for pair in equal}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, a: str, b: str) -> bool:
        self.asked.append((a, b))
        return frozenset((a, b)) in self.equal


def test_equal_spellings_are_merged_without_a_call() -> None:
    same = Oracle()
    result = cluster_answers(["5", " 5. ", "$5$", r"\text{5}"], same)
    assert result.labels == (0, 0, 0, 0)
    assert result.judge_calls == 0
    assert same.asked == []
    assert result.representatives == ("5",)


def test_same_is_called_once_for_every_pair_of_different_answers_in_sorted_order() -> None:
    same = Oracle(("a", "c"))
    result = cluster_answers(["c", "b", "c", "a", "b"], same)
    assert sorted(same.asked) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert result.labels == (0, 1, 0, 0, 1)
    assert result.judge_calls == 3
    assert result.representatives == ("c", "b")
    assert PairVerdict(first="a", second="c", same=True) in result.verdicts


def test_labels_are_numbered_by_first_appearance() -> None:
    assert cluster_answers(["z", "y", "z", "x", "y"], Oracle()).labels == (0, 1, 0, 2, 1)


def test_a_chain_is_closed_transitively_and_the_contradicting_verdict_counted() -> None:
    result = cluster_answers(["a", "b", "c", "d"], Oracle(("a", "b"), ("b", "c")))
    assert result.labels == (0, 0, 0, 1)
    assert result.transitivity_violations == 1  # a and c were judged different
    assert (
        cluster_answers(["a", "b", "c"], Oracle(("a", "b"), ("b", "c"), ("a", "c"))).transitivity_violations
        == 0
    )


@pytest.mark.parametrize(
    ("unparsed", "labels", "representatives"),
    [
        ("own", (0, 1, 2, 3), (None, "5", None, None)),
        ("one", (0, 1, 0, 0), (None, "5")),
        ("drop", (-1, 0, -1, -1), ("5",)),
    ],
)
def test_unparsed_responses_follow_the_setting(
    unparsed: Literal["own", "one", "drop"], labels: tuple[int, ...], representatives: tuple[str | None, ...]
) -> None:
    result = cluster_answers([None, "5", None, None], Oracle(), unparsed=unparsed)
    assert result.labels == labels
    assert result.representatives == representatives


def test_eight_unparsed_responses_count_as_uncertain() -> None:
    labels = cluster_answers([None] * 8, Oracle()).labels
    assert semantic_entropy([-4.0] * 8, [8] * 8, labels).weight == pytest.approx(0.0, abs=1e-12)


def test_the_result_does_not_depend_on_the_order_of_the_answers() -> None:
    same = Oracle(("a", "b"), ("c", "d"), ("b", "e"))
    first = cluster_answers(["a", "b", "c", "d", "e"], same)
    second = cluster_answers(["e", "d", "c", "b", "a"], same)
    assert first.labels == (0, 0, 1, 1, 0)
    assert second.labels[::-1] == (0, 0, 1, 1, 0)
    assert first.transitivity_violations == second.transitivity_violations == 1


def undecided(answers: list[str | None]) -> list[tuple[str, str]]:
    decisions = settle([answer for answer in answers if answer is not None]).decisions
    return [pair for pair in pairs_to_decide(answers) if decisions[pair] is None]


def test_only_symbolically_undecided_pairs_reach_the_judge() -> None:
    assert undecided(["1/2", "0.5", "x+1", None, "3", " x + 1", "yes"]) == [
        ("1/2", "x+1"), ("1/2", "yes"), ("0.5", "x+1"), ("0.5", "yes"), ("3", "x+1"), ("x+1", "yes"), ("3", "yes"),
    ]  # fmt: skip


def test_every_pair_that_clustering_needs_is_decided_once_in_advance() -> None:
    answers = ["1/2", "0.5", "x+1", None, "3", " x + 1", "yes"]
    same = Oracle()
    cluster_answers(answers, same)
    assert pairs_to_decide(answers) == same.asked
    assert len(same.asked) == 10


def test_numbers_never_reach_the_judge() -> None:
    answers: list[str | None] = ["1", "2/3", r"\sqrt{2}", "10%", "(1, 2)", "(2, 1)", "x = 4"]
    assert all("(" in a or "(" in b for a, b in undecided(answers))
    assert undecided(["(1, 2)", "(2, 1)"]) == []


# --- complete linkage ----------------------------------------------------------------------------------------------


def test_complete_linkage_joins_only_answers_equal_to_all_members() -> None:
    chain = Oracle(("a", "b"), ("b", "c"), ("c", "d"))
    result = cluster_answers(["a", "b", "c", "d"], chain, linkage="complete")
    assert result.labels == (0, 0, 1, 1)
    assert result.transitivity_violations == 1  # b and c were judged the same
    assert cluster_answers(["a", "b", "c", "d"], chain).labels == (0, 0, 0, 0)


@settings(deadline=None)
@given(st.data())
def test_complete_linkage_refines_union_find_in_any_order_and_equals_it_for_transitive_verdicts(
    data: st.DataObject,
) -> None:
    names = list("abcdef")
    equal = data.draw(st.sets(st.sampled_from(list(combinations(names, 2)))))
    order = data.draw(st.permutations(names))
    loose, tight = (
        cluster_answers(names, Oracle(*equal), linkage=linkage) for linkage in ("union_find", "complete")
    )
    for (i, first), (j, second) in combinations(enumerate(names), 2):
        if tight.labels[i] == tight.labels[j]:
            assert (first, second) in equal and loose.labels[i] == loose.labels[j]
    if loose.transitivity_violations == 0:
        assert tight.labels == loose.labels and tight.transitivity_violations == 0
    other = cluster_answers(order, Oracle(*equal), linkage="complete")
    partition = {
        frozenset(n for n, c in zip(names, tight.labels, strict=True) if c == k) for k in tight.labels
    }
    assert partition == {
        frozenset(n for n, c in zip(order, other.labels, strict=True) if c == k) for k in other.labels
    }
