"""The row types of all tables. One dataclass per table; `tasks.storage.tables` maps each to one pyarrow schema.

All rows are frozen, slotted and keyword-only. Text is stored only in `Problem`; later stages write rows keyed by
`problem_id`, which are joined at export.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

import xxhash


class Tier(StrEnum):
    """Difficulty tier of a seed; an evolved problem keeps the tier of its root."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"
    COMPETITION = "competition"


class Strategy(StrEnum):
    """The six evolution strategies."""

    HARDER = "harder"
    REWRITE = "rewrite"
    ALGEBRAIZE = "algebraize"
    APPLY = "apply"
    COMPOSE = "compose"
    COMPETITION = "competition"


class Role(StrEnum):
    """What a problem is used for."""

    SEED = "seed"  # public problem: takes part in lineage and dedup, never exported
    EVOLVED = "evolved"
    CURATED = "curated"  # has a ground-truth answer, never evolved
    GIVEN = "given"  # the user's own problem, annotated unchanged; may have a ground-truth answer


class Reason(StrEnum):
    """Why a row was rejected. `Reject.detail` gives the details."""

    # aggregate
    DUPLICATE_ID = "duplicate_id"
    OTHER_LANGUAGE = "other_language"  # not English
    SEVERAL_ANSWERS = "several_answers"
    NO_ANSWER = "no_answer"  # an answer is required but missing
    # evolve
    MODEL_ERROR = "model_error"  # the request failed at the endpoint
    TRUNCATED = "truncated"  # finish reason "length"
    NO_REPLY = "no_reply"  # empty reply
    REPLY_TOO_LONG = "reply_too_long"
    MALFORMED_REPLY = "malformed_reply"  # no <evolved> block, invalid JSON, wrong schema
    ECHO = "echo"  # same text as the parent
    REFUSAL = "refusal"
    SOLUTION_LEAKED = "solution_leaked"
    CONTROL_TOKEN = (
        "control_token"  # a token of chat templates such as <|im_end|>; also where a text would be sent
    )
    # rules
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    MULTIPLE_CHOICE = "multiple_choice"
    SEVERAL_QUESTIONS = "several_questions"
    PROOF = "proof"
    NEEDS_FIGURE = "needs_figure"
    NO_QUESTION = "no_question"
    BAD_CHARACTERS = "bad_characters"
    REPETITION = "repetition"
    # deduplicate
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    # judge
    NOT_WELL_FORMED = "not_well_formed"  # the first criterion that failed
    NOT_UNAMBIGUOUS = "not_unambiguous"
    NOT_MULTI_STEP = "not_multi_step"
    NOT_CLOSED_FORM = "not_closed_form"
    NOT_SELF_CONTAINED = "not_self_contained"
    # select
    NOT_SELECTED = "not_selected"
    # sample, cluster
    PROMPT_TOO_LONG = "prompt_too_long"
    INVALID_LOGPROB = "invalid_logprob"
    TOO_FEW_ANSWERS = "too_few_answers"  # with `unparsed: drop`


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem. `answer` is the ground truth if known (curated rows), never a model's answer."""

    id: str
    text: str
    tier: Tier
    source: str
    source_id: str
    licence: str
    role: Role
    root_id: str  # the seed at the start of the chain; its own id for seeds and curated problems
    parent_id: str | None = None
    round: int = 0  # number of evolution rounds since the root
    strategy: Strategy | None = None
    answer: str | None = None
    solution: str | None = None
    benchmark_root: bool = False  # its root is a problem of an evaluated benchmark
    model: str | None = None  # identity of the model that wrote it
    prompt: str | None = None  # fingerprint of the prompt it was generated with


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One row of a user's file. Rows with the same text refer to one annotated problem."""

    id: str  # of the exported row
    problem_id: str
    position: int  # in the file, from 0
    source_id: str
    tier: Tier
    answer: str | None
    extra: str | None  # JSON object of the file's other columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that was rejected in `stage`.

    `problem_id` is the rejected problem, or its parent if no problem was created (`text` is then the reply, truncated to
    2,000 characters).
    """

    problem_id: str
    stage: str
    reason: Reason
    detail: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Which criteria of the quality judge hold; `prompts/judge/quality.md` defines them. A problem needs all five."""

    well_formed: bool
    unambiguous: bool
    multi_step: bool
    closed_form: bool
    self_contained: bool

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that do not hold."""
        return tuple(name for name in QUALITY_CRITERIA if not getattr(self, name))


QUALITY_CRITERIA: Final = tuple(field.name for field in fields(Criteria))
"""The five criteria, in the order of the prompt and of the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Criteria):
    """The quality judge's verdict on one problem."""

    problem_id: str
    passed: bool
    reply: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One of the teacher's N samples.

    `logprob_sum` (nats) is the sum of the model's log-probabilities (T=1, before truncation) of the sampled tokens,
    including the end token; `token_count` is the number of these tokens. The `after_think` pair covers the tokens after
    the last `</think>` (all tokens of a response without thinking), the `answer` pair those of the content of the last
    box (see `tasks.answers.token_spans`).
    """

    problem_id: str
    index: int
    text: str
    token_count: int
    logprob_sum: float
    after_think_token_count: int = 0
    after_think_logprob_sum: float | None = None  # None: the thinking did not end
    answer_token_count: int = 0
    answer_logprob_sum: float | None = None  # None: no answer
    finish_reason: str
    answer: str | None
    model: str
    prompt: str
    sampling: str  # JSON: temperature, top_p, max_tokens, thinking, logprobs (raw or tempered), chat template
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """One pair of answers judged by the equivalence judge in both orders; equivalent only if both verdicts are."""

    first: str
    second: str
    equivalent: bool
    flipped: bool  # the two orders disagreed
    forward: str  # raw replies
    backward: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """The teacher's semantic entropy on one problem, in nats, and its inputs (see `tasks.uncertainty.entropy`)."""

    problem_id: str
    semantic_entropy: float
    weight: float
    discrete_entropy: float
    valid_entropy: float | None  # over responses with an answer; None if fewer than two have one
    intra_entropy: float  # this and the next four: see `tasks.uncertainty.measures`
    predictive_entropy: float
    normalised_entropy: float
    mean_logprob: float
    majority_share: float
    sizes: tuple[int, ...]  # 2, 4, 8, 16, up to the number of responses
    entropy_by_size: tuple[float | None, ...]  # semantic entropy of the first n responses
    weight_by_size: tuple[float | None, ...]
    labels: tuple[int, ...]  # cluster of response i
    cluster_probs: tuple[float, ...]
    cluster_answers: tuple[str | None, ...]  # one representative per cluster
    majority_answer: str | None  # representative of the largest cluster; ties go to the first sample
    majority_correct: bool | None  # compared with `Problem.answer`; None if there is none
    num_samples: int
    num_valid: int
    num_truncated: int  # responses truncated by the token limit
    judge_calls: int
    order_flips: int
    transitivity_violations: int
    judge_model: str | None
    judge_prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A problem selected for annotation and export, and its split."""

    problem_id: str
    split: str  # train | test


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A verified near-duplicate pair: word 3-gram Jaccard at or above the threshold."""

    first_id: str
    second_id: str
    jaccard: float
    same_template: bool  # equal after masking every number


class FindingKind(StrEnum):
    """How a row was recognised as a benchmark problem or a variant of one."""

    LINEAGE = "lineage"
    NGRAM = "ngram"
    JACCARD = "jaccard"
    TEMPLATE = "template"
    PARAPHRASE = "paraphrase"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A match of one row with one benchmark problem, of one kind.

    `score`: 1 for `lineage`; for `ngram` the share of the benchmark problem's 13-grams that the row contains; for
    `jaccard` and `template` the similarity; for `judge` that of the templates. `detail`: the ancestor for `lineage`, the first
    shared words for `ngram`, the judge's reason for `judge`, otherwise the start of the benchmark problem's text.
    """

    problem_id: str
    benchmark: str
    benchmark_problem_id: str
    kind: FindingKind
    score: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A row and a benchmark problem with a similar template, and whether the quality judge takes them for the same problem: None,
    with the reason, without a valid reply."""

    problem_id: str
    benchmark: str
    benchmark_problem_id: str
    similarity: float
    same: bool | None
    reason: str
    reply: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """The decontamination result of one problem. Every selected problem has one; its `Finding`s give the reasons."""

    problem_id: str
    benchmark_overlap: bool
    benchmarks: tuple[str, ...]  # names, sorted
    kinds: tuple[FindingKind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The exported row: problem, uncertainty, lineage, and the provenance of all models involved."""

    id: str
    problem: str
    tier: Tier
    role: Role
    source: str
    source_id: str
    licence: str
    root_id: str
    parent_id: str | None
    round: int
    strategies: tuple[str, ...]  # from the root to this row
    answer: str | None  # ground truth, if known
    majority_answer: str | None  # the teacher's majority answer, not ground truth
    majority_correct: bool | None
    semantic_entropy: float
    weight: float
    discrete_entropy: float
    valid_entropy: float | None
    intra_entropy: float
    predictive_entropy: float
    normalised_entropy: float
    mean_logprob: float
    majority_share: float
    sizes: tuple[int, ...]
    entropy_by_size: tuple[float | None, ...]
    weight_by_size: tuple[float | None, ...]
    cluster_labels: tuple[int, ...]
    cluster_probs: tuple[float, ...]
    cluster_answers: tuple[str | None, ...]
    num_samples: int
    num_valid: int
    num_truncated: int
    judge_calls: int
    order_flips: int
    transitivity_violations: int
    benchmark_root: bool
    benchmark_overlap: bool  # overlap with any benchmark, by lineage or text
    overlap_benchmarks: tuple[str, ...]
    overlap_kinds: tuple[FindingKind, ...]
    evolver_model: str | None
    evolver_prompt: str | None
    quality_judge_model: str | None
    quality_judge_prompt: str | None
    teacher_model: str
    teacher_prompt: str
    equivalence_judge_model: str | None
    equivalence_judge_prompt: str | None
    sampling_fingerprint: str = ""  # of the responses; empty if unknown (see `tasks.uncertainty.annotation`)
    annotation_fingerprint: str = ""  # of responses, clusters and weight; empty if unknown
    position: int | None = None  # in the user's file, from 0; None for problems that were built
    extra: str | None = None  # JSON object of the other columns of the user's file
    solution: str | None = None  # the source's reference solution, if known; never a model's


def problem_id(*, source: str, origin: str, strategy: str, text: str) -> str:
    """Return the hash of (source, source_id or parent_id, strategy, text): 128 bits as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(
        "\x1f".join((source, origin, strategy, text)).encode("utf-8", "surrogatepass")
    )
