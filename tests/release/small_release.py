"""A small dataset that satisfies the contract, with two licences, two splits and a flagged problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prompts import load_prompt
from tasks.rows import Example, FindingKind, Response, Tier
from tasks.storage.dataset import write_dataset
from tasks.storage.manifest import BenchmarkCount, Manifest
from tests.annotated import annotated
from tests.storage.test_dataset import manifest

PROMPT = load_prompt("teacher/solve").fingerprint
ANSWERS = (("7", "7", "7", "8"), ("1", "2", "3", None), ("5", "5", "5", "5"), ("6", "6", None, "6"))


def rows(count: int = 8) -> dict[str, list[tuple[Example, list[Response]]]]:
    """Return problems with their responses by split; every third has another licence, number 2 is flagged."""
    found: dict[str, list[tuple[Example, list[Response]]]] = {"train": [], "test": []}
    for number in range(1, count + 1):
        row, responses = annotated(number, ANSWERS[number % 4], seed=3, tier=list(Tier)[number % 4])
        row = replace(
            row,
            problem=f"Find the number that is {number} more than $2^{{{number}}}$ & 'a'.",
            licence="cc-by-nc-sa-4.0" if number % 3 == 0 else "mit",
            source="exam" if number % 3 == 0 else "seeds",
            benchmark_root=number == 2,
            benchmark_overlap=number == 2,
            overlap_benchmarks=("aime",) if number == 2 else (),
            overlap_kinds=(FindingKind.LINEAGE,) if number == 2 else (),
        )
        found["test" if number > count - 2 else "train"].append((row, responses))
    return found


def small_manifest(**changes: object) -> Manifest:
    made = manifest(**changes)
    return replace(
        made,
        teacher=replace(made.teacher, prompt=PROMPT, num_samples=4),
        benchmarks=(BenchmarkCount(benchmark="aime", problems=30, flagged=1, kinds={"lineage": 1}),),
    )


def write_small(folder: Path, count: int = 8, **changes: object) -> Path:
    """Write the dataset and return its folder."""
    found = rows(count)
    write_dataset(
        folder,
        {split: [row for row, _ in listed] for split, listed in found.items()},
        {split: [one for _, responses in listed for one in responses] for split, listed in found.items()},
        small_manifest(**changes),
    )
    return folder
