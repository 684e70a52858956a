"""Names of the concurrency limits that a run occupies: one for this machine's engines, one for each model server."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from tasks.config import Config, ModelRole
from tasks.runtime.preflight import ROLES

Work = Literal["build", "distill", "annotate", "reannotate", "evaluate"]


def node_limit(host: str | None = None) -> str:
    """Return the name of the limit of runs that use the engines of a machine, by default of this one."""
    return f"sure-math-node-{_plain(host or platform.node())}"


def server_limit(base_url: str) -> str:
    """Return the name of the limit of requests in flight at a model server."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"sure-math-server-{_plain(parts.hostname or '')}-{port}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def wanted_slots(config: Config, work: Work) -> dict[str, int]:
    """Return the slots that a run occupies of each limit, by name: one of this machine's if it starts engines here, and as many
    of a server's as the largest number of requests that one of its roles has in flight there."""
    slots: dict[str, int] = {}
    if work == "evaluate":
        servers, local = (
            [(config.evaluate.base_url, config.evaluate.concurrency)],
            config.evaluate.base_url is None,
        )
    elif work == "distill":
        servers, local = [], config.distill is not None and config.distill.ray_address is None
    else:
        roles: list[ModelRole] = [getattr(config.models, name) for name in ROLES[work]]
        servers, local = (
            [(role.base_url, role.concurrency) for role in roles],
            any(role.serve for role in roles),
        )
        local |= work == "build" and config.distill is not None and config.distill.in_build
    if local:
        slots[node_limit()] = 1
    for base_url, concurrency in servers:
        for address in addresses(base_url):
            name = server_limit(address)
            slots[name] = max(slots.get(name, 0), concurrency)
    return slots


def addresses(base_url: str | Sequence[str] | None) -> Sequence[str]:
    """Return the addresses of a setting `base_url`."""
    return (base_url,) if isinstance(base_url, str) else base_url or ()
