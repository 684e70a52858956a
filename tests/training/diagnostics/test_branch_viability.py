"""Branch viability on a Markov chain whose unreliable branches are known: a real checkpoint, the real phases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.storage.tables import read_rows
from tests.training.diagnostics.chain_model import (
    END,
    RIGHT,
    ChainEngine,
    Table,
    log_table,
    path,
    write_chain,
)
from training.data.model_files import ModelFiles
from training.diagnostics.branch_report import finish, summary
from training.diagnostics.branch_rows import Candidate, Continuation, Labelled, Pass, Spine, Uncertainty
from training.diagnostics.branches import Label, relative
from training.diagnostics.models import context_of, identity_of, opened
from training.diagnostics.network import Network
from training.diagnostics.phases import Run, phases
from training.diagnostics.problems import Problem, Problems
from training.diagnostics.sampling import Sampler
from training.diagnostics.settings import BranchSettings
from training.diagnostics.stored import Phase, Store
from training.evaluation.grading import grade_response

BRANCHES, LENGTH, DECISION = (4, 10, 16, 28, 34, 40), 46, 22
PLANTED = 8  # problems
SETTINGS: dict[str, Any] = {
    "thinking": False, "context": 640, "spine_tokens": 60, "continuation_tokens": 60, "spacing": 4, "max_positions": 7,
    "dtype": "float32", "passes": 3, "resamples": 300,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain on disk."""

    folder: Path
    model: ModelFiles
    logs: np.ndarray

    def run(
        self, out: Path, letters: str, *, fails_after: int | None = None, **changes: Any
    ) -> tuple[dict[str, Phase], dict[str, Any], ChainEngine]:
        """Run all phases on one problem per letter; return them, the results and the engine."""
        settings = BranchSettings.model_validate({**SETTINGS, "model": str(self.folder), **changes})
        items = [
            Problem(id=f"chain/{number}", source="chain", text=f"{letter} {number}", answer="7", kind="math")
            for number, letter in enumerate(letters)
        ]
        engine = ChainEngine(logs=self.logs, fails_after=fails_after)

        @contextmanager
        def opened_engine() -> Iterator[ChainEngine]:
            yield engine

        model, lines = self.model, list[str]()
        context = context_of(model, settings)
        with (
            Ledger(out / "ledger.sqlite") as ledger,
            Sampler(identity_of(model, settings), context, ledger, opened_engine, lines.append) as sampler,
        ):
            run = Run(
                settings=settings, problems=Problems(items=tuple(items), digest=letters), student=model, teacher=model,
                sampler=sampler, teacher_identity=identity_of(model, settings), log=lines.append,
                open_teacher=lambda: Network(self.folder, dtype="float32", vocabulary=model.vocab_size),
                grade=lambda asked: [grade_response(one) for one in asked],
            )  # fmt: skip
            store = Store(out / "branch_viability", lines.append)
            made = phases(run, store)
            return made, finish(run, store, made), engine


def chain(folder: Path, table: Table) -> Chain:
    write_chain(folder, table)
    model = opened("model", str(folder))
    logs = log_table(table, model.tokenizer.get_vocab(), model.vocab_size)
    return Chain(folder=folder, model=model, logs=logs)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Responses to problems that start with `p` have unreliable early branches; those of `g` none; all branches of `b` are
    unreliable; greedy decoding of `l` never ends."""
    table = (
        path("p", LENGTH, BRANCHES, DECISION, slip=0.08)
        | path("g", LENGTH, BRANCHES, None)
        | path("b", LENGTH, BRANCHES, 44)
        | path("m", 12, (6,), None)
    )
    table |= {"l": {"l0;": 0.6, "m": 0.4}, "l0;": {"l0;": 1.0}}
    return chain(tmp_path_factory.mktemp("chain") / "model", table)


@pytest.fixture(scope="module")
def planted(
    chains: Chain, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Phase], dict[str, Any], ChainEngine]:
    out = tmp_path_factory.mktemp("planted")
    return out, *chains.run(out, "p" * PLANTED)


def test_planted_unreliable_early_branches_are_found_by_their_position(planted: Any) -> None:
    _, made, found, _ = planted
    auroc = found["scores"]["earliness"]["auroc"]
    assert auroc["value"] >= 0.9 and auroc["low"] >= 0.9
    for one in read_rows(made["F"].table, Labelled):
        assert one.label is not Label.REAL_UNCERTAIN or one.position < DECISION
        assert one.label is not Label.DIVERSITY or one.position > DECISION
    assert found["real_uncertain"] >= 12 and found["diversity"] >= 12  # of 24 each
    # all branches have the same distribution, so that no measure of the teacher separates them as well
    others = [found["scores"][name]["auroc"]["value"] for name in found["scores"] if name != "earliness"]
    assert max(others) < auroc["value"]


def test_the_counts_of_all_phases_reconcile(planted: Any) -> None:
    _, made, found, engine = planted
    counts = {name: one.counts for name, one in made.items()}
    assert (counts["A"].entering, counts["A"].kept) == (PLANTED, PLANTED)
    assert (counts["B"].entering, counts["B"].kept) == (PLANTED, PLANTED)
    # 46 tokens, the box and the end; the branches and the decision of each spine pass, but not the errors after branches
    assert counts["C"].entering == PLANTED * 48 and counts["C"].kept == PLANTED * 7
    assert counts["C"].dropped == {"after_box": PLANTED, "low_ratio": PLANTED * 6, "low_second": PLANTED * 34}
    assert counts["D"].kept == counts["F"].entering == PLANTED * 7
    assert counts["E"].entering == counts["E"].kept == PLANTED * 7 * 18
    assert counts["F"].kept == found["phases"]["G"]["in"] == found["real_uncertain"] + found["diversity"]
    assert counts["F"].dropped["gray"] == PLANTED * 7 - counts["F"].kept
    assert len(engine.asked) == PLANTED + PLANTED * 7 * 18


def test_the_rows_of_a_spine_are_those_of_the_chain(planted: Any, chains: Chain) -> None:
    _, made, _, _ = planted
    tokens = chains.model.tokenizer.get_vocab()
    spine = read_rows(made["A"].table, Spine)[0]
    places = [f"p{place}{'a' if place in BRANCHES else ''};" for place in range(LENGTH)]
    assert list(spine.tokens) == [tokens[one] for one in [*places, RIGHT, END]]
    assert (spine.box, spine.sampled, spine.reason) == (LENGTH + 1, False, None)
    candidates = [one for one in read_rows(made["C"].table, Candidate) if one.problem_id == spine.problem_id]
    assert [one.position for one in candidates] == sorted({*BRANCHES, DECISION})
    first = candidates[0]
    assert first.children == tuple(tokens[f"p4{letter};"] for letter in "abc")
    assert first.probs[:3] == pytest.approx((0.5, 0.3, 0.2), abs=0.02)
    assert first.relative == relative(4, 48) == pytest.approx(4.5 / 48)
    assert first.teacher_entropy == pytest.approx(1.03, abs=0.03)  # of .5, .3, .2
    passed = read_rows(made["B"].table, Pass)[0]
    assert "7" in chains.model.tokenizer.decode(list(passed.prompt)) and len(passed.prompt) > len(
        spine.prompt
    )
    measured = read_rows(made["D"].table, Uncertainty)[0]
    assert measured.entropy == pytest.approx(1.03, abs=0.1) and 0 < measured.mutual_information < 0.05
    assert measured.log_precision > 0


def test_continuations_are_graded_with_the_spine_before_them(planted: Any) -> None:
    _, made, _, _ = planted
    rows = read_rows(made["E"].table, Continuation)
    early = [one.correct for one in rows if one.position < DECISION]
    late = [one.correct for one in rows if one.position > DECISION]
    # the right decision, and no error after this branch and the later ones (six to four of them, three to one)
    assert np.mean(early) == pytest.approx(0.15 * np.mean([0.92**6, 0.92**5, 0.92**4]), abs=0.05)
    assert np.mean(late) == pytest.approx(np.mean([0.92**3, 0.92**2, 0.92]), abs=0.04)
    assert {one.answer for one in rows} == {"7", "8"} and all(one.finish_reason == "stop" for one in rows)


@pytest.mark.parametrize("letters", ["ggg", "gbgbgbgb"])
def test_without_planted_branches_the_position_finds_nothing(
    chains: Chain, tmp_path: Path, letters: str
) -> None:
    """Reliable branches alone; then half of the problems with unreliable branches at all positions."""
    made, found, _ = chains.run(tmp_path, letters)
    if "b" not in letters:
        assert found["real_uncertain"] == 0 and found["scores"]["earliness"] is None
        assert "one class is missing" in (tmp_path / "branch_viability/page.md").read_text()
        return
    uncertain = [one for one in read_rows(made["F"].table, Labelled) if one.label is Label.REAL_UNCERTAIN]
    assert {int(one.problem_id.partition("/")[2]) % 2 for one in uncertain} == {1} and len(uncertain) >= 12
    auroc = found["scores"]["earliness"]["auroc"]
    assert auroc["low"] < 0.5 < auroc["high"] and abs(auroc["value"] - 0.5) < 0.15


def test_a_response_without_a_box_is_sampled_again_and_wrong_ones_are_dropped(
    chains: Chain, tmp_path: Path
) -> None:
    made, _, engine = chains.run(tmp_path, "l" * 12)
    rows = read_rows(made["A"].table, Spine)
    assert all(one.sampled for one in rows) and len(engine.asked) >= 24
    reasons = [one.reason for one in rows]
    assert set(reasons) == {None, "no_box"} and made["A"].counts.dropped == {
        "no_box": reasons.count("no_box")
    }
    assert made["B"].counts.entering == reasons.count(None)
    assert {one.box for one in rows if one.reason is None} == {14}


def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    planted: Any, chains: Chain, tmp_path: Path
) -> None:
    out, _, _, whole = planted
    asked: list[Any] = []
    for fails_after in (5, 40, 400):
        with pytest.raises(KeyboardInterrupt):
            chains.run(tmp_path, "p" * PLANTED, fails_after=fails_after)
    _, _, engine = chains.run(tmp_path, "p" * PLANTED)
    asked = engine.asked
    assert len(asked) == len(whole.asked) - 5 - 40 - 400  # no sample was generated twice
    assert _files(tmp_path) == _files(out)
    assert {"figure1.svg", "figure1.png", "table1.md", "results.json", "page.md"} <= _files(out).keys()


def test_a_changed_threshold_repeats_the_labels_only(planted: Any, chains: Chain, tmp_path: Path) -> None:
    chains.run(tmp_path, "pp")
    before = {name: file for name, file in _files(tmp_path).items() if name.endswith("rows.parquet")}
    stamps = {name: (tmp_path / "branch_viability" / name).stat().st_mtime_ns for name in before}
    _, _, engine = chains.run(tmp_path, "pp", uncertain_rate=0.2)
    again = {name: (tmp_path / "branch_viability" / name).stat().st_mtime_ns for name in before}
    assert engine.asked == []
    assert {name[0] for name in before if again[name] != stamps[name]} == {"F", "G"}
    damaged = tmp_path / "branch_viability" / "D-dropout" / "rows.parquet"
    damaged.write_bytes(b"damaged")
    chains.run(tmp_path, "pp", uncertain_rate=0.2)
    assert damaged.read_bytes() == before["D-dropout/rows.parquet"]


def test_what_does_not_fit_is_dropped_with_a_reason(chains: Chain, tmp_path: Path) -> None:
    made, _, _ = chains.run(tmp_path / "long", "p", context=90)
    assert made["A"].counts.dropped == {"prompt_too_long": 1}
    prompt = len(read_rows(chains.run(tmp_path / "all", "p")[0]["A"].table, Spine)[0].prompt)
    made, _, _ = chains.run(tmp_path / "answer", "p", context=prompt + 48)  # the teacher's prompt is longer
    assert made["A"].counts.kept == 1 and made["B"].counts.dropped == {"prompt_too_long": 1}


def test_more_dropout_layers_than_the_model_has_are_refused(chains: Chain, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dropout_layers is 5, but .* has 4 layers"):
        chains.run(tmp_path, "p", dropout_layers=5)


def _files(out: Path) -> dict[str, bytes]:
    """Return everything that was written, by path."""
    root = out / "branch_viability"
    return {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()
    }


def test_the_results_name_phases_settings_and_areas(planted: Any) -> None:
    out, _, found, _ = planted
    stored = json.loads((out / "branch_viability/results.json").read_text())
    assert stored == json.loads(json.dumps(found))
    for one in stored["phases"].values():
        assert one["in"] == one["kept"] + sum(one["dropped"].values())
    page = (out / "branch_viability/page.md").read_text()
    assert "| position (1 - r) | 1.00 [1.00, 1.00] |" in page and "| C | positions | 384 | 56 |" in page


def test_the_chain_is_the_model(chains: Chain) -> None:
    """The checkpoint's next-token probabilities are those of the table, up to the noise of its MLPs."""
    ids = chains.model.tokenizer.get_vocab()
    response: Sequence[int] = [ids[f"p{place};"] for place in range(4)] + [ids["p4b;"], ids["p5;"]]
    with Network(chains.folder, dtype="float32", vocabulary=chains.model.vocab_size) as network:
        logprobs, tokens = network.top([ids["p"]], response, 3)
    expected = np.sort(np.exp(chains.logs[[ids["p"], *response[:-1]]]), axis=1)[:, :-4:-1]
    np.testing.assert_allclose(np.exp(logprobs), expected, atol=0.02)
    assert tokens[4].tolist() == [ids[f"p4{letter};"] for letter in "abc"]


@pytest.mark.parametrize(("positives", "warned"), [(1, True), (9, True), (10, False)])
def test_areas_of_few_candidates_are_said_to_be_of_little_use(positives: int, warned: bool) -> None:
    area = {"value": 0.68, "low": 0.65, "high": 0.72}
    found = {
        "real_uncertain": positives,
        "diversity": 175,
        "problems_with_labels": 66,
        "scores": {"earliness": {"auroc": area}},
    }
    said = summary(found)
    assert said.startswith(f"{positives} real-uncertain against 175 diverse candidates of 66 problems")
    assert ("of little use with fewer than 10 candidates of one label" in said) is warned
