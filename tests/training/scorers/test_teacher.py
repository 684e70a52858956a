"""The teacher's scores against a plain float32 forward pass of each sequence alone, with all logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tests.tiny_model import write_tiny_experts, write_tiny_model
from tests.training.scorers.teacher_scores import sampled_of, top_of
from training.data.batches import TokenSequence
from training.scorers.scores import ScoreRequest, TopK
from training.scorers.teacher import InProcessTeacher, InProcessTeacherSettings
from training.student.network import read_head
from training.weight_sync.weights import from_bits


def sequences(count: int = 12) -> list[TokenSequence]:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 40, size=count)
    return [
        TokenSequence(
            tokens=random.integers(0, 512, size=length).astype(np.int32),
            prompt_length=int(random.integers(1, length)),
        )
        for length in lengths
    ]


def naive(folder: Path, sequence: TokenSequence, vocabulary: int = 512) -> torch.Tensor:
    """Return log p [T, V] in float64 from a float32 forward pass of one sequence, without batching or padding."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(sequence.tokens).long()[None]).logits[0, :, :vocabulary]
    return logits.double().log_softmax(-1)[sequence.prompt_length - 1 : -1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Iterator[InProcessTeacher]:
    yield InProcessTeacher(
        InProcessTeacherSettings(model=folder, dtype="float32", token_budget=100, chunk=16, threads=1)
    )


def test_the_top_k_equal_those_of_a_plain_forward_pass(folder: Path, teacher: InProcessTeacher) -> None:
    chosen = sequences()
    for sequence, scored in zip(chosen, top_of(teacher, chosen, 8), strict=True):
        expected = naive(folder, sequence)
        assert scored.ids is not None
        assert scored.ids.shape == scored.logprobs.shape == (len(sequence.response), 8)
        found = expected.gather(-1, torch.from_numpy(scored.ids).long())
        np.testing.assert_allclose(scored.logprobs, found, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scored.logprobs, expected.topk(8).values, rtol=1e-4, atol=1e-4)
        assert (np.diff(scored.logprobs) <= 0).all()


def test_the_top_k_of_a_mixture_of_experts_equal_those_of_a_plain_forward_pass(tmp_path: Path) -> None:
    folder = write_tiny_experts(tmp_path / "experts")
    teacher = InProcessTeacher(
        InProcessTeacherSettings(model=folder, dtype="float32", token_budget=100, chunk=16, threads=1)
    )
    chosen = sequences()
    for sequence, scored in zip(chosen, top_of(teacher, chosen, 8), strict=True):
        expected = naive(folder, sequence)
        assert scored.ids is not None
        found = expected.gather(-1, torch.from_numpy(scored.ids).long())
        np.testing.assert_allclose(scored.logprobs, found, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scored.logprobs, expected.topk(8).values, rtol=1e-4, atol=1e-4)
    ((one,), _) = teacher.score(chosen[:1], ScoreRequest(states=True))
    assert one.states is not None and one.top_k is None
    logits = from_bits(one.states).float() @ read_head(folder, 512).float().T
    torch.testing.assert_close(logits.log_softmax(-1).double(), naive(folder, chosen[0]), rtol=0, atol=0.05)


def test_k_may_be_the_whole_vocabulary(folder: Path, teacher: InProcessTeacher) -> None:
    (sequence, *_) = sequences()
    (scored,) = top_of(teacher, [sequence], 512)
    assert scored.ids is None
    np.testing.assert_allclose(scored.logprobs, naive(folder, sequence), rtol=1e-4, atol=1e-4)


def test_sampled_log_probabilities_equal_those_of_a_plain_forward_pass(
    folder: Path, teacher: InProcessTeacher
) -> None:
    chosen = sequences()
    for sequence, values in zip(chosen, sampled_of(teacher, chosen), strict=True):
        expected = naive(folder, sequence)[np.arange(len(sequence.response)), sequence.response]
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_one_forward_pass_gives_all_that_is_requested(folder: Path, teacher: InProcessTeacher) -> None:
    chosen, passes = sequences(), []
    handle = teacher._network.register_forward_hook(lambda *_: passes.append("whole"))
    inner = teacher._network.base_model.register_forward_hook(lambda *_: passes.append("body"))
    everything = ScoreRequest(sampled=True, top_k=8, states=True, entropy=True)
    found = teacher.score(chosen, everything)[0]
    count = len(passes)
    states = teacher.score(chosen, ScoreRequest(states=True))[0]
    handle.remove()
    inner.remove()
    assert len(passes) == 2 * count and set(passes) == {"body"}
    parts = top_of(teacher, chosen, 8), sampled_of(teacher, chosen), states
    for one, top, sampled, state, sequence in zip(found, *parts, chosen, strict=True):
        assert one.top_k is not None and one.states is not None and one.entropy is not None
        np.testing.assert_array_equal(one.top_k.logprobs, top.logprobs)
        np.testing.assert_array_equal(one.sampled, sampled)
        np.testing.assert_array_equal(one.states, state.states)
        expected = naive(folder, sequence)
        entropy = -(expected.exp() * expected).sum(-1)
        np.testing.assert_allclose(one.entropy, entropy, rtol=1e-4, atol=1e-4)


def test_scores_are_deterministic_and_the_budget_changes_only_rounding(
    folder: Path, teacher: InProcessTeacher
) -> None:
    chosen = sequences()
    first, again = top_of(teacher, chosen, 8), top_of(teacher, chosen, 8)
    assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(first, again, strict=True))
    other = top_of(InProcessTeacher(replace(teacher.settings, token_budget=40)), chosen, 8)
    for a, b in zip(first, other, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=1e-4, atol=1e-5)


def test_only_the_shared_part_of_a_padded_vocabulary_is_normalised(
    folder: Path, teacher: InProcessTeacher
) -> None:
    small = InProcessTeacher(replace(teacher.settings, vocabulary=500))
    tokens = np.arange(10, dtype=np.int32)
    sequence = TokenSequence(tokens=tokens, prompt_length=4)
    (scored,) = top_of(small, [sequence], 500)
    np.testing.assert_allclose(scored.logprobs, naive(folder, sequence, 500), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(scored.logprobs).sum(-1), 1.0, rtol=1e-5)
    with pytest.raises(UserError, match="contains token id 511, but the shared vocabulary has 500"):
        top_of(small, [TokenSequence(tokens=np.array([1, 511], dtype=np.int32), prompt_length=1)], 4)


def test_invalid_calls_are_refused(teacher: InProcessTeacher) -> None:
    with pytest.raises(UserError, match="k is 513, but the teacher's vocabulary has 512 ids"):
        top_of(teacher, sequences(), 513)
    long = TokenSequence(tokens=np.zeros(101, dtype=np.int32), prompt_length=1)
    with pytest.raises(UserError, match="sequence 0 has 101 tokens, but the token budget of a batch is 100"):
        top_of(teacher, [long], 4)


def test_no_sequence_gives_no_score(teacher: InProcessTeacher) -> None:
    found: list[TopK] = top_of(teacher, [], 4)
    assert found == []


def test_bf16_scores_stay_near_float32(folder: Path) -> None:
    chosen = sequences()
    bf16 = InProcessTeacher(InProcessTeacherSettings(model=folder, token_budget=200, threads=1))
    half = sampled_of(bf16, chosen)
    differences = [
        np.abs(values - naive(folder, one).numpy()[np.arange(len(values)), one.response])
        for values, one in zip(half, chosen, strict=True)
    ]
    assert np.concatenate(differences).mean() < 0.05


def test_hidden_states_and_head_give_the_full_distribution(folder: Path) -> None:
    teacher = InProcessTeacher(
        InProcessTeacherSettings(model=folder, vocabulary=511, token_budget=100, chunk=16, threads=1)
    )
    head = read_head(folder, 511)
    chosen = sequences()
    states, whole = teacher.score(chosen, ScoreRequest(states=True))[0], top_of(teacher, chosen, 511)
    for one, full in zip(states, whole, strict=True):
        assert one.states is not None and full.ids is None
        logprobs = (from_bits(one.states) @ head.T).float().log_softmax(-1)
        torch.testing.assert_close(logprobs, torch.from_numpy(full.logprobs), rtol=0, atol=2e-2)
        assert full.logprobs.nbytes > 15 * one.states.nbytes


@pytest.mark.parametrize(("shares", "times"), [(True, 2), (False, 0)])
def test_on_a_shared_gpu_cached_memory_is_released_after_every_call(
    folder: Path, teacher: InProcessTeacher, monkeypatch: pytest.MonkeyPatch, shares: bool, times: int
) -> None:
    given_back: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append("cache"))
    monkeypatch.setattr(teacher, "settings", replace(teacher.settings, shares_gpu=shares))
    scores, seconds = teacher.score(sequences(2), ScoreRequest(top_k=4))
    own, _ = teacher.score(sequences(2), ScoreRequest(sampled=True))
    assert len(scores) == len(own) == 2 and seconds > 0
    assert len(given_back) == times
