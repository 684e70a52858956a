"""Problems of a run's models before it starts: files, hub entries, servers, ports, and settings that exclude each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.config import PROJECT_ROOT, Config, ModelRole
from tasks.errors import UserError, attempt
from tasks.llm.chat_template_check import chat_template, template_problem
from tasks.llm.chat_templates import role_identity, role_template
from tasks.llm.checkpoint_files import checkpoint_problem
from tasks.llm.model_folder import model_folder
from tasks.llm.servers import check_endpoint, free_port
from tasks.storage.artifacts import Store
from tasks.storage.hub_lookup import HubItem

ENDPOINT_S = 8.0
"""Timeout of the request to a model server."""


def role_problems(config: Config, roles: Sequence[str]) -> list[str]:
    """Return the problems of the roles that can be found on this machine: incomplete checkpoints, occupied ports, settings."""
    problems: list[str] = []
    for names, role in _by_model(config, roles).items():
        found: list[str] = []
        folder = None if role.serve is None else attempt(found, lambda one=role: _folder(one))
        if folder is not None and (wrong := checkpoint_problem(folder, role.max_model_len)):
            found.append(wrong)
        if role.serve is not None and not found:
            found += template_problems(role, folder)
        if role.serve is not None and role.serve.port is not None:
            attempt(found, lambda serve=role.serve: free_port(serve))
        problems += [f"models.{names}: {one}" for one in found]
    return [*problems, *(sampling_problems(config) if "teacher" in roles else [])]


def template_problems(role: ModelRole, folder: Path | None) -> list[str]:
    """Return what is wrong with the chat template of a model served here, in `folder` or on the hub (None), where only a given
    template is checked."""
    problems: list[str] = []
    if role.chat_template is None:
        if folder is None:
            return []
        if (wrong := template_problem(folder)) is not None:
            return [wrong]
        if chat_template(folder) is None:
            return [
                f"{folder} has no chat template: set chat_template to a Jinja file, or use a checkpoint that has one"
            ]
    attempt(problems, lambda: role_template(role, PROJECT_ROOT))
    return problems


def _folder(role: ModelRole) -> Path | None:
    return model_folder(role.model, PROJECT_ROOT)


def sampling_problems(config: Config) -> list[str]:
    """Return the settings of the teacher's samples that no teacher, or not this one, can give."""
    problems = []
    if config.sample.sampling.temperature == 0.0:
        problems.append(
            f"{config.sample.num_samples} samples at temperature 0 are all the same: set sample.sampling.temperature above 0"
        )
    if config.sample.logprobs == "tempered" and config.models.teacher.serve is None:
        problems.append(
            "sample.logprobs is 'tempered', which a server at models.teacher.base_url cannot give: set it to 'raw'"
        )
    return problems


def hub_models(config: Config, roles: Sequence[str], root: Path) -> list[HubItem]:
    """Return the models that have to be read from the hub."""
    items = []
    for names, role in _by_model(config, roles).items():
        ignored: list[str] = []  # a missing folder is reported by `role_problems`
        is_local = role.serve is None or attempt(ignored, lambda one=role: _folder(one)) is not None
        if is_local or ignored or _is_answered(config, names, role, root):
            continue
        items.append(
            HubItem(setting=f"models.{names}.model", kind="model", hub_id=role.model, revision=role.revision)
        )
    return items


def endpoint_problems(config: Config, names: str, role: ModelRole, root: Path) -> list[str]:
    """Return what is wrong with the servers at a role's `base_url`.

    A server whose stage is finished in the output folder is not needed any more, so it may be gone.
    """
    if role.serve is not None or _is_answered(config, names, role, root):
        return []
    try:
        check_endpoint(role, ENDPOINT_S, all_of_them=True)
    except UserError as error:
        return [f"models.{names}: {line}" for line in str(error).splitlines()]
    return []


def endpoints(config: Config, roles: Sequence[str]) -> Mapping[str, ModelRole]:
    """Return the roles that are reached at a `base_url`, by their joined names."""
    return {names: role for names, role in _by_model(config, roles).items() if role.serve is None}


def _by_model(config: Config, roles: Sequence[str]) -> dict[str, ModelRole]:
    """Return each distinct role under the names of all roles that are equal to it: 'quality_judge, equivalence_judge'."""
    if config.cluster.judge == "never":
        roles = [name for name in roles if name != "equivalence_judge"]
    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in roles:
        same[getattr(config.models, name).model_dump_json()].append(name)
    return {", ".join(names): getattr(config.models, names[0]) for names in same.values()}


def _is_answered(config: Config, names: str, role: ModelRole, root: Path) -> bool:
    """Whether the last stage of every one of these roles was finished with this model in the output folder `root`."""
    ignored: list[str] = []  # a served name may look like the path of a folder
    identity = attempt(ignored, lambda: role_identity(role, PROJECT_ROOT))
    last = {
        "evolver": f"evolve-{max(config.evolve.rounds.values())}",
        "quality_judge": "judge" if config.decontam.judge is None else "neighbours",
        "teacher": "sample",
        "equivalence_judge": "cluster",
    }
    return all(
        any(identity in record.get("models", ()) for _, record in Store(root).artifacts(last[name]))
        for name in names.split(", ")
    )
