"""The stale rows of a dataset: their problems, their kept responses, and the settings that identify a selection of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.identity import fingerprint
from tasks.llm.ledger import Ledger
from tasks.rows import Example, Given, Problem, Response, Strategy
from tasks.runtime.driver import Run
from tasks.seeds.intake import text_key
from tasks.seeds.own_file import OwnProblems
from tasks.storage.manifest import Manifest
from tasks.storage.versions import read_responses, splits_of
from tasks.uncertainty.annotation import AnnotationRecipe, Cause

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Review:
    """A dataset and the rows to annotate. `causes` has an entry for every stale row and for every `new` problem."""

    dataset: Path
    manifest: Manifest
    recipe: AnnotationRecipe
    rows: Mapping[str, Example]  # by id, in the order of the files
    new: Mapping[str, Problem]  # by id
    given: Mapping[str, Given]  # rows of the file of the new problems, by id
    causes: Mapping[str, Cause]
    answers: int  # entries of the ledger when the review was made

    @property
    def to_sample(self) -> tuple[Problem, ...]:
        """Stale problems whose responses cannot be reused, and new problems. Of rows with the same text, the first one."""
        old = (problem_of(self.rows[row_id]) for row_id in self.rows if self._needs(row_id, True))
        return (*(row for row in old if row.id not in self.twins), *self.new.values())

    @property
    def to_cluster(self) -> tuple[Problem, ...]:
        """Stale problems whose responses are still valid and only need clustering. Of rows with the same text, the first one."""
        rows = (problem_of(self.rows[row_id]) for row_id in self.rows if self._needs(row_id, False))
        return tuple(row for row in rows if row.id not in self.twins)

    @cached_property
    def twins(self) -> Mapping[str, str]:
        """Stale rows with the text of an earlier stale row that needs the same: their ids, and the id of that row."""
        first: dict[tuple[str, bool], str] = {}
        found = {}
        for row_id, row in self.rows.items():
            if (cause := self.causes.get(row_id)) is not None:
                earlier = first.setdefault((row.problem, cause.needs_samples), row_id)
                if earlier != row_id:
                    found[row_id] = earlier
        return found

    def _needs(self, row_id: str, samples: bool) -> bool:
        return row_id in self.causes and self.causes[row_id].needs_samples is samples


def new_problems(file: OwnProblems, rows: Iterable[Example]) -> dict[str, Problem]:
    """Return the problems of a file whose text (ignoring case and spacing) is not in the dataset, by id."""
    known = {text_key(row.problem) for row in rows}
    found: dict[str, Problem] = {}
    for row in file.problems:
        if text_key(row.text) not in known:
            known.add(text_key(row.text))
            found[row.id] = row
    return found


def ledger_size(run: Run) -> int:
    """Return the number of entries in the ledger."""
    if not run.ledger_path.exists():
        return 0
    with Ledger(run.ledger_path) as ledger:
        return len(ledger)


def problem_of(row: Example) -> Problem:
    """Return the problem of an exported row, with the fields that an annotation needs."""
    return Problem(
        id=row.id,
        text=row.problem,
        tier=row.tier,
        source=row.source,
        source_id=row.source_id,
        licence=row.licence,
        role=row.role,
        root_id=row.root_id,
        parent_id=row.parent_id,
        round=row.round,
        strategy=Strategy(row.strategies[-1]) if row.strategies else None,
        answer=row.answer,
        benchmark_root=row.benchmark_root,
        model=row.evolver_model,
        prompt=row.evolver_prompt,
    )


def kept_responses(review: Review, wanted: set[str]) -> dict[str, list[Response]]:
    """Return the dataset's responses to the problems with these ids."""
    found: dict[str, list[Response]] = defaultdict(list)
    for split in splits_of(review.manifest):
        for response in read_responses(review.dataset, split):
            if response.problem_id in wanted:
                found[response.problem_id].append(response)
    return found


def selection_settings(run: Run, review: Review, rows: Sequence[Problem]) -> dict[str, Any]:
    """Return settings that identify a selection of a dataset's rows."""
    texts = [json.dumps([row.id, row.answer]) for row in rows]
    return {
        "dataset": review.manifest.fingerprint,
        "rows": fingerprint(stage="rows", version=VERSION, settings={}, inputs=texts),
        "shard_rows": run.config.run.shard_rows,
    }
