"""The lineage of what an output folder contains: seeds, dataset, student, evaluation, release.

`<root>/lineage/` has one sealed record for each product, with its digest, its folder, what it was made from, and the Prefect run
that made it. A record is written when its product is finished; a later run that finds the same product keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.storage.checksums import sealed, unsealed
from tasks.storage.disk import atomic_write

FOLDER = "lineage"
SHOWN_DIGITS = 12


class Kind(StrEnum):
    """What a product is; the order is that of the chain."""

    SEEDS = "seeds"
    DATASET = "dataset"
    STUDENT = "student"
    EVALUATION = "evaluation"
    RELEASE = "release"


ORDER = {kind: place for place, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """The Prefect run that made a product."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    flow: str = ""
    run: str = ""  # its name
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product. `made_from` has the keys of other products, which need not be recorded in the same folder.

    `name` tells products of one kind apart, such as the benchmark of an evaluation. `folder` is relative to the output folder if
    it lies inside. `facts` are for people.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: Kind
    digest: str
    folder: str
    name: str = ""
    made_from: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    software: str = ""
    finished_at: str = ""
    maker: Maker = Maker()

    @property
    def key(self) -> str:
        """Kind and digest, as in `made_from`."""
        return f"{self.kind}:{self.digest}"

    @property
    def short(self) -> str:
        """The first digits of the digest."""
        return self.digest[:SHOWN_DIGITS]

    @property
    def file(self) -> str:
        """Name of its record."""
        name = "".join(character if character.isalnum() else "-" for character in self.digest[:32])
        return f"{self.kind}-{name}.json"


def key_of(kind: Kind, digest: str) -> str:
    """Return the key of a product."""
    return f"{kind}:{digest}"


def record(root: Path, product: Product) -> bool:
    """Write a product's record. Return False, without a change, if there is one that differs in maker, software and time only."""
    path = root / FOLDER / product.file
    known = _read(path)
    if known is not None and _content(known) == _content(product):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    values = TypeAdapter(Product).dump_python(product, mode="json")
    atomic_write(path, json.dumps(sealed(values), indent=2, ensure_ascii=False) + "\n")
    return True


def _content(product: Product) -> Product:
    return replace(product, maker=Maker(), software="", finished_at="")


def products(root: Path) -> dict[str, Product]:
    """Return the recorded products of an output folder by key, in the order of the chain. A damaged record counts as absent, and
    the next run that finds its product writes it again."""
    found = [one for path in (root / FOLDER).glob("*.json") if (one := _read(path)) is not None]
    found.sort(key=lambda one: (ORDER[one.kind], one.finished_at, one.digest))
    return {one.key: one for one in found}


def _read(path: Path) -> Product | None:
    try:
        values: dict[str, Any] = unsealed(path.read_bytes())
        values.pop("format", None)
        return TypeAdapter(Product).validate_json(json.dumps(values))
    except (OSError, ValueError, ValidationError):
        return None


def related(known: Mapping[str, Product], keys: Iterable[str]) -> dict[str, Product]:
    """Return the products with these keys, everything that they were made from, and everything that was made from them."""
    start = [key for key in keys if key in known]
    wanted = set(start)
    upwards = {key: [parent for parent in one.made_from if parent in known] for key, one in known.items()}
    downwards: dict[str, list[str]] = {key: [] for key in known}
    for key, parents in upwards.items():
        for parent in parents:
            downwards[parent].append(key)
    for edges in (upwards, downwards):
        seen, left = set(start), list(start)
        while left:
            new = [key for key in edges[left.pop()] if key not in seen]
            seen.update(new)
            left += new
        wanted |= seen
    return {key: one for key, one in known.items() if key in wanted}


def outline(known: Mapping[str, Product]) -> list[tuple[int, Product]]:
    """Return the products as a tree, depth first, with their depths: a product is below the latest one that it was made from."""
    children: dict[str | None, list[str]] = {}
    for key, one in known.items():
        parents = [parent for parent in one.made_from if parent in known and parent != key]
        above = max(parents, key=lambda parent: ORDER[known[parent].kind], default=None)
        children.setdefault(above, []).append(key)
    found: list[tuple[int, Product]] = []
    left = [(0, key) for key in reversed(children.get(None, []))]
    while left:
        depth, key = left.pop()
        found.append((depth, known[key]))
        left += [(depth + 1, child) for child in reversed(children.get(key, []))]
    return found


def missing(product: Product, known: Mapping[str, Product]) -> list[str]:
    """Describe what the product was made from that is not among the known ones: 'made from dataset 0123456789ab'."""
    keys = (key.partition(":") for key in product.made_from if key not in known)
    return [f"made from {kind} {digest[:SHOWN_DIGITS]} (recorded elsewhere)" for kind, _, digest in keys]
