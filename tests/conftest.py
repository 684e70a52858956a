"""All tests run offline, with one thread per process, and never touch the user's Prefect home."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_PREFECT_HOME = tempfile.TemporaryDirectory(prefix="sure-math-prefect-")

# Set at import: Prefect, vLLM and Hugging Face read these when they are first imported.
os.environ.update(
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    PREFECT_HOME=_PREFECT_HOME.name,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    TOKENIZERS_PARALLELISM="false",
    TORCHDYNAMO_DISABLE="1",  # for the few training steps of the tests, compiling would take longer than running
    VLLM_NO_USAGE_STATS="1",
)
for _name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "RAY_ADDRESS"):
    os.environ.pop(_name, None)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the hardware that bitwise results depend on, also with -q; once, not in the workers of xdist."""
    from tasks.processes.machine import cpu

    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        reporter.write_line(f"cpu: {cpu()}, {len(os.sched_getaffinity(0))} cores")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the longest timeouts first, so that the workers of xdist end at about the same time."""

    def seconds(item: pytest.Item) -> float:
        mark, slow = item.get_closest_marker("timeout"), item.get_closest_marker("slow")
        return float(mark.args[0]) if mark and slow else float(slow is not None)

    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = max(longest.get(item.path, 0.0), seconds(item))
    items.sort(key=lambda item: -longest[item.path])


@pytest.fixture(scope="session", autouse=True)
def _prefect_home_is_removed_at_the_end() -> Iterator[None]:
    yield
    _PREFECT_HOME.cleanup()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Run a private Prefect server for the session; the value is its API address."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())
