"""vLLM's OpenAI server: `python -m tasks.llm.vllm_server` takes the options of `vllm serve`.

On a CPU vLLM spawns its engine process, which then imports vLLM a second time: about half of the CPU time of a start
(speed/server_start.py). Here it is forked instead. Nothing has used a thread pool of torch by then, and the engine opens its
own event loop and sockets.
"""

from __future__ import annotations

import os
from typing import Any

from tasks.processes.imports import fast_imports


def fork_engine(platform: Any) -> None:
    """Let engines of the vLLM platform be forked: its check of a configuration demands a spawned process."""
    demand_spawn = platform.check_and_update_config

    def check_and_update_config(config: Any) -> None:
        demand_spawn(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = staticmethod(check_and_update_config)


def main() -> None:
    """Serve a model, with the options of the command line."""
    with fast_imports():
        from vllm.entrypoints.launchers.api_server import entry
        from vllm.platforms import current_platform
    if current_platform.is_cpu():
        fork_engine(type(current_platform))
    entry.main()


if __name__ == "__main__":
    main()
