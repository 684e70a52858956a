"""Fingerprints of artifacts and seeds of sampled prompts. Pure.

A fingerprint is the hash of everything that determines a stage's result. Equal fingerprints mean equal bytes, so a later
run can reuse the artifact. Values whose serialised form could differ between two runs are rejected.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import UserError

_SEEDS = 2**63 - 2**16  # an engine gives the i-th of n samples seed + i, which must stay below 2**63


def canonical_json(value: Any, name: str = "value") -> str:
    """Return `value` as canonical JSON: sorted keys, no spaces, ASCII, floats by repr.

    Accepts None, bool, int, finite float, str (including string enums), lists, tuples and mappings with string keys.
    Raises `UserError` for a number that is not finite and `TypeError` for any other type; both give the path of the
    value, such as `settings.sampling.temperature`.
    """
    _check_stable(value, name)
    return _dump(value)


def fingerprint(
    *,
    stage: str,
    version: int,
    settings: Mapping[str, Any],
    prompts: Sequence[str] = (),
    models: Sequence[str] = (),
    inputs: Sequence[str] = (),
) -> str:
    """Return the SHA-256 (64 hex digits) of everything that determines a stage's result.

    `version` is the stage's code version; `settings` is its section without resources (`Settings.identity()`);
    `prompts`, `models` and `inputs` are the identities of prompts, models and input artifacts, in a fixed order.
    """
    whole = {
        "stage": stage,
        "version": version,
        "settings": settings,
        "prompts": _texts(prompts, "prompts"),
        "models": _texts(models, "models"),
        "inputs": _texts(inputs, "inputs"),
    }
    for name, value in whole.items():
        _check_stable(value, name)
    return hashlib.sha256(_dump(whole).encode("ascii")).hexdigest()


def request_seed(problem_id: str, role: str, fingerprint: str) -> int:
    """Return the seed of one sampled prompt, 0 <= seed < 2**63 - 65536. It does not depend on the row's position."""
    text = canonical_json([problem_id, role, fingerprint])
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:16], "big") % _SEEDS


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)


def _texts(values: Sequence[str], name: str) -> list[str]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be a sequence of strings, not {values!r}")
    return list(values)


def _check_stable(value: Any, name: str) -> None:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{name} is {value!r}, which is not a valid setting: give a finite number")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: a fingerprint needs string keys")
            _check_stable(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_stable(item, f"{name}[{index}]")
    else:
        raise TypeError(
            f"{name} is of type {type(value).__name__}, which cannot be serialised reproducibly for a fingerprint"
        )
