"""`python -m training.diagnostics.reverse_kl_toy`: how stably the logits of one position follow a teacher (the toy of EOPD 3.2).

A teacher over 80 tokens has logits N(0, 1), five of which are set to 1.7, 1.9, 2.1, 2.3 and 2.5, divided by a temperature of
0.3 (certain) or 1.0 (uncertain). A student starts at logits N(0, 1). One step of the reverse KL draws a token x from the
student's ten most probable ones and adds rate x (log p(x) - log q(x)) to its logit. The paper reports how often the student's
most probable token changes, 7.3 +- 1.6 times for the certain teacher and 84.0 +- 16.7 for the uncertain one, without the rate
and the number of steps: the command searches both. Ours are: that x is drawn (a deterministic variant updates all ten), the
start, and the two methods beside it: forward KL, the gradient of KL(p || q) over all tokens, and EOPD, the sum of both if the
teacher's entropy is above 0.8.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.storage.disk import atomic_write

__all__ = ["Trace", "main", "matching", "search", "simulate", "teacher_logprobs"]

Floats = NDArray[np.float64]
Method = Literal["reverse_kl", "reverse_kl_all", "forward_kl", "eopd"]

VOCABULARY, TOP, THRESHOLD = 80, 10, 0.8
RAISED = (1.7, 1.9, 2.1, 2.3, 2.5)
TEMPERATURES = (0.3, 1.0)
PUBLISHED = ((7.3, 1.6), (84.0, 16.7))
"""Mean and deviation of the number of changes in the paper, by temperature."""
RATES = (0.1, 0.3, 0.5, 1.0, 1.5, 1.7, 1.8, 1.9, 1.95, 2.0, 2.05, 2.1, 2.15, 2.2, 2.3, 2.5, 3.0)
METHODS: tuple[Method, ...] = ("reverse_kl", "forward_kl", "eopd")
COMPARED_RATE = (
    1.0  # at which all three settle; from about 2 on, a drawn reverse KL changes its token for ever
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What each step did in each of S runs, [steps, S]: `changed`, whether the student's most probable token changed; `distance`,
    the Jaccard distance of its top 10 from the teacher's; `divergence`, KL(teacher || student) in nats."""

    changed: NDArray[np.bool_]
    distance: Floats
    divergence: Floats

    def changes(self) -> Floats:
        """Return the number of changes up to each step, [steps, S]."""
        return self.changed.cumsum(0).astype(np.float64)


def teacher_logprobs(seeds: Sequence[int], temperature: float) -> Floats:
    """Return log p [S, 80] of the teacher of each seed."""
    rows = []
    for seed in seeds:
        draw = np.random.default_rng([seed, 0])
        logits = draw.normal(size=VOCABULARY)
        logits[draw.choice(VOCABULARY, len(RAISED), replace=False)] = RAISED
        rows.append(logits / temperature)
    return log_softmax(np.array(rows))


def simulate(method: Method, temperature: float, *, rate: float, steps: int, seeds: Sequence[int]) -> Trace:
    """Run a method for every seed. A run depends on its seed alone."""
    teacher = teacher_logprobs(seeds, temperature)
    draws = np.array([np.random.default_rng([seed, 2]).random(steps) for seed in seeds])
    logits = np.array([np.random.default_rng([seed, 1]).normal(size=VOCABULARY) for seed in seeds])
    wanted = top(teacher, TOP)
    trace = Trace(
        changed=np.zeros((steps, len(seeds)), dtype=np.bool_),
        distance=np.zeros((steps, len(seeds))),
        divergence=np.zeros((steps, len(seeds))),
    )
    for step in range(steps):
        before = logits.argmax(-1)
        logits = logits + rate * direction(method, teacher, logits, draws[:, step])
        student = log_softmax(logits)
        trace.changed[step] = logits.argmax(-1) != before
        trace.distance[step] = jaccard_distance(top(logits, TOP), wanted)
        trace.divergence[step] = (np.exp(teacher) * (teacher - student)).sum(-1)
    return trace


def direction(method: Method, teacher: Floats, logits: Floats, draws: Floats) -> Floats:
    """Return the change [S, 80] of the logits at rate 1. `draws` [S]: numbers in [0, 1) that choose the sampled tokens."""
    student = log_softmax(logits)
    found = np.zeros_like(logits)
    if method in ("reverse_kl", "eopd"):
        rows, tokens = np.arange(len(logits)), sampled(student, draws)
        found[rows, tokens] += (teacher - student)[rows, tokens]
    if method == "reverse_kl_all":
        found += np.where(top(logits, TOP), teacher - student, 0.0)
    if method in ("forward_kl", "eopd"):
        entropy = -(np.exp(teacher) * teacher).sum(-1, keepdims=True)
        everywhere = method == "forward_kl"
        found += np.where(everywhere | (entropy > THRESHOLD), np.exp(teacher) - np.exp(student), 0.0)
    return found


def sampled(student: Floats, draws: Floats) -> NDArray[np.intp]:
    """Return a token [S] of each row's top 10, drawn by its renormalised probabilities."""
    probs = np.where(top(student, TOP), np.exp(student), 0.0).cumsum(-1)
    return (probs <= draws[:, None] * probs[:, -1:]).sum(-1)


def top(values: Floats, count: int) -> NDArray[np.bool_]:
    """Return a mask [S, V] of the largest values of each row."""
    chosen = np.argpartition(-values, count - 1, axis=-1)[:, :count]
    mask = np.zeros(values.shape, dtype=np.bool_)
    np.put_along_axis(mask, chosen, True, axis=-1)
    return mask


def jaccard_distance(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
    """Return 1 - |intersection| / |union| of the sets of each row."""
    return 1.0 - (first & second).sum(-1) / (first | second).sum(-1)


def log_softmax(values: Floats) -> Floats:
    """Return the log-softmax of each row."""
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# --- the search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The changes of one method at one rate up to one step: mean and sample deviation over the seeds, by temperature."""

    method: Method
    rate: float
    steps: int
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def search(
    methods: Sequence[Method], rates: Sequence[float], steps: int, seeds: Sequence[int]
) -> Iterator[Cell]:
    """Yield the cells of every rate at every twentieth of the steps."""
    every = max(1, steps // 20)
    for method in methods:
        for rate in rates:
            counts = [
                simulate(method, temperature, rate=rate, steps=steps, seeds=seeds).changes()
                for temperature in TEMPERATURES
            ]
            for number in range(every, steps + 1, every):
                yield Cell(
                    method=method,
                    rate=rate,
                    steps=number,
                    means=tuple(float(one[number - 1].mean()) for one in counts),
                    deviations=tuple(float(one[number - 1].std(ddof=1)) for one in counts),
                )


def distance_to_published(cell: Cell) -> float:
    """Return the largest distance of the two means from the published ones, in published deviations."""
    return max(
        abs(mean - published) / deviation
        for mean, (published, deviation) in zip(cell.means, PUBLISHED, strict=True)
    )


def matching(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose two means are both within the published deviation of the published means."""
    return [cell for cell in cells if distance_to_published(cell) <= 1.0]


def nearest_of_rates(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cell of each method and rate that is nearest to the published numbers, the nearest first."""
    best: dict[tuple[Method, float], Cell] = {}
    for cell in sorted(cells, key=distance_to_published):
        best.setdefault((cell.method, cell.rate), cell)
    return list(best.values())


# --- report ------------------------------------------------------------------------------------------------------


def report(cells: Sequence[Cell], traces: dict[tuple[Method, float], Trace], seeds: int) -> str:
    """Return the findings as Markdown: the nearest cells of the search, and the methods side by side."""
    found, nearest = matching(cells), nearest_of_rates(cells)[:10]
    (low, low_by), (high, high_by) = PUBLISHED
    where = (
        f"{len(found)} of {len(cells)} pairs of rate and steps give both numbers within their deviations."
        if found
        else f"No pair of rate and steps among {len(cells)} gives both numbers within their deviations; the nearest of each rate:"
    )
    lines = [
        f"Changes of the most probable token over {seeds} seeds (published: {low} +- {low_by} and {high} +- {high_by}). {where}",
        "",
        "| update | rate | steps | teacher at 0.3 | teacher at 1.0 | distance in deviations |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {_NAMES[cell.method]} | {cell.rate:g} | {cell.steps} | {cell.means[0]:.1f} +- {cell.deviations[0]:.1f} |"
        f" {cell.means[1]:.1f} +- {cell.deviations[1]:.1f} | {distance_to_published(cell):.1f} |"
        for cell in nearest
    ]
    lines += [
        "",
        f"All methods at rate {COMPARED_RATE:g}, the last tenth of the steps:",
        "",
        "| method | teacher at | changes in 100 steps | Jaccard distance of the top 10 | KL(teacher, student) |",
        "|---|---:|---:|---:|---:|",
    ]
    for (method, temperature), trace in traces.items():
        last = slice(-max(1, len(trace.changed) // 10), None)
        lines.append(
            f"| {_NAMES[method]} | {temperature:g} | {100 * trace.changed[last].mean():.1f} | {trace.distance[last].mean():.2f} |"
            f" {trace.divergence[last].mean():.3f} |"
        )
    return "\n".join(lines) + "\n"


_NAMES: dict[Method, str] = {
    "reverse_kl": "reverse KL, one token drawn",
    "reverse_kl_all": "reverse KL, all ten tokens",
    "forward_kl": "forward KL",
    "eopd": "EOPD",
}


def changes_figure(cells: Sequence[Cell]) -> Any:
    """Return a figure of the number of changes after all steps against the rate, with the published numbers as bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    last = max(cell.steps for cell in cells)
    for axes, method in zip(figure.subplots(1, 2), ("reverse_kl", "reverse_kl_all"), strict=True):
        chosen = [cell for cell in cells if cell.method == method and cell.steps == last]
        for place, temperature in enumerate(TEMPERATURES):
            rates, color = [cell.rate for cell in chosen], f"C{place}"
            axes.errorbar(
                rates, [cell.means[place] for cell in chosen], [cell.deviations[place] for cell in chosen],
                color=color, capsize=2, label=f"teacher at {temperature:g}",
            )  # fmt: skip
            mean, deviation = PUBLISHED[place]
            axes.axhspan(mean - deviation, mean + deviation, color=color, alpha=0.2)
        axes.set(title=_NAMES[method], xlabel="rate", ylabel=f"changes in {last} steps", yscale="symlog")
        axes.legend()
    return figure


def convergence_figure(traces: dict[tuple[Method, float], Trace]) -> Any:
    """Return a figure of the mean divergence and Jaccard distance over the steps, for every method and teacher."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True)
    for column, temperature in enumerate(TEMPERATURES):
        for place, method in enumerate(METHODS):
            trace = traces[method, temperature]
            for axes, values in zip(rows[:, column], (trace.divergence, trace.distance), strict=True):
                axes.plot(values.mean(1), color=f"C{place}", label=_NAMES[method], linewidth=1.2)
        rows[0, column].set(title=f"teacher at {temperature:g}", ylabel="KL(teacher, student)", yscale="log")
        rows[1, column].set(xlabel="step", ylabel="Jaccard distance of the top 10")
        rows[0, column].legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Search the grid, compare the methods, and write a table and two figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--steps", type=int, default=1000, help="most steps")
    parser.add_argument(
        "--output", type=Path, default=Path("output/reverse_kl_toy"), help="folder of the results"
    )
    given = parser.parse_args(arguments)
    if given.seeds < 2 or given.steps < 20:
        parser.error("give at least 2 seeds and 20 steps")
    seeds = range(given.seeds)
    cells = list(search(("reverse_kl", "reverse_kl_all"), RATES, given.steps, seeds))
    traces: dict[tuple[Method, float], Trace] = {
        (method, temperature): simulate(
            method, temperature, rate=COMPARED_RATE, steps=given.steps, seeds=seeds
        )
        for method in METHODS
        for temperature in TEMPERATURES
    }
    text = report(cells, traces, given.seeds)
    given.output.mkdir(parents=True, exist_ok=True)
    for name, figure in (("changes", changes_figure(cells)), ("convergence", convergence_figure(traces))):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        atomic_write(given.output / f"{name}.png", buffer.getvalue())
    atomic_write(given.output / "table.md", text.encode("utf-8"))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
