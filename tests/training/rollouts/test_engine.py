"""The real rollout engine with a real student: generation, weight sync, and detection of missed syncs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.llm.tokenizer import load_tokenizer
from tests.training.small_run import copy_model, edit
from tests.training.student.running import update
from training.config import PromptSettings
from training.data.batches import TokenSequence
from training.data.model_files import encode_prompts, open_model, prompt_ids
from training.losses.token_losses import TopKCrossEntropy
from training.rollouts import pool
from training.rollouts.engine import (
    INITIAL_VERSION,
    Generation,
    RolloutEngine,
    RolloutEngineSettings,
    RolloutRequest,
    RolloutSampling,
    engine_prompt_ids,
    generation,
    rollout_environment,
    rollout_options,
)
from training.rollouts.pool import MAX_LOSSES, RolloutPool
from training.student.group import StudentGroup
from training.student.messages import RankSettings
from training.weight_sync.sync import check_mismatch, check_versions, choose_transport, logprob_mismatch
from training.workers.actors import ActorLost
from training.workers.placement import make_placement, reserve

PROJECT = Path(__file__).resolve().parents[3]
MODEL = PROJECT / "pocket" / "student"
END = 1991
SAMPLING = RolloutSampling(temperature=1.0, max_tokens=48, stop_token_ids=(END,))
SETTINGS = RolloutEngineSettings(model=MODEL, max_model_len=128, max_num_seqs=64)


# --- without an engine -------------------------------------------------------------------------------------------


def test_an_engine_has_no_tokenizer_and_does_not_chunk_prompts_on_cpu() -> None:
    options = rollout_options(SETTINGS, on_cpu=True)
    assert options["skip_tokenizer_init"] is True and options["logprobs_mode"] == "raw_logprobs"
    assert options["enable_chunked_prefill"] is False
    assert options["max_num_batched_tokens"] >= options["max_model_len"] == 128
    assert "weight_transfer_config" not in options and "enable_sleep_mode" not in options


def test_on_a_shared_gpu_sleep_mode_and_vllms_weight_transfer_are_enabled() -> None:
    settings = RolloutEngineSettings(
        model=MODEL,
        max_model_len=128,
        gpu_memory_fraction=0.3,
        transport="ipc",
        sleeps=True,
        logprobs="tempered",
    )
    options = rollout_options(settings, on_cpu=False)
    assert options["weight_transfer_config"] == {"backend": "ipc"} and options["enable_sleep_mode"] is True
    assert options["gpu_memory_utilization"] == 0.3 and options["logprobs_mode"] == "processed_logprobs"
    assert "kv_cache_memory_bytes" not in options


def test_the_size_of_the_kv_cache_is_set_on_a_gpu_only() -> None:
    from vllm.engine.arg_utils import EngineArgs

    settings = replace(SETTINGS, kv_cache_bytes=3 * 10**9)
    options = rollout_options(settings, on_cpu=False)
    assert EngineArgs(**options).kv_cache_memory_bytes == 3 * 10**9
    assert "kv_cache_memory_bytes" not in rollout_options(settings, on_cpu=True)


def test_the_engine_runs_in_the_actors_own_process() -> None:
    environment = rollout_environment(SETTINGS, on_cpu=True)
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_truncated_sampling_reaches_vllm() -> None:
    engine = object.__new__(RolloutEngine)
    engine.settings = SETTINGS
    request = RolloutRequest(prompt=[5, 6], seed=3)
    for sampling, expected in ((replace(SAMPLING, top_p=0.95, top_k=20), (0.95, 20)), (SAMPLING, (1.0, 0))):
        params = engine._params(0, request, sampling)
        assert (params.top_p, params.top_k) == expected and params.temperature == 1.0


def flat(tokens: list[int], logprobs: list[list[tuple[int, float]]]) -> SimpleNamespace:
    """Return vLLM's output of one rollout with the layout of its FlatLogprobs."""
    starts = np.cumsum([0, *(len(row) for row in logprobs)])[:-1].tolist()
    entries = [pair for row in logprobs for pair in row]
    values = SimpleNamespace(
        start_indices=starts,
        token_ids=[token for token, _ in entries],
        logprobs=[value for _, value in entries],
    )
    return SimpleNamespace(token_ids=tokens, logprobs=values, finish_reason="stop")


def test_the_sampled_tokens_log_probability_is_taken_at_every_position() -> None:
    found = generation(flat([4, 9], [[(4, -0.5), (7, -0.1)], [(9, -2.0)]]), version=3)
    assert found.tokens.tolist() == [4, 9] and found.logprobs.tolist() == [-0.5, -2.0]
    assert (found.finish_reason, found.version) == ("stop", 3)
    assert found.tokens.dtype == np.int32 and found.logprobs.dtype == np.float32


@pytest.mark.parametrize("logprobs", [[[(4, -0.5)]], [[(4, -0.5)], [(8, -2.0)]]])
def test_log_probabilities_of_other_tokens_are_refused(logprobs: list[list[tuple[int, float]]]) -> None:
    with pytest.raises(RuntimeError, match="do not match the sampled tokens"):
        generation(flat([4, 9], logprobs), version=0)


@pytest.mark.parametrize(
    "kind", ["LlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"]
)
def test_vllms_own_tokenizer_builds_the_prompts_of_the_training(tmp_path: Path, kind: str) -> None:
    copy = copy_model("student", tmp_path / "student")
    edit(copy / "tokenizer_config.json", lambda data: data.update(tokenizer_class=kind))
    problems, day = ["What is 1 + 2?", "Solve x + 1 = 2\nfor   x."], date(2026, 2, 3)
    template = tmp_path / "template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}<|im_end|>")
    found = engine_prompt_ids(copy, problems, thinking=False, day=day, chat_template=None)
    assert found == prompt_ids(load_tokenizer(str(copy)), problems, thinking=False, day=day)
    if kind != "LlamaTokenizerFast":  # which is refused
        model = open_model("student", str(copy), PromptSettings(chat_template=template))
        found = engine_prompt_ids(copy, problems, thinking=False, day=day, chat_template=template.read_text())
        assert found == encode_prompts(model, problems, thinking=False, day=day)


def test_engines_that_died_are_restarted_before_a_transfer_and_the_others_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass
    class Engine:
        number: int
        alive: bool = True

        def answer(self) -> int:
            if not self.alive:
                raise ActorLost("rollout engine", "killed")
            return self.number

        @property
        def version(self) -> Any:
            return SimpleNamespace(remote=lambda: self.answer)

        ready = version

    started: list[Engine] = []
    monkeypatch.setattr(pool, "result", lambda call, _who: call())
    monkeypatch.setattr(
        RolloutPool, "_start", lambda _pool, _index: started.append(Engine(len(started))) or started[-1]
    )
    losses: list[str] = []
    plan = make_placement("split", students=1, engines=2)
    engines = RolloutPool(plan, None, SETTINGS, on_loss=losses.append)
    for count in range(1, MAX_LOSSES + 1):
        engines.actors[1].alive = False
        engines.revive()
        assert [one.number for one in engines.actors] == [0, 1 + count] and len(losses) == count
    engines.actors[0].alive = False
    with pytest.raises(UserError, match="engine deaths in this run: 4"):
        engines.revive()


# --- with real engines -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A student and its rollout engines with the same pocket model, and the messages about lost engines."""

    student: StudentGroup
    engines: RolloutPool
    losses: list[str]


@pytest.fixture(scope="module")
def world(ray_session: None) -> Iterator[World]:
    plan = make_placement("cpu", students=1, engines=1)
    place = reserve(plan)
    losses: list[str] = []
    settings = RankSettings(
        model=MODEL, total_steps=10, warmup_steps=0, learning_rate=5e-3, zero_stage=2, threads=1, clip=1e9
    )
    engines = RolloutPool(plan, place, SETTINGS, on_loss=losses.append)
    student = StudentGroup(plan, place, settings, TopKCrossEntropy())
    student.connect()
    engines.ready()
    student.open_transfer(choose_transport(plan), engines)
    yield World(student=student, engines=engines, losses=losses)
    engines.close()
    student.close()


def requests(count: int = 64) -> list[RolloutRequest]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return [
        RolloutRequest(
            prompt=tokenizer.apply_chat_template(
                [{"role": "user", "content": f"What is {number} plus {2 * number + 1}?"}],
                add_generation_prompt=True,
                enable_thinking=False,
                return_dict=False,
            ),
            seed=2**62 + 7919 * number,
        )
        for number in range(count)
    ]


def joined(asked: list[RolloutRequest], rollouts: list[Generation]) -> list[TokenSequence]:
    return [
        TokenSequence(
            tokens=np.concatenate([np.array(request.prompt, dtype=np.int32), one.tokens]),
            prompt_length=len(request.prompt),
        )
        for request, one in zip(asked, rollouts, strict=True)
    ]


def mismatch(world: World, asked: list[RolloutRequest], rollouts: list[Generation]) -> tuple[float, float]:
    student = world.student.logprobs(joined(asked, rollouts))
    return logprob_mismatch(np.concatenate([one.logprobs for one in rollouts]), np.concatenate(student))


def learn(world: World, sequences: list[TokenSequence]) -> None:
    """Do one update that changes the student considerably."""
    world.student.step([update(sequences[:8], [list(range(8))])])


slow = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestWithEngines:
    pytestmark = slow

    def test_rollouts_have_tokens_log_probabilities_and_a_finish_reason(self, world: World) -> None:
        world.student.sync(world.engines, 0)
        asked = requests()
        rollouts = world.engines.generate(asked, SAMPLING)
        assert all(len(one.tokens) == len(one.logprobs) > 0 for one in rollouts)
        assert all((one.logprobs <= 0).all() and np.isfinite(one.logprobs).all() for one in rollouts)
        for one in rollouts:
            assert (one.finish_reason == "stop") == (one.tokens[-1] == END)
            assert END not in one.tokens[:-1].tolist()
            assert one.finish_reason == "stop" or len(one.tokens) == SAMPLING.max_tokens
        assert {one.finish_reason for one in rollouts} >= {"stop"}
        assert {one.version for one in rollouts} == {0}

    def test_a_rollout_depends_only_on_its_seed(self, world: World) -> None:
        asked = requests()
        rollouts = world.engines.generate(asked, SAMPLING)
        backwards = world.engines.generate(asked[::-1], SAMPLING)[::-1]
        streamed = dict(world.engines.stream(asked[5:9], SAMPLING))
        for index, one in enumerate(rollouts):
            assert np.array_equal(one.tokens, backwards[index].tokens)
            assert np.array_equal(one.logprobs, backwards[index].logprobs)
        assert sorted(streamed) == [0, 1, 2, 3]
        assert all(np.array_equal(streamed[index].tokens, rollouts[5 + index].tokens) for index in range(4))
        again = [RolloutRequest(prompt=asked[0].prompt, seed=seed) for seed in range(8)]
        assert len({one.tokens.tobytes() for one in world.engines.generate(again, SAMPLING)}) > 1

    def test_after_a_sync_engine_and_student_agree_on_64_sequences(self, world: World) -> None:
        asked = requests()
        first = world.engines.generate(asked, SAMPLING)
        learn(world, joined(asked, first))
        snapshot = world.student.sync(world.engines, 1)
        (report,) = world.engines.load(snapshot)
        assert (report.version, report.checksum) == (1, snapshot.checksum)
        assert report.live.equal >= 1 and report.live.different == ()
        rollouts = world.engines.generate(asked, SAMPLING)
        assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(first, rollouts, strict=True))
        mean, highest = mismatch(world, asked, rollouts)
        assert mean < 0.03 and highest < 1.0
        check_versions(1, [one.version for one in rollouts])
        check_mismatch(mean, version=1)

    def test_a_skipped_sync_is_detected_by_version_and_by_mismatch(self, world: World) -> None:
        asked = requests()
        world.student.sync(world.engines, 2)
        learn(world, joined(asked, world.engines.generate(asked, SAMPLING)))
        rollouts = world.engines.generate(asked, SAMPLING)  # the student was updated, the engine was not
        with pytest.raises(UserError, match="has weight version 2, but the student has version 3"):
            check_versions(3, [one.version for one in rollouts])
        mean, _ = mismatch(world, asked, rollouts)
        with pytest.raises(UserError, match="the engines' weights are stale"):
            check_mismatch(mean, version=3)
        world.student.sync(world.engines, 3)
        after, _ = mismatch(world, asked, world.engines.generate(asked, SAMPLING))
        assert after < 0.03 and mean > 0.05

    def test_corrupted_weights_are_refused(self, world: World) -> None:
        snapshot = world.student.sync(world.engines, 4)
        name = "model.norm.weight"
        lying = replace(snapshot, version=5, sums={**snapshot.sums, name: snapshot.sums[name] ^ 1})
        with pytest.raises(
            UserError, match="weight version 5 was not received correctly by a rollout engine"
        ):
            world.engines.load(lying)
        (report,) = world.engines.load(snapshot)
        assert report.version == 4

    def test_a_prompt_that_fills_the_context_is_refused_and_the_engine_keeps_working(
        self, world: World
    ) -> None:
        asked = requests(3)
        asked[1] = RolloutRequest(prompt=[5] * 128, seed=1)
        with pytest.raises(UserError, match="prompt 1 has 128 tokens, but the context length is 128"):
            world.engines.generate(asked, SAMPLING)
        rollouts = world.engines.generate([RolloutRequest(prompt=[5] * 120, seed=1)], SAMPLING)
        assert len(rollouts[0].tokens) <= 8

    @pytest.mark.parametrize("when", ["in a batch", pytest.param("before a batch", marks=pytest.mark.long)])
    def test_a_killed_engine_is_restarted_and_generates_the_same_rollouts(
        self, world: World, when: str
    ) -> None:
        import ray

        world.student.sync(world.engines, 6)
        asked = requests()
        expected = world.engines.generate(asked, SAMPLING)
        process: Any = ray.get(world.engines.actors[0].process.remote())
        if when == "before a batch":
            os.kill(process, signal.SIGKILL)
        stream = world.engines.stream(asked, SAMPLING)
        found = dict([next(stream)])
        if when == "in a batch":
            os.kill(process, signal.SIGKILL)
        found |= dict(stream)
        assert sorted(found) == list(range(len(asked)))
        assert all(np.array_equal(found[i].tokens, expected[i].tokens) for i in range(len(asked)))
        assert {one.version for one in found.values()} == {6}
        assert world.losses and all("weight version 6" in one for one in world.losses)

    def test_a_rollout_engine_loads_an_exported_student(self, world: World, tmp_path: Path) -> None:
        world.student.export(tmp_path / "export")
        plan = make_placement("cpu", students=1, engines=1)
        other = RolloutPool(
            plan,
            reserve(plan),
            RolloutEngineSettings(model=tmp_path / "export", max_model_len=128, max_num_seqs=64),
        )
        try:
            (facts,) = other.ready()
            assert facts["logprobs_mode"] == "raw_logprobs"
            rollouts = other.generate(requests(8), SAMPLING)
        finally:
            other.close()
        assert {one.version for one in rollouts} == {INITIAL_VERSION}
        assert mismatch(world, requests(8), rollouts)[0] < 0.03
