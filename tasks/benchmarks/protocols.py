"""How a benchmark is sampled and what is reported: the protocols of the papers, as named presets (see docs/evaluation.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tasks.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """`samples` responses to each problem for each of `seeds`. `top_k` 0 disables top-k, also for an endpoint whose model has a
    top-k of its own. `max_tokens`: of a response."""

    name: str
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 8192
    thinking: bool = False
    seeds: tuple[int, ...] = field(default=(0,))
    source: str = ""  # who defined it, and what is ours


DECLARED: Final = "declared"
"""Stands for the protocols that a benchmark declares."""
PROTOCOLS: Final = MappingProxyType(
    {
        one.name: one
        for one in (
            Protocol(
                name="pass1_greedy",
                source="UOPD: pass@1, greedy. The length and thinking mode are ours.",
            ),
            Protocol(
                name="avg16", samples=16, temperature=1.2, top_p=0.95,
                source="UOPD: avg@16 at T=1.2, top-p 0.95. The length and thinking mode are ours.",
            ),
            Protocol(
                name="avg12", samples=12, temperature=1.0, top_p=0.95, max_tokens=38_912, thinking=True, seeds=(0, 1, 2),
                source="PW-OPSD: 12 samples, T=1.0, top-p 0.95, no top-k, 38,912 tokens, thinking, three evaluation seeds.",
            ),
            Protocol(
                name="avg8", samples=8, temperature=1.0, top_p=0.8,
                source="EOPD: 8 samples, T=1.0, top-p 0.8, 8,192 tokens, thinking off.",
            ),
            Protocol(
                name="passk", samples=128, temperature=1.0, top_p=0.8,
                source="EOPD: pass@k up to k=128 on AIME, 64 on AMC, sampled like avg8.",
            ),
        )
    }
)  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """Return the protocol with this name. Raises `UserError`, listing the known ones, if there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
