"""The products of the flows, from the records that their stages wrote, and the lineage as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from tasks.identity import fingerprint
from tasks.storage.artifacts import Artifact, Store, versions
from tasks.storage.cards import escape_markdown
from tasks.storage.checksums import checksum, read_sealed
from tasks.storage.lineage import Kind, Maker, Product, key_of, missing, outline
from tasks.storage.manifest import read_manifest
from tasks.text import counted

METRICS = "metrics.json"
RESULT = "result.json"


def placed(path: Path, root: Path) -> str:
    """Return a path relative to the output folder, or whole if it lies elsewhere."""
    whole, base = path.resolve(), root.resolve()
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)


def made_by(product: Product, maker: Maker) -> Product:
    """Return the product with the run that made it, the version of the software and the time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(
        product, maker=maker, software=f"sure-math {versions().get('sure-math', '')}".strip(), finished_at=now
    )


def seeds_product(store: Store, seeds: Artifact) -> Product:
    """Return the seeds of a build, which its stage aggregate wrote."""
    sources = store.record(seeds).get("settings", {}).get("sources", {})
    named = ", ".join(f"{name} ({_short(digest)})" for name, digest in sources.items())
    return Product(
        kind=Kind.SEEDS, digest=seeds.fingerprint, folder=placed(seeds.path, store.root),
        facts={"problems": f"{seeds.num_rows:,}", "sources": named},
    )  # fmt: skip


def dataset_product(root: Path, folder: Path, made_from: Sequence[str] = ()) -> Product:
    """Return an exported dataset."""
    manifest = read_manifest(folder)
    splits = () if manifest.contents is None else manifest.contents.splits
    return Product(
        kind=Kind.DATASET, digest=manifest.fingerprint, folder=placed(folder, root), made_from=tuple(made_from),
        facts={
            "name": manifest.name, "profile": manifest.profile, "licence": manifest.licence, "teacher": manifest.teacher.model,
            **{f"split {one.split}": counted(one.problems, "problem") for one in splits},
        },
    )  # fmt: skip


def student_product(root: Path, run: Path) -> Product:
    """Return the student of a finished training run."""
    result = read_sealed(run / RESULT, "run the distillation again")
    held_out = result.get("held_out")
    gain = {} if held_out is None else {"gain": f"{100 * held_out['gain']['value']:+.1f} points"}
    return Product(
        kind=Kind.STUDENT, digest=model_digest(result["student"]["to"]), folder=placed(run, root),
        made_from=(key_of(Kind.DATASET, str(result["dataset"])),),
        facts={
            "algorithm": str(result["algorithm"]), "steps": f"{result['steps']:,}", "start": str(result["student"]["from"]),
            "teacher": str(result["teacher"] or "none"), **gain,
        },
    )  # fmt: skip


def model_digest(identity: str) -> str:
    """Return the hash in a model's identity `name:hash`, or the identity of a model without one."""
    return identity.rpartition(":")[2]


def evaluation_product(root: Path, folder: Path) -> Product:
    """Return one result of an evaluation. Raises `OSError` or `ValueError` if it cannot be read."""
    numbers = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    main = numbers["scores"].get(numbers.get("main"))
    score = {} if main is None else {str(numbers["main"]): f"{main['value']:.2%}"}
    return Product(
        kind=Kind.EVALUATION, digest=checksum(folder / METRICS), folder=placed(folder, root),
        name=f"{folder.parent.name}/{folder.name}",
        made_from=(key_of(Kind.STUDENT, model_digest(str(numbers["model"]["identity"]))),),
        facts={
            "benchmark": str(numbers["benchmark"]["title"]), "protocol": folder.name,
            "problems": f"{numbers['benchmark']['problems']:,}", **score,
        },
    )  # fmt: skip


def release_product(
    root: Path, place: Path, what: str, facts: Mapping[str, str], made_from: Sequence[str]
) -> Product:
    """Return a release folder; its digest is that of the names and bytes of its files."""
    files = {
        path.relative_to(place).as_posix(): checksum(path) for path in place.rglob("*") if path.is_file()
    }
    digest = fingerprint(stage="release", version=1, settings=files)
    return Product(
        kind=Kind.RELEASE, digest=digest, folder=placed(place, root), name=what, made_from=tuple(made_from),
        facts={"of": what, "files": f"{len(files):,}", **facts},
    )  # fmt: skip


def _short(digest: Any) -> str:
    text = digest if isinstance(digest, str) else json.dumps(digest, sort_keys=True)
    return text.rpartition(":")[2][:12]


# --- for people ---------------------------------------------------------------------------------------------------


def lineage_markdown(known: Mapping[str, Product], made: Sequence[str]) -> str:
    """Return the lineage as a Markdown table. The products with the keys `made`, those of this run, are bold. All values are
    escaped."""
    lines = ["| product | digest | made by | contents | folder |", "|---|---|---|---|---|"]
    for depth, one in outline(known):
        name = f"**{one.kind}**" if one.key in made else str(one.kind)
        contents = "; ".join(
            [*(f"{name} {value}" for name, value in one.facts.items() if value), *missing(one, known)]
        )
        cells = (
            f"└{'─' * (depth - 1)} {name}" if depth else name,
            escape_markdown(one.short),
            _maker(one.maker),
            escape_markdown(contents),
            escape_markdown(one.folder),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _maker(maker: Maker) -> str:
    """Return the run as Markdown, with a link to its page if it has an id of Prefect's."""
    name = escape_markdown(maker.run or maker.flow or "unknown")
    try:
        return f"[{name}](/runs/flow-run/{UUID(maker.run_id)})"
    except ValueError:
        return name
