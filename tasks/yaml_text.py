"""YAML of bounded size: settings, prompts and dataset cards that somebody else may have written."""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARS = 1 << 20
MAX_VALUES = 100_000


class BadYaml(ValueError):
    """A text that is not YAML, or that exceeds the limits."""


def load_yaml(text: str) -> Any:
    """Return the content of a YAML document of plain values.

    Raises `BadYaml` if it is invalid, longer than a million characters, nested too deeply, or has more than 100,000 values
    once its aliases are expanded.
    """
    if len(text) > MAX_CHARS:
        raise BadYaml(f"it has {len(text):,} characters, at most {MAX_CHARS:,} are read")
    try:
        if (root := yaml.compose(text, yaml.SafeLoader)) is not None and _size(root, {}) > MAX_VALUES:
            raise BadYaml(f"its aliases expand to more than {MAX_VALUES:,} values")
        return yaml.safe_load(text)
    except RecursionError as error:
        raise BadYaml("it is nested too deeply") from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        ArithmeticError,
    ) as error:  # also a number of thousands of digits
        raise BadYaml(" ".join(str(error).split())[:300]) from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values of a node, its aliases expanded. `known`: the sizes found so far, 0 for nodes in progress."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise BadYaml("an alias refers to a value that contains it")
        return known[id(node)]
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
