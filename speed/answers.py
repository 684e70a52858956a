r"""Speed of grading and clustering, and the verdicts on pairs of answers beside Math-Verify's.

    python speed/answers.py --golds olympiadbench.jsonl:final_answer --golds minerva_math.jsonl:solution
    python speed/answers.py --pairs pairs.jsonl

The first form grades each gold answer of a file (JSON Lines, with the name of the column; the last box of a longer text)
against the next one and against itself, with empty caches, and clusters `--problems` sets of eight answers that
`speed/clustering.py` makes from them. The second takes lines with `op` ("equivalent" or "grade"), `a` and
`b` or `response` and `b`, and `expected`, and prints how many are right and which are wrong. CPU seconds include those of the
Math-Verify processes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clustering import cpu_seconds, of_answers, read_golds, speed

from tasks.answers import equivalence, equivalent, grade, mathverify
from tasks.answers.equivalence import verdict
from tasks.answers.notation import normalise
from tasks.answers.readings import read

SIGNS = "+-*/^_{}()[],.=0123456789xyna"


def gradings(golds: list[str]) -> str:
    """Grade each gold answer against the next one and itself, and return a line with the rate."""
    slowest, wrong = (0.0, ""), 0
    began = cpu_seconds()
    for gold, other in zip(golds, golds[1:] + golds[:1], strict=True):
        start = cpu_seconds()
        grade(f"So the answer is $\\boxed{{{other}}}$.", gold)
        wrong += not grade(f"So the answer is $\\boxed{{{gold}}}$.", gold)
        slowest = max(slowest, (cpu_seconds() - start, gold))
    mathverify.stop()
    spent = cpu_seconds() - began
    return (
        f"{2 * len(golds):,} gradings in {spent:.2f} CPU s, {2 * len(golds) / spent:,.0f} per CPU second; slowest two "
        f"{slowest[0]:.3f} s ({slowest[1][:60]!r}); {wrong} golds not equal to themselves"
    )


def in_threads(golds: list[str]) -> str:
    """Compare the verdicts alone and among 16 threads, each with empty caches."""
    pairs = list(zip(golds, golds[1:] + golds[:1], strict=True))
    found = []
    for workers in (1, 16):
        clear_caches()
        with ThreadPoolExecutor(workers) as pool:
            found.append(list(pool.map(lambda pair: verdict(*pair), pairs)))
    different = sum(a != b for a, b in zip(*found, strict=True))
    return f"{len(pairs):,} pairs alone and among 16 threads: {different} different verdicts"


def clear_caches() -> None:
    """Empty the caches of readings and verdicts."""
    read.cache_clear()
    equivalence._verdict.cache_clear()


def corruptions(golds: list[str], count: int, draw: random.Random) -> list[tuple[str, str, str]]:
    """Change one character in each of `count` gold answers, and return those that are still equal, with the rule."""
    equal = []
    for _ in range(count):
        gold = draw.choice(golds)
        text = normalise(gold)
        place = draw.randrange(max(1, len(text)))
        other = text[:place] + draw.choice(SIGNS) + text[place + draw.randrange(2) :]
        if normalise(other) != text and equivalent(other, gold):
            equal.append((text, other, verdict(other, gold).rule))
    return equal


def of_math_verify(case: dict[str, Any]) -> bool | None:
    """Return Math-Verify's verdict as its evaluation uses it: the gold answer first; None if it raises."""
    from math_verify import parse, verify

    try:
        gold, answer = str(case["b"]), case.get("response") or f"${case['a']}$"
        return verify(parse(f"${gold}$"), parse(answer))
    except Exception:  # its parser and sympy raise on unusual input
        return None


def table(path: Path) -> str:
    """Return the counts of right and wrong verdicts of both on the pairs of a file, and the wrong ones of ours."""
    counts: Counter[tuple[str, str, str]] = Counter()
    wrong = []
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if case["op"] not in ("equivalent", "grade") or case.get("origin") == "policy":
            continue
        kind = "must be equal" if case["expected"] else "must differ"
        ours = (
            equivalent(case["a"], case["b"])
            if case["op"] == "equivalent"
            else grade(case["response"], case["b"])
        )
        for name, found in (("ours", ours), ("Math-Verify", of_math_verify(case) is True)):
            counts[kind, name, "right" if found == case["expected"] else "wrong"] += 1
        if ours != case["expected"]:
            wrong.append(f"  {kind}: {case.get('a') or case.get('response')!r} ~ {case['b']!r}")
    lines = ["| pairs | grader | right | wrong |", "|---|---|---|---|"]
    for kind in ("must be equal", "must differ"):
        for name in ("ours", "Math-Verify"):
            right, bad = counts[kind, name, "right"], counts[kind, name, "wrong"]
            lines.append(f"| {kind} | {name} | {right} | {bad} |")
    return "\n".join([*lines, *wrong])


def main() -> None:
    """Print what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--golds", action="append", default=[], metavar="FILE:COLUMN")
    parser.add_argument("--pairs", action="append", default=[], type=Path, metavar="FILE")
    parser.add_argument(
        "--corruptions", type=int, default=0, help="gold answers of which one character is changed"
    )
    parser.add_argument("--problems", type=int, default=2000, help="problems that are clustered")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for place in arguments.golds:
        golds = read_golds(place)
        print(f"{place}\n  {gradings(golds)}\n  {in_threads(golds)}")
        clear_caches()
        groups = of_answers(golds, arguments.problems, random.Random(arguments.seed))
        print(f"  clusters: {speed(groups, workers=1)}")
    if arguments.corruptions:
        golds = [gold for place in arguments.golds for gold in read_golds(place)]
        equal = corruptions(golds, arguments.corruptions, random.Random(arguments.seed))
        print(f"{arguments.corruptions:,} golds with one character changed: {len(equal)} equal")
        print(*(f"  {gold!r} ~ {other!r}: {rule}" for gold, other, rule in equal), sep="\n")
    for path in arguments.pairs:
        print(f"{path}\n{table(path)}")


if __name__ == "__main__":
    main()
