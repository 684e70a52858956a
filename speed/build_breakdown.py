"""What `make build` spends its time on, from the records that it leaves in its output folder.

    PYTHONPATH=. python speed/build_breakdown.py [output/pocket]

The first table has the wall seconds of every phase, the CPU seconds of the flow and of all processes below it, and how long the
phase waited for an engine. The second one has every start of an engine and how much of it was hidden behind other work. A build
that was interrupted has several records of a phase, which are added up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.processes.timeline import FILE, Phase, Timeline

TO_DATASET = "export"


def main() -> None:
    """Print both tables for the output folder given on the command line."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "output/pocket")
    phases = Timeline(output / "logs" / FILE).phases()
    if not phases:
        sys.exit(f"{output / 'logs' / FILE} does not exist or is empty: build the dataset first")
    training = [
        phase for path in sorted((output / "distill").glob(f"*/{FILE}")) for phase in Timeline(path).phases()
    ]
    print("\n".join([*by_phase(phases), *by_phase(training), "", *by_start(phases), "", *totals(phases)]))


def by_phase(phases: Sequence[Phase]) -> list[str]:
    """Return the rows of the stages, or of the phases of the training, with a heading."""
    rows = [phase for phase in phases if phase.kind in ("stage", "training")]
    lines = (
        [f"| {rows[0].kind} | wall s | CPU s | waiting for an engine s |", "|---|---|---|---|"]
        if rows
        else []
    )
    for name in dict.fromkeys(phase.name for phase in rows):
        own = [phase for phase in rows if phase.name == name]
        waits = [phase for phase in phases if phase.kind == "wait" and any(within(phase, one) for one in own)]
        numbers = (sum_of(own), sum(phase.cpu for phase in own), sum_of(waits))
        lines.append(f"| {name} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
    return lines


def by_start(phases: Sequence[Phase]) -> list[str]:
    """Return a row for each engine that was started: when, how long it took, and the seconds that nobody waited for it."""
    lines = ["| engine | started | s | hidden s |", "|---|---|---|---|"]
    for start in phases:
        if start.kind in ("start", "start ahead"):
            end = start.began + start.seconds
            waited = sum(overlap(wait, start.began, end) for wait in phases if wait.kind == "wait")
            when = "ahead" if start.kind == "start ahead" else "when needed"
            lines.append(
                f"| {start.name} | {when} | {start.seconds:.1f} | {max(0.0, start.seconds - waited):.1f} |"
            )
    return lines


def totals(phases: Sequence[Phase]) -> list[str]:
    """Return the wall seconds from the beginning to the dataset, and to the end."""
    began = phases[0].began
    dataset = [phase.began + phase.seconds for phase in phases if phase.name == TO_DATASET]
    lines = [f"{max(dataset) - began:.0f} s to the dataset"] if dataset else []
    return [*lines, f"{max(phase.began + phase.seconds for phase in phases) - began:.0f} s in all"]


def within(inner: Phase, outer: Phase) -> bool:
    return outer.began <= inner.began < outer.began + outer.seconds


def overlap(phase: Phase, low: float, high: float) -> float:
    return max(0.0, min(high, phase.began + phase.seconds) - max(low, phase.began))


def sum_of(phases: Sequence[Phase]) -> float:
    return sum(phase.seconds for phase in phases)


if __name__ == "__main__":
    main()
