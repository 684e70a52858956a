"""Settings of a student rank, and what it exchanges with its group: micro-batches and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from training.data.batches import TokenSequence
from training.student.adapters import AdapterSettings
from training.student.exported_files import PromptFiles
from training.student.zero import ZeroStage
from training.weight_sync.weights import from_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """Settings of a student rank.

    `vocabulary`: number of ids shared with the teacher (None: the model's whole vocabulary). `head_chunk`: positions per chunk
    of the LM head. `token_budget`: positions per forward pass, including padding. `threads`: CPU threads of this process.
    `shares_gpu`: other actors use the GPU's memory between this rank's calls. `teacher_head`: the teacher's model folder, set if
    micro-batches contain its hidden states (`teacher_states`), from which the student computes the teacher's distribution.
    `dropout`: train with the dropout of the model's config. `prompt`: what the export contains about prompts and end tokens
    (None: what the model's folder contains).
    """

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
    lora: AdapterSettings | None = None
    vocabulary: int | None = None
    head_chunk: int = 256
    token_budget: int = 8192
    seed: int = 0
    threads: int | None = None
    shares_gpu: bool = False
    teacher_head: Path | None = None
    dropout: bool = False
    prompt: PromptFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The input of one forward and backward pass.

    `coefficients` [T] are float64 and already divided by the global denominators. `signals` are the loss inputs besides the
    sampled tokens: arrays [T, ...] by the field names of `LossInputs` (training.losses.base); uint16 arrays hold bf16 bits.
    T counts the response tokens of all sequences, in order. `sequences` may be empty: the rank then only takes part in the
    collectives.
    """

    sequences: tuple[TokenSequence, ...]
    coefficients: np.ndarray
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Contribution of some micro-batches to a rank's gradient.

    `loss` is their share of the global loss; the sum over all shares is the global loss. `diagnostics` contains, for each
    micro-batch, per-token values [T] by name: `token_loss`, and the diagnostics of the token loss, such as `sampled_logprob`
    (NaN at positions with coefficient 0, which are skipped). `seconds` is the time on this rank.
    """

    loss: float
    seconds: float
    diagnostics: tuple[Mapping[str, np.ndarray], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Result of an optimiser step.

    `step` is the number of steps done, `gradient_norm` the global norm before clipping, `seconds` the time on this rank, and
    `memory` the peak bytes allocated so far by this rank: GPU memory, or resident memory on CPU.
    """

    step: int
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory: int


def tensors(signals: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return a micro-batch's arrays as tensors that share their memory; uint16 arrays are bf16 bits."""
    return {
        name: from_bits(values) if values.dtype == np.uint16 else torch.from_numpy(values)
        for name, values in signals.items()
    }
