"""A small real dataset, and settings for runs on it with the pocket models."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompts import load_prompt
from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.chat_template_check import chat_template
from tasks.llm.model_identity import model_identity
from tasks.rows import Example, Response, Role, Tier
from tasks.storage.checksums import MANIFEST, checksum
from tasks.storage.dataset import write_dataset
from tasks.storage.manifest import Manifest, StageCount, Teacher, read_manifest
from training.config import RunConfig, run_from

TABLE = "data/train-00000-of-00001.parquet"


def example(number: int, **changes: object) -> Example:
    """Return row `number`; its four samples agree three to one, and w = 0.5 unless changed."""
    row = Example(
        id=f"{number:032x}",
        problem=f"Lena has {number} apples and buys {number + 2} more. How many apples does she have now?",
        tier=Tier.EASY,
        role=Role.EVOLVED,
        source="pocket",
        source_id=str(number),
        licence="cc0-1.0",
        root_id=f"{number + 1000:032x}",
        parent_id=f"{number + 1000:032x}",
        round=1,
        strategies=("harder",),
        answer=None,
        majority_answer=str(2 * number + 2),
        majority_correct=None,
        semantic_entropy=0.6931471805599453,  # log 2, half of log 4
        weight=0.5,
        discrete_entropy=0.5623351446188083,
        valid_entropy=None,
        intra_entropy=0.0,
        predictive_entropy=1.5,
        normalised_entropy=0.25,
        mean_logprob=-0.25,
        majority_share=0.75,
        sizes=(2,),
        entropy_by_size=(0.25,),
        weight_by_size=(0.75,),
        cluster_labels=(0, 1, 1, 1),
        cluster_probs=(0.5, 0.5),
        cluster_answers=("1", str(2 * number + 2)),
        num_samples=4,
        num_valid=4,
        num_truncated=0,
        judge_calls=0,
        order_flips=0,
        transitivity_violations=0,
        benchmark_root=False,
        benchmark_overlap=False,
        overlap_benchmarks=(),
        overlap_kinds=(),
        evolver_model="assistant:1",
        evolver_prompt="harder@1:1",
        quality_judge_model="assistant:1",
        quality_judge_prompt="quality@1:1",
        teacher_model="teacher:1",
        teacher_prompt="solve@1:1",
        equivalence_judge_model=None,
        equivalence_judge_prompt=None,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def teacher(**changes: object) -> Teacher:
    """Return the pocket teacher as described in an export."""
    made = Teacher(
        model=model_identity("pocket/teacher", None, PROJECT_ROOT),
        prompt=load_prompt("teacher/solve").fingerprint,
        tokenizer="unknown",
        chat_template=hashlib.sha256(
            str(chat_template(PROJECT_ROOT / "pocket/teacher")).encode()
        ).hexdigest()[:16],
        num_samples=4,
        temperature=0.7,
        top_p=0.95,
        max_tokens=448,
        thinking=False,
        logprobs="raw",
        scope="all",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def response(row: Example, index: int, answer: str = "1", **changes: object) -> Response:
    """Return a response to a row."""
    made = Response(
        problem_id=row.id, index=index, text=f"So \\boxed{{{answer}}}", token_count=7, logprob_sum=-1.5, finish_reason="stop",
        answer=answer, model="teacher:1", prompt="solve@1:1", sampling="{}", seed=index,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def write_small_dataset(
    folder: Path,
    rows: Sequence[Example],
    who: Teacher | None = None,
    responses: Sequence[Response] | None = None,
) -> Path:
    """Export `rows` as the train split, as the flow does; by default every response answers 1."""
    if responses is None:
        responses = [response(row, index) for row in rows for index in range(row.num_samples)]
    manifest = Manifest(
        name="SURE-Math",
        licence="cc0-1.0",
        profile="pocket",
        fingerprint="ab" * 32,
        stages=(StageCount(stage="sample", rows_in=len(rows), kept=len(rows)),),
        models={"teacher": "teacher:1", "evolver": "assistant:1"},
        prompts={"teacher/solve": "solve@1:1"},
        settings=load_config("pocket").identity(),
        teacher=who or teacher(),
        seeds={"split_seed": 0},
    )
    write_dataset(folder, {"train": rows}, {"train": responses}, manifest)
    return folder


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the train table in place, without the checks of the exporter."""
    path, manifest = folder / TABLE, read_manifest(folder)
    pq.write_table(change(pq.read_table(path)), path)
    renewed = replace(manifest, files={**manifest.files, TABLE: checksum(path)})
    (folder / MANIFEST).write_text(renewed.to_json(), encoding="utf-8")


def set_values(folder: Path, row: int, values: Mapping[str, object]) -> None:
    """Set values in one row of the train table, without the checks of the exporter."""

    def change(table: pa.Table) -> pa.Table:
        records = table.to_pylist()
        records[row] |= values
        return pa.Table.from_pylist(records, schema=table.schema)

    rewrite(folder, change)


def settings(dataset: Path, /, **changes: Any) -> dict[str, Any]:
    """Return settings of a run of the pocket models on CPU."""
    return {
        "output": str(dataset.parent / "run"),
        "dataset": {"folder": str(dataset)},
        "student": {"model": "pocket/student"},
        "teacher": {"model": "pocket/teacher"},
        "lengths": {"max_prompt_tokens": 256, "max_response_tokens": 448},
        "trainer": {"micro_batch_tokens": 2048},
        "placement": {"kind": "cpu", "engines": 1},
        **changes,
    }


def small_run(dataset: Path, /, **changes: Any) -> RunConfig:
    return run_from(settings(dataset, **changes), "test")


def copy_model(name: str, folder: Path) -> Path:
    """Copy a pocket model, so that a test can modify it."""
    return Path(shutil.copytree(PROJECT_ROOT / "pocket" / name, folder))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


Tensors = dict[str, tuple[list[int], bytes]]
"""Shape and bf16 values by name."""


def edit_weights(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Change the tensors of a checkpoint in place."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    tensors = {
        name: (entry["shape"], data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]])
        for name, entry in header.items()
    }
    change(tensors)
    made, values = {}, b""
    for name, (shape, content) in tensors.items():
        made[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [len(values), len(values) + len(content)],
        }
        values += content
    written = json.dumps({"__metadata__": {"format": "pt"}} | made).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + values)


def pad_embedding(folder: Path, rows: int) -> Path:
    """Pad the embedding of a copied pocket model with zeros to `rows` rows."""

    def pad(tensors: Tensors) -> None:
        (old, width), values = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = [rows, width], values + bytes(2 * (rows - old) * width)

    edit_weights(folder, pad)
    edit(folder / "config.json", lambda data: data.update(vocab_size=rows))
    return folder
