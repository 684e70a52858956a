"""The tables of a build's phases, for a timeline written by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from speed.build_breakdown import by_phase, by_start, totals
from tasks.processes.timeline import Phase, Timeline


def phase(kind: str, name: str, began: float, seconds: float, cpu: float = 0.0) -> Phase:
    return Phase(kind=kind, name=name, began=began, seconds=seconds, cpu=cpu)


BUILD = [
    phase("stage", "checks", 0, 20),
    phase("stage", "evolve-1", 20, 50, cpu=60),
    phase("start", "evolver", 21, 15),
    phase("wait", "evolver", 21, 15),
    phase("start ahead", "quality_judge", 36, 40),
    phase("stage", "judge", 70, 10, cpu=12),
    phase("wait", "quality_judge", 70.5, 5.5),  # 34.5 of its 40 seconds were hidden behind evolve-1
    phase("stage", "judge", 100, 4, cpu=2),  # continued after an interruption
    phase("stage", "export", 104, 6, cpu=5),
    phase("stage", "distill", 110, 90, cpu=150),
]


def test_phases_are_added_up_with_the_waits_that_began_in_them() -> None:
    assert by_phase(BUILD)[2:] == [
        "| checks | 20.0 | 0.0 | 0.0 |", "| evolve-1 | 50.0 | 60.0 | 15.0 |", "| judge | 14.0 | 14.0 | 5.5 |",
        "| export | 6.0 | 5.0 | 0.0 |", "| distill | 90.0 | 150.0 | 0.0 |",
    ]  # fmt: skip
    assert by_phase([]) == []


def test_a_start_is_hidden_as_far_as_nobody_waited_for_it() -> None:
    assert by_start(BUILD)[2:] == [
        "| evolver | when needed | 15.0 | 0.0 |",
        "| quality_judge | ahead | 40.0 | 34.5 |",
    ]


def test_the_totals_count_from_the_first_phase() -> None:
    assert totals(BUILD) == ["110 s to the dataset", "200 s in all"]
    assert totals(BUILD[:2]) == ["70 s in all"]


def test_a_timeline_records_blocks_also_those_that_raise_and_skips_a_line_that_was_cut_off(
    tmp_path: Path,
) -> None:
    timeline = Timeline(tmp_path / "logs" / "timeline.jsonl")
    assert timeline.phases() == []
    with pytest.raises(ValueError), timeline.phase("stage", "late"):
        with timeline.phase("wait", "early"):
            deadline = time.process_time() + 0.05
            while time.process_time() < deadline:
                pass
        raise ValueError
    timeline.path.write_text(timeline.path.read_text() + json.dumps({"kind": "stage"})[:9] + "\n")
    late, early = timeline.phases()
    assert (late.kind, late.name, early.kind, early.name) == ("stage", "late", "wait", "early")
    assert late.began <= early.began and late.seconds >= early.seconds > 0.0 and early.cpu >= 0.04
