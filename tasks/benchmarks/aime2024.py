"""AIME 2024: the 30 problems of both papers. See `contests.py` for schema and licence."""

from __future__ import annotations

from tasks.benchmarks.contests import contest

BENCHMARK = contest(
    "aime2024", "AIME 2024",
    {
        "aime_2024_I": "ea5b061c3e8039dc9858defaafc407d04b995e9f",
        "aime_2024_II": "29d5d31e9b46e215fc24d9b2a3047506823dd101",
    },
    protocols=("pass1_greedy", "avg16", "avg12", "avg8", "passk"), files=("aime24", "aime_2024"), problems=30,
)  # fmt: skip
