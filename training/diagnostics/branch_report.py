"""Branch viability, phase G: the areas of all scores, the table and the figure of the paper, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.storage.disk import atomic_write
from tasks.storage.tables import iter_rows, read_rows
from tasks.text import counted, words
from training.diagnostics.areas import Interval, areas, centred
from training.diagnostics.branch_rows import Candidate, Labelled, Scored, Uncertainty
from training.diagnostics.branches import Label
from training.diagnostics.figures import figure_files
from training.diagnostics.phases import Run
from training.diagnostics.stored import Counts, Made, Phase, Store

__all__ = ["SCORES", "finish", "results", "scored_rows", "summary"]

VERSION = 1
SCORES: Mapping[str, str] = {
    "earliness": "position (1 - r)",
    "teacher_entropy": "entropy of the teacher, top k",
    "entropy": "entropy, MC dropout",
    "mutual_information": "mutual information",
    "imprecision": "Dirichlet precision (- log kappa)",
}
"""Columns of `Scored` -> their names in the table."""
PUBLISHED = "Paper (Qwen3-4B, 88 against 271 candidates of 61 problems): position .83 [.66, .95], all others at most .57."
BINS = 10
ENOUGH = 10
"""With fewer candidates of one label, the summary says that the areas are of little use."""
_COLOURS = {Label.DIVERSITY: "#4c78a8", Label.GRAY: "#bab0ac", Label.REAL_UNCERTAIN: "#e45756"}


def finish(run: Run, store: Store, phases: Mapping[str, Phase]) -> dict[str, Any]:
    """Make phase G, write results.json, the table, the figure and the page, and return the results."""
    scored = store.phase(
        "G-scores", Scored, VERSION, {}, (phases["D"].fingerprint, phases["F"].fingerprint),
        lambda: Made(rows=(rows := scored_rows(phases)), counts=_counts(phases["F"], rows)),
    )  # fmt: skip
    rows = read_rows(scored.table, Scored)
    every = {**phases, "G": scored}
    found = results(rows, resamples=run.settings.resamples, seed=run.settings.seed)
    found |= {
        "phases": {
            name: {
                "unit": own.unit, "in": own.entering, "kept": own.kept, "dropped": dict(own.dropped),
            }
            for name, own in ((name, one.counts) for name, one in every.items())
        },
        "models": {"teacher": run.teacher_identity, "student": run.sampler.identity},
        "problems": run.problems.digest,
        "settings": run.settings.identity(),
    }  # fmt: skip
    atomic_write(store.folder / "results.json", json.dumps(found, indent=2) + "\n")
    atomic_write(store.folder / "table1.md", table(found))
    labels = read_rows(phases["F"].table, Labelled)
    places = {(one.problem_id, one.position): one.relative for one in iter_rows(phases["C"].table, Candidate)}
    pairs = [(places[one.problem_id, one.position], one.label) for one in labels if one.label is not None]
    for name, content in figure_files(figure(found, pairs), "figure1").items():
        atomic_write(store.folder / name, content)
    atomic_write(store.folder / "page.md", page(found))
    run.log(summary(found))
    run.log(f"results in {store.folder}")
    return found


def scored_rows(phases: Mapping[str, Phase]) -> list[Scored]:
    """Return the candidates labelled `diversity` or `real_uncertain` with their scores."""
    labels = {(one.problem_id, one.position): one for one in iter_rows(phases["F"].table, Labelled)}
    measured = {(one.problem_id, one.position): one for one in iter_rows(phases["D"].table, Uncertainty)}
    rows = []
    for one in iter_rows(phases["C"].table, Candidate):
        label, dropout = labels[one.problem_id, one.position].label, measured[one.problem_id, one.position]
        if label is not None and label is not Label.GRAY:
            rows.append(
                Scored(
                    problem_id=one.problem_id, position=one.position, label=label, earliness=1 - one.relative,
                    teacher_entropy=one.teacher_entropy, entropy=dropout.entropy,
                    mutual_information=dropout.mutual_information, imprecision=-dropout.log_precision,
                )
            )  # fmt: skip
    return rows


def _counts(labels: Phase, rows: Sequence[Scored]) -> Counts:
    return Counts(unit="labelled candidates", entering=labels.counts.kept, kept=len(rows), dropped={})


def results(rows: Sequence[Scored], *, resamples: int, seed: int) -> dict[str, Any]:
    """Return the areas of every score, centred within problems, with `real_uncertain` as the positive class; None for all of
    them if a class is missing."""
    positive = [one.label is Label.REAL_UNCERTAIN for one in rows]
    groups = [one.problem_id for one in rows]
    scores = {}
    for name in SCORES:
        values = centred([getattr(one, name) for one in rows], groups) if rows else []
        both = areas(values, positive, groups, resamples=resamples, seed=seed)
        scores[name] = None if both is None else {"auroc": _plain(both[0]), "auprc": _plain(both[1])}
    return {
        "diversity": len(rows) - sum(positive), "real_uncertain": sum(positive), "problems_with_labels": len(set(groups)),
        "scores": scores,
    }  # fmt: skip


def _plain(area: Interval) -> dict[str, float]:
    return {"value": area.value, "low": area.low, "high": area.high}


def table(found: Mapping[str, Any]) -> str:
    """Return the table of areas as Markdown."""
    lines = ["| score | AUROC | AUPRC |", "|---|---:|---:|"]
    for name, title in SCORES.items():
        own = found["scores"][name]
        cells = ["-", "-"] if own is None else [_cell(own[kind]) for kind in ("auroc", "auprc")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(area: Mapping[str, float]) -> str:
    return f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]"


def summary(found: Mapping[str, Any]) -> str:
    """Return one line about the result."""
    position = found["scores"]["earliness"]
    labels = (
        f"{found['real_uncertain']} real-uncertain against {found['diversity']} diverse candidates of"
        f" {counted(found['problems_with_labels'], 'problem')}"
    )
    if position is None:
        return f"{labels}: one class is missing, so there are no areas; add problems, or harder ones"
    few = f", of little use with fewer than {ENOUGH} candidates of one label"
    said = few if min(found["real_uncertain"], found["diversity"]) < ENOUGH else ""
    return f"{labels}: AUROC of the position {_cell(position['auroc'])}{said}"


def page(found: Mapping[str, Any]) -> str:
    """Return the page of the results as Markdown."""
    labelled = found["diversity"] + found["real_uncertain"]
    base = found["real_uncertain"] / labelled if labelled else 0.0
    lines = [
        "# Branch viability", "",
        f"Teacher {found['models']['teacher']}, student {found['models']['student']}. {summary(found)}.", "",
        "| phase | unit | in | kept | dropped |", "|---|---|---:|---:|---|",
    ]  # fmt: skip
    for name, one in found["phases"].items():
        reasons = ", ".join(f"{words(reason)} {count:,}" for reason, count in one["dropped"].items())
        lines.append(f"| {name} | {one['unit']} | {one['in']:,} | {one['kept']:,} | {reasons or '-'} |")
    lines += [
        "", "## Table 1", "",
        "How well each score finds real-uncertain candidates among the labelled ones. Scores are centred within a problem and"
        " grow with the expected unreliability; intervals are the 95% percentile bootstrap over problems. A random score has an"
        f" AUROC of 0.50 and an AUPRC of {base:.2f}.", "",
        table(found), PUBLISHED, "", "## Figure 1", "", "![AUROC of each score, and labels by position](figure1.svg)", "",
    ]  # fmt: skip
    return "\n".join(lines)


def figure(found: Mapping[str, Any], labels: Sequence[tuple[float, Label]]) -> Any:
    """Return the figure: the AUROC of each score with its interval, and the shares of the labels by relative position."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for row, (name, title) in enumerate(reversed(list(SCORES.items()))):
        if (own := found["scores"][name]) is not None:
            area = own["auroc"]
            left.plot([area["low"], area["high"]], [row, row], color="#4c78a8")
            left.plot([area["value"]], [row], "o", color="#4c78a8")
        left.text(0.01, row + 0.2, title, fontsize=8)
    left.axvline(0.5, color="grey", linestyle=":")
    left.set(xlim=(0, 1), ylim=(-0.5, len(SCORES)), yticks=[], xlabel="AUROC for real-uncertain candidates")
    counts = _binned(labels)
    totals, bottom = np.maximum(1, sum(counts.values())), np.zeros(BINS)
    centres = (np.arange(BINS) + 0.5) / BINS
    for label, count in counts.items():
        right.bar(
            centres,
            count / totals,
            0.9 / BINS,
            bottom=bottom,
            color=_COLOURS[label],
            label=words(label.value),
        )
        bottom = bottom + count / totals
    right.set(
        xlabel="relative position r of the candidate", ylabel="share of candidates", xlim=(0, 1), ylim=(0, 1)
    )
    right.legend(fontsize=8)
    return drawn


def _binned(labels: Sequence[tuple[float, Label]]) -> dict[Label, Any]:
    """Return the number of candidates with each label in each tenth of the spine."""
    return {
        label: np.bincount(
            [min(BINS - 1, int(place * BINS)) for place, own in labels if own is label], minlength=BINS
        )
        for label in (Label.REAL_UNCERTAIN, Label.GRAY, Label.DIVERSITY)
    }
