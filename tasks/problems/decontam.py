"""Detection of benchmark problems and their variants: exactly, by lineage, and by overlap with the benchmarks' texts.

Texts are compared in the normal form of `tasks.problems.tokens`, without program code and answer forms. There are four overlap
checks, each exact up to collisions of 63-bit hashes:
- *n-gram*: runs of 13 words of a benchmark problem (Brown et al. 2020, appendix C), whatever its letters are called.
- *Jaccard*: the similarity by which `tasks.problems.dedup` removes near-duplicates.
- *Template*: the similarity after masking numbers and letters, which finds renumbered and renamed problems.
- *Paraphrase*: the same numbers, and rare words in common, both in any order.

What texts have in common must carry enough information: common phrases are no evidence of a copy. The information of words is
estimated from reference problems (`tasks.problems.reference`), not from the benchmarks. A problem that carries little, such as
"Evaluate 3^2 + 4^2", is found where a text is equal to it.

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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from tasks.config import DecontamSettings
from tasks.errors import UserError
from tasks.problems.arrays import Indices, combine_hashes, offsets_of
from tasks.problems.compared import Compared
from tasks.problems.dedup import jaccards
from tasks.problems.reference import reference
from tasks.problems.wording import Wording
from tasks.rows import Finding, FindingKind, Problem

_ROWS_AT_ONCE = 10_000  # bounds the memory use of `findings`


_ORDER = {kind: place for place, kind in enumerate(FindingKind)}
_Key = TypeVar("_Key", bytes, int)
_NEVER = 2.0  # a similarity that is never reached


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

    def possible(self, values: Indices) -> Indices:
        """Return the indices of all values that are keys, and of a few others."""
        return np.flatnonzero(self.maybe[values & (len(self.maybe) - 1)])

    def matches(self, values: Indices) -> tuple[Indices, Indices]:
        """Return all matches as index pairs (into `values`, into `keys`)."""
        candidates = self.possible(values)
        lows = np.searchsorted(self.keys, values[candidates], side="left")
        counts = np.searchsorted(self.keys, values[candidates], side="right") - lows
        within = np.arange(counts.sum()) - np.repeat(offsets_of(counts)[:-1], counts)
        return np.repeat(candidates, counts), np.repeat(lows, counts) + within


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Neighbours:
    """Search for benchmark texts whose shingles have a Jaccard similarity with a row's of at least `threshold`."""

    shingles: csr_array
    rarest: _Postings
    threshold: float

    @classmethod
    def build(
        cls, shingles: csr_array, threshold: float, common: NDArray[Any], weights: NDArray[np.float64], least: float
    ) -> _Neighbours:  # fmt: skip
        """Index benchmark texts; one without shingles is never found, and none is if the threshold is above 1.

        Each entry of `shingles` has an entry of `common` and `weights`: the index holds the least common ones. Rows that share
        a smaller weight than `least` with a text need not be found.
        """
        sizes = np.diff(shingles.indptr)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        keys = shingles.indices.astype(np.int64, copy=False)
        order = np.lexsort((keys, common, owners))
        needed = np.ceil(threshold * sizes - 1e-9).astype(np.int64)
        rank = np.arange(len(keys)) - np.repeat(offsets_of(sizes)[:-1], sizes)
        upto = np.append(0.0, np.cumsum(weights[order]))
        rest = np.repeat(upto[shingles.indptr[1:]], sizes) - upto[:-1]
        prefix = order[(rank <= np.repeat(sizes - needed, sizes)) & (rest >= least - 1e-6)]
        rarest = _Postings.build(keys[prefix], owners[prefix])
        return cls(shingles=shingles, rarest=rarest, threshold=threshold)

    def of(self, shingles: csr_array) -> tuple[Indices, Indices, NDArray[np.float64]]:
        """Return all pairs (row, benchmark text) that reach the threshold, sorted, with their similarities."""
        sizes, own_sizes = np.diff(shingles.indptr), np.diff(self.shingles.indptr)
        places, keys = self.rarest.matches(shingles.indices.astype(np.int64, copy=False))
        rows = np.searchsorted(shingles.indptr, places, side="right") - 1
        pairs = np.unique(rows * len(own_sizes) + self.rarest.owners[keys])
        rows, owners = np.divmod(pairs, max(1, len(own_sizes)))
        small, large = np.minimum(sizes[rows], own_sizes[owners]), np.maximum(sizes[rows], own_sizes[owners])
        possible = np.flatnonzero(small >= self.threshold * large - 1e-9)
        rows, owners = rows[possible], owners[possible]
        if len(rows) == 0:
            return rows, owners, np.empty(0)
        both = csr_array(vstack([shingles[rows], self.shingles[owners]], format="csr"))
        similarity = jaccards(both, np.arange(len(rows)), len(rows) + np.arange(len(rows)))
        close = np.flatnonzero(similarity >= self.threshold)
        return rows[close], owners[close], similarity[close]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grams:
    """The runs of words of the benchmark texts. Gram i of `keys` begins at word `starts[i]` of all benchmark texts.

    `before` is the information of all words before each word; `totals` that of each text.
    """

    keys: _Postings
    starts: Indices
    before: NDArray[np.float64]
    totals: NDArray[np.float64]
    size: int

    @classmethod
    def build(
        cls, own: Compared, information: NDArray[np.float64], count: int, settings: DecontamSettings
    ) -> _Grams:  # fmt: skip
        """Index the runs of words of `count` texts; `information` is that of the words of their templates."""
        words, size = own.words.words, settings.gram_words
        starts, values = words.windows(size)
        if "ngram" not in settings.checks:
            starts, values = starts[:0], values[:0]
        order = np.lexsort((starts, values))
        places = own.words.places
        bits = np.where(np.append(True, np.diff(places) > 0)[: len(places)], information[places], 0.0)
        return cls(
            keys=_Postings.build(values, words.rows[starts]),
            starts=starts[order],
            before=np.concatenate([[0.0], np.cumsum(bits)]),
            totals=np.bincount(words.rows, bits, count).astype(np.float64),
            size=size,
        )

    def shared_with(self, words: Wording) -> tuple[Indices, Indices, Indices, NDArray[np.float64]]:
        """Return the pairs (row, benchmark text) with a common run, the first such word of the row, and the information of the
        words of the benchmark text that are in a common run."""
        starts, values = words.windows(self.size)
        some = self.keys.possible(values)
        of_row = combine_hashes([values[some], words.rows[starts[some]]], len(some))
        some = some[np.unique(of_row, return_index=True)[1]]  # a run that returns counts once
        starts, values = starts[some], values[some]
        places, keys = self.keys.matches(values)
        rows, owners, own = words.rows[starts[places]], self.keys.owners[keys], self.starts[keys]
        order = np.lexsort((starts[places], own, rows))
        rows, owners, own, first = rows[order], owners[order], own[order], starts[places][order]
        new = np.append(True, (np.diff(rows) != 0) | (np.diff(owners) != 0))[: len(rows)]
        until = np.where(new, 0, np.roll(own, 1) + self.size)  # runs overlap: count each word once
        ends = own + self.size
        bits = self.before[ends] - self.before[np.minimum(np.maximum(own, until), ends)]
        groups = np.flatnonzero(new)
        if len(groups) == 0:
            return rows, owners, first, bits
        return (
            rows[groups], owners[groups], np.minimum.reduceat(first, groups), np.add.reduceat(bits, groups)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchmarkIndex:
    """Index of the texts of all benchmarks. The order of `problems` affects only the order of the findings of one row."""

    settings: DecontamSettings
    problems: tuple[Problem, ...]
    grams: _Grams
    shingles: _Neighbours
    templates: _Neighbours
    weights: csr_array
    formulas: Mapping[bytes, tuple[int, ...]]  # problems by the digest of their template
    numbers: Mapping[int, tuple[int, ...]]  # problems by the hash of their numbers
    vocabulary: csr_array

    @classmethod
    def build(cls, problems: Iterable[Problem], settings: DecontamSettings | None = None) -> BenchmarkIndex:
        """Index benchmark problems; `Problem.source` is the name of the benchmark.

        Raises `UserError` for an empty text or a duplicate id.
        """
        settings = settings or DecontamSettings()
        kept = tuple(problems)
        _must_be_sound(kept)
        own = Compared.of([problem.text for problem in kept], settings.ngram)
        bits = reference().information(own.words.template)
        bits[own.ends] /= 1 + own.occurrences  # a shingle that returns is predictable
        grams = _Grams.build(own, bits, len(kept), settings)
        common = (
            reference().frequencies(own.words.template, settings.ngram)[own.ends] / (1 + own.occurrences) ** 2
        )
        weights = csr_array(
            (bits[own.ends], own.templates.indices, own.templates.indptr), shape=own.templates.shape
        )
        similar = settings.threshold if "jaccard" in settings.checks else _NEVER
        masked = settings.template_threshold if "template" in settings.checks else _NEVER
        return cls(
            settings=settings,
            problems=kept,
            grams=grams,
            shingles=_Neighbours.build(
                own.shingles, similar, _frequencies(own.shingles), np.zeros(own.shingles.nnz), 0.0
            ),
            templates=_Neighbours.build(
                own.templates,
                masked,
                common + _frequencies(own.templates),
                bits[own.ends],
                settings.shared_bits,
            ),
            weights=csr_array(weights),
            formulas=_formulas(own.digests, grams.totals, settings),
            numbers=_by_number(own, settings),
            vocabulary=own.vocabulary,
        )

    def findings(self, texts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
        """Yield the overlaps of a stream of (problem id, text) pairs with the benchmarks.

        They are in input order, within a row by kind (n-gram, Jaccard, template, paraphrase), then in the order of `problems`.
        """
        stream = iter(texts)
        while batch := list(islice(stream, _ROWS_AT_ONCE)):
            yield from self._batch([identity for identity, _ in batch], [text for _, text in batch])

    def _batch(self, ids: list[str], texts: list[str]) -> list[Finding]:
        if not self.problems:
            return []
        rows = Compared.of(texts, self.settings.ngram)
        found = {
            (row, _ORDER[kind], owner): self._finding(ids[row], owner, kind, score, detail)
            for kind, hits in (
                (FindingKind.NGRAM, self._by_grams(rows)),
                (FindingKind.JACCARD, self._by_shingles(self.shingles, rows.shingles, rows)),
                (FindingKind.TEMPLATE, self._by_shingles(self.templates, rows.templates, rows)),
                (FindingKind.TEMPLATE, self._by_formula(rows)),
                (FindingKind.PARAPHRASE, self._by_vocabulary(rows)),
            )
            for row, owner, score, detail in hits
        }
        return [found[key] for key in sorted(found)]

    def _by_grams(self, compared: Compared) -> Iterator[_Hit]:
        words = compared.words.words
        rows, owners, first, bits = self.grams.shared_with(words)
        scores = bits / np.maximum(self.grams.totals[owners], 1.0)
        enough = (scores >= self.settings.gram_share) & (bits >= self.settings.shared_bits)
        begin = np.searchsorted(words.rows, rows)
        for row, owner, start, score in zip(
            rows[enough].tolist(), owners[enough].tolist(), (first - begin)[enough].tolist(), scores[enough].tolist(),
            strict=True,
        ):  # fmt: skip
            names = compared.words.names(row)[start : start + self.settings.gram_words]
            yield row, owner, score, " ".join(names)

    def _by_shingles(
        self, neighbours: _Neighbours, shingles: csr_array, compared: Compared
    ) -> Iterator[_Hit]:
        """Yield the neighbours that share enough information, or all shingles."""
        rows, owners, scores = neighbours.of(shingles)
        if len(rows) == 0:
            return
        shared = self.weights[owners].multiply(compared.templates[rows]).sum(axis=1)
        equal = (scores == 1.0) & (neighbours is self.shingles)
        enough = np.flatnonzero((np.asarray(shared).ravel() >= self.settings.shared_bits) | equal)
        for place in enough.tolist():
            owner = int(owners[place])
            yield int(rows[place]), owner, float(scores[place]), self._start(owner)

    def _by_formula(self, compared: Compared) -> Iterator[_Hit]:
        for row, digest in enumerate(compared.digests):
            for owner in self.formulas.get(digest, ()):
                yield row, owner, 1.0, self._start(owner)

    def _by_vocabulary(self, compared: Compared) -> Iterator[_Hit]:
        """Yield the texts with the same numbers whose vocabularies have enough information in common."""
        pairs = [
            (row, owner) for row, same in enumerate(compared.numbers) for owner in self.numbers.get(same, ())
        ]
        if not pairs:
            return
        rows, owners = np.array(pairs).T
        one, other = compared.vocabulary[rows], self.vocabulary[owners]
        shared = np.asarray(one.multiply(other != 0).sum(axis=1)).ravel()
        union = np.asarray(one.sum(axis=1)).ravel() + np.asarray(other.sum(axis=1)).ravel() - shared
        scores = shared / np.maximum(union, 1.0)
        settings = self.settings
        close = (scores >= settings.paraphrase_threshold) & (shared >= settings.word_bits)
        for place in np.flatnonzero(close).tolist():
            owner = int(owners[place])
            yield int(rows[place]), owner, float(scores[place]), self._start(owner)

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


_Hit = tuple[int, int, float, str]
"""Row, benchmark text, score and detail of a finding."""


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


def _frequencies(shingles: csr_array) -> Indices:
    """Return the number of texts with each entry."""
    _, inverse, frequencies = np.unique(shingles.indices, return_inverse=True, return_counts=True)
    return frequencies[inverse]


def _formulas(
    digests: Sequence[bytes], information: NDArray[np.float64], settings: DecontamSettings
) -> dict[bytes, tuple[int, ...]]:
    """Return the benchmark texts that are known by their whole template, by its digest; none if the check is off."""
    if "template" not in settings.checks:
        return {}
    return _grouped(digests, np.flatnonzero(information >= settings.formula_bits))


def _by_number(own: Compared, settings: DecontamSettings) -> dict[int, tuple[int, ...]]:
    """Return the benchmark texts with enough numbers, by the hash of these; none if the check is off."""
    if "paraphrase" not in settings.checks:
        return {}
    return _grouped(own.numbers, np.flatnonzero(own.number_bits >= settings.number_bits))


def _grouped(keys: Sequence[_Key], owners: Indices) -> dict[_Key, tuple[int, ...]]:
    groups: dict[_Key, tuple[int, ...]] = {}
    for owner in owners.tolist():
        groups[keys[owner]] = (*groups.get(keys[owner], ()), owner)
    return groups


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
