"""The rollout engine: an offline vLLM engine in a Ray actor that maps prompt token ids to sampled ids with log-probabilities.

Tokens are never decoded and encoded again, so the student trains on exactly what the engine sampled. Every rollout has its own
seed and does not depend on order, on the batch or on the number of engines (bitwise on CPU, given equal weights). An actor's
only state is its weights and their version: a dead one is restarted, given a snapshot, and sent its requests again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from tasks.config import ModelRole, Serve
from tasks.errors import UserError
from tasks.llm.invariance import BatchInvariance, check_invariance, engine_probes
from tasks.llm.vllm_options import LogprobsMode, engine_environment, engine_options
from tasks.processes.imports import fast_imports
from tasks.processes.machine import engine_device
from training.data.model_files import prompt_ids
from training.weight_sync.sync import Transport
from training.weight_sync.weights import LiveCheck, Snapshot, compare_live, summed, tensor_sum, unpack

INITIAL_VERSION = -1
"""The weight version of an engine that has not been synced: it has the weights of the model folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutEngineSettings:
    """Settings of a rollout engine. `engines` is the number of engines of the run (they share the cores on CPU).

    `logprobs`: of the unscaled distribution ("raw"), or after the temperature ("tempered"). `sleeps`: the engine shares its GPU
    and frees its memory between rollouts. `kv_cache_bytes`: fixed size of the KV cache on a GPU (None: vLLM profiles what
    `gpu_memory_fraction` leaves, which counts other processes' memory as its own).
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
    """Sampling by temperature, and by the `top_k` most probable tokens or the fewest with probability `top_p` if these truncate.

    A rollout ends with one of `stop_token_ids`, which it includes, or after `max_tokens`.
    """

    temperature: float
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    top_p: float = 1.0
    top_k: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """A request for one rollout: the prompt's token ids and the sampling seed."""

    prompt: Sequence[int]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One rollout: sampled ids [T] (int32), the log-probability of each [T] (float32, nats), the finish reason ("stop" or
    "length"), and the weight version it was sampled with."""

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """State of an engine after a sync: its weight version, the checksum of the received weights, and the comparison of its own
    tensors with the sender's."""

    version: int
    checksum: int
    live: LiveCheck


def rollout_options(settings: RolloutEngineSettings, *, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`: those of the dataset factory, without a tokenizer and with weight transfer."""
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


def rollout_environment(settings: RolloutEngineSettings, *, on_cpu: bool) -> dict[str, str]:
    """Return the environment of the actor. vLLM runs in the actor's own process, so weights are passed without a copy."""
    serve = Serve(kv_cache_gib=settings.kv_cache_gib, batch_invariant=settings.batch_invariant)
    common = engine_environment(serve, local=True, on_cpu=on_cpu, engines=settings.engines)
    return common | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}


def engine_prompt_ids(
    model: Path, problems: Sequence[str], *, thinking: bool, day: date | None, chat_template: str | None
) -> list[tuple[int, ...]]:
    """Return the token ids of the problems' prompts by vLLM's own tokenizer of a model folder, with the chat template that is
    given or the folder's."""
    from vllm.tokenizers import get_tokenizer

    tokenizer: Any = get_tokenizer(str(model), trust_remote_code=False)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return prompt_ids(tokenizer, problems, thinking=thinking, day=day)


class RolloutEngine:
    """One rollout engine; `training.rollouts.pool` turns it into a Ray actor. Every public method may be called remotely."""

    def __init__(
        self, settings: RolloutEngineSettings, environment: dict[str, str], options: dict[str, Any]
    ) -> None:
        os.environ.update(environment)
        with fast_imports():
            from vllm import LLM

        self.settings = settings
        self._llm = LLM(**options)
        self._version = INITIAL_VERSION
        self._calls = 0
        self._asleep: set[str] = set()
        self._invariance: BatchInvariance | None = None

    def ready(self) -> dict[str, Any]:
        """Check the engine's batch invariance, and return the description of the engine for the run's record."""
        import vllm

        engine = self._llm.llm_engine
        config = engine.model_config
        if self._invariance is None:
            probes = engine_probes(engine)
            self._invariance = check_invariance(probes, dtype=self.settings.dtype, machine=engine_device())
        return {
            "batch_invariance": self._invariance.description,
            "vllm": vllm.__version__,
            "dtype": str(config.dtype),
            "logprobs_mode": str(config.logprobs_mode),
            "max_model_len": config.max_model_len,
        }

    def version(self) -> int:
        """Return the version of the engine's weights."""
        return self._version

    def process(self) -> int:
        """Return the process id of the engine."""
        return os.getpid()

    def prompt_ids(self, problems: Sequence[str], **format_options: Any) -> list[tuple[int, ...]]:
        """Return `engine_prompt_ids` for the engine's model folder."""
        return engine_prompt_ids(self.settings.model, problems, **format_options)

    # --- generating ---------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[RolloutRequest], sampling: RolloutSampling) -> list[Generation]:
        """Return one rollout per request, in the order of the requests."""
        found = dict(self.stream(requests, sampling))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the request, rollout) as rollouts finish, usually the shortest first, so that scoring can start early.

        Raises `UserError`, before anything is sampled, if a prompt is empty or fills the context.
        """
        from vllm.inputs import tokens_input

        if self._asleep:
            raise RuntimeError("the engine is asleep and has no weights: sync before the next rollout")
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
        finally:  # abort the requests that are left if the consumer stops early
            if engine.has_unfinished_requests():
                engine.abort_request([f"{call}-{index}" for index in range(len(requests))])

    def _params(self, index: int, request: RolloutRequest, sampling: RolloutSampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        free_tokens = self.settings.max_model_len - len(request.prompt)
        if free_tokens < 1 or len(request.prompt) < 1:
            raise UserError(
                f"prompt {index} has {len(request.prompt)} tokens, but the context length is {self.settings.max_model_len}: drop"
                " the problem or raise the maximum lengths"
            )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=min(sampling.max_tokens, free_tokens),
            stop_token_ids=list(sampling.stop_token_ids),
            seed=request.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    # --- weights ------------------------------------------------------------------------------------------------

    def load(self, snapshot: Snapshot) -> LoadReport:
        """Load the snapshot's weights from Ray's object store. Raises `UserError` if they differ from what was sent."""
        self._wake("weights")
        sums: dict[str, int] = {}
        arriving = (pair for part in snapshot.parts for pair in unpack(_fetched(part)))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": summed(arriving, sums, {})})
        self._llm.apply_model(repack_tied_head)
        return self._taken(snapshot, Snapshot(version=snapshot.version, sums=sums, numels={}).checksum)

    def confirm(self, snapshot: Snapshot) -> LoadReport:
        """After a transfer by NCCL or IPC, compare the engine's own tensors with the snapshot's checksums. Raises `UserError` if
        they differ."""
        return self._taken(snapshot, snapshot.checksum)

    def _taken(self, snapshot: Snapshot, arrived: int) -> LoadReport:
        self._wake("kv_cache")
        self._llm.reset_prefix_cache()
        live = self._live(snapshot)
        if arrived != snapshot.checksum or live.different or not live.equal:
            wrong = live.different[0] if live.different else "the checksum of the received weights"
            raise UserError(
                f"weight version {snapshot.version} was not received correctly by a rollout engine ({wrong} differs): start the"
                " run again from its last checkpoint"
            )
        self._version = snapshot.version
        return LoadReport(version=self._version, checksum=arrived, live=live)

    def _live(self, snapshot: Snapshot) -> LiveCheck:
        """Compare the engine's own tensors with the snapshot. A CPU engine repacks its linear layers, so only embeddings and
        norms are comparable; on a GPU all tensors are."""

        def sums(model: Any) -> tuple[dict[str, tuple[int, int]], dict[str, list[str]]]:
            named = {
                name: (parameter.numel(), tensor_sum(parameter))
                for name, parameter in model.named_parameters()
            }
            return named, dict(getattr(model, "packed_modules_mapping", {}))

        live, joined = self._llm.apply_model(sums)[0]
        return compare_live(live, snapshot, joined)

    # The receiving end of an NCCL or IPC transfer, called by `training.weight_sync.sync.EngineClient`.

    def open_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the sender's transfer, described by vLLM's `init_info`. Closes an earlier transfer."""
        self._llm.collective_rpc("shutdown_weight_transfer_engine")
        self._llm.collective_rpc("init_weight_transfer_engine", args=(init_info,))

    def start_update(self) -> None:
        """Prepare for new weights."""
        self._wake("weights")
        self._llm.collective_rpc("start_weight_update")

    def receive(self, update_info: Any) -> None:
        """Receive the weights described by vLLM's `update_info`, or one chunk of them."""
        self._llm.collective_rpc("update_weights", args=(update_info,))

    def finish_update(self) -> None:
        """Activate the received weights."""
        self._llm.collective_rpc("finish_weight_update")
        self._llm.apply_model(repack_tied_head)

    # --- sleeping -----------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Free the GPU memory of an engine that shares its GPU. This drops the weights, so sync them before the next rollout."""
        if self.settings.sleeps and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = {"weights", "kv_cache"}
            self._version = INITIAL_VERSION

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            self._llm.wake_up([part])
            self._asleep.discard(part)


def generation(sample: Any, version: int) -> Generation:
    """Convert vLLM's output of one rollout. At each position of the flat log-probabilities the sampled token comes first."""
    flat = sample.logprobs
    chosen = np.asarray(flat.start_indices, dtype=np.int64)
    tokens = np.asarray(sample.token_ids, dtype=np.int32)
    if len(chosen) != len(tokens) or (np.asarray(flat.token_ids, dtype=np.int64)[chosen] != tokens).any():
        raise RuntimeError("vLLM's log-probabilities do not match the sampled tokens: check its version")
    return Generation(
        tokens=tokens,
        logprobs=np.asarray(flat.logprobs, dtype=np.float32)[chosen],
        finish_reason=str(sample.finish_reason),
        version=version,
    )


def repack_tied_head(model: Any) -> bool:
    """Repack a tied LM head on CPU; return whether there was one.

    On CPU vLLM computes with repacked copies of its weights. Its reload does not update the copy of a head that is tied to the
    embedding, because no tensor is loaded for that head.
    """
    head: Any = getattr(model, "lm_head", None)
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if embedding is None or head is embedding or not hasattr(head, "cpu_linear"):
        return False
    if head.weight.data_ptr() != embedding.weight.data_ptr():
        return False
    head.quant_method.process_weights_after_loading(head)
    return True


def _fetched(part: Any) -> Any:
    """Return a part, fetched from Ray's object store if it is a reference."""
    import ray

    return ray.get(part) if isinstance(part, ray.ObjectRef) else part
