"""The memory plan: exact parameters and caches, model states as in DeepSpeed, and activations as measured in autograd."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tests.training.small_run import copy_model, small_run
from training.config import LoraSettings, RunConfig
from training.plan import resolve
from training.preflight.memory import (
    ENGINE_WORKING,
    MemoryPart,
    MemoryPlan,
    ModelDimensions,
    Phase,
    count_lora,
    count_parameters,
    engine_fraction,
    engine_parts,
    full_sequences,
    layer_activations,
    machine_memory,
    memory_plan,
    memory_problems,
    memory_table,
    read_dimensions,
    reference_parts,
    student_parts,
    teacher_parts,
)
from training.preflight.memory_parts import (
    ALLOCATOR,
    CPU_OBJECT_STORE,
    ENGINE_ASLEEP,
    GPU_PROCESS,
    LIVE_PARAMETERS,
    NCCL_BUFFERS,
    PART_BYTES,
    SUB_GROUP,
    TRANSFER_BUFFER,
    Gradients,
    gradients,
    ipc_buffer,
)
from training.preflight.shapes import largest_tensor


def qwen3(hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> ModelDimensions:
    return ModelDimensions(
        kind="qwen3", hidden=hidden, layers=layers, heads=heads, kv_heads=8, head_dim=128, intermediate=intermediate,
        vocab=151_936, tied=tied, attention_bias=False,
    )  # fmt: skip


# Dimensions from the config.json of Qwen/Qwen3-1.7B, -4B and -8B.
SMALL = qwen3(2048, 28, 16, 6144, tied=True)
MIDDLE = qwen3(2560, 36, 32, 9728, tied=True)
LARGE = qwen3(4096, 36, 32, 12288, tied=False)
COLOCATED = {"kind": "colocated", "students": 4, "engines": 4}
TIGHT = COLOCATED | {"gpu_memory_gb": 83.0, "engine_memory_fraction": 0.26}
SPLIT = {"kind": "split", "engines": 2}


def node(placement: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """A run with the papers' lengths on a node with 80 GB GPUs."""
    defaults = {"lengths": {}, "trainer": {}, "placement": placement or SPLIT}
    changes["trainer"] = {"zero_stage": 2} | changes.get("trainer", {})
    return small_run(Path("d"), **(defaults | changes))


def parts_of(parts: tuple[MemoryPart, ...]) -> dict[str, int]:
    return {part.what: part.bytes for part in parts}


def tensors_in(path: Path) -> int:
    """Return the number of values in a safetensors file, from its header."""
    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


@pytest.mark.parametrize("name", ["student", "teacher", "assistant", "judge"])
def test_parameters_of_the_pocket_models_are_exact(name: str) -> None:
    folder = PROJECT_ROOT / "pocket" / name
    assert count_parameters(read_dimensions(folder)) == tensors_in(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "tied", "bias"), [("qwen3", False, True), ("qwen3", True, False), ("qwen2", False, False)]
)
def test_parameter_counts_equal_those_of_transformers(
    tmp_path: Path, kind: str, tied: bool, bias: bool
) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": tied,
    }  # fmt: skip
    config: Any = (
        Qwen3Config(**sizes, head_dim=16, attention_bias=bias) if kind == "qwen3" else Qwen2Config(**sizes)
    )
    with torch.device("meta"):
        model: Any = (Qwen3ForCausalLM if kind == "qwen3" else Qwen2ForCausalLM)(config)
    config.save_pretrained(tmp_path)
    assert count_parameters(read_dimensions(tmp_path)) == sum(tensor.numel() for tensor in model.parameters())


def test_parameter_counts_of_the_papers_students_are_the_published_ones() -> None:
    assert [count_parameters(dims) for dims in (SMALL, MIDDLE, LARGE)] == [
        1_720_574_976,
        4_022_468_096,
        8_190_735_360,
    ]


@pytest.mark.parametrize(("dims", "gigabytes"), [(SMALL, 31), (MIDDLE, 72), (LARGE, 147)])
def test_model_states_take_eighteen_bytes_per_parameter(dims: ModelDimensions, gigabytes: int) -> None:
    # bf16 parameters 2, their float32 copy 4, two moments 8, and gradients accumulated in float32 4
    parts = parts_of(student_parts(resolve(node()), dims, LARGE))
    states = parts["parameters"] + parts["accumulated gradients"] + parts["optimizer"]
    assert states == 18 * count_parameters(dims)
    assert round(states / 1e9) == gigabytes


@pytest.mark.parametrize(
    ("stage", "parameters", "always", "summed", "optimizer"),
    [(0, 2, 0, 2, 12), (1, 2, 4, 2, 3), (2, 2, 0, 1, 3), (3, 0.5, 1, 0, 3)],
)
def test_each_zero_stage_partitions_its_states_over_four_ranks(
    stage: int, parameters: float, always: float, summed: float, optimizer: float
) -> None:
    found = student_parts(resolve(node(COLOCATED, trainer={"zero_stage": stage})), LARGE, LARGE)
    parts, phases = parts_of(found), {part.what: part.phases for part in found}
    total = count_parameters(LARGE)
    assert parts["parameters"] == parameters * total
    assert parts.get("gradients", 0) == always * total
    assert parts.get("accumulated gradients", 0) == summed * total
    assert parts["optimizer"] == optimizer * total
    assert phases.get("accumulated gradients", ("train",)) == ("train",)
    assert phases.get("gradients", ("rollout", "train", "sync")) == ("rollout", "train", "sync")


def grown(stage: int, **trainer: object) -> Gradients:
    run = node(COLOCATED, trainer={"zero_stage": stage} | trainer)
    return gradients(run, LARGE, 8_190_735_360)


def test_the_update_and_the_reduction_of_each_stage_by_hand() -> None:
    # 8,190,735,360 parameters on 4 ranks: 2,047,683,840 each; the embedding has 622,329,856, more than a bucket of 500 million.
    # AdamW's foreach computes the root of the second moment, 4 bytes per value, for everything that it updates at once.
    assert (grown(0).reducing, grown(0).update) == (2 * 622_329_856, (4 + 4) * 8_190_735_360)
    assert (grown(1).reducing, grown(1).update) == (6 * 622_329_856, 4 * 2_047_683_840)
    # two alternating buckets, and the send buffer
    assert (grown(2).reducing, grown(2).update) == (2 * (2 * 500_000_000 + 622_329_856), 4 * 2_047_683_840)
    # a copy of the gradients of one sub-group, and the root: 1e9 values and up to a quarter of the embedding
    assert grown(3).update == (4 + 4) * (1_000_000_000 + 622_329_856 // 4)
    assert grown(3).bucket == 2 * 500_000_000
    assert grown(3).reducing == 2 * 622_329_856 + 4 * 622_329_856 // 4


def test_the_constants_equal_those_of_the_libraries() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from vllm.distributed.weight_transfer import packed_tensor

    from training import worker_set
    from training.weight_sync import weights

    deepspeed = DeepSpeedZeroConfig.model_validate({"stage": 3})
    assert (deepspeed.max_live_parameters, deepspeed.max_reuse_distance) == (LIVE_PARAMETERS, LIVE_PARAMETERS)
    assert deepspeed.sub_group_size == SUB_GROUP
    assert packed_tensor.DEFAULT_PACKED_BUFFER_SIZE_BYTES == TRANSFER_BUFFER
    assert packed_tensor.DEFAULT_PACKED_NUM_BUFFERS == NCCL_BUFFERS
    assert weights.PART_BYTES == PART_BYTES
    assert worker_set.CPU_OBJECT_STORE_BYTES == CPU_OBJECT_STORE


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "cases",
    [
        ((1, "bfloat16"), (3, "bfloat16"), (0, "float32")),
        pytest.param(((0, "bfloat16"), (2, "bfloat16"), (2, "float32")), marks=pytest.mark.long),
    ],
)
def test_the_plan_equals_the_memory_measured_in_deepspeed(cases: tuple[tuple[int, str], ...]) -> None:
    folder = PROJECT_ROOT / "pocket" / "student"
    reported = subprocess.run(
        [sys.executable, "-m", "tests.training.student.held_bytes", str(folder), *(f"{s}:{d}" for s, d in cases)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    dims = read_dimensions(folder)
    for (stage, dtype), held in zip(cases, json.loads(reported.stdout.strip().splitlines()[-1]), strict=True):
        run = small_run(Path("d"), trainer={"zero_stage": stage, "dtype": dtype})
        counted = gradients(run, dims, count_parameters(dims))
        parts = parts_of(student_parts(resolve(run), dims, dims))
        kept = parts["parameters"] + parts["optimizer"] + counted.kept + counted.bucket
        summed = kept + counted.summed
        assert [held["kept"], held["summed"], held["update"]] == [
            pytest.approx(one, rel=0.03) for one in (kept, summed, summed + counted.update)
        ], (stage, dtype)


@pytest.mark.parametrize(("stage", "optimizer"), [(0, 8), (2, 12)])
def test_float32_has_a_master_copy_from_stage_1_on(stage: int, optimizer: int) -> None:
    run = node(trainer={"dtype": "float32", "zero_stage": stage})
    parts, total = parts_of(student_parts(resolve(run), SMALL, LARGE)), count_parameters(SMALL)
    assert (parts["parameters"], parts["accumulated gradients"]) == (4 * total, 4 * total)
    assert parts["optimizer"] == optimizer * total


def test_lora_trains_only_its_adapters() -> None:
    # 1.7B: in + out of q 2048 + 2048, k and v 2048 + 1024 each, o 2048 + 2048; rank 8, 28 layers
    lora = LoraSettings(rank=8, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert count_lora(SMALL, lora) == 28 * 8 * (4096 + 3072 + 3072 + 4096)
    run = node(trainer={"lora": {"rank": 8, "targets": list(lora.targets)}})
    parts, trained = parts_of(student_parts(resolve(run), SMALL, LARGE)), count_lora(SMALL, lora)
    assert parts["parameters"] == 2 * (count_parameters(SMALL) + trained)
    assert (parts["accumulated gradients"], parts["optimizer"]) == (4 * trained, 12 * trained)


@pytest.mark.parametrize(
    ("dims", "placement", "stage", "fits"),
    [
        (SMALL, SPLIT, 2, True),
        (MIDDLE, SPLIT, 3, False),
        (LARGE, SPLIT, 3, False),
        (SMALL, COLOCATED, 2, True),
        (MIDDLE, COLOCATED, 2, True),
        (LARGE, COLOCATED, 2, False),
        (LARGE, COLOCATED, 3, False),
        (LARGE, TIGHT, 3, True),
    ],
)  # fmt: skip
def test_split_fits_only_the_1_7b_student_and_colocated_fits_all(
    dims: ModelDimensions, placement: dict[str, Any], stage: int, fits: bool
) -> None:
    run = node(placement, trainer={"zero_stage": stage})
    plan = memory_plan(resolve(run), dims, LARGE)
    assert plan.fits is fits
    assert bool(memory_problems(run, plan)) is not fits


def test_a_plan_that_does_not_fit_is_reported_once_per_kind_of_device_with_a_remedy() -> None:
    split, colocated = node(SPLIT), node(COLOCATED)
    (first,) = memory_problems(split, memory_plan(resolve(split), MIDDLE, LARGE))
    assert (
        first.startswith("GPU 0 needs ")
        and "but has 80.0 GB (placement split): choose placement colocated" in first
    )
    (second,) = memory_problems(colocated, memory_plan(resolve(colocated), LARGE, LARGE))
    assert second.startswith("GPU 0-3 needs ") and second.endswith("set trainer.zero_stage to 3")
    partitioned = node(COLOCATED, trainer={"zero_stage": 3})
    (third,) = memory_problems(partitioned, memory_plan(resolve(partitioned), LARGE, LARGE))
    assert "a smaller placement.engine_memory_fraction" in third


def test_with_lora_the_8b_student_fits_on_one_gpu() -> None:
    assert memory_plan(resolve(node(SPLIT, trainer={"lora": {}})), LARGE, LARGE).fits


def test_split_has_one_worker_per_gpu_and_colocated_one_of_each_role() -> None:
    def owners(plan: MemoryPlan) -> list[tuple[str, list[str]]]:
        return [
            (device.name, list(dict.fromkeys(part.owner for part in device.parts))) for device in plan.devices
        ]

    assert owners(memory_plan(resolve(node(SPLIT)), SMALL, LARGE)) == [
        ("GPU 0", ["student"]), ("GPU 1", ["teacher"]), ("GPU 2", ["rollout"]), ("GPU 3", ["rollout"]),
    ]  # fmt: skip
    everywhere = owners(memory_plan(resolve(node(COLOCATED)), SMALL, LARGE))
    assert [name for name, _ in everywhere] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
    assert all(sorted(roles) == ["rollout", "student", "teacher"] for _, roles in everywhere)


@pytest.mark.parametrize(
    ("placement", "gpus", "phases"),
    [(SPLIT, ["GPU 0"], ("rollout", "train")), (COLOCATED, ["GPU 0", "GPU 1", "GPU 2", "GPU 3"], ("rollout",))],
)  # fmt: skip
def test_a_reference_is_planned_on_the_students_gpus(
    placement: dict[str, Any], gpus: list[str], phases: tuple[str, ...]
) -> None:
    plain, penalised = (node(placement, algorithm={"reference_kl_coefficient": beta}) for beta in (0, 0.1))
    before, after = (memory_plan(resolve(run), SMALL, LARGE) for run in (plain, penalised))
    own = {
        device.name: [part for part in device.parts if part.owner == "reference"] for device in after.devices
    }
    assert [name for name, parts in own.items() if parts] == gpus
    for old, new in zip(before.devices, after.devices, strict=True):
        assert new.parts != old.parts or new.name not in gpus
        assert new.needed("rollout") - old.needed("rollout") == sum(part.bytes for part in own[new.name])
    parts = {part.what: part for part in reference_parts(resolve(penalised), SMALL)}
    assert parts["parameters"].bytes == 2 * 1_720_574_976
    assert parts["activations, logits"].phases == phases
    wide = node(placement, trainer={"dtype": "float32"})
    assert parts_of(reference_parts(resolve(wide), SMALL))["parameters"] == 4 * 1_720_574_976
    (line,) = [line for line in memory_table(after).splitlines() if "reference parameters" in line]
    assert line.split()[-3:] == [f"{2 * 1_720_574_976 / 1e6:,.0f}"] * 3


def test_a_colocated_engine_sleeps_while_the_student_trains() -> None:
    device = memory_plan(resolve(node(COLOCATED)), SMALL, LARGE).devices[0]
    engine = [part for part in device.parts if part.owner == "rollout"]
    assert {part.what: part.phases for part in engine} == {
        "weights, KV cache": ("rollout",),
        "sleeping engine": ("train", "sync"),
        "weights": ("sync",),
        "received weights": ("sync",),
    }
    assert device.needed("rollout") == sum(part.bytes for part in device.parts if "rollout" in part.phases)


EMBEDDING = 151_936 * 4096 * 2  # bytes of the 8B model's embedding, and of its head


def needed(placement: dict[str, Any], dims: ModelDimensions, stage: int, phase: Phase) -> int:
    return (
        memory_plan(resolve(node(placement, trainer={"zero_stage": stage})), dims, LARGE)
        .devices[0]
        .needed(phase)
    )


def test_a_weight_sync_of_the_8b_student_by_hand() -> None:
    # its share of 2 + 12 + 4 bytes per parameter and the bucket, the teacher's weights, the overhead of three processes, the
    # engine's weights; then the transfer buffer, the engine's copy of it, the head that it builds, and the gathered head
    states = 18 * 8_190_735_360 // 4 + 2 * 500_000_000
    beside = 2 * GPU_PROCESS + ALLOCATOR + ENGINE_ASLEEP + 2 * (2 * 8_190_735_360)
    assert EMBEDDING == 1_244_659_712 == ipc_buffer(LARGE) > TRANSFER_BUFFER
    assert needed(TIGHT, LARGE, 3, "sync") == states + beside + 4 * EMBEDDING == 81_099_889_408
    # if parameters are not partitioned, nothing is gathered; with a smaller embedding the buffer has 1 GiB
    parts = parts_of(student_parts(resolve(node(COLOCATED)), MIDDLE, LARGE))
    assert parts["weights to send"] == 2**30
    arriving = parts_of(engine_parts(node(COLOCATED), MIDDLE, sleeps=True))["received weights"]
    assert arriving == 2**30 + 151_936 * 2560 * 2


def test_an_nccl_sync_has_two_buffers_at_both_ends_that_a_tensor_may_exceed() -> None:
    plan, embedding = memory_plan(resolve(node()), SMALL, LARGE), 151_936 * 2048 * 2
    extra = [device.needed("sync") - device.needed("rollout") for device in plan.devices]
    assert extra[0] == 2 * (2**30 + embedding) and extra[2] == extra[3] == extra[0] + embedding
    assert largest_tensor(SMALL) * 2 == embedding


def test_a_sync_on_cpu_sends_parts_through_the_object_store() -> None:
    run = small_run(Path("d"))
    dims = read_dimensions(PROJECT_ROOT / "pocket" / "student")
    whole, embedding = 2 * count_parameters(dims), 2 * dims.embedding
    assert parts_of(student_parts(resolve(run), dims, dims))["weights to send"] == 2 * whole + whole
    assert parts_of(engine_parts(run, dims, sleeps=False))["received weights"] == whole + embedding


def test_host_memory_holds_the_teachers_scores_three_times() -> None:
    # 128 prompts x 4 rollouts of up to 4,096 tokens, 512 pairs of a float32 and a 32-bit id: 8.6 GB
    answers = 128 * 4 * 4096 * 512 * 8
    assert answers == 8_589_934_592

    def host(**changes: Any) -> dict[str, int]:
        return parts_of(memory_plan(resolve(node(rollouts={}, batches={}, **changes)), SMALL, LARGE).host)

    assert host() == {"scores, object store": 2 * answers, "teacher's scores": answers}
    assert host(overlap="one_step_off")["scores, object store"] == 3 * answers
    states = host(algorithm={"top_k": "full"})["teacher's scores"]
    assert states == 128 * 4 * 4096 * 4096 * 2


def test_host_memory_is_checked_only_on_a_cpu_placement() -> None:
    gpus = memory_plan(resolve(node()), SMALL, LARGE)
    assert all(part.owner != "driver" for device in gpus.devices for part in device.parts)
    assert memory_table(gpus).splitlines()[-2].startswith("machine   driver    scores, object store")
    run = small_run(Path("d"))
    student, teacher = (read_dimensions(PROJECT_ROOT / "pocket" / name) for name in ("student", "teacher"))
    plan = memory_plan(resolve(run), student, teacher)
    (machine,) = plan.devices
    assert [part for part in machine.parts if part.owner == "driver"] == list(plan.host)
    assert memory_table(plan).count("scores, object store") == 1


def test_a_teacher_overlaps_with_training_unless_they_share_a_gpu() -> None:
    def phases(placement: dict[str, Any]) -> tuple[str, ...]:
        (part,) = [
            one for one in teacher_parts(resolve(node(placement)), LARGE) if one.what == "activations, logits"
        ]
        return part.phases

    assert (phases(SPLIT), phases(COLOCATED)) == (("rollout", "train"), ("rollout",))


def test_the_kv_cache_of_the_8b_model_by_hand() -> None:
    # 36 layers x 8 heads x 128 x 2 (keys, values) x 2 bytes = 147,456 bytes per token; 5,120 tokens = 754,974,720
    assert LARGE.kv_bytes_per_token == 147_456
    run = node(SPLIT | {"engine_memory_fraction": 0.5})
    free_bytes = 40_000_000_000 - 2 * 8_190_735_360 - ENGINE_WORKING
    assert full_sequences(run, LARGE) == free_bytes // 754_974_720 == 28
    assert memory_plan(resolve(run), LARGE, LARGE).engine_kv_bytes == free_bytes == 21_618_529_280


def test_an_engine_with_a_kv_cache_below_one_sequence_is_rejected() -> None:
    run = node(SPLIT | {"engine_memory_fraction": 0.2})  # 16 GB, the weights alone take 16.4
    plan = memory_plan(resolve(run), LARGE, LARGE)
    assert plan.full_sequences < 1 and not plan.fits
    assert any(
        "KV cache of a rollout engine is too small for one sequence of 5120 tokens" in printed
        for printed in memory_problems(run, plan)
    )


def test_engine_fractions_depend_on_the_placement_unless_given() -> None:
    given = SPLIT | {"engine_memory_fraction": 0.7}
    assert [engine_fraction(node(one)) for one in (SPLIT, COLOCATED, given)] == [0.9, 0.3, 0.7]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "olmo2"])
def test_activations_of_a_layer_match_those_kept_by_autograd(kind: str, dtype: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    config: Any = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=192, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, vocab_size=96,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    tokens, kept = 256, {}
    model: Any = AutoModel.from_config(config).to(getattr(torch, dtype)).train()
    layer = model.layers[0]
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    hidden = torch.randn(1, tokens, 64, dtype=getattr(torch, dtype), requires_grad=True)
    positions = torch.arange(tokens)[None]
    rotary = model.rotary_emb(hidden, positions)
    own |= {tensor.untyped_storage().data_ptr() for tensor in rotary}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(hidden, position_embeddings=rotary, position_ids=positions, attention_mask=None)
    dims = ModelDimensions(
        kind=kind, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=32, intermediate=192, vocab=96, tied=True,
        attention_bias=False,
    )  # fmt: skip
    expected = tokens * layer_activations(dims, 2 if dtype == "bfloat16" else 4)
    assert output is not None
    assert 0.85 * expected <= sum(kept.values()) <= 1.1 * expected


def test_checkpointing_keeps_only_the_input_of_a_layer() -> None:
    def working(checkpointing: bool) -> int:  # LoRA: keeps the float32 copy of the gradients small
        run = node(trainer={"gradient_checkpointing": checkpointing, "lora": {"rank": 8}})
        return parts_of(student_parts(resolve(run), SMALL, LARGE))["activations, logits"]

    # all tensors of 28 layers, against 28 inputs of 2 x 2,048 bytes and the tensors of the current layer
    per_token = 28 * layer_activations(SMALL, 2) - (28 * 2 * 2048 + layer_activations(SMALL, 2))
    assert working(False) - working(True) == 8192 * per_token


def test_the_memory_of_targets_over_the_full_vocabulary() -> None:
    def scored(top_k: object) -> int:
        return parts_of(teacher_parts(resolve(node(algorithm={"top_k": top_k})), LARGE))[
            "activations, logits"
        ]

    assert scored(512) - scored(128) == 8192 * 384 * 12
    assert scored("full") - scored(512) == 8192 * (4096 * 2 - 512 * 12), "its hidden states in bf16"
    evaluated = resolve(node(algorithm={"top_k": 128}, evaluation={"problems": "p"}))
    found = parts_of(teacher_parts(evaluated, LARGE))["activations, logits"]
    assert found - scored(512) == 8192 * 4, "an evaluation asks for 512 and the entropy"
    parts = parts_of(student_parts(resolve(node(algorithm={"top_k": "full"})), SMALL, LARGE))
    assert parts["teacher's head"] == 151_936 * 4096 * 2
    assert "teacher's head" not in parts_of(student_parts(resolve(node()), SMALL, LARGE))


def scored_by_vllm(**changes: Any) -> RunConfig:
    return node(teacher={"model": "t", "backend": "vllm"}, algorithm={"top_k": 16}, **changes)


def test_a_vllm_teacher_takes_its_fraction_of_a_gpu_plus_the_logits_of_one_pass() -> None:
    parts = parts_of(teacher_parts(resolve(scored_by_vllm()), LARGE))
    # bf16 logits and two fp32 copies of 2,048 tokens; ids and log-probabilities of the micro-batch's top 16
    assert parts == {
        "weights, KV cache": 64_000_000_000,
        "logits": 2048 * 151_936 * 10 + 8192 * 16 * 12,
    }
    short = scored_by_vllm(lengths={"max_prompt_tokens": 256, "max_response_tokens": 767})
    assert parts_of(teacher_parts(resolve(short), LARGE))["logits"] == 1024 * 151_936 * 10 + 8192 * 16 * 12
    assert memory_plan(resolve(scored_by_vllm()), SMALL, LARGE).fits


def test_a_vllm_teacher_with_a_kv_cache_below_one_sequence_is_rejected() -> None:
    run = scored_by_vllm(
        placement=SPLIT | {"gpu_memory_gb": 23.0}
    )  # 0.8 of it: 16.4 of weights, 2.0 of working memory
    plan = memory_plan(resolve(run), SMALL, LARGE)
    assert plan.scored_sequences == 0 and not plan.fits
    assert any(
        "KV cache of a vLLM teacher is too small for one sequence of 5121" in printed
        for printed in memory_problems(run, plan)
    )
    assert memory_plan(resolve(node()), SMALL, LARGE).scored_sequences is None


def test_on_cpu_a_vllm_teacher_has_the_memory_of_an_engine() -> None:
    run = small_run(Path("d"), teacher={"model": "t", "backend": "vllm"}, algorithm={"top_k": 16})
    dims = read_dimensions(PROJECT_ROOT / "pocket" / "teacher")
    parts = parts_of(teacher_parts(resolve(run), dims))
    assert parts["parameters"] == 2 * count_parameters(dims) and parts["KV cache"] == 2**30
    assert parts["logits"] == 705 * 2048 * 10 + 2048 * 16 * 12


def test_the_pocket_run_fits_in_five_gigabytes_and_not_in_one() -> (
    None
):  # 16 prompts a step, as its profile has
    run = small_run(Path("d"), batches={"size": 16})
    student, teacher = (read_dimensions(PROJECT_ROOT / "pocket" / name) for name in ("student", "teacher"))
    assert memory_plan(resolve(run), student, teacher, machine=5_000_000_000).fits
    small = memory_plan(resolve(run), student, teacher, machine=1_000_000_000)
    (problem,) = memory_problems(run, small)
    assert (
        problem.startswith("machine needs ")
        and "but has 1.0 GB (placement cpu): use fewer engines" in problem
    )
    assert [device.capacity for device in memory_plan(resolve(run), student, teacher).devices] == [
        machine_memory()
    ]


def test_the_table_adds_up() -> None:
    plan = memory_plan(resolve(node(COLOCATED)), SMALL, LARGE)
    lines = memory_table(plan).splitlines()
    assert lines[1].startswith("GPU 0-3")
    assert (
        len(lines) == 1 + 13 + 1 + 2
    )  # header, thirteen parts and the total of four equal GPUs; two lines of host memory
    assert lines[0].split()[-6:] == ["rollout", "MB", "train", "MB", "sync", "MB"]
    total = [round(plan.devices[0].needed(phase) / 1e6) for phase in ("rollout", "train", "sync")]
    assert [int(cell.replace(",", "")) for cell in lines[14].split()[-3:]] == total


def test_an_unsupported_architecture_is_rejected(tmp_path: Path) -> None:
    copy = copy_model("student", tmp_path / "student")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"model_type": "granite"}, "model_type 'granite' is not supported: use one of llama, mistral, "),
        ({"hidden_size": "wide"}, "is not a valid model configuration"),
        ({"num_attention_heads": None}, "is not a valid model configuration"),
    ):
        (copy / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_dimensions(copy)
    del config["intermediate_size"]
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="'intermediate_size' is missing"):
        read_dimensions(copy)
