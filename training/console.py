"""Lines that a training run prints."""

from __future__ import annotations


def log_line(text: str) -> None:
    """Print one log line, above the progress bar if there is one."""
    print(f"train: {text}", flush=True)
