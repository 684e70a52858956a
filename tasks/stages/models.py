"""How stages reach a chat model: reached or served, with the run's ledger, and gone when the stage is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from tasks.core.config import PROJECT_ROOT, ModelRole
from tasks.io.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.io.invariance import BatchInvariance
from tasks.io.ledger import Ledger, Spent
from tasks.io.servers import serving
from tasks.io.turns import Answers, Turns
from tasks.stages.driver import Run
from tasks.stages.pending import Pending

Item = TypeVar("Item")


@contextmanager
def chat_model(
    run: Run, role_name: str, stage: str, log: Callable[[str], None], look: Callable[[], None] = lambda: None
) -> Iterator[ChatModel]:
    """The role's model with the run's ledger; a server started for it ends with the block. `look` is called now and then
    while it starts, and may raise."""
    role: ModelRole = getattr(run.config.models, role_name)
    identity = run.identities[role_name]
    log(f"{stage}: reaching {role_name} {identity}")

    waiting = now_and_then(
        lambda seconds, line: log(f"{stage}: {role_name} is starting, {seconds:.0f} s: {line[:120]}"),
        look=look,
    )
    with (
        serving(role, root=PROJECT_ROOT, log=run.server_log(stage), on_wait=waiting) as server,
        Ledger(run.ledger_path) as ledger,
    ):
        log(f"{stage}: {role_name} answers at {server.base_url}")
        note_engine(server.invariance, role_name, identity, ledger, log)
        model = ChatModel(role, server.base_url, server.model_name, identity, ledger, is_vllm=server.is_vllm)
        yield model
        used = model.usage
        log(
            f"{stage}: {used.completions} requests sent, {used.cached} from the ledger, {used.failures} failed; "
            f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
        )
        spent = ledger.spent().get(identity, Spent())
        log(
            f"{stage}: {identity} has answered {spent.requests:,} requests for this folder so far, with "
            f"{spent.prompt_tokens:,} prompt and {spent.completion_tokens:,} completion tokens"
        )


def note_engine(
    found: BatchInvariance | None, role: str, model: str, ledger: Ledger, log: Callable[[str], None]
) -> None:
    """Log whether a role's engine is batch-invariant, and record it with the answers that it gives."""
    if found is None:
        log(f"{role}: served elsewhere, its batch invariance is not checked")
        return
    log(f"{role}: {found.sentence}")
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


def now_and_then(
    say: Callable[[float, str], None], every_s: float = 15.0, look: Callable[[], None] = lambda: None
) -> Callable[[float, str], None]:
    """`say`, called for the first time after `every_s` seconds of waiting and then at most that often; `look` each time."""
    said = 0.0

    def sparse(seconds: float, line: str) -> None:
        nonlocal said
        look()
        if seconds - said >= every_s:
            said = seconds
            say(seconds, line)

    return sparse


def ask(
    model: ChatModel, requests: Sequence[ChatRequest], at: Callable[[int], None]
) -> list[Completion | Failure]:
    """Every request's outcome, in request order. A server that is gone raises; a request that it refuses is a `Failure`."""
    return model.complete_all(requests, on_progress=lambda done, _total: at(done))


class AskedAhead(Generic[Item]):
    """The requests of a stage, shard by shard: while the last answers of a shard are awaited, the next one's are asked for.

    `requests_of(index)` gives a shard's items and the request of each; `count()` the number of shards. Those that are not
    `pending` are left out.
    """

    def __init__(
        self, turns: Turns, requests_of: Callable[[int], tuple[Sequence[Item], Sequence[ChatRequest]]],
        count: Callable[[], int], pending: Pending,
    ) -> None:  # fmt: skip
        self._turns, self._requests_of, self._count, self._pending = turns, requests_of, count, pending
        self._asked: dict[int, tuple[Sequence[Item], Answers]] = {}

    def answered(self, index: int, at: Callable[[int], None]) -> list[tuple[Item, Completion | Failure]]:
        """The items of a shard with their outcomes, in order; shards in rising order. A server that is gone raises."""
        self._ask(index)
        following = (other for other in range(index + 1, self._count()) if self._pending.is_left(other))
        if (after := next(following, None)) is not None:
            self._ask(after)
        items, answers = self._asked.pop(index)
        return list(zip(items, answers.wait(at), strict=True))

    def _ask(self, index: int) -> None:
        if index not in self._asked:
            items, requests = self._requests_of(index)
            self._asked[index] = items, self._turns.ask(requests)
