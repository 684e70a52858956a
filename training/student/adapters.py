"""LoRA adapters of the student (Hu et al. 2021): added for training, merged into the weights that are sent or exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

Gather = Callable[[Sequence[torch.nn.Parameter]], AbstractContextManager[Any]]
"""A context manager that gathers full parameters for the duration of a block (a collective if they are partitioned)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Low-rank adapters for the linear layers whose names end in one of `targets`. `dropout`: of the adapters' input, in
    training."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0


def adapter_config(lora: AdapterSettings, *, base: str | None = None) -> Any:
    """Return the settings as peft's `LoraConfig`; `base` is the name of the model that the adapter belongs to."""
    from peft import LoraConfig

    alpha: Any = lora.alpha  # annotated as int in peft, which accepts any number
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )


def add_lora(model: Any, lora: AdapterSettings, seed: int) -> None:
    """Add new adapters to a model and freeze all other parameters."""
    from peft import inject_adapter_in_model

    torch.manual_seed(seed)
    inject_adapter_in_model(adapter_config(lora), model)


def adapted_layers(model: Any) -> list[tuple[str, Any]]:
    """Return (name, module) of every linear layer with an adapter."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def adapter_parameters(layer: Any) -> list[torch.nn.Parameter]:
    """Return the parameters of a layer's adapter."""
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]


def merged(layer: Any) -> torch.Tensor:
    """Return base weight and adapter together, added in float32 and then rounded to the dtype of the base weight."""
    base = layer.base_layer.weight
    return (base.float() + delta(layer)).to(base.dtype)


def delta(layer: Any) -> torch.Tensor:
    """Return what a layer's adapter adds to its weight, scale * B A, in float32."""
    return torch.stack(
        [
            layer.scaling[name] * (layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float())
            for name in layer.active_adapters
        ]
    ).sum(0)


def adapter_weights(model: Any, gather: Gather) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name in peft's files, tensor) of every adapter weight. A tensor is only valid until the next one is requested."""
    for name, layer in adapted_layers(model):
        with gather(adapter_parameters(layer)), torch.no_grad():
            for part in ("lora_A", "lora_B"):
                for module in getattr(layer, part).values():
                    yield f"base_model.model.{name}.{part}.weight", module.weight.detach()


def lost_by_merging(model: Any, gather: Gather) -> float:
    """Return the norm of what rounding the merged weights loses, as a share of the norm of the adapters' difference."""
    lost = whole = 0.0
    for _, layer in adapted_layers(model):
        with gather([layer.base_layer.weight, *adapter_parameters(layer)]), torch.no_grad():
            added = delta(layer).double()
            lost += float((merged(layer).double() - layer.base_layer.weight.double() - added).square().sum())
            whole += float(added.square().sum())
    return (lost / whole) ** 0.5 if whole else 0.0
