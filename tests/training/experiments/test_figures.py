"""Figures from stored cells: points and intervals of the curves, and files that do not change with the clock."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.training.experiments.hand_made import experiment, results
from training.experiments.columns import measure_of
from training.experiments.figures import FIGURES, curve_points, png, seed_interval, svg
from training.experiments.stored import CellResult, Point
from training.experiments.summary import Table, make_table

GRADES = {
    "Student (base)": [("001100",)],
    "OPD": [("001100", "012200", "112200"), ("001100", "112200", "122200"), ("001100", "012210")],
    "UOPD": [("001100", "234421", "244421")],
}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = experiment(tmp_path)
    return make_table(made, results(made, GRADES))


def accuracy(cell: CellResult, point: Point) -> float:
    return sum(map(int, point.correct)) / 24


def test_a_point_is_the_mean_over_the_seeds_that_have_the_step(table: Table) -> None:
    points = curve_points(table.lines[1].cells, "tokens", accuracy)
    assert [(point.x, point.seeds) for point in points] == [(7, 3), (1007, 3), (2003.5, 2)]
    values = [5 / 24, 6 / 24, 6 / 24]
    mean = sum(values) / 3
    half = 4.302652729911275 * math.sqrt(
        sum((one - mean) ** 2 for one in values) / 2 / 3
    )  # t of 2 degrees of freedom
    assert (points[1].mean, points[1].low, points[1].high) == pytest.approx((mean, mean - half, mean + half))


def test_a_single_seed_has_no_interval(table: Table) -> None:
    assert seed_interval([0.25]) == (0.25, None, None)
    assert all(point.low is None for point in curve_points(table.lines[2].cells, "step", accuracy))


def test_a_value_that_was_not_measured_gives_no_point_and_no_figure(table: Table) -> None:
    assert curve_points(table.lines[1].cells, "step", lambda _cell, point: point.entropy_mean) == []
    assert FIGURES["entropy_curves"](table) is None


def test_without_cells_there_is_no_figure(tmp_path: Path) -> None:
    table = make_table(experiment(tmp_path), {})
    assert [draw(table) for draw in FIGURES.values()] == [None] * len(FIGURES)


@pytest.mark.parametrize("view", ["curves", "pass_curves", "rows"])
def test_a_figure_is_the_same_each_time_and_names_its_rows(view: str, table: Table) -> None:
    first, second = (FIGURES[view](table) for _ in range(2))
    assert first is not None and second is not None
    text = svg(first)
    assert text == svg(second)
    assert b">OPD</text>" in text and b">UOPD</text>" in text
    assert png(first).startswith(b"\x89PNG")


def test_curves_show_every_accuracy_against_steps_tokens_and_seconds(table: Table) -> None:
    figure = FIGURES["curves"](table)
    assert figure is not None
    panels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert [name for name, _ in panels] == ["steps", "response tokens", "seconds of training"] * 2
    assert [name for _, name in panels if name] == ["avg@4", "pass@2"]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert np.asarray(lines["UOPD"].get_ydata()).tolist() == pytest.approx([2 / 24, 16 / 24, 17 / 24])
    assert lines["Student (base)"].get_linestyle() == "--"


def test_entropies_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    curve = tuple(
        Point(step=n, tokens=n, seconds=n, correct="000000", entropy_mean=0.5 - n / 10) for n in range(3)
    )
    table = make_table(made, results(made, {"UOPD": [("000000",)]}, curve=curve))
    figure = FIGURES["entropy_curves"](table)
    assert figure is not None and [axes.get_ylabel() for axes in figure.axes] == ["policy entropy (nats)"]
    assert measure_of("entropy").value(table.lines[2].cells[0]) == pytest.approx(0.3)
