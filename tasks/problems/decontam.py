"""Detection of benchmark problems and their variants: exactly, by lineage, and by overlap with the benchmarks' texts.

There are three overlap checks, each exact up to collisions of 63-bit hashes:
- *n-gram*: a run of 13 words of a benchmark problem (Brown et al. 2020, appendix C), stock phrases excluded.
- *Jaccard*: the similarity by which `tasks.problems.dedup` removes near-duplicates.
- *Template*: the same similarity after replacing every number by one mark, which finds renumbered problems. Texts that are
  little more than a formula are compared character by character instead, with their numbers masked.

The benchmarks are small and the rows are many, so the benchmarks are indexed and the rows are streamed. For a Jaccard
similarity of at least t with a benchmark text of s shingles, a row must share at least ceil(t s) of them, and therefore
one of the rarest s - ceil(t s) + 1. Only these are indexed (prefix filter: Chaudhuri et al. 2006, Bayardo et al. 2007), and
every candidate is verified. No sketches are used, so no pair at the threshold is missed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from scipy.sparse.csgraph import connected_components

from tasks.config import DecontamSettings
from tasks.errors import UserError
from tasks.problems.dedup import Indices, jaccards, offsets_of, shingle_matrix
from tasks.problems.wording import MARK, MARK_HASH, Tokens, formula, tokenise, windows, word_hash, words
from tasks.rows import Finding, FindingKind, Problem

_ROWS_AT_ONCE = 10_000  # bounds the memory use of `findings`


_ORDER = {kind: place for place, kind in enumerate(FindingKind)}
_NEVER = 2.0  # a similarity that is never reached


def _template_shingles(tokens: Tokens, count: int, ngram: int) -> csr_array:
    """Return one row per text: the distinct shingles of its template as sorted columns (none if it is too short)."""
    starts, values = windows(tokens.masked, tokens.masked_rows, ngram)
    sizes = np.bincount(tokens.masked_rows[starts], minlength=count)
    ones = np.ones(len(values), dtype=np.int8)
    matrix = csr_array((ones, values, offsets_of(sizes)), shape=(count, np.iinfo(np.int64).max))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


# --- the index ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Postings:
    """Sorted `keys`; `owners[i]` is the benchmark text of keys[i]. `maybe` is a cheap filter for values that are not keys."""

    keys: Indices
    owners: Indices
    maybe: NDArray[np.bool_]

    @classmethod
    def build(cls, keys: Indices, owners: Indices) -> _Postings:
        order = np.lexsort((owners, keys))
        maybe = np.zeros(1 << max(16, (8 * len(keys)).bit_length()), dtype=np.bool_)
        maybe[keys & (len(maybe) - 1)] = True
        return cls(keys=keys[order], owners=owners[order], maybe=maybe)

    def matches(self, values: Indices) -> tuple[Indices, Indices]:
        """Return all matches as index pairs (into `values`, into `keys`)."""
        candidates = np.flatnonzero(self.maybe[values & (len(self.maybe) - 1)])
        lows = np.searchsorted(self.keys, values[candidates], side="left")
        counts = np.searchsorted(self.keys, values[candidates], side="right") - lows
        within = np.arange(counts.sum()) - np.repeat(offsets_of(counts)[:-1], counts)
        return np.repeat(candidates, counts), np.repeat(lows, counts) + within


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Neighbours:
    """Search for benchmark texts whose shingles have a Jaccard similarity with a row's of at least the text's threshold."""

    shingles: csr_array
    rarest: _Postings
    thresholds: NDArray[np.float64]

    @classmethod
    def build(cls, shingles: csr_array, thresholds: NDArray[np.float64]) -> _Neighbours:
        """Index benchmark texts; one without shingles, or with a threshold above 1, is never found."""
        sizes = np.diff(shingles.indptr)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        keys = shingles.indices.astype(np.int64, copy=False)
        _, inverse, frequencies = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.lexsort((keys, frequencies[inverse], owners))
        needed = np.ceil(thresholds * sizes - 1e-9).astype(np.int64)
        rank = np.arange(len(keys)) - np.repeat(offsets_of(sizes)[:-1], sizes)
        prefix = order[rank <= np.repeat(sizes - needed, sizes)]
        return cls(
            shingles=shingles, rarest=_Postings.build(keys[prefix], owners[prefix]), thresholds=thresholds
        )

    def of(self, shingles: csr_array) -> tuple[Indices, Indices, NDArray[np.float64]]:
        """Return all pairs (row, benchmark text) that reach the threshold, sorted, with their similarities."""
        sizes, own_sizes = np.diff(shingles.indptr), np.diff(self.shingles.indptr)
        places, keys = self.rarest.matches(shingles.indices.astype(np.int64, copy=False))
        rows = np.searchsorted(shingles.indptr, places, side="right") - 1
        pairs = np.unique(rows * len(own_sizes) + self.rarest.owners[keys])
        rows, owners = np.divmod(pairs, max(1, len(own_sizes)))
        small, large = np.minimum(sizes[rows], own_sizes[owners]), np.maximum(sizes[rows], own_sizes[owners])
        possible = np.flatnonzero(small >= self.thresholds[owners] * large - 1e-9)
        rows, owners = rows[possible], owners[possible]
        if len(rows) == 0:
            return rows, owners, np.empty(0)
        both = csr_array(vstack([shingles[rows], self.shingles[owners]], format="csr"))
        similarity = jaccards(both, np.arange(len(rows)), len(rows) + np.arange(len(rows)))
        close = np.flatnonzero(similarity >= self.thresholds[owners])
        return rows[close], owners[close], similarity[close]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchmarkIndex:
    """Index of the texts of all benchmarks. The order of `problems` affects only the order of the findings of one row."""

    settings: DecontamSettings
    problems: tuple[Problem, ...]
    grams: _Postings
    gram_totals: Indices  # number of distinct grams of each problem that are evidence
    shingles: _Neighbours
    templates: _Neighbours
    formulas: Mapping[str, tuple[int, ...]]  # problems with too few words for a template, by formula

    @classmethod
    def build(cls, problems: Iterable[Problem], settings: DecontamSettings | None = None) -> BenchmarkIndex:
        """Index benchmark problems; `Problem.source` is the name of the benchmark.

        Raises `UserError` for an empty text or a duplicate id.
        """
        settings = settings or DecontamSettings()
        kept = tuple(problems)
        _must_be_sound(kept)
        texts = [problem.text for problem in kept]
        tokens = tokenise(texts)
        shingles = shingle_matrix(texts, settings.ngram)
        templates = _template_shingles(tokens, len(kept), settings.ngram)
        keys, owners = _distinctive_grams(texts, tokens, _families(shingles, settings), settings)
        return cls(
            settings=settings,
            problems=kept,
            grams=_Postings.build(keys, owners),
            gram_totals=np.bincount(owners, minlength=len(kept)),
            shingles=_Neighbours.build(
                shingles, np.full(len(kept), settings.threshold if "jaccard" in settings.checks else _NEVER)
            ),
            templates=_Neighbours.build(templates, _template_thresholds(tokens, len(kept), settings)),
            formulas=_formulas(texts, tokens, settings),
        )

    def findings(self, texts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
        """Yield the overlaps of a stream of (problem id, text) pairs with the benchmarks.

        They are in input order, within a row by kind (n-gram, Jaccard, template), then in the order of `problems`.
        """
        stream = iter(texts)
        while batch := list(islice(stream, _ROWS_AT_ONCE)):
            yield from self._batch([identity for identity, _ in batch], [text for _, text in batch])

    def _batch(self, ids: list[str], texts: list[str]) -> list[Finding]:
        if not self.problems:
            return []
        tokens = tokenise(texts)
        found = [
            (row, FindingKind.NGRAM, owner, score, self._gram(texts[row], start))
            for row, owner, start, score in self._shared_grams(tokens)
        ]
        for kind, neighbours, shingles in (
            (FindingKind.JACCARD, self.shingles, shingle_matrix(texts, self.settings.ngram)),
            (
                FindingKind.TEMPLATE,
                self.templates,
                _template_shingles(tokens, len(texts), self.settings.ngram),
            ),
        ):
            columns = (column.tolist() for column in neighbours.of(shingles))
            found += [
                (row, kind, owner, score, self._start(owner))
                for row, owner, score in zip(*columns, strict=True)
            ]
        few = np.flatnonzero(_plain_words(tokens, len(texts)) < self.settings.template_words)
        found += [
            (row, FindingKind.TEMPLATE, owner, 1.0, self._start(owner))
            for row in few.tolist()
            for owner in self.formulas.get(formula(texts[row]), ())
        ]
        found.sort(key=lambda entry: (entry[0], _ORDER[entry[1]], entry[2]))
        return [
            self._finding(ids[row], owner, kind, score, detail) for row, kind, owner, score, detail in found
        ]

    def _shared_grams(self, tokens: Tokens) -> Iterator[tuple[int, int, int, float]]:
        """Yield (row, benchmark text, position of the first shared gram in the row, score) of the n-gram overlaps."""
        starts, values = windows(tokens.hashes, tokens.rows, self.settings.gram_words)
        places, keys = self.grams.matches(values)
        rows = tokens.rows[starts[places]]
        once = rows * len(self.grams.keys) + keys  # each gram counts once per row
        _, first = np.unique(once, return_index=True)
        pairs, where, shared = np.unique(
            rows[first] * len(self.problems) + self.grams.owners[keys[first]],
            return_inverse=True,
            return_counts=True,
        )
        earliest = np.full(len(pairs), len(tokens.rows), dtype=np.int64)
        np.minimum.at(earliest, where, starts[places[first]])
        rows, owners = np.divmod(pairs, len(self.problems))
        scores = shared / self.gram_totals[owners]
        enough = np.flatnonzero(scores >= self.settings.gram_share)
        rows, owners, scores, earliest = rows[enough], owners[enough], scores[enough], earliest[enough]
        within = earliest - np.searchsorted(tokens.rows, rows)
        return zip(rows.tolist(), owners.tolist(), within.tolist(), scores.tolist(), strict=True)

    def _gram(self, text: str, start: int) -> str:
        return " ".join(words(text)[start : start + self.settings.gram_words])

    def _start(self, owner: int) -> str:
        return " ".join(self.problems[owner].text.split())[:80]

    def _finding(self, identity: str, owner: int, kind: FindingKind, score: float, detail: str) -> Finding:
        benchmark = self.problems[owner]
        return Finding(
            problem_id=identity,
            benchmark=benchmark.source,
            benchmark_problem_id=benchmark.id,
            kind=kind,
            score=score,
            detail=detail,
        )


def _must_be_sound(problems: Sequence[Problem]) -> None:
    for problem in problems:
        if not problem.text.strip():
            raise UserError(
                f"benchmark {problem.source}: problem {problem.id} has no text: check the source's text column"
            )
    counts = Counter(problem.id for problem in problems)
    twice = next((problem for problem in problems if counts[problem.id] > 1), None)
    if twice is not None:
        raise UserError(
            f"benchmark {twice.source}: problem id {twice.id} occurs twice: give every benchmark problem a unique id"
        )


def _families(shingles: csr_array, settings: DecontamSettings) -> Indices:
    """Return the family of every benchmark text: texts linked by similar pairs, such as the parts of one long problem."""
    count = len(shingles.indptr) - 1
    first, second, _ = _Neighbours.build(shingles, np.full(count, settings.family_threshold)).of(shingles)
    links = csr_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _distinctive_grams(
    texts: Sequence[str], tokens: Tokens, families: Indices, settings: DecontamSettings
) -> tuple[Indices, Indices]:
    """Return the distinct pairs (gram, text) without stock phrases; none if the check is off.

    A gram is a stock phrase if it occurs in more than `common_grams` families, ignoring its numbers and single letters:
    "m/n, where m and n are relatively prime positive integers. Find m + n" is the same phrase with p and q.
    """
    if "ngram" not in settings.checks:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts, values = windows(tokens.hashes, tokens.rows, settings.gram_words)
    skeletons = np.array(
        [word_hash(_skeleton(word)) for text in texts for word in words(text)], dtype=np.uint64
    )
    _, phrases = windows(skeletons, tokens.rows, settings.gram_words)
    owners = tokens.rows[starts]
    known = np.unique(np.stack([phrases, families[owners]], axis=1), axis=0)[:, 0]
    spread = np.searchsorted(known, phrases, side="right") - np.searchsorted(known, phrases, side="left")
    rare = spread <= settings.common_grams
    table = np.unique(np.stack([values[rare], owners[rare]], axis=1), axis=0)
    return table[:, 0], table[:, 1]


def _skeleton(word: str) -> str:
    return MARK if word[0].isdigit() or len(word) == 1 else word


def _plain_words(tokens: Tokens, count: int) -> Indices:
    """Return the number of words of every text, numbers excluded."""
    return np.bincount(tokens.masked_rows[tokens.masked != MARK_HASH], minlength=count)


def _template_thresholds(tokens: Tokens, count: int, settings: DecontamSettings) -> NDArray[np.float64]:
    """Return the threshold of every benchmark text: `_NEVER` if it has too few words or the check is off."""
    sizes = _plain_words(tokens, count)
    of_short = max(settings.threshold, settings.template_threshold)
    thresholds = np.where(sizes < settings.short_template_words, of_short, settings.template_threshold)
    unfit = (sizes < settings.template_words) | ("template" not in settings.checks)
    return np.where(unfit, _NEVER, thresholds)


def _formulas(texts: Sequence[str], tokens: Tokens, settings: DecontamSettings) -> dict[str, tuple[int, ...]]:
    """Return the benchmark texts with too few words for a template but enough numbers, by formula."""
    formulas: dict[str, tuple[int, ...]] = {}
    if "template" not in settings.checks:
        return formulas
    sizes: list[int] = _plain_words(tokens, len(texts)).tolist()
    for owner, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        if size >= settings.template_words:
            continue
        key = formula(text)
        if key.count(MARK) >= settings.formula_numbers:
            formulas[key] = (*formulas.get(key, ()), owner)
    return formulas


# --- lineage -----------------------------------------------------------------------------------------------------


def lineage(
    problems: Iterable[Problem], *, benchmarks: Iterable[Problem] = (), overlaps: Iterable[Finding] = ()
) -> list[Finding]:
    """Return a finding for every row that is or descends from a benchmark problem, one for each such benchmark problem.

    Benchmark problems are the rows of `benchmarks` and the roots of rows with `benchmark_root`. A row in `overlaps` (the
    output of `BenchmarkIndex.findings`) is treated as the benchmark problem that it overlaps with: its descendants are
    reported, the row itself is not, because it has a finding already. Ancestors are followed through `parent_id` and
    `root_id`; the rows may be in any order, and an ancestor that is not among them is matched by its id.
    """
    own: dict[str, dict[tuple[str, str], None]] = {}
    for problem in benchmarks:
        own.setdefault(problem.id, {})[problem.source, problem.id] = None
    links: dict[str, tuple[str, ...]] = {}
    for problem in problems:
        links[problem.id] = (
            (problem.root_id,) if problem.parent_id is None else (problem.parent_id, problem.root_id)
        )
        if problem.benchmark_root:
            own.setdefault(problem.id, {})[problem.source, problem.root_id] = None
    seen: dict[str, dict[tuple[str, str], None]] = {identity: dict(found) for identity, found in own.items()}
    for finding in overlaps:
        origin = (finding.benchmark, finding.benchmark_problem_id)
        seen.setdefault(finding.problem_id, {})[origin] = None
    return [finding for identity in links for finding in _descent(identity, links, own, seen)]


def _descent(
    identity: str,
    links: Mapping[str, tuple[str, ...]],
    own: Mapping[str, Mapping[tuple[str, str], None]],
    seen: Mapping[str, Mapping[tuple[str, str], None]],
) -> list[Finding]:
    """Return the findings of one row; each names the nearest ancestor that leads to the benchmark problem."""
    origins = dict.fromkeys(own.get(identity, {}), "is or descends from a benchmark problem")
    visited, waiting = {identity}, deque(links[identity])
    while waiting:
        ancestor = waiting.popleft()
        if ancestor in visited:
            continue
        visited.add(ancestor)
        for origin in seen.get(ancestor, {}):
            origins.setdefault(origin, f"descends from {ancestor}")
        waiting.extend(links.get(ancestor, ()))
    return [
        Finding(
            problem_id=identity,
            benchmark=benchmark,
            benchmark_problem_id=benchmark_id,
            kind=FindingKind.LINEAGE,
            score=1.0,
            detail=detail,
        )
        for (benchmark, benchmark_id), detail in origins.items()
    ]


def decontaminate(problems: Sequence[Problem], index: BenchmarkIndex) -> list[Finding]:
    """Return all findings of these rows: overlaps, then lineage, which also follows the overlaps to descendants."""
    overlaps = list(index.findings((problem.id, problem.text) for problem in problems))
    return overlaps + lineage(problems, benchmarks=index.problems, overlaps=overlaps)
