"""Options and environment of a vLLM engine, for servers, offline engines and rollout engines.

Imports neither vLLM nor an HTTP client, since every rollout worker loads it.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from tasks.config import ModelRole, Serve
from tasks.keys import HUB_TOKEN, read_key
from tasks.processes.machine import available_cores

CPU_KV_CACHE_GIB = 4
"""Used on CPU if the profile sets no `kv_cache_gib`; vLLM's own default is nearly the whole memory."""


MIN_BATCHED_TOKENS = 8192


def engine_environment(serve: Serve, *, local: bool, on_cpu: bool, engines: int = 1) -> dict[str, str]:
    """Return the environment of an engine: no network for local models, the hub's token for others, no usage statistics, threads
    and cache for a CPU.

    The cores are divided among `engines`. Threads are not bound to cores (`nobind`), since two engines may share them. A value of
    OMP_NUM_THREADS that the user has set is kept. Attention over one context is never divided among threads, because the division
    depends on the rest of the batch, and with it the rounding of sums. A server's engine runs in the server's process: the extra
    worker process that vLLM starts on CPU takes 8 s and 0.8 GB. The two functions of its sampler that vLLM compiles even in eager
    mode, a sum and a draw without a seed, stay uncompiled: the compiler takes longer than a run of them.
    """
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if local:
        environment["HF_HUB_OFFLINE"] = "1"
    elif token := read_key(HUB_TOKEN):
        environment[HUB_TOKEN] = token
    if serve.batch_invariant and not on_cpu:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    if on_cpu:
        threads = str(max(1, available_cores() // engines))
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(serve.kv_cache_gib or CPU_KV_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_ATTN_SPLIT_KV": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TORCH_COMPILE_DISABLE": "1",
        }
    return environment


LogprobsMode = Literal["raw", "tempered"]


def engine_options(
    role: ModelRole, serve: Serve, model: str, logprobs: LogprobsMode, *, on_cpu: bool
) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`. Without chunked prefill on CPU, where a seeded prompt must not span two steps."""
    options: dict[str, Any] = {
        "model": model,
        "revision": role.revision,
        "dtype": role.dtype,
        "max_model_len": role.max_model_len,
        "max_num_batched_tokens": max(role.max_model_len, MIN_BATCHED_TOKENS),
        "max_num_seqs": serve.max_num_seqs,
        "tensor_parallel_size": serve.tensor_parallel_size,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs" if logprobs == "tempered" else "raw_logprobs",
        "seed": 0,
        "trust_remote_code": False,
    }
    if on_cpu:
        return options | {"enforce_eager": True, "enable_chunked_prefill": False}
    return options | {"gpu_memory_utilization": serve.gpu_memory_fraction}
