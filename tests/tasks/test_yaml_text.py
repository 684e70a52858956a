"""YAML that somebody else wrote is bounded."""

from __future__ import annotations

import random
import time

import pytest
import yaml

from tasks.yaml_text import BadYaml, load_yaml


def laughs(levels: int, width: int = 10) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    return "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels))]
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (laughs(9), "aliases expand to more than 100,000 values"),
        (merges(40), "aliases expand to more than 100,000 values"),
        ("a: &a [*a]", "refers to a value that contains it"),
        ("[" * 50_000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: [1", "expected ',' or ']'"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("x" * 2_000_000, "2,000,000 characters"),
    ],
)  # fmt: skip
def test_a_text_beyond_the_limits_is_refused_at_once(text: str, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(BadYaml, match=reason):
        load_yaml(text)
    assert time.process_time() - start < 5


def test_ordinary_documents_are_those_of_the_library() -> None:
    for text in (
        "",
        "a: 1",
        "a: &x {b: [1, 2.5, null, true]}\nc: *x\nd: {<<: *x, e: 2024-01-01}",
        "- é\n- 'x: y'",
    ):
        assert load_yaml(text) == yaml.safe_load(text)


def test_random_text_is_read_or_refused() -> None:
    rng = random.Random(1)
    pieces = [
        "a: ",
        "&x ",
        "*x",
        "[",
        "]",
        "{",
        "}",
        "\n",
        "  ",
        "- ",
        "<<: ",
        "!!",
        "'",
        '"',
        "#",
        "|",
        ">",
        "%",
        "1",
        "\t",
        "\0",
        "é",
    ]
    for _ in range(2000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 25)))
        try:
            load_yaml(text)
        except BadYaml as error:
            assert str(error)
