"""Progress of a stage: periodic log lines, and artifacts of the Prefect UI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.processes.pace import Pace, duration
from tasks.processes.ticker import NOTICE_S
from tasks.text import counted

UI_SECONDS = 1.0  # a progress update costs about 13 ms: at most one a second
LOG_SECONDS = NOTICE_S
TABLE_SECONDS = 10.0


class Progress:
    """Rows done, total, rate and remaining time of one stage.

    `update(done)` may be called at any frequency: the UI is updated at most once a second, the log every eight seconds. The rate
    is measured from the first call of `update`, so that it excludes finished shards and the start of a model.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        unit: str = "row",
    ) -> None:
        self.stage, self.total, self.log, self.clock, self.unit = stage, total, log, clock, unit
        self.base = self.done = 0
        self.pace = Pace(clock)
        self.shown_at = self.logged_at = clock()
        key = "".join(c if c.isalnum() else "-" for c in stage.lower()) + "-progress"
        created = create_progress_artifact(progress=self._percent(0), key=key, description=self.line())
        self.artifact = created if isinstance(created, UUID) else UUID(str(created))

    def line(self) -> str:
        """Return the state as text: 'evolve-1: 120 of 500 rows, 14.2/s, about 27 s left'."""
        text, rate = f"{self.stage}: {self.done:,} of {counted(self.total, self.unit)}", self.pace.rate()
        if rate is None:
            return text
        left = self.total - self.done
        return f"{text}, {rate:,.1f}/s" + (f", about {duration(left / rate)} left" if left > 0 else "")

    def update(self, done: int) -> None:
        """Report that `done` rows of the current shard are done (`base` counts those of earlier shards)."""
        self.done, now = self.base + done, self.clock()
        self.pace.note(self.done)
        if now - self.shown_at >= UI_SECONDS:
            self.shown_at = now
            self._show()
        if now - self.logged_at >= LOG_SECONDS:
            self.logged_at = now
            self.log(self.line())

    def shard_done(self, items: int) -> None:
        """Report that a shard of `items` rows has been written, or was found finished if there was no update."""
        if self.done == self.base:
            self.pace = Pace(self.clock)
        self.base += items
        self.done = self.base
        self._show()

    def finish(self) -> None:
        """Report that all shards have been written."""
        self._show(percent=100.0)
        self.log(self.line())

    def _percent(self, done: int) -> float:
        return 100.0 if self.total == 0 else min(100.0, 100.0 * done / self.total)

    def _show(self, percent: float | None = None) -> None:
        update_progress_artifact(
            artifact_id=self.artifact,
            progress=self._percent(self.done) if percent is None else percent,
            description=self.line(),
        )


class LiveTable:
    """A table artifact of the Prefect UI that is updated while a stage runs, once it has rows.

    `show` may be called at any frequency; the table is updated every ten seconds, and always when `last` is set, if it changed.
    """

    def __init__(self, key: str, description: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.key, self.description, self.clock = key, description, clock
        self.artifact: UUID | None = None
        self.shown = -TABLE_SECONDS
        self.table: list[dict[str, Any]] = []

    def show(self, rows: Callable[[], Sequence[Mapping[str, Any]]], *, last: bool = False) -> None:
        """Replace the rows of the table. `rows` is called only when an update is due."""
        now = self.clock()
        if now - self.shown < TABLE_SECONDS and not last:
            return
        self.shown, table = now, [dict(row) for row in rows()]
        if table == self.table:
            return
        self.table = table
        if self.artifact is None:
            created = create_table_artifact(table=table, key=self.key, description=self.description)
            self.artifact = created if isinstance(created, UUID) else UUID(str(created))
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self.artifact, ArtifactUpdate(data=json.dumps(table)))
