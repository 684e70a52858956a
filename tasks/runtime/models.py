"""Chat models of the stages: connect to an endpoint or start a server, use the run's ledger, and shut down afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from tasks.config import PROJECT_ROOT, ModelRole
from tasks.llm.callbacks import WAIT_NOTICE_S
from tasks.llm.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.llm.invariance import BatchInvariance
from tasks.llm.ledger import Ledger, Spent
from tasks.llm.model_folder import model_folder
from tasks.llm.servers import serving
from tasks.llm.turns import Answers, Turns
from tasks.llm.vllm_options import CPU_KV_CACHE_GIB
from tasks.processes.machine import device_is_cpu
from tasks.processes.ticker import NOTICE_S
from tasks.runtime.driver import Run
from tasks.runtime.engine_pool import Engine
from tasks.runtime.pending import Pending
from tasks.text import counted

Item = TypeVar("Item")

CPU_ENGINE_BYTES = 2 * 2**30
"""Memory of an engine on a CPU besides weights and KV cache; a pocket server takes 2 GB in all."""


@contextmanager
def chat_model(
    run: Run,
    role_name: str,
    stage: str,
    log: Callable[[str], None],
    check_cancelled: Callable[[], None] = lambda: None,
) -> Iterator[ChatModel]:
    """Open the role's model with the run's ledger; a server that is started for it ends with the block.

    `check_cancelled` is the cancellation check: it is called periodically while the server starts, and may raise.
    """
    role: ModelRole = getattr(run.config.models, role_name)
    identity, engine, name = run.identities[role_name], server(run, role_name), role_name.replace("_", " ")
    connects = role.serve is None or run.engines.is_up(engine)
    log(f"{stage}: {'connecting to' if connects else 'starting'} the {name} server ({role.model})")

    waiting = rate_limited(
        lambda seconds, line: log(
            f"{stage}: waiting for the {name} server, {seconds:.0f} s{f' ({line})' if line else ''}"
        ),
        check_cancelled=check_cancelled,
    )
    with run.engines.use(engine, waiting) as found, Ledger(run.ledger_path) as ledger:
        log(f"{stage}: the {name} server is ready at {', '.join(found.base_urls)}")
        note_engine(found.invariance, role_name, identity, ledger, log)
        model = ChatModel(
            role, found.base_urls, found.model_name, identity, ledger, offer=found.offer
        )  # fmt: skip
        run.live.uses(role_name, model.usage)
        yield model
        used = model.usage
        log(
            f"{stage}: {counted(used.completions, 'request')} sent, {used.cached:,} from the ledger, {used.failures:,} failed; "
            f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
        )
        spent = ledger.spent().get(identity, Spent())
        log(
            f"{stage}: total of {identity} in this output folder: {counted(spent.requests, 'request')}, "
            f"{spent.prompt_tokens:,} prompt and {spent.completion_tokens:,} completion tokens"
        )


def server(run: Run, role_name: str) -> Engine:
    """Return the engine of a chat role: its server. Roles that serve the same model with the same settings share one."""
    role: ModelRole = getattr(run.config.models, role_name)
    served = (role.model, role.revision, role.base_url, role.max_model_len, role.dtype, role.serve)
    return Engine(
        role=role_name, settings=("server", *served), memory=engine_memory(role),
        open=lambda on_wait: serving(role, root=PROJECT_ROOT, log=run.server_log(role_name), on_wait=on_wait),
    )  # fmt: skip


def engine_memory(role: ModelRole) -> float | None:
    """Return the memory that the role's engine takes: on GPUs its share of one, of which the first runs all engines, else bytes.

    None for a model that is served elsewhere.
    """
    if role.serve is None:
        return None
    if not device_is_cpu():
        return role.serve.gpu_memory_fraction
    folder = model_folder(role.model, PROJECT_ROOT)
    if folder is None:
        return math.inf  # the size of a model of the hub is not known before it is downloaded
    weights = 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))  # bf16 served as float32
    cache = (role.serve.kv_cache_gib or CPU_KV_CACHE_GIB) * 2**30
    return role.serve.engines * (weights + cache + CPU_ENGINE_BYTES)


def note_engine(
    found: BatchInvariance | None, role: str, model: str, ledger: Ledger, log: Callable[[str], None]
) -> None:
    """Log whether a role's engine is batch-invariant, and record it with the answers that it gives."""
    if found is None:
        log(f"{role}: served elsewhere, its batch invariance is not checked")
        return
    log(f"{role}: {found.description}")
    ledger.record_engine(model, found.dtype, found.machine, invariant=found.verified)


def batch_invariance(run: Run) -> dict[str, str]:
    """Each role's batch invariance on the machines whose answers are in the run's ledger, for the manifest."""
    if not run.ledger_path.exists():
        return {}
    with Ledger(run.ledger_path) as ledger:
        engines = {
            name: ledger.engines(model, getattr(run.config.models, name).dtype)
            for name, model in run.identities.items()
        }
    return {
        name: "; ".join(f"{'verified' if invariant else 'not invariant'} on {machine}" for machine, invariant in found.items())
        or "not checked"
        for name, found in engines.items()
    }  # fmt: skip


def rate_limited(
    log: Callable[[float, str], None],
    every_s: float = NOTICE_S,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Callable[[float, str], None]:
    """Return a callback that calls `check_cancelled` each time and `log` at most once every `every_s` seconds of waiting."""
    logged = 0.0

    def on_wait(seconds: float, line: str) -> None:
        nonlocal logged
        check_cancelled()
        if seconds - logged >= every_s - WAIT_NOTICE_S:  # the next call may come this much later
            logged = seconds
            log(seconds, line)

    return on_wait


def complete_all(
    model: ChatModel, requests: Sequence[ChatRequest], on_progress: Callable[[int], None]
) -> list[Completion | Failure]:
    """Return the outcome of every request, in order: a refused request is a `Failure`; an unreachable server raises."""
    return model.complete_all(requests, on_progress=lambda done, _total: on_progress(done))


class RequestsAhead(Generic[Item]):
    """Send the requests of a stage shard by shard; the next shard's are sent while the last replies of a shard are pending.

    `requests_of(index)` returns the items of a shard and the request of each, `count()` the number of shards. Only shards
    that are `pending` are requested ahead.
    """

    def __init__(
        self, turns: Turns, requests_of: Callable[[int], tuple[Sequence[Item], Sequence[ChatRequest]]],
        count: Callable[[], int], pending: Pending,
    ) -> None:  # fmt: skip
        self._turns, self._requests_of, self._count, self._pending = turns, requests_of, count, pending
        self._requested: dict[int, tuple[Sequence[Item], Answers]] = {}

    def outcomes(
        self, index: int, on_progress: Callable[[int], None]
    ) -> list[tuple[Item, Completion | Failure]]:
        """Return the items of a shard with their outcomes, in order. Call it for the shards in ascending order.

        Raises if the server is unreachable.
        """
        self._request(index)
        following = (other for other in range(index + 1, self._count()) if self._pending.is_left(other))
        if (after := next(following, None)) is not None:
            self._request(after)
        items, answers = self._requested.pop(index)
        return list(zip(items, answers.wait(on_progress), strict=True))

    def _request(self, index: int) -> None:
        if index not in self._requested:
            items, requests = self._requests_of(index)
            self._requested[index] = items, self._turns.ask(requests)
