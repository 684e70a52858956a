"""Which shards of a stage are still to be made: not on disk, and not made from the same rows by an earlier run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.identity import fingerprint
from tasks.runtime.driver import Stage
from tasks.storage.artifacts import Store

Content = Callable[[int], str]
"""Returns a digest of everything that a shard is made from, except for the recipe of its stage."""


def rows_digest(rows: Iterable[Any]) -> str:
    """Return the SHA-256 digest of a sequence of values whose `repr` describes them completely."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(row).encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


class Pending:
    """Which shards of a stage have to be made, and which an earlier run of the stage made from the same content.

    The earlier run had other settings or inputs, since otherwise its folder would be the same: for example, one seed has
    changed since, and the shards without this seed are reused.
    """

    def __init__(self, store: Store, stage: Stage, content: Content) -> None:
        self._store, self._stage, self._content = store, stage, content
        self._keys: dict[int, str] = {}

    def key(self, index: int) -> str:
        """Return the identity of the content of shard `index`."""
        if index not in self._keys:
            inputs = (self._stage.recipe, self._content(index))
            self._keys[index] = fingerprint(stage="shard", version=1, settings={}, inputs=inputs)
        return self._keys[index]

    def earlier(self, index: int) -> Path | None:
        """Return the folder of an earlier shard with the same content, or None if there is none, or it is damaged. The earlier
        shards are listed once."""
        found = self._earlier.get(self.key(index)) if self._earlier else None
        return found if found is not None and self._store.is_intact(found) else None

    def is_left(self, index: int) -> bool:
        """Whether the shard has to be made."""
        folder = self._store.folder(self._stage.name, self._stage.fingerprint)
        return self._store.finished_shard(folder, index) is None and self.earlier(index) is None

    @cached_property
    def _earlier(self) -> dict[str, Path]:
        return self._store.shards_by_key(self._stage.name)
