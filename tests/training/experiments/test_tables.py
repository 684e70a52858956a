"""Tables from stored cells: numbers, intervals, bold, missing cells, links, escaping, and the three forms."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import UserError
from tests.training.experiments.hand_made import EVALUATION, ROWS, experiment, result, results
from training.experiments.columns import measure_of
from training.experiments.grid import Experiment, row_cells
from training.experiments.rendering import csv_table, latex_table, markdown_table, metrics_csv, metrics_table
from training.experiments.stored import CellResult
from training.experiments.summary import Line, Table, make_table, setting_text

GRADES = {
    "Student (base)": [("001100",)],
    "OPD": [("001100", "012200"), ("001100", "112200"), ("001100", "012210")],
    "UOPD": [("001100", "234421"), ("001100", "244420"), ("001100", "334421")],
    "k | 128": [("001100", "234420"), ("001100", "244420")],
}


@pytest.fixture
def made(tmp_path: Path) -> Experiment:
    return experiment(tmp_path)


@pytest.fixture
def stored(made: Experiment) -> dict[str, CellResult]:
    return results(made, GRADES)


@pytest.fixture
def table(made: Experiment, stored: dict[str, CellResult]) -> Table:
    return make_table(made, stored)


def line_of(table: Table, label: str) -> Line:
    return next(line for line in table.lines if line.label == label)


def test_a_number_is_the_mean_and_the_sample_deviation_over_seeds(table: Table) -> None:
    number = line_of(table, "OPD").numbers["avg_at_4"]  # 5, 6 and 6 of 24 samples
    assert number.mean == pytest.approx((5 + 6 + 6) / 72)
    assert number.deviation == pytest.approx(((2 / 3 * 2 / 3 + 2 * 1 / 9) / 2) ** 0.5 / 24)
    assert (number.found, number.wanted) == (3, 3)
    base = line_of(table, "Student (base)").numbers["avg_at_4"]
    assert (base.mean, base.deviation, base.found, base.wanted) == (pytest.approx(2 / 24), None, 1, 1)


def test_pass_at_k_is_the_unbiased_estimator(table: Table) -> None:
    # 1 - C(4 - c, 2) / C(4, 2) is 0, 1/2, 5/6, 1, 1 for c from 0 to 4
    assert line_of(table, "Student (base)").numbers["pass_at_2"].mean == pytest.approx((1 / 2 + 1 / 2) / 6)


def test_differences_are_paired_by_problem_and_seed(made: Experiment, stored: dict[str, CellResult]) -> None:
    table = make_table(made, stored)
    gap = line_of(table, "UOPD").differences["avg_at_4"]
    assert gap.value == pytest.approx((16 + 16 + 17 - 5 - 6 - 6) / 72)
    assert gap.low <= gap.value <= gap.high and gap.n == 6
    assert line_of(table, "OPD").differences == {}  # it is what the others are compared with
    # the two seeds of this row are compared with the same seeds of OPD
    assert line_of(table, "k | 128").differences["avg_at_4"].value == pytest.approx((15 + 16 - 5 - 6) / 48)


def test_a_constant_difference_has_an_interval_of_no_width(made: Experiment) -> None:
    grades = {"OPD": [("012301",)] * 3, "UOPD": [("123412",)] * 3}
    gap = line_of(make_table(made, results(made, grades)), "UOPD").differences["avg_at_4"]
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_best_and_what_is_not_distinguishable_from_it_are_bold(table: Table) -> None:
    bold = {line.label: "avg_at_4" in line.bold for line in table.lines}
    assert bold == {"Student (base)": False, "OPD": False, "UOPD": True, "k | 128": True}
    assert "**68.1 \N{PLUS-MINUS SIGN} 2.4**" in markdown_table(table, "cells")


def test_a_baseline_is_never_the_best(made: Experiment) -> None:
    grades = {"Student (base)": [("444444",)], "OPD": [("000000",)] * 3, "UOPD": [("111111",)] * 3}
    table = make_table(made, results(made, grades))
    assert [line.label for line in table.lines if line.bold] == ["UOPD"]


def test_nothing_is_bold_without_a_second_line(made: Experiment) -> None:
    table = make_table(made, results(made, {"UOPD": GRADES["UOPD"]}))
    assert not any(line.bold for line in table.lines)


def test_missing_cells_are_visible_in_all_forms(made: Experiment, stored: dict[str, CellResult]) -> None:
    kept = {key: cell for key, cell in stored.items() if cell.cell["algorithm"] != "opd"}
    table = make_table(made, kept)
    text = markdown_table(table, "cells")
    assert "| OPD |  | - (0 of 3) | - (0 of 3) |  |" in text
    assert "(2 of 3)" in text
    assert "missing cells: OPD (0 of 3), k \\| 128 (2 of 3)" in text
    assert "- (0 of 3)" in latex_table(table)
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))
    (opd,) = [row for row in rows if row["method"] == "OPD" and row["column"] == "avg_at_4"]
    assert (opd["mean"], opd["seeds"], opd["seeds wanted"], opd["cells"]) == ("", "0", "3", "")


def test_a_table_without_cells_says_so(made: Experiment) -> None:
    text = markdown_table(make_table(made, {}), "cells")
    assert "no cell of this table has been run" in text and text.count("- (0 of") == 8


def test_every_line_links_to_the_cells_of_its_numbers(table: Table) -> None:
    text = markdown_table(table, "../results/cells")
    for line in table.lines:
        for seed, cell in line.cells.items():
            assert f"[{seed}](../results/cells/{cell.key}.json)" in text
            assert cell.key in latex_table(table)
    assert table.cells.keys() == {cell.key for line in table.lines for cell in line.cells.values()}


def test_all_lines_of_a_table_have_as_many_columns_as_its_head(
    made: Experiment, stored: dict[str, CellResult]
) -> None:
    published = {"OPD": {"avg_at_4": 71.5, "MATH avg@4": 33.2}, "UOPD": {"MATH avg@4": "35.1 | 2"}}
    table = make_table(made.model_copy(update={"published": published}), stored)
    lines = [one for one in markdown_table(table, "cells").splitlines() if one.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(counts) == 1 and len(lines) == 2 + 4 + 2
    rows = [one for one in latex_table(table).splitlines() if r" \\" in one]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_published_values_stand_on_lines_of_their_own(
    made: Experiment, stored: dict[str, CellResult]
) -> None:
    published = {"OPD": {"avg_at_4": 71.5, "MATH avg@4": 33.2}}
    table = make_table(made.model_copy(update={"published": published}), stored)
    text = markdown_table(table, "cells")
    assert "| OPD \N{DAGGER} |  | 71.5 |  |  |  | 33.2 |  |" in text
    assert "\N{DAGGER} published in a paper: other models and problems, not measured here" in text
    assert [line.kind for line in table.lines] == [
        "baseline",
        "algorithm",
        "published",
        "algorithm",
        "algorithm",
    ]
    assert not any(line.bold for line in table.lines if line.kind == "published")


def test_cells_with_other_held_out_problems_are_counted_and_not_shown(
    made: Experiment, stored: dict[str, CellResult]
) -> None:
    cell = row_cells(made, made.rows[3])[2]
    other = result(cell, "000000", "444444", evaluation={**EVALUATION, "problems_digest": "77"})
    table = make_table(made, {**stored, other.key: other})
    assert 2 not in line_of(table, "k | 128").cells
    assert "not shown: 1 cell with other held-out problems" in table.notes


def test_the_sources_of_labels_and_the_datasets_are_shown(
    made: Experiment, stored: dict[str, CellResult]
) -> None:
    key = row_cells(made, made.rows[1])[0].key
    labelled = replace(
        stored[key], dataset={"name": "gsm8k", "digest": "d2", "labels": "80 gold, 400 teacher_majority"}
    )
    table = make_table(made, {**stored, key: labelled})
    text = markdown_table(table, "cells")
    assert "| method | setting | labels |" in text and "80 gold, 400 teacher\\_majority" in text
    assert "dataset gsm8k (d2): OPD" in table.notes
    assert "dataset default/train (d1): OPD, UOPD, k | 128" in table.notes


def test_several_teachers_are_shown_by_their_names() -> None:
    teachers = [
        {"name": "a", "model": "models/a"},
        {"name": "b", "model": "models/b", "annotation": "output/b"},
    ]
    changes = {"algorithm.top_k": 64, "teachers": teachers, "routing": "weighted"}
    assert setting_text(changes) == 'algorithm.top_k = 64, teachers = ["a", "b"], routing = "weighted"'


def test_texts_are_escaped(tmp_path: Path) -> None:
    rows = [{"label": "<b>50% & $x_1$ \\ #{~^}", "algorithm": "uopd"}, *ROWS[:2]]
    made = experiment(tmp_path, rows=rows, title="a | b\n\nc", compare_to=None)
    table = make_table(made, results(made, {rows[0]["label"]: GRADES["UOPD"]}))
    assert "\\<b\\>50% & $x\\_1$ \\\\ \\#\\{~^\\}" in markdown_table(table, "cells")
    assert "**a \\| b c**" in markdown_table(table, "cells")
    latex = r"\textless{}b\textgreater{}50\% \& \$x\_1\$ \textbackslash{} \#\{\textasciitilde{}\textasciicircum{}\}"
    assert latex in latex_table(table)
    assert next(csv.DictReader(io.StringIO(csv_table(table))))["method"] == rows[0]["label"]


def test_latex_is_a_booktabs_table(table: Table) -> None:
    text = latex_table(table)
    order = [
        text.index(one) for one in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\caption")
    ]
    assert order == sorted(order)
    assert r"\textbf{68.1 $\pm$ 2.4}" in text and r"k | 128" in text


def test_csv_has_the_unrounded_numbers(table: Table) -> None:
    rows = {(row["method"], row["column"]): row for row in csv.DictReader(io.StringIO(csv_table(table)))}
    row = rows["UOPD", "avg_at_4"]
    assert float(row["mean"]) == pytest.approx(49 / 72, abs=1e-15)
    assert float(row["difference"]) == pytest.approx(32 / 72, abs=1e-15)
    assert row["compared to"] == "OPD" and len(row["cells"].split()) == 3


def test_metrics_show_why_a_method_does_not_learn(made: Experiment) -> None:
    cells = results(
        made, {"OPD": GRADES["OPD"]}, metrics={"clipped": 0.25, "seconds": 3.0, "share_rollout": 0.5}
    )
    table = make_table(made, cells)
    text = metrics_table(table, "cells")
    assert "| metric | OPD |" in text and "| clipped | 0.25 |" in text and "share" not in text
    assert len(list(csv.DictReader(io.StringIO(metrics_csv(table))))) == 9


# --- measures ----------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_last_point(made: Experiment, stored: dict[str, CellResult]) -> None:
    cell = stored[row_cells(made, made.rows[2])[2].key]
    cell = replace(cell, totals={"peak_memory_gb": {"student": 1.5}}, metrics={"reward_mean": 0.4})
    expected = {
        "steps": 10, "tokens": 1014, "seconds": 52.0, "hours": 52 / 3600, "tokens_per_second": 1014 / 52,
        "student_memory_gb": 1.5, "teacher_memory_gb": None, "metrics.reward_mean": 0.4, "metrics.clipped": None,
        "entropy": None, "avg_at_4": 17 / 24, "avg_at_8": None, "pass_at_8": None,
    }  # fmt: skip
    assert {name: measure_of(name).value(cell) for name in expected} == pytest.approx(expected)


def test_a_baseline_has_no_cost(made: Experiment, stored: dict[str, CellResult]) -> None:
    cell = stored[row_cells(made, made.rows[0])[0].key]
    assert [measure_of(name).value(cell) for name in ("steps", "tokens", "seconds", "hours")] == [None] * 4


@pytest.mark.parametrize("name", ["accuracy", "pass_at_0", "avg_at_", "metrics.", "Tokens"])
def test_an_unknown_column_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown column '{name}': choose among avg_at_N, pass_at_K, steps"):
        measure_of(name)
