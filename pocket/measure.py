"""Measure the pocket models on unseen problems: `python -m pocket.measure [--problems N] [--only NAME]`.

Writes `pocket/quality.json` and the table between the markers in `pocket/README.md`. Teacher, student and evolutions are
sampled at temperature 0.7; the judges' replies are greedy. All replies come from the vLLM engine.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from pocket import world
from pocket.data import (
    MEASURING_SEED,
    STRATEGIES,
    TIERS,
    VIEWS,
    equivalence_example,
    evolved_text,
    known_answer,
    quality_example,
    with_reference,
)
from pocket.engine import Reply, high_entropy_share, replies
from pocket.recipes import POCKET, RECIPES
from pocket.table import write_table
from pocket.world.broken import sound
from prompts import load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA, QUALITY_CRITERIA, QUALITY_SCHEMA
from tasks.answers.equivalence import equivalent
from tasks.answers.extraction import extract_answer
from tasks.config import RuleSettings, load_config
from tasks.problems.rules import check
from tasks.problems.verdicts import BadReply, parse_equivalence
from tasks.uncertainty.auroc import auroc
from tasks.uncertainty.clusters import cluster_answers
from tasks.uncertainty.entropy import majority, semantic_entropy

__all__ = ["main", "measure_assistant", "measure_judge", "measure_solver"]

SAMPLES = 8
TEMPERATURE = 0.7
ENTROPY_GATE = 0.8
EVOLVED = "evolved"
"""The group besides the tiers: problems of all tiers after one to five random evolutions."""
EVOLVED_REPLY = re.compile(r"<evolved>\n(.+)\n</evolved>", re.DOTALL)
KEEPS_ANSWER = ("algebraize", "apply")
"""Strategies that do not change the answer."""

Quality = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """The samples for one problem: their answers, which ones are correct, and the semantic entropy in nats."""

    group: str
    answers: tuple[str | None, ...]
    right: tuple[bool, ...]
    majority_right: bool
    entropy: float
    weight: float


def problems(per_group: int) -> list[tuple[str, str, str]]:
    """Return (group, text, answer) of unseen problems: `per_group` of each tier and as many evolved ones."""
    found = []
    for tier in TIERS:
        for index in range(per_group):
            problem = world.problem(MEASURING_SEED, tier, index)
            found.append((tier, problem.text, problem.answer))
    for index in range(per_group):
        rng = random.Random(f"measure/{index}")
        text = evolved_text(rng.choice(TIERS), per_group + index, rng.randint(1, 5), rng, MEASURING_SEED)
        found.append((EVOLVED, text, known_answer(text)))
    return found


def same(first: str, second: str) -> bool:
    """Return whether two answers are equal as text or equivalent."""
    return first == second or equivalent(first, second)


def graded(group: str, gold: str, samples: Sequence[Reply]) -> Graded:
    """Grade the samples for one problem and cluster them by meaning."""
    answers = tuple(extract_answer(sample.text) for sample in samples)
    right = {answer: same(answer, gold) for answer in set(answers) if answer is not None}
    clustering = cluster_answers(answers, same)
    uncertainty = semantic_entropy(
        [sample.logprob_sum for sample in samples],
        [sample.token_count for sample in samples],
        clustering.labels,
    )
    winner = answers[clustering.labels.index(majority(clustering.labels))]
    return Graded(
        group=group,
        answers=answers,
        right=tuple(answer is not None and right[answer] for answer in answers),
        majority_right=winner is not None and right[winner],
        entropy=uncertainty.entropy,
        weight=uncertainty.weight,
    )


def accuracy(rows: Sequence[Graded]) -> float:
    """Return the share of correct samples."""
    return mean(mean(row.right) for row in rows)


def measure_solver(name: str, per_group: int) -> Quality:
    """Measure accuracy by tier, well-formedness, error detection by entropy, and accuracy with privileged prompts."""
    model = POCKET / name
    asked = problems(per_group)
    plain = [load_prompt("teacher/solve").render(problem=text) for _, text, _ in asked]
    sampled = replies(model, plain, SAMPLES, TEMPERATURE)
    rows = [graded(group, gold, samples) for (group, _, gold), samples in zip(asked, sampled, strict=True)]
    base = [row for row in rows if row.group != EVOLVED]
    step = max(1, len(plain) // 300)
    pairs = [
        (question, samples[0].text) for question, samples in zip(plain[::step], sampled[::step], strict=True)
    ]
    return {
        "problems_per_group": per_group,
        "accuracy": {
            group: accuracy([row for row in rows if row.group == group]) for group in (*TIERS, EVOLVED)
        },
        "accuracy_overall": accuracy(base),
        "mean_weight": {
            group: mean(row.weight for row in rows if row.group == group) for group in (*TIERS, EVOLVED)
        },
        "well_formed": mean(answer is not None for row in base for answer in row.answers),
        "auroc": error_detection(rows),
        "tokens_above_gate": high_entropy_share(model, pairs, ENTROPY_GATE),
        **privileged(model, asked),
    }


def error_detection(rows: Sequence[Graded]) -> Quality | None:
    """Return the AUROC of the entropy for wrong majorities, with its interval; None if all are correct or all wrong."""
    wrong = [not row.majority_right for row in rows]
    if all(wrong) or not any(wrong):
        return None
    return auroc([row.entropy for row in rows], wrong)._asdict()


def privileged(model: Path, asked: Sequence[tuple[str, str, str]]) -> Quality:
    """Measure accuracy over all groups for each view, in which the prompt contains a reference; two samples each."""
    prompts = [
        with_reference(text, view, random.Random(f"measure/reference/{index}"))
        for view in VIEWS
        for index, (_, text, _) in enumerate(asked)
    ]
    sampled = iter(replies(model, prompts, 2, TEMPERATURE))
    return {
        view.replace("teacher/solve", "accuracy"): accuracy(
            [graded(group, gold, next(sampled)) for group, _, gold in asked]
        )
        for view in VIEWS
    }


def evolved_reply(reply: str) -> str | None:
    """Return the problem between the tags, or None if the reply has any other form."""
    match = EVOLVED_REPLY.fullmatch(reply)
    return match[1] if match else None


@cache
def pocket_rules() -> RuleSettings:
    """Return the rules of the profile `pocket`."""
    return load_config("pocket").rules


def is_good(before: str, after: str | None) -> bool:
    """Return whether an evolution passes the rules of the pocket profile, is a sound problem and differs from its parent."""
    if after is None or check(after, pocket_rules()) is not None:
        return False
    return sound(after) and " ".join(after.lower().split()) != " ".join(before.lower().split())


def numbers(text: str) -> list[str]:
    """Return the numbers in a text, sorted."""
    return sorted(re.findall(r"\d+", text))


def measure_evolutions(model: Path, per_strategy: int) -> Quality:
    """Measure the share of good evolutions by strategy; inputs are of all tiers and evolved up to four times."""
    asked: list[tuple[str, str]] = []
    for strategy in STRATEGIES:
        for index in range(per_strategy):
            rng = random.Random(f"measure/{strategy}/{index}")
            text = evolved_text(TIERS[index % 4], 10_000 + index, rng.randint(0, 4), rng, MEASURING_SEED)
            if world.evolve(text, strategy, rng) is not None:
                asked.append((strategy, text))
    questions = [load_prompt(f"evolution/{strategy}").render(problem=text) for strategy, text in asked]
    sampled = replies(model, questions, 1, TEMPERATURE)
    evolved = [evolved_reply(samples[0].text) for samples in sampled]
    good: dict[str, list[bool]] = {strategy: [] for strategy in STRATEGIES}
    kept: list[bool] = []
    renumbered: list[bool] = []
    for (strategy, before), after in zip(asked, evolved, strict=True):
        good[strategy].append(is_good(before, after))
        if strategy in KEEPS_ANSWER and good[strategy][-1] and after is not None:
            kept.append(world.oracle(after) == world.oracle(before))
        if strategy == "rewrite" and good[strategy][-1] and after is not None:
            renumbered.append(numbers(after) != numbers(before))
    return {
        "good_evolutions": {strategy: mean(rows) for strategy, rows in good.items()},
        "same_answer_where_due": mean(kept) if kept else 0.0,
        "other_numbers_after_rewrite": mean(renumbered) if renumbered else 0.0,
        "evolutions": len(asked),
    }


def measure_judges(model: Path, count: int) -> Quality:
    """Measure the accuracy of both judges on `count` labelled cases each."""
    quality = [
        quality_example(i, random.Random(f"measure/quality/{i}"), MEASURING_SEED) for i in range(count)
    ]
    pairs = [equivalence_example(random.Random(f"measure/equivalence/{i}")) for i in range(count)]
    schemas = [*[QUALITY_SCHEMA] * count, *[EQUIVALENCE_SCHEMA] * count]
    sampled = replies(model, [example.messages for example in [*quality, *pairs]], 1, 0.0, schemas)
    answered = [samples[0].text for samples in sampled]
    verdicts = [
        (read_json(e.response), read_json(text)) for e, text in zip(quality, answered[:count], strict=True)
    ]
    equal = [
        (json.loads(e.response)["equivalent"], parse_equivalence(text, "stop"))
        for e, text in zip(pairs, answered[count:], strict=True)
    ]
    readable = [(right, given) for right, given in equal if not isinstance(given, BadReply)]
    return {
        "criteria": {
            c: mean(right[c] == given.get(c) for right, given in verdicts) for c in QUALITY_CRITERIA
        },
        "criteria_exact": mean(right == given for right, given in verdicts),
        "sound_accepted": mean(right == given for right, given in verdicts if all(right.values())),
        "broken_refused": mean(
            not all(given.values()) for right, given in verdicts if not all(right.values())
        ),
        "equivalence": sum(right == given.same for right, given in readable) / count,
        "equivalence_by_flag": sum(right == given.equivalent for right, given in readable) / count,
        "judged": count,
    }


def read_json(text: str) -> dict[str, Any]:
    """Return the JSON object in the text, or an empty one if there is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def measure_assistant(per_group: int) -> Quality:
    """Measure the assistant's evolutions."""
    return measure_evolutions(POCKET / "assistant", per_group)


def measure_judge(per_group: int) -> Quality:
    """Measure both tasks of the judge, with its replies constrained to the JSON schemas as in the dataset factory."""
    return measure_judges(POCKET / "judge", 4 * per_group)


def main() -> int:
    """Measure the models one after the other and write the results after each."""
    parser = argparse.ArgumentParser(prog="python -m pocket.measure", description=__doc__)
    parser.add_argument("--problems", type=int, default=100, help="problems per tier and per strategy")
    parser.add_argument("--only", choices=tuple(RECIPES), help="measure a single model")
    arguments = parser.parse_args()
    path = POCKET / "quality.json"
    quality: Quality = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in [arguments.only] if arguments.only else list(RECIPES):
        if name == "assistant":
            quality[name] = measure_assistant(arguments.problems)
        elif name == "judge":
            quality[name] = measure_judge(arguments.problems)
        else:
            quality[name] = measure_solver(name, arguments.problems)
        print(name, json.dumps(quality[name], indent=2), flush=True)
        path.write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
    write_table(quality, POCKET / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
