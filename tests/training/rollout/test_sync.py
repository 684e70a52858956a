"""The road is chosen from the placement; a skipped sync is caught by its version and by the log-probability gap."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.errors import UserError
from training.engine.placement import Placement, Seat, placement
from training.rollout.sync import (
    STALE_GAP,
    check_gap,
    check_versions,
    choose_transport,
    logprob_gap,
    numbered,
)


@pytest.mark.parametrize(
    ("plan", "transport"),
    [
        (placement("cpu", students=2, engines=2), "object_store"),
        (placement("split", students=1, engines=2), "nccl"),
        (placement("split", students=2, engines=1), "nccl"),
        (placement("colocated", students=4, engines=4), "ipc"),
    ],
)
def test_the_transport_follows_from_the_placement(plan: Placement, transport: str) -> None:
    choice = choose_transport(plan)
    assert choice.transport == transport and choice.reason


def test_half_shared_gpus_fall_back_to_the_object_store() -> None:
    seats = (
        Seat(role="student", index=0, bundle=0, gpus=0.5),
        Seat(role="rollout", index=0, bundle=0, gpus=0.5),
        Seat(role="rollout", index=1, bundle=1, gpus=1.0),
    )
    assert choose_transport(Placement(name="split", seats=seats)).transport == "object_store"


def test_two_engines_on_one_gpu_cannot_be_in_one_nccl_group() -> None:
    seats = (
        Seat(role="student", index=0, bundle=0, gpus=1.0),
        Seat(role="rollout", index=0, bundle=1, gpus=0.5),
        Seat(role="rollout", index=1, bundle=1, gpus=0.5),
    )
    assert choose_transport(Placement(name="split", seats=seats)).transport == "object_store"


def test_an_engine_that_missed_a_sync_is_named_by_its_version() -> None:
    check_versions(3, [3, 3])
    with pytest.raises(UserError, match="rollout engine 1 holds weight version 2 and the student version 3"):
        check_versions(3, [3, 2])


def test_the_gap_is_the_mean_and_the_maximum_over_tokens() -> None:
    # |differences| 0.5, 0, 0.25, 0.25: mean 0.25.
    rollout = np.array([-1.0, -2.0, -3.0, -4.0], dtype=np.float32)
    student = np.array([-1.5, -2.0, -2.75, -4.25], dtype=np.float32)
    assert logprob_gap(rollout, student) == (0.25, 0.5)
    assert logprob_gap(rollout[:0], student[:0]) == (0.0, 0.0)


def test_lengths_and_values_must_make_sense() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) log-probabilities of the engine and \(3,\)"):
        logprob_gap(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="token 1"):
        logprob_gap(np.array([0.0, -np.inf]), np.zeros(2))


def test_a_mean_gap_above_the_limit_stops_the_run_with_a_sentence() -> None:
    check_gap(STALE_GAP, version=4)
    with pytest.raises(UserError, match=r"by 0\.210 nats a token on average \(weight version 4"):
        check_gap(0.21, version=4)


def test_every_engine_of_an_nccl_group_has_a_rank_of_its_own() -> None:
    # vLLM: rank = rank_offset + rank within the engine (0 here); the sender is rank 0 of a group of 1 + 3.
    ranks = [numbered({"rank_offset": 1, "world_size": 4}, engine)["rank_offset"] for engine in range(3)]
    assert ranks == [1, 2, 3]
    assert numbered({"packed": True}, 2) == {"packed": True}, "IPC has no ranks"


def test_vllms_description_of_a_transfer_takes_our_settings() -> None:
    from training.rollout.sync import _init_info

    nccl = _init_info("nccl", rank=0, address="10.0.0.1", port=29500, engines=2)
    assert (nccl.backend, nccl.world_size, nccl.is_sender, nccl.master_port) == ("nccl", 3, True, 29500)
    ipc = _init_info("ipc", rank=1, address="", port=0, engines=4)
    assert (ipc.backend, ipc.packed, ipc.is_sender) == ("ipc", True, False)
    with pytest.raises(ValueError, match="object_store"):
        _init_info("object_store", rank=0, address="", port=0, engines=1)
