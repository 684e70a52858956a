"""All problems of a run that can be found before it starts anything: models, servers, sources, training, disk, clusters.

Imports neither Prefect nor torch nor vLLM, so that a wrong setting is reported within seconds.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tasks.config import PROJECT_ROOT, Config
from tasks.errors import UserError, attempt
from tasks.runtime.model_preflight import endpoint_problems, endpoints, hub_models, role_problems
from tasks.runtime.source_preflight import hub_sources, source_problems, unread_sources
from tasks.runtime.training_preflight import settings_problems, training_problems
from tasks.runtime.training_run import reads_dataset
from tasks.storage.disk import FULL, refuse_obstacle
from tasks.storage.hub_lookup import hub_problems
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import LATEST, latest
from tasks.text import is_utf8

Work = Literal["build", "distill", "validate", "annotate", "reannotate"]
ANNOTATORS = ("teacher", "equivalence_judge")
ROLES: dict[Work, tuple[str, ...]] = {
    "build": ("evolver", "quality_judge", *ANNOTATORS),
    "annotate": ANNOTATORS,
    "reannotate": ANNOTATORS,
    "distill": (),
    "validate": (),
}
"""The models that each flow uses, apart from those of the training."""
MIN_FREE_BYTES = 200_000_000
CONNECT_S = 4.0


def output_folder(config: Config) -> Path:
    """Return the absolute path of the profile's output folder."""
    return PROJECT_ROOT / config.run.output.expanduser()


def require_ready(
    config: Config, work: Work, *, root: Path | None = None, dataset: Path | None = None
) -> None:
    """Raise `UserError` with all problems that `check_run` finds, one per line."""
    problems = check_run(config, work, root=root, dataset=dataset)
    if problems:
        raise UserError("\n".join(problems))


def check_run(
    config: Config, work: Work = "build", *, root: Path | None = None, dataset: Path | None = None
) -> list[str]:
    """Return every problem, one sentence each, that would end the flow `work` later. Writes nothing.

    For a build or a distillation `config` must be resolved (`tasks.seeds.registry.resolve`). `root` is the output folder, by
    default the profile's; `dataset` the folder that a distillation or validation reads, by default the newest in `root`.
    """
    place = output_folder(config) if root is None else root
    trains = work == "distill" or (work == "build" and config.distill is not None and config.distill.in_build)
    sources = unread_sources(config, place) if work == "build" else ()
    held_out = config.distill.held_out_sources if trains and config.distill is not None else ()
    items = [*hub_models(config, ROLES[work], place), *hub_sources([*sources, *held_out])]
    with ThreadPoolExecutor() as pool:  # the network answers while local files are read
        remote = [pool.submit(lambda: hub_problems(items))]
        remote += [
            pool.submit(lambda names=names, role=role: endpoint_problems(config, names, role, place))
            for names, role in endpoints(config, ROLES[work]).items()
        ]
        remote += [pool.submit(lambda: cluster_problems(config, work, trains=trains))]
        problems = [*output_problems(place), *role_problems(config, ROLES[work])]
        problems += source_problems(config, sources)
        problems += _dataset_and_training(config, work, place, dataset, trains=trains)
        problems += [problem for answer in remote for problem in answer.result()]
    return list(dict.fromkeys(problems))


def output_problems(root: Path) -> list[str]:
    """Return a problem if the output folder `root` or the dataset in it cannot be written, or its disk is nearly full."""
    if not is_utf8(str(root)):
        return [f"run.output: {root} has a name that is not UTF-8: choose another folder"]
    there = next(path for path in (root, *root.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(there).free
    except OSError as error:
        full = error.errno in FULL
        remedy = "free some space or choose another folder" if full else "make it writable or choose another"
        return [f"run.output: {root} cannot be written ({error.strerror}): {remedy}"]
    problems: list[str] = []
    attempt(problems, lambda: refuse_obstacle(root / "dataset"))
    if problems or free >= MIN_FREE_BYTES:
        return problems
    return [
        f"run.output: the disk of {there} is full, {free / 1e6:,.0f} MB are free and a run needs at least"
        f" {MIN_FREE_BYTES / 1e6:,.0f} MB: free some space or choose another folder"
    ]


def _dataset_and_training(
    config: Config, work: Work, root: Path, dataset: Path | None, *, trains: bool
) -> list[str]:
    """Return the problems of the dataset that the flow reads, and of the training if it `trains`."""
    problems: list[str] = []
    found = None
    distill = config.distill
    if work in ("validate", "reannotate") or (
        work == "distill" and (distill is None or reads_dataset(distill))
    ):
        found = attempt(problems, lambda: _exported(PROJECT_ROOT / (dataset or newest_dataset(root))))
    if trains:
        return [*problems, *training_problems(config, root, found)]
    return [*problems, *settings_problems(config, root)] if work == "build" else problems


def _exported(folder: Path) -> Path:
    """Return the folder of a dataset. Raises `UserError` if it has no valid manifest."""
    read_manifest(folder)
    return folder


def newest_dataset(root: Path) -> Path:
    """Return the newest version of the dataset in an output folder. Raises `UserError` if there is none."""
    unversioned = root / "dataset"
    if not (root / LATEST).exists() and unversioned.is_dir():
        return unversioned
    return Path(latest(root)["dataset"])


def cluster_problems(config: Config, work: Work, *, trains: bool) -> list[str]:
    """Return a problem for each Ray cluster of the settings at whose address nothing listens."""
    addresses = {}
    if work == "build" and config.ray.address not in (None, "auto"):
        addresses["ray.address"] = str(config.ray.address)
    if trains and config.distill is not None and config.distill.ray_address is not None:
        addresses["distill.ray_address"] = config.distill.ray_address
    return [
        f"{setting}: no Ray cluster responds at {address} ({why}): start it, or remove this setting to use this machine"
        for setting, address in addresses.items()
        if (why := _silence(address)) is not None
    ]


def _silence(address: str) -> str | None:
    """Return why no connection to `host:port` or `scheme://host:port` can be opened, or None."""
    try:
        place = urlsplit(address if "//" in address else f"//{address}")
        with socket.create_connection((place.hostname or "", place.port or 80), CONNECT_S):
            return None
    except (OSError, ValueError) as error:
        return str(error)
