"""The label and the solution of each training row, and where they come from.

A label is the answer that responses are graded against. A solution is shown to a privileged teacher; it never contradicts an
answer that is known.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from prompts import MAX_VALUE_CHARS
from tasks.answers import matches
from tasks.identity import canonical_json
from tasks.seeds.answer_forms import is_comparable
from tasks.storage.manifest import Manifest
from tasks.text import counted
from training.config import DatasetSettings
from training.data.responses import TeacherResponse, in_majority, iter_responses, response_files
from training.data.rows import Dataset, TrainingRow

Need = Literal["label", "solution"]
LabelSource = Literal["gold", "teacher_majority", "oracle"]
SolutionSetting = Literal["gold", "majority_sample"]
SolutionSource = Literal["gold", "majority_sample", "correct_sample"]
Oracle = Callable[[TrainingRow], str | None]

_REMEDIES: Mapping[str, str] = {
    "label gold": "set dataset.labels to teacher_majority",
    "label teacher_majority": "add a column answer",
    "label oracle": "set dataset.labels to teacher_majority",
    "solution gold": "set dataset.solutions to majority_sample",
    "solution majority_sample": "add a column solution",
}
_NAME: Mapping[Need, str] = {
    "label": "name the column with the answers in dataset.source.columns",
    "solution": "name the column with the solutions in dataset.source.columns",
}  # of a source, which has neither majority answers nor samples
_TOO_LONG = f"of more than {MAX_VALUE_CHARS:,} characters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is known of one row. `lacking` has the reason why the label or the solution is None.

    `majority_sample` is the first finished response of the teacher in the majority cluster. Where the answer is known (from
    ground truth or oracle), `correct_sample` takes its place: the first finished response that has this answer.
    """

    label: str | None = None
    label_source: LabelSource | None = None
    solution: str | None = None
    solution_source: SolutionSource | None = None
    lacking: Mapping[Need, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that lack what is needed: their indices, and their number by reason (the first need of each row counts)."""

    indices: tuple[int, ...]
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The references of training rows, in their order. `labels` and `solutions` are the settings that they were made with;
    `from_source`: whether the rows are those of `dataset.source`."""

    rows: tuple[Reference, ...]
    labels: LabelSource
    solutions: SolutionSetting
    from_source: bool = False

    def select(self, indices: Iterable[int]) -> References:
        """Return the references of some of the rows."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def digest(self, needs: Collection[Need]) -> str:
        """Return the SHA-256 (hex) of what is needed of every row."""
        digest = hashlib.sha256()
        for row in self.rows:
            used = [getattr(row, need) for need in sorted(needs)]
            digest.update(canonical_json(used).encode("ascii") + b"\n")
        return digest.hexdigest()

    def sources(self, need: Need) -> Mapping[str, int]:
        """Return the number of labels or solutions by source, the most frequent first."""
        counts = Counter(
            getattr(row, f"{need}_source") for row in self.rows if getattr(row, need) is not None
        )
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def left_out(self, needs: Collection[Need]) -> LeftOut:
        """Return the rows without a label or a solution that is needed."""
        first = {
            index: next(
                f"without a {need}: {row.lacking[need]}" for need in sorted(needs) if need in row.lacking
            )
            for index, row in enumerate(self.rows)
            if not row.lacking.keys().isdisjoint(needs)
        }
        return LeftOut(indices=tuple(first), reasons=dict(Counter(first.values())))


# --- making ------------------------------------------------------------------------------------------------------


def read_references(data: Dataset, settings: DatasetSettings, needs: Collection[Need]) -> References:
    """Return the references of a dataset's rows, reading the teacher's responses only where solutions are made of them.

    Raises the errors of `iter_responses`.
    """
    samples: Iterable[TeacherResponse] = ()
    sampled = "solution" in needs and settings.solutions == "majority_sample"
    if sampled and data.folder is not None and response_files(data.folder, settings.split):
        samples = iter_responses(data.folder, settings.split)
    oracle = pocket_oracle(data.manifest) if settings.labels == "oracle" else None
    return make_references(data.rows, settings, samples, oracle)


def pocket_oracle(manifest: Manifest | None) -> Oracle:
    """Return the function that solves the rows that come from the pocket sources of a dataset; None for all others."""
    from tasks.seeds.truth import oracle_answer, pocket_sources

    pocket = frozenset[str]() if manifest is None else pocket_sources(manifest.settings)
    return lambda row: oracle_answer(row.text, row.source or "", row.source_id or "", pocket)


def make_references(
    rows: Sequence[TrainingRow],
    settings: DatasetSettings,
    samples: Iterable[TeacherResponse] = (),
    oracle: Oracle | None = None,
) -> References:
    """Return the references of rows. `oracle` is needed for `dataset.labels: oracle`. Pure.

    Texts that a prompt cannot show, blank ones and those of more than `MAX_VALUE_CHARS`, do not count, nor do answers that no
    response can equal, such as whole solutions. `samples` may have
    any order, and responses of other rows.
    """
    labelled = [_labelled(row, settings.labels, oracle) for row in rows]
    known = {row.id: _known(row, one) for row, one in zip(rows, labelled, strict=True)}
    best = _first_usable({row.id: row for row in rows}, known, samples)
    found = (
        _solved(row, one, settings.solutions, best.get(row.id))
        for row, one in zip(rows, labelled, strict=True)
    )
    return References(
        rows=tuple(found), labels=settings.labels, solutions=settings.solutions,
        from_source=settings.source is not None,
    )  # fmt: skip


def _labelled(row: TrainingRow, labels: LabelSource, oracle: Oracle | None) -> Reference:
    """Return the label of a row, without a solution."""
    label, source, absent = row.answer, "gold", "no ground truth"
    if _is_blank(label) and labels == "teacher_majority":
        label, source, absent = row.majority_answer, labels, "neither a ground truth nor a majority answer"
    elif _is_blank(label) and labels == "oracle" and oracle is not None:
        label, source, absent = oracle(row), labels, "no ground truth, and the oracle cannot solve it"
    if label is None or _is_blank(label):
        return Reference(lacking={"label": absent})
    if not is_comparable(label):
        return Reference(lacking={"label": "an answer that is a sentence or too long to be compared"})
    return Reference(label=label, label_source=source)


def _solved(
    row: TrainingRow, found: Reference, solutions: SolutionSetting, sample: TeacherResponse | None
) -> Reference:
    """Return the reference of a row with its solution."""
    if not _is_blank(row.solution) and len(row.solution or "") <= MAX_VALUE_CHARS:
        return replace(found, solution=row.solution, solution_source="gold")
    known = _known(row, found) is not None
    if sample is not None and solutions == "majority_sample":
        source: SolutionSource = "correct_sample" if known else "majority_sample"
        return replace(found, solution=sample.solution, solution_source=source)
    absent = "no solution" if _is_blank(row.solution) else f"a solution {_TOO_LONG}"
    if solutions == "majority_sample":
        absent += ", and no finished response of the teacher " + (
            "that has the known answer" if known else "in its majority cluster"
        )
    return replace(found, lacking={**found.lacking, "solution": absent})


def _known(row: TrainingRow, found: Reference) -> str | None:
    """Return the answer that is right for certain, also one that cannot be a label."""
    if found.label_source == "teacher_majority":
        return None
    return found.label if found.label is not None or _is_blank(row.answer) else row.answer


def _first_usable(
    rows: Mapping[str, TrainingRow], known: Mapping[str, str | None], samples: Iterable[TeacherResponse]
) -> dict[str, TeacherResponse]:
    """Return for each row the first response that can be its solution."""
    best = dict[str, TeacherResponse]()
    for sample in samples:
        row, before = rows.get(sample.row_id), best.get(sample.row_id)
        if row is None or (before is not None and before.index < sample.index):
            continue
        if _usable(sample, row, known[row.id]):
            best[row.id] = sample
    return best


def _usable(sample: TeacherResponse, row: TrainingRow, known: str | None) -> bool:
    if not sample.finished or not 0 < len(sample.solution) <= MAX_VALUE_CHARS:
        return False
    if known is None:
        return in_majority(row, sample.index)
    return sample.answer is not None and matches(sample.answer, known)


def _is_blank(text: str | None) -> bool:
    return not (text or "").strip()


# --- checks ------------------------------------------------------------------------------------------------------


def reference_problems(
    rows: Sequence[TrainingRow],
    references: References,
    needs: Collection[Need],
    without: Literal["refuse", "leave_out"],
) -> list[str]:
    """Return one problem for each need that rows lack, naming the first such row; with `leave_out` only if no row is left."""
    if without == "leave_out":
        gone = references.left_out(needs)
        if len(gone.indices) < len(rows):
            return []
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in gone.reasons.items())
        return [
            f"no row has the {' and the '.join(sorted(needs))} that the run needs: {reasons}: {_remedy(references, needs)}"
        ]
    return [
        problem for need in sorted(needs) if (problem := _lack_problem(rows, references, need)) is not None
    ]


def _lack_problem(rows: Sequence[TrainingRow], references: References, need: Need) -> str | None:
    lacking = [index for index, row in enumerate(references.rows) if need in row.lacking]
    if not lacking:
        return None
    more = (
        f" (and {counted(len(lacking) - 1, 'more row')} of {len(rows):,} without one)"
        if len(lacking) > 1
        else ""
    )
    return (
        f"row {rows[lacking[0]].id} has no {need} to train on: it has {references.rows[lacking[0]].lacking[need]}{more}:"
        f" {_remedy(references, [need])}, or set dataset.without to leave_out"
    )


def _remedy(references: References, needs: Collection[Need]) -> str:
    chosen = {"label": references.labels, "solution": references.solutions}
    remedies = {need: _REMEDIES[f"{need} {chosen[need]}"] for need in needs}
    return " and ".join((_NAME if references.from_source else remedies)[need] for need in sorted(needs))
