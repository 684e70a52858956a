"""The vLLM teacher backend: its engine options, its parsing of log-probabilities, and its agreement with the in-process one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from pocket import world
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tests.training.scorers.teacher_scores import sampled_of, top_of
from training.data.batches import TokenSequence
from training.data.model_files import encode_prompts, open_model
from training.scorers.scores import ScoreRequest
from training.scorers.teacher import InProcessTeacher, InProcessTeacherSettings
from training.scorers.vllm_teacher import (
    ScoringSettings,
    VllmTeacher,
    response_entries,
    scoring_environment,
    scoring_options,
    topk_of,
)

MODEL = PROJECT_ROOT / "pocket" / "teacher"
SETTINGS = ScoringSettings(model=MODEL, max_tokens=256, top_k=2048, vocabulary=2048, pass_tokens=2048)
BF16_TOLERANCE = 0.05  # mean in nats; the precision of a bf16 logit of 20 is 0.06


# --- without an engine -------------------------------------------------------------------------------------------


def test_the_engine_has_no_prefix_cache_and_passes_of_bounded_size() -> None:
    for on_cpu in (True, False):
        options = scoring_options(SETTINGS, on_cpu=on_cpu)
        assert options["enable_prefix_caching"] is False and options["skip_tokenizer_init"] is True
        assert options["max_model_len"] == 257  # the sequence, and the one token that vLLM must generate
        assert options["max_logprobs"] == 2048 and options["logprobs_mode"] == "raw_logprobs"
    assert scoring_options(SETTINGS, on_cpu=False)["max_num_batched_tokens"] == 2048
    assert scoring_options(SETTINGS, on_cpu=False)["gpu_memory_utilization"] == 0.8
    assert scoring_environment(SETTINGS, on_cpu=True)["OMP_NUM_THREADS"] == "1"


def flat(ids: list[int], logprobs: list[float]) -> SimpleNamespace:
    return SimpleNamespace(token_ids=ids, logprobs=logprobs)


def test_the_sampled_token_is_not_part_of_the_top_k() -> None:
    # Tokens 5 | 7 9; k = 2. Position 1 has token 7, whose entry comes first and which is not among the two most likely;
    # position 2 has token 9, which is the most likely and therefore appears twice.
    sequence = TokenSequence(tokens=np.array([5, 7, 9], np.int32), prompt_length=1)
    given = flat([7, 1, 2, 9, 9, 3], [-4.0, -0.5, -1.5, -0.25, -0.25, -2.0])
    ids, values = response_entries(given, sequence, 2)
    assert ids.tolist() == [[7, 1, 2], [9, 9, 3]]
    assert values[:, 0].tolist() == [-4.0, -0.25]
    scored = topk_of(ids[:, 1:], values[:, 1:], vocabulary=10)
    assert scored.ids is not None and scored.ids.tolist() == [[1, 2], [9, 3]]
    assert scored.logprobs.tolist() == [[-0.5, -1.5], [-0.25, -2.0]]
    assert scored.ids.dtype == np.int32 and scored.logprobs.dtype == np.float32


def test_positions_of_the_prompt_are_excluded() -> None:
    sequence = TokenSequence(tokens=np.array([5, 7, 9], np.int32), prompt_length=2)
    ids, values = response_entries(flat([7, 1, 9, 3], [-4.0, -0.5, -0.25, -0.125]), sequence, 1)
    assert ids.tolist() == [[9, 3]] and values.tolist() == [[-0.25, -0.125]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [([7, 1, 9], "3 entries for 2 positions of 2"), ([7, 1, 8, 3], "do not match the tokens")],
)
def test_entries_of_another_sequence_are_refused(ids: list[int], message: str) -> None:
    sequence = TokenSequence(tokens=np.array([5, 7, 9], np.int32), prompt_length=1)
    with pytest.raises(RuntimeError, match=message):
        response_entries(flat(ids, [-1.0] * len(ids)), sequence, 1)


def test_the_whole_vocabulary_is_in_order_of_ids() -> None:
    scored = topk_of(np.array([[2, 0, 1]], np.int32), np.array([[-0.5, -1.0, -3.0]], np.float32), 3)
    assert scored.ids is None and scored.logprobs.tolist() == [[-1.0, -3.0, -0.5]]


# --- with an engine ----------------------------------------------------------------------------------------------


def sequences() -> list[TokenSequence]:
    """Return the prompts of 24 pocket problems, whose last tokens serve as responses."""
    texts = [world.problem(3, tier, number).text for tier in ("easy", "hard") for number in range(12)]
    prompts = encode_prompts(open_model("teacher", str(MODEL)), texts, thinking=False)
    assert max(map(len, prompts)) <= 256
    return [
        TokenSequence(tokens=np.array(ids, np.int32), prompt_length=1 + number % 7)
        for number, ids in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmTeacher]:
    before = dict(os.environ)
    yield VllmTeacher(
        SETTINGS, scoring_environment(SETTINGS, on_cpu=True), scoring_options(SETTINGS, on_cpu=True)
    )
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def in_process() -> InProcessTeacher:
    return InProcessTeacher(InProcessTeacherSettings(model=MODEL, threads=1))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 16, 64])
def test_the_top_k_agree_with_the_in_process_teacher(
    engine: VllmTeacher, in_process: InProcessTeacher, k: int
) -> None:
    chosen = sequences()
    ours, every = top_of(in_process, chosen, k), top_of(in_process, chosen, SETTINGS.vocabulary)
    values, entries = [], []
    for one, other, whole, sequence in zip(top_of(engine, chosen, k), ours, every, chosen, strict=True):
        assert one.ids is not None
        assert one.ids.shape == one.logprobs.shape == (len(sequence.response), k)
        assert (np.diff(one.logprobs) <= 0).all() and (np.exp(one.logprobs).sum(-1) <= 1.001).all()
        assert all(len(set(row)) == k for row in one.ids.tolist())
        values.append(one.logprobs - other.logprobs)  # ids of equal bf16 logits may differ
        entries.append(one.logprobs - np.take_along_axis(whole.logprobs, one.ids.astype(np.int64), axis=1))
    for differences in (np.abs(np.concatenate(values)), np.abs(np.concatenate(entries))):
        assert differences.mean() < BF16_TOLERANCE and differences.max() < 1.0


@pytest.mark.slow
def test_the_whole_vocabulary_is_the_same_distribution(
    engine: VllmTeacher, in_process: InProcessTeacher
) -> None:
    chosen = sequences()[:4]
    for one, ours in zip(top_of(engine, chosen, 2048), top_of(in_process, chosen, 2048), strict=True):
        assert one.ids is None and ours.ids is None
        np.testing.assert_allclose(np.exp(one.logprobs).sum(-1), 1.0, rtol=1e-4)
        assert np.abs(np.exp(one.logprobs) - np.exp(ours.logprobs)).sum(-1).mean() < BF16_TOLERANCE


@pytest.mark.slow
def test_sampled_log_probabilities_equal_those_of_the_whole_vocabulary(
    engine: VllmTeacher, in_process: InProcessTeacher
) -> None:
    chosen = sequences()[:6]
    whole = top_of(engine, chosen, 2048)
    for sequence, given, every in zip(chosen, sampled_of(engine, chosen), whole, strict=True):
        expected = every.logprobs[np.arange(len(given)), sequence.response]
        np.testing.assert_allclose(given, expected, atol=1e-5)
    ours = np.concatenate(sampled_of(in_process, chosen))
    both = engine.score(chosen, ScoreRequest(sampled=True, top_k=4))[0]
    for one, top, own in zip(both, top_of(engine, chosen, 4), sampled_of(engine, chosen), strict=True):
        assert one.top_k is not None
        np.testing.assert_array_equal(one.top_k.logprobs, top.logprobs)
        np.testing.assert_array_equal(one.sampled, own)
    assert np.abs(np.concatenate(sampled_of(engine, chosen)) - ours).mean() < 2 * BF16_TOLERANCE


@pytest.mark.slow
def test_invalid_calls_are_refused(engine: VllmTeacher) -> None:
    with pytest.raises(UserError, match="k is 2049, but the vLLM teacher was started with top_k 2048"):
        top_of(engine, sequences(), 2049)
    long = TokenSequence(tokens=np.zeros(257, np.int32), prompt_length=1)
    with pytest.raises(UserError, match="sequence 0 has 257 tokens, but the model's context length is 256"):
        top_of(engine, [long], 1)
    full = TokenSequence(tokens=np.arange(256, dtype=np.int32), prompt_length=1)
    assert len(top_of(engine, [full], 1)[0].logprobs) == 255
    assert top_of(engine, [], 4) == []
