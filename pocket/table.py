"""The quality table of `pocket/README.md`, generated from the measurements."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from pocket.data import STRATEGIES, TIERS
from prompts.schemas import QUALITY_CRITERIA

__all__ = ["END", "START", "quality_table", "write_table"]

START = "<!-- quality: written by python -m pocket.measure -->"
END = "<!-- end of quality -->"
SOLVERS = ("teacher", "student")


def percent(share: float | None) -> str:
    """Format a share as a percentage with one decimal, or as a dash if it was not measured."""
    return "-" if share is None else f"{100 * share:.1f}%"


def solver_rows(quality: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row per property of teacher and student: name, target, teacher, student."""
    models = [quality.get(name) for name in SOLVERS]

    def row(name: str, target: str, *path: str) -> tuple[str, ...]:
        cells = []
        for value in models:
            for key in path:
                value = value and value.get(key)
            cells.append(percent(value))
        return (name, target, *cells)

    targets = {"easy": "teacher >= 95%", "competition": "teacher <= 60%"}
    return [
        *(row(f"right, {group}", targets.get(group, ""), "accuracy", group) for group in (*TIERS, "evolved")),
        row("right, all four tiers", "teacher 60-85%, student 20 points less", "accuracy_overall"),
        row("well-formed (has a box)", "student >= 80%", "well_formed"),
        row("right, shown the answer", "teacher >= 95%", "accuracy_with_answer"),
        row(
            "right, shown the answer in the system message",
            "teacher >= 95%",
            "accuracy_with_answer_in_system",
        ),
        row("right, shown another solution", "teacher >= 95%", "accuracy_with_solution"),
        row(
            "right, shown another solution in the system message",
            "teacher >= 95%",
            "accuracy_with_solution_in_system",
        ),
        row("tokens with entropy above 0.8 nats", "teacher about 5%", "tokens_above_gate"),
        row("AUROC of semantic entropy for a wrong majority", "", "auroc", "value"),
    ]


def assistant_rows(assistant: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the share of good evolutions by strategy: name, target, measured."""
    return [
        ("good evolutions", ">= 70%", percent(mean(assistant["good_evolutions"].values()))),
        *((f"good evolutions, {s}", "", percent(assistant["good_evolutions"][s])) for s in STRATEGIES),
        ("same answer after algebraize, apply", "", percent(assistant["same_answer_where_due"])),
        ("other numbers after rewrite", "", percent(assistant["other_numbers_after_rewrite"])),
    ]


def judge_rows(judge: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row per decision of the judge: name, target, measured."""
    return [
        *(
            (f"criterion judged right, {c}", ">= 85%", percent(judge["criteria"][c]))
            for c in QUALITY_CRITERIA
        ),
        ("all five criteria judged right", ">= 85%", percent(judge["criteria_exact"])),
        ("sound problems accepted", "", percent(judge["sound_accepted"])),
        ("broken problems refused", "", percent(judge["broken_refused"])),
        ("equivalence judged right, as the factory reads it", ">= 95%", percent(judge["equivalence"])),
        ("its own last word on equivalence is right", "", percent(judge["equivalence_by_flag"])),
    ]


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    rule = ("---", *("---:" if "target" not in name else "---" for name in head[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def quality_table(quality: dict[str, Any]) -> str:
    """Return the tables of all measured models, with the number of problems."""
    parts = []
    if "teacher" in quality or "student" in quality:
        counts = [f"{name} {quality[name]['problems_per_group']}" for name in SOLVERS if name in quality]
        parts.append(markdown(("", "target", "teacher", "student"), solver_rows(quality)))
        parts.append(
            f"Unseen problems for each tier and for evolved texts: {', '.join(counts)}; 8 samples each at T=0.7."
        )
    if "assistant" in quality:
        assistant = quality["assistant"]
        parts.append(markdown(("", "target", "assistant"), assistant_rows(assistant)))
        parts.append(
            f"{assistant['evolutions']} evolutions of unseen problems (evolved up to four times before) at T=0.7."
        )
    if "judge" in quality:
        judge = quality["judge"]
        parts.append(markdown(("", "target", "judge"), judge_rows(judge)))
        parts.append(f"{judge['judged']} cases of each kind, greedy, bound to the JSON schemas.")
    return "\n\n".join(parts)


def write_table(quality: dict[str, Any], readme: Path) -> None:
    """Replace the text between the markers in `readme`. Raises ValueError if a marker is missing."""
    text = readme.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"{readme} lacks the markers {START} and {END}: add both")
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    readme.write_text(f"{before}{START}\n\n{quality_table(quality)}\n\n{END}{after}", encoding="utf-8")
