r"""Speed of clustering and semantic entropy without a judge, and the share of answer pairs that need one.

    python speed/clustering.py output/pocket/dataset
    python speed/clustering.py --answers olympiadbench.jsonl:final_answer --problems 2000

The first form uses the responses of an exported dataset. The second generates eight answers per problem from the gold answers of
a file (JSON Lines, with the name of the column): the gold answer in several notations, and wrong answers. Every problem is
processed by the stage's own functions, with empty caches, `--workers` problems at a time. On a busy machine compare CPU seconds;
they include the Math-Verify processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.dataset

from tasks.answers import extract_answer, mathverify
from tasks.answers.notation import normalise
from tasks.config import ClusterSettings
from tasks.rows import Problem, Response, Role, Tier, Uncertainty
from tasks.runtime.clustering import annotate, decide_pairs, deciding, undecided

SAMPLES = 8
JUDGE = ("nobody", "nothing")


def response(problem_id: str, index: int, answer: str | None, **known: Any) -> Response:
    """Return a response with the given answer. Fields that are not given get placeholders, which do not affect clustering."""
    values = {
        "text": f"So it is {answer}.", "token_count": 20 + index, "logprob_sum": -1.0 - index / 4, "finish_reason": "stop",
        "model": "m", "prompt": "p", "sampling": "{}", "seed": index,
    }  # fmt: skip
    return Response(problem_id=problem_id, index=index, answer=answer, **(values | known))


def of_dataset(folder: Path) -> dict[str, list[Response]]:
    """Return the responses of an exported dataset by problem id."""
    names = ["problem_id", "index", "answer", "text", "token_count", "logprob_sum", "finish_reason"]
    table = pyarrow.dataset.dataset(folder / "responses", format="parquet").to_table(columns=names)
    groups: dict[str, list[Response]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["problem_id"], []).append(response(**row))
    return groups


def notations(gold: str) -> list[str]:
    """Return the answer in different notations; the first is the original."""
    bare = gold.strip().strip("$")
    return [
        gold,
        f"${bare}$",
        bare.replace("\\frac", "\\dfrac"),
        bare.replace("(", "\\left(").replace(")", "\\right)").replace("\\left\\left", "\\left"),
        re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", bare),
        bare.replace(",", ", ").replace("+", " + ").replace("=", " = "),
        f"{{{bare}}}",
        f"\\text{{ }}{bare}.",
    ]


def wrong(gold: str, others: Sequence[str], draw: random.Random) -> str:
    """Return a wrong answer: the gold answer with its first number changed, or the answer of another problem."""
    number = re.search(r"\d+", gold)
    if number is None or draw.random() < 0.25:
        return draw.choice(others)
    return f"{gold[: number.start()]}{int(number[0]) + draw.randint(1, 9)}{gold[number.end() :]}"


def of_answers(golds: Sequence[str], problems: int, draw: random.Random) -> dict[str, list[Response]]:
    """Return problems with eight answers each. The number of correct ones is random; notations vary."""
    groups = {}
    for number in range(problems):
        gold = golds[number % len(golds)]
        right = draw.randint(0, SAMPLES)
        answers = [draw.choice(notations(gold)) for _ in range(right)]
        answers += [draw.choice(notations(wrong(gold, golds, draw))) for _ in range(SAMPLES - right)]
        draw.shuffle(answers)
        name = f"{number}"
        groups[name] = [response(name, index, answer) for index, answer in enumerate(answers)]
    return groups


def read_golds(place: str) -> list[str]:
    """Return the gold answers of FILE:COLUMN (JSON Lines): the last box of a longer text, or what follows `####`."""
    path, _, column = place.rpartition(":")
    golds = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        value = json.loads(line)[column]
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        golds.append((extract_answer(text) or text).rpartition("#### ")[2])
    return golds


def problem(problem_id: str) -> Problem:
    return Problem(
        id=problem_id, text="?", tier=Tier.EASY, source="s", source_id=problem_id, licence="l", role=Role.EVOLVED, root_id="r",
    )  # fmt: skip


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def speed(groups: dict[str, list[Response]], workers: int) -> str:
    """Cluster every problem without a judge and return a line with the rates."""
    settings = ClusterSettings(judge="never")
    began, wall = cpu_seconds(), time.perf_counter()
    with deciding(groups, settings, workers) as found:
        rows = [
            annotate(problem(name), groups[name], decisions, {}, settings, JUDGE) for name, decisions in found
        ]
    wall = time.perf_counter() - wall
    mathverify.stop()
    cpu = cpu_seconds() - began
    made = [row for row in rows if isinstance(row, Uncertainty)]
    clusters = sum(max(row.labels) + 1 for row in made) / max(1, len(made))
    return (
        f"{len(rows):,} problems, {clusters:.2f} clusters each: {wall:.2f} s, {60 * len(rows) / wall:,.0f} per minute; "
        f"{cpu:.2f} CPU seconds, {60 * len(rows) / cpu:,.0f} per CPU minute"
    )


def economy(groups: dict[str, list[Response]]) -> str:
    """Return a line with the share of response pairs that only a judge can decide, at the default settings."""
    settings = ClusterSettings()
    pairs = to_judge = asked = 0
    for group in groups.values():
        first: dict[str, str] = {}
        for row in group:
            if row.answer is not None:
                first.setdefault(normalise(row.answer), row.answer)
        open_pairs = set(undecided(decide_pairs(group, settings)))
        asked += len(open_pairs)
        for one, two in combinations(group, 2):
            pairs += 1
            if one.answer is not None and two.answer is not None:
                key = sorted((first[normalise(one.answer)], first[normalise(two.answer)]))
                to_judge += (key[0], key[1]) in open_pairs
    return (
        f"{pairs:,} pairs of responses, {to_judge:,} ({to_judge / max(1, pairs):.2%}) left to the judge, "
        f"with {asked:,} distinct pairs of answers ({asked / max(1, pairs):.2%})"
    )


def main() -> None:
    """Print the speed and the judge's share for the dataset or files given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--answers", action="append", default=[], metavar="FILE:COLUMN")
    parser.add_argument("--problems", type=int, default=2000, help="problems made from the files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.dataset is not None:
        groups = of_dataset(arguments.dataset)
        print(f"{arguments.dataset.name}\n  {speed(groups, arguments.workers)}\n  {economy(groups)}")
    if arguments.answers:
        golds = [gold for place in arguments.answers for gold in read_golds(place)]
        groups = of_answers(golds, arguments.problems, random.Random(arguments.seed))
        print(f"{len(golds):,} gold answers\n  {speed(groups, arguments.workers)}\n  {economy(groups)}")


if __name__ == "__main__":
    main()
