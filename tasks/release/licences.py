"""Licences that a release may have, by their identifier on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tasks.errors import UserError

_SPDX: Final = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "GPL-3.0", "LGPL-3.0", "AGPL-3.0", "Unlicense", "CC0-1.0",
        "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0",
        "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0",
        "PDDL-1.0", "ODbL-1.0", "ODC-By-1.0",
    )
}  # fmt: skip
_ON_THE_HUB: Final = {"odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"}


def is_known(licence: str) -> bool:
    """Whether a licence is an identifier of the hub whose terms have a page."""
    return licence in _SPDX or licence in _ON_THE_HUB


def terms(licence: str) -> str:
    """Return the address of a licence's text. Raises `UserError` if it is unknown."""
    if not is_known(licence):
        raise UserError(
            f"the licence {licence!r} is unknown: give an identifier of the Hugging Face hub such as cc-by-4.0 or apache-2.0"
        )
    return f"https://spdx.org/licenses/{_SPDX.get(licence) or _ON_THE_HUB[licence]}.html"


def licence_text(name: str, licence: str, others: Iterable[tuple[str, str]]) -> str:
    """Return the text of a release's file LICENSE: the licence of the whole, and that of each source, as (source, licence)."""
    lines = [f"{name} is provided under {licence}: {terms(licence)}", ""]
    listed = sorted(set(others))
    if listed:
        lines += ["Each row names its source and licence. The terms of the sources continue to apply:", ""]
        lines += [f"- {source}: {found}, {terms(found)}" for source, found in listed] + [""]
    return "\n".join(lines)
