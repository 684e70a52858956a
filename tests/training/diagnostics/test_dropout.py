"""Monte Carlo dropout by hooks, on a tiny decoder of every architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_decoders import DECODERS, ROWS, write_tiny_decoder
from training.diagnostics.network import Network

PROMPT, RESPONSE = [5, 6, 7, 8], [9, 10, 11, 12, 13]
POSITIONS, SUPPORTS = [1, 4], [[3, 4, 5], [20, 30, 40, 50]]


@pytest.fixture(scope="module", params=sorted(DECODERS))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = write_tiny_decoder(tmp_path_factory.mktemp("decoder") / request.param, request.param)
    return Network(folder, dtype="float32", vocabulary=ROWS)


def probabilities(network: Network) -> list[np.ndarray]:
    return network.probabilities(PROMPT, RESPONSE, POSITIONS, SUPPORTS)


def outputs(network: Network, rate: float | None) -> list[Any]:
    """Return the outputs of attention and MLP of every layer, as the rest of the model gets them."""
    found: list[Any] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).clone())

    def read() -> None:
        handles = [
            module.register_forward_hook(keep)
            for layer in network.layers
            for module in (layer.self_attn, layer.mlp)
        ]
        probabilities(network)
        for handle in handles:
            handle.remove()

    if rate is None:
        read()
    else:
        with network.dropout(1, rate, seed=3):
            read()
    return found


def test_dropout_zeroes_and_scales_what_the_last_layers_add(network: Network) -> None:
    plain, dropped = outputs(network, None), outputs(network, 0.25)
    for before, after in zip(plain[:-2], dropped[:-2], strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    kept = dropped[-2] != 0  # of the attention, whose input is the same
    torch.testing.assert_close(dropped[-2][kept], (plain[-2] / 0.75)[kept])
    assert 0.15 < 1 - kept.float().mean() < 0.35 and (dropped[-1] == 0).any()


def test_passes_depend_on_the_seed_alone_and_the_hooks_are_removed(network: Network) -> None:
    plain = probabilities(network)
    found = []
    for seed in (1, 2, 1):
        with network.dropout(2, 0.1, seed):
            found.append(probabilities(network))
    for one, place in ((one, place) for one in found for place in range(2)):
        assert one[place].sum() == pytest.approx(1) and one[place].shape == (len(SUPPORTS[place]),)
    assert all((first == third).all() for first, third in zip(found[0], found[2], strict=True))
    assert all((first != second).any() for first, second in zip(found[0], found[1], strict=True))
    assert all((first == again).all() for first, again in zip(plain, probabilities(network), strict=True))


def test_the_probabilities_are_those_of_a_plain_forward_pass(network: Network) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(network.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + RESPONSE])).logits[0, len(PROMPT) - 1 :].double()
    for place, support, found in zip(POSITIONS, SUPPORTS, probabilities(network), strict=True):
        np.testing.assert_allclose(found, logits[place, support].softmax(-1), rtol=1e-4)
    logprobs, ids = network.top(PROMPT, RESPONSE, 6)
    expected = logits[:-1].log_softmax(-1).topk(6)
    assert (ids == expected.indices.numpy()).all()
    np.testing.assert_allclose(logprobs, expected.values, rtol=1e-4, atol=1e-4)
