"""Problem texts as words, and as templates in which every number is one mark; used to find overlaps.

Texts are tokenised once, in bulk, into hashed words, so that all steps after the regular expression are vectorised.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import xxhash
from numpy.typing import NDArray

from tasks.problems.dedup import Indices, combine_hashes

_DIGITS = r"\d+(?:(?:,|\{,\})\d{3}(?!\d))*(?:\.\d+)?"
_TOKEN = re.compile(rf"\\[a-z]+|[^\W\d_]+|{_DIGITS}(?:(?:st|nd|rd|th)(?![a-z]))?|%")
_NUMBER_ALONE = re.compile(_DIGITS)
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad)\b|(?<=\\)[dt](?=frac)|\\[\[\]() ,;:!]|[\s${}?.]"
)
_NO_WORDS = frozenset(
    # layout and fonts
    r"""\text \textbf \textit \textrm \texttt \emph \underline \mbox \hbox \mathrm \mathbf \mathit \mathsf \mathcal
    \mathbb \mathfrak \boldsymbol \operatorname \rm \bf \it \displaystyle \textstyle \limits \nolimits \left \right
    \middle \big \bigg \bigl \bigr \biggl \biggr \begin \end \item \quad \qquad \hspace \vspace \hfill \newline
    \frac \dfrac \tfrac \cfrac \over"""
    # operators, relations and marks that are punctuation when they are typed as characters
    r""" \cdot \times \div \pm \mp \le \leq \leqslant \ge \geq \geqslant \lt \gt \ne \neq \equiv \approx \sim \cong
    \ldots \cdots \dots \dotsc \dotsb \vdots \ddots \circ \prime \bullet \colon st nd rd th""".split()
)
_CARDINALS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety""".split()
_ORDINALS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth
    eightieth ninetieth hundredth thousandth quarter""".split()
_PARTS_AND_MULTIPLES = "half halves once twice thrice double triple quadruple".split()
_NUMBER_WORDS = frozenset(
    [*_CARDINALS, *_ORDINALS, *(f"{word}s" for word in _ORDINALS), *_PARTS_AND_MULTIPLES]
)
_SCALES = frozenset(
    "hundred hundreds thousand thousands million millions billion billions dozen dozens".split()
)
_NOTHING, _WORD, _ARTICLE, _AND, _NUMBER, _SCALE = range(6)
MARK = "#"


def words(text: str) -> list[str]:
    r"""Return the lower-case words and numbers, in order, without punctuation, operators and LaTeX layout commands.

    `\frac{1}{2}` and 1/2 are both the words 1, 2; 1,000 and 1{,}000 are 1000; % is percent; other commands are words.
    """
    return [_word(token) for token in _tokens(text) if token not in _NO_WORDS]


def template(text: str) -> list[str]:
    """Return the words, with every run of numbers (digits, words, LaTeX) replaced by one `#`, and plurals by singulars.

    An article before a number belongs to it ("a dozen", "an 8-mile walk"), and so does the "and" of "one hundred and five".
    """
    tokens = tokenise([text])
    stems = {word_hash(stem): stem for stem in map(_stem, words(text))}
    return [stems.get(value, MARK) for value in tokens.masked.tolist()]


def formula(text: str) -> str:
    """Return the characters of the text with every number as one `#`, without white space, LaTeX layout and braces.

    Meant for texts that are mostly a formula, such as "Evaluate 2^3 - 1^3 + 4^3", whose operators carry more information
    than their words.
    """
    return _LAYOUT.sub("", _NUMBER_ALONE.sub(MARK, _plain(text)))


def _plain(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(_plain(text))


def _word(token: str) -> str:
    if token[0].isdigit():
        return token.replace("{,}", "").replace(",", "")
    return "percent" if token == "%" else token.removeprefix("\\")


def _stem(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def _kind(token: str) -> int:
    if token in _NO_WORDS:
        return _NOTHING
    if token in _SCALES:
        return _SCALE
    if token[0].isdigit() or token in _NUMBER_WORDS:
        return _NUMBER
    return {"a": _ARTICLE, "an": _ARTICLE, "and": _AND}.get(token, _WORD)


def word_hash(word: str) -> int:
    """64 bits."""
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


MARK_HASH = np.uint64(word_hash(MARK))


class _Vocabulary(dict[str, int]):
    """Assigns numbers to tokens on first use; `hashes`, `stems` and `kinds` are indexed by these numbers."""

    def __init__(self) -> None:
        self.hashes: list[int] = []
        self.stems: list[int] = []
        self.kinds: list[int] = []

    def __missing__(self, token: str) -> int:
        number = self[token] = len(self.kinds)
        word = _word(token)
        self.hashes.append(word_hash(word))
        self.stems.append(word_hash(_stem(word)))
        self.kinds.append(_kind(token))
        return number


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """The concatenated hashed words of some texts; `rows[i]` is the text of word i. `masked` are the templates' words."""

    hashes: NDArray[np.uint64]
    rows: Indices
    masked: NDArray[np.uint64]
    masked_rows: Indices


def tokenise(texts: Sequence[str]) -> Tokens:
    """Return the hashed `words` and `template` of every text. A text without words has no entries."""
    vocabulary = _Vocabulary()
    lists = [_tokens(text) for text in texts]
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    flat = chain.from_iterable(lists)
    numbers = np.fromiter(map(vocabulary.__getitem__, flat), dtype=np.int64, count=int(lengths.sum()))
    kinds = np.array(vocabulary.kinds, dtype=np.int8)[numbers]
    present = np.flatnonzero(kinds != _NOTHING)
    numbers, kinds = numbers[present], kinds[present]
    rows = np.repeat(np.arange(len(lists)), lengths)[present]
    marks = _marks(kinds, rows)
    repeated = marks & _before(marks, rows, 1)
    stems = np.where(marks, MARK_HASH, np.array(vocabulary.stems, dtype=np.uint64)[numbers])
    return Tokens(
        hashes=np.array(vocabulary.hashes, dtype=np.uint64)[numbers],
        rows=rows,
        masked=stems[~repeated],
        masked_rows=rows[~repeated],
    )


def _marks(kinds: NDArray[np.int8], rows: Indices) -> NDArray[np.bool_]:
    """Return which words are part of a number."""
    numbers = (kinds == _NUMBER) | (kinds == _SCALE)
    number_follows = _before(numbers, rows, -1)
    inside = (kinds == _AND) & _before(kinds == _SCALE, rows, 1)
    return numbers | (number_follows & (inside | (kinds == _ARTICLE)))


def _before(flags: NDArray[np.bool_], rows: Indices, places: int) -> NDArray[np.bool_]:
    """Return the flags shifted by `places` words within the same text (False where there is no such word)."""
    moved = np.roll(flags, places) & (np.roll(rows, places) == rows)
    if places > 0:
        moved[:places] = False
    else:
        moved[places:] = False
    return moved


def windows(hashes: NDArray[np.uint64], rows: Indices, size: int) -> tuple[Indices, Indices]:
    """Return the start and the 63-bit hash of every run of `size` words within one text."""
    last = len(hashes) - size + 1
    if last < 1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(rows[:last] == rows[size - 1 :])
    values = combine_hashes([hashes[starts + place] for place in range(size)], len(starts))
    return starts, (values >> np.uint64(1)).astype(np.int64)
