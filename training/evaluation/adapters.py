"""LoRA adapters in the format of peft, merged into their base: one weight file of the base at a time, so memory stays small.

Engines load the merged folder like any checkpoint. The sum is formed in float32 and rounded to the base's dtype, as in the export
of a training run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.checkpoint_files import complete_file
from tasks.llm.model_identity import model_identity
from tasks.storage.disk import whole_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED = (
    "use_dora",
    "modules_to_save",
    "layers_pattern",
    "megatron_config",
    "lora_bias",
    "alpha_pattern",
    "rank_pattern",
)
"""Settings of peft that change what is added, beyond scale * B A."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def named_base(adapter: Path) -> str:
    """Return the base model that an adapter's configuration names, or nothing."""
    return str(_config(adapter).get("base_model_name_or_path") or "")


def merged_folder(adapter: Path, base: Path, target: Path, log: Callable[[str], None]) -> Path:
    """Return a folder in `target` with adapter and base merged; an existing one is reused.

    Raises `UserError` if the adapter is no plain LoRA, is damaged, or does not fit the base.
    """
    config, weights = _config(adapter), adapter / WEIGHTS
    if not weights.is_file():
        raise UserError(f"adapter {adapter} has no {WEIGHTS}: copy the complete adapter there")
    refused = [name for name in _REFUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or refused or config.get("bias", "none") != "none":
        what = refused[0] if refused else f"peft_type {config.get('peft_type')}"
        raise UserError(
            f"adapter {adapter} is no plain LoRA ({what}): merge it with peft and give the folder of the merged model"
        )
    content = hashlib.sha256(weights.read_bytes() + (adapter / CONFIG).read_bytes()).hexdigest()[:12]
    folder = (
        target
        / f"{adapter.parent.name}-{adapter.name}-{content}-{model_identity(str(base), None, PROJECT_ROOT)[-16:]}"
    )
    if not folder.is_dir():
        log(f"merging the adapter {adapter} into {base}")
        _merge(adapter, config, base, folder)
    return folder


def _merge(adapter: Path, config: Mapping[str, Any], base: Path, folder: Path) -> None:
    pairs, scale = _pairs(adapter), _scale(adapter, config)
    unused = set(pairs)
    with whole_folder(folder) as place:
        for path in sorted(base.iterdir()):
            if path.suffix == ".safetensors":
                unused -= _merge_file(path, place / path.name, pairs, scale)
            elif path.is_file() and path.suffix not in (".bin", ".pth"):
                shutil.copyfile(path, place / path.name)
        if unused:
            raise UserError(
                f"adapter {adapter} does not fit {base}, which has no weight {min(unused)}: give the right model as BASE"
            )


def _merge_file(source: Path, target: Path, pairs: Mapping[str, Any], scale: float) -> set[str]:
    """Write a weight file with the adapter added; return the names of the changed weights."""
    from safetensors.torch import load_file, save_file

    with complete_file(source, "download the weights again"):
        tensors = load_file(source)
    changed = pairs.keys() & tensors.keys()
    for name in changed:
        first, second = pairs[name]
        added = scale * (second.float() @ first.float())
        if added.shape != tensors[name].shape:
            raise UserError(
                f"the adapter's weight {name} has shape {tuple(added.shape)}, the base's {tuple(tensors[name].shape)}: give the"
                " right model as BASE"
            )
        tensors[name] = (tensors[name].float() + added).to(tensors[name].dtype)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, target, metadata={"format": "pt"}
    )
    return set(changed)


def _pairs(adapter: Path) -> dict[str, tuple[Any, Any]]:
    """Return {name of the base's weight: (A, B)}."""
    from safetensors.torch import load_file

    with complete_file(adapter / WEIGHTS, "copy it again"):
        tensors = load_file(adapter / WEIGHTS)
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            if f"{stem}.lora_B.weight" not in tensors:
                raise UserError(
                    f"{adapter / WEIGHTS} has {name} without its lora_B: copy the complete adapter there"
                )
            found[f"{stem.removeprefix(_PREFIX)}.weight"] = tensor, tensors[f"{stem}.lora_B.weight"]
    if 2 * len(found) != len(tensors) or not found:
        raise UserError(
            f"{adapter / WEIGHTS} has other weights than lora_A and lora_B: merge it with peft and give the merged model"
        )
    return found


def _scale(adapter: Path, config: Mapping[str, Any]) -> float:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise UserError(
            f"{adapter / CONFIG} has r {rank!r} and lora_alpha {alpha!r}, which are not a positive integer and a number: copy the"
            " complete adapter there"
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _config(adapter: Path) -> dict[str, Any]:
    try:
        found = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{adapter / CONFIG} cannot be read ({error}): copy the complete adapter there"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{adapter / CONFIG} is not a JSON object: copy the complete adapter there")
    return found
