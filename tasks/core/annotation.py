"""What a row's annotation was made with, in two fingerprints, and what has changed since. Pure.

**Sampling fingerprint** of a row: the recipe of stage `sample` that drew its responses, that is the stage's code version,
the teacher's identity and settings, the prompt's fingerprint, the number of samples and how they are drawn. Every
response's seed hangs on it too, so equal fingerprints mean the same requests.

**Annotation fingerprint** of a row: its sampling fingerprint and the recipe of stage `cluster` that turned the responses
into clusters and a weight (code version, cluster settings). For a row with a pair of answers that a judge was asked about,
the judge's identity, settings and prompt take part; for all others they do not, since they had no say. So a new
teacher makes every row stale, another judge only the rows that it judged.

Neither knows of paths, endpoints, GPU counts or the row's position. A model of the hub is known by its `revision`: name
one, or a change of `main` goes unseen. The problem's text needs no part: its hash is the row's id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.identity import fingerprint
from tasks.core.rows import Example

VERSION = 1


class Cause(StrEnum):
    """Why a row has to be annotated: the first that holds."""

    NEW = "new"  # the dataset lacks this problem
    UNKNOWN = "unknown"  # it says nothing of its annotation
    TEACHER = "teacher"  # sampled from another teacher, or another revision of it
    TEACHER_PROMPT = "teacher_prompt"
    SAMPLING = "sampling"  # other settings, or another version of the stage
    JUDGE = "judge"  # judged by another model
    JUDGE_PROMPT = "judge_prompt"
    CLUSTERING = "clustering"  # other settings of clusters or judge, or another version of the stage

    @property
    def needs_samples(self) -> bool:
        """Whether the responses that there are cannot be used again."""
        return self not in (Cause.JUDGE, Cause.JUDGE_PROMPT, Cause.CLUSTERING)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRecipe:
    """How rows are annotated now. The three recipes are hashes (see the head of this file); the models and prompts are
    named beside them only to tell what changed."""

    sampling: str
    symbolic: str  # recipe of the clusters of a row that no judge saw
    judged: str  # recipe of the clusters of a row with judged pairs
    teacher: str
    teacher_prompt: str
    judge: str
    judge_prompt: str

    def fingerprint(self, *, judged: bool) -> str:
        """Annotation fingerprint of a row (64 hex digits)."""
        return fingerprint(
            stage="annotation", version=VERSION, settings={"judged": judged},
            inputs=(self.sampling, self.judged if judged else self.symbolic),
        )  # fmt: skip

    @property
    def fingerprints(self) -> dict[str, str]:
        """All that a row of today can carry, by name, for the manifest."""
        return {
            "sampling": self.sampling,
            "annotation": self.fingerprint(judged=False),
            "annotation_judged": self.fingerprint(judged=True),
        }

    def why_stale(self, row: Example) -> Cause | None:
        """Why the row has to be annotated again; None when it need not."""
        judged = row.equivalence_judge_model is not None
        if row.annotation_fingerprint == self.fingerprint(judged=judged):
            return None
        if not row.annotation_fingerprint or not row.sampling_fingerprint:
            return Cause.UNKNOWN
        if row.sampling_fingerprint != self.sampling:
            if row.teacher_model != self.teacher:
                return Cause.TEACHER
            return Cause.TEACHER_PROMPT if row.teacher_prompt != self.teacher_prompt else Cause.SAMPLING
        if judged and row.equivalence_judge_model != self.judge:
            return Cause.JUDGE
        if judged and row.equivalence_judge_prompt != self.judge_prompt:
            return Cause.JUDGE_PROMPT
        return Cause.CLUSTERING


def stale_rows(rows: Iterable[Example], recipe: AnnotationRecipe) -> dict[str, Cause]:
    """id -> cause, of the rows that have to be annotated again, in their order."""
    causes = ((row.id, recipe.why_stale(row)) for row in rows)
    return {row_id: cause for row_id, cause in causes if cause is not None}
