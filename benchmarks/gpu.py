"""Head, student and teacher on one GPU: seconds beside a floor that the same device gives in the same run.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu.jsonl
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --hidden 64 --vocabulary 1000 --layers 2 --k 16 --tokens 64 \\
        --chunks 16 32 --longest 64 --micro-batch 128 --head-chunk 16 --product 256

It needs torch, transformers and numpy, and no network: the models have the papers' shapes and random weights. All is bf16.
Seconds are the least of `--repeats` after a warm-up. A case that runs out of GPU memory says so in its row, and the others go
on. Sequences are drawn, not sampled from a model: prompts of 65 to 257 tokens, responses of 1,024 in the median (log normal,
sigma 0.6) and 4,096 at most. Memory is what torch allocated at most, n/a on CPU.

- `head`: the top-k cross-entropy, forward and backward. Floor: its three matrix products alone (two where the head is frozen),
  in the same chunks and in one piece. `naive` forms whole logits and leaves the rest to autograd; loss and gradients of the
  others are to be compared with its own. Extra memory is that beside the inputs and the gradient of the head's weight, which
  every way must give.
- `student`: forward and backward of micro-batches, from arrays on the host to the gradients of an update; the optimizer and all
  communication are left out. Floor: the FLOPs at the rate of a square product. They are 6 N for a token (N: parameters in the
  matrices of the layers), 6 V H for a response token (the head), and 6 L L times the heads' joint width in each layer for L
  tokens in causal attention. Checkpointing runs the layers forward once more (8 N, 8 L L): the second utilisation counts that
  too. Padding and masked pairs never count.
- `teacher`: prompt and response in, the k likeliest tokens at each response position out, as arrays on the host. Floor: 2 N,
  2 V H and 2 L L at the rate of the product. The parts are timed apart as well: the layers; the head and its top k, beside the
  head's product alone and the top k alone; the copy to the host, beside one into page-locked memory.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from gpu_head import HEAD, head_rows
from gpu_meter import OUT_OF_MEMORY, Meter, Report, Row, Table, free
from gpu_models import STUDENT, TEACHER, student_rows, teacher_rows

ROWS: dict[str, tuple[Table, Callable[[argparse.Namespace, Meter, Report], None]]] = {
    "head": (HEAD, head_rows),
    "student": (STUDENT, student_rows),
    "teacher": (TEACHER, teacher_rows),
}


def about(device: torch.device) -> Row:
    """Names and versions that a figure depends on."""
    found: Row = {"device": f"cpu, {torch.get_num_threads()} threads", "torch": torch.__version__}
    found |= {"transformers": version("transformers"), "driver": None}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
            found["driver"] = asked.stdout.partition("\n")[0] or None
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are the papers' shapes and the settings of the training stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--hidden", type=int, nargs="+", default=[2048, 4096], help="first the student's, last the teacher's")
    add("--layers", type=int, nargs="+", default=[28, 36], help="first the student's, last the teacher's")
    add("--vocabulary", type=int, default=151_936)
    add("--k", type=int, default=512)
    add("--tokens", type=int, nargs="+", default=[1024, 4096, 8192], help="positions of the head's rows")
    add("--chunks", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="of head and teacher")
    add("--sequences", type=int, default=24, help="of student and teacher")
    add("--longest", type=int, default=4096, help="tokens of the longest response")
    add("--micro-batch", type=int, default=8192, help="most tokens of one pass of student and teacher")
    add("--head-chunk", type=int, default=256, help="positions of the student's head at a time")
    add("--product", type=int, default=8192, help="side of the square matrices whose product gives the rate")
    add("--repeats", type=int, default=5)
    add("--out", type=Path, help="a file for the rows, as lines of JSON")
    options = parser.parse_args(arguments)
    if options.k > options.vocabulary:
        parser.error(f"--k {options.k} of a vocabulary of {options.vocabulary}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: take --device cpu, with small sizes")
    return options


def main() -> None:
    """Print what device this is, then the tables row by row."""
    options = parse()
    meter, report = Meter(device=torch.device(options.device), repeats=options.repeats), Report(options.out)
    known = about(meter.device)
    print(", ".join(f"{name} {value or 'n/a'}" for name, value in known.items()), flush=True)
    report.write({"row": "device", **known, "options": vars(options) | {"out": None}})
    for name in options.rows:
        table, measure = ROWS[name]
        try:
            measure(options, meter, report)
        except torch.OutOfMemoryError:  # before the first case: what all of them share does not fit
            report.add(table, dict(OUT_OF_MEMORY))
        free()


if __name__ == "__main__":
    main()
