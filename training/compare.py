"""`python -m training.compare A B [--page FILE]`: compare two evaluated models, paired by problem.

A and B are folders that `training.evaluate` wrote: of a model, or of one result. Exit codes as those of `training.evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.reports.evaluation_report import render_comparison
from tasks.storage.disk import atomic_write
from tasks.text import visible
from training.config import project_path
from training.evaluation.comparison import compare_results, table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description="Compare two evaluated models."
    )
    parser.add_argument("first", metavar="A", help="folder of a model or result")
    parser.add_argument("second", metavar="B", help="folder of the other one")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="page with table and figure (default: comparison.html beside B)",
    )
    arguments = parser.parse_args(argv)
    first, second = project_path(arguments.first), project_path(arguments.second)
    try:
        pairs, skipped = compare_results(first, second)
        page = arguments.page or second.parent / f"comparison-{first.name}-{second.name}.html"
        atomic_write(
            page, render_comparison(first.name, second.name, [pair.as_dict() for pair in pairs], skipped)
        )
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    print(visible(table(pairs)))
    for one in skipped:
        print(f"not compared: {visible(one)}")
    print(f"page: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
