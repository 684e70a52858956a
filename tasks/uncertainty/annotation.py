"""Fingerprints of a row's annotation, and the reason why a row is stale. Pure.

**Sampling fingerprint**: the recipe of stage `sample` that produced the row's responses, i.e. the stage's code version,
the teacher's identity and settings, the prompt's fingerprint, the number of samples and the sampling parameters. The
seeds of the responses are derived from it too, so equal fingerprints mean identical requests.

**Annotation fingerprint**: the sampling fingerprint plus the recipe of stage `cluster` that turned the responses into
clusters and a weight (code version, cluster settings). The judge's identity, settings and prompt are included only for
rows with at least one judged pair of answers. A new teacher therefore makes every row stale, a new judge only the rows
that were judged.

Neither fingerprint depends on paths, endpoints, GPU counts or the row's position. A hub model is identified by its
`revision`: if none is given, a change of its `main` branch is not detected. The problem's text is not included, because
its hash is the row's id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tasks.identity import fingerprint
from tasks.rows import Example

VERSION = 1


class Cause(StrEnum):
    """Why a row has to be annotated; the first cause that applies."""

    NEW = "new"  # the dataset lacks this problem
    UNKNOWN = "unknown"  # the row has no fingerprints
    TEACHER = "teacher"  # sampled from another teacher, or another revision of it
    TEACHER_PROMPT = "teacher_prompt"
    SAMPLING = "sampling"  # different settings, or another version of the stage
    JUDGE = "judge"  # judged by another model
    JUDGE_PROMPT = "judge_prompt"
    CLUSTERING = "clustering"  # different cluster or judge settings, or another version of the stage

    @property
    def needs_samples(self) -> bool:
        """Whether the existing responses cannot be reused."""
        return self not in (Cause.JUDGE, Cause.JUDGE_PROMPT, Cause.CLUSTERING)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRecipe:
    """The current annotation recipe.

    `sampling`, `symbolic` and `judged` are hashes (see the module docstring). The models and prompts are listed as well
    so that `why_stale` can name what changed.
    """

    sampling: str
    symbolic: str  # cluster recipe of rows without judged pairs
    judged: str  # cluster recipe of rows with judged pairs
    teacher: str
    teacher_prompt: str
    judge: str
    judge_prompt: str

    def fingerprint(self, *, judged: bool) -> str:
        """Return the annotation fingerprint (64 hex digits) of rows with or without judged pairs."""
        return fingerprint(
            stage="annotation", version=VERSION, settings={"judged": judged},
            inputs=(self.sampling, self.judged if judged else self.symbolic),
        )  # fmt: skip

    @property
    def fingerprints(self) -> dict[str, str]:
        """All fingerprints that a current row can have, by name, for the manifest."""
        return {
            "sampling": self.sampling,
            "annotation": self.fingerprint(judged=False),
            "annotation_judged": self.fingerprint(judged=True),
        }

    def why_stale(self, row: Example) -> Cause | None:
        """Return why the row has to be annotated again, or None if it is up to date."""
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
    """Return {row id: cause} of the rows that have to be annotated again, in input order."""
    causes = ((row.id, recipe.why_stale(row)) for row in rows)
    return {row_id: cause for row_id, cause in causes if cause is not None}
