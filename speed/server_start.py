"""Start of a model server on a CPU: `tasks.llm.vllm_server` against vLLM's own program, in turn.

`PYTHONPATH=. python speed/server_start.py --repeats 3` prints for each the seconds until it answers, the CPU seconds of all its
processes by then, and their resident memory (shared pages counted once).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

import httpx
import psutil

from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.servers import free_port, server_command
from tasks.llm.vllm_options import engine_environment

OURS, PLAIN = "tasks.llm.vllm_server", "vllm.entrypoints.openai.api_server"


def measure(module: str, environment: Mapping[str, str]) -> tuple[float, float, float]:
    """Start a server of the pocket judge and end it; return wall and CPU seconds until it answers, and its memory in MB."""
    role = load_config("pocket").models.quality_judge
    assert role.serve is not None
    port = free_port(role.serve)
    command = server_command(role, role.serve, model=str(PROJECT_ROOT / role.model), port=port, on_cpu=True)
    command[command.index(OURS)] = module
    started = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while not answers(port):
                time.sleep(0.05)
            wall = time.monotonic() - started
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            cpu = sum(sum(process.cpu_times()[:2]) for process in family)
            memory = sum(process.memory_full_info().pss for process in family) / 1e6
        finally:
            server.terminate()
            server.wait()
    return wall, cpu, memory


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    role = load_config("pocket").models.quality_judge
    assert role.serve is not None
    environment = os.environ | engine_environment(role.serve, local=True, on_cpu=True)
    found = {PLAIN: [], OURS: []}
    for _ in range(repeats):
        for module, rows in found.items():
            rows.append(measure(module, environment))
    for module, rows in found.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{module}: {wall:.1f} s, {cpu:.1f} CPU s, {memory:,.0f} MB (medians of {len(rows)})")


if __name__ == "__main__":
    sys.exit(main())
