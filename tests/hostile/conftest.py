"""Hostile input in bulk: seeded generators of attacks, each counted as held or failed.

A kind of attack is a file `test_<kind>.py` with a generator and two tests on it: a quick one that runs in `make test` (all
quick ones together in under a minute), and one marked `hostile` with many more trials, run by `make hostile` only (all of
them together in at most 30 minutes). Both call the fixture `trials` (tests/hostile/trials.py) with the name of the kind, and
`make hostile` ends with a table of all kinds: tried, held, failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.hostile.trials import Trials

TALLY = "hostile trials"


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """Trials of this test. They are counted also if the test fails."""
    found = Trials()
    yield found
    # Properties travel from the workers of xdist to the process that prints the table.
    request.node.user_properties += [(TALLY, (one.kind, one.tried, one.failed)) for one in found.tallies]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, one line per kind."""
    tried, failed = Counter[str](), Counter[str]()
    for report in [one for reports in terminalreporter.stats.values() for one in reports]:
        if getattr(report, "when", None) == "teardown":
            for name, value in report.user_properties:
                if name == TALLY:
                    tried[value[0]] += value[1]
                    failed[value[0]] += value[2]
    if not tried:
        return
    terminalreporter.section("hostile input")
    terminalreporter.write_line(f"{'kind':<40}{'tried':>12}{'held':>12}{'failed':>12}")
    for kind in sorted(tried):
        held = tried[kind] - failed[kind]
        terminalreporter.write_line(f"{kind:<40}{tried[kind]:>12,}{held:>12,}{failed[kind]:>12,}")
