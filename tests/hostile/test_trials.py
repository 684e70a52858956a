"""The trials themselves: a failed trial fails the test and is counted, and the table adds up the tests of a kind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tests.hostile.trials import Tally, Trials


def test_every_trial_is_made_with_a_seed_of_its_own_and_a_failure_is_reported_afterwards() -> None:
    seen: list[float] = []

    def check(rng: random.Random) -> None:
        seen.append(rng.random())
        if len(seen) in (2, 5):
            raise ValueError(f"call {len(seen)}")

    trials = Trials()
    with pytest.raises(
        AssertionError, match=r"2 of 6 trials failed:\ntrial 1: ValueError: call 2\ntrial 4: "
    ):
        trials.run("kind", 6, check)
    assert len(set(seen)) == 6 and trials.tallies == [Tally(kind="kind", tried=6, failed=2)]
    again = list(seen)
    seen.clear()
    with pytest.raises(AssertionError):
        Trials().run("kind", 6, check)
    assert seen == again


def test_the_table_adds_up_held_and_failed_trials_also_of_parallel_tests(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "conftest.py").write_text("from tests.hostile.conftest import *\n", encoding="utf-8")
    for name, failures in (("a", "[]"), ("b", "['broken']")):
        body = f"def test_it(trials):\n    trials.add('some kind', 1000, {failures})\n"
        (folder / f"test_{name}.py").write_text(body, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", str(folder)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ["some kind", "2,000", "1,999", "1"] in [
        line.rsplit(maxsplit=3) for line in done.stdout.splitlines()
    ]
    assert done.returncode == 1
