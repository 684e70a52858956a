"""Seed sources: one file (or package) each; `registry` finds them."""
