"""Train the pocket models from scratch: `python -m pocket.train {tokenizer,teacher,assistant,student,judge,all}`.

Qwen3 architecture, bf16 arithmetic on fp32 weights, Muon for the hidden matrices and AdamW for the rest, loss on the
replies only. An interrupted training resumes from its last checkpoint. Without `--minutes` the result depends only on the
recipe (one thread); with it the schedule is fitted to that time on the current machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from pocket.data import HASTY_SOLVER, PROMPTS, SOLVER, EncodedExamples, batches, corpus, data_digest, prepare
from pocket.recipes import POCKET, RECIPES, TOKENIZER, WORK, Recipe
from pocket.tokenizer import (
    END_OF_TURN,
    PAD,
    TOKENIZER_FILES,
    VOCAB_SIZE,
    build_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from pocket.variants import ALL, Variant, chosen_families
from prompts import fixed_sentences
from tasks.processes.memory import bound_caches, keep_free_memory
from training.losses.products import float32_products, has_bfloat16_products

__all__ = ["build_model", "main", "train", "train_tokenizer"]

CORPUS_EXAMPLES = 12_000
SAVE_EVERY_SECONDS = 120.0
REPORT_EVERY_SECONDS = 20.0
LENGTH_MULTIPLE = 16
"""Batches are padded to a multiple of this many tokens."""

Optimizers = tuple[torch.optim.Optimizer, ...]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(slots=True, kw_only=True)
class Progress:
    """The progress of a training. `loss` is the mean over the last steps, `finishing` the number of steps of the last kind."""

    step: int = 0
    finishing: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = float("inf")

    def share(self, recipe: Recipe, minutes: float | None) -> float:
        """Return the finished share of the training: by steps or by time, whichever is larger."""
        by_clock = self.seconds / (60 * minutes) if minutes else 0.0
        return max(self.step / recipe.steps, by_clock)

    def after_step(self, kind: int, seconds: float, tokens: int, loss: float) -> Progress:
        """Return the progress after one more step on examples of `kind` (0: the first, 1: the last)."""
        return Progress(
            step=self.step + 1,
            finishing=self.finishing + kind,
            seconds=self.seconds + seconds,
            tokens=self.tokens + tokens,
            loss=loss,
        )


def train_tokenizer(folder: Path = TOKENIZER) -> None:
    """Learn the tokenizer of all models from training text and the fixed sentences of the prompts."""
    save_tokenizer(build_tokenizer(corpus(CORPUS_EXAMPLES), fixed_sentences(PROMPTS)), folder)


def provide_tokenizer(variant: Variant) -> None:
    """Provide the tokenizer if there is none: a new one, or for a variant that of the finished models, which it is used with."""
    if (TOKENIZER / "tokenizer.json").exists():
        return
    if variant == ALL:
        train_tokenizer()
        return
    TOKENIZER.mkdir(parents=True, exist_ok=True)
    for name in reversed(TOKENIZER_FILES):  # tokenizer.json, which is asked for above, comes last
        shutil.copy2(POCKET / "teacher" / name, TOKENIZER / name)


def build_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """Return a model with fp32 weights: random ones by the recipe's seed, or those of the finished model that it starts from."""
    if recipe.start is not None:
        return Qwen3ForCausalLM.from_pretrained(
            POCKET / recipe.start, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        )
    torch.manual_seed(recipe.seed)
    vocabulary = load_tokenizer(TOKENIZER).get_vocab()
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary[END_OF_TURN],
        pad_token_id=vocabulary[PAD],
    )
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")
    return model


def build_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> Optimizers:
    """Return Muon for the matrices of the layers, and AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=recipe.weight_decay)
    adam = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return muon, adam


def build_loss(model: Qwen3ForCausalLM) -> Loss:
    """Return the mean cross-entropy over the reply positions, compiled once for batches of all shapes. Products are in bfloat16
    where the CPU has instructions for them; without, each step would take minutes."""
    bfloat16 = has_bfloat16_products()

    def loss(tokens: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
            chosen = hidden.reshape(-1, hidden.shape[-1])[positions]
            logits = torch.nn.functional.linear(chosen, model.lm_head.weight)
        return torch.nn.functional.cross_entropy(logits.float(), targets)

    return torch.compile(loss, dynamic=True)


def collate(examples: EncodedExamples, chosen: NDArray[np.int64], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded tokens [batch, length], the flat positions that predict reply tokens, and these reply tokens.

    Padding is on the right, where causal attention ignores it.
    """
    lengths = examples.lengths[chosen]
    width = -(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    tokens = np.full((len(chosen), width), pad, dtype=np.int64)
    positions, targets = [], []
    for row, (number, length) in enumerate(zip(chosen, lengths, strict=True)):
        ids = examples.tokens[examples.offsets[number] : examples.offsets[number + 1]]
        tokens[row, :length] = ids
        prompt = examples.prompt_lengths[number]
        positions.append(np.arange(prompt - 1, length - 1) + row * width)
        targets.append(ids[prompt:].astype(np.int64))
    return (
        torch.from_numpy(tokens),
        torch.from_numpy(np.concatenate(positions)),
        torch.from_numpy(np.concatenate(targets)),
    )


def state_tensors(model: Qwen3ForCausalLM, optimizers: Optimizers) -> dict[str, Tensor]:
    """Return weights and optimizer moments under flat names, without copying the tensors."""
    tensors: dict[str, Tensor] = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"moments/{name}/{key}"] = value
    return tensors


def save_state(
    path: Path, model: Qwen3ForCausalLM, optimizers: Optimizers, progress: Progress, identity: str
) -> None:
    """Atomically write everything that is needed to resume the training."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {"progress": json.dumps(asdict(progress)), "identity": identity}
    tensors = {name: tensor.contiguous() for name, tensor in state_tensors(model, optimizers).items()}
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_progress(path: Path, identity: str) -> Progress:
    """Return the progress of the checkpoint with this identity, or that of a new training if there is none."""
    if not path.exists():
        return Progress()
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
    return Progress(**json.loads(metadata["progress"])) if metadata["identity"] == identity else Progress()


def load_tensors(path: Path, model: Qwen3ForCausalLM, optimizers: Optimizers) -> None:
    """Load the weights and the optimizers' moments of a checkpoint."""
    tensors = load_file(path)
    muon, adam = optimizers
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"model/{name}"])
        prefix = f"moments/{name}/"
        moments = {
            key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
        }
        if moments:
            (adam if "exp_avg" in moments else muon).state[parameter] = moments


def update(
    loss: Tensor, model: Qwen3ForCausalLM, optimizers: Optimizers, recipe: Recipe, rate: float
) -> None:
    """Take one step with both optimizers at `rate` times their full learning rates; gradients are clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, full in zip(optimizers, (recipe.muon_rate, recipe.adam_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = full * rate
        with float32_products():  # Muon's are in bfloat16
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def warm_compiler(loss_of: Loss, examples: EncodedExamples, recipe: Recipe, pad: int) -> None:
    """Compile forward and backward for two shapes (about a minute) before the time is measured."""
    plan = batches(examples, recipe.tokens_per_step, seed=0)
    for _ in range(2):
        loss_of(*collate(examples, next(plan), pad)).backward()


def run(recipe: Recipe, minutes: float | None = None) -> tuple[Qwen3ForCausalLM, Progress]:
    """Train to the end of the schedule, resuming from a checkpoint if there is one."""
    state = WORK / f"{recipe.name}.state.safetensors"
    identity = f"{recipe.digest}/{data_digest(TOKENIZER)}/{minutes}"
    examples = [
        prepare(kind, recipe.examples, TOKENIZER, WORK, variant=recipe.variant) for kind in recipe.kinds
    ]
    model = build_model(recipe)
    optimizers = build_optimizers(model, recipe)
    progress = load_progress(state, identity)
    if progress.step:
        load_tensors(state, model, optimizers)
        print(f"{recipe.name}: resuming at step {progress.step}", flush=True)
    save = partial(save_state, state, model, optimizers, identity=identity)
    progress = run_steps(model, optimizers, recipe, examples, progress, minutes, save)
    save(progress)
    return model, progress


def run_steps(
    model: Qwen3ForCausalLM,
    optimizers: Optimizers,
    recipe: Recipe,
    examples: list[EncodedExamples],
    progress: Progress,
    minutes: float | None,
    save: Callable[[Progress], None],
) -> Progress:
    """Train to the end of the schedule, on `examples` of each of the recipe's kinds, and return the progress."""
    loss_of = build_loss(model)
    pad = load_tokenizer(TOKENIZER).get_vocab()[PAD]
    warm_compiler(loss_of, examples[0], recipe, pad)
    model.zero_grad(set_to_none=True)
    recent: deque[float] = deque(maxlen=50)
    seen = (progress.step - progress.finishing, progress.finishing)
    plans = [
        batches(kind, recipe.tokens_per_step, recipe.seed, skip)
        for kind, skip in zip(examples, seen, strict=False)
    ]
    last = saved = reported = time.monotonic()
    while (share := progress.share(recipe, minutes)) < 1:
        phase = recipe.phase(share)
        tokens, positions, targets = collate(examples[phase], next(plans[phase]), pad)
        loss = loss_of(tokens, positions, targets)
        update(loss, model, optimizers, recipe, recipe.rate(share))
        recent.append(loss.item())
        now = time.monotonic()
        progress = progress.after_step(phase, now - last, tokens.numel(), float(np.mean(recent)))
        last = now
        if now - reported > REPORT_EVERY_SECONDS:
            report(recipe, progress, minutes, tokens.numel())
            reported = now
        if now - saved > SAVE_EVERY_SECONDS:
            save(progress)
            saved = now
    return progress


def report(recipe: Recipe, progress: Progress, minutes: float | None, batch: int) -> None:
    """Print one line: steps, loss, speed and the minutes left."""
    share = progress.share(recipe, minutes)
    left = progress.seconds * (1 - share) / share / 60
    speed = progress.step / progress.seconds
    print(
        f"{recipe.name}: {share:6.1%}  step {progress.step:,}  "
        f"loss {progress.loss:.4f}  {speed:.2f} steps/s of {batch:,} tokens  {max(0.0, left):.1f} min left",
        flush=True,
    )


def export(model: Qwen3ForCausalLM, recipe: Recipe, tokens: int, loss: float) -> Path:
    """Atomically write the finished model as a Hugging Face folder, replacing an older one."""
    target = (POCKET if recipe.variant == ALL else WORK) / recipe.name
    new, old = WORK / f"{recipe.name}.new", WORK / f"{recipe.name}.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    torch.nn.Module.to(model, torch.bfloat16)
    model.eval()
    config = model.config
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=True, temperature=0.7
    )
    model.save_pretrained(new)
    for name in TOKENIZER_FILES:
        shutil.copy2(TOKENIZER / name, new / name)
    facts = {"parameters": model.num_parameters(), "tokens": tokens, "loss": round(loss, 4)}
    (new / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for file in new.iterdir():
        file.chmod(0o644)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def train(recipe: Recipe, minutes: float | None = None) -> Path:
    """Train one model by its recipe, resuming an unfinished training, and return its folder.

    `minutes` fits the schedule to this time, excluding data preparation and compilation.
    """
    provide_tokenizer(recipe.variant)
    model, progress = run(recipe, minutes)
    folder = export(model, recipe, progress.tokens, progress.loss)
    (WORK / f"{recipe.name}.state.safetensors").unlink(missing_ok=True)
    return folder


def train_all(minutes: float | None) -> int:
    """Train every recipe in a separate process with one thread, two at a time. Return 0 if all succeeded."""
    provide_tokenizer(ALL)
    waiting, running, failed = list(RECIPES), {}, 0
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            command = [sys.executable, "-m", "pocket.train", name]
            command += ["--minutes", str(minutes)] if minutes else []
            running[name] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        time.sleep(1)
        failed += sum(process.poll() not in (None, 0) for process in running.values())
        running = {name: process for name, process in running.items() if process.poll() is None}
    return int(failed > 0)


def variant_of(
    recipe: Recipe | None,
    name: str | None,
    families: str,
    wrong: str,
    *,
    finished: bool = False,
    steps: int | None = None,
) -> Recipe:
    """Return the recipe for some families, or with wrong answers for some; `finished`: starting from the finished model of the
    recipe; `steps`: of the schedule, None for the recipe's. Raises `ValueError` if the recipe is none of a solver, for an unknown
    family, for a name that cannot be that of a variant, and without a step."""
    if recipe is None or not set(recipe.kinds) <= {SOLVER, HASTY_SOLVER}:
        raise ValueError("--families and --wrong apply to the solvers: train teacher or student")
    if name is None or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in RECIPES:
        raise ValueError(
            "--name is needed with --families or --wrong: give letters, digits, - and _ that are no model's name"
        )
    if not (families or wrong):
        raise ValueError("--name is for a variant: give --families or --wrong")
    if steps is not None and steps < 1:
        raise ValueError(f"--steps is {steps}: give at least 1")
    chosen, corrupted = (chosen_families(one) if one else () for one in (families, wrong))
    start = recipe.name if finished else None
    variant = Variant(families=chosen, wrong=corrupted)
    return replace(recipe, name=name, variant=variant, start=start, steps=steps or recipe.steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pocket.train", description=__doc__)
    parser.add_argument("what", choices=("tokenizer", *RECIPES, "all"))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="fit the schedule of each model to this many minutes")
    length.add_argument("--steps", type=int, help="fit the schedule of a variant to this many steps")
    parser.add_argument(
        "--name", help="of a variant of teacher or student, which is written to pocket/.work/NAME"
    )
    families = "names with commas between them, or 1/2 or 2/2 for a half of all"
    parser.add_argument(
        "--families", default="", help=f"the only families that the variant learns: {families}"
    )
    parser.add_argument("--wrong", default="", help=f"families that it learns with wrong answers: {families}")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="start a variant from the finished model instead of random weights",
    )
    return parser


def main() -> int:
    """Train the tokenizer or the named models; return 0 if all succeeded."""
    parser = _parser()
    arguments = parser.parse_args()
    recipe = RECIPES.get(arguments.what)
    of_variant = (arguments.families, arguments.wrong, arguments.name, arguments.steps is not None)
    if any(of_variant) or arguments.finished:
        try:
            recipe = variant_of(
                recipe,
                arguments.name,
                arguments.families,
                arguments.wrong,
                finished=arguments.finished,
                steps=arguments.steps,
            )
        except ValueError as error:
            parser.error(str(error))
    bound_caches()
    keep_free_memory()
    if arguments.what == "tokenizer":
        train_tokenizer()
    elif recipe is None:
        return train_all(arguments.minutes)
    else:
        print(f"wrote {train(recipe, arguments.minutes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
