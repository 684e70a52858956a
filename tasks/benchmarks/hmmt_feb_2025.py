"""HMMT February 2025: 30 problems. See `contests.py` for schema and licence."""

from __future__ import annotations

from tasks.benchmarks.contests import contest

BENCHMARK = contest(
    "hmmt_feb_2025", "HMMT February 2025", {"hmmt_feb_2025": "6fdc4277120810ff75aa22d2d5489b91f7a262a1"},
    protocols=("pass1_greedy", "avg16", "avg12"), files=("hmmt25", "hmmt2025"), problems=30,
)  # fmt: skip
