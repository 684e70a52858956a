"""The transport follows from the placement; a skipped sync is detected by the weight version and the trainer/engine mismatch."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest

from tasks.errors import UserError
from training.weight_sync.sync import (
    MAX_MISMATCH,
    EngineClient,
    check_mismatch,
    check_versions,
    choose_transport,
    largest_bytes,
    logprob_mismatch,
    numbered,
)
from training.workers.placement import Placement, Slot, make_placement


@pytest.mark.parametrize(
    ("plan", "transport"),
    [
        (make_placement("cpu", students=2, engines=2), "object_store"),
        (make_placement("split", students=1, engines=2), "nccl"),
        (make_placement("split", students=2, engines=1), "nccl"),
        (make_placement("colocated", students=4, engines=4), "ipc"),
    ],
)
def test_the_transport_follows_from_the_placement(plan: Placement, transport: str) -> None:
    choice = choose_transport(plan)
    assert choice.transport == transport and choice.reason


def test_partly_shared_gpus_fall_back_to_the_object_store() -> None:
    slots = (
        Slot(role="student", index=0, bundle=0, gpus=0.5),
        Slot(role="rollout", index=0, bundle=0, gpus=0.5),
        Slot(role="rollout", index=1, bundle=1, gpus=1.0),
    )
    assert choose_transport(Placement(name="split", slots=slots)).transport == "object_store"


def test_two_engines_on_one_gpu_do_not_use_nccl() -> None:
    slots = (
        Slot(role="student", index=0, bundle=0, gpus=1.0),
        Slot(role="rollout", index=0, bundle=1, gpus=0.5),
        Slot(role="rollout", index=1, bundle=1, gpus=0.5),
    )
    assert choose_transport(Placement(name="split", slots=slots)).transport == "object_store"


def test_an_engine_that_missed_a_sync_is_named_by_its_version() -> None:
    check_versions(3, [3, 3])
    with pytest.raises(
        UserError, match="rollout engine 1 has weight version 2, but the student has version 3"
    ):
        check_versions(3, [3, 2])


def test_the_mismatch_is_the_mean_and_the_maximum_over_tokens() -> None:
    # |differences| 0.5, 0, 0.25, 0.25: mean 0.25.
    rollout = np.array([-1.0, -2.0, -3.0, -4.0], dtype=np.float32)
    student = np.array([-1.5, -2.0, -2.75, -4.25], dtype=np.float32)
    assert logprob_mismatch(rollout, student) == (0.25, 0.5)
    assert logprob_mismatch(rollout[:0], student[:0]) == (0.0, 0.0)


def test_different_lengths_and_infinite_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log-probabilities have shape \(2,\), the student's \(3,\)"):
        logprob_mismatch(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="token 1"):
        logprob_mismatch(np.array([0.0, -np.inf]), np.zeros(2))


def test_a_mean_mismatch_above_the_limit_is_refused() -> None:
    check_mismatch(MAX_MISMATCH, version=4)
    with pytest.raises(UserError, match=r"mismatch is 0\.210 nats per token on average \(weight version 4"):
        check_mismatch(0.21, version=4)


def test_every_engine_of_an_nccl_group_has_its_own_rank() -> None:
    # vLLM: rank = rank_offset + rank within the engine (0 here); the sender is rank 0 of a group of 1 + 3.
    ranks = [numbered({"rank_offset": 1, "world_size": 4}, engine)["rank_offset"] for engine in range(3)]
    assert ranks == [1, 2, 3]
    assert numbered({"packed": True}, 2) == {"packed": True}, "IPC has no ranks"


def test_vllms_description_of_a_transfer_has_the_given_settings() -> None:
    from training.weight_sync.sync import _init_info

    nccl = _init_info("nccl", rank=0, address="10.0.0.1", port=29500, engines=2, largest=1)
    assert (nccl.backend, nccl.world_size, nccl.is_sender, nccl.master_port) == ("nccl", 3, True, 29500)
    ipc = _init_info("ipc", rank=1, address="", port=0, engines=4, largest=1)
    assert (ipc.backend, ipc.packed, ipc.is_sender) == ("ipc", True, False)
    with pytest.raises(ValueError, match="object_store"):
        _init_info("object_store", rank=0, address="", port=0, engines=1, largest=1)


def chunks(weights: list[tuple[str, Any]], size: int) -> list[list[int]]:
    """Return the bytes of each tensor in each chunk into which vLLM packs `weights` with a buffer of `size` bytes. Nothing is
    allocated, and GPU calls are mocked."""
    import torch
    from vllm.distributed.weight_transfer import packed_tensor

    made, patched = torch.empty, cast(Any, packed_tensor)

    def without_memory(*shape: Any, **options: Any) -> Any:
        return made(*shape, **(options | {"device": "meta"}))

    with (
        mock.patch.object(patched.torch, "empty", without_memory),
        mock.patch.object(patched.torch.cuda, "current_stream", mock.MagicMock()),
        mock.patch.object(packed_tensor, "reduce_tensor", lambda _: (None, ())),
    ):
        produced = packed_tensor.packed_ipc_producer(iter(weights), "gpu", lambda item: item[1], size)
        return [chunk.tensor_sizes for chunk in produced]


@pytest.mark.parametrize(
    ("hidden", "size"), [(2048, 2**30), (2560, 2**30), (4096, 151_936 * 4096 * 2)], ids=["1.7B", "4B", "8B"]
)
def test_the_transfer_buffer_fits_the_largest_tensor_of_every_student(hidden: int, size: int) -> None:
    import torch

    from training.weight_sync.sync import _init_info

    weights = [
        ("model.embed_tokens.weight", torch.empty(151_936, hidden, dtype=torch.bfloat16, device="meta")),
        ("model.norm.weight", torch.empty(hidden, dtype=torch.bfloat16, device="meta")),
    ]
    metadata = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights]
    largest = largest_bytes(metadata)
    assert largest == 151_936 * hidden * 2
    info = _init_info("ipc", rank=0, address="", port=0, engines=4, largest=largest)
    assert info.packed_buffer_size_bytes == size
    sizes = [one for chunk in chunks(weights, info.packed_buffer_size_bytes) for one in chunk]
    assert sizes == [largest, hidden * 2]


def test_vllm_refuses_a_buffer_that_is_too_small_for_a_tensor() -> None:
    import torch

    weights = [("head", torch.empty(3, 5, dtype=torch.bfloat16, device="meta"))]
    with pytest.raises(ValueError, match="Increase buffer_size_bytes to at least 30"):
        chunks(weights, 29)
    assert chunks(weights, 30) == [[30]]


def test_nccl_packs_a_tensor_that_is_larger_than_its_buffer() -> None:
    import torch
    from vllm.distributed.weight_transfer.packed_tensor import pack_tensors

    weights = [(str(n), torch.zeros(4, dtype=torch.bfloat16)) for n in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = pack_tensors(iter(weights), lambda item: item[1], 7)
    assert packed is not None and packed.tensor_sizes == [8], "beyond the buffer by less than one tensor"


def test_engines_free_their_kv_cache_before_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, str]] = []

    def engine(number: int) -> Any:
        def handle(name: str) -> Any:
            return SimpleNamespace(remote=lambda: called.append((number, name)))

        return SimpleNamespace(sleep=handle("sleep"), start_update=handle("start_update"))

    client = EngineClient([engine(0), engine(1)])
    monkeypatch.setattr(client, "_wait", list)
    client.start_weight_update()
    assert called == [(0, "sleep"), (1, "sleep"), (0, "start_update"), (1, "start_update")]
