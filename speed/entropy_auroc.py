"""How well semantic entropy detects wrong majority answers of the teacher, on a dataset with known correct answers.

    python speed/entropy_auroc.py [output/pocket/dataset]

Prints the AUROC of semantic entropy and of alternative measures for "the majority answer is wrong", with n and a 95% interval,
and mean weight and accuracy by tier. The correct answer is the row's own answer if it has one, else that of the pocket world's
oracle. The flow sure-math-validate reports the same figures in more detail.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from tasks.rows import Response, Tier
from tasks.seeds.truth import check, pocket_sources
from tasks.storage.dataset import read_dataset
from tasks.storage.manifest import read_manifest
from tasks.uncertainty.validation import MEASURES, by_tier, detect


def main() -> None:
    """Print the figures of the dataset folder given on the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "output/pocket/dataset")
    examples, rows = read_dataset(folder)
    pocket = pocket_sources(read_manifest(folder).settings)
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in rows:
        responses[response.problem_id].append(response)
    checked = [found for row in examples if (found := check(row, responses[row.id], pocket)) is not None]
    if not checked:
        sys.exit(f"the correct answer is not known for any of {len(examples)} rows: choose another dataset")
    target = detect(checked, "majority")
    print(f"{len(examples)} rows, correct answer known for {target.total}, majority wrong for {target.wrong}")
    for one in target.detections:
        if one.auroc is not None:
            value, low, high, n = one.auroc
            print(f"AUROC {MEASURES[one.measure]:39s} {value:.3f}  95% [{low:.3f}, {high:.3f}]  n={n}")
    print(f"{'tier':12s} {'n':>5s} {'mean weight':>12s} {'majority correct':>17s}")
    for tier in by_tier(checked, [tier.value for tier in Tier]):
        right = tier.majority_right / tier.problems
        print(f"{tier.tier:12s} {tier.problems:5d} {tier.mean_weight:12.3f} {right:17.3f}")


if __name__ == "__main__":
    main()
