"""From responses to clusters and uncertainties, including malicious responses."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tasks.answers import equivalence, mathverify
from tasks.answers.token_spans import TokenSpans
from tasks.config import ClusterSettings, ModelRole, Serve
from tasks.llm.offline_engine import SampleFailure, SampleOutput, SamplePrompt
from tasks.llm.sampler import Sampled, TeacherSampler
from tasks.rows import JudgedPair, Problem, Reason, Reject, Response, Role, Tier, Uncertainty
from tasks.runtime.clustering import annotate, decide_pairs, undecided
from tasks.runtime.sampling import collect, pack, unpack
from tasks.storage.tables import write_rows

GOOD = (r"so \boxed{\frac{1}{2}}", r"thus \boxed{0.5}", r"hence \boxed{50\%}", r"but \boxed{3}")
SPANS = TokenSpans(after_think_token_count=9, after_think_logprob_sum=-1.0)


def problem(answer: str | None = None) -> Problem:
    return Problem(
        id="p", text="?", tier=Tier.EASY, source="s", source_id="1", licence="l", role=Role.CURATED, root_id="p",
        answer=answer,
    )  # fmt: skip


def output(text: str, total: float = -1.0, finish: str = "stop") -> SampleOutput:
    return SampleOutput(text=text, token_count=9, logprob_sum=total, finish_reason=finish, spans=SPANS)


def rows_of(outputs: Sequence[SampleOutput]) -> Sampled:
    """The rows that the sampler makes from an engine's output."""
    sampler = TeacherSampler(ModelRole(model="m", serve=Serve()), root=Path(), identity="m@1")
    prompt = SamplePrompt(problem_id="p", prompt="teacher/solve", values={"problem": "?"}, seed=7)
    return sampler._rows(prompt, list(outputs), "f", "{}")


def annotated(
    responses: Sequence[Response], *, truth: str | None = None, **settings: object
) -> Uncertainty | Reject:
    """Annotate with a judge that finds no pair equivalent."""
    chosen = ClusterSettings.model_validate(settings)
    decisions = decide_pairs(responses, chosen)
    verdicts = {
        pair: JudgedPair(
            first=pair[0], second=pair[1], equivalent=False, flipped=False, forward="", backward=""
        )
        for pair in undecided(decisions)
    }
    return annotate(problem(truth), responses, decisions, verdicts, chosen, ("judge", "prompt"))


def good(rows: Sampled) -> list[Response]:
    return [row for row in rows if isinstance(row, Response)]


def test_four_answers_become_two_clusters_with_everything_counted() -> None:
    found = annotated(good(rows_of([output(text) for text in GOOD])), truth="1/2")
    assert isinstance(found, Uncertainty)
    assert (found.labels, found.cluster_answers) == ((0, 0, 0, 1), (r"\frac{1}{2}", "3"))
    assert found.semantic_entropy == pytest.approx(math.log(4) - 0.75 * math.log(3), abs=1e-12)
    assert (found.majority_answer, found.majority_correct, found.majority_share) == (
        r"\frac{1}{2}",
        True,
        0.75,
    )
    assert (found.sizes, found.entropy_by_size[0], found.weight_by_size[0]) == ((2, 4), 0.0, 1.0)
    assert found.entropy_by_size[1] == found.semantic_entropy and found.weight_by_size[1] == found.weight
    assert (found.num_samples, found.num_valid, found.num_truncated, found.judge_calls) == (4, 4, 0, 0)
    assert found.judge_model is None


SAME = (
    (r"\frac{1}{2}", "0.5", r"50\%", "2/4"),
    ("3", "3.0", "x=3", r"\text{3}", r"\sqrt{9}"),
    ("(1,2)", r"\left(1,\, 2\right)", "(1, 2.0)"),
    (r"\{1,2\}", "2, 1", r"\left\{2,1\right\}"),
    ("2x+1", "1+2x", r"2\cdot x+1"),
    ("x<5", r"(-\infty,5)"),
)


@pytest.mark.parametrize("seed", range(20))
def test_other_words_and_notation_change_neither_clusters_nor_entropies(
    seed: int,
) -> None:
    rng = random.Random(seed)
    kinds = rng.sample(SAME, k=rng.randint(1, 4))
    chosen = [rng.choice(kinds) for _ in range(8)]
    totals = [-rng.uniform(0.5, 9.0) for _ in chosen]

    def uncertainty_of(words: tuple[str, ...], pick: Callable[[tuple[str, ...]], str]) -> Uncertainty:
        texts = [rf"{rng.choice(words)} \boxed{{{pick(kind)}}}." for kind in chosen]
        found = annotated(good(rows_of([output(*pair) for pair in zip(texts, totals, strict=True)])))
        assert isinstance(found, Uncertainty)
        return found

    plain = uncertainty_of(("So",), lambda kind: kind[0])
    for _ in range(3):
        other = uncertainty_of(("So", "Hence it is", "We get, by the above,"), rng.choice)
        assert other.labels == plain.labels
        assert (other.semantic_entropy, other.weight, other.discrete_entropy, other.cluster_probs) == (
            plain.semantic_entropy, plain.weight, plain.discrete_entropy, plain.cluster_probs,
        )  # fmt: skip


def test_truncated_responses_are_counted_and_a_wrong_majority_is_one() -> None:
    cut = [output("I think", finish="length")] * 2
    found = annotated(good(rows_of([*cut, *(output(text) for text in GOOD[:2])])), truth="7")
    assert isinstance(found, Uncertainty)
    assert (found.num_truncated, found.num_valid, found.majority_correct) == (2, 2, False)
    assert found.valid_entropy == 0.0 < found.semantic_entropy


def test_the_judge_gets_only_undecided_pairs_and_is_named_only_then() -> None:
    texts = [r"\boxed{all red}", r"\boxed{only red}", r"\boxed{4}", r"\boxed{5}"]
    found = annotated(good(rows_of([output(text) for text in texts])))
    assert isinstance(found, Uncertainty)
    assert found.judge_calls == 2 * 5  # words against words and against each number; 4 and 5 differ anyway
    assert (found.judge_model, found.judge_prompt, found.majority_correct) == ("judge", "prompt", None)
    never = annotated(good(rows_of([output(text) for text in texts])), judge="never")
    assert isinstance(never, Uncertainty) and never.judge_calls == 0 and never.labels == found.labels


def test_without_two_responses_that_take_part_a_problem_is_rejected_with_the_reason() -> None:
    found = annotated(good(rows_of([output("no"), output("box"), output(GOOD[0])])), unparsed="drop")
    assert isinstance(found, Reject) and found.reason is Reason.TOO_FEW_ANSWERS


# --- poison --------------------------------------------------------------------------------------------------------

POISON = {
    "NaN": (output(r"\boxed{1}", math.nan), None),
    "empty": (output(""), None),
    "a megabyte of braces": (output(r"\boxed{" + "{" * 1_000_000), None),
    "a closed megabyte of braces": (output(r"\boxed{" + "{" * 500_000 + "}" * 500_001), "{" * 500_000 + "}" * 500_000),
    "a bomb for sympy": (output(r"\boxed{\sum_{k=1}^{10^9} k^k}"), r"\sum_{k=1}^{10^9} k^k"),
    "another bomb": (output(r"\boxed{9^{9^{9^9}}\bmod 7}"), r"9^{9^{9^9}}\bmod 7"),
    "right to left": (output("\\boxed{\u202e21\u202c}"), "\u202e21\u202c"),
    "ten thousand boxes": (output(r"\boxed{" * 10_000), None),
    "ten thousand closed boxes": (output(r"\boxed{" * 10_000 + "5" + "}" * 10_000), "5"),
    "half a surrogate pair": (output("\\boxed{\ud800}"), "?"),
}  # fmt: skip


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time limits of the Math-Verify calls that timed out. The worker, which takes seconds to start, is running."""
    equivalence._verified.cache_clear()
    assert mathverify.verify(r"\sum_{k=1}^{3} k", "6", 60)
    limits: list[float] = []

    def verify(first: str, second: str, timeout_s: float) -> bool | None:
        verdict = mathverify.verify(first, second, timeout_s)
        limits.extend([timeout_s] if verdict is None else [])
        return verdict

    monkeypatch.setattr(equivalence, "verify", verify)
    return limits


@pytest.mark.parametrize("name", POISON)
def test_a_malicious_response_affects_no_other_and_takes_less_than_five_seconds(
    name: str, waited: list[float], tmp_path: Path
) -> None:
    bad, answer = POISON[name]
    begin = time.process_time()  # our own CPU time; `waited` has the time of Math-Verify
    rows = rows_of([output(GOOD[0]), bad, *(output(text) for text in GOOD[1:])])
    back = unpack("p", json.loads(json.dumps(pack(rows), allow_nan=False)))  # as stored in the ledger
    shard = collect([problem()], {"p": back})
    kept, lost = shard.tables["responses"][1], shard.tables["lost_responses"][1]
    found = annotated(kept)
    write_rows(tmp_path / "responses.parquet", Response, kept)
    write_rows(tmp_path / "uncertainties.parquet", Uncertainty, [found])
    assert time.process_time() - begin + sum(waited) < 5.0
    assert waited == []  # the judge decides what the grammar does not cover
    assert isinstance(found, Uncertainty)
    assert [found.labels[i] for i, row in enumerate(kept) if row.index != 1] == [0, 0, 0, max(found.labels)]
    if name == "NaN":
        assert [(row.reason, row.detail) for row in lost] == [
            (Reason.INVALID_LOGPROB, "sample 1: log-probability nan over 9 tokens")
        ]
        assert found.num_samples == 4
    else:
        assert not lost and found.num_samples == 5
        assert kept[1].answer == answer
        assert found.labels[1] not in (found.labels[0], found.labels[4])


def test_all_malicious_responses_together_do_not_take_longer(waited: list[float]) -> None:
    outputs = [bad for bad, _ in POISON.values()]
    found = annotated(
        good(rows_of([*outputs, output(GOOD[0]), output(r"\boxed{\int_0^1 x^2}")])), judge="never"
    )
    assert isinstance(found, Uncertainty)
    assert len(set(found.labels)) == len(found.labels)
    assert len(waited) <= 2


def test_a_problem_whose_samples_are_all_lost_is_rejected() -> None:
    rows = rows_of([output("a", math.nan), output("b", 1.0), output(GOOD[0])])
    shard = collect([problem()], {"p": rows})
    assert shard.counts("problems") == {"in": 1, "kept": 0, "rejected": {"invalid_logprob": 1}}
    failure = SampleFailure(problem_id="p", reason=Reason.PROMPT_TOO_LONG, detail="900 tokens")
    assert unpack("p", pack([failure])) == [failure]
    assert collect([problem()], {"p": [failure]}).tables["rejects"][1][0].reason is Reason.PROMPT_TOO_LONG
