"""Words in answers: phrases around a value, numbers in words, and a canonical spelling of texts."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES: Final = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_PARTS: Final = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6,
}  # fmt: skip
_ORDINALS: Final = dict(
    zip(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(),
        range(1, 13),
        strict=True,
    )
)
_SMALL: Final = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * (value + 2) for value, word in enumerate(_TENS)
}

LEAD: Final = re.compile(
    r"(?:(?:therefore|thus|hence|so|then),? )?(?:the )?(?:final |correct |numerical |exact )?(?:answer|result|value|solution)s?"
    r"(?: is| are|:|=)? ?:? ?|(?:answer|ans|solution)[:=.] ?|(?:option|choice) (?=\(?[A-H]\b)|"
    r"(?:the )?correct (?:option|choice) is:? |(?:答案|答|选项|故选|选)(?:是|为)?[:：]? ?|"
    r"(?:only|exactly) (?=[-\d\\])|\\therefore ?|\\Rightarrow ?|\\implies ?|\\approx ?|approximately |"
    r"approx\.? |(?:it|this|that) (?:is|equals) |equals |is equal to |= ?",
    re.IGNORECASE,
)
_MINUS: Final = re.compile(r"^(?:negative|minus) (?=[\d\\])", re.IGNORECASE)
_ARTICLES: Final = re.compile(r"(?<![\w\\])(?:an?|the) (?=[a-z])")
_SYNONYMS: Final = {
    **dict.fromkeys(
        (
            "no solution", "no solutions", "no real solution", "no real solutions", "no real roots", "no such values",
            "empty set", "there is no solution", "there are no solutions", "no integer solutions", "no integer solution",
            "null set", "\\{\\}", "\\emptyset", "\\phi", "no roots", "has no solution", "none", "无解", "空集",
        ),
        "\\emptyset",
    ),
    **dict.fromkeys(
        ("dne", "does not exist", "doesn't exist", "undefined", "not defined", "limit does not exist", "不存在"), "undefined",
    ),
    **dict.fromkeys(("impossible", "not possible", "it is impossible", "it is not possible", "cannot be done"), "impossible"),
    **dict.fromkeys(("true", "yes", "是", "对", "正确"), "yes"),
    **dict.fromkeys(("false", "no", "否", "错", "错误"), "no"),
    **dict.fromkeys(("infinite", "infinitely many", "infinitely many solutions", "infinite solutions"), "infinitely many"),
    **dict.fromkeys(("all real numbers", "all reals", "all real values", "\\mathbb{r}", "real numbers"), "\\mathbb{r}"),
    "all integers n": "all integers", "any real number": "\\mathbb{r}",
}  # fmt: skip

_NOTHING: Final = re.compile(
    r"(?:there (?:is|are|exists?) )?no (?:(?:such|real|integer|positive|natural|rational|valid|possible|nontrivial|other) )+"
    r"(?:solutions?|values?|roots?|numbers?|integers?|functions?|polynomials?|triples?|pairs?|[a-z])?(?: exists?)?"
)
SYMBOLIC: Final = frozenset(
    ("\\emptyset", "undefined", "impossible", "yes", "no", "infinitely many", "all integers")
)
"""Canonical texts that are one object, whatever their spelling."""


def canonical_text(text: str) -> str:
    """Return a text without case, articles, quotes and final punctuation; the listed synonyms are one text."""
    folded = text.casefold().replace('"', "").strip(" .,;:!'")
    folded = _ARTICLES.sub("", folded).removeprefix("\\text ").strip()
    folded = re.sub(r"\s+", " ", folded)
    return "\\emptyset" if _NOTHING.fullmatch(folded) else _SYNONYMS.get(folded, folded)


def without_lead(text: str) -> str:
    r"""Remove phrases such as `The answer is` and `\therefore` from the beginning."""
    for _ in range(3):
        match = LEAD.match(text)
        if match is None or match.end() == len(text) or not match[0]:
            break
        text = text[match.end() :].strip()
    return _MINUS.sub("-", text)


def number_in_words(text: str) -> Fraction | None:
    """Return the value of `twenty-one`, `two thirds`, `half`, `a third`, `3 million`, `third`, `6th`; None for anything else."""
    folded = re.sub(r"(?<=hundred|housand|million) and ", " ", text.casefold().replace("-", " "))
    whole, joint, part = folded.partition(" and ")
    if joint:
        parts = number_in_words(whole), number_in_words(part)
        return parts[0] + parts[1] if parts[0] and parts[1] and parts[1] < 1 else None
    words = folded.split()
    if not words or len(words) > 12:
        return None
    if len(words) == 1 and (ordinal := re.fullmatch(r"(\d+)(?:\^)?(?:st|nd|rd|th)", words[0])):
        return Fraction(ordinal[1])
    if words[0] in ("a", "an"):
        words = ["one", *words[1:]] if len(words) > 1 else words
    singular = words[-1].removesuffix("s")
    if words == ["half"] or (len(words) > 1 and (singular in _PARTS or words[-1] in _PARTS)):
        size = _PARTS.get(words[-1]) or _PARTS[singular]
        count = Fraction(1) if len(words) == 1 else _whole(words[:-1])
        return None if count is None else count / size
    if len(words) == 1 and words[0] in _ORDINALS and words[0] != "second":
        return Fraction(_ORDINALS[words[0]])
    return _whole(words)


def _whole(words: list[str]) -> Fraction | None:
    total, current, seen = Fraction(0), Fraction(0), False
    for word in words:
        word = word.replace(",", "")
        if word in _SMALL and (
            current % 100 == 0 or (current % 100 >= 20 and current % 10 == 0 < _SMALL[word] < 10)
        ):
            current += _SMALL[word]
        elif re.fullmatch(r"-?\d+(\.\d+)?", word) and not seen:
            current = Fraction(word)
        elif word in _SCALES and seen:
            scale = _SCALES[word]
            if scale in (100, 12):
                current *= scale
            else:
                total, current = total + current * scale, Fraction(0)
        else:
            return None
        seen = True
    return total + current


_NUMBER: Final = re.compile(
    r"(?<![\w.,\\^{])-?\\?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.,\\^{/])-?\\?\$?\d+(?:\.\d+)?(?:/\d+)?(?![\d:^])"
)
_UNSURE_BEFORE: Final = re.compile(
    r"\b(?:about|approximately|around|nearly|almost|roughly|least|most|below|above|minus|negative|not|less|fewer|than|up to|"
    r"between|except|excluding|without|other|over|under|remainder|or|divisible|congruent|base)\b[^.]{0,12}$"
    r"|\b(?:multiples?|powers?|factors?|divisors?) of $"
)
_UNSURE_AFTER: Final = re.compile(
    r"[ -]?(?:hundredths?|thousandths?|sixteenths?|tenths?|thirds?|half|halves|million|billion|thousand|hundred|dozens?|squared|"
    r"and (?:above|below|over|up|more|beyond)|cubed|choose|mod|below|above|less|remainder|or|to|out of|times)\b"
)


def number_of_sentence(text: str) -> str | None:
    """Return the number of a sentence that has only one, or only one with a dollar sign; None if that is unclear."""
    words = re.findall(r"[A-Za-z]{2,}", text)
    if len(words) < 2 or len(text) > 200 or "\\" in text.replace("\\$", "") or "=" in text:
        return None
    found = [match for match in _NUMBER.finditer(text) if text[match.end() : match.end() + 1] != "-"]
    money = [match for match in found if "$" in match[0]]
    chosen = found if len(found) == 1 else money if len(money) == 1 else []
    if not chosen:
        return None
    folded = text.casefold()
    if _UNSURE_BEFORE.search(folded[: chosen[0].start()]) or _UNSURE_AFTER.match(folded, chosen[0].end()):
        return None
    return chosen[0][0].replace("\\$", "").replace("$", "")
