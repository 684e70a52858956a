"""Top-k and sampled log-probabilities against a full float64 softmax, for several chunk sizes."""

from __future__ import annotations

import pytest
import torch

from training.scorers.scoring import sampled_logprobs, topk_logprobs

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device of this machine that a teacher can use."""
    return request.param


def inputs(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator).to(device)
    weight = torch.randn(40, 8, generator=generator).to(device)
    return hidden, weight, (hidden.double() @ weight.double().T).log_softmax(-1)


@pytest.mark.parametrize("chunk", [1, 7, 23, 1000])
def test_the_top_k_are_those_of_the_full_softmax(device: str, chunk: int) -> None:
    hidden, weight, naive = inputs(device)
    logprobs, ids = topk_logprobs(hidden, weight, 5, chunk=chunk)
    expected = naive.topk(5)
    assert ids is not None and ids.dtype == torch.int32 and torch.equal(ids.long(), expected.indices)
    torch.testing.assert_close(logprobs.double(), expected.values, rtol=1e-5, atol=1e-5)
    assert bool((logprobs.exp().sum(-1) < 1).all()), "nothing is renormalised"


def test_the_whole_vocabulary_is_in_order_of_ids(device: str) -> None:
    hidden, weight, naive = inputs(device)
    logprobs, ids = topk_logprobs(hidden, weight, 40, chunk=7)
    assert ids is None
    torch.testing.assert_close(logprobs.double(), naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(23, device=device))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_sampled_tokens_get_their_own_log_probability(device: str, chunk: int) -> None:
    hidden, weight, naive = inputs(device)
    chosen = torch.arange(23, device=device) % 40
    found = sampled_logprobs(hidden, weight, chosen, chunk=chunk)
    torch.testing.assert_close(found.double(), naive[torch.arange(23), chosen], rtol=1e-5, atol=1e-5)
    tempered = sampled_logprobs(hidden, weight, chosen, temperature=0.5, chunk=chunk)
    sharper = (2 * hidden.double() @ weight.double().T).log_softmax(-1)
    torch.testing.assert_close(tempered.double(), sharper[torch.arange(23), chosen], rtol=1e-5, atol=1e-5)


def test_empty_inputs_give_empty_results_and_an_invalid_k_is_refused(device: str) -> None:
    hidden, weight, _ = inputs(device)
    logprobs, ids = topk_logprobs(hidden[:0], weight, 3)
    assert logprobs.shape == (0, 3) and ids is not None and ids.shape == (0, 3)
    assert sampled_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.long, device=device)).shape == (0,)
    for k in (0, 41):
        with pytest.raises(ValueError, match="choose a value from 1 to 40"):
            topk_logprobs(hidden, weight, k)
