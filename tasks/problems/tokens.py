r"""The normal form of a problem text: a sequence of tokens that does not depend on how the text is set.

White space, mathematics delimiters (`$`, `\(`), punctuation, case, fonts, LaTeX layout commands, and the spelling of a
symbol (`\leq`, `\leqslant`, ≤) make no difference. Whether something is mathematics is never asked, since delimiters are lost or
misplaced in many files. A token is
- a *word* in lower case, a *number* (1{,}000 is 1000), or a *function* (a LaTeX command such as `\sqrt`, or `sin`);
- a *letter*: Greek letters, and every letter of a run that is no word: `ABC`, `A B C` and `$AB$C` are the same letters;
- an *operator* (`+ - * ^ = < >` ...), or a *group* mark (parentheses and `/`; braces around several tokens are parentheses).

A minus, star or exclamation mark beside a word is punctuation. The work is linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from tasks.problems.arrays import Hashes, Indices

# --- the text before it is cut into tokens -----------------------------------------------------------------------

_BLOCKS = tuple(
    (re.compile(begin, re.IGNORECASE), re.compile(end, re.IGNORECASE))
    for begin, end in (
        (r"\[asy\]", r"\[/asy\]"),
        ("```", "```"),
        *(
            (rf"\\begin\s*\{{{name}\}}", rf"\\end\s*\{{{name}\}}")
            for name in ("asy", "tikzpicture", "lstlisting", "verbatim")
        ),
    )
)
_LINK = re.compile(
    r"!\[[^\]\n]{0,300}\]\([^)\n]{0,600}\)|\\includegraphics(?:\[[^\]\n]{0,300}\])?\{[^}\n]{0,300}\}"
    r"|https?://[^\s)}\]]+"
)
_ANSWER_FORM = re.compile(
    r"\b(?:enter|express|give|write|round|submit|provide)\s+(?:your|the\s+final)\s+answers?\b"
    r".{0,400}?(?:[.?!](?=\s+[A-Z(\[]|\W{0,20}\Z)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_RAISED = re.compile(f"[{''.join(map(chr, _SUPERSCRIPTS))}]+")
_SYMBOLS = {
    "×": "*", "·": "*", "∙": "*", "⋅": "*", "∗": "*", "−": "-", "–": "-", "—": "-", "÷": "/", "⁄": "/", "∕": "/",
    "≤": "<=", "⩽": "<=", "≦": "<=", "≥": ">=", "⩾": ">=", "≧": ">=", "≠": r"\ne ", "≡": r"\equiv ", "≈": r"\approx ",
    "±": r"\pm ", "√": r"\sqrt ", "∞": r"\infty ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∈": r"\in ",
    "∪": r"\cup ", "∩": r"\cap ", "⊂": r"\subset ", "⊆": r"\subseteq ", "∠": r"\angle ", "△": r"\triangle ",
    "⊥": r"\perp ", "∥": r"\parallel ", "→": r"\to ", "°": r"\degree ", "º": r"\degree ", "∘": r"\circ ",
    "…": " ", "⋯": " ", "′": "'", "’": "'", "‘": "'",
}  # fmt: skip
_TRANSLATION = str.maketrans(_SYMBOLS)
_GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon phi
    chi psi omega"""
_TRANSLATION |= {
    ord(first) + place: f"\\{name if first == 'α' else name.capitalize()} "
    for first in "αΑ"
    for place, name in enumerate(_GREEK.split())
}
_BREAK = re.compile(r"\\\\(?![A-Za-z]{2})|\\[,;:!>()\[\]]|\*\*+|\{\s*\}")
_HYPHEN = re.compile(r"(?<=[a-z]{4})-(?=\d)")
_ORDINAL = re.compile(r"\^[\s{]*(st|nd|rd|th)(?![A-Za-z])[\s}]*")
_POSSESSIVE = re.compile(r"(?<=[A-Za-z]{2})'(?=(?:s|t|d|m|re|ll|ve)\b)")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[clrp|@\s]*\})?")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:rm|bf|it|sf|cal|bb|frak|scr|tt)|operatorname\*?|emph"
    r"|mbox|hbox|boldsymbol|bm|displaystyle|textstyle|left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])"
)
_PART = r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[A-Za-z0-9]))"
_FRACTION = re.compile(rf"\\[dtc]?frac{_PART}{_PART}")
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3})")
_FRACTIONS_DEEP = 4  # fractions nested more deeply keep their command
_ALONE = re.compile(
    r"[({]\s*(\\[A-Za-z]+\s*|[A-Za-z][A-Za-z\s]*|(?:\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?|\.\d+)\s*)[)}]"
)


def evidence(text: str) -> str:
    """Return the text without code, links, pictures, and sentences on the form of the answer: no evidence of a copy."""
    return _ANSWER_FORM.sub(" ", without_code(text))


def without_code(text: str) -> str:
    """Return the text without Asymptote and TikZ code, listings, links and pictures."""
    for begin, end in _BLOCKS:
        text = _without_block(text, begin, end)
    return _LINK.sub(" ", text)


def _without_block(text: str, begin: re.Pattern[str], end: re.Pattern[str]) -> str:
    """Cut every block that is closed."""
    parts: list[str] = []
    rest = 0
    while (opened := begin.search(text, rest)) and (closed := end.search(text, opened.end())):
        parts += (text[rest : opened.start()], " ")
        rest = closed.end()
    return "".join([*parts, text[rest:]]) if parts else text


def _prepared(text: str) -> str:
    """Return the text with symbols as LaTeX commands, fractions as quotients, and fewer braces."""
    if not text.isascii():
        text = _RAISED.sub(lambda run: f"^{{{run.group().translate(_SUPERSCRIPTS)}}}", text)
        text = unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).translate(_TRANSLATION)
    if text.isupper():
        text = text.lower()
    if "'" in text:
        text = _POSSESSIVE.sub("", text)
    if "-" in text:
        text = _HYPHEN.sub(" ", text)
    text = _BREAK.sub(" ", text)
    if "\\" in text:
        text = _without_commands(text)
    if "(" in text or "{" in text:
        text = _ALONE.sub(r" \1 ", _ALONE.sub(r" \1 ", text))
    return text


def _without_commands(text: str) -> str:
    """Return the text without commands for space and fonts, and with fractions as quotients."""
    text = _THOUSANDS.sub(",", text.replace("\\\\", "\\"))  # else 1{,}000 is one more level of braces
    text = _FONT.sub(" ", _ENVIRONMENT.sub(" ", _DEGREES.sub(r"\\degree ", text)))
    text = _ORDINAL.sub(r"\1 ", text)
    for _ in range(_FRACTIONS_DEEP):
        text, found = _FRACTION.subn(r"(\1\2)/(\3\4)", text)
        if not found:
            break
    return text


# --- tokens ------------------------------------------------------------------------------------------------------


class Kind(IntEnum):
    """What a token is. Words that belong to numbers have kinds of their own."""

    WORD = 0
    NUMBER = 1
    NUMBER_WORD = 2  # seven, third, half
    SCALE = 3  # hundred, dozen
    AND = 4
    FUNCTION = 5
    LETTER = 6
    OPERATOR = 7
    SIGN = 8  # an operator that is punctuation beside a word
    GROUP = 9  # parentheses, a fraction bar, or an accent


_DIGITS = r"\d+(?:(?:,|\{,\})\d{3}(?!\d))*(?:\.\d+)?"
_TOKEN = re.compile(
    rf"\\[A-Za-z]+|\\[{{}}]|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+"
    rf"|{_DIGITS}(?:(?:st|nd|rd|th)(?![A-Za-z]))?|(?<!\w)\.\d+|<=|>=|[-+*/^=<>|(){{}}\[\]%!]"
)
_LAYOUT = frozenset(
    r"""\limits \nolimits \quad \qquad \hspace \vspace \hfill \hline \newline \item \rm \bf \it \cal \scriptstyle
    \ldots \cdots \dots \dotsc \dotsb \vdots \ddots \prime \bullet \colon \label \tag \noindent \par \phantom
    \frac \dfrac \tfrac \cfrac \over \mathop \allowbreak \nonumber
    st nd rd th""".split()
)
_SAME = {
    r"\cdot": "*", r"\times": "*", r"\ast": "*", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\leqq": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\geqq": ">=", r"\lt": "<", r"\gt": ">", r"\neq": r"\ne",
    r"\equal": "=", r"\plus": "+", r"\minus": "-", r"\div": "/", r"\mid": "|", r"\vert": "|", r"\lvert": "|",
    r"\rvert": "|", r"\Vert": "|", r"\lbrace": "(", r"\rbrace": ")", r"\{": "(", r"\}": ")", "{": "(", "}": ")", "[": "(",
    "]": ")", r"\lbrack": "(", r"\rbrack": ")", r"\lparen": "(", r"\rparen": ")", "degrees": r"\degree", "degree": r"\degree",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\pmod": r"\mod", r"\bmod": r"\mod", "mod": r"\mod", "modulo": r"\mod",
    r"\rightarrow": r"\to", r"\longrightarrow": r"\to", r"\varnothing": r"\emptyset", r"\backslash": r"\setminus",
    r"\measuredangle": r"\angle", r"\varphi": r"\phi", r"\varepsilon": r"\epsilon", r"\vartheta": r"\theta",
}  # fmt: skip
_GREEK_LETTERS = {name for low in _GREEK.split() for name in (low, low.capitalize())} - {"pi"} | {"ell"}
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp gcd lcm max min sup inf lim det deg mod pi".split()
)
_SHORT_WORDS = frozenset(
    """am an as at be by do go he if in is it me my no of oh on or so to up us we ok ft cm mm km kg mg ml lb oz hr pm mr ms dr
    jr vs act add age ago aid aim air all and any are arm art ask ate bad bag bar bat bed bee bet big bit box boy bug bus but
    buy cab can cap car cat cow cry cup cut dad day did die dig dim dip dog dot dry due ear eat egg end eye fan far fat fee
    few fig fit fix fly for fox fun gap gas get god got gum gun guy had ham has hat hay hen her hex hid him his hit hop hot how
    ice ill ink inn its jam jar jet job joy key kid lab lap law lay led leg let lid lie lip log lot low mad man map mat may men
    met mix mom mud net new nor not now nut oak odd off oil old one our out owe own pad pan pay pea pen per pet pie pig pin pit
    pot put ran rat raw ray red rib rid rim rob rod row rug run sad sat saw say sea see set she shy sit six sky son sum sun tap
    tax tea ten the tie tin tip toe ton too top toy try tub two use van wax way web wet who why win won yes yet you zoo
    arc axe non iff ann amy ben bob dan eva ian ivy jay jim joe jon ken kim lee leo max meg mia pam pat ron roy sal sam sue
    ted tim tom zoe hrs mph sec usd lbs yds amp""".split()
)
CARDINALS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety""".split()
_ORDINALS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth
    eightieth ninetieth hundredth thousandth quarter""".split()
_PARTS_AND_MULTIPLES = "half halves once twice thrice double triple quadruple".split()
_NUMBER_WORDS = frozenset(
    [*CARDINALS, *_ORDINALS, *(f"{word}s" for word in _ORDINALS), *_PARTS_AND_MULTIPLES]
)
_SCALES = frozenset(
    "hundred hundreds thousand thousands million millions billion billions dozen dozens".split()
)
_ACCENTS = r"\overline \underline \bar \hat \widehat \vec \overrightarrow \tilde \widetilde"
_SYMBOL_KINDS = {
    **dict.fromkeys("+^=<>|", Kind.OPERATOR), "<=": Kind.OPERATOR, ">=": Kind.OPERATOR, **dict.fromkeys("-*!", Kind.SIGN),
    **dict.fromkeys(["(", ")", "/", *_ACCENTS.split()], Kind.GROUP),
}  # fmt: skip
_LONGEST_RUN = 8  # of capitals that are letters


@lru_cache(maxsize=1 << 16)
def _meaning(token: str) -> tuple[tuple[str, Kind], ...]:
    """Return the names and kinds of the tokens that one match of `_TOKEN` stands for, none if it is layout."""
    if token in _LAYOUT:
        return ()
    token = _SAME.get(token, token)
    if kind := _SYMBOL_KINDS.get(token):
        return ((token, kind),)
    if token == "%":
        return (("percent", Kind.WORD),)
    if token[0].isdigit() or token[0] == ".":
        plain = token.replace("{,}", "").replace(",", "")
        return ((f"0{plain}" if plain[0] == "." else plain, Kind.NUMBER),)
    if token[0] == "\\":
        name = token[1:]
        return ((token, Kind.LETTER),) if name in _GREEK_LETTERS else _meaning_of_word(name, Kind.FUNCTION)
    return _meaning_of_run(token)


def _meaning_of_run(run: str) -> tuple[tuple[str, Kind], ...]:
    """Return the tokens of a run of letters."""
    if len(run) == 1:
        return ((run, Kind.LETTER if run.isascii() else _kind_of_character(run)),)
    if _is_word(run):
        return _meaning_of_word(run.lower(), Kind.WORD)
    return tuple((letter, Kind.LETTER) for letter in run)


def _kind_of_character(character: str) -> Kind:
    return Kind.WORD if character >= "\u3040" else Kind.LETTER


def _meaning_of_word(word: str, kind: Kind) -> tuple[tuple[str, Kind], ...]:
    if word in _SCALES:
        return ((word, Kind.SCALE),)
    if word in _NUMBER_WORDS:
        return ((word, Kind.NUMBER_WORD),)
    if word == "and":
        return ((word, Kind.AND),)
    return ((word, Kind.FUNCTION if word in _FUNCTIONS else kind),)


def _is_word(run: str) -> bool:
    """Return whether a run of two or more letters is a word, rather than letters that stand for points or factors."""
    if not run.isascii():
        return True
    if run.isupper():
        return len(run) > 4 and (len(run) > _LONGEST_RUN or len(set(run)) < len(run))
    if not run[1:].islower():
        return len(run) > 4
    if len(run) <= 3:
        return run.lower() in _SHORT_WORDS or run.lower() in _FUNCTIONS
    return not (len(run) <= _LONGEST_RUN and all(ord(b) - ord(a) == 1 for a, b in pairwise(run)))


class Vocabulary(dict[str, tuple[int, ...]]):
    """Assigns numbers to tokens on first use; `names` and `kinds` are indexed by these numbers.

    A key is a match of `_TOKEN`, its value the numbers of the tokens that it stands for.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kinds: list[Kind] = []
        self._known: dict[tuple[str, Kind], int] = {}
        self._hashes = np.empty(0, dtype=np.uint64)

    def __missing__(self, match: str) -> tuple[int, ...]:
        numbers = self[match] = tuple(self._number(*token) for token in _meaning(match))
        return numbers

    def _number(self, name: str, kind: Kind) -> int:
        number = self._known.setdefault((name, kind), len(self.names))
        if number == len(self.names):
            self.names.append(name)
            self.kinds.append(kind)
        return number

    def hashes(self) -> Hashes:
        """64 bits for the name of every token, the same for "A" and "a"."""
        new = [word_hash(name.lower()) for name in self.names[len(self._hashes) :]]
        self._hashes = np.concatenate([self._hashes, np.array(new, dtype=np.uint64)])
        return self._hashes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """The concatenated tokens of some texts; token i is `vocabulary.names[numbers[i]]` and belongs to text `rows[i]`."""

    vocabulary: Vocabulary
    numbers: Indices
    rows: Indices
    kinds: NDArray[np.int8]

    def names(self) -> list[str]:
        return [self.vocabulary.names[number] for number in self.numbers.tolist()]

    def hashes(self) -> Hashes:
        return self.vocabulary.hashes()[self.numbers]

    def where(self, chosen: NDArray[np.bool_]) -> Tokens:
        return Tokens(
            vocabulary=self.vocabulary, numbers=self.numbers[chosen], rows=self.rows[chosen], kinds=self.kinds[chosen]
        )  # fmt: skip


def word_hash(word: str) -> int:
    """64 bits."""
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


def tokenise(texts: Iterable[str], vocabulary: Vocabulary | None = None) -> Tokens:
    """Return the tokens of every text. A text without tokens has no entries."""
    vocabulary = Vocabulary() if vocabulary is None else vocabulary
    meaning = vocabulary.__getitem__
    lists = [list(chain.from_iterable(map(meaning, _TOKEN.findall(_prepared(text))))) for text in texts]
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    numbers = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(lengths.sum()))
    kinds = np.array(vocabulary.kinds, dtype=np.int8)[numbers]
    rows = np.repeat(np.arange(len(lists)), lengths)
    tokens = Tokens(vocabulary=vocabulary, numbers=numbers, rows=rows, kinds=kinds)
    return tokens.where(~_punctuation(tokens))


def _punctuation(tokens: Tokens) -> NDArray[np.bool_]:
    """Return which tokens are signs beside a word: "8-mile", "**Find**", "How much!"."""
    marks = np.full(len(tokens.numbers), False)
    signs = np.flatnonzero(tokens.kinds == Kind.SIGN)
    if len(signs) == 0:
        return marks
    words = (tokens.kinds <= Kind.AND) & (tokens.kinds != Kind.NUMBER)
    beside = neighbours(words, tokens.rows, 1)[signs], neighbours(words, tokens.rows, -1)[signs]
    known = {
        name: tokens.vocabulary.names.index(name) if name in tokens.vocabulary.names else -1 for name in "-*!"
    }
    names = tokens.numbers[signs]
    factorial = np.isin(tokens.kinds, (Kind.NUMBER, Kind.LETTER, Kind.GROUP))
    marks[signs] = np.select(
        [names == known["-"], names == known["*"]],
        [beside[1], beside[0] | beside[1]],
        ~neighbours(factorial, tokens.rows, 1)[signs],
    )
    return marks


def neighbours(flags: NDArray[np.bool_], rows: Indices, places: int) -> NDArray[np.bool_]:
    """Return the flag of the token `places` before each one in the same text (after it, if negative; False if there is none)."""
    moved = np.roll(flags, places) & (np.roll(rows, places) == rows)
    if places > 0:
        moved[:places] = False
    else:
        moved[places:] = False
    return moved
