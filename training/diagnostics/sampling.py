"""Samples of a model from token ids: every finished one is kept in the ledger, so that a killed diagnostic continues with the
missing ones."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.identity import canonical_json
from tasks.llm.ledger import Ledger
from tasks.processes.machine import device_is_cpu
from tasks.processes.ray_session import RaySession
from tasks.processes.ticker import ticking
from tasks.reports.pages import duration
from training.diagnostics.command import Log
from training.diagnostics.settings import DiagnosticSettings
from training.rollouts.engine import Generation, RolloutEngineSettings, RolloutRequest, RolloutSampling
from training.rollouts.pool import RolloutPool
from training.workers.placement import make_placement, reserved

__all__ = ["Engine", "Progress", "Sample", "Sampler", "engines"]

LOOKUP = 512
NOTE_S = 7.0


class Engine(Protocol):
    """What samples: `training.rollouts.pool.RolloutPool`, or a stand-in."""

    def stream(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling
    ) -> Iterator[tuple[int, Generation]]: ...


OpenEngine = Callable[[], AbstractContextManager[Engine]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The sampled token ids, and why the sample ended ("stop" or "length")."""

    tokens: tuple[int, ...]
    finish_reason: str


class Progress:
    """Logs how much of a phase is done, with rate and time left, at most every seven seconds and at its end."""

    def __init__(self, what: str, unit: str, total: int, log: Log) -> None:
        self._what, self._unit, self._total, self._log = what, unit, total, log
        self._done = 0
        self._began = self._noted = time.monotonic()

    def count(self, number: int = 1) -> None:
        """Count finished units."""
        self._done += number
        now = time.monotonic()
        if now - self._noted >= NOTE_S or self._done == self._total:
            self._noted = now
            rate = self._done / max(1e-9, now - self._began)
            left = f", {duration((self._total - self._done) / rate)} left" if self._done < self._total else ""
            self._log(
                f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.3g} a second{left}"
            )


class Sampler:
    """One model that samples; to be used as a context manager. `identity` is that of the model with its number format, `context`
    its longest sequence. Engines are started by `open_engine` when a sample is missing, and end with the block or `release`."""

    def __init__(
        self, identity: str, context: int, ledger: Ledger, open_engine: OpenEngine, log: Log
    ) -> None:
        self.identity, self.context = identity, context
        self._ledger, self._open, self._log = ledger, open_engine, log
        self._running = ExitStack()
        self._engine: Engine | None = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End the engines."""
        self._engine = None
        self._running.close()

    def sample(
        self, requests: Sequence[RolloutRequest], sampling: RolloutSampling, what: str
    ) -> list[Sample]:
        """Return one sample per request, in order. Every prompt must be shorter than the context."""
        keys = [self._key(request, sampling) for request in requests]
        found: dict[int, Sample] = {}
        for start in range(0, len(keys), LOOKUP):
            known = self._ledger.get_many(keys[start : start + LOOKUP])
            for place in range(start, min(start + LOOKUP, len(keys))):
                if (value := known.get(keys[place])) is not None:
                    found[place] = Sample(tokens=tuple(value["tokens"]), finish_reason=value["finish_reason"])
        missing = [place for place in range(len(keys)) if place not in found]
        if missing:
            found |= self._generate(requests, keys, missing, sampling, what)
        return [found[place] for place in range(len(keys))]

    def _generate(
        self,
        requests: Sequence[RolloutRequest],
        keys: Sequence[str],
        missing: Sequence[int],
        sampling: RolloutSampling,
        what: str,
    ) -> dict[int, Sample]:
        found = {}
        known = len(requests) - len(missing)
        self._log(f"{what}: {len(missing):,} samples to generate, {known:,} are known")
        if self._engine is None:
            self._engine = self._running.enter_context(self._open())
        progress = Progress(what, "samples", len(missing), self._log)
        for number, generation in self._engine.stream([requests[place] for place in missing], sampling):
            place, tokens = missing[number], generation.tokens.tolist()
            found[place] = Sample(tokens=tuple(tokens), finish_reason=generation.finish_reason)
            value = {"tokens": tokens, "finish_reason": generation.finish_reason}
            self._ledger.put(keys[place], value, model=self.identity)
            progress.count()
        self._ledger.flush()
        return found

    def _key(self, request: RolloutRequest, sampling: RolloutSampling) -> str:
        """Return the ledger key of a sample: a hash of model, context, prompt, sampling and seed."""
        settings = [
            "diagnostics/1", self.identity, self.context, sampling.temperature, sampling.top_p, sampling.max_tokens,
            list(sampling.stop_token_ids), request.seed,
        ]  # fmt: skip
        total = hashlib.sha256(canonical_json(settings).encode("ascii"))
        total.update(np.asarray(request.prompt, dtype=np.int64).tobytes())
        return total.hexdigest()


@contextmanager
def engines(
    folder: Path, dtype: Any, settings: DiagnosticSettings, length: int, log: Log
) -> Iterator[Engine]:
    """Yield the rollout engines of a model for sequences of at most `length` tokens. They end with the block."""
    name = "cpu" if device_is_cpu() else "split"
    placement = make_placement(name, students=0, engines=settings.engines, teachers=0)
    options = RolloutEngineSettings(
        model=folder, max_model_len=length, dtype=dtype, max_num_seqs=settings.max_num_seqs, engines=settings.engines,
        gpu_memory_fraction=settings.gpu_memory_fraction, kv_cache_gib=settings.kv_cache_gib,
    )  # fmt: skip
    with ExitStack() as stack:
        with ticking(lambda seconds: log(f"the engine of {folder.name} is starting, {seconds:.0f} s")):
            session = stack.enter_context(RaySession(settings.engines))
            pool = RolloutPool(placement, stack.enter_context(reserved(placement)), options, on_loss=log)
            stack.callback(pool.close)
            pool.ready()
            session.guard_workers()
        yield pool
