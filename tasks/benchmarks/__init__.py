"""Benchmarks, one file each: their data, the form of their answers, how they are asked, and what they are reported by."""
