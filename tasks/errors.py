"""The exception for errors that the user can fix."""

from __future__ import annotations


class UserError(Exception):
    """Invalid input or setting. The message is one sentence: what, where (file, line, row id), what to do."""
