"""Problems of a distillation before the run that it belongs to starts; its dataset may not exist yet."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.config import PROJECT_ROOT, Config
from tasks.errors import attempt
from tasks.llm.chat_template_check import chat_template
from tasks.llm.model_identity import model_identity
from tasks.runtime.training_run import held_out, run_config, trains_on_source, write_held_out
from tasks.seeds.registry import check
from training.config import RunConfig
from training.preflight.check import early_problems


def settings_problems(config: Config, root: Path) -> list[str]:
    """Return the first invalid key of `distill.run`; nothing without a section distill."""
    problems: list[str] = []
    if config.distill is not None:
        settings = config.distill
        attempt(problems, lambda: run_config(settings, root / "dataset", root / "distill"))
    return problems


def training_problems(config: Config, root: Path, dataset: Path | None) -> list[str]:
    """Return the problems of the distillation on `dataset`, or on the dataset that a build is about to make (None).

    Held-out problems of the hub are not read here, nor those of a dataset that does not exist yet.
    """
    settings = config.distill
    if settings is None:
        return [f"profile {config.profile} has no section `distill`: add one, or choose another profile"]
    problems: list[str] = []
    run = attempt(problems, lambda: run_config(settings, dataset or root / "dataset", root / "distill"))
    sources = settings.held_out_sources
    local = not any(getattr(source, "is_remote", False) for source in sources)
    for source in sources if local else ():
        attempt(problems, lambda one=source: check(one))
    if run is None or problems:
        return problems
    with tempfile.TemporaryDirectory(prefix="sure-math-") as name:
        evaluation = None
        if run.evaluation is not None and local and (sources or dataset):
            write_held_out(Path(name) / "held_out.jsonl", held_out(settings, dataset or root / "dataset"))
            evaluation = run.evaluation.model_copy(update={"problems": Path(name) / "held_out.jsonl"})
        checked = run.model_copy(update={"evaluation": evaluation})
        found = early_problems(checked, has_data=dataset is not None)
    unrelated = dataset or trains_on_source(settings)
    return [*(f"distill.run: {one}" for one in found), *([] if unrelated else teacher_problems(config, run))]


def teacher_problems(config: Config, run: RunConfig) -> list[str]:
    """Return the differences between the teacher that annotates the dataset and the one that the student learns from."""
    if run.dataset.allow_mismatch or run.teacher is None:
        return []
    problems, role = [], config.models.teacher
    remedy = "or set distill.run.dataset.allow_mismatch"
    folders = [PROJECT_ROOT / Path(model).expanduser() for model in (role.model, run.teacher.model)]
    if all(folder.is_dir() for folder in folders) and not _same_model(*folders):
        problems.append(
            f"models.teacher.model is {role.model}, but distill.run.teacher.model is {run.teacher.model}, another model: remove"
            f" distill.run.teacher.model, which then follows models.teacher.model, {remedy}"
        )
    if role.thinking != run.lengths.thinking:
        problems.append(
            f"models.teacher.thinking is {role.thinking}, but distill.run.lengths.thinking is {run.lengths.thinking}: set both to"
            f" the same value, {remedy}"
        )
    if role.serve is not None and _templates_differ(config, run):
        problems.append(
            "models.teacher and distill.run.prompt have different chat templates or dates: remove chat_template and date of"
            f" distill.run.prompt, which then follow models.teacher, {remedy}"
        )
    return problems


def _templates_differ(config: Config, run: RunConfig) -> bool:
    """Whether the teacher's prompts in the dataset and in the training have different chat templates or dates."""
    role, own = config.models.teacher, PROJECT_ROOT / Path(config.models.teacher.model).expanduser()
    paths = [
        own if one is None else PROJECT_ROOT / one.expanduser()
        for one in (role.chat_template, run.prompt.chat_template)
    ]
    found = [chat_template(path) for path in paths]  # a missing one is reported elsewhere
    days = (role.template_date, run.prompt.date)
    return (None not in found and found[0] != found[1]) or (None not in days and days[0] != days[1])


def _same_model(one: Path, other: Path) -> bool:
    """Whether two folders hold the same model. Weights are hashed only if the names and sizes of the files are equal."""
    if one.resolve() == other.resolve():
        return True
    sizes = [
        {path.name: path.stat().st_size for path in folder.glob("*.safetensors")} for folder in (one, other)
    ]
    if sizes[0] != sizes[1]:
        return False
    problems: list[str] = []  # an incomplete checkpoint is reported elsewhere
    hashes = [
        attempt(problems, lambda folder=folder: model_identity(str(folder), None, PROJECT_ROOT))
        for folder in (one, other)
    ]
    return bool(problems) or len({(found or "").rpartition(":")[2] for found in hashes}) == 1
