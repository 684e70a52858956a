"""Checks of a run's algorithm together with its settings: what would train nothing, or something other than the algorithm."""

from __future__ import annotations

from training.algorithms.advantages import group_centred, group_normalised
from training.config import VLLM_TOP_K
from training.plan import RunPlan

__all__ = ["algorithm_problems", "teacher_warning"]


def algorithm_problems(plan: RunPlan) -> list[str]:
    """Return the reasons why the run cannot train this algorithm with these settings, one sentence each."""
    found = (
        _missing_teacher(plan),
        *_routing_problems(plan),
        _own_teacher(plan),
        _truncated_policy(plan),
        _lonely_groups(plan),
        _small_updates(plan),
        _missing_inputs(plan),
        _missing_for_sequences(plan),
        *_generator_problems(plan),
        *_vllm_problems(plan),
    )
    return [problem for problem in found if problem is not None]


def _missing_teacher(plan: RunPlan) -> str | None:
    if not plan.has_teacher or plan.teachers:
        return None
    return f"{plan.run.algorithm.name} needs a teacher, but the run has none: set teacher.model"


def _routing_problems(plan: RunPlan) -> list[str]:
    """Return the reasons why several teachers cannot teach this algorithm."""
    if not plan.run.teachers:
        return []
    name = plan.run.algorithm.name
    if not (plan.has_teacher and plan.samples):
        return [
            f"{name} has no rollouts of the student that a teacher scores, so it cannot have teachers: remove teachers and"
            " routing"
        ]
    found = []
    if plan.algorithm.answer_shares:
        found.append(
            "algorithm.rollout_weight answer_share compares answers with the clusters of one teacher, but teachers has several:"
            " remove one of the two"
        )
    return found


def _own_teacher(plan: RunPlan) -> str | None:
    """Return a problem if the student's own start is its teacher and sees the same prompt: the gradient is 0 before the first
    update. A teacher's checkpoint may equal the student's, as in profile paper-8b-8b, a control."""
    plain = [one for one in plan.passes if one.view == "plain"]
    if not any(scorer.role == "start" for one in plain for scorer in one.scorers):
        return None
    return (
        f"{plan.run.algorithm.name} would distil the student from itself with the same prompt, which has no gradient: choose an"
        " algorithm whose teacher sees the answer or a solution"
    )


def _truncated_policy(plan: RunPlan) -> str | None:
    rollouts = plan.run.rollouts
    truncated = rollouts.top_p < 1.0 or rollouts.top_k is not None
    has_policy = any("advantages" in term.loss.needs for term in plan.algorithm.loss)
    if not (truncated and has_policy) or rollouts.allow_truncated:
        return None
    return (
        f"rollouts.top_p {rollouts.top_p:g} and top_k {rollouts.top_k} truncate sampling, so that the ratios of the policy"
        f" gradient of {plan.run.algorithm.name} are those of another distribution: set top_p to 1 and top_k to null, or"
        " rollouts.allow_truncated"
    )


def _lonely_groups(plan: RunPlan) -> str | None:
    compares = plan.algorithm.advantages in (group_centred, group_normalised)
    if not compares or plan.run.rollouts.group_size > 1:
        return None
    return (
        f"{plan.run.algorithm.name} compares the rollouts of a prompt, but rollouts.group_size is 1, so that every advantage is"
        " 0: set it to at least 2"
    )


def _small_updates(plan: RunPlan) -> str | None:
    if plan.updates_per_batch <= plan.run.prompts_per_step:
        return None
    return (
        f"a rollout batch has {plan.run.prompts_per_step} prompts for {plan.updates_per_batch} updates: lower"
        " algorithm.updates_per_batch, or raise batches.size"
    )


def _missing_inputs(plan: RunPlan) -> str | None:
    """Return a problem if the algorithm declares a loss, and not what it reads."""
    missing = sorted({name for term in plan.algorithm.loss for name in term.loss.needs} - set(plan.inputs))
    if not missing:
        return None
    if missing == ["rollout_logprobs"]:
        return (
            f"{plan.run.algorithm.name} trains on the dataset's responses, but its loss needs the log-probabilities that they"
            " were sampled with, which a dataset does not have: choose rollouts of the student"
        )
    return (
        f"{plan.run.algorithm.name} declares a loss that reads {missing[0]}, which none of its scorers, rewards or advantages"
        " gives: correct its file"
    )


def _missing_for_sequences(plan: RunPlan) -> str | None:
    """Return a problem if the algorithm declares a sequence loss, and not what it reads."""
    loss = plan.algorithm.sequence_loss
    if loss is None:
        return None
    given = {"rewards": plan.algorithm.reward, "reference": plan.has_plain_reference}
    missing = sorted(name for name in loss.needs if not given[name])
    if not missing:
        return None
    remedy = {"rewards": "reward=True", "reference": 'a scorer of the role "reference"'}[missing[0]]
    return (
        f"{plan.run.algorithm.name} declares a sequence loss that reads the {missing[0]} of its sequences, which it does not ask"
        f" for: add {remedy} to its file"
    )


def _generator_problems(plan: RunPlan) -> list[str]:
    """Return the reasons why no engine can generate responses of the teacher."""
    if not plan.generates:
        return []
    name, found = plan.run.algorithm.name, []
    if plan.run.teachers:
        found.append(
            f"{name} generates responses of one teacher, but teachers has several: set fallback to teacher"
        )
    if plan.run.placement.kind == "colocated":
        found.append(
            f"{name} generates responses of the teacher in an engine of its own, which placement colocated has no memory for:"
            " choose placement split, or set fallback to teacher"
        )
    if not plan.algorithm.reward:
        found.append(
            f"{name} generates responses of the teacher, but has no reward that says which are right: correct its file"
        )
    return found


def _vllm_problems(plan: RunPlan) -> list[str]:
    """Return the reasons why a vLLM teacher cannot give the scores."""
    run, by_vllm = plan.run, [one for one in plan.teachers if one.backend == "vllm"]
    if not by_vllm:
        return []
    passes = [one for one in plan.passes if one.worker == "teacher"]
    found = []
    if run.placement.kind == "colocated":
        found.append(
            "teacher.backend vllm needs a GPU of its own, but placement colocated shares every GPU: choose placement split or"
            " teacher.backend in_process"
        )
    if any(one.request.entropy for one in passes):
        found.append(
            f"{run.algorithm.name} needs the entropy of the teacher's whole distribution, which teacher.backend vllm does not"
            " return: choose in_process"
        )
    forced = all(one.force for one in by_vllm)
    if not forced and any(_is_large(one.full, one.request.top_k) for one in passes):
        found.append(
            f"teacher.backend vllm supports a top_k up to {VLLM_TOP_K}, but {_asked(plan)}: choose teacher.backend in_process,"
            " whose cost hardly depends on k, or set teacher.force"
        )
    return found


def _is_large(full: bool, top_k: int | None) -> bool:
    return full or (top_k is not None and top_k > VLLM_TOP_K)


def _asked(plan: RunPlan) -> str:
    return "the full distribution is needed" if plan.top_k is None else f"top_k is {plan.top_k}"


def teacher_warning(plan: RunPlan) -> str | None:
    """Return a warning if `teacher.force` allows a vLLM teacher a top_k above VLLM_TOP_K, else None."""
    large = any(_is_large(one.full, one.request.top_k) for one in plan.passes if one.worker == "teacher")
    if not large or all(one.backend == "in_process" for one in plan.teachers):
        return None
    return (
        f"teacher.force: {_asked(plan)}; in a vLLM engine that is slow, because every entry of every token passes through"
        " Python; with in_process the cost hardly depends on k"
    )
