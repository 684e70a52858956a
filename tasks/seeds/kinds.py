"""The interface of a kind of source: its settings, and the functions that a file in this folder provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from tasks.config import Source
from tasks.rows import Problem, Reject, Tier

SeedOutcome = Problem | Reject


class KindSettings(Source):
    """Base class of the settings of a kind; rejects unknown keys. A subclass sets `kind` to its only value."""

    model_config = ConfigDict(extra="forbid")

    @property
    def is_remote(self) -> bool:
        """Whether loading this source reads from the hub."""
        return False

    @property
    def declared(self) -> tuple[Tier | None, int] | None:
        """Tier and maximum number of problems before the source is read; None if the settings do not give both. The tier may
        be None for curated problems, whose cost does not depend on it."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The rows of a source in a fixed order: problems, and a reject for every drawn row that was not accepted."""

    outcomes: tuple[SeedOutcome, ...]
    seen: int  # number of rows read from the source
    target: int | None = None  # requested number of problems; None: all

    @property
    def problems(self) -> int:
        """The number of problems."""
        return sum(isinstance(outcome, Problem) for outcome in self.outcomes)

    @property
    def shortfall(self) -> int:
        """The number of requested problems that the source does not have."""
        return max(0, (self.target or 0) - self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One kind of source. `registry` discovers the files in `tasks/seeds/` that define one as `SOURCE`.

    All three functions take the settings and raise `UserError` with source, location and remedy. `check` detects errors
    that can be found within seconds; None if there are no such errors.
    """

    settings: type[KindSettings]
    load: Callable[[Any], Loaded]
    digest: Callable[
        [Any], str
    ]  # identity of the source's content; its settings are always in the fingerprint
    check: Callable[[Any], None] | None = None

    @property
    def kind(self) -> str:
        """The value of `kind` in a profile."""
        return self.settings.model_fields["kind"].default
