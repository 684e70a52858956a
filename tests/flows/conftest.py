"""The undisturbed small build that the tests of the flow compare with."""

from __future__ import annotations

import pytest

from tests.small_build import Builder


@pytest.fixture(scope="session")
def undisturbed(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Builder, str]:
    """The builder, and the log of its first run."""
    builder = Builder(prefect_server, tmp_path_factory.mktemp("undisturbed"))
    return builder, builder.run()
