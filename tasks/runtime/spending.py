"""What the answers of a run cost, by role and by model, and the time of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.llm.ledger import Ledger
from tasks.processes.pace import duration
from tasks.runtime.live_tables import RoleCost, money, price, role_row
from tasks.storage.cards import escape_markdown

if TYPE_CHECKING:
    from tasks.evaluate_settings import Prices
    from tasks.runtime.driver import Run

COLUMNS = (
    "what", "requests", "from the ledger", "prompt tokens", "output tokens", "projected tokens", "cost", "projected cost", "time",
)  # fmt: skip


def cost_table(run: Run, roles: Sequence[RoleCost], seconds: Mapping[str, float]) -> list[dict[str, str]]:
    """Return one row for each role that worked in this run, one for each model that answered requests, over all runs of the
    output folder, and one for the time of each stage."""
    rows = [
        *map(role_row, roles),
        *model_rows(run),
        *({"what": f"stage {stage}", "time": duration(time)} for stage, time in seconds.items()),
    ]
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows]


def model_rows(run: Run) -> list[dict[str, str]]:
    """Return what the answers of each model in the ledger cost, at the price of its roles if that is one."""
    if not run.ledger_path.exists():
        return []
    with Ledger(run.ledger_path) as ledger:
        spent = ledger.spent()
    return [
        {
            "what": escape_markdown(f"{model_roles(run, model)}, all runs ({model})"), "requests": f"{found.requests:,}",
            "prompt tokens": f"{found.prompt_tokens:,}", "output tokens": f"{found.completion_tokens:,}",
            "cost": money(None if prices is None else price(prices, found.prompt_tokens, found.completion_tokens)),
        }
        for model, found in spent.items()
        for prices in [_prices(run, model)]
    ]  # fmt: skip


def model_roles(run: Run, model: str) -> str:
    """Return the roles of a model in this run, as text."""
    return ", ".join(role for role, used in run.identities.items() if used == model) or "earlier runs"


def _prices(run: Run, model: str) -> Prices | None:
    """Return the prices of a model's roles; None if they differ or are not given."""
    roles = [role for role, used in run.identities.items() if used == model]
    found = {getattr(run.config.models, role).prices for role in roles}
    return found.pop() if len(found) == 1 else None
