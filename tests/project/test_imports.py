"""The import rules: which package may import which, which imports stay lazy, and how long functions and files may be.

A package is two levels deep (`tasks.llm`); modules directly in `tasks/` or `training/` are the package `tasks` or `training`.
Imports under `if TYPE_CHECKING` do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = ("flows", "tasks", "prompts", "pocket", "training", "scripts", "speed")

# What a package may import of ours, itself aside: packages, single modules, or `x.*` for a package and all below it.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "flows": ("tasks.stages", "tasks.config", "training.config"),
    "scripts": ("tasks.*", "flows", "training.algorithms", "training.experiments"),
    "speed": ("tasks.*", "training.*", "prompts", "pocket.*"),
    "prompts": ("tasks",),
    "pocket": (
        "pocket.world", "prompts", "tasks", "tasks.answers", "tasks.problems", "tasks.processes", "tasks.uncertainty",
        "training.losses.products",
    ),
    "pocket.world": ("tasks.rows", "tasks.errors"),
    "tasks": (),
    "tasks.answers": ("tasks",),
    "tasks.problems": ("tasks", "tasks.answers"),
    "tasks.uncertainty": ("tasks", "tasks.answers", "tasks.problems"),
    "tasks.processes": ("tasks",),
    "tasks.storage": ("tasks", "tasks.uncertainty"),
    "tasks.llm": ("tasks", "tasks.answers", "tasks.processes", "tasks.storage", "prompts"),
    "tasks.benchmarks": ("tasks", "tasks.answers", "tasks.storage", "pocket.world"),
    "tasks.reports": ("tasks", "tasks.storage", "tasks.uncertainty"),
    "tasks.seeds": (
        "tasks", "tasks.answers", "tasks.benchmarks", "tasks.problems", "tasks.storage", "tasks.uncertainty", "prompts",
        "pocket.world",
    ),
    "tasks.runtime": (
        "tasks", "tasks.answers", "tasks.benchmarks", "tasks.llm", "tasks.problems", "tasks.processes", "tasks.reports",
        "tasks.seeds", "tasks.storage", "tasks.uncertainty", "prompts", "training.config", "training.preflight",
    ),
    "tasks.release": ("tasks", "tasks.llm", "tasks.storage", "prompts"),
    "tasks.stages": ("tasks.*", "prompts", "training.config"),
    "training.config": (
        "tasks", "training.algorithms", "training.dataset_settings", "training.evaluation_settings", "training.teacher_settings",
    ),
    "training.dataset_settings": ("tasks",),
    "training.evaluation_settings": ("tasks",),
    "training.teacher_settings": ("tasks",),
    "training.console": ("tasks", "tasks.processes.ticker"),
    "training.losses": ("tasks",),
    "training.algorithms": ("tasks", "training.losses"),
    "training.plan": ("tasks", "training.algorithms", "training.config", "training.losses", "training.scorers"),
    "training.workers": ("tasks", "tasks.processes"),
    "training.data": (
        "tasks", "tasks.answers", "tasks.llm", "tasks.seeds", "tasks.storage", "tasks.uncertainty", "prompts",
        "training.config", "training.dataset_settings", "training.losses", "training.teacher_settings",
    ),
    "training.weight_sync": ("tasks", "training.workers"),
    "training.scorers": (
        "tasks", "tasks.llm", "tasks.processes.imports", "tasks.processes.memory", "training.data", "training.losses",
        "training.weight_sync",
    ),
    "training.rollouts": (
        "tasks", "tasks.llm", "tasks.processes", "training.data", "training.weight_sync", "training.workers",
    ),
    "training.student": (
        "tasks", "tasks.processes.imports", "tasks.processes.memory", "tasks.storage", "training.data", "training.losses",
        "training.rollouts", "training.scorers", "training.weight_sync", "training.workers",
    ),
    "training.evaluation": (
        "tasks", "tasks.answers", "tasks.benchmarks", "tasks.llm", "tasks.problems", "tasks.processes", "tasks.reports",
        "tasks.storage", "tasks.uncertainty", "prompts", "training.config", "training.console", "training.data",
        "training.rollouts",
    ),
    "training.preflight": (
        "tasks", "tasks.llm", "tasks.storage", "prompts", "training.config", "training.console", "training.data",
        "training.algorithms", "training.evaluation", "training.losses", "training.plan", "training.rollouts", "training.scorers",
        "training.student",
        "training.weight_sync", "training.workers",
    ),
    "training.diagnostics": (
        "tasks", "tasks.answers", "tasks.benchmarks", "tasks.llm", "tasks.processes", "tasks.reports", "tasks.storage",
        "tasks.uncertainty", "prompts", "training.data", "training.evaluation", "training.preflight", "training.rollouts",
        "training.scorers", "training.workers",
    ),
    "training.experiments": (
        "tasks", "tasks.llm", "tasks.processes", "tasks.runtime", "tasks.seeds", "tasks.storage", "prompts", "training.*",
    ),
    "training": (
        "tasks", "tasks.answers", "tasks.llm", "tasks.processes", "tasks.reports", "tasks.storage", "prompts", "training.*",
    ),
}  # fmt: skip
# Modules with a rule of their own, since the packages below `training` import them and its other modules import those.
SINGLE_MODULES = frozenset(
    {
        "training.config",
        "training.console",
        "training.dataset_settings",
        "training.evaluation_settings",
        "training.teacher_settings",
        "training.plan",
    }
)

PREFECT = ("flows", "tasks.stages", "tasks.runtime", "scripts")
HEAVY = frozenset({"deepspeed", "peft", "ray", "torch", "transformers", "vllm"})
HTTP = frozenset({"aiohttp", "httpx", "httpx2", "openai"})
OUTSIDE = frozenset({"datasets", "prefect", "pyarrow", "socket", "sqlite3", "subprocess"})
# Where heavy packages may be imported at the top of a module. The longest prefix decides.
HEAVY_AT_TOP: Mapping[str, bool] = {
    "pocket": True,
    "pocket.world": False,
    "speed": True,
    "training.data.batches": True,
    "training.losses": True,
    "training.losses.prompt_weights": False,
    "training.losses.reductions": False,
    "training.scorers.scoring": True,
    "training.student": True,
    "training.student.checkpoints": False,
    "training.student.zero": False,
    "training.weight_sync": True,
}
HTTP_AT_TOP = (
    "tasks.llm.chat",
    "tasks.llm.endpoint",
    "tasks.llm.servers",
    "tasks.processes.jobs",
    "scripts",
    "speed",
)
PURE = ("tasks.answers", "tasks.problems", "tasks.uncertainty", "pocket.world")
IMPURE = ("tasks.answers.mathverify", "tasks.answers.mathverify_worker")  # the Math-Verify process pool
FORBIDDEN_FLOW_FILES = frozenset({"tasks", "training", "prompts", "pocket", "speed"})
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name: where it is imported, and whether that happens when the module is loaded."""

    module: str
    line: int
    name: str
    at_top: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module} line {self.line}: imports {self.name}"


@cache
def source_files() -> dict[str, Path]:
    """Module name -> file."""
    files = [path for top in TOP for path in sorted((ROOT / top).rglob("*.py"))]
    return {module_name(path): path for path in files if ".work" not in path.parts}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """The package of a module: its first two levels, or the module itself where it has a rule of its own."""
    if module in SINGLE_MODULES:
        return module
    parts = module.split(".")
    if source_files()[module].name != "__init__.py":
        parts = parts[:-1]
    return ".".join(parts[:2])


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.Module, module: str, package: str) -> list[Import]:
    """Every import of a module, also those inside functions; `if TYPE_CHECKING` is left out."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child, at_top)
            return
        for name in _names(node, package):
            yield Import(module=module, line=getattr(node, "lineno", 0), name=name, at_top=at_top)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not inside)

    return list(visit(tree, True))


def _names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


@cache
def all_imports() -> tuple[Import, ...]:
    found: list[Import] = []
    for module, path in source_files().items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found += imports_of(parse(path), module, package)
    return tuple(found)


def module_of(name: str) -> str | None:
    """The module of ours that an imported name belongs to; None for other packages."""
    while name and name not in source_files():
        name = name.rpartition(".")[0]
    return name or None


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def is_allowed(package: str, module: str) -> bool:
    """Whether a module of `package` may import `module`."""
    return package == package_of(module) or any(
        under(module, (entry.removesuffix(".*"),))
        if entry.endswith(".*")
        else entry in (module, package_of(module))
        for entry in MAY_IMPORT[package]
    )


def our_imports() -> list[tuple[Import, str]]:
    """Imports of ours, with the imported module."""
    return [(one, module) for one in all_imports() if (module := module_of(one.name)) is not None]


def loaded_by(module: str) -> set[str]:
    """All packages of others that importing a module imports, directly or through modules of ours."""
    tops: dict[str, list[Import]] = {}
    for one in all_imports():
        if one.at_top:
            tops.setdefault(one.module, []).append(one)
    seen: set[str] = set()
    found: set[str] = set()
    todo = [module]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        parent = current.rpartition(".")[0]
        todo += [parent] if parent in source_files() else []
        for one in tops.get(current, []):
            ours = module_of(one.name)
            todo += [ours] if ours is not None else []
            found |= {one.package} if ours is None else set()
    return found


def test_the_walk_sees_every_kind_of_import() -> None:
    source = """
import ray
from tasks.llm import chat
from . import rows
if TYPE_CHECKING:
    import torch
def later():
    import vllm.engine
"""
    found = imports_of(ast.parse(source), "tasks.problems.x", "tasks.problems")
    assert [(one.name, one.at_top) for one in found] == [
        ("ray", True), ("tasks.llm.chat", True), ("tasks.problems.rows", True), ("vllm.engine", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("package", "module", "allowed"),
    [
        ("flows", "tasks.stages.evolve", True),
        ("flows", "tasks.config", True),
        ("flows", "tasks.rows", False),
        ("flows", "tasks.runtime.driver", False),
        ("pocket.world", "pocket.world.values", True),
        ("pocket.world", "tasks.errors", True),
        ("pocket.world", "tasks.config", False),
        ("tasks.seeds", "tasks.storage.hub", True),
        ("tasks.seeds", "tasks.llm.chat", False),
        ("prompts", "tasks.errors", True),
        ("prompts", "tasks.storage.disk", False),
        ("tasks.stages", "tasks.llm.chat", True),
        ("tasks.stages", "training.loop", False),
        ("training.losses", "tasks.storage.tables", False),
        ("training", "tasks.storage.tables", True),
        ("training", "tasks.stages.sample", False),
    ],
)
def test_the_rules_mean_what_they_are_meant_to(package: str, module: str, allowed: bool) -> None:
    assert is_allowed(package, module) is allowed


def test_every_package_has_a_rule_and_every_rule_a_package() -> None:
    packages = {package_of(module) for module in source_files()}
    assert packages == MAY_IMPORT.keys(), (
        "write the rule of a new package into MAY_IMPORT and CONTRIBUTING.md"
    )
    entries = {entry.removesuffix(".*") for rule in MAY_IMPORT.values() for entry in rule}
    assert entries <= packages | source_files().keys()


def test_imports_keep_the_rules() -> None:
    wrong = [str(one) for one, module in our_imports() if not is_allowed(package_of(one.module), module)]
    assert wrong == [], "see the import rules in CONTRIBUTING.md"


def test_there_is_no_cycle_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for one, module in our_imports():
        first, second = package_of(one.module), package_of(module)
        if first != second:
            graph.setdefault(first, set()).add(second)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"packages import each other: {' <- '.join(error.args[1])}")


def test_training_imports_neither_flows_nor_stages() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if under(one.module, ("training",)) and under(one.name, ("flows", "tasks.stages"))
    ]
    assert wrong == []


def test_prefect_stays_in_flows_stages_runtime_and_scripts() -> None:
    wrong = [str(one) for one in all_imports() if one.package == "prefect" and not under(one.module, PREFECT)]
    assert wrong == []


def may_be_heavy(module: str) -> bool:
    """Whether a module may import torch and the like at its top."""
    longest = max((prefix for prefix in HEAVY_AT_TOP if under(module, (prefix,))), key=len, default=None)
    return longest is not None and HEAVY_AT_TOP[longest]


def test_heavy_packages_are_imported_inside_functions() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if one.at_top and one.package in HEAVY and not may_be_heavy(one.module)
    ]
    assert wrong == [], f"import {', '.join(sorted(HEAVY))} inside the function that needs them"


def test_http_clients_are_imported_by_the_modules_that_are_about_http() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if one.at_top and one.package in HTTP and not under(one.module, HTTP_AT_TOP)
    ]
    assert wrong == []


def test_pure_packages_import_nothing_that_reaches_outside() -> None:
    impure = HEAVY | HTTP | OUTSIDE
    wrong = [
        str(one)
        for one in all_imports()
        if under(one.module, PURE) and not under(one.module, IMPURE) and one.package in impure
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("training.rollouts.engine", HTTP | {"prefect"}),  # in every rollout worker
        ("training.scorers.vllm_teacher", HTTP | {"prefect"}),
        ("training.student.rank", HTTP | {"prefect", "vllm"}),
        ("tasks.llm.engines", HTTP | HEAVY | {"prefect"}),  # in every sampling worker
        ("tasks.runtime.shard_work", HTTP | HEAVY | {"prefect"}),  # in every worker process
        ("tasks.processes.mapper", HTTP | HEAVY | {"prefect", "pyarrow"}),
        ("tasks.processes.supervisor", HTTP | HEAVY | {"prefect", "pyarrow", "numpy"}),
        ("training.config", HTTP | HEAVY | {"prefect", "pyarrow"}),
        ("training.rewards", HTTP | HEAVY | {"prefect", "pyarrow"}),  # in every grading worker
        ("training.launch", HTTP | HEAVY | {"prefect"}),  # `--check` takes seconds
        ("training.algorithms.pw_opsd", HTTP | HEAVY | {"prefect", "pyarrow"}),
        ("prompts", HTTP | HEAVY | {"prefect", "pyarrow"}),
    ],
)
def test_what_starts_often_loads_little(module: str, absent: frozenset[str]) -> None:
    assert loaded_by(module) & absent == set()


def test_flow_files_define_no_class_and_shadow_no_package() -> None:
    for path in sorted((ROOT / "flows").glob("*.py")):
        classes = [node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
        assert classes == [], f"{path.name}: a Ray worker could not unpickle a class of a flow file"
        assert path.stem not in FORBIDDEN_FLOW_FILES, f"{path.name} would shadow the package {path.stem}"


def test_a_stage_file_has_at_most_one_task() -> None:
    for path in sorted((ROOT / "tasks" / "stages").glob("*.py")):
        tasks = [
            node.name
            for node in ast.walk(parse(path))
            if isinstance(node, ast.FunctionDef)
            and any(ast.unparse(decorator).partition("(")[0] == "task" for decorator in node.decorator_list)
        ]
        assert len(tasks) <= 1, f"{path.name} has the tasks {', '.join(tasks)}: one file each"


@pytest.mark.parametrize("package", ["tasks", "training"])
def test_packages_above_others_have_an_empty_init(package: str) -> None:
    path = ROOT / package / "__init__.py"
    assert path.read_text(encoding="utf-8").strip() == "", f"{path} is loaded with every package below it"


def test_functions_have_at_most_forty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
        for path in source_files().values()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    counts = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files().values()
    }
    assert {path: count for path, count in counts.items() if count > MAX_FILE_LINES} == {}
