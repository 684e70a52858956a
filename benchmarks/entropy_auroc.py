"""Does the semantic entropy find the teacher's wrong majorities? For a dataset whose truths the pocket oracle knows.

    python benchmarks/entropy_auroc.py [output/pocket/dataset]

Prints AUROC of the semantic entropy and of its rivals for "the majority answer is wrong", with n and a 95% interval, and
mean weight and accuracy by tier. Truth: the row's own answer where it has one, else the pocket world's oracle. The flow
sure-math-validate says more of the same numbers.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from tasks.core.rows import Response, Tier
from tasks.core.validation import MEASURES, by_tier, detect
from tasks.io.dataset import read_dataset
from tasks.seeds.truth import check


def main() -> None:
    """Print the figures of the dataset folder of the command line."""
    examples, rows = read_dataset(Path(sys.argv[1] if len(sys.argv) > 1 else "output/pocket/dataset"))
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in rows:
        responses[response.problem_id].append(response)
    checked = [found for row in examples if (found := check(row, responses[row.id])) is not None]
    if not checked:
        sys.exit(f"{len(examples)} rows, and of none of them the right answer is known: nothing to measure")
    target = detect(checked, "majority")
    print(f"{len(examples)} rows, truth known for {target.total}, majority wrong in {target.wrong}")
    for one in target.detections:
        if one.auroc is not None:
            value, low, high, n = one.auroc
            print(f"AUROC {MEASURES[one.measure]:39s} {value:.3f}  95% [{low:.3f}, {high:.3f}]  n={n}")
    print(f"{'tier':12s} {'n':>5s} {'mean weight':>12s} {'majority right':>15s}")
    for tier in by_tier(checked, [tier.value for tier in Tier]):
        right = tier.majority_right / tier.problems
        print(f"{tier.tier:12s} {tier.problems:5d} {tier.mean_weight:12.3f} {right:15.3f}")


if __name__ == "__main__":
    main()
