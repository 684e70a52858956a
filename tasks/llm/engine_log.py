"""What the log of a vLLM engine says of its start and of a failure."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import shorten

LOG_PREFIX = re.compile(r"^(\([^)]*\)\s*)?((INFO|WARNING|ERROR|DEBUG)\s+[\d-]+ [\d:.]+ )?(\[[^\]]+\]\s*)?")
COMPLAINT = re.compile(r"\b(\w+Error|\w*Exception|error):\s*\S")
STEP = re.compile(
    r"(Downloading|Compiling|Capturing|torch\.compile|Starting to load|Model loading|Loading (model|weights|safetensors))\b",
    re.IGNORECASE,
)
"""What vLLM logs of the steps of its start; all other lines are of no interest while one waits."""
LINE_CHARS, COMPLAINT_CHARS = 100, 400
SECONDARY_ERRORS = (
    "Engine core initialization failed",
    "See root cause above",
    "WorkerProc initialization failed",
)


def is_secondary(text: str) -> bool:
    """Whether an error refers to another one, which is in the log."""
    return any(phrase in text for phrase in SECONDARY_ERRORS)


def last_error(text: str) -> str:
    """Return the last error in the text of a log that does not refer to another one; empty if there is none."""
    errors = [line for line in _lines(text) if COMPLAINT.search(line) and not is_secondary(line)]
    return shorten(errors[-1], COMPLAINT_CHARS, placeholder=" ...") if errors else ""


def last_line(text: str) -> str:
    """Return the last line of the text of a log."""
    return shorten((_lines(text) or ["the log is empty"])[-1], COMPLAINT_CHARS, placeholder=" ...")


def last_complaint(log: Path) -> str:
    """Return the line of `log` that best explains a failure: the last error, else the last line."""
    text = _tail(log)
    return last_error(text) or last_line(text)


def last_step(log: Path) -> str:
    """Return the last line of `log` about a step of the engine's start, shortened at a word; empty if there is none."""
    steps = [line for line in _lines(_tail(log)) if STEP.match(line)]
    return shorten(steps[-1], LINE_CHARS, placeholder=" ...") if steps else ""


def _lines(text: str) -> list[str]:
    """Return the lines of a log without their prefixes; a progress bar counts with its last state."""
    lines = [LOG_PREFIX.sub("", line.rpartition("\r")[2]).strip() for line in text.split("\n")]
    return [line for line in lines if line]


def _tail(log: Path, size: int = 100_000) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", "replace")
