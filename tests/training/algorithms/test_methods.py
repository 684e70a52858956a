"""Every method of the field as one optimizer step: by hand, and against its paper's formula in naive float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.algorithms.made_up_update import World, plan_of, step, world
from training.algorithms import algorithm_names

Naive = Callable[[World, Tensor], Tensor]
"""The loss of an update, from all rollouts and the student's logits [T, V]."""


def rollout_tokens(made: World) -> list[int]:
    """Return the tokens of the rollouts, without those of demonstrations."""
    return list(range(int(made.lengths[: made.rollouts].sum())))


def logp(row: Tensor, token: Any) -> Tensor:
    return row[int(token)] - row.exp().sum().log()


# --- the papers' formulas ----------------------------------------------------------------------------------------


def clipped(made: World, logits: Tensor, t: int, advantage: Tensor, eps: float = 0.2) -> Tensor:
    """max(-r A, -clip(r, 1 - eps, 1 + eps) A)"""
    ratio = (logp(logits[t], made.ids[t]) - logp(made.old[t], made.ids[t])).exp()
    return torch.maximum(-ratio * advantage, -ratio.clamp(1 - eps, 1 + eps) * advantage)


def log_ratio(made: World, t: int) -> Tensor:
    """A = log p_T - log p_old of the sampled token."""
    return logp(made.teacher[t], made.ids[t]) - logp(made.old[t], made.ids[t])


def entropy(row: Tensor) -> Tensor:
    probs = row.exp() / row.exp().sum()
    return -(probs * probs.log()).sum()


def forward_kl(teacher: Tensor, row: Tensor, k: int) -> Tensor:
    """The teacher's renormalised top k against the student's full softmax."""
    top = sorted(range(len(teacher)), key=lambda v: -float(teacher[v]))[:k]
    probs = teacher[top].exp() / teacher[top].exp().sum()
    return sum(p * (p.log() - logp(row, v)) for p, v in zip(probs, top, strict=True))  # type: ignore[return-value]


def opd_rkl(made: World, logits: Tensor) -> Tensor:
    tokens = rollout_tokens(made)
    return sum(clipped(made, logits, t, log_ratio(made, t)) for t in tokens) / len(tokens)  # type: ignore[operator]


def discounted(made: World, logits: Tensor, discount: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for span in made.spans():
        for t in range(span.start, span.stop):
            later = [discount ** (s - t) * log_ratio(made, s) for s in range(t, span.stop)]
            total = total + clipped(made, logits, t, sum(later))  # type: ignore[arg-type]
    return total / len(rollout_tokens(made))


def eopd(made: World, logits: Tensor, chosen: Callable[[int], bool]) -> Tensor:
    tokens = rollout_tokens(made)
    extra = sum(forward_kl(made.teacher[t], logits[t], 16) for t in tokens if chosen(t))
    return opd_rkl(made, logits) + extra / len(tokens)


def gated(threshold: float) -> Naive:
    return lambda made, logits: eopd(made, logits, lambda t: bool(entropy(made.teacher[t]) > threshold))


def randomly(made: World, logits: Tensor) -> Tensor:
    chosen = drawn_tokens(made)
    return eopd(made, logits, lambda t: chosen[t])


def drawn_tokens(made: World) -> list[bool]:
    """SplitMix64 in plain integers: an output depends on the rollout's seed and the token's place alone."""
    mask = 2**64 - 1

    def mixed(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    return [
        (mixed((mixed(7919 * (index + 1)) + (place + 1) * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53 < 0.2
        for index, length in enumerate(made.lengths)
        for place in range(length)
    ]


def with_bonus(made: World, logits: Tensor) -> Tensor:
    tokens = rollout_tokens(made)
    return opd_rkl(made, logits) - 0.05 * sum(entropy(logits[t]) for t in tokens) / len(tokens)


def shaped(made: World, logits: Tensor) -> Tensor:
    tokens, total = rollout_tokens(made), torch.zeros((), dtype=torch.float64)
    for t in tokens:
        advantage = log_ratio(made, t)
        bonus = min(0.1 * entropy(logits[t]).detach(), advantage.abs() / 2)
        total = total + clipped(made, logits, t, advantage + bonus)
    return total / len(tokens)


def reopold(made: World, logits: Tensor, floor: float, share: float) -> Tensor:
    """-sum R M log p_S / sum M: M keeps R >= floor in the first phase, later the highest entropies of the student."""
    tokens = rollout_tokens(made)
    rewards = {t: float(log_ratio(made, t)) for t in tokens}
    if made.step < 50:
        kept = [t for t in tokens if rewards[t] >= floor]
    else:
        by_entropy = sorted(float(entropy(made.old[t])) for t in tokens)
        place = (1 - share) * (len(tokens) - 1)  # linear interpolation between order statistics
        low = by_entropy[math.floor(place)]
        bound = low + (place - math.floor(place)) * (by_entropy[math.ceil(place)] - low)
        kept = [t for t in tokens if float(entropy(made.old[t])) >= bound - 1e-6]
    terms = [max(rewards[t], floor) * logp(logits[t], made.ids[t]) for t in kept]
    return -sum(terms) / len(kept)  # type: ignore[return-value]


def core(
    made: World, logits: Tensor, distil: float = 5.0, contrast: float = 1.0, beta: float = 0.1,
    order: tuple[str, ...] = ("solution", "rollout", "teacher"),
) -> Tensor:  # fmt: skip
    spans = made.spans()
    right = [i for i in range(made.rollouts) if made.rewards[i] == 1.0]
    means = [
        sum(forward_kl(made.teacher[t], logits[t], 8) for t in range(spans[i].start, spans[i].stop))
        / made.lengths[i]
        for i in right
    ]
    loss = distil * sum(means) / max(len(right), 1)

    def margin(index: int) -> Tensor:
        of_tokens = range(spans[index].start, spans[index].stop)
        return sum(logp(logits[t], made.ids[t]) - logp(made.reference[t], made.ids[t]) for t in of_tokens)  # type: ignore[return-value]

    pairs = []
    for group in range(made.groups):
        own = range(group * made.size, (group + 1) * made.size)
        sources: dict[str, int] = {
            source: made.rollouts + place for place, (of, source) in enumerate(made.shown) if of == group
        }
        sources |= {"rollout": next((i for i in own if made.rewards[i] == 1.0), -1)}
        best = next((sources[one] for one in order if sources.get(one, -1) >= 0), None)
        pairs += [(best, i) for i in own if made.rewards[i] != 1.0 and best is not None]
    losses = [-torch.nn.functional.logsigmoid(beta * (margin(good) - margin(bad))) for good, bad in pairs]
    return loss + contrast * sum(losses, torch.zeros((), dtype=torch.float64)) / max(len(pairs), 1)


FIRST, SECOND = math.log(0.1) / 0.9, math.log(0.3 / 0.7)
SHOWN = [(0, "solution"), (1, "teacher"), (3, "teacher")]
# groups: some right; none right, a response of the teacher; none right and nothing else; all right
CORE = {"rewards": [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1], "shown": SHOWN}

METHODS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], Naive]] = [
    # algorithm, its options, settings, world, formula
    ("opd_rkl", {}, {}, {}, opd_rkl),
    ("opd_rkl", {"discount": 0.7}, {}, {}, lambda made, logits: discounted(made, logits, 0.7)),
    ("opd_rkl", {"discount": 1.0}, {}, {}, lambda made, logits: discounted(made, logits, 1.0)),
    ("eopd", {}, {}, {}, gated(0.8)),
    ("eopd", {"threshold": 1.6}, {}, {}, gated(1.6)),
    ("eopd", {"forward_kl": "everywhere"}, {}, {}, gated(-1.0)),
    ("eopd", {"forward_kl": "random"}, {}, {}, randomly),
    ("eopd", {"forward_kl": "none", "entropy_bonus": 0.05}, {}, {}, with_bonus),
    ("eopd", {"forward_kl": "none", "shaping": 0.1}, {}, {}, shaped),
    ("reopold", {}, {}, {}, lambda made, logits: reopold(made, logits, FIRST, 0.2)),
    ("reopold", {}, {}, {"step": 50}, lambda made, logits: reopold(made, logits, FIRST, 0.2)),
    (
        "reopold", {"floor": "log(l/(1-l))", "mixture": 0.3, "entropy_share": 0.5}, {}, {"step": 60},
        lambda made, logits: reopold(made, logits, SECOND, 0.5),
    ),
    (
        "reopold", {"floor": "log(l/(1-l))", "mixture": 0.3}, {}, {"step": 49},
        lambda made, logits: reopold(made, logits, SECOND, 0.5),
    ),
    ("core", {}, {"top_k": 8}, CORE, core),
    ("core", {"alpha": 0.25}, {"top_k": 8}, CORE, lambda made, logits: core(made, logits, 0.25, 0.75)),
    ("core", {"contrast_weight": 0.0}, {"top_k": 8}, CORE, lambda made, logits: core(made, logits, contrast=0.0)),
    ("core", {"distil_weight": 0.0}, {}, CORE, lambda made, logits: core(made, logits, distil=0.0)),
    (
        "core", {"solutions": False, "fallback": "skip", "beta": 0.7}, {"top_k": 8}, {"rewards": CORE["rewards"]},
        lambda made, logits: core(made, logits, beta=0.7, order=("rollout",)),
    ),
]  # fmt: skip


def world_of(given: dict[str, Any], **more: Any) -> World:
    """Return a world with the differing `step` of the case."""
    made = world(**{name: value for name, value in given.items() if name != "step"}, **more)
    return replace(made, step=given.get("step", 0))


@pytest.mark.parametrize(("name", "options", "settings", "given", "formula"), METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_are_those_of_the_papers_formula(
    name: str, options: Any, settings: Any, given: Any, formula: Naive, seed: int
) -> None:
    made = world_of(given, seed=seed)
    hidden, head = made.hidden.clone().requires_grad_(), made.head.clone().requires_grad_()
    expected = formula(made, hidden @ head.T)
    expected.backward()
    loss, of_hidden, of_head, _ = step(made, plan_of(name, options, **settings))
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6, abs=1e-7)
    assert hidden.grad is not None and head.grad is not None
    scale = float(head.grad.norm())
    assert float((of_hidden - hidden.grad).norm()) < 1e-6 * scale
    assert float((of_head - head.grad).norm()) < 1e-6 * scale


@pytest.mark.parametrize(("name", "options", "settings", "given", "formula"), METHODS)
def test_cutting_the_update_into_parts_changes_nothing(
    name: str, options: Any, settings: Any, given: Any, formula: Naive
) -> None:
    made, plan = world_of(given, seed=3), plan_of(name, options, **settings)
    whole, parts = (step(made, plan, whole=one) for one in (True, False))
    assert parts[0] == pytest.approx(whole[0], rel=1e-9)
    for got, expected in zip(parts[1:3], whole[1:3], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-11)


# --- by hand -----------------------------------------------------------------------------------------------------


def one_token(teacher: list[float], old: list[float], token: int, student: list[float]) -> World:
    """Return a single rollout of one token over three outcomes, by their probabilities."""
    made = world(groups=1, size=1, lengths=[1])
    student_logits = torch.tensor([student], dtype=torch.float64).log()
    return replace(
        made,
        hidden=student_logits, head=torch.eye(3, dtype=torch.float64), ids=torch.tensor([token]),
        old=torch.tensor([old], dtype=torch.float64).log(), teacher=torch.tensor([teacher], dtype=torch.float64).log(),
        reference=student_logits,
    )  # fmt: skip


def test_opd_rkl_by_hand() -> None:
    # log p_T / p_old = log(0.5 / 0.25) = log 2; r = 0.225 / 0.25 = 0.9 is inside of [0.8, 1.2]
    made = one_token([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], 0, [0.225, 0.525, 0.25])
    loss, gradient, *_ = step(made, plan_of("opd_rkl"))
    slope = -0.9 * math.log(2)
    assert loss == pytest.approx(slope, rel=1e-6)
    # d log q_0 / d logits = e_0 - q
    expected = [slope * (1 - 0.225), -slope * 0.525, -slope * 0.25]
    assert gradient[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_eopd_by_hand() -> None:
    # The teacher (1/2, 1/4, 1/4) has entropy 1.5 log 2 = 1.04 > 0.8. On-policy, q = old = 1/3 each: r = 1, A = log(1/2 / 1/3).
    # Policy: -A; KL: 1/2 log(3/2) + 2 x 1/4 log(3/4). Gradients: -A (e_0 - q) and q - p.
    third = [1 / 3] * 3
    made = one_token([0.5, 0.25, 0.25], third, 0, third)
    plan = plan_of("eopd", top_k=3)
    advantage = math.log(1.5)
    loss, gradient, _, seen = step(made, plan)
    assert loss == pytest.approx(-advantage + 0.5 * math.log(1.5) + 0.5 * math.log(0.75), rel=1e-6)
    kl = np.array(third) - [0.5, 0.25, 0.25]
    assert gradient[0].tolist() == pytest.approx(
        (kl - advantage * (np.eye(3)[0] - third)).tolist(), rel=1e-5, abs=1e-8
    )
    assert seen["term_weight_0"].tolist() == [1.0]
    # A certain teacher (0.98, 0.01, 0.01), entropy 0.11, has no second term.
    certain = one_token([0.98, 0.01, 0.01], third, 0, third)
    assert step(certain, plan)[0] == pytest.approx(-math.log(0.98 * 3), rel=1e-6)


def test_reopold_by_hand() -> None:
    # Two tokens of one rollout, q = old = 1/4 of the sampled token. p = 1/2: R = log 2. p = 1/64: R = -log 16 = -2.77 < -2.558.
    made = world(groups=1, size=1, lengths=[2])
    quarter = torch.full((2, 4), 0.25, dtype=torch.float64).log()
    rows = [[1 / 2, 1 / 6, 1 / 6, 1 / 6], [1 / 64, 21 / 64, 21 / 64, 21 / 64]]
    made = replace(
        made, hidden=quarter, head=torch.eye(4, dtype=torch.float64), ids=torch.tensor([0, 0]), old=quarter,
        teacher=torch.tensor(rows, dtype=torch.float64).log(),
    )  # fmt: skip
    # First phase: the second token is left out, and the denominator is 1.
    assert step(made, plan_of("reopold"))[0] == pytest.approx(math.log(2) * math.log(4), rel=1e-6)
    # Second phase: both entropies are equal, so both count, the second with the floor.
    floor = math.log(0.1) / 0.9
    later = (math.log(2) + floor) * math.log(4) / 2
    assert step(replace(made, step=50), plan_of("reopold"))[0] == pytest.approx(later, rel=1e-6)


def test_core_by_hand() -> None:
    # A right and a wrong rollout of one token each over (1/2, 1/4, 1/4): token 0 is right, token 1 wrong. The reference has 1/4
    # and 1/2 of them: m+ = log 2, m- = -log 2, difference 2 log 2. The teacher has (3/4, 1/4) of its top 2.
    made = world(groups=1, size=2, lengths=[1, 1], rewards=[1.0, 0.0])
    student = torch.tensor([[0.5, 0.25, 0.25]] * 2, dtype=torch.float64).log()
    made = replace(
        made, hidden=student, head=torch.eye(3, dtype=torch.float64), ids=torch.tensor([0, 1]),
        reference=torch.tensor([[0.25, 0.5, 0.25]] * 2, dtype=torch.float64).log(),
        teacher=torch.tensor([[0.6, 0.2, 0.2 - 1e-9]] * 2, dtype=torch.float64).log(),
    )  # fmt: skip
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.25)
    contrast = math.log(1 + 2 ** (-0.2))
    assert step(made, plan_of("core", top_k=2))[0] == pytest.approx(5 * kl + contrast, rel=1e-6)


# --- properties --------------------------------------------------------------------------------------------------


def test_the_clip_is_active_from_the_second_mini_batch_on() -> None:
    """The student moves with each update while the old log-probabilities stay those of the rollouts."""
    plan, made = plan_of("eopd"), world(groups=16, size=1, distance=0.0, seed=4)
    shares = []
    for update in range(plan.updates_per_batch):
        _, _, of_head, seen = step(made, plan, updates=4, update=update)
        shares.append(float(seen["clipped"].mean()))
        made = replace(made, head=made.head - 3.0 * of_head)  # shared by all tokens, as weights are
    assert shares[0] == 0.0 and all(share > 0 for share in shares[1:]) and len(shares) == 4


@pytest.mark.parametrize("name", ["opd_rkl", "eopd", "reopold", "core", "uopd_pw", "uopd_eopd", "uopd_grpo"])
@pytest.mark.parametrize(
    "given",
    [
        {"lengths": [1] * 12},
        {"rewards": [0.0] * 12},
        {"rewards": [1.0] * 12},
        {"rewards": [0.0] * 12, "shown": [(n, "solution") for n in range(4)]},
    ],
    ids=["one token", "none right", "all right", "only solutions"],
)
@pytest.mark.parametrize("at_step", [0, 1000])
def test_groups_without_information_have_finite_losses(
    name: str, given: dict[str, Any], at_step: int
) -> None:
    plan = plan_of(name, top_k=8) if name in ("eopd", "core", "uopd_pw", "uopd_eopd") else plan_of(name)
    if name != "core":
        given = {key: value for key, value in given.items() if key != "shown"}
    made = replace(world(**given), step=at_step)
    loss, of_hidden, of_head, _ = step(made, plan)
    assert math.isfinite(loss) and of_hidden.isfinite().all() and of_head.isfinite().all()
    if name == "core" and given.get("rewards") == [0.0] * 12 and "shown" not in given:
        assert loss == 0.0 and (of_head == 0).all()  # no trace is right and there is nothing to prefer
    if name == "uopd_grpo" and "rewards" in given:
        assert (of_head == 0).all()


@pytest.mark.parametrize("name", ["opd_rkl", "eopd", "reopold", "core"])
def test_a_token_that_teacher_or_reference_excludes_is_finite(name: str) -> None:
    made = world(rewards=CORE["rewards"])
    for logits in (made.teacher, made.reference):
        logits[torch.arange(0, len(logits), 2), made.ids[::2]] = -math.inf
    plan = plan_of(name, top_k=8) if name in ("eopd", "core") else plan_of(name)
    loss, of_hidden, of_head, _ = step(made, plan)
    assert math.isfinite(loss) and of_hidden.isfinite().all() and of_head.isfinite().all()


def test_without_an_uncertain_token_eopd_is_opd_rkl_bit_by_bit() -> None:
    made = world(seed=6)
    plain, none = step(made, plan_of("opd_rkl")), step(made, plan_of("eopd", {"threshold": 100.0}))
    assert none[0] == plain[0] and torch.equal(none[2], plain[2])


def test_uopd_pw_is_uopd_with_a_schedule_and_the_others_are_their_base_with_soft_weights() -> None:
    made = world(seed=7)
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("uopd_pw", "uopd", {"position_schedule": "moderate", "top_k": 8}),
        ("uopd_eopd", "eopd", {"prompt_weight": "soft", "top_k": 8}),
        ("uopd_grpo", "grpo", {"prompt_weight": "soft"}),
    ]
    for name, base, settings in cases:
        own: dict[str, Any] = {"top_k": 8} if "top_k" in settings else {}
        expected, found = step(made, plan_of(base, **settings)), step(made, plan_of(name, **own))
        assert found[0] == expected[0] and torch.equal(found[2], expected[2])
        assert found[0] != step(made, plan_of(base, **own))[0]


def test_the_weight_of_a_prompt_multiplies_its_advantages() -> None:
    """uopd_grpo: w on the group's advantage is w on its loss, at every ratio."""
    made = world(groups=2, size=4, rewards=[1, 0, 0, 1, 1, 1, 0, 1], seed=8)
    both = [step(replace(made, weights=np.repeat(w, 4)), plan_of("uopd_grpo"))[2] for w in ([1, 0], [0, 1])]
    mixed = step(replace(made, weights=np.repeat([0.25, 0.75], 4)), plan_of("uopd_grpo"))[2]
    torch.testing.assert_close(mixed, 0.25 * both[0] + 0.75 * both[1], rtol=1e-6, atol=1e-12)


def test_a_pair_of_a_prompt_of_weight_0_has_no_gradient() -> None:
    made = world(groups=2, size=2, rewards=[1, 0, 1, 0], seed=9)
    made = replace(made, weights=np.array([0.0, 0.0, 1.0, 1.0]))
    plan = plan_of("core", {"distil_weight": 0.0}, prompt_weight="soft")
    _, of_hidden, _, _ = step(made, plan)
    first = int(made.lengths[:2].sum())
    assert (of_hidden[:first] == 0).all() and (of_hidden[first:] != 0).any()


def test_every_algorithm_is_tried_here_or_older() -> None:
    older = {"uopd", "opd", "grpo", "kd", "sft", "opsd", "pw_opsd", "self_distilled_reasoner"}
    assert {name for name, *_ in METHODS} | older | {"uopd_pw", "uopd_eopd", "uopd_grpo"} == set(
        algorithm_names()
    )
