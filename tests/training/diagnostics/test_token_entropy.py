"""Token entropy: scores of tokens against plain forward passes, summaries by hand, and the whole measurement on a chain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.llm.ledger import Ledger
from tasks.storage.tables import read_rows
from tests.training.diagnostics.chain_model import ChainEngine, log_table, write_chain
from training.diagnostics.entropy_report import write_report
from training.diagnostics.models import opened
from training.diagnostics.problems import Problem, Problems
from training.diagnostics.settings import EntropySettings
from training.diagnostics.stored import Store
from training.diagnostics.token_entropy import Student, deciding, measure, named_students
from training.diagnostics.token_measures import Bins, TokenScores, pair_scores, ratio, summarise

BINS = Bins(width=0.5, largest=1.0)


def test_the_scores_of_tokens_are_those_of_full_distributions() -> None:
    torch.manual_seed(0)
    hidden, heads = torch.randn(2, 7, 16), torch.randn(2, 50, 16)
    found = pair_scores((hidden[0], heads[0]), (hidden[1], heads[1]), (1, 3, 50), chunk=3)
    p, q = ((states @ head.T).double().softmax(-1) for states, head in zip(hidden, heads, strict=True))
    np.testing.assert_allclose(found["teacher_entropy"], torch.special.entr(p).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(found["student_entropy"], torch.special.entr(q).sum(-1), rtol=1e-4)
    divergence = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)
    np.testing.assert_allclose(found["forward_kl"], divergence, rtol=1e-4)
    ordered = p.sort(-1, descending=True).values
    expected = np.stack([ordered[:, :k].sum(-1) for k in (1, 3, 50)], axis=1)
    np.testing.assert_allclose(found["mass"], expected, rtol=1e-5)


def scores(
    problem: str, teacher: tuple[float, ...], student: tuple[float, ...], kl: tuple[float, ...]
) -> TokenScores:
    mass = tuple(value for entropy in teacher for value in (1 - entropy / 4, 1.0))
    return TokenScores(
        problem_id=problem, number=0, reason=None, teacher_entropy=teacher, student_entropy=student, forward_kl=kl, mass=mass,
    )  # fmt: skip


def test_the_summary_by_hand() -> None:
    rows = [
        scores("a", (0.0, 0.4, 0.9), (0.1, 1.0, 0.0), (0.0, 0.2, 0.6)),
        scores("b", (1.6,), (0.3,), (1.0,)),
        TokenScores(
            problem_id="c", number=0, reason="prompt_too_long", teacher_entropy=(), student_entropy=(), forward_kl=(), mass=(),
        ),
    ]  # fmt: skip
    found = summarise(rows, top_ks=(1, 4), bins=BINS, high=1.0, threshold=0.8, resamples=50, seed=0)
    assert (found["rollouts"], found["tokens"]) == (2, 4)
    values = {
        name: found[name]["value"]
        for name in found
        if isinstance(found[name], dict) and "value" in found[name]
    }
    assert values == pytest.approx(
        {
            "teacher_entropy": 2.9 / 4, "policy_entropy": 1.4 / 4, "teacher_high": 1 / 4, "student_high": 1 / 4,
            "uncertain": 2 / 4, "forward_kl": 1.8 / 4, "forward_kl_uncertain": 0.8, "forward_kl_certain": 0.1,
        }
    )  # fmt: skip
    assert found["histograms"] == {"teacher": [2, 1, 1], "student": [3, 0, 1]}
    assert found["mass"] == {
        "1": pytest.approx([(1 + 0.9) / 2, 1 - 0.9 / 4, 0.6]), "4": pytest.approx([1.0, 1.0, 1.0]),
    }  # fmt: skip
    # the three resamples of two problems have one of these means
    assert found["forward_kl"]["low"] == pytest.approx(0.8 / 3) and found["forward_kl"][
        "high"
    ] == pytest.approx(1.0)
    alone = summarise(rows[:1], top_ks=(1, 4), bins=BINS, high=1.0, threshold=2.0, resamples=50, seed=0)
    assert alone["forward_kl_uncertain"] is None


def test_the_interval_resamples_problems() -> None:
    random = np.random.default_rng(1)
    owner = random.integers(0, 6, size=40)
    values, weights = random.random(40), (random.random(40) < 0.5).astype(float)
    found = ratio(values * weights, weights, owner, resamples=80, seed=3)
    assert found is not None
    drawn = []
    for line in np.random.default_rng(3).integers(0, 6, (80, 6)):
        rows = np.concatenate([np.flatnonzero(owner == one) for one in line])
        drawn.append((values * weights)[rows].sum() / weights[rows].sum())
    assert found["value"] == pytest.approx(values[weights > 0].mean())
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_the_bins_of_a_histogram() -> None:
    bins = Bins(width=0.2, largest=4.0)
    assert len(bins.edges) == 21 and bins.edges[3] == pytest.approx(0.6) and bins.edges[-1] == 4.0
    assert bins.of(np.array([0.0, 0.19, 0.2, 0.6, 3.99, 4.0, 9.0])).tolist() == [0, 0, 1, 3, 19, 20, 20]


# --- a teacher and two students ----------------------------------------------------------------------------------


def fork(share: float) -> dict[str, dict[str, float]]:
    """Return a chain of three tokens: one of two at first, then a fixed one, then the end."""
    return {
        "q": {"x;": share, "y;": 1 - share}, "x;": {"z;": 1.0}, "y;": {"z;": 1.0}, "z;": {"<|im_end|>": 1.0},
    }  # fmt: skip


def test_the_measurement_of_known_models(tmp_path: Path) -> None:
    shares = {"teacher": 0.5, "start": 0.9, "end": 0.6}
    folders = {name: write_chain(tmp_path / name, fork(share), noise=0.0) for name, share in shares.items()}
    settings = EntropySettings.model_validate(
        {
            "teacher": str(folders["teacher"]), "students": [f"{name}={folders[name]}" for name in ("start", "end")],
            "benchmarks": ["pocket"], "dtype": "float32", "samples": 40, "max_tokens": 10, "threshold": 0.5,
            "high_entropy": 0.6, "top_ks": [1, 2], "context": 400, "resamples": 50,
        }
    )  # fmt: skip
    items = tuple(
        Problem(id=f"p/{number}", source="p", text=f"q{number}", answer="7", kind="math")
        for number in range(3)
    )
    problems = Problems(items=items, digest="three")
    teacher = opened("teacher", settings.teacher)
    rows: dict[str, Any] = {}
    for one in named_students(settings):
        rows[one.name] = scored(tmp_path, settings, problems, teacher, one, fork(shares[one.name]))
    found = write_report(tmp_path / "out", rows, settings, "teacher", {"start": "1", "end": "2"}, "three")
    for name, own in found["students"].items():
        q = shares[name]
        entropy = -q * log(q) - (1 - q) * log(1 - q)
        assert (own["rollouts"], own["tokens"]) == (120, 360)
        assert own["teacher_high"]["value"] == pytest.approx(1 / 3)
        assert own["student_high"]["value"] == (pytest.approx(1 / 3) if name == "end" else 0)
        assert own["policy_entropy"]["value"] == pytest.approx(entropy / 3, abs=0.01)
        divergence = 0.5 * log(0.5 / q) + 0.5 * log(0.5 / (1 - q))
        assert own["forward_kl_uncertain"]["value"] == pytest.approx(divergence, abs=0.02)
        assert own["forward_kl_certain"]["value"] == pytest.approx(0, abs=1e-3)
        assert own["mass"]["1"][3] == pytest.approx(0.5, abs=0.02) and own["mass"]["2"][3] == pytest.approx(1)
    assert json.loads((tmp_path / "out/results.json").read_text()) == json.loads(json.dumps(found))
    assert "| start | 120 | 360 |" in (tmp_path / "out/page.md").read_text()
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"table.md", "histograms.svg", "training.png", "mass.svg"} <= names


def scored(
    folder: Path, settings: EntropySettings, problems: Problems, teacher: Any, student: Student, table: Any
) -> list[TokenScores]:
    """Return the rows of a student, measured, and read again without an engine."""
    model, lines = student.model, list[str]()
    engine = ChainEngine(logs=log_table(table, model.tokenizer.get_vocab(), model.vocab_size))

    @contextmanager
    def opened_engine() -> Iterator[ChainEngine]:
        yield engine

    store = Store(folder / "phases", lines.append)
    with Ledger(folder / "ledger.sqlite") as ledger:
        make = partial(measure, settings, problems, teacher, student, ledger, opened_engine, lines.append)
        arguments = (student.name, TokenScores, 1, deciding(settings), (student.name,))
        phase = store.phase(*arguments, make)
        assert store.phase(*arguments, lambda: pytest.fail("made twice")) == phase
    assert (phase.counts.entering, phase.counts.kept) == (120, 120)
    return read_rows(phase.table, TokenScores)
