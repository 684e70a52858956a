"""Batch invariance: a dependence on the batch is found, in whichever of the three passes it shows; real engines too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.config import ModelRole, Sampling, Serve
from tasks.llm.invariance import PROBES, ProbeResult, check_invariance, probe_ids
from tasks.llm.sampler import SamplePrompt, TeacherSampler
from tasks.processes.machine import cpu
from tests.tiny_model import write_tiny_model

HAS_AMX = "amx_bf16" in cpu().split()


def result(number: int, logprob: float = -0.5) -> ProbeResult:
    return ProbeResult(tokens=(number, 7), logprobs=(-1.0, logprob))


def test_an_engine_that_ignores_the_batch_is_verified() -> None:
    asked: list[list[int]] = []

    def generate(numbers: Sequence[int]) -> list[ProbeResult]:
        asked.append(list(numbers))
        return [result(number) for number in numbers]

    found = check_invariance(generate, dtype="float32", machine="cpu x")
    assert found.verified and found.different == 0
    assert found.description.startswith("batch-invariant: 8 probes") and found.description.endswith(
        "(float32, cpu x)"
    )
    everything = list(range(PROBES))
    first, *parts, last = asked
    assert (first, last) == (everything, everything[::-1])
    assert [number for part in parts for number in part] == everything
    assert {len(part) for part in parts} == {1, 2, 4}


def test_probes_that_change_alone_or_in_another_order_are_counted() -> None:
    def by_company(numbers: Sequence[int]) -> list[ProbeResult]:
        """Probe 1 gets another log-probability when it is alone, probe 5 when it is not behind probe 4."""
        moved = {1: len(numbers) == 1, 5: list(numbers) == list(range(PROBES))[::-1]}
        return [result(number, -0.25 if moved.get(number) else -0.5) for number in numbers]

    found = check_invariance(by_company, dtype="bfloat16", machine="cpu x")
    assert (found.different, found.verified) == (2, False)
    assert "2 of 8 probes depend on the other prompts of the batch (bfloat16, cpu x)" in found.description
    assert "use dtype float32 on a CPU" in found.description


def test_probes_differ_in_length_and_fit_the_context() -> None:
    assert [len(ids) for ids in probe_ids(100, 15)] == [1, 4, 7, 10, 13, 15, 15, 15]
    assert all(0 <= token < 100 for ids in probe_ids(100, 15) for token in ids)
    assert probe_ids(100, 15) == probe_ids(100, 15)


def test_the_machine_is_named_with_its_instruction_sets() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert cpu() and ("amx_bf16" in flags) == HAS_AMX and ("avx2" in cpu().split()) == ("avx2" in flags)


@pytest.mark.slow
@pytest.mark.long
def test_a_bfloat16_engine_is_called_invariant_only_where_its_samples_are(tmp_path: Path) -> None:
    """On CPUs with AMX they are not; elsewhere this compares the samples of other batches themselves."""
    write_tiny_model(tmp_path / "tiny")
    serve = Serve(kv_cache_gib=1, max_num_seqs=32, health_timeout_s=400.0)
    role = ModelRole(model="tiny", dtype="bfloat16", max_model_len=128, serve=serve)
    prompts = [
        SamplePrompt(
            problem_id=f"p{i}", prompt="teacher/solve", values={"problem": f"Solve {i} plus 4"}, seed=1000 * i
        )
        for i in range(12)
    ]
    sampling = Sampling(temperature=0.7, max_tokens=24)
    with TeacherSampler(role, root=tmp_path, identity="tiny@0") as sampler:
        assert sampler.invariance is not None and sampler.invariance.dtype == "bfloat16"
        verified = sampler.invariance.verified
        rows = sampler.sample(prompts, 4, sampling, "f")
        alone = [row for one in prompts for row in sampler.sample([one], 4, sampling, "f")]
    assert not (HAS_AMX and verified), "oneDNN's and vLLM's AMX kernels depend on the number of rows"
    assert alone == rows or not verified
