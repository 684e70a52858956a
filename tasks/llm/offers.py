"""What a server at a `base_url` says about a role's model, and whether it fits what the other servers say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.config import ModelRole
from tasks.errors import UserError
from tasks.llm.endpoint import BadStatus, ConnectionFailed, get, printable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MODELS_TIMEOUT_S = 15.0
SET_BASE_URL = "set `base_url` to an OpenAI-compatible address, usually ending in /v1"
NAME_CHARS = 100


class Silent(UserError):
    """The server does not respond, or not with a list of models, which may pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """How a server serves a model: whether it is vLLM, and the context length, if it reports one."""

    is_vllm: bool
    context: int | None


async def request_offer(
    client: AsyncOpenAI, base_url: str, role: ModelRole, timeout_s: float = MODELS_TIMEOUT_S
) -> Offer:
    """Request the list of models. Raises `UserError` unless the server answers (`Silent`) and offers `role.model`."""
    where = f"model server {base_url}/models"
    try:
        answer = await get(client, "/models", timeout_s)
    except BadStatus as error:
        if error.status in (401, 403):
            raise UserError(
                f"{where} rejects the API key (status {error.status}): set {role.api_key_env} in the environment"
            ) from error
        kind = Silent if error.status >= 500 or error.status in (408, 429) else UserError
        raise kind(f"{where} does not return a list of models ({error}): {SET_BASE_URL}") from error
    except (ConnectionFailed, TimeoutError, ValueError) as error:
        raise Silent(
            f"{where} does not answer ({str(error) or 'timeout'}): start it, or correct `base_url` in the profile"
        ) from error
    try:
        entries = {entry["id"]: entry for entry in json.loads(answer)["data"]}
        names = sorted(entries)
        offered = ", ".join(_short(printable(name)) for name in names[:20])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{where} does not return a list of models: {SET_BASE_URL}") from error
    if role.model not in entries:
        raise UserError(
            f"{where} does not offer {role.model!r}: set `model` to one of {offered}"
            if names
            else f"{where} offers no model: {SET_BASE_URL}"
        )
    return _offer(entries[role.model])


async def check_offer(client: AsyncOpenAI, base_url: str, role: ModelRole, expected: Offer) -> None:
    """Raise `UserError` unless the server offers the role's model as `expected`."""
    if (wrong := difference(await request_offer(client, base_url, role), expected)) is not None:
        raise UserError(f"model server {base_url} differs from the others in {wrong}")


def difference(one: Offer, other: Offer) -> str | None:
    """Return in what two servers of a model differ that decides its answers, or None."""
    if one.is_vllm != other.is_vllm:
        return "what they are, since only one is vLLM"
    contexts = one.context, other.context
    if None not in contexts and one.context != other.context:
        return f"their context length ({other.context:,} and {one.context:,} tokens)"
    return None


def _offer(entry: Any) -> Offer:
    context = entry.get("max_model_len")
    return Offer(
        is_vllm=entry.get("owned_by") == "vllm",
        context=context if type(context) is int and context > 0 else None,
    )


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 4]} ..."
