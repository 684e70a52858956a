"""HMMT November 2025: 30 problems. See `contests.py` for schema and licence."""

from __future__ import annotations

from tasks.benchmarks.contests import contest

BENCHMARK = contest(
    "hmmt_nov_2025", "HMMT November 2025", {"hmmt_nov_2025": "118dbfb45c4c9467c672268ed55166642897aa46"},
    protocols=("pass1_greedy", "avg16"), files=(), problems=30,
)  # fmt: skip
