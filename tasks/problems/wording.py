"""Problem texts as sequences to compare: their words, and their templates, in which numbers and letters are masked.

Both come from the normal form of `tasks.problems.tokens`, without its group marks. All letters of a text are alike in a
run of a few words except for the places where a letter returns: two runs are equal if one results from the other by
renaming letters one to one (parameterised matching: Baker 1993). Every run is compared by itself, so that it does not
matter which letters occur elsewhere in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.problems.arrays import Hashes, Indices, combine_hashes
from tasks.problems.tokens import CARDINALS, Kind, Tokens, Vocabulary, neighbours, tokenise, word_hash

NUMBER_MARK, LETTER_MARK = "#", "@"
NUMBER_HASH, LETTER_HASH = np.uint64(word_hash(NUMBER_MARK)), np.uint64(word_hash(LETTER_MARK))
_VERBS = frozenset(
    "is are was be and or has have can if for in of on to at by the with such be not lies".split()
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wording:
    """The words of some texts. Word i belongs to text `rows[i]` and is `hashes[i]`, which is the same for all letters.

    `returns[i]` is the distance to the previous occurrence of the same letter in the same text, 0 if there is none or
    word i is no letter.
    """

    hashes: Hashes
    rows: Indices
    returns: Indices

    def windows(self, size: int) -> tuple[Indices, Indices]:
        """Return the start and the 63-bit hash of every run of `size` words within one text."""
        last = len(self.hashes) - size + 1
        if last < 1:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        starts = np.flatnonzero(self.rows[:last] == self.rows[size - 1 :])
        columns = []
        for place in range(size):
            returns = self.returns[starts + place]
            inside = np.where(returns <= place, returns, 0).astype(np.uint64)
            columns.append(self.hashes[starts + place] + inside)
        return starts, (combine_hashes(columns, len(starts)) >> np.uint64(1)).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparable:
    """The words of some texts, and their templates; `places[i]` is the place of word i in the templates."""

    words: Wording
    template: Wording
    places: Indices
    tokens: Tokens

    def numbers(self, count: int) -> tuple[Hashes, NDArray[np.float64]]:
        """Return for each of the `count` texts a hash of its numbers in any order, and the information of the distinct ones.

        Numbers are compared by value, where "twice" is 2 and "half" 0.5. Every digit counts log2(10) bits.
        """
        marked = self.tokens.where(
            (self.tokens.kinds == Kind.NUMBER) | (self.tokens.kinds == Kind.NUMBER_WORD)
        )
        values = [value(name) for name in marked.vocabulary.names]
        hashes = np.array([word_hash(one) for one in values], dtype=np.uint64)[marked.numbers]
        digits = np.array([max(1, sum(map(str.isdigit, one))) for one in values], dtype=np.int64)[
            marked.numbers
        ]
        order = np.lexsort((hashes, marked.rows))
        rows, hashes, digits = marked.rows[order], hashes[order], digits[order]
        new = np.append(True, (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1]))[: len(rows)]
        sums = np.zeros(count, dtype=np.uint64)
        np.add.at(sums, rows, combine_hashes([hashes], len(hashes)))
        return sums, np.bincount(rows[new], digits[new] * np.log2(10), count).astype(np.float64)

    def names(self, row: int) -> list[str]:
        """Return the words of one text in readable form."""
        low, high = np.searchsorted(self.words.rows, [row, row + 1])
        names = self.tokens.vocabulary.names
        return [names[number] for number in self.tokens.numbers[low:high].tolist()]


def comparable(tokens: Tokens) -> Comparable:
    """Return the words and templates of some texts. A text without words has no entries."""
    tokens = tokens.where(tokens.kinds != Kind.GROUP)
    letters = (tokens.kinds == Kind.LETTER) & ~_articles(tokens)
    hashes = np.where(letters, LETTER_HASH, tokens.hashes())
    words = Wording(hashes=hashes, rows=tokens.rows, returns=_returns(tokens, letters))
    marks = _marks(tokens)
    first = ~(marks & neighbours(marks, tokens.rows, 1))
    stems = np.where(letters, LETTER_HASH, _stem_hashes(tokens.vocabulary)[tokens.numbers])
    kept = tokens.where(first)
    template = Wording(
        hashes=np.where(marks, NUMBER_HASH, stems)[first],
        rows=kept.rows,
        returns=_returns(kept, letters[first]),
    )
    return Comparable(words=words, template=template, places=np.cumsum(first) - 1, tokens=tokens)


def template(text: str) -> list[str]:
    """Return the template of a text in readable form: every run of numbers is one `#`, every letter is `@`, plurals are
    singulars.

    An article before a number belongs to it ("a dozen", "an 8-mile walk"), and so does the "and" of "one hundred and five".
    """
    found = comparable(tokenise([text]))
    names = {word_hash(stem(name)): stem(name) for name in found.tokens.names()}
    names |= {int(NUMBER_HASH): NUMBER_MARK, int(LETTER_HASH): LETTER_MARK}
    return [names[value] for value in found.template.hashes.tolist()]


_VALUES = {word: str(number) for number, word in enumerate(CARDINALS[:21])} | {
    "once": "1", "twice": "2", "double": "2", "thrice": "3", "triple": "3", "half": "0.5", "halves": "0.5",
    **{word: str(10 * tens) for tens, word in enumerate(CARDINALS[21:], 3)},
}  # fmt: skip


def value(name: str) -> str:
    """Return the value of a number as decimal digits; a word that is not known stays as it is."""
    return _VALUES.get(name) or (name.rstrip("0").rstrip(".") if "." in name else name)


def stem(word: str) -> str:
    """Return a word without the ending of the plural."""
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def _stem_hashes(vocabulary: Vocabulary) -> Hashes:
    return np.array([word_hash(stem(name.lower())) for name in vocabulary.names], dtype=np.uint64)


def _articles(tokens: Tokens) -> NDArray[np.bool_]:
    """Return which letters are the article: an "a" before a word that can follow it."""
    names = tokens.vocabulary.names
    is_a = np.array([name in {"a", "A"} for name in names], dtype=np.bool_)
    noun = np.array([name not in _VERBS for name in names], dtype=np.bool_)
    words = (tokens.kinds <= Kind.SCALE) & noun[tokens.numbers]
    return is_a[tokens.numbers] & neighbours(words, tokens.rows, -1)


def _marks(tokens: Tokens) -> NDArray[np.bool_]:
    """Return which words are part of a number."""
    kinds, rows = tokens.kinds, tokens.rows
    numbers = (kinds >= Kind.NUMBER) & (kinds <= Kind.SCALE)
    number_follows = neighbours(numbers, rows, -1)
    inside = (kinds == Kind.AND) & neighbours(kinds == Kind.SCALE, rows, 1)
    names = tokens.vocabulary.names
    article = np.array([name in {"a", "A", "an"} for name in names], dtype=np.bool_)[tokens.numbers]
    return numbers | (number_follows & (inside | article))


def _returns(tokens: Tokens, letters: NDArray[np.bool_]) -> Indices:
    returns = np.zeros(len(tokens.numbers), dtype=np.int64)
    places = np.flatnonzero(letters)
    order = places[np.lexsort((places, tokens.numbers[places], tokens.rows[places]))]
    earlier, later = order[:-1], order[1:]
    same = (tokens.numbers[earlier] == tokens.numbers[later]) & (tokens.rows[earlier] == tokens.rows[later])
    returns[later[same]] = (later - earlier)[same]
    return returns
