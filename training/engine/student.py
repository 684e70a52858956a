"""One data-parallel rank of the student: a DeepSpeed engine (ZeRO 0-3) in a Ray actor.

A step is given its micro-batches with every token's coefficient decided beforehand, from counts over all ranks and
micro-batches; so DeepSpeed's own means (over accumulation steps, over ranks) are undone, and the gradient does not depend
on how the batch was cut. All methods but `address` are collectives: call them on every rank.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tasks.core.errors import UserError
from tasks.io.disk import whole_folder
from training.engine.batches import (
    TokenSequence,
    batches_by_budget,
    check_sequences,
    make_batch,
    response_ids,
    split_by_sequence,
)
from training.engine.checkpoints import full_disk_named
from training.engine.network import (
    HeadWork,
    LoraSettings,
    Network,
    load_network,
    named_weights,
    read_head,
    weight_metadata,
    write_checkpoint,
)
from training.engine.zero import ZeroStage, deepspeed_config, learning_rate
from training.objectives.base import Positions, TokenLoss
from training.objectives.head import chunked_head, self_divergence
from training.objectives.teacher_states import from_states
from training.rollout.scoring import sampled_logprobs
from training.rollout.sync import GpuSender, Transport
from training.rollout.weights import Snapshot, from_bits, pack, summed

_STATE = "state"
SELF_TEST_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """Everything that a rank must know of the run. `vocabulary`: ids shared with the teacher (None: all of the model's).
    `head_chunk`: positions that go through the head at once. `token_budget`: positions of a forward pass, padding included.
    `threads`: of this process on CPU. `shares_gpu`: others need the GPU's memory between this rank's turns. `teacher_head`: the
    teacher's folder, where micro-batches carry its hidden states (`teacher_states`) and the student forms its distribution."""

    model: Path
    total_steps: int
    warmup_steps: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    zero_stage: ZeroStage = 2
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = True
    lora: LoraSettings | None = None
    vocabulary: int | None = None
    head_chunk: int = 256
    token_budget: int = 8192
    seed: int = 0
    threads: int | None = None
    shares_gpu: bool = False
    teacher_head: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Sequences, each response token's coefficient [T] (float64, already divided by the global denominators), and what the
    token loss sees besides the sampled tokens: arrays [T, ...] by the names of `Positions` (training.objectives.base), those of
    uint16 being patterns of bf16.

    T runs over the response tokens, sequence by sequence. No sequence at all is allowed: the rank then only takes part.
    """

    sequences: tuple[TokenSequence, ...]
    coefficients: np.ndarray
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What some micro-batches added to a rank's gradient. `loss` is their share of the global loss (add them up).
    `diagnostics` holds, for each micro-batch, per-token values [T] by name: `token_loss`, and what the token loss notes, such
    as `sampled_logprob` (NaN at positions with coefficient 0, which are skipped). `seconds` of this rank."""

    loss: float
    seconds: float
    diagnostics: tuple[Mapping[str, np.ndarray], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The gradient, put to use: the number of steps done, the rate, the global norm before clipping, this rank's seconds, and
    the most bytes of memory that it has held so far: of its GPU's, or on CPU of this machine's."""

    step: int
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory: int


class Student:
    """Made a Ray actor by `training.engine.group`. `connect` builds the engine once the ranks know each other."""

    def __init__(self, settings: StudentSettings, token_loss: TokenLoss, *, rank: int, ranks: int) -> None:
        self.settings = settings
        self._token_loss = token_loss
        self._rank, self._ranks = rank, ranks
        self._step = 0
        self._sender: GpuSender | None = None

    def address(self) -> tuple[str, int]:
        """An address of this machine and a free port, for the ranks (or an NCCL group) to meet at."""
        import ray

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def connect(self, address: str, port: int) -> dict[str, Any]:
        """Meet the other ranks, load the model, build the engine. Gives what is recorded of the student with every run."""
        on_cpu = not torch.cuda.is_available()
        _prepare_process(self.settings, rank=self._rank, ranks=self._ranks, address=address, port=port)
        import deepspeed

        _join_ranks(deepspeed, on_cpu=on_cpu)
        self._device = torch.device("cpu" if on_cpu else "cuda")
        network = load_network(
            self.settings.model,
            dtype=getattr(torch, self.settings.dtype),
            checkpointing=self.settings.gradient_checkpointing,
            lora=self.settings.lora,
            seed=self.settings.seed,
        )
        parameters = sum(parameter.numel() for parameter in network.parameters())
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        self._vocabulary = self.settings.vocabulary or len(network.model.lm_head.weight)
        if self.settings.teacher_head is not None:
            head = read_head(self.settings.teacher_head, self._vocabulary).to(self._device)
            self._token_loss = from_states(self._token_loss, head)
        self._engine = _build_engine(deepspeed, network, self.settings, parameters, on_cpu=on_cpu)
        self._network: Network = self._engine.module
        return {
            "parameters": parameters,
            "trained_parameters": trained,
            "deepspeed": deepspeed.__version__,
            "torch": torch.__version__,
            "device": str(self._device),
        }

    # --- training -----------------------------------------------------------------------------------------------

    def accumulate(self, micro_batches: Sequence[MicroBatch], *, last: bool) -> Share:
        """Add to the gradient of the update to come (every rank as many micro-batches; an empty one just takes part). `last`:
        these are the update's last; `apply` follows."""
        started = time.perf_counter()
        loss, diagnostics = 0.0, []
        for number, micro_batch in enumerate(micro_batches, start=1):
            self._engine.set_gradient_accumulation_boundary(last and number == len(micro_batches))
            part, seen = self._accumulate(micro_batch)
            loss += part
            diagnostics.append(seen)
        return Share(
            loss=loss,
            seconds=time.perf_counter() - started,
            diagnostics=tuple(diagnostics),
        )

    def apply(self) -> Applied:
        """One update by the gradient that was accumulated."""
        started = time.perf_counter()
        rate, norm = self._set_rate(), self._plain_norm()
        self._engine.step()
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        self._step += 1
        self._end_turn()
        return Applied(
            step=self._step,
            learning_rate=rate,
            gradient_norm=norm,
            seconds=time.perf_counter() - started,
            memory=_most_memory(),
        )

    def _accumulate(self, micro_batch: MicroBatch) -> tuple[float, dict[str, np.ndarray]]:
        """Add one micro-batch's gradient; its share of the loss, and what the token loss noted."""
        sequences = micro_batch.sequences
        check_sequences(sequences, vocabulary=self._vocabulary, longest=self._longest())
        work = loss_work(
            micro_batch,
            self._token_loss,
            self._device,
            vocabulary=self._vocabulary,
            chunk=self.settings.head_chunk,
        )
        batch = make_batch(sequences, self._device, pack=True, budget=self.settings.token_budget)
        loss, noted = self._engine(batch, work)
        self._engine.backward(loss * self._ranks, scale_wrt_gas=False)  # DeepSpeed divides by the ranks
        return float(loss), {name: values.cpu().numpy() for name, values in noted.items()}

    def _set_rate(self) -> float:
        settings = self.settings
        rate = learning_rate(
            self._step,
            peak=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.total_steps,
        )
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _plain_norm(self) -> float | None:
        """The gradient's norm where DeepSpeed does not tell it: ZeRO 0 in float32, where gradients lie whole on each rank."""
        if self.settings.zero_stage > 0 or self.settings.dtype != "float32":
            return None
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _end_turn(self) -> None:
        """Others may need the memory that torch keeps for this rank's next turn."""
        if self.settings.shares_gpu:
            torch.cuda.empty_cache()

    def _longest(self) -> int:
        return int(self._network.model.config.max_position_embeddings)

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperature: float = 1.0) -> list[np.ndarray]:
        """log p [T] (float32) of every response's own tokens under the present weights, in the order given; no gradient."""
        check_sequences(sequences, vocabulary=self._vocabulary, longest=self._longest())
        found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(sequences)
        lengths = [len(sequence.tokens) for sequence in sequences]
        self._engine.eval()
        with torch.no_grad():
            for chosen in batches_by_budget(lengths, self.settings.token_budget):
                batch = [sequences[index] for index in chosen]
                values = self._engine(
                    make_batch(batch, self._device, pack=False),
                    self._scoring(batch, temperature),
                )
                for index, one in zip(chosen, split_by_sequence(values.cpu().numpy(), batch), strict=True):
                    found[index] = one
        self._engine.train()
        self._end_turn()
        return found

    def self_divergence(self, sequence: TokenSequence) -> float:
        """The largest KL divergence (nats) of the student from itself over up to 64 response tokens: about 0, see
        `training.objectives.head.self_divergence`."""
        check_sequences([sequence], vocabulary=self._vocabulary, longest=self._longest())

        def work(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return self_divergence(
                hidden[:SELF_TEST_TOKENS],
                weight,
                vocabulary=self._vocabulary,
                chunk_size=self.settings.head_chunk,
            )

        self._engine.eval()
        with torch.no_grad():
            values = self._engine(make_batch([sequence], self._device, pack=False), work)
        self._engine.train()
        self._end_turn()
        return float(values.abs().max())

    def _scoring(self, batch: Sequence[TokenSequence], temperature: float) -> Any:
        ids = torch.from_numpy(response_ids(batch)).to(self._device)

        def work(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return sampled_logprobs(
                hidden,
                weight[: self._vocabulary],
                ids,
                temperature=temperature,
                chunk=self.settings.head_chunk,
            )

        return work

    # --- weights ------------------------------------------------------------------------------------------------

    def publish(self, version: int, *, carry: bool = True) -> Snapshot | None:
        """The present weights with their sums, on rank 0 (None elsewhere). With `carry` the bf16 parts go into Ray's object
        store; without, the sums only, for engines that got the weights by NCCL or IPC."""
        import ray

        sums: dict[str, int] = {}
        numels: dict[str, int] = {}
        named = summed(self._weights(), sums, numels)
        parts: tuple[Any, ...] = ()
        if self._rank == 0 and carry:
            parts = tuple(ray.put(part) for part in pack(named))
        else:
            for _ in named:
                pass
        self._end_turn()
        return Snapshot(version=version, sums=sums, numels=numels, parts=parts) if self._rank == 0 else None

    def open_transfer(self, transport: Transport, engines: Sequence[Any], address: str, port: int) -> None:
        """Join an NCCL or IPC transfer to the engines (actor handles); rank 0 is its sender. An earlier one is left."""
        if self._sender is not None:
            self._sender.close()
        self._sender = GpuSender(transport, engines, self, rank=self._rank, address=address, port=port)

    def send(self) -> None:
        """Bring the engines to the present weights by the transfer that is open."""
        if self._sender is None:
            raise RuntimeError("no transfer is open: call open_transfer first")
        self._sender.send()

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """(name, dtype, shape) of what `iterate` yields."""
        return [(name, torch.bfloat16, shape) for name, shape in weight_metadata(self._network.model)]

    def iterate(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights in bf16, whole, one after the other."""
        for name, tensor in self._weights():
            yield name, tensor.to(torch.bfloat16)

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        return named_weights(self._network.model, self._gather)

    def _gather(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Any]:
        if self.settings.zero_stage < 3:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters))

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write this rank's part of model, optimiser, step and random state into `folder`. `DiskFull` when it is."""
        with full_disk_named():
            self._engine.save_checkpoint(
                str(folder), tag=_STATE, client_state={"step": self._step}, save_latest=False
            )
            np.savez(folder / f"random-{self._rank}.npz", allow_pickle=False, **_random_state())

    def load(self, folder: Path) -> int:
        """Take up what `save` wrote, on a fresh engine with as many ranks; the number of steps done."""
        _, state = self._engine.load_checkpoint(str(folder), tag=_STATE)
        saved = folder / f"random-{self._rank}.npz"
        with np.load(saved) as values:
            _restore_random_state(values)
        self._step = int(state["step"])
        return self._step

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder (whole or not at all; in place of an older one), in the training dtype.
        `UserError` when a weight is not finite."""
        dtype = getattr(torch, self.settings.dtype)
        weights = {}
        for name, tensor in self._weights():
            if self._rank == 0:
                weights[name] = tensor.to("cpu", dtype, copy=True)
        broken = next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise UserError(
                f"{broken} of the trained student holds values that are no numbers: lower optimizer.learning_rate"
            )
        if self._rank == 0:
            with full_disk_named(), whole_folder(folder, replace=True) as target:
                write_checkpoint(target, weights, source=self.settings.model, dtype=self.settings.dtype)

    def process(self) -> int:
        """The process that this rank lives in."""
        return os.getpid()


def loss_work(
    micro_batch: MicroBatch, token_loss: TokenLoss, device: torch.device, *, vocabulary: int, chunk: int
) -> HeadWork:
    """What the head does in an update: the micro-batch's share of the loss, and per-token values [T] by name."""
    ids = torch.from_numpy(response_ids(micro_batch.sequences))
    positions = Positions(sampled_ids=ids, **tensors(micro_batch.signals)).to(device)
    coefficients = torch.from_numpy(micro_batch.coefficients).to(device)

    def work(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not len(hidden):  # a zero that every parameter still takes part in
            return (hidden.sum() + weight[:1].sum()) * 0.0, {}
        result = chunked_head(
            hidden, weight, token_loss, positions, coefficients, vocabulary=vocabulary, chunk_size=chunk
        )
        return result.loss, {"token_loss": result.token_losses, **result.diagnostics}

    return work


def tensors(signals: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A micro-batch's arrays as tensors, without a copy."""
    return {
        name: from_bits(values) if values.dtype == np.uint16 else torch.from_numpy(values)
        for name, values in signals.items()
    }


def _most_memory() -> int:
    """Bytes that this process has held at most: allocated on its GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- the process, and DeepSpeed in it ----------------------------------------------------------------------------


def _prepare_process(settings: StudentSettings, *, rank: int, ranks: int, address: str, port: int) -> None:
    """Environment and switches that must stand before DeepSpeed is imported."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",  # Ray shows an actor its own GPU only
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.use_deterministic_algorithms(True)
        # The CPU's flash attention rounds differently with every batch shape: in bf16 a gradient then moves by 0.8% when its
        # batch is cut differently, and by 0.2% with plain attention, which costs a sixth of a step.
        torch.backends.cuda.enable_flash_sdp(False)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)


def _join_ranks(deepspeed: Any, *, on_cpu: bool) -> None:
    """Make the process group. On CPU DeepSpeed would first look for a compiler and build a shared-memory all-reduce of its
    own; Gloo does as well, so it is told that no operator can be built."""
    if on_cpu:
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed("gloo" if on_cpu else "nccl", verbose=False)


def _build_engine(
    deepspeed: Any, network: Network, settings: StudentSettings, parameters: int, *, on_cpu: bool
) -> Any:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},  # norms and biases
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
    )
    config = deepspeed_config(
        stage=settings.zero_stage,
        bf16=settings.dtype == "bfloat16",
        clip=settings.clip,
        parameters=parameters,
        on_cpu=on_cpu,
    )
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=config)
    return engine


def _random_state() -> dict[str, np.ndarray]:
    state = {"cpu": torch.get_rng_state().numpy()}
    return state | ({"cuda": torch.cuda.get_rng_state().numpy()} if torch.cuda.is_available() else {})


def _restore_random_state(values: Mapping[str, np.ndarray]) -> None:
    torch.set_rng_state(torch.from_numpy(values["cpu"]))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(values["cuda"]))
