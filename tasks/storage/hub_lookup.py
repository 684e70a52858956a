"""Look up models and data sets on the Hugging Face hub before a run, all at once and within seconds; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from tasks.storage.hub import hub_token

REACH_S = 4.0
"""Timeout of the first request, which finds out whether the hub responds at all."""
LOOKUP_S = 6.0
AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HubItem:
    """A model or data set that a run reads from the hub. `setting`: the key or source that names it, for messages."""

    setting: str
    kind: Literal["model", "dataset"]
    hub_id: str
    revision: str | None


def hub_problems(items: Iterable[HubItem]) -> list[str]:
    """Return a problem for every item that the hub does not have, or a single one if the hub does not respond.

    Models in the local cache are not looked up.
    """
    wanted = [item for item in dict.fromkeys(items) if not _is_cached(item)]
    if not wanted:
        return []
    silence = _silence()
    if silence is not None:
        names = ", ".join(dict.fromkeys(f"{item.hub_id} ({item.setting})" for item in wanted))
        return [
            f"the Hugging Face hub cannot be reached ({silence}), but this run reads from it: {names}: check the network, or give"
            " local folders (`model` of a role, `path` of a source)"
        ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [problem for problem in pool.map(_lookup, wanted) if problem is not None]


def _is_cached(item: HubItem) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if item.kind != "model":
        return False
    return isinstance(try_to_load_from_cache(item.hub_id, "config.json", revision=item.revision), str)


def _silence() -> str | None:
    """Return why the hub does not respond, or None if it does."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=REACH_S)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None


def _lookup(item: HubItem) -> str | None:
    """Return the problem of one item, or None if the hub has it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(token=hub_token())
    ask: Any = api.model_info if item.kind == "model" else api.dataset_info
    where = f"{item.setting}: the Hugging Face hub"
    try:
        ask(item.hub_id, revision=item.revision, timeout=LOOKUP_S)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = "" if item.revision is None else f" at revision {item.revision}"
        return f"{where} has no {item.kind} {item.hub_id}{at}, or it is not public: correct its name or revision, or set HF_TOKEN"
    except Exception as error:  # the libraries' errors have no common base class
        text = " ".join(str(error).split())[:160] or type(error).__name__
        return f"{where} gives no information on {item.hub_id} ({text}): check the network and start again"
    return None
