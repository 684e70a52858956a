"""Count the n-grams of reference problems, for `tasks.problems.reference`. The table holds hashes and counts, no text.

    python scripts/reference_ngrams.py gsm8k_train.jsonl:question math_train.jsonl:problem

Files are JSON Lines, or one JSON array, given as path:column. They must not contain benchmark problems. After a change of the
table, raise the version of stage decontaminate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tasks.problems.reference import Reference


def read_texts(where: str) -> list[str]:
    """Return the texts of one file, `PATH:COLUMN`."""
    path, column = where.rsplit(":", 1)
    content = Path(path).read_text(encoding="utf-8")
    rows = json.loads(content) if content.startswith("[") else map(json.loads, content.splitlines())
    return [row[column] for row in rows]


def main() -> None:
    """Write the table for the files given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="PATH:COLUMN")
    parser.add_argument("--at-least", type=int, default=3, help="texts that must contain an n-gram")
    arguments = parser.parse_args()
    found = Reference.of(
        [text for where in arguments.files for text in read_texts(where)], at_least=arguments.at_least
    )
    found.save()
    print(f"{found.texts:,} texts, n-grams: {', '.join(f'{len(one):,}' for one in found.hashes)}")


if __name__ == "__main__":
    main()
