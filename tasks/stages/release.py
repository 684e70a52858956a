"""Stage release: check a dataset or a student, write its release folder, and upload it if that is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, Config
from tasks.errors import UserError
from tasks.keys import HUB_TOKEN, checked_key, read_key, secret_values
from tasks.release.contract import check, read_built
from tasks.release.dataset_folder import Naming, write_dataset_release
from tasks.release.evaluations import evaluations_of
from tasks.release.hub import Target, roll_back, upload
from tasks.release.model_folder import read_trained, write_model_release
from tasks.release.texts import refuse_exposed
from tasks.runtime.preflight import output_folder
from tasks.runtime.products import model_digest, release_product
from tasks.stages.lineage import record_products
from tasks.storage.checksums import read_sealed
from tasks.storage.lineage import Kind, key_of, products
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import latest
from tasks.text import counted

What = Literal["dataset", "model"]
FOLDER, CANDIDATE = "release", "candidate"
LAST_VERSION = "999999.999999.999999"


def release_folder(  # noqa: PLR0913 - the parameters of the flow
    what: What,
    config: Config,
    naming: Naming,
    source: str | None,
    previous: str | None,
    licence: str | None,
    datasets: list[str],
    *,
    candidate: bool = False,
    evaluations: list[str] | None = None,
) -> Path:
    """Check a dataset or a student and write `release/<what>-<version>` in the output folder, or `release/candidate/<what>`;
    return its path.

    Raises `UserError` with every clause of the contract that is broken, before anything is written.
    """
    root = output_folder(config)
    own = root / FOLDER / f"{what}-{naming.version}"
    place = root / FOLDER / CANDIDATE / what if candidate else own
    log = get_run_logger().info
    if what == "dataset":
        folder = Path(source or latest(root)["dataset"])
        before = Path(previous) if previous else newest_before(own)
        for line in write_dataset(place, folder, naming, before):
            log("release: since %s: %s", before.name if before else "the start", line)
    else:
        folder = Path(source) if source else newest_student(root)
        own_licence = None if config.distill is None else config.distill.licence
        write_model(
            place, folder, naming, licence or own_licence, datasets, measured(config, folder, evaluations)
        )
    refuse_exposed(place, secret_values())
    log("release: %s is written from %s", place, folder)
    return place


@task(cache_policy=NO_CACHE, persist_result=False)
def write_dataset(place: Path, folder: Path, naming: Naming, previous: Path | None) -> list[str]:
    """Check a dataset against the contract, and write its release folder; return the changes in words."""
    built = read_built(folder)
    check(built)
    return write_dataset_release(place, built, naming, previous)


def write_model(
    place: Path,
    folder: Path,
    naming: Naming,
    licence: str | None,
    datasets: list[str],
    evaluations: Sequence[Mapping[str, Any]],
) -> None:
    """Write the release folder of a student. Raises `UserError` without a licence."""
    if licence is None:
        raise UserError(
            "a model is released under a licence: give one, e.g. LICENCE=apache-2.0, or set distill.licence of the profile"
        )
    write_model_release(
        place, read_trained(folder), naming, licence=licence, datasets=datasets, evaluations=evaluations
    )


def measured(config: Config, run: Path, given: list[str] | None) -> Sequence[Mapping[str, Any]]:
    """Return the evaluations of the student of a training run in the form of the hub's `model-index`: those in the folders that
    are given, or else in the profile's `evaluate.out`. What is left out is logged."""
    log = get_run_logger().info
    folders = [str(config.evaluate.out)] if given is None else given
    paths = [PROJECT_ROOT / Path(one).expanduser() for one in folders]
    found = evaluations_of(read_trained(run).identity, paths, given=given is not None)
    for line in found.left_out:
        log("release: not on the card: %s", line)
    log("release: %s on the card", counted(len(found.results), "evaluation"))
    return found.results


def candidate_naming(config: Config, what: What) -> Naming:
    """Return the version after the newest release of its kind in the output folder, 1.0.0 without one."""
    newest = newest_before(output_folder(config) / FOLDER / f"{what}-{LAST_VERSION}")
    if newest is None:
        return naming_of("1.0.0", None)
    major, minor, _ = _numbers(newest.name)
    return naming_of(f"{major}.{minor + 1}.0", None)


def record_release(config: Config, what: What, place: Path, naming: Naming, *, sent: bool) -> None:
    """Record a release folder in the lineage: what it was made from is in its own papers."""
    root = output_folder(config)
    if what == "dataset":
        made_from = [key_of(Kind.DATASET, read_manifest(place).fingerprint)]
    else:
        recipe = json.loads((place / "recipe.json").read_text(encoding="utf-8"))
        student = key_of(Kind.STUDENT, model_digest(str(recipe["student"]["to"])))
        graded = [
            one.key
            for one in products(root).values()
            if one.kind is Kind.EVALUATION and student in one.made_from
        ]
        made_from = [student, *graded]
    state = f"sent to {naming.repo}" if sent else "not sent"
    facts = {"version": naming.version, "state": state}
    record_products(root, config.profile, [release_product(root, place, what, facts, made_from)])


def newest_before(place: Path) -> Path | None:
    """Return the newest release folder of an earlier version next to `place`, or None."""
    kind, _, version = place.name.rpartition("-")
    found = {_numbers(path.name): path for path in place.parent.glob(f"{kind}-*.*.*") if path.is_dir()}
    earlier = [numbers for numbers in found if numbers and numbers < _numbers(f"{kind}-{version}")]
    return found[max(earlier)] if earlier else None


def _numbers(name: str) -> tuple[int, ...]:
    parts = name.rpartition("-")[2].split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def newest_student(root: Path) -> Path:
    """Return the folder of the last finished training run. Raises `UserError` if there is none."""
    remedy = "distil a student first (make distill)"
    run = read_sealed(root / "distill" / "latest.json", remedy).get("run")
    return root / "distill" / str(run)


def send(
    config: Config, place: Path, target: Target, naming: Naming, block: str | None, *, dry_run: bool
) -> str:
    """Upload a release folder, unless it is a dry run, and record it in the lineage; return what was done, in words."""
    files = [path for path in place.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if dry_run:
        done = f"dry run: {len(files):,} files ({size:,} bytes) are in {place}; nothing was sent"
    else:
        token = hub_token(block)
        refuse_exposed(place, [token])
        sent = upload(place, target, naming.version, token, get_run_logger().warning)
        done = f"{target.kind} {target.repo}: {sent}"
    _publish(done)
    record_release(config, target.kind, place, naming, sent=not dry_run)
    return done


def send_back(target: Target, version: str, block: str | None) -> str:
    """Roll a repository back to a tag; return what was done, in words."""
    sent = roll_back(target, version, hub_token(block), get_run_logger().warning)
    done = f"{target.kind} {target.repo} is back at {version}: {sent}"
    _publish(done)
    return done


def hub_token(block: str | None) -> str:
    """Return the token in a Prefect Secret block, or in the environment. Raises `UserError` if there is none."""
    if block is not None:
        try:
            secret: Any = Secret.load(block)
        except ValueError as error:
            raise UserError(
                f"Prefect has no Secret block {block!r}: create it, or set {HUB_TOKEN}"
            ) from error
        return checked_key(str(secret.get()), f"the Secret block {block}")
    token = read_key(HUB_TOKEN)
    if not token:
        raise UserError(
            f"an upload needs a token: set {HUB_TOKEN}, or name a Prefect Secret block (secret_block)"
        )
    return token


def _publish(done: str) -> None:
    get_run_logger().info("release: %s", done)
    create_markdown_artifact(f"{done}\n", key=FOLDER, description="The release")


def target_of(repo: str | None, what: Literal["dataset", "model"], *, private: bool, needed: bool) -> Target:
    """Return the repository of a release. Raises `UserError` if there is none and it is needed."""
    if not repo and needed:
        raise UserError(
            "an upload needs a repository: give its name on the hub, e.g. REPO=my-group/sure-math"
        )
    return Target(repo=repo or "", kind=what, private=private)


def nowhere(what: What) -> Target:
    """Return the target of a release that is not sent."""
    return target_of(None, what, private=True, needed=False)


def naming_of(version: str, repo: str | None) -> Naming:
    """Return version and repository of a release. Raises `UserError` if one is invalid."""
    return Naming(version=version, repo=repo or "")
