"""Token entropy: results.json, the table, the figures and the page of all students."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.storage.disk import atomic_write
from tasks.text import visible
from training.diagnostics.figures import figure_files
from training.diagnostics.settings import EntropySettings
from training.diagnostics.token_measures import Bins, TokenScores, summarise

__all__ = ["write_report"]

Results = Mapping[str, Any]
COLUMNS: Mapping[str, tuple[str, bool]] = {
    "policy_entropy": ("student's entropy", False),
    "teacher_entropy": ("teacher's entropy", False),
    "student_high": ("student >= {high:g}", True),
    "teacher_high": ("teacher >= {high:g}", True),
    "forward_kl": ("forward KL", False),
    "forward_kl_uncertain": ("forward KL, teacher >= {threshold:g}", False),
    "forward_kl_certain": ("forward KL, teacher < {threshold:g}", False),
}
"""Name in the results -> title, and whether it is a share."""
PUBLISHED = "EOPD reports the share of tokens with an entropy of 1.0 or more as 18.5% for the teacher and 6.8% for OPD."


def write_report(
    folder: Path,
    rows: Mapping[str, Sequence[TokenScores]],
    settings: EntropySettings,
    teacher: str,
    students: Mapping[str, str],
    problems: str,
) -> Results:
    """Write the results of all students, in the order of the training, and return them."""
    bins = Bins(width=settings.bin_width, largest=settings.max_entropy)
    found = {
        "students": {
            name: summarise(
                own, top_ks=settings.top_ks, bins=bins, high=settings.high_entropy, threshold=settings.threshold,
                resamples=settings.resamples, seed=settings.seed,
            )
            for name, own in rows.items()
        },
        "bins": bins.edges, "models": {"teacher": teacher, "students": dict(students)}, "problems": problems,
        "settings": settings.identity(),
    }  # fmt: skip
    atomic_write(folder / "results.json", json.dumps(found, indent=2) + "\n")
    atomic_write(folder / "table.md", table(found, settings))
    figures = {
        "histograms": histograms(found), "training": over_training(found, settings), "mass": mass_figure(found, settings),
    }  # fmt: skip
    for name, figure in figures.items():
        for file, content in figure_files(figure, name).items():
            atomic_write(folder / file, content)
    atomic_write(folder / "page.md", page(found, settings))
    return found


def table(found: Results, settings: EntropySettings) -> str:
    """Return one row per student as Markdown."""
    titles = [
        title.format(high=settings.high_entropy, threshold=settings.threshold)
        for title, _ in COLUMNS.values()
    ]
    lines = [
        f"| student | rollouts | tokens | {' | '.join(titles)} |",
        f"|---|---:|---:|{'---:|' * len(titles)}",
    ]
    for name, one in found["students"].items():
        cells = [_cell(one[key], share) for key, (_, share) in COLUMNS.items()]
        lines.append(f"| {visible(name)} | {one['rollouts']:,} | {one['tokens']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float] | None, share: bool) -> str:
    if value is None:
        return "-"
    form = ("{:.1%}" if share else "{:.3f}").format
    return f"{form(value['value'])} [{form(value['low'])}, {form(value['high'])}]"


def mass_table(found: Results, settings: EntropySettings) -> str:
    """Return the teacher's mean mass on its k most probable tokens, by its entropy, over the tokens of all students."""
    ks = [str(k) for k in settings.top_ks]
    lines = [
        f"| teacher's entropy from | tokens | {' | '.join(f'top {k}' for k in ks)} |",
        f"|---:|---:|{'---:|' * len(ks)}",
    ]
    counts, masses = _pooled(found, ks)
    for place, edge in enumerate(found["bins"]):
        if counts[place]:
            cells = " | ".join(f"{masses[k][place]:.4f}" for k in ks)
            lines.append(f"| {edge:.1f} | {counts[place]:,.0f} | {cells} |")
    return "\n".join(lines) + "\n"


def _pooled(found: Results, ks: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return tokens by bin, and by k the mean mass in each bin (NaN without tokens), over all students."""
    students = list(found["students"].values())
    counts = np.array([one["histograms"]["teacher"] for one in students], dtype=np.float64)
    total = counts.sum(axis=0)
    masses = {}
    for k in ks:
        values = np.array([[value or 0.0 for value in one["mass"][k]] for one in students])
        sums = (values * counts).sum(axis=0)
        masses[k] = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    return total, masses


def page(found: Results, settings: EntropySettings) -> str:
    """Return the page of the results as Markdown."""
    lines = [
        "# Token entropy", "",
        f"Teacher {found['models']['teacher']}. Each student generated its own rollouts; both models scored their tokens."
        " Entropies and divergences are in nats, of the full softmax at temperature 1. Means are over tokens, and intervals are"
        " the 95% percentile bootstrap over problems.", "",
        table(found, settings), PUBLISHED, "", "![Histograms of the entropy](histograms.svg)", "",
        "![Shares and divergences over the training](training.svg)", "",
        "## Mass of the teacher's most probable tokens", "", mass_table(found, settings),
        "![Mass of the top k by entropy](mass.svg)", "",
    ]  # fmt: skip
    return "\n".join(lines)


def histograms(found: Results) -> Any:
    """Return a figure of the histograms: teacher and student on the rollouts of each student."""
    from matplotlib.figure import Figure

    students = found["students"]
    figure = Figure(figsize=(6, 2.4 * len(students)), layout="constrained")
    width = found["bins"][1] if len(found["bins"]) > 1 else 1.0
    for axes, (name, one) in zip(
        figure.subplots(len(students), 1, squeeze=False)[:, 0], students.items(), strict=True
    ):
        for who, shift in (("teacher", 0.0), ("student", 0.45)):
            shares = np.array(one["histograms"][who]) / max(1, one["tokens"])
            axes.bar(np.array(found["bins"]) + shift * width, shares, 0.45 * width, align="edge", label=who)
        axes.set(title=visible(name), yscale="log", ylabel="share of tokens", xlabel="token entropy (nats)")
        axes.legend(fontsize=8)
    return figure


def over_training(found: Results, settings: EntropySettings) -> Any:
    """Return a figure of shares of high-entropy tokens, entropies and divergences over the students."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (
        (("student_high", "teacher_high"), f"share of tokens with entropy >= {settings.high_entropy:g}"),
        (("policy_entropy", "teacher_entropy"), "mean token entropy (nats)"),
        (
            ("forward_kl_uncertain", "forward_kl_certain"),
            f"forward KL (nats), teacher's entropy at {settings.threshold:g}",
        ),
    )
    names = {"student_high": "student", "teacher_high": "teacher", "policy_entropy": "student", "teacher_entropy": "teacher",
             "forward_kl_uncertain": "at or above", "forward_kl_certain": "below"}  # fmt: skip
    students = list(found["students"])
    for axes, (keys, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for place, key in enumerate(keys):
            shown = [
                (x, one)
                for x, name in enumerate(students)
                if (one := found["students"][name][key]) is not None
            ]
            axes.errorbar(
                [x for x, _ in shown], [one["value"] for _, one in shown],
                yerr=np.array([[one["value"] - one["low"], one["high"] - one["value"]] for _, one in shown]).reshape(-1, 2).T,
                marker="o", capsize=3, color=f"C{place}", label=names[key],
            )  # fmt: skip
        axes.set(title=title, ylim=(0, None))
        axes.set_xticks(range(len(students)), [visible(name) for name in students])
        axes.legend(fontsize=8)
    return figure


def mass_figure(found: Results, settings: EntropySettings) -> Any:
    """Return a figure of the mean mass of the teacher's k most probable tokens by its entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ks = [str(k) for k in settings.top_ks]
    _, masses = _pooled(found, ks)
    for k in ks:
        axes.plot(found["bins"], masses[k], marker="o", markersize=3, label=f"top {k}")
    axes.set(xlabel="teacher's entropy (nats)", ylabel="probability of the top k", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    return figure
