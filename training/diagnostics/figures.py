"""Figures as files: the same figure always gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["figure_files"]


def figure_files(figure: Any, name: str) -> dict[str, bytes]:
    """Return a figure of matplotlib as SVG and PNG, by file name."""
    import matplotlib as mpl

    found = {}
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
            found[f"{name}.{kind}"] = buffer.getvalue()
    return found
