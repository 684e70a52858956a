"""Lines that a training run prints."""

from __future__ import annotations

from tasks.text import visible


def log_line(text: str) -> None:
    """Print one log line, with controls made visible."""
    print(f"train: {visible(text)}", flush=True)
