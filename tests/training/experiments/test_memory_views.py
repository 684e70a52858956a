"""Memory by component, placement and ZeRO stage."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from training.experiments import memory_views
from training.experiments.memory_views import PEAK, STAGES, memory_csv, memory_markdown, planned_components
from training.preflight.memory import count_parameters, read_dimensions

STATES = "optimizer"


@pytest.fixture(scope="module")
def found() -> dict[str, dict[int, dict[tuple[str, str, str], int]]]:
    return planned_components("pocket", "core")


def test_zero_divides_the_states_among_the_ranks(found: dict) -> None:
    parameters = count_parameters(read_dimensions(Path("pocket/student")))
    for placement, ranks in (("separate", 2), ("colocated", 4)):
        sizes = [found[placement][stage]["GPU 0", "student", STATES] for stage in STAGES]
        assert sizes == [12 * parameters] + 3 * [-(-12 * parameters // ranks)]


def test_a_peak_is_at_most_the_sum_of_its_components(found: dict) -> None:
    for stages in found.values():
        for parts in stages.values():
            for gpu in {key[0] for key in parts}:
                own = [size for key, size in parts.items() if key[0] == gpu and key[2] != PEAK]
                assert max(own) <= parts[gpu, "", PEAK] <= sum(own)


def test_separate_workers_have_gpus_of_their_own(found: dict) -> None:
    def workers(placement: str) -> list[set[str]]:
        parts = found[placement][1]
        gpus = dict.fromkeys(key[0] for key in parts)
        return [{key[1] for key in parts if key[0] == gpu} - {""} for gpu in gpus]

    assert workers("colocated") == [{"student", "reference", "teacher", "rollout"}]
    assert {"teacher"} in workers("separate") and {"rollout"} in workers("separate")


def test_the_command_writes_both_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: dict
) -> None:
    assert memory_views.main(["pocket", "core", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == memory_markdown(found) == (tmp_path / "memory.md").read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "memory.csv").read_text())))
    assert len(rows) == sum(len(parts) for stages in found.values() for parts in stages.values())
    assert memory_csv(found) == (tmp_path / "memory.csv").read_text()


def test_a_model_that_is_not_here_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory_views.main(["core-1.7b"]) == 2
    assert "Qwen3-1.7B/config.json is not a valid model configuration" in capsys.readouterr().err
