"""The toy of EOPD: its steps by hand, what converges, and the files of the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.diagnostics.reverse_kl_toy import (
    METHODS,
    PUBLISHED,
    RAISED,
    Cell,
    Method,
    direction,
    jaccard_distance,
    log_softmax,
    main,
    matching,
    nearest_of_rates,
    sampled,
    simulate,
    teacher_logprobs,
    top,
)


def test_the_teacher_is_the_papers() -> None:
    certain, uncertain = (teacher_logprobs([0, 1], temperature) for temperature in (0.3, 1.0))
    assert np.exp(certain).sum(-1) == pytest.approx([1, 1]) and certain.shape == (2, 80)
    # the same logits at two temperatures, up to the normaliser
    assert np.ptp(certain * 0.3 - uncertain, axis=-1) == pytest.approx([0, 0], abs=1e-12)
    for row in uncertain:  # some entry is 2.5, and the other four are there with it
        assert any(all(np.isclose(row - entry + 2.5, value).any() for value in RAISED) for entry in row)
    entropy = -(np.exp(certain) * certain).sum(-1)
    assert (entropy < -(np.exp(uncertain) * uncertain).sum(-1)).all()


def test_one_step_of_each_method_by_hand() -> None:
    # q = (1/2, 1/4, 1/8, 1/8) in a vocabulary of 4, all of which are among the top 10: fill up with tokens of no mass
    q, p = np.full((1, 80), -60.0), np.full((1, 80), -60.0)
    q[0, :4], p[0, :4] = np.log([0.5, 0.25, 0.125, 0.125]), np.log([0.25, 0.25, 0.25, 0.25])
    # 0.6 lies in the second quarter of the cumulative probabilities 0.5, 0.75, ...: token 1, where p = q
    assert sampled(log_softmax(q), np.array([0.6])).tolist() == [1]
    assert sampled(log_softmax(q), np.array([0.0])).tolist() == [0]
    log2 = np.log(2)
    first = np.array([0.1])  # token 0: log(1/4 / 1/2) = -log 2
    assert direction("reverse_kl", p, q, first)[0, :4].tolist() == pytest.approx([-log2, 0, 0, 0])
    assert direction("forward_kl", p, q, first)[0, :4].tolist() == pytest.approx([-0.25, 0, 0.125, 0.125])
    # the teacher's entropy log 4 is above 0.8: the sum
    assert direction("eopd", p, q, first)[0, :4].tolist() == pytest.approx([-log2 - 0.25, 0, 0.125, 0.125])
    assert direction("reverse_kl_all", p, q, first)[0, :4].tolist() == pytest.approx([-log2, 0, log2, log2])
    certain = np.full((1, 80), -60.0)
    certain[0, :2] = np.log([0.9, 0.1])
    assert (direction("eopd", certain, q, first) == direction("reverse_kl", certain, q, first)).all()


@pytest.mark.parametrize("method", [*METHODS, "reverse_kl_all"])
def test_a_student_equal_to_its_teacher_stays(method: Method) -> None:
    teacher = teacher_logprobs(range(3), 1.0)
    assert np.abs(direction(method, teacher, teacher, np.array([0.1, 0.5, 0.9]))).max() < 1e-12


def test_sets_and_their_distance() -> None:
    first, second = top(np.array([[3.0, 1, 2, 0]]), 2), top(np.array([[0.0, 1, 2, 3]]), 2)
    assert (first.tolist(), second.tolist()) == ([[True, False, True, False]], [[False, False, True, True]])
    assert jaccard_distance(first, second).tolist() == pytest.approx([2 / 3])  # one of three in common
    assert jaccard_distance(first, first).tolist() == [0]


def test_a_run_depends_on_its_seed_alone() -> None:
    both = simulate("eopd", 1.0, rate=0.5, steps=30, seeds=[3, 8])
    one = simulate("eopd", 1.0, rate=0.5, steps=30, seeds=[8])
    assert (both.divergence[:, 1] == one.divergence[:, 0]).all()
    assert (both.changes()[:, 1] == one.changes()[:, 0]).all()


def test_forward_kl_and_eopd_converge_to_an_uncertain_teacher_and_reverse_kl_does_not() -> None:
    found = {name: simulate(name, 1.0, rate=1.0, steps=800, seeds=range(6)) for name in METHODS}
    ends = {name: (one.divergence[-1].mean(), one.distance[-1].mean()) for name, one in found.items()}
    assert all(ends[name][0] < 0.01 and ends[name][1] < 0.05 for name in ("forward_kl", "eopd"))
    assert ends["reverse_kl"][0] > 0.1 and ends["reverse_kl"][1] > 0.3


def test_an_uncertain_teacher_is_followed_less_stably_at_a_large_rate() -> None:
    certain, uncertain = (
        simulate("reverse_kl", temperature, rate=2.2, steps=400, seeds=range(8)).changes()[-1].mean()
        for temperature in (0.3, 1.0)
    )
    assert uncertain > 3 * certain


def cell(rate: float, steps: int, *means: float) -> Cell:
    return Cell(method="reverse_kl", rate=rate, steps=steps, means=means, deviations=(1.0, 1.0))


def test_a_cell_matches_if_both_numbers_do() -> None:
    cells = [
        cell(1.0, 10, 7.3, 84.0),
        cell(1.0, 20, 8.8, 67.5),
        cell(2.0, 10, 9.0, 84.0),
        cell(2.0, 20, 7.3, 60.0),
    ]
    assert matching(cells) == cells[:2]
    assert PUBLISHED == ((7.3, 1.6), (84.0, 16.7))
    assert nearest_of_rates(cells) == [cells[0], cells[2]]


def test_the_command_writes_a_table_and_two_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seeds", "2", "--steps", "20", "--output", str(tmp_path / "toy")]) == 0
    written = sorted(path.name for path in (tmp_path / "toy").iterdir() if path.suffix in (".md", ".png"))
    assert written == ["changes.png", "convergence.png", "table.md"]
    assert (tmp_path / "toy" / "changes.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "toy" / "table.md").read_text(encoding="utf-8")
    assert table == capsys.readouterr().out
    assert "No pair of rate and steps among 680 gives both numbers" in table and table.count("| EOPD |") == 2
    with pytest.raises(SystemExit):
        main(["--seeds", "1"])
