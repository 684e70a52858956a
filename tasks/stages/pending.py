"""What of a stage is still to be made: neither on disk, nor made by an earlier run of the very same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.identity import fingerprint
from tasks.io.artifacts import Store
from tasks.stages.driver import Stage

Content = Callable[[int], str]
"""Digest of all that a shard is made of, beside the recipe of its stage."""


def rows_digest(rows: Iterable[Any]) -> str:
    """SHA-256 over rows and other values whose `repr` says all there is to them, in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(row).encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


class Pending:
    """Which shards of a stage are left to be made, and which an earlier run of the stage made from the same content.

    That other run had other settings or inputs, else its folder would be this one: one seed that changed, say, which is in
    none of the shards that are taken from it.
    """

    def __init__(self, store: Store, stage: Stage, content: Content) -> None:
        self._store, self._stage, self._content = store, stage, content
        self._keys: dict[int, str] = {}

    def key(self, index: int) -> str:
        """Identity of what shard `index` holds."""
        if index not in self._keys:
            inputs = (self._stage.recipe, self._content(index))
            self._keys[index] = fingerprint(stage="shard", version=1, settings={}, inputs=inputs)
        return self._keys[index]

    def earlier(self, index: int) -> Path | None:
        """The folder of a shard of the same content, None when there was none at the first question."""
        return self._earlier.get(self.key(index)) if self._earlier else None

    def is_left(self, index: int) -> bool:
        """Whether the shard has to be made."""
        folder = self._store.folder(self._stage.name, self._stage.fingerprint)
        return self._store.finished_shard(folder, index) is None and self.earlier(index) is None

    @cached_property
    def _earlier(self) -> dict[str, Path]:
        return self._store.shards_by_key(self._stage.name)
