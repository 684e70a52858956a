"""AIME 2025: the 30 problems of both papers. See `contests.py` for schema and licence."""

from __future__ import annotations

from tasks.benchmarks.contests import contest

BENCHMARK = contest(
    "aime2025", "AIME 2025", {"aime_2025": "c94da77eb22bbd6439e62a323bec18493a421302"},
    protocols=("pass1_greedy", "avg16", "avg12", "avg8", "passk"), files=("aime25", "aime_2025"), problems=30,
)  # fmt: skip
