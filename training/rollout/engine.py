"""The rollout engine: one offline vLLM engine in a Ray actor, token ids in, token ids and their log-probabilities out.

Nothing is ever turned into text and back: what the student trains on is what the engine sampled. Every rollout has a seed
of its own, so it does not depend on order, company or the number of engines (on CPU bit by bit, once the weights agree).
The actor keeps nothing but its weights and their version, so a dead one is started again, given a snapshot, and asked again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from tasks.core.config import ModelRole, Serve
from tasks.core.errors import UserError
from tasks.io.engines import LogprobsMode, engine_options
from tasks.io.invariance import check_invariance, engine_probes
from tasks.io.servers import engine_environment, machine
from training.rollout.sync import Transport
from training.rollout.weights import LiveCheck, Snapshot, compare_live, summed, tensor_sum, unpack

INITIAL_VERSION = -1
"""The version of an engine that still has the weights of the model folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How an engine is started. `engines` is how many run beside it (they share the cores on CPU).

    `logprobs`: of the model as it is ("raw"), or after the temperature ("tempered"). `sleeps`: shares its GPU, so it gives
    its memory back between rollouts. `kv_cache_bytes`: of its KV cache on a GPU, whatever is free there (None: what its
    fraction of the card leaves, by vLLM's own profile, which takes a neighbour's memory for its own).
    """

    model: Path
    max_model_len: int
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_num_seqs: int = 256
    engines: int = 1
    gpu_memory_fraction: float = 0.9
    kv_cache_gib: int = 1
    kv_cache_bytes: int | None = None
    logprobs: LogprobsMode = "raw"
    transport: Transport = "object_store"
    sleeps: bool = False
    batch_invariant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSampling:
    """Sampling without truncation (top_p = 1, no top_k): what is drawn has exactly the log-probability that is recorded.

    A rollout ends with one of `stop_token_ids`, which belongs to it, or after `max_tokens`.
    """

    temperature: float
    max_tokens: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """One rollout to draw: the prompt's token ids and the seed."""

    prompt: Sequence[int]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One rollout: sampled ids [T] (int32), the log-probability of each [T] (float32, nats), how it ended ("stop" or
    "length"), and the version of the weights that drew it."""

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """An engine after a sync: its version, the checksum of what reached it, and its own tensors against the sender's."""

    version: int
    checksum: int
    live: LiveCheck


def rollout_options(settings: RolloutSettings, *, on_cpu: bool) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: the dataset factory's, without a tokenizer, and open for new weights."""
    serve = Serve(max_num_seqs=settings.max_num_seqs, gpu_memory_fraction=settings.gpu_memory_fraction)
    role = ModelRole(
        model=str(settings.model), dtype=settings.dtype, max_model_len=settings.max_model_len, serve=serve
    )
    options = engine_options(role, serve, str(settings.model), settings.logprobs, on_cpu=on_cpu)
    options |= {"skip_tokenizer_init": True, "disable_log_stats": True}
    if settings.transport != "object_store":
        options["weight_transfer_config"] = {"backend": settings.transport}
    if settings.kv_cache_bytes is not None and not on_cpu:
        options["kv_cache_memory_bytes"] = settings.kv_cache_bytes
    return options | ({"enable_sleep_mode": True} if settings.sleeps else {})


def rollout_environment(settings: RolloutSettings, *, on_cpu: bool) -> dict[str, str]:
    """Environment of the actor: vLLM in this very process, which is what lets weights be handed over without a copy."""
    serve = Serve(kv_cache_gib=settings.kv_cache_gib, batch_invariant=settings.batch_invariant)
    common = engine_environment(serve, local=True, on_cpu=on_cpu, engines=settings.engines)
    return common | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}


class Rollout:
    """One engine. Made a Ray actor by `training.rollout.pool`; every method may be called remotely."""

    def __init__(
        self, settings: RolloutSettings, environment: dict[str, str], options: dict[str, Any]
    ) -> None:
        os.environ.update(environment)
        from vllm import LLM

        self.settings = settings
        self._llm = LLM(**options)
        self._version = INITIAL_VERSION
        self._calls = 0
        self._asleep: set[str] = set()

    def ready(self) -> dict[str, Any]:
        """What is recorded of the engine with every run; checks its batch invariance."""
        import vllm

        engine = self._llm.llm_engine
        config = engine.model_config
        found = check_invariance(engine_probes(engine), dtype=self.settings.dtype, machine=machine())
        return {
            "batch_invariance": found.sentence,
            "vllm": vllm.__version__,
            "dtype": str(config.dtype),
            "logprobs_mode": str(config.logprobs_mode),
            "max_model_len": config.max_model_len,
        }

    def version(self) -> int:
        """The version of the weights that the engine holds."""
        return self._version

    def process(self) -> int:
        """The process that the engine lives in."""
        return os.getpid()

    # --- generating ---------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[RolloutRequest], sampling: RolloutSampling) -> list[Generation]:
        """One rollout for each request, in the order of the requests."""
        found = dict(self.stream(requests, sampling))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]:
        """(index of the request, rollout) as rollouts end, shortest first as a rule: scoring can start at once.

        Raises `UserError`, before anything is drawn, for a prompt that is empty or fills the context.
        """
        from vllm.inputs import tokens_input

        if self._asleep:
            raise RuntimeError("the engine slept and dropped its weights: sync before the next rollout")
        params = [self._params(index, request, sampling) for index, request in enumerate(requests)]
        engine, call = self._llm.llm_engine, self._calls
        self._calls += 1
        for index, request in enumerate(requests):
            engine.add_request(
                f"{call}-{index}", tokens_input([int(token) for token in request.prompt]), params[index]
            )
        try:
            while engine.has_unfinished_requests():
                for output in cast(list[Any], engine.step()):
                    if output.finished:
                        yield (
                            int(output.request_id.partition("-")[2]),
                            generation(output.outputs[0], self._version),
                        )
        finally:  # a consumer that stops early leaves nothing behind
            if engine.has_unfinished_requests():
                engine.abort_request([f"{call}-{index}" for index in range(len(requests))])

    def _params(self, index: int, request: RolloutRequest, sampling: RolloutSampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self.settings.max_model_len - len(request.prompt)
        if room < 1 or len(request.prompt) < 1:
            raise UserError(
                f"prompt {index} has {len(request.prompt)} tokens and the context {self.settings.max_model_len}: leave such"
                " problems out, or raise the maximum lengths"
            )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=min(sampling.max_tokens, room),
            stop_token_ids=list(sampling.stop_token_ids),
            seed=request.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    # --- weights ------------------------------------------------------------------------------------------------

    def load(self, snapshot: Snapshot) -> LoadReport:
        """Take the snapshot's weights, by the object store. Raises `UserError` when what arrived is not what was sent."""
        self._wake("weights")
        sums: dict[str, int] = {}
        arriving = (pair for part in snapshot.parts for pair in unpack(_fetched(part)))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": summed(arriving, sums, {})})
        self._llm.apply_model(repack_tied_head)
        return self._taken(snapshot, Snapshot(version=snapshot.version, sums=sums, numels={}).checksum)

    def confirm(self, snapshot: Snapshot) -> LoadReport:
        """After NCCL or IPC brought the weights: compare the engine's own tensors with the snapshot's sums."""
        return self._taken(snapshot, snapshot.checksum)

    def _taken(self, snapshot: Snapshot, arrived: int) -> LoadReport:
        self._wake("kv_cache")
        self._llm.reset_prefix_cache()
        live = self._live(snapshot)
        if arrived != snapshot.checksum or live.different or not live.equal:
            wrong = live.different[0] if live.different else "the checksum of what arrived"
            raise UserError(
                f"weight version {snapshot.version} did not reach an engine whole ({wrong} differs): start the run again from"
                " its last checkpoint"
            )
        self._version = snapshot.version
        return LoadReport(version=self._version, checksum=arrived, live=live)

    def _live(self, snapshot: Snapshot) -> LiveCheck:
        """The engine's own tensors against the snapshot. A CPU engine repacks its linear layers beyond recognition and
        keeps embeddings and norms; a GPU engine keeps all of them."""

        def sums(model: Any) -> tuple[dict[str, tuple[int, int]], dict[str, list[str]]]:
            named = {
                name: (parameter.numel(), tensor_sum(parameter))
                for name, parameter in model.named_parameters()
            }
            return named, dict(getattr(model, "packed_modules_mapping", {}))

        live, joined = self._llm.apply_model(sums)[0]
        return compare_live(live, snapshot, joined)

    # The receiving end of an NCCL or IPC transfer, driven by `training.rollout.sync.EngineClient`.

    def open_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the sender's transfer, as vLLM's `init_info` describes it; an earlier one is left."""
        self._llm.collective_rpc("shutdown_weight_transfer_engine")
        self._llm.collective_rpc("init_weight_transfer_engine", args=(init_info,))

    def start_update(self) -> None:
        """Make ready for new weights."""
        self._wake("weights")
        self._llm.collective_rpc("start_weight_update")

    def receive(self, update_info: Any) -> None:
        """Take the weights that vLLM's `update_info` describes, or one chunk of them."""
        self._llm.collective_rpc("update_weights", args=(update_info,))

    def finish_update(self) -> None:
        """Put the received weights to use."""
        self._llm.collective_rpc("finish_weight_update")
        self._llm.apply_model(repack_tied_head)

    # --- sleeping -----------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Give the GPU's memory back; the weights are dropped too, so a sync must come before the next rollout."""
        if self.settings.sleeps and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = {"weights", "kv_cache"}
            self._version = INITIAL_VERSION

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            self._llm.wake_up([part])
            self._asleep.discard(part)


def generation(sample: Any, version: int) -> Generation:
    """vLLM's output of one rollout as ours. The sampled token stands first at each position of the flat log-probabilities."""
    flat = sample.logprobs
    chosen = np.asarray(flat.start_indices, dtype=np.int64)
    tokens = np.asarray(sample.token_ids, dtype=np.int32)
    if len(chosen) != len(tokens) or (np.asarray(flat.token_ids, dtype=np.int64)[chosen] != tokens).any():
        raise RuntimeError("the engine's log-probabilities do not belong to the tokens that it sampled")
    return Generation(
        tokens=tokens,
        logprobs=np.asarray(flat.logprobs, dtype=np.float32)[chosen],
        finish_reason=str(sample.finish_reason),
        version=version,
    )


def repack_tied_head(model: Any) -> bool:
    """On CPU vLLM computes with repacked copies of its weights, and its reload leaves that of a head whose weight is the
    embedding's (nothing of its own was loaded): pack it again. Says whether there was one."""
    head: Any = getattr(model, "lm_head", None)
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if embedding is None or head is embedding or not hasattr(head, "cpu_linear"):
        return False
    if head.weight.data_ptr() != embedding.weight.data_ptr():
        return False
    head.quant_method.process_weights_after_loading(head)
    return True


def _fetched(part: Any) -> Any:
    """A part, out of Ray's object store when it is a reference."""
    import ray

    return ray.get(part) if isinstance(part, ray.ObjectRef) else part
