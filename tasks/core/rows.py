"""The rows that flow through the house. One dataclass per table; `tasks.io.tables` maps each to one pyarrow schema.

Every row is frozen, slotted and keyword-only. Text is stored once, in `Problem`; later stages write rows keyed by
`problem_id` that are joined at export.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    """What a problem is there for."""

    SEED = "seed"  # public problem: takes part in lineage and dedup, never exported
    EVOLVED = "evolved"
    CURATED = "curated"  # has a ground-truth answer, never evolved
    GIVEN = "given"  # somebody's own, annotated as it is; may have a ground-truth answer


class Reason(StrEnum):
    """Why a row was rejected. `Reject.detail` says what exactly was seen."""

    # aggregate
    DUPLICATE_ID = "duplicate_id"
    OTHER_LANGUAGE = "other_language"  # than English
    SEVERAL_ANSWERS = "several_answers"
    NO_ANSWER = "no_answer"  # where one is required
    # evolve
    MODEL_ERROR = "model_error"  # the endpoint gave up on this request
    TRUNCATED = "truncated"  # finish reason "length"
    NO_REPLY = "no_reply"  # empty
    REPLY_TOO_LONG = "reply_too_long"
    MALFORMED_REPLY = "malformed_reply"  # no <evolved> block, no JSON, wrong schema
    ECHO = "echo"  # the parent again
    REFUSAL = "refusal"
    SOLUTION_LEAKED = "solution_leaked"
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
    JUDGED_UNFIT = "judged_unfit"  # at least one criterion failed
    # select
    NOT_SELECTED = "not_selected"
    # sample, cluster
    PROMPT_TOO_LONG = "prompt_too_long"
    INVALID_LOGPROB = "invalid_logprob"
    TOO_FEW_ANSWERS = "too_few_answers"  # with `unparsed: drop`


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem. `answer` is a ground truth where one is known (curated rows), never a model's opinion."""

    id: str
    text: str
    tier: Tier
    source: str
    source_id: str
    licence: str
    role: Role
    root_id: str  # the seed at the start of the chain; its own id for seeds and curated problems
    parent_id: str | None = None
    round: int = 0  # evolution rounds behind it
    strategy: Strategy | None = None
    answer: str | None = None
    solution: str | None = None
    benchmark_root: bool = False  # its root is an evaluation problem
    model: str | None = None  # identity of the model that wrote it
    prompt: str | None = None  # fingerprint of the prompt that asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that stopped at `stage`. `problem_id` is the rejected problem, or its parent when no problem came to be
    (`text` then holds the reply, cut to 2,000 characters)."""

    problem_id: str
    stage: str
    reason: Reason
    detail: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The five-criteria judgement of one problem. All five must hold."""

    problem_id: str
    clear: bool
    complete: bool
    consistent: bool
    single_answer: bool
    nontrivial: bool
    passed: bool
    reply: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One of the teacher's N samples.

    `logprob_sum` (nats) is the sum of the model's own log-probabilities (T=1, before truncation) of the sampled tokens,
    the end token included; `token_count` counts the same tokens. The same two for the tokens after the last `</think>`
    (all of them where nothing was thought) and for those of the content of the last box (see `tasks.core.token_spans`).
    """

    problem_id: str
    index: int
    text: str
    token_count: int
    logprob_sum: float
    after_think_token_count: int = 0
    after_think_logprob_sum: float | None = None  # None: the thinking never ended
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
    """One pair of answers that the equivalence judge saw, in both orders; equivalent only when both say so."""

    first: str
    second: str
    equivalent: bool
    flipped: bool  # the two orders disagreed
    forward: str  # raw replies
    backward: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """The teacher's semantic entropy on one problem, in nats, and what it was computed from (see `tasks.core.entropy`)."""

    problem_id: str
    semantic_entropy: float
    weight: float
    discrete_entropy: float
    valid_entropy: float | None  # over responses with an answer only; None when fewer than two have one
    intra_entropy: float  # this and the next four: see `tasks.core.uncertainties`
    predictive_entropy: float
    normalised_entropy: float
    mean_logprob: float
    majority_share: float
    sizes: tuple[int, ...]  # 2, 4, 8, 16 as far as there are responses
    entropy_by_size: tuple[float | None, ...]  # semantic entropy of the first n responses
    weight_by_size: tuple[float | None, ...]
    labels: tuple[int, ...]  # cluster of response i
    cluster_probs: tuple[float, ...]
    cluster_answers: tuple[str | None, ...]  # one representative per cluster
    majority_answer: str | None  # representative of the largest cluster; ties go to the first sample
    majority_correct: bool | None  # against `Problem.answer`; None where there is none
    num_samples: int
    num_valid: int
    num_truncated: int  # responses that the token limit cut off
    judge_calls: int
    order_flips: int
    transitivity_violations: int
    judge_model: str | None
    judge_prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A problem that goes to annotation and export, and its split."""

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
    """How a row was recognised as a benchmark problem in another dress."""

    LINEAGE = "lineage"
    NGRAM = "ngram"
    JACCARD = "jaccard"
    TEMPLATE = "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One way in which one row is one benchmark problem; a row has one for every (benchmark problem, kind) that holds.

    `score`: `lineage` 1; `ngram` the share of the benchmark problem's 13-grams that the row has; `jaccard` and `template`
    the similarity. `detail`: `lineage` the ancestor, `ngram` the first shared words, otherwise the start of its text.
    """

    problem_id: str
    benchmark: str
    benchmark_problem_id: str
    kind: FindingKind
    score: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What was found about one problem in a word: every selected problem has one, and its `Finding`s say why."""

    problem_id: str
    benchmark_overlap: bool
    benchmarks: tuple[str, ...]  # names, sorted
    kinds: tuple[FindingKind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The exported row: problem, uncertainty, lineage, and the provenance of every model that touched it."""

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
    answer: str | None  # ground truth, where known
    majority_answer: str | None  # the teacher's opinion
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
    benchmark_overlap: bool  # with any benchmark, by lineage or text
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
    sampling_fingerprint: str = ""  # of the responses; empty: unknown (see `tasks.core.annotation`)
    annotation_fingerprint: str = ""  # of responses, clusters and weight


def problem_id(*, source: str, origin: str, strategy: str, text: str) -> str:
    """Hash of (source, source_id or parent_id, strategy, text): 128 bits as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(
        "\x1f".join((source, origin, strategy, text)).encode("utf-8", "surrogatepass")
    )
