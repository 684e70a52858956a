"""Does the semantic entropy find the teacher's wrong majorities? For a dataset whose truths the pocket oracle knows.

    python benchmarks/entropy_auroc.py [output/pocket/dataset]

Prints AUROC of semantic_entropy (and of its rivals) for "the majority answer is wrong", with n and a 95% interval, and
mean weight and accuracy by tier. Truth: the row's own answer where it has one, else the pocket world's oracle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import load_dataset

from tasks.core.auroc import auroc
from tasks.seeds.truth import majority_is_right

TIERS = ("easy", "medium", "hard", "competition")


def wrong_majorities(rows: Sequence[dict]) -> list[tuple[dict, bool]]:
    """Every row whose truth is known, and whether its majority answer is wrong."""
    marked = [(row, majority_is_right(row["problem"], row["answer"], row["majority_answer"])) for row in rows]
    return [(row, not right) for row, right in marked if right is not None]


def main() -> None:
    """Print the figures of the dataset folder of the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "output/pocket/dataset")
    splits: Any = load_dataset(str(folder))
    rows = [row for split in splits.values() for row in split]
    known = wrong_majorities(rows)
    wrong = [mark for _, mark in known]
    print(f"{len(rows)} rows, truth known for {len(known)}, majority wrong in {sum(wrong)}")
    shares = [
        max(row["cluster_labels"].count(c) for c in set(row["cluster_labels"])) / row["num_samples"]
        for row, _ in known
    ]
    rivals = {
        "semantic_entropy": [row["semantic_entropy"] for row, _ in known],
        "discrete_entropy": [row["discrete_entropy"] for row, _ in known],
        "1 - majority share": [1 - share for share in shares],
    }
    for name, scores in rivals.items():
        result = auroc(scores, wrong)
        print(f"AUROC {name:20s} {result.value:.3f}  95% [{result.low:.3f}, {result.high:.3f}]  n={result.n}")
    print(f"{'tier':12s} {'n':>5s} {'mean weight':>12s} {'majority right':>15s}")
    for tier in TIERS:
        part = [(row, mark) for row, mark in known if row["tier"] == tier]
        if part:
            weight = sum(row["weight"] for row, _ in part) / len(part)
            print(
                f"{tier:12s} {len(part):5d} {weight:12.3f} {1 - sum(mark for _, mark in part) / len(part):15.3f}"
            )


if __name__ == "__main__":
    main()
