"""Every family of pocket problems."""

from __future__ import annotations

from . import algebra, arithmetic, counting, equations, figures, integers, parts
from .base import EASY, HARD, MEDIUM, Family, Numbers

FAMILIES: tuple[Family, ...] = (
    *arithmetic.FAMILIES,
    *equations.FAMILIES,
    *algebra.FAMILIES,
    *parts.FAMILIES,
    *integers.FAMILIES,
    *figures.FAMILIES,
    *counting.FAMILIES,
)
BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}

__all__ = ["BY_NAME", "EASY", "FAMILIES", "HARD", "MEDIUM", "Family", "Numbers"]
