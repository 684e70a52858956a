"""Fingerprints and seeds: equal meaning gives equal hashes, any change a different one, and unstable values are rejected."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.config import Config, load_config
from tasks.errors import UserError
from tasks.identity import canonical_json, fingerprint, request_seed
from tasks.rows import Tier

SETTINGS = {
    "threshold": 0.7,
    "sampling": {"temperature": 0.7, "top_p": 1.0},
    "tiers": ["easy", "hard"],
    "target": None,
}


def of(settings: Mapping[str, Any] = SETTINGS, **parts: Any) -> str:
    return fingerprint(**{"stage": "judge", "version": 1, "settings": settings, **parts})


def test_a_fingerprint_is_the_sha256_of_the_canonical_json_written_out_by_hand() -> None:
    text = '{"inputs":["i"],"models":["m"],"prompts":["p"],"settings":{"a":0.1,"b":[1,true,null]},"stage":"s","version":2}'
    found = fingerprint(
        stage="s",
        version=2,
        settings={"b": (1, True, None), "a": 0.1},
        prompts=["p"],
        models=["m"],
        inputs=["i"],
    )
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_keys_and_the_type_of_mapping_or_sequence_do_not_matter() -> None:
    shuffled = MappingProxyType({**dict(reversed(SETTINGS.items())), "tiers": ("easy", Tier.HARD)})
    assert of(shuffled) == of()


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "sample"},
        {"version": 2},
        {"settings": {**SETTINGS, "threshold": 0.7000000000000001}},
        {"settings": {**SETTINGS, "tiers": ["hard", "easy"]}},
        {"settings": {**SETTINGS, "target": 0}},
        {"settings": {**SETTINGS, "extra": None}},
        {"prompts": ["judge/quality@1:0"]},
        {"models": ["judge/quality@1:0"]},
        {"inputs": ["judge/quality@1:0"]},
    ],
)
def test_every_part_changes_the_fingerprint(change: dict[str, Any]) -> None:
    changed = fingerprint(**{"stage": "judge", "version": 1, "settings": SETTINGS, **change})
    assert changed != of()


def test_adjacent_texts_are_kept_separate() -> None:
    assert of(prompts=["ab", "c"]) != of(prompts=["a", "bc"])
    assert of(prompts=["a"], models=["b"]) != of(prompts=["b"], models=["a"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_rejected_with_its_key(value: float) -> None:
    with pytest.raises(UserError, match=r"settings\.sampling\.top_p is (nan|inf|-inf)"):
        of({"sampling": {"top_p": value}})


@pytest.mark.parametrize("value", [len, object(), {1, 2}, Path("x"), b"x", range(3), 1j])
def test_a_value_that_cannot_be_serialised_reproducibly_is_rejected_with_its_key(value: object) -> None:
    with pytest.raises(TypeError, match=r"settings\.steps\[1\]\.how is of type"):
        of({"steps": [0, {"how": value}]})


def test_keys_that_are_not_strings_and_a_bare_string_of_prompts_are_rejected() -> None:
    with pytest.raises(TypeError, match="settings has the key 1"):
        of({1: "a"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="prompts must be a sequence of strings"):
        of(prompts="judge/quality")


def test_the_fingerprint_of_a_real_config_is_the_same_in_another_process_with_other_hash_seeds() -> None:
    code = (
        "from tasks.config import load_config; from tasks.identity import fingerprint;"
        "print(fingerprint(stage='s', version=1, settings=load_config('pocket').identity()))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]
    here = fingerprint(stage="s", version=1, settings=load_config("pocket").identity())
    assert {run.stdout.strip() for run in runs} == {here}


def test_resources_are_not_part_of_the_fingerprint_and_results_are() -> None:
    def of_config(config: Config) -> str:
        return fingerprint(stage="s", version=1, settings=config.identity())

    plain = of_config(load_config("pocket"))
    assert of_config(load_config("pocket", {"run.output": "elsewhere", "run.cpu_workers": 7})) == plain
    assert of_config(load_config("pocket", {"select.target": 7})) != plain


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_canonical_json_is_ascii_and_reads_back_as_the_value(value: Any) -> None:
    text = canonical_json(value)
    assert text.isascii() and json.loads(text) == value


def test_a_seed_depends_on_problem_role_and_fingerprint_and_leaves_space_for_n_in_63_bits() -> None:
    seeds = [
        request_seed(f"p{i}", role, recipe)
        for i in range(500)
        for role in ("teacher", "evolver")
        for recipe in "ab"
    ]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 - 2**16 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used
    assert request_seed("p0", "teacher", "a") == seeds[0]


def test_a_seed_is_pinned_because_existing_datasets_depend_on_it() -> None:
    digest = hashlib.sha256(b'["p1","teacher","ab"]').digest()
    assert request_seed("p1", "teacher", "ab") == int.from_bytes(digest[:16], "big") % (2**63 - 65536)
