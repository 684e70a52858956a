"""Flow "sure-math-release": check a finished dataset or student, write its release folder and upload it to the hub."""

from __future__ import annotations

from typing import Any, Literal

from tasks.config import load_config
from tasks.stages.flow_runs import flow
from tasks.stages.release import naming_of, release_folder, send, send_back, target_of


@flow(name="sure-math-release", what="release")
def release(  # noqa: PLR0913, PLR0917 - the parameters of the deployment
    what: Literal["dataset", "model"] = "dataset",
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    version: str = "1.0.0",
    repo: str | None = None,
    dry_run: bool = True,
    private: bool = True,
    source: str | None = None,
    previous: str | None = None,
    licence: str | None = None,
    datasets: list[str] | None = None,
    evaluations: list[str] | None = None,
    roll_back_to: str | None = None,
    secret_block: str | None = None,
) -> str:
    """Release a dataset or a student on the Hugging Face hub.

    Args:
        what: dataset or model.
        profile, overrides: name of a file in configs/; settings that override it: {"run.output": "output/mine"}.
        version, repo: three numbers, the tag of the commit; name of the repository, owner/name.
        dry_run, private: only check and write the release folder; whether a new repository is a private one.
        source: folder of the dataset or of the training run; by default the profile's newest.
        previous: the earlier release folder, for the changelog; by default the newest in the output folder.
        licence, datasets: licence of a model, by default `distill.licence`; its datasets, as names on the hub.
        evaluations: folders of evaluations of a model, for its card; by default those of this model in `evaluate.out`.
        roll_back_to, secret_block: only restore the files of this tag; Prefect Secret block with the token instead of HF_TOKEN.

    Returns what was sent, in words.
    """
    naming = naming_of(roll_back_to or version, repo)
    target = target_of(repo, what, private=private, needed=roll_back_to is not None or not dry_run)
    if roll_back_to is not None:
        return send_back(target, naming.version, secret_block)
    config = load_config(profile, overrides)
    place = release_folder(
        what, config, naming, source, previous, licence, datasets or [], evaluations=evaluations
    )
    return send(config, place, target, naming, secret_block, dry_run=dry_run)
