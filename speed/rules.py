"""How many problems of a benchmark each rule rejects, and the rejected texts, to be read.

    python speed/rules.py math_test.jsonl:problem gsm8k.jsonl:question --show several_questions

All rules are on, and each is applied to every text, so that a text may count for several rules. Problems of a benchmark have one
checkable answer: a rejected one is an error of the rules unless the paper's rules ask for it or its figure is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from tasks.config import RuleSettings
from tasks.problems.rules import RULES, RuleFailure
from tasks.text import visible

SETTINGS = RuleSettings.model_validate(dict.fromkeys(RULES, True))


def failures(text: str) -> dict[str, RuleFailure]:
    """Return what each rule finds in a text, by the name of the rule."""
    found = {name: rule(text, SETTINGS) for name, rule in RULES.items()}
    return {name: failure for name, failure in found.items() if failure is not None}


def measure(file: str, shown: str | None) -> None:
    """Print the counts of one `FILE:COLUMN`, and the texts that the rule `shown` rejects."""
    path, _, column = file.rpartition(":")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)[column] for line in lines]
    started = time.process_time()
    found = [failures(text) for text in texts]
    seconds = time.process_time() - started
    counts = Counter(name for one in found for name in one)
    print(
        f"{Path(path).name}: {sum(map(bool, found))} of {len(texts):,} rejected {dict(counts)}, {seconds:.1f} s of CPU"
    )
    for number, (text, one) in enumerate(zip(texts, found, strict=True)):
        if shown in one:
            print(f"\n--- {number}: {one[shown].detail}\n{visible(text)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE:COLUMN")
    parser.add_argument("--show", choices=RULES, help="print the texts that this rule rejects")
    arguments = parser.parse_args()
    for file in arguments.files:
        measure(file, arguments.show)


if __name__ == "__main__":
    main()
