from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.training.student.running import ray_running


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with ray_running():
        yield
