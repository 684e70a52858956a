from __future__ import annotations

import unicodedata

import pytest

from tasks.errors import UserError
from tasks.text import counted, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text,\n\twith π ≤ 4 and été", "plain text,\n\twith π ≤ 4 and été"),
        ("a\r\nb\rc", "a\nb<U+000D>c"),
        ("\x1b[31mred\x1b[0m", "<U+001B>[31mred<U+001B>[0m"),  # ANSI escapes
        ("\x9b2J\x00\x07\x7f", "<U+009B>2J<U+0000><U+0007><U+007F>"),
        ("answer \u202e42\u202c", "answer <U+202E>42<U+202C>"),  # bidirectional override
        ("\u2066x\u2069\u061c\u200f", "<U+2066>x<U+2069><U+061C><U+200F>"),
        ("1\u200b2\u200d3\u20604\ufeff", "1<U+200B>2<U+200D>3<U+2060>4<U+FEFF>"),  # zero-width
        ("a\xadb\u3164c\u2028d", "a<U+00AD>b<U+3164>c<U+2028>d"),
        ("x\ufe0fy\U000e0041\U000e0100", "x<U+FE0F>y<U+E0041><U+E0100>"),  # variation selectors and tags
        ("\ud800", "<U+D800>"),
        ("", ""),
    ],
)
def test_controls_and_invisible_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown
    shown.encode("utf-8")


def test_no_control_of_unicode_is_left_out() -> None:
    embedding = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    left = (
        visible("".join(map(chr, (*range(0x20000), *range(0xE0000, 0xE1000)))))
        .replace("\t", "")
        .replace("\n", "")
    )
    assert not {unicodedata.category(c) for c in left} & {"Cc", "Zl", "Zp", "Cs"}
    assert not {unicodedata.bidirectional(c) for c in left} & embedding


def test_letters_marks_and_signs_of_all_scripts_stay() -> None:
    fillers = set("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | set(
        map(chr, range(0xFE00, 0xFE10))
    )
    seen = [
        chr(c) for c in range(0x20000) if unicodedata.category(chr(c))[0] in "LMNPS" and chr(c) not in fillers
    ]
    assert visible("".join(seen)) == "".join(seen)


def test_messages_of_errors_are_made_visible() -> None:
    assert (
        str(UserError("row 3: \x1b]0;title\x07 is not a number"))
        == "row 3: <U+001B>]0;title<U+0007> is not a number"
    )


def test_nouns_are_counted() -> None:
    assert [counted(n, "problem") for n in (0, 1, 2, 1200)] == [
        "0 problems",
        "1 problem",
        "2 problems",
        "1,200 problems",
    ]
    assert (counted(1, "reply", "replies"), counted(3, "reply", "replies")) == ("1 reply", "3 replies")
