r"""Hit rate, false alarms and speed of the overlap checks against benchmarks, on real problems with defined mutations.

    python speed/decontam.py --benchmark aime24=aime24.jsonl:problem --benchmark amc23=amc23.jsonl:problem \
        --rows gsm8k_train.jsonl:question

Files are JSON Lines, given as path:column. Hits: every benchmark problem is mutated (see `MUTATIONS`, which share no code with
the checks) and should be matched to its original. False alarms: the rows, and every benchmark against the others.
Lineage: every benchmark evolved. Speed: the rows with 10% of their words replaced, repeatedly, in one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tasks.problems.decontam import BenchmarkIndex, decontaminate
from tasks.rows import Finding, FindingKind, Problem, Role, Tier

OVERLAPS = (FindingKind.NGRAM, FindingKind.JACCARD, FindingKind.TEMPLATE, FindingKind.PARAPHRASE)
CARDINALS = "two three four five six seven eight nine ten eleven twelve".split()
ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
NUMBER = re.compile(rf"\d+(?:,\d{{3}})+|\d+(?:\.\d+)?|\b(?:{'|'.join(CARDINALS + ORDINALS)})\b")


# --- mutations ---------------------------------------------------------------------------------------------------


def renumbered(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """Replace every number (digits, "two" to "twelve", or "third" to "twelfth") by another of the same kind."""

    def another(match: re.Match[str]) -> str:
        old = match.group()
        for names in (CARDINALS, ORDINALS):
            if old in names:
                return rng.choice([name for name in names if name != old])
        whole, _, decimals = old.replace(",", "").partition(".")
        new = str(rng.randint(2, max(20, 2 * int(whole))))
        return f"{new}.{rng.randint(1, 9)}" if decimals else new

    return NUMBER.sub(another, text)


def rewritten(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    r"""Renumber and change the notation: no dollar signs, \frac{a}{b} as a/b, single numbers from 2 to 12 as words, 1000 as
    1,000."""
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", renumbered(text, rng, vocabulary))
    text = re.sub(r"(?<!\\)\$", "", text)
    text = re.sub(
        r"(?<=\s)([2-9]|1[0-2])(?=\s[a-z]{3})", lambda match: CARDINALS[int(match.group()) - 2], text
    )
    return re.sub(r"(?<![\d.])\d{4,}(?![\d.])", lambda match: f"{int(match.group()):,}", text)


def reworded(share: float) -> Callable[[str, random.Random, list[str]], str]:
    """Return a mutation that renumbers and replaces a share of the words without digit or backslash by words of the rows."""

    def mutate(text: str, rng: random.Random, vocabulary: list[str]) -> str:
        return exchanged(renumbered(text, rng, vocabulary), share, rng, vocabulary)

    return mutate


def exchanged(text: str, share: float, rng: random.Random, vocabulary: list[str]) -> str:
    words = text.split()
    plain = [place for place, word in enumerate(words) if not re.search(r"[\d\\]", word)]
    for place in rng.sample(plain, round(len(plain) * share)):
        words[place] = rng.choice(vocabulary)
    return " ".join(words)


def embedded(share: float) -> Callable[[str, random.Random, list[str]], str]:
    """Return a mutation that puts the first `share` of the text, unchanged, between thirty words of the rows on each side."""

    def mutate(text: str, rng: random.Random, vocabulary: list[str]) -> str:
        words = text.split()
        around = rng.choices(vocabulary, k=60)
        return " ".join([*around[:30], *words[: round(len(words) * share)], *around[30:]])

    return mutate


SPAN = re.compile(r"\$\$?[^$]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def renamed(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """Give every letter that stands alone within mathematics another name, which no letter had before."""
    own = sorted({letter for span in SPAN.findall(text) for letter in LETTER.findall(span)})
    names: dict[str, str] = {}
    for alphabet in (string.ascii_lowercase, string.ascii_uppercase):
        free = [letter for letter in alphabet if letter not in own]
        names |= zip(
            [letter for letter in own if letter in alphabet], rng.sample(free, len(free)), strict=False
        )
    return SPAN.sub(
        lambda span: LETTER.sub(lambda letter: names.get(letter.group(), letter.group()), span.group()), text
    )


def renamed_and_renumbered(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    return renumbered(renamed(text, rng, vocabulary), rng, vocabulary)


def set_otherwise(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    r"""Change the layout only: \( \) or no delimiters, \dfrac, runs of capitals with or without spaces, spaces before
    punctuation."""
    spans = rng.choice([r"\( {} \)", " {} ", "$ {} $"])
    text = SPAN.sub(lambda span: spans.replace("{}", spaced(span.group().strip("$"))), text)
    text = text.replace(r"\frac", r"\dfrac").replace(r"\leq", r"\le ").replace(r"\geq", r"\geqslant ")
    return re.sub(r"(?<=\w)([?.,])(?=\s|$)", r" \1", text)


def spaced(mathematics: str) -> str:
    return re.sub(r"(?<![A-Za-z\\])[A-Z]{2,4}(?![A-Za-z])", lambda run: " ".join(run.group()), mathematics)


MUTATIONS: dict[str, Callable[[str, random.Random, list[str]], str]] = {
    "copied": lambda text, rng, vocabulary: text,
    "other layout": set_otherwise,
    "letters renamed": renamed,
    "letters renamed, renumbered": renamed_and_renumbered,
    "renumbered": renumbered,
    "renumbered, other notation": rewritten,
    "renumbered, 5% of words": reworded(0.05),
    "renumbered, 10% of words": reworded(0.10),
    "10% of words only": lambda text, rng, vocabulary: exchanged(text, 0.10, rng, vocabulary),
    "inside another text": embedded(1.0),
    "its first half inside": embedded(0.5),
}


# --- measurements ------------------------------------------------------------------------------------------------


def read_problems(name: str, where: str) -> list[Problem]:
    """Return the texts of one file, `PATH:COLUMN`, as benchmark problems."""
    path, column = where.rsplit(":", 1)
    with Path(path).open(encoding="utf-8") as lines:
        texts = [json.loads(line)[column] for line in lines]
    return [
        Problem(
            id=f"{name}/{number}",
            text=text,
            tier=Tier.HARD,
            source=name,
            source_id=str(number),
            licence="unknown",
            role=Role.SEED,
            root_id=f"{name}/{number}",
        )
        for number, text in enumerate(texts)
    ]


def hits(index: BenchmarkIndex, name: str, mutation: str, seed: int, vocabulary: list[str]) -> str:
    """Return a line with the share of a benchmark's problems that are found after the mutation, in total and by kind."""
    rng = random.Random(f"{seed}/{name}/{mutation}")
    own = [problem for problem in index.problems if problem.source == name]
    mutated = [(problem.id, MUTATIONS[mutation](problem.text, rng, vocabulary)) for problem in own]
    found = {
        (finding.problem_id, finding.kind)
        for finding in index.findings(mutated)
        if finding.problem_id == finding.benchmark_problem_id
    }
    by_kind = [sum((identity, kind) in found for identity, _ in mutated) for kind in OVERLAPS]
    anyhow = len({identity for identity, _ in found})
    shares = "".join(f"{count / len(own):>10.3f}" for count in [anyhow, *by_kind])
    return f"{name:<15}{mutation:<28}{len(own):>6}{shares}"


def print_rewritten(index: BenchmarkIndex, name: str, texts: list[Problem]) -> None:
    """Print how many rewritten problems are found as their original, which has the same place in the benchmark."""
    own = [problem.id for problem in index.problems if problem.source == name]
    found = index.findings((identity, text.text) for identity, text in zip(own, texts, strict=True))
    matched = {one.problem_id for one in found if one.problem_id == one.benchmark_problem_id}
    print(f"{name}, rewritten: {len(matched)} of {len(own)} found")


def print_alarms(index: BenchmarkIndex, name: str, rows: list[Problem], show: int) -> None:
    """Print the rows of one file that are flagged by a benchmark other than their own."""
    alarms = [
        finding for finding in index.findings((row.id, row.text) for row in rows) if finding.benchmark != name
    ]
    benchmarks = dict.fromkeys(problem.source for problem in index.problems if problem.source != name)
    counts = Counter(benchmark for benchmark, _ in {(f.benchmark, f.problem_id) for f in alarms})
    kinds = Counter(finding.kind.value for finding in alarms)
    flagged = ", ".join(f"{counts[benchmark]} by {benchmark}" for benchmark in benchmarks)
    print(f"{name}: {len(rows):,} rows; flagged {flagged}; findings {dict(kinds)}")
    texts = {row.id: row.text for row in rows} | {problem.id: problem.text for problem in index.problems}
    for finding in alarms[:show]:
        print_finding(finding, texts)


def print_finding(finding: Finding, texts: dict[str, str]) -> None:
    print(f"  {finding.kind} {finding.score:.2f} {finding.detail}")
    for identity in (finding.problem_id, finding.benchmark_problem_id):
        print(f"    {identity}: {' '.join(texts[identity].split())[:200]}")


def print_lineage(name: str, problems: list[Problem], seed: int, texts: list[str]) -> None:
    """Use one benchmark as seeds and evolve it for five rounds: half of the children become an unrelated text of the rows, the
    others a mutation. Print how many descendants are flagged by lineage and how many by their text."""
    rng = random.Random(f"{seed}/{name}/lineage")
    vocabulary = [word for text in texts for word in text.split()]
    parents = [replace(problem, benchmark_root=True) for problem in problems]
    descendants: list[Problem] = []
    for number in range(1, 6):
        parents = [
            replace(
                parent, id=f"{parent.id}.{branch}", role=Role.EVOLVED, parent_id=parent.id, round=number,
                text=rng.choice(texts) if rng.random() < 0.5
                else MUTATIONS[rng.choice(list(MUTATIONS))](parent.text, rng, vocabulary),
            )
            for parent in parents
            for branch in range(2)
        ]  # fmt: skip
        descendants += parents
    findings = decontaminate(descendants, BenchmarkIndex.build(problems))
    counts = {kind: len({f.problem_id for f in findings if f.kind == kind}) for kind in FindingKind}
    by_text = len({f.problem_id for f in findings if f.kind != FindingKind.LINEAGE})
    print(
        f"{name}: {len(descendants):,} descendants in five rounds, {counts[FindingKind.LINEAGE]:,} flagged by lineage, "
        f"{by_text:,} by their text"
    )


def print_speed(
    index: BenchmarkIndex, texts: list[str], count: int, seed: int, vocabulary: list[str]
) -> None:
    """Check `count` mutated texts against the index and print the rate."""
    rng = random.Random(seed)
    rows = [
        (str(number), exchanged(texts[number % len(texts)], 0.1, rng, vocabulary)) for number in range(count)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    found = sum(1 for _ in index.findings(rows))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{count:,} rows, {found} findings: {count / cpu:,.0f} rows per CPU second, {count / wall:,.0f} per second; "
        f"peak memory grew by {grown:.0f} MiB"
    )


def main() -> None:
    """Measure hit rate, false alarms and speed on the files given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--benchmark", action="append", required=True, metavar="NAME=PATH:COLUMN")
    parser.add_argument(
        "--rewritten",
        action="append",
        default=[],
        metavar="NAME=PATH:COLUMN",
        help="row k rewrites problem k",
    )
    parser.add_argument("--rows", required=True, metavar="PATH:COLUMN")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--speed-rows", type=int, default=100_000)
    parser.add_argument("--show", type=int, default=5, help="number of alarms per file to print in full")
    arguments = parser.parse_args()
    files = dict(entry.split("=", 1) for entry in arguments.benchmark)
    benchmarks = {name: read_problems(name, where) for name, where in files.items()}
    rows = read_problems("rows", arguments.rows)
    vocabulary = [word for row in rows for word in row.text.split()]

    start = time.process_time()
    index = BenchmarkIndex.build([problem for problems in benchmarks.values() for problem in problems])
    print(f"index of {len(index.problems):,} problems: {time.process_time() - start:.1f} CPU seconds\n")
    header = "".join(f"{title:>10}" for title in ["any", *OVERLAPS])
    print(f"{'matched to its original':<43}{'of':>6}{header}")
    for name in benchmarks:
        for mutation in MUTATIONS:
            print(hits(index, name, mutation, arguments.seed, vocabulary))
    for name, where in (entry.split("=", 1) for entry in arguments.rewritten):
        print_rewritten(index, name, read_problems(name, where))
    print()
    for name, problems in {"rows": rows, **benchmarks}.items():
        print_alarms(index, name, problems, arguments.show)
    print()
    for name, problems in benchmarks.items():
        print_lineage(name, problems, arguments.seed, [row.text for row in rows])
    print()
    print_speed(index, [row.text for row in rows], arguments.speed_rows, arguments.seed, vocabulary)


if __name__ == "__main__":
    main()
