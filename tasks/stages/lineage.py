"""Record the products of a run as Prefect assets, and publish their lineage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.reports.results import renew_results
from tasks.runtime.products import lineage_markdown, made_by
from tasks.storage import lineage
from tasks.storage.lineage import Maker, Product


def record_products(root: Path, profile: str, made: Sequence[Product]) -> None:
    """Record the products that this run has made or found finished, in the order of the chain.

    Each new one is materialised as an asset, whose dependencies are those assets that it was made from. The lineage is published
    as an artifact, and renewed in the report of the dataset.
    """
    maker = Maker(
        flow=str(flow_run.flow_name or ""), run=str(flow_run.name or ""), run_id=str(flow_run.id or "")
    )
    for product in made:
        known = lineage.products(root)
        assets: list[str | Asset] = [asset(profile, known[key]) for key in product.made_from if key in known]
        mine = asset(profile, product)
        task = materialize(
            mine, by="sure-math", asset_deps=assets, name="lineage", task_run_name=f"lineage: {product.kind}",
            cache_policy=NO_CACHE, persist_result=False,
        )(record_one)  # fmt: skip
        task(root, made_by(product, maker), mine.key)
    publish_lineage(root, [product.key for product in made])
    renew_results(root)


def record_one(root: Path, product: Product, key: str) -> State | None:
    """Write the record of a product. The task run is Cached, and no event is emitted, if it is already recorded."""
    add_asset_metadata(
        key,
        {
            "digest": product.digest,
            "folder": product.folder,
            "made_from": list(product.made_from),
            **product.facts,
        },
    )
    if not lineage.record(root, product):
        return Completed(name="Cached", message="this product is already recorded")
    return None


def asset(profile: str, product: Product) -> Asset:
    """Return the asset of a product: `suremath://pocket/dataset`. Later builds of a profile materialise the same asset again."""
    path = "/".join(part for part in (profile, str(product.kind), product.name) if part)
    key = f"suremath://{re.sub(r'[^A-Za-z0-9._/-]', '-', path)}"
    return Asset(key=key, properties=AssetProperties(name=f"{profile} {product.kind} {product.name}".strip()))


def publish_lineage(root: Path, made: Sequence[str]) -> None:
    """Publish what these products were made from, and what was made from them, as an artifact of the run."""
    found = lineage.related(lineage.products(root), made)
    create_markdown_artifact(
        lineage_markdown(found, made),
        key="lineage",
        description="Lineage: seeds, dataset, student, evaluation, release",
    )
