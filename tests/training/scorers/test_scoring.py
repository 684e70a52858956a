"""Top-k tokens, sampled log-probabilities and entropies against a full float64 softmax, for several chunk sizes."""

from __future__ import annotations

import math

import pytest
import torch

from training.scorers.scoring import position_scores, token_logprobs

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


def ids_of(hidden: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(hidden), device=hidden.device) % 40


@pytest.mark.parametrize("chunk", [1, 7, 23, 1000])
def test_the_top_k_are_those_of_the_full_softmax(device: str, chunk: int) -> None:
    hidden, weight, naive = inputs(device)
    found = position_scores(hidden, weight, ids_of(hidden), top_k=5, chunk=chunk)
    logprobs, ids = found["logprobs"], found["ids"]
    expected = naive.topk(5)
    assert (
        found.keys() == {"logprobs", "ids"}
        and ids.dtype == torch.int32
        and torch.equal(ids.long(), expected.indices)
    )
    torch.testing.assert_close(logprobs.double(), expected.values, rtol=1e-5, atol=1e-5)
    assert bool((logprobs.exp().sum(-1) < 1).all()), "nothing is renormalised"


def test_the_whole_vocabulary_is_in_order_of_ids(device: str) -> None:
    hidden, weight, naive = inputs(device)
    found = position_scores(hidden, weight, ids_of(hidden), top_k=40, chunk=7)
    assert found.keys() == {"logprobs"}
    logprobs = found["logprobs"]
    torch.testing.assert_close(logprobs.double(), naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(23, device=device))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_sampled_tokens_get_their_own_log_probability(device: str, chunk: int) -> None:
    hidden, weight, naive = inputs(device)
    chosen = torch.arange(23, device=device) % 40
    found = token_logprobs(hidden, weight, chosen, chunk=chunk)
    torch.testing.assert_close(found.double(), naive[torch.arange(23), chosen], rtol=1e-5, atol=1e-5)
    tempered = token_logprobs(hidden, weight, chosen, temperature=0.5, chunk=chunk)
    sharper = (2 * hidden.double() @ weight.double().T).log_softmax(-1)
    torch.testing.assert_close(tempered.double(), sharper[torch.arange(23), chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_any_tokens_of_a_position_get_their_log_probabilities(device: str, chunk: int) -> None:
    hidden, weight, naive = inputs(device)
    chosen = torch.randint(40, (23, 3), generator=torch.Generator().manual_seed(1)).to(device)
    found = token_logprobs(hidden, weight, chosen, chunk=chunk)
    torch.testing.assert_close(found.double(), naive.gather(-1, chosen), rtol=1e-5, atol=1e-5)
    own = token_logprobs(hidden, weight, chosen[:, 0], chunk=chunk)
    assert torch.equal(own, found[:, 0]), "one token alone gets the same bits"
    assert token_logprobs(hidden[:0], weight, chosen[:0]).shape == (0, 3)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("top_k", [None, 5, 40])
def test_one_pass_gives_the_sampled_token_and_the_entropy_besides_the_top_k(
    device: str, chunk: int, top_k: int | None
) -> None:
    hidden, weight, naive = inputs(device)
    chosen = ids_of(hidden)
    found = position_scores(hidden, weight, chosen, sampled=True, top_k=top_k, entropy=True, chunk=chunk)
    expected = naive[torch.arange(23), chosen]
    torch.testing.assert_close(found["sampled"].double(), expected, rtol=1e-5, atol=1e-5)
    entropy = -(naive.exp() * naive).sum(-1)  # of the whole distribution, whatever k is
    torch.testing.assert_close(found["entropy"].double(), entropy, rtol=1e-5, atol=1e-5)
    alone = position_scores(hidden, weight, chosen, top_k=top_k, chunk=chunk)
    assert all(torch.equal(values, found[name]) for name, values in alone.items())


def test_the_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size(device: str) -> None:
    weight, ids = torch.ones(40, 8, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    found = position_scores(torch.ones(3, 8, device=device), weight, ids, entropy=True)
    assert found["entropy"].tolist() == pytest.approx([math.log(40)] * 3, rel=1e-6)


def test_empty_inputs_give_empty_results_and_an_invalid_k_is_refused(device: str) -> None:
    hidden, weight, _ = inputs(device)
    nothing = position_scores(hidden[:0], weight, ids_of(hidden[:0]), sampled=True, top_k=3, entropy=True)
    assert {name: tuple(values.shape) for name, values in nothing.items()} == {
        "sampled": (0,), "entropy": (0,), "logprobs": (0, 3), "ids": (0, 3),
    }  # fmt: skip
    assert token_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.long, device=device)).shape == (0,)
    for k in (0, 41):
        with pytest.raises(ValueError, match="choose a value from 1 to 40"):
            position_scores(hidden, weight, ids_of(hidden), top_k=k)
