"""The one exception that means: the person who started this can mend it."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or setting. The message is one sentence: what, where (file, line, row id), what to do."""
