"""The model that is evaluated: a checkpoint folder, a hub model, a LoRA adapter with its base, or an endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.benchmarks.protocols import Protocol
from tasks.config import PROJECT_ROOT, ModelRole, Serve
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.llm.chat_templates import role_identity, role_template
from tasks.llm.model_folder import named_folder
from tasks.llm.offline_engine import SamplePrompt
from tasks.llm.prompt_tokens import PromptEncoder
from tasks.llm.tokenizer_identity import template_identity
from tasks.processes.machine import device_is_cpu, visible_gpus
from tasks.storage.hub import hub_token
from training.config import PromptSettings
from training.data.model_files import ModelFiles, open_model
from training.evaluation.adapters import is_adapter, merged_folder, named_base

SETTING = "evaluate"
STEP = 512
"""Engines are made for a multiple of so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be asked. `files` is None for an endpoint, whose tokenizer and context are unknown. `source` is what the
    user named."""

    source: str
    identity: str
    settings: EvaluateSettings
    folder: Path | None
    files: ModelFiles | None
    encoders: dict[bool, PromptEncoder] = field(
        default_factory=dict, repr=False
    )  # by thinking mode, made on demand

    def role(self, thinking: bool, tokens: int | None = None) -> ModelRole:
        """Return the model with its way to be reached, for one thinking mode. Engines are made for `tokens` of prompt and
        response together, if that is less than the context: a longer one takes memory and changes no response."""
        settings = self.settings
        if self.folder is None:
            return ModelRole(
                model=self.source, base_url=settings.base_url, api_key_env=settings.api_key_env, thinking=thinking,
                concurrency=settings.concurrency, request_timeout_s=settings.request_timeout_s,
            )  # fmt: skip
        assert self.context is not None
        length = min(self.context, STEP * -(-(tokens or self.context) // STEP))
        return ModelRole(
            model=str(self.folder), thinking=thinking, dtype=self.dtype, max_model_len=length,
            chat_template=settings.chat_template, template_date=settings.template_date, serve=serve(settings),
        )  # fmt: skip

    @property
    def dtype(self) -> Any:
        """The number format of weights and activations."""
        return self.settings.dtype or ("float32" if device_is_cpu() else "bfloat16")

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and response together; None if an endpoint decides."""
        if self.files is None:
            return self.settings.context
        return min(self.settings.context or self.files.max_positions, self.files.max_positions)

    def check(self, protocol: Protocol) -> None:
        """Raise `UserError` if the context is too short for a response of the protocol's length."""
        if self.context is not None and self.context <= protocol.max_tokens:
            raise UserError(
                f"the context of {self.source} is {self.context:,} tokens, too short for responses of"
                f" {protocol.max_tokens:,} tokens (protocol {protocol.name}): set max_tokens below it, which is stored with the"
                " result"
            )

    def described(self, thinking: bool) -> dict[str, Any]:
        """Return what is stored about the model with every result."""
        own: dict[str, Any] = {"dtype": None, "stop_token_ids": [], "chat_template": None}
        if self.files is not None:
            own = {
                "dtype": self.dtype, "stop_token_ids": list(self.files.end_tokens),
                "chat_template": template_identity(self.files.tokenizer),
            }  # fmt: skip
        return {
            "name": self.source, "identity": self.identity, "context": self.context, "thinking": thinking, **own,
        }  # fmt: skip

    def prompt_ids(self, prompt: SamplePrompt, thinking: bool) -> list[int]:
        """Return the token ids of a prompt as the engine builds them. Raises what `PromptEncoder.encode` raises."""
        assert self.files is not None
        if thinking not in self.encoders:
            template = role_template(self.role(thinking), PROJECT_ROOT)
            options: dict[str, Any] = {} if template is None else {"chat_template": template}
            self.encoders[thinking] = PromptEncoder(self.files.tokenizer, enable_thinking=thinking, **options)
        return self.encoders[thinking].encode(prompt.template, prompt.values)


def open_evaluated(settings: EvaluateSettings, merged: Path, log: Callable[[str], None]) -> Model:
    """Check the model and return it. A LoRA adapter is merged into its base, in a folder in `merged`.

    Raises `UserError` with one sentence for a missing model, a corrupt folder, an adapter without its base, and an endpoint that
    is down or does not offer the model.
    """
    name = settings.model
    if not name:
        raise UserError(
            "no model is given: name a checkpoint folder, a hub id or an endpoint's model as MODEL"
        )
    if settings.base_url is not None:
        return _endpoint(name, settings)
    folder = _folder(name, settings.revision, log)
    if is_adapter(folder):
        folder = merged_folder(folder, _base(folder, settings, log), merged, log)
    files = open_model(
        SETTING,
        str(folder),
        PromptSettings(chat_template=settings.chat_template, date=settings.template_date),
    )
    found = Model(source=name, identity="", settings=settings, folder=folder, files=files)
    return replace(found, identity=role_identity(found.role(thinking=False), PROJECT_ROOT))


def _endpoint(name: str, settings: EvaluateSettings) -> Model:
    from tasks.llm.servers import check_endpoint  # loads the HTTP clients

    found = Model(
        source=name, identity=f"{name}@{settings.base_url}", settings=settings, folder=None, files=None
    )
    check_endpoint(found.role(thinking=False))
    return found


def _base(adapter: Path, settings: EvaluateSettings, log: Callable[[str], None]) -> Path:
    base = settings.base or named_base(adapter)
    if not base:
        raise UserError(f"{adapter} is a LoRA adapter that names no base model: give it as base")
    try:
        return _folder(base, None, log)
    except UserError as error:
        raise UserError(
            f"{adapter} is a LoRA adapter, and its base model {base} is not there: give it as base"
        ) from error


def _folder(name: str, revision: str | None, log: Callable[[str], None]) -> Path:
    """Return the folder of a local model, or download a hub model. Raises `UserError` if there is none."""
    if (folder := named_folder(name, PROJECT_ROOT)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    log(f"downloading {name} from the hub, unless it is in the cache")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=hub_token(),
                ignore_patterns=["*.bin", "*.pth", "*.gguf", "original/*"],
            )
        )
    except Exception as error:  # the library's errors have no common base class
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"model {name} is no folder and cannot be read from the hub ({type(error).__name__}: {reason}): correct MODEL, or"
            " download it and give its folder"
        ) from error


def serve(settings: EvaluateSettings) -> Serve:
    """Return how engines are started: one for every `tensor_parallel_size` GPUs unless their number is given."""
    engines = settings.engines or max(1, gpus() // settings.tensor_parallel_size)
    return Serve(
        engines=engines, tensor_parallel_size=settings.tensor_parallel_size, kv_cache_gib=settings.kv_cache_gib,
        gpu_memory_fraction=settings.gpu_memory_fraction, max_num_seqs=settings.max_num_seqs,
        health_timeout_s=settings.health_timeout_s, batch_invariant=settings.batch_invariant,
    )  # fmt: skip


def gpus() -> int:
    """Return the number of GPUs: of the Ray cluster at RAY_ADDRESS if that is set, else of this machine."""
    if device_is_cpu():
        return 0
    if os.environ.get("RAY_ADDRESS"):
        import ray

        if not ray.is_initialized():
            ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
        return int(ray.cluster_resources().get("GPU", 0))
    return len(visible_gpus())
