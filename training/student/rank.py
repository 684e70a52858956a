"""One data-parallel rank of the student: a DeepSpeed engine (ZeRO 0-3) in a Ray actor.

The coefficient of every token is computed before the step, from counts over all ranks and micro-batches. DeepSpeed's own
averages (over accumulation steps and ranks) are cancelled, so the gradient does not depend on how the batch is split.
All methods except `address` are collectives: call them on every rank.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.errors import UserError
from tasks.processes.memory import bound_caches, keep_free_memory
from tasks.storage.disk import whole_folder
from training.data.batches import (
    TokenSequence,
    batches_by_budget,
    check_sequences,
    response_ids,
    split_by_sequence,
)
from training.losses.base import LossInputs, TokenLoss
from training.losses.head import chunked_head, self_divergence
from training.losses.products import float32_products
from training.losses.teacher_states import from_states
from training.scorers.scores import Scores
from training.scorers.scoring import position_scores, token_logprobs
from training.student.adapters import adapter_weights, lost_by_merging
from training.student.checkpoints import full_disk_named
from training.student.exported_files import write_adapter, write_checkpoint
from training.student.messages import Applied, MicroBatch, RankSettings, Share, tensors
from training.student.network import (
    HeadWork,
    Network,
    load_network,
    named_weights,
    read_head,
    weight_metadata,
)
from training.student.zero import deepspeed_config, learning_rate
from training.weight_sync.sync import GpuSender, Transport
from training.weight_sync.weights import Snapshot, pack, summed

_STATE = "state"
SELF_TEST_TOKENS = 64


class Student:
    """A student rank; `training.student.group` turns it into a Ray actor. Call `connect` before any other collective."""

    def __init__(self, settings: RankSettings, token_loss: TokenLoss, *, rank: int, ranks: int) -> None:
        self.settings = settings
        self._token_loss = token_loss
        self._rank, self._ranks = rank, ranks
        self._step = 0
        self._sender: GpuSender | None = None

    def address(self) -> tuple[str, int]:
        """Return this machine's address and a free port, as a rendezvous for the ranks or for an NCCL group."""
        import ray

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def connect(self, address: str, port: int) -> dict[str, Any]:
        """Join the process group, load the model, build the DeepSpeed engine. Return the student's entry in the run's record."""
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
            dropout=self.settings.dropout,
            capability=None if on_cpu else torch.cuda.get_device_capability(),
        )
        parameters = sum(parameter.numel() for parameter in network.parameters())
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        self._vocabulary = self.settings.vocabulary or len(network.model.lm_head.weight)
        if self.settings.teacher_head is not None:
            head = read_head(self.settings.teacher_head, self._vocabulary).to(self._device)
            self._token_loss = from_states(self._token_loss, head)
        self._backend = _build_backend(deepspeed, network, self.settings, parameters, on_cpu=on_cpu)
        self._network: Network = self._backend.module
        return {
            "parameters": parameters,
            "trained_parameters": trained,
            "deepspeed": deepspeed.__version__,
            "torch": torch.__version__,
            "device": str(self._device),
            "attention": f"{network.attention.kind} ({network.attention.reason})",
        }

    # --- training -----------------------------------------------------------------------------------------------

    def accumulate(self, micro_batches: Sequence[MicroBatch], *, last: bool) -> Share:
        """Accumulate gradients for the next update. Every rank must pass the same number of micro-batches; they may be empty.
        `last`: these are the last of the update, and a call of `apply` follows."""
        started = time.perf_counter()
        loss, diagnostics = 0.0, []
        for number, micro_batch in enumerate(micro_batches, start=1):
            self._backend.set_gradient_accumulation_boundary(last and number == len(micro_batches))
            part, seen = self._accumulate(micro_batch)
            loss += part
            diagnostics.append(seen)
        return Share(
            loss=loss,
            seconds=time.perf_counter() - started,
            diagnostics=tuple(diagnostics),
        )

    def apply(self) -> Applied:
        """Do an optimiser step with the accumulated gradient."""
        started = time.perf_counter()
        rate, norm = self._set_rate(), self._plain_norm()
        self._backend.step()
        if norm is None:
            norm = float(self._backend.get_global_grad_norm())
        self._step += 1
        self._end_turn()
        return Applied(
            step=self._step,
            learning_rate=rate,
            gradient_norm=norm,
            seconds=time.perf_counter() - started,
            memory=_most_memory(),
        )

    @float32_products()
    def _accumulate(self, micro_batch: MicroBatch) -> tuple[float, dict[str, np.ndarray]]:
        """Add the gradient of one micro-batch. Return its share of the loss and the token loss's diagnostics."""
        sequences = micro_batch.sequences
        check_sequences(sequences, vocabulary=self._vocabulary, longest=self._longest())
        work = loss_work(
            micro_batch,
            self._token_loss,
            self._device,
            vocabulary=self._vocabulary,
            chunk=self.settings.head_chunk,
        )
        batch = self._network.attention.rows(
            sequences, self._device, pack=True, budget=self.settings.token_budget
        )
        loss, noted = self._backend(batch, work)
        self._backend.backward(loss * self._ranks, scale_wrt_gas=False)  # DeepSpeed divides by the ranks
        return float(loss), {name: values.cpu().numpy() for name, values in noted.items()}

    def _set_rate(self) -> float:
        settings = self.settings
        rate = learning_rate(
            self._step,
            peak=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.total_steps,
        )
        for group in self._backend.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _plain_norm(self) -> float | None:
        """Return the gradient norm if DeepSpeed does not compute it (ZeRO 0 in float32, unpartitioned gradients), else None."""
        if self.settings.zero_stage > 0 or self.settings.dtype != "float32":
            return None
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _end_turn(self) -> None:
        """Release the free memory of a GPU that other actors share."""
        if self.settings.shares_gpu:
            torch.cuda.empty_cache()

    def _longest(self) -> int:
        return int(self._network.model.config.max_position_embeddings)

    def logprobs(
        self,
        sequences: Sequence[TokenSequence],
        *,
        temperature: float = 1.0,
        training: bool = False,
        ids: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Return log p [T] (float32, nats) of each sequence's response tokens under the current weights, without gradient, or,
        with `ids` [T, k] for each sequence, log p [T, k] of those tokens in their places. `training`: in packed rows and in the
        mode of an update."""
        return self._read(sequences, self._scoring(temperature), training=training, ids=ids)

    def scores(self, sequences: Sequence[TokenSequence]) -> list[Scores]:
        """Return log p and the entropy of each sequence's response tokens under the current weights, without gradient."""
        found = self._read(sequences, self._scoring_with_entropy, training=False)
        return [Scores(sampled=one[:, 0].copy(), entropy=one[:, 1].copy()) for one in found]

    @float32_products()
    def _read(
        self,
        sequences: Sequence[TokenSequence],
        work: Callable[[torch.Tensor], HeadWork],
        *,
        training: bool,
        ids: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Return values [T, ...] of each sequence's response tokens, which `work` computes for batches of sequences from their
        `ids`, by default the response tokens themselves."""
        check_sequences(sequences, vocabulary=self._vocabulary, longest=self._longest())
        found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(sequences)
        lengths = [len(sequence.tokens) for sequence in sequences]
        budget = self.settings.token_budget
        self._backend.train(training)
        with torch.no_grad():
            for chosen in batches_by_budget(lengths, budget):
                batch = [sequences[index] for index in chosen]
                wanted = response_ids(batch) if ids is None else np.concatenate([ids[n] for n in chosen])
                values = self._backend(
                    self._network.attention.rows(batch, self._device, pack=training, budget=budget),
                    work(torch.from_numpy(wanted.astype(np.int64)).to(self._device)),
                )
                for index, one in zip(chosen, split_by_sequence(values.cpu().numpy(), batch), strict=True):
                    found[index] = one
        self._backend.train()
        self._end_turn()
        return found

    @float32_products()
    def self_divergence(self, sequence: TokenSequence) -> float:
        """Return the largest KL divergence (nats) of the student from itself over up to 64 response tokens: about 0."""
        check_sequences([sequence], vocabulary=self._vocabulary, longest=self._longest())

        def work(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return self_divergence(
                hidden[:SELF_TEST_TOKENS],
                weight,
                vocabulary=self._vocabulary,
                chunk_size=self.settings.head_chunk,
            )

        self._backend.eval()
        with torch.no_grad():
            values = self._backend(self._network.attention.rows([sequence], self._device, pack=False), work)
        self._backend.train()
        self._end_turn()
        return float(values.abs().max())

    def _scoring(self, temperature: float) -> Callable[[torch.Tensor], HeadWork]:
        def of(ids: torch.Tensor) -> HeadWork:
            return lambda hidden, weight: token_logprobs(
                hidden,
                weight[: self._vocabulary],
                ids,
                temperature=temperature,
                chunk=self.settings.head_chunk,
            )

        return of

    def _scoring_with_entropy(self, ids: torch.Tensor) -> HeadWork:
        def work(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            chunk = self.settings.head_chunk
            found = position_scores(
                hidden, weight[: self._vocabulary], ids, sampled=True, entropy=True, chunk=chunk
            )
            return torch.stack([found["sampled"], found["entropy"]], dim=1)

        return work

    # --- weights ------------------------------------------------------------------------------------------------

    def publish(self, version: int, *, carry: bool = True) -> Snapshot | None:
        """Return a snapshot of the current weights on rank 0, and None on other ranks. With `carry` the bf16 parts are put into
        Ray's object store; without, the snapshot has checksums only, for engines that received the weights by NCCL or IPC."""
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
        """Join an NCCL or IPC transfer to the engines (actor handles), with rank 0 as the sender. Closes an earlier transfer."""
        if self._sender is not None:
            self._sender.close()
        self._sender = GpuSender(transport, engines, self, rank=self._rank, address=address, port=port)

    def send(self) -> None:
        """Send the current weights to the engines through the open transfer."""
        if self._sender is None:
            raise RuntimeError("no transfer is open: call open_transfer first")
        self._sender.send()

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Return (name, dtype, shape) of each tensor of `iterate`, in the same order."""
        return [(name, torch.bfloat16, shape) for name, shape in weight_metadata(self._network.model)]

    def iterate(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full bf16 tensor) of each weight."""
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
        """Write this rank's part of model, optimiser, step and random state into `folder`. Raises `DiskFull`."""
        with full_disk_named():
            self._backend.save_checkpoint(
                str(folder), tag=_STATE, client_state={"step": self._step}, save_latest=False
            )
            np.savez(folder / f"random-{self._rank}.npz", allow_pickle=False, **_random_state())

    def load(self, folder: Path) -> int:
        """Restore the state written by `save` into a new engine with the same number of ranks. Return the number of steps."""
        _, state = self._backend.load_checkpoint(str(folder), tag=_STATE)
        saved = folder / f"random-{self._rank}.npz"
        with np.load(saved) as values:
            _restore_random_state(values)
        self._step = int(state["step"])
        return self._step

    def export(self, folder: Path) -> float | None:
        """Write the model as a Hugging Face folder in the training dtype, and its adapter in a subfolder, atomically. Return
        `lost_by_merging`, None without an adapter. `UserError` if a weight is not finite."""
        settings = self.settings
        weights = self._kept(self._weights())
        adapter = self._kept(adapter_weights(self._network.model, self._gather))
        lost = lost_by_merging(self._network.model, self._gather) if settings.lora is not None else None
        broken = next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise UserError(
                f"weight {broken} of the trained student contains NaN or infinity: lower optimizer.learning_rate"
            )
        if self._rank == 0:
            with full_disk_named(), whole_folder(folder, replace=True) as target:
                write_checkpoint(
                    target, weights, source=settings.model, dtype=settings.dtype, prompt=settings.prompt
                )
                if settings.lora is not None:
                    write_adapter(target, adapter, settings.lora, source=settings.model)
        return lost

    def _kept(self, named: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return copies of the tensors in the training dtype on rank 0, and nothing on other ranks, which only take part."""
        dtype = getattr(torch, self.settings.dtype)
        return {name: tensor.to("cpu", dtype, copy=True) for name, tensor in named if self._rank == 0}

    def process(self) -> int:
        """Return the process id of this rank."""
        return os.getpid()


def loss_work(
    micro_batch: MicroBatch, token_loss: TokenLoss, device: torch.device, *, vocabulary: int, chunk: int
) -> HeadWork:
    """Return the head function of an update: the micro-batch's share of the loss and per-token values [T] by name."""
    ids = torch.from_numpy(response_ids(micro_batch.sequences))
    inputs = LossInputs(sampled_ids=ids, **tensors(micro_batch.signals)).to(device)
    coefficients = torch.from_numpy(micro_batch.coefficients).to(device)

    def work(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not len(hidden):  # a zero that keeps every parameter in the graph
            return (hidden.sum() + weight[:1].sum()) * 0.0, {}
        result = chunked_head(
            hidden, weight, token_loss, inputs, coefficients, vocabulary=vocabulary, chunk_size=chunk
        )
        return result.loss, {"token_loss": result.token_losses, **result.diagnostics}

    return work


def _most_memory() -> int:
    """Return the peak bytes of this process: allocated on its GPU, or resident if there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- process setup and DeepSpeed ---------------------------------------------------------------------------------


def _prepare_process(settings: RankSettings, *, rank: int, ranks: int, address: str, port: int) -> None:
    """Set the environment and torch options that are required before DeepSpeed is imported."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",  # Ray exposes only its own GPU to an actor
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    if not torch.cuda.is_available():
        bound_caches()
        keep_free_memory()
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)


def _join_ranks(deepspeed: Any, *, on_cpu: bool) -> None:
    """Initialise the process group. On CPU DeepSpeed would otherwise compile its own shared-memory all-reduce; Gloo is
    sufficient, so the list of compatible operators is emptied."""
    if on_cpu:
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed("gloo" if on_cpu else "nccl", verbose=False)


def _build_backend(
    deepspeed: Any, network: Network, settings: RankSettings, parameters: int, *, on_cpu: bool
) -> Any:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},  # norms and biases
        ],
        lr=0.0,  # until `_set_rate`: that step on zero gradients must not decay the weights
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
    backend, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=config)
    if settings.zero_stage == 0:
        optimizer.state.clear()  # in bf16 DeepSpeed has done a step on zero gradients, which AdamW's bias correction would count
    return backend


def _random_state() -> dict[str, np.ndarray]:
    state = {"cpu": torch.get_rng_state().numpy()}
    return state | ({"cuda": torch.cuda.get_rng_state().numpy()} if torch.cuda.is_available() else {})


def _restore_random_state(values: Mapping[str, np.ndarray]) -> None:
    torch.set_rng_state(torch.from_numpy(values["cpu"]))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(values["cuda"]))
