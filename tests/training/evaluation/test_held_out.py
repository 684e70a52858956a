"""The line about Math-Verify's grades beside ours."""

from __future__ import annotations

import pytest

from training.evaluation import held_out


def test_both_shares_and_the_disagreements_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [r"\boxed{5}", r"\boxed{5 cm}", r"\boxed{6}", "none"]
    monkeypatch.setattr(held_out, "math_verify_grade", lambda text, answer: f"{{{answer}}}" in text)
    line = held_out._beside_math_verify(["5", "6"], texts, [[True, True], [True, False]])
    assert line == "Math-Verify: 50.0%, 1 disagreement; '5 cm' for '5': ours True, Math-Verify False"
