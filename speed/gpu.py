r"""Time of LM head, student and teacher on one GPU, compared with lower bounds measured on the same device in the same run.

    PYTHONPATH=. python speed/gpu.py --out gpu.jsonl
    PYTHONPATH=. python speed/gpu.py --device cpu --hidden 64 --vocabulary 1000 --layers 2 --k 16 --tokens 64 \
        --chunks 16 32 --longest 64 --micro-batch 128 --head-chunk 16 --product 256

Requires torch, transformers and numpy, but no network: the models have the papers' dimensions and random bf16 weights. Times are
the minimum of `--repeats` runs after a warm-up. If a case runs out of GPU memory, its row reports that and the run continues.
Sequence lengths are random: prompts of 65 to 257 tokens, responses log-normal with median 1,024, sigma 0.6 and maximum 4,096.
Memory is torch's peak allocation, n/a on CPU.

- `head`: the top-k cross-entropy, forward and backward. Floor: its three matrix products alone (two if the head is frozen), in
  the same chunks and unchunked. `naive` computes all logits and uses autograd; it is the reference for the loss and gradients of
  the other methods. Extra memory excludes the inputs and the gradient of the head's weight, which every method must produce.
- `student`: forward and backward of micro-batches, from arrays on the host to the gradients of an update, without optimizer and
  communication: packed rows with a mask, one sequence to a row, and on GPUs first the row of variable-length attention that the
  training uses there. Floor: the FLOPs at the rate of a square matrix product. They are 6 N per token (N: parameters in the
  matrices of the layers), 6 V H per response token (the head), and, for causal attention over L tokens, 6 L L times the total
  width of the attention heads per layer. Checkpointing repeats the forward pass of the layers (8 N, 8 L L), which the second
  utilisation includes. Padding and masked pairs are never counted.
- `teacher`: from prompt and response to the k most likely tokens at each response position, as arrays on the host. Floor: 2 N,
  2 V H and 2 L L at the rate of the product. The parts are also timed separately: the layers; the head with top k, the head's
  product alone and the top k alone; the copy to the host, and a copy to page-locked memory.
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
    """Return the device and the versions that the results depend on."""
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
    """Parse the options. Defaults are the papers' model dimensions and the settings of the training stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--hidden", type=int, nargs="+", default=[2048, 4096], help="first: student, last: teacher")
    add("--layers", type=int, nargs="+", default=[28, 36], help="first: student, last: teacher")
    add("--vocabulary", type=int, default=151_936)
    add("--k", type=int, default=512)
    add("--tokens", type=int, nargs="+", default=[1024, 4096, 8192], help="positions of the head cases")
    add("--chunks", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="of head and teacher")
    add("--sequences", type=int, default=24, help="sequences for student and teacher")
    add("--longest", type=int, default=4096, help="maximum response length in tokens")
    add("--micro-batch", type=int, default=8192, help="maximum tokens per forward pass")
    add("--head-chunk", type=int, default=256, help="positions per chunk of the student's head")
    add("--product", type=int, default=8192, help="size of the square matrices that measure the rate")
    add("--repeats", type=int, default=5)
    add("--out", type=Path, help="JSON Lines file for the rows")
    options = parser.parse_args(arguments)
    if options.k > options.vocabulary:
        parser.error(f"--k {options.k} exceeds --vocabulary {options.vocabulary}: choose a smaller k")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is available: use --device cpu with small sizes")
    return options


def main() -> None:
    """Print the device and versions, then the tables row by row."""
    options = parse()
    meter, report = Meter(device=torch.device(options.device), repeats=options.repeats), Report(options.out)
    known = about(meter.device)
    print(", ".join(f"{name} {value or 'n/a'}" for name, value in known.items()), flush=True)
    report.write({"row": "device", **known, "options": vars(options) | {"out": None}})
    for name in options.rows:
        table, measure = ROWS[name]
        try:
            measure(options, meter, report)
        except torch.OutOfMemoryError:  # before the first case: the model does not fit in memory
            report.add(table, dict(OUT_OF_MEMORY))
        free()


if __name__ == "__main__":
    main()
