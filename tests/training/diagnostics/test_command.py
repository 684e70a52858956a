"""The command lines of the diagnostics: settings, presets, problems, and one sentence for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from training.diagnostics import branch_viability, token_entropy
from training.diagnostics.command import run_command
from training.diagnostics.problems import Problem, read_problems, spread
from training.diagnostics.settings import PRESETS, BranchSettings, EntropySettings
from training.diagnostics.stored import Counts

COMMANDS: dict[str, Callable[..., int]] = {
    "branch_viability": branch_viability.main, "token_entropy": token_entropy.main,
}  # fmt: skip


def given(*arguments: str) -> BranchSettings:
    """Return the settings of a command line."""
    found: list[Any] = []
    code = run_command(
        "branch_viability", "", BranchSettings, lambda settings, _: found.append(settings), arguments
    )
    assert code == 0
    return found[0]


def test_the_defaults_are_the_papers() -> None:
    found = BranchSettings(model="m")
    assert (
        found.benchmarks == ("math500:24", "aime2024", "aime2025")
        and found.context == 32_768
        and found.thinking
    )
    assert (found.view, found.spine_tokens, found.fallback_temperature, found.top_k) == (
        "answer",
        16_384,
        0.7,
        16,
    )
    assert (found.min_second, found.min_ratio, found.spacing) == (0.02, 0.10, 64)
    assert (found.max_positions, found.children) == (5, 3)
    assert (found.dropout_layers, found.dropout, found.passes) == (4, 0.1, 5)
    assert (found.continuations, found.temperature, found.top_p) == (6, 1.0, 0.95)
    assert (found.diverse_children, found.diverse_rate, found.uncertain_rate) == (2, 0.75, 0.40)
    assert found.resamples == 2000
    entropy = EntropySettings(teacher="t", students=("s",), benchmarks=("math500",))
    assert (entropy.high_entropy, entropy.threshold, entropy.temperature) == (1.0, 0.8, 1.0)


def test_options_are_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"spacing": 3, "passes": 7, "model": "other"}))
    found = given(str(path), "--preset", "pocket", "--set", "passes=9", "--benchmarks", "gsm8k:10, pocket")
    assert (found.spacing, found.passes, found.model) == (3, 9, "other")
    assert found.benchmarks == ("gsm8k:10", "pocket") and found.spine_tokens == 448 and not found.thinking


def test_every_preset_is_valid() -> None:
    kinds = {"branch_viability": BranchSettings, "token_entropy": EntropySettings}
    needed = {"paper": {"model": "m"}, "pocket": {}}
    for command, presets in PRESETS.items():
        for name, values in presets.items():
            more = needed[name] if command == "branch_viability" else {}
            if name == "pocket" or more:
                kinds[command].model_validate({**values, **more})


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("branch_viability", [], "model: this setting is missing"),
        ("branch_viability", ["--model", "m", "--set", "spacings=3"], "spacings: unknown key"),
        ("branch_viability", ["--model", "m", "--set", "spacing"], "--set spacing has no value"),
        ("branch_viability", ["--model", "m", "--set", "passes=1"], "passes: Input should be greater than or equal to 2"),
        ("branch_viability", ["--model", "m", "--set", "uncertain_rate=0.8"], "uncertain_rate is above diverse_rate"),
        ("branch_viability", ["missing.json"], "missing.json cannot be read"),
        ("branch_viability", ["--preset", "pocket", "--benchmarks", "nothing"], "nothing"),
        ("branch_viability", ["--preset", "pocket", "--benchmarks", "pocket:0"], "'pocket:0' is no benchmark"),
        ("branch_viability", ["--preset", "pocket", "--benchmarks", "alpaca_eval"], "has no gold answers"),
        ("branch_viability", ["--preset", "pocket", "--model", "pocket/none"], "model: checkpoint folder"),
        ("branch_viability", ["--preset", "pocket", "--dataset", "nowhere"], "nowhere"),
        ("branch_viability", ["--preset", "pocket", "--set", "top_k=4000"], "top_k is 4000, but the models share 2048"),
        ("token_entropy", ["--preset", "pocket", "--students", "pocket/student,pocket/student"], "have the name student"),
        ("token_entropy", ["--preset", "pocket", "--set", "top_ks=[4096]"], "top_ks has 4,096"),
        ("token_entropy", ["--teacher", "t", "--students", "s"], "there are no problems"),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_sentence(
    command: str, arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command]([*arguments, "--out", str(tmp_path)]) == 2
    written = capsys.readouterr().err
    assert sentence in written and written.count("\n") == 1 and "Traceback" not in written
    assert not list(tmp_path.iterdir())


def test_problems_are_taken_at_equal_distances() -> None:
    items = [Problem(id=str(number), source="s", text="t", answer="1", kind="math") for number in range(10)]
    assert [one.id for one in spread(items, 4)] == ["0", "2", "5", "7"]
    assert spread(items, None) == spread(items, 10) == spread(items, 99) == items
    found = read_problems(BranchSettings(model="m", benchmarks=("pocket:8",)), lambda _: None)
    assert len(found.items) == 8 and found.items[0].id.startswith("pocket/4/easy/")
    assert {one.id.split("/")[2] for one in found.items} == {"easy", "medium", "hard", "competition"}


def test_counts_that_do_not_add_up_are_refused() -> None:
    assert (
        str(Counts(unit="spines", entering=3, kept=2, dropped={"wrong": 1}))
        == "3 spines, 2 kept, dropped: wrong 1"
    )
    with pytest.raises(ValueError, match="3 spines are not 2 kept"):
        Counts(unit="spines", entering=3, kept=2, dropped={})


def test_a_dataset_without_ground_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="manifest"):
        read_problems(BranchSettings(model="m", benchmarks=(), dataset=str(tmp_path)), lambda _: None)
