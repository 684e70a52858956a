"""Packing is lossless; sums change with any value and can be compared for tensors that an engine fused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from training.weight_sync.weights import (
    LiveCheck,
    Snapshot,
    checksum,
    compare_live,
    pack,
    summed,
    tensor_sum,
    unpack,
)


def model(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "model.embed_tokens.weight": torch.randn(10, 4).to(torch.bfloat16),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4).to(torch.bfloat16),
        "model.layers.0.self_attn.k_proj.weight": torch.randn(2, 4).to(torch.bfloat16),
        "model.layers.0.self_attn.v_proj.weight": torch.randn(2, 4).to(torch.bfloat16),
        "model.norm.weight": torch.ones(4, dtype=torch.bfloat16),
    }


def snapshot(named: dict[str, torch.Tensor], version: int = 1) -> Snapshot:
    sums: dict[str, int] = {}
    numels: dict[str, int] = {}
    for _ in summed(named.items(), sums, numels):
        pass
    return Snapshot(version=version, sums=sums, numels=numels)


@pytest.mark.parametrize("part_bytes", [1, 70, 10_000])
def test_packing_and_unpacking_preserves_bits_and_order(part_bytes: int) -> None:
    named = model()
    parts = list(pack(named.items(), part_bytes=part_bytes))
    back = [pair for part in parts for pair in unpack(part)]
    assert [name for name, _ in back] == list(named)
    assert all(torch.equal(tensor, named[name]) for name, tensor in back)
    assert len(parts) == {1: 5, 70: 3, 10_000: 1}[part_bytes]
    # Parts of 70 bytes: 80 alone; 32 + 16 + 16 = 64, since adding 8 would make 72; 8.


def test_a_part_can_be_read_only_and_made_from_float32() -> None:
    values = torch.tensor([1.0, 1.0 + 2**-9, -0.0])
    (part,) = pack([("w", values)])
    part.bits.setflags(write=False)
    ((_, back),) = unpack(part)
    assert torch.equal(back, values.to(torch.bfloat16))
    back.fill_(0.0)


def test_a_sum_is_the_sum_of_hashed_bit_patterns() -> None:
    # Independent implementation: splitmix64 with Python integers; in bf16, 1.0 is 0x3F80 and -2.0 is 0xC000.
    def splitmix(value: int) -> int:
        z = (value + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    expected = (2 * splitmix(0x3F80) + splitmix(0xC000)) % 2**64
    assert tensor_sum(torch.tensor([[1.0, -2.0, 1.0]])) == expected
    digest = hashlib.blake2b(f"w\0{expected}".encode(), digest_size=8).digest()
    assert checksum({"w": expected}) == int.from_bytes(digest, "little")


def test_the_smallest_change_of_one_value_changes_the_checksum() -> None:
    before, changed = model(), model()
    bits = changed["model.norm.weight"].view(torch.int16)
    bits[2] += 1
    assert snapshot(before).checksum != snapshot(changed).checksum


def test_the_order_of_tensors_does_not_matter_but_their_names_do() -> None:
    named = model()
    backwards = dict(reversed(named.items()))
    assert snapshot(named).checksum == snapshot(backwards).checksum
    swapped = dict(zip(named, [*named.values()][::-1], strict=True))
    assert snapshot(swapped).checksum != snapshot(named).checksum


def test_sums_do_not_depend_on_layout_or_slices() -> None:
    values = torch.randn(300, 200).to(torch.bfloat16)
    assert tensor_sum(values) == tensor_sum(values.T) == tensor_sum(values.flip(0))
    assert (tensor_sum(values[:100]) + tensor_sum(values[100:])) % 2**64 == tensor_sum(values)


JOINED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}


def live(named: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """Return the same weights as in an engine: q, k and v in one matrix, one layer repacked and not comparable."""
    attention = "model.layers.0.self_attn"
    tensors = {
        "model.embed_tokens.weight": named["model.embed_tokens.weight"],
        f"{attention}.qkv_proj.weight": torch.cat([named[f"{attention}.{x}_proj.weight"] for x in "qkv"]),
        f"{attention}.o_proj.weight": torch.empty(0),
        "model.norm.weight": named["model.norm.weight"],
        "scale": torch.ones(1),
    }
    return {name: (tensor.numel(), tensor_sum(tensor)) for name, tensor in tensors.items()}


def test_fused_tensors_are_compared_and_repacked_ones_are_skipped() -> None:
    named = model()
    assert compare_live(live(named), snapshot(named), JOINED) == LiveCheck(equal=3, different=(), opaque=2)


def test_different_weights_are_detected() -> None:
    check = compare_live(live(model(seed=1)), snapshot(model(seed=0)), JOINED)
    assert check.different == ("model.embed_tokens.weight", "model.layers.0.self_attn.qkv_proj.weight")
    assert check.equal == 1, "the norm is all ones in both"


def test_large_tensors_are_summed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=1000))
    whole = tensor_sum(values)
    monkeypatch.setattr("training.weight_sync.weights._SLICE", 7)
    assert tensor_sum(values) == whole
