"""Where the settings of a source meet the file that loads it."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.config import FileSource, PocketSource, Source
from tasks.core.rows import Problem
from tasks.seeds import local_file, pocket_source


def source_problems(source: Source) -> Iterator[Problem]:
    """The rows of one source, in a fixed order. Raises `UserError` naming file, line and remedy."""
    match source:
        case PocketSource():
            return pocket_source.problems(source)
        case FileSource():
            return local_file.problems(source)


def source_digest(source: Source) -> str:
    """Identity of what the source holds: a file's content hash, a generator's version."""
    match source:
        case PocketSource():
            return pocket_source.digest(source)
        case FileSource():
            return local_file.digest(source)
