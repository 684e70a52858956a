"""Types of the functions that report progress and waiting. Imports nothing else."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with (done, total), at most once a second and once at the end."""


OnWait = Callable[[float, str], None]
"""Called every few seconds while a model starts, with the seconds waited so far and the step of its start, if known."""


WAIT_NOTICE_S = 3.0
