"""What a file in this folder offers to become a kind of source: its settings, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from tasks.core.config import Source
from tasks.core.rows import Problem, Reject, Tier

Outcome = Problem | Reject


class KindSettings(Source):
    """Base of the settings of a kind: unknown keys are fatal. A subclass gives `kind` its one value."""

    model_config = ConfigDict(extra="forbid")

    @property
    def is_remote(self) -> bool:
        """Whether loading it reads from the hub."""
        return False

    @property
    def declared(self) -> tuple[Tier, int] | None:
        """Tier and most problems of a source that was not read, as far as the settings say both."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a source gave, in a fixed order: problems, and for every row that was drawn and left out a reject."""

    outcomes: tuple[Outcome, ...]
    seen: int  # rows of the source that were looked at
    target: int | None = None  # problems wanted; None: all there are

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return sum(isinstance(outcome, Problem) for outcome in self.outcomes)

    @property
    def shortfall(self) -> int:
        """How many of the wanted problems there are not."""
        return max(0, (self.target or 0) - self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One kind of source; a file in `tasks/seeds/` that calls its own `SOURCE` is found by `registry`.

    All three functions take the settings and raise `UserError`, naming source, place and remedy. `check` finds what
    can be found wrong in seconds, or is None when nothing can be.
    """

    settings: type[KindSettings]
    load: Callable[[Any], Loaded]
    digest: Callable[[Any], str]  # identity of what the source holds; settings are in the fingerprint anyway
    check: Callable[[Any], None] | None = None

    @property
    def kind(self) -> str:
        """The value of `kind` in a profile."""
        return self.settings.model_fields["kind"].default
