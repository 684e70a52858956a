"""Recall, precision and speed of near-duplicate removal on real text with synthetic edits, against brute force.

    python speed/dedup_recall.py gsm8k_train.jsonl --column question

Every text gets an edited copy (a share of its words replaced by words of the file), so that similarities cover the whole range;
unchanged copies are dropped. The ground truth is the exact Jaccard similarity of all pairs, computed from an inverted index over
tuples of words of the normal form, with no code of `tasks.problems.dedup` but this form. datasketch's MinHashLSH with default
settings is run for comparison.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from datasketch import MinHash, MinHashLSH
from scipy.sparse import csr_array

from tasks.problems.dedup import near_duplicates, normalise

Pair = tuple[int, int]


def read_texts(path: Path, column: str, limit: int | None) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)[column] for line in lines][:limit]


def edited(text: str, vocabulary: list[str], rng: random.Random) -> str:
    """Replace up to a quarter of the words, often very few of them."""
    words = text.split()
    for place in rng.sample(range(len(words)), round(len(words) * 0.25 * rng.random() ** 2)):
        words[place] = rng.choice(vocabulary)
    return " ".join(words)


def plant(texts: list[str], seed: int) -> list[str]:
    """Return the texts and one edited copy of each, shuffled, without exact duplicates, which need no MinHash."""
    rng = random.Random(seed)
    vocabulary = [word for text in texts for word in text.split()]
    everything = texts + [edited(text, vocabulary, rng) for text in texts]
    rng.shuffle(everything)
    return list({normalise(text): text for text in everything}.values())


def word_tuples(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}


def brute_force(texts: list[str], threshold: float, ngram: int) -> dict[Pair, float]:
    """Return the exact Jaccard similarity of every pair that reaches the threshold."""
    numbers: dict[tuple[str, ...], int] = {}
    rows = [[numbers.setdefault(key, len(numbers)) for key in word_tuples(text, ngram)] for text in texts]
    sizes = np.array([len(row) for row in rows])
    columns = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_array(
        (np.ones(len(columns), dtype=np.int32), columns, offsets), shape=(len(texts), len(numbers))
    )
    shared = (matrix @ matrix.T).tocoo()
    upper = shared.row < shared.col
    first, second, common = shared.row[upper], shared.col[upper], shared.data[upper]
    jaccard = common / (sizes[first] + sizes[second] - common)
    close = jaccard >= threshold
    return {
        (int(i), int(j)): float(value)
        for i, j, value in zip(first[close], second[close], jaccard[close], strict=True)
    }


def greedy(count: int, pairs: Iterable[Pair]) -> list[bool]:
    """Return whether each text is kept: in input order, unless a kept text is a near-duplicate."""
    neighbours: dict[int, list[int]] = {}
    for first, second in pairs:
        neighbours.setdefault(second, []).append(first)
    kept: list[bool] = []
    for index in range(count):
        kept.append(not any(kept[other] for other in neighbours.get(index, ())))
    return kept


def with_datasketch(texts: list[str], threshold: float, ngram: int) -> set[Pair]:
    """Return the unverified candidate pairs of MinHashLSH with default settings."""
    encoded = [[" ".join(key).encode() for key in word_tuples(text, ngram)] for text in texts]
    sketches = MinHash.bulk(encoded, num_perm=128)
    index = MinHashLSH(threshold=threshold, num_perm=128)
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    return {
        (min(number, other), max(number, other))
        for number, sketch in enumerate(sketches)
        for other in cast("list[int]", index.query(sketch))
        if other != number
    }


def table_row(name: str, found: set[Pair], truth: dict[Pair, float], seconds: float, threshold: float) -> str:
    def recall(low: float, high: float) -> str:
        pairs = [pair for pair, jaccard in truth.items() if low <= jaccard < high]
        return f"{sum(pair in found for pair in pairs) / len(pairs):.4f}" if pairs else "-"

    precision = f"{len(found & truth.keys()) / len(found):.4f}" if found else "-"
    near = recall(threshold, threshold + 0.05)
    return f"{name:<26}{recall(threshold, 2.0):>9}{near:>16}{precision:>12}{seconds:>10.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="JSON Lines")
    parser.add_argument("--column", default="question")
    parser.add_argument("--limit", type=int, help="maximum number of texts to read")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--ngram", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="seed of the edits")
    arguments = parser.parse_args()
    threshold, ngram = arguments.threshold, arguments.ngram
    texts = plant(read_texts(arguments.file, arguments.column, arguments.limit), arguments.seed)

    truth = brute_force(texts, threshold, ngram)
    start = time.perf_counter()
    result = near_duplicates(texts, threshold=threshold, ngram=ngram)
    ours_seconds = time.perf_counter() - start
    edges = {(i, j): jaccard for i, j, jaccard in result.edges.tolist()}
    start = time.perf_counter()
    theirs = with_datasketch(texts, threshold, ngram)
    theirs_seconds = time.perf_counter() - start

    band = f"[{threshold:g}, {threshold + 0.05:g})"
    print(f"{len(texts):,} texts, {len(truth):,} pairs with Jaccard >= {threshold:g} by brute force")
    print(f"{'':<26}{'recall':>9}{'in ' + band:>16}{'precision':>12}{'seconds':>10}")
    print(table_row("near_duplicates", set(edges), truth, ours_seconds, threshold))
    print(table_row("datasketch MinHashLSH", theirs, truth, theirs_seconds, threshold))
    error = max((abs(edges[pair] - truth[pair]) for pair in edges.keys() & truth.keys()), default=0.0)
    same = sum(a == b for a, b in zip(result.keep.tolist(), greedy(len(texts), truth), strict=True))
    print(
        f"largest error of a reported Jaccard similarity {error:.1g}; keep decision equal to brute force for {same:,} of"
        f" {len(texts):,} texts"
    )


if __name__ == "__main__":
    main()
