"""`python -m scripts.algorithms_page`: write docs/algorithms.md from the declarations in training/algorithms/."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tasks.config import PROJECT_ROOT
from training.algorithms import algorithm_names, load_algorithm, options_of
from training.algorithms.base import Algorithm, Scorer

PAGE = PROJECT_ROOT / "docs" / "algorithms.md"
HEAD = """\
# Algorithms

Every method of the training stage, from its file in [training/algorithms/](../training/algorithms/). `algorithm.name` in RUN.json
(`distill.run.algorithm.name` in a profile) selects one. Its defaults apply wherever the profile or RUN.json gives no value; all
other defaults are those of [training/config.py](../training/config.py). This page is generated:
`python -m scripts.algorithms_page`.

Notation: y a response of |y| tokens, x its prompt, q the student, q_old the student that generated, q_0 the frozen start, p the
teacher or the frozen start, m the sum of p over its top k, r_t = q / q_old of a token. Constants in a formula are those of the
default options; the model card of a run has its own.

Some methods have options of their own, set by `algorithm.options`, as in `{"name": "eopd", "options": {"threshold": 1.2}}`. All
other settings of `algorithm` apply to every method that has the part that they change
([training.md](training.md#algorithms)).

"""


_OUTPUTS = {"sampled": "log p of the token"}


def page() -> str:
    """Return the page as Markdown."""
    algorithms = {name: load_algorithm(name) for name in algorithm_names()}
    return (
        HEAD
        + "\n".join(_overview(algorithms))
        + "\n\n"
        + "\n".join(map(_section, algorithms, algorithms.values()))
    )


def _overview(algorithms: dict[str, Algorithm]) -> Iterator[str]:
    yield "| algorithm | rollouts | frozen models | verified answers | updates per batch |"
    yield "|---|---|---|---|---:|"
    for name, algorithm in algorithms.items():
        models = ", ".join(dict.fromkeys(_model(one) for one in algorithm.scorers)) or "none"
        yield (
            f"| [{name}](#{name}) | {_rollouts(algorithm)} | {models} | {'yes' if algorithm.reward else 'no'} |"
            f" {algorithm.updates_per_batch} |"
        )


def _section(name: str, algorithm: Algorithm) -> str:
    lines = [f"## {name}", "", f"{algorithm.summary}.", "", "```text", algorithm.formula, "```", ""]
    lines.append(f"- source: {algorithm.source}")
    lines.append(f"- needs: {'; '.join(_needs(algorithm))}")
    lines.append(f"- cost of a step: {_cost(algorithm)}")
    lines += [f"- differs: {one}" for one in algorithm.deviations]
    options, meaning = options_of(name)
    if options:
        lines.append(
            f"- options (`algorithm.options`), with their defaults: `{json.dumps(dict(options))}`. {meaning}"
        )
    if algorithm.defaults:
        lines += ["- defaults:", "", "```json", json.dumps(dict(algorithm.defaults), indent=2), "```"]
    return "\n".join(lines) + "\n"


def _needs(algorithm: Algorithm) -> Iterator[str]:
    yield _rollouts(algorithm)
    for scorer in algorithm.scorers:
        outputs = ", ".join(
            f"top {scorer.top_k}" if output == "top_k" else _OUTPUTS.get(output, output)
            for output in scorer.outputs
        )
        yield f"{_model(scorer)} with the {scorer.view.replace('_', ' ')} prompt: {outputs}"
    if algorithm.reward:
        yield "an answer for every prompt (`dataset.labels`)"
    if any(scorer.view.startswith("solution") for scorer in algorithm.scorers):
        yield "a solution for every prompt (`dataset.solutions`)"
    if algorithm.demonstrations:
        yield "a solution where a prompt has one (`dataset.solutions`)"
    if algorithm.student_outputs:
        yield f"of the student before the update: {', '.join(_OUTPUTS.get(one, one) for one in algorithm.student_outputs)}"


def _cost(algorithm: Algorithm) -> str:
    passes = len({(scorer.role, scorer.view) for scorer in algorithm.scorers})
    generated = "generation of the rollouts, " if algorithm.rollouts == "student" else ""
    frozen = f"{passes} forward {'pass' if passes == 1 else 'passes'} of frozen models, " if passes else ""
    looks = bool(algorithm.student_outputs) + (algorithm.sequence_loss is not None)
    own = f"{looks} forward {'pass' if looks == 1 else 'passes'} of the student, " if looks else ""
    return f"{generated}{frozen}{own}one forward and backward pass of the student"


def _model(scorer: Scorer) -> str:
    return {"teacher": "the teacher", "start": "the frozen start", "reference": "the reference"}[scorer.role]


def _rollouts(algorithm: Algorithm) -> str:
    return "of the student" if algorithm.rollouts == "student" else "the dataset's responses"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
