"""Clean shutdown of event loops."""

from __future__ import annotations

import asyncio


async def cancel_the_others() -> None:
    """Cancel all other tasks of the running event loop and wait until they have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
