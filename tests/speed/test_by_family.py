"""Accuracy by family: problems of several parts, and numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocket.variants import families_of
from speed.by_family import by_family
from tasks.config import load_config
from tasks.errors import UserError
from tasks.runtime.training_run import held_out
from tasks.seeds.registry import resolve
from tests.training.experiments.hand_made import experiment, results
from training.experiments.rendering import markdown_table

GRADES = {"OPD": [("001100", "012200")], "UOPD": [("001100", "034410")]}


def held_out_problems() -> list[str]:
    settings = resolve(load_config("pocket")).distill
    assert settings is not None
    return [one.problem for one in held_out(settings, Path("dataset"))]


def test_cells_of_other_held_out_problems_are_refused(tmp_path: Path) -> None:
    made = experiment(tmp_path, common={"evaluation.samples": 4}, seeds=[0])
    with pytest.raises(
        UserError, match="has 6 held-out problems and the profile has 1: measure the cell again"
    ):
        by_family(made, results(made, GRADES), held_out_problems()[:1], ["none"])


def test_problems_with_a_part_of_the_families_are_separated_from_the_others(tmp_path: Path) -> None:
    problems = held_out_problems()[:6]
    parts = [families_of(text) for text in problems]
    chosen = sorted(parts[1] | parts[2])  # every problem with one of their parts belongs to the group
    inside = [bool(one & set(chosen)) for one in parts]
    assert 2 <= sum(inside) < 6
    made = experiment(tmp_path, common={"evaluation.samples": 4}, seeds=[0])
    table = by_family(made, results(made, GRADES), problems, chosen)
    own, other = ([int(digit) for digit in GRADES[label][0][1]] for label in ("UOPD", "OPD"))
    line = next(line for line in table.lines if line.label == "UOPD")
    for name, group in (("these families", inside), ("other families", [not one for one in inside])):
        places = [place for place, one in enumerate(group) if one]
        mean = sum(own[place] for place in places) / 4 / len(places)
        gap = sum(own[place] - other[place] for place in places) / 4 / len(places)
        assert line.numbers[f"avg_at_4 {name}"].mean == pytest.approx(mean)
        assert line.differences[f"avg_at_4 {name}"].value == pytest.approx(gap)
        assert line.differences[f"avg_at_4 {name}"].n == len(places)
        assert f"avg@4, {name} ({len(places)} problems)" in markdown_table(table, "cells")
    assert line.numbers["avg_at_4"].mean == pytest.approx(sum(own) / 24)
