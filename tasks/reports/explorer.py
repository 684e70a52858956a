"""The problems of the report that its script searches: one index of all rows, and their details in chunks.

Both are JSON, compressed and as base64 in the page, so that the file works offline; the browser decompresses a chunk when a
problem of it is opened. Where they don't fit, the details are in pages beside the report (`tasks.reports.text_pages`).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from markupsafe import escape

from tasks.reports.mathml import Typesetter
from tasks.reports.report_figures import shown
from tasks.rows import QUALITY_CRITERIA, Example, Finding, Problem, Reject, Response, Tier, Verdict
from tasks.storage.dataset import last_strategy
from tasks.text import words

MAX_PROBLEMS = 10_000  # exported problems whose details are in the file
MAX_BYTES = 11_000_000  # of index and details together, as base64; the rest of the page is below 1 MB
PREVIEW = 300  # characters of a response in the file
CHUNK = 100  # rows of one chunk of details, and problems of one page of texts
MAX_ANSWER = 140  # characters of an answer in the file
MOST_SAMPLES = 24  # samples, and clusters, of a problem in the file
LONG_PROBLEM = 4000  # characters that `shown` leaves of a problem
CLUSTER_COLOURS = 8
EXPORTED, REJECTED, SEED = "exported", "rejected", "not exported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Everything that is shown about the problems. `others` are seeds and rejected problems."""

    examples: Sequence[Example]
    responses: Sequence[Response] = ()
    truths: Mapping[str, bool] = field(default_factory=dict)
    others: Sequence[Problem] = ()
    rejects: Sequence[Reject] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The data of the page: base64 by element id, and what it leaves to the pages beside it."""

    scripts: Mapping[str, str]
    rows: int  # in the index
    left_out: int  # rows that did not fit in the index
    beside: Mapping[str, int]  # problem id -> number of the page with its whole texts, from 1
    choices: Mapping[str, Mapping[str, int]]  # filter -> value -> rows


def pack(pool: Pool, typeset: Typesetter) -> Packed:
    """Return the page's data, at most `MAX_BYTES`: with fewer formulas typeset, then with fewer texts, where needed."""
    rows = list(index_rows(pool, typeset))
    samples = by_problem(pool.responses)
    small = len(pool.examples) <= MAX_PROBLEMS
    beside = pages_beside(pool.examples, samples, every=not small)
    index = encoded(rows)
    for level in (typeset, Typesetter(0)) if small else ():
        details = list(_details(rows, pool, samples, level, beside))
        chunks = [encoded(part) for part in _chunks(details)]
        if len(index) + sum(map(len, chunks)) <= MAX_BYTES:
            return _packed(
                rows, len(rows), {"index": index, **{f"d{n}": c for n, c in enumerate(chunks)}}, beside
            )
    beside = pages_beside(pool.examples, samples, every=True)
    if len(index) > MAX_BYTES:
        rows = [{**row, "t": shown(row["t"], PREVIEW), "h": ""} for row in rows]
        index = encoded(rows)
    fitting = len(rows)
    while len(index) > MAX_BYTES:
        fitting = int(0.95 * fitting * MAX_BYTES / len(index))
        index = encoded(rows[:fitting])
    pages = {"pages": encoded(beside)}
    return _packed(rows, fitting, {"index": index, **pages}, beside)


def _packed(
    rows: Sequence[dict[str, Any]], fitting: int, scripts: Mapping[str, str], beside: Mapping[str, int]
) -> Packed:
    def tally(name: str) -> dict[str, int]:
        return dict(sorted(Counter(row[name] for row in rows if row.get(name)).items()))

    tiers = tally("tier")
    return Packed(
        scripts=scripts, rows=fitting, left_out=len(rows) - fitting, beside=beside,
        choices={
            "state": {name: count for name in (EXPORTED, REJECTED, SEED) if (count := tally("s").get(name))},
            "tier": {tier.value: tiers[tier.value] for tier in Tier if tier.value in tiers},
            "how": tally("how"), "src": tally("src"), "why": tally("why"),
        },
    )  # fmt: skip


def encoded(value: object) -> str:
    """Return the value as JSON, compressed, in base64."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(plain.encode(), 6)).decode("ascii")


def by_problem(responses: Iterable[Response]) -> dict[str, list[Response]]:
    """Return the responses by problem id, each in the order of its samples."""
    found: defaultdict[str, list[Response]] = defaultdict(list)
    for response in sorted(responses, key=lambda one: one.index):
        found[response.problem_id].append(response)
    return found


def pages_beside(
    examples: Sequence[Example], samples: Mapping[str, Sequence[Response]], *, every: bool
) -> dict[str, int]:
    """Return the page of texts of each problem of which the file does not contain everything, or of `every` problem."""

    def cut(row: Example) -> bool:
        own = samples.get(row.id, ())
        return (
            max(len(own), len(row.cluster_probs)) > MOST_SAMPLES
            or len(row.problem) > LONG_PROBLEM
            or any(len(one.text) > PREVIEW for one in own)
        )

    found = [row.id for row in examples if every or cut(row)]
    return {row_id: place // CHUNK + 1 for place, row_id in enumerate(found)}


# --- the index ---------------------------------------------------------------------------------------------------


def index_rows(pool: Pool, typeset: Typesetter) -> Iterator[dict[str, Any]]:
    """Yield what is searched, filtered and listed: exported problems, then rejected ones, then those that are neither."""
    exported = {row.id for row in pool.examples}
    for row in pool.examples:
        yield _exported(row, pool.truths.get(row.id), typeset)
    known = {row.id: row for row in pool.others if row.id not in exported}
    rejected: set[str] = set()
    for number, reject in enumerate(pool.rejects):
        own = known.get(reject.problem_id)
        new = own is not None and not reject.stage.startswith("evolve") and own.id not in rejected
        if own is not None and new:
            rejected.add(own.id)
            row = _other(own, typeset)
        else:
            row = _reply(reject, number, own, typeset)
        yield {
            **row, "s": REJECTED, "stage": shown(reject.stage, 60), "why": words(str(reject.reason))[:60],
            "detail": shown(reject.detail, PREVIEW),
        }  # fmt: skip
    for row_id, problem in known.items():
        if row_id not in rejected:
            yield {**_other(problem, typeset), "s": SEED}


def _statement(text: str, typeset: Typesetter) -> dict[str, str]:
    plain = shown(text)
    return {"t": plain, "h": str(typeset.text(plain)) if any(mark in plain for mark in "$\\") else ""}


def _exported(row: Example, right: bool | None, typeset: Typesetter) -> dict[str, Any]:
    return {
        "id": row.id, "s": EXPORTED, **_statement(row.problem, typeset), "tier": row.tier.value,
        "how": last_strategy(row), "src": shown(row.source, 140), "role": row.role.value, "round": row.round,
        "parent": row.parent_id, "w": round(row.weight, 4), "e": round(row.semantic_entropy, 4),
        "ok": None if right is None else int(right), "a": shown(row.majority_answer or "", MAX_ANSWER),
        "flag": [kind.value for kind in row.overlap_kinds] if row.benchmark_overlap else [],
        "bar": [[one.style, round(one.probability, 3)] for one in clusters(row)[:12]],
    }  # fmt: skip


def _other(row: Problem, typeset: Typesetter) -> dict[str, Any]:
    return {
        "id": row.id, **_statement(row.text, typeset), "tier": row.tier.value,
        "how": row.strategy.value if row.strategy else "none", "src": shown(row.source, 140), "role": row.role.value,
        "round": row.round, "parent": row.parent_id, "a": shown(row.answer or "", MAX_ANSWER),
    }  # fmt: skip


def _reply(reject: Reject, number: int, parent: Problem | None, typeset: Typesetter) -> dict[str, Any]:
    """Describe a rejected text that is no problem of the tables: a reply of the evolver, or an unused row."""
    row: dict[str, Any] = {
        "id": f"reject-{number + 1}",
        **_statement(reject.text, typeset),
        "parent": reject.problem_id,
    }
    if parent is not None:
        row |= {"tier": parent.tier.value, "src": shown(parent.source, 140), "round": parent.round + 1}
    return row


# --- the details -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One answer cluster of a problem, as drawn on the page."""

    label: int
    style: str
    answer: str | None
    probability: float
    size: int


def clusters(row: Example) -> list[Cluster]:
    """Return the clusters of a problem from the most to the least probable; those with an answer have a colour each."""
    sizes = Counter(row.cluster_labels)
    order = sorted(range(len(row.cluster_probs)), key=lambda label: (-row.cluster_probs[label], label))
    answered = [label for label in order if row.cluster_answers[label] is not None]
    styles = {label: f"k{rank % CLUSTER_COLOURS}" for rank, label in enumerate(answered)}
    return [
        Cluster(
            label=label, style=styles.get(label, "unread"), answer=row.cluster_answers[label],
            probability=row.cluster_probs[label], size=sizes[label],
        )
        for label in order
    ]  # fmt: skip


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _details(
    rows: Sequence[dict[str, Any]], pool: Pool, samples: Mapping[str, Sequence[Response]], typeset: Typesetter,
    beside: Mapping[str, int],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    findings: defaultdict[str, list[Finding]] = defaultdict(list)
    for one in pool.findings:
        findings[one.problem_id].append(one)
    examples = {row.id: row for row in pool.examples}
    for row in rows:
        found: dict[str, Any] = {}
        if (example := examples.get(row["id"])) is not None:
            found = _annotation(example, samples.get(example.id, ()), typeset)
            found["page"] = beside.get(example.id, 0)
        if (verdict := pool.verdicts.get(row["id"])) is not None:
            found["verdict"] = [[words(name), int(getattr(verdict, name))] for name in QUALITY_CRITERIA]
            found["reply"] = shown(verdict.reply, PREVIEW)
        found["found"] = [
            [one.kind.value, shown(one.benchmark, 60), round(one.score, 3), shown(one.detail, 140)]
            for one in findings.get(row["id"], ())[:6]
        ]
        yield found


def _annotation(row: Example, samples: Sequence[Response], typeset: Typesetter) -> dict[str, Any]:
    answer = partial(_answer, typeset=typeset)
    found = clusters(row)
    styles = {one.label: one.style for one in found}
    return {
        "facts": [*row.strategies], "majority": answer(row.majority_answer), "truth": answer(row.answer),
        "discrete": round(row.discrete_entropy, 3), "calls": row.judge_calls, "licence": shown(row.licence, 60),
        "of": [len(samples), len(found)],
        "clusters": [[one.style, answer(one.answer), one.size, round(one.probability, 3)] for one in found[:MOST_SAMPLES]],
        "samples": [
            [
                one.index + 1, styles.get(row.cluster_labels[one.index], "unread"), answer(one.answer),
                round(one.logprob_sum / one.token_count, 3) if one.token_count else None, one.token_count,
                shown(one.finish_reason, 20), str(typeset.text(one.text[:PREVIEW])), int(len(one.text) > PREVIEW),
            ]
            for one in samples[:MOST_SAMPLES]
        ],
    }  # fmt: skip


def _answer(text: str | None, typeset: Typesetter) -> str | None:
    if text is None:
        return None
    return str(typeset.answer(text) if len(text) <= MAX_ANSWER else escape(shown(text, MAX_ANSWER)))
