"""Packing and checksums of the weights that the student sends to the rollout engines.

Weights are packed as bf16. The sum of a tensor adds a fixed 64-bit hash of each bf16 value, modulo 2^64. It does not depend on
the order of values, so the sum of a tensor that an engine transposed or fused with others (q, k and v in one matrix) follows
from the sender's sums. The checksum of a model combines each sum with the tensor's name, independent of the order of tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

PART_BYTES = 512 * 1024**2
_SLICE = 1 << 24
_MASK = (1 << 64) - 1

Named = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPart:
    """Several concatenated tensors: `bits` holds their bf16 bits as uint16, which Ray transfers without a copy."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The weights of one version. `parts` are `WeightPart`s or Ray references to them; empty if weights are sent by NCCL or IPC.

    `sums` maps tensor names to sums, `numels` to numbers of elements; tied embeddings are listed once, as the embedding.
    """

    version: int
    sums: Mapping[str, int]
    numels: Mapping[str, int]
    parts: tuple[Any, ...] = ()

    @property
    def checksum(self) -> int:
        """One checksum of all tensors."""
        return checksum(self.sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCheck:
    """Result of comparing an engine's own tensors with the sender's sums, counted in the engine's tensors."""

    equal: int
    different: tuple[str, ...]
    opaque: int  # repacked or split, so that sums cannot be compared


def tensor_sum(tensor: torch.Tensor) -> int:
    """Return the sum of the hashes of a tensor's bf16 values, in [0, 2^64). It is independent of the order of values."""
    flat = tensor.detach().reshape(-1)
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), _SLICE):
        bits = flat[start : start + _SLICE].to(torch.bfloat16).contiguous().view(torch.int16)
        counts += torch.bincount(bits.to(torch.int32) & 0xFFFF, minlength=1 << 16)
    return int((counts.cpu().numpy().astype(np.uint64) * _hashes()).sum(dtype=np.uint64))


def checksum(sums: Mapping[str, int]) -> int:
    """Return the checksum, in [0, 2^64), of a model's named sums. It is independent of their order."""
    return sum(_named(name, value) for name, value in sums.items()) & _MASK


def _named(name: str, value: int) -> int:
    digest = hashlib.blake2b(f"{name}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@cache
def _hashes() -> np.ndarray:
    """splitmix64 (Steele, Lea, Flood 2014) of 0 ... 65535."""
    with np.errstate(over="ignore"):
        z = (np.arange(1 << 16, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def pack(named: Named, *, part_bytes: int = PART_BYTES) -> Iterator[WeightPart]:
    """Pack tensors into parts of at most `part_bytes` (a larger tensor gets a part of its own), in the order given."""
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    bits: list[np.ndarray] = []
    held = 0
    for name, tensor in named:
        flat = to_bits(tensor).reshape(-1)
        if names and held + flat.nbytes > part_bytes:
            yield WeightPart(names=tuple(names), shapes=tuple(shapes), bits=np.concatenate(bits))
            names, shapes, bits, held = [], [], [], 0
        names.append(name)
        shapes.append(tuple(tensor.shape))
        bits.append(flat)
        held += flat.nbytes
    if names:
        yield WeightPart(names=tuple(names), shapes=tuple(shapes), bits=np.concatenate(bits))


def to_bits(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values as bf16 bits in uint16: numpy has no bf16 type, and Ray transfers arrays without a copy."""
    return tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """Return the bf16 tensor with these bits; it shares their memory."""
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def unpack(part: WeightPart) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, bf16 tensor) for each tensor of a part; each is a copy."""
    start = 0
    for name, shape in zip(part.names, part.shapes, strict=True):
        end = start + int(np.prod(shape, dtype=np.int64))
        bits = np.array(part.bits[start:end])  # a copy: arrays from Ray are read-only
        yield name, from_bits(bits).reshape(shape)
        start = end


def summed(named: Named, sums: dict[str, int], numels: dict[str, int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass tensors through and record the sum and the number of elements of each."""
    for name, tensor in named:
        sums[name] = tensor_sum(tensor)
        numels[name] = tensor.numel()
        yield name, tensor


def compare_live(
    live: Mapping[str, tuple[int, int]], snapshot: Snapshot, joined: Mapping[str, Sequence[str]]
) -> LiveCheck:
    """Compare an engine's own tensors, name -> (number of elements, sum), with the snapshot.

    `joined` maps the last module of a tensor's name to the modules that the engine fused into it, like vLLM's
    `packed_modules_mapping`: {"qkv_proj": ["q_proj", "k_proj", "v_proj"], ...}.
    """
    different: list[str] = []
    equal = opaque = 0
    for name, (numel, value) in live.items():
        sources = _sources(name, joined)
        size = sum(snapshot.numels.get(source, -1) for source in sources)
        if size != numel or not all(source in snapshot.sums for source in sources):
            opaque += 1
        elif value == sum(snapshot.sums[source] for source in sources) & _MASK:
            equal += 1
        else:
            different.append(name)
    return LiveCheck(equal=equal, different=tuple(different), opaque=opaque)


def _sources(name: str, joined: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of the sent tensors that an engine's tensor consists of."""
    path, _, leaf = name.rpartition(".")
    parent, _, module = path.rpartition(".")
    return [".".join(filter(None, (parent, source, leaf))) for source in joined.get(module, (module,))]
