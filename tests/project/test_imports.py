"""Structure of the code: which packages may import which, which imports must be lazy, and how long code may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "prompts", "pocket", "training", "scripts", "benchmarks")
OURS = frozenset({"flows", "tasks", "prompts", "pocket", "training"})

# The project modules that each package may import besides its own. The longest matching prefix applies.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "flows": ("tasks.stages", "tasks.core.config", "training.config"),
    "tasks.core": (),
    "tasks.io": ("tasks.core",),
    "tasks.seeds": ("tasks.core", "tasks.io.hub", "tasks.io.seed_files"),  # the readers of problem files
    "tasks.stages": ("tasks.core", "tasks.io", "tasks.seeds", "prompts", "training.config"),
    "prompts": ("tasks.core",),
    "pocket": ("prompts", "tasks"),
    "training.objectives": ("tasks.core",),
    "training": ("tasks.core", "tasks.io", "prompts"),
    "scripts": ("tasks", "flows"),
    "benchmarks": ("tasks", "training", "prompts", "pocket"),
}
PREFECT_PACKAGES = ("flows", "tasks.stages", "scripts")
HEAVY = frozenset({"deepspeed", "ray", "torch", "transformers", "vllm"})
HEAVY_AT_TOP = (
    "pocket",
    "benchmarks",
    "training.objectives",
    "training.engine",
    "training.rollout",
    "training.rounds",
    "training.diagnostics",
)
FORBIDDEN_FLOW_FILES = frozenset({"tasks", "training", "prompts", "pocket"})
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name, its location, and whether the import runs when the module is imported."""

    module: str
    line: int
    name: str
    at_top: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line}: imports {self.name}"


def source_files() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if ".work" not in path.parts]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.Module, module: str, package: str) -> list[Import]:
    """Return all imports of a module, including those inside functions but not those under `if TYPE_CHECKING`."""

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


def all_imports() -> list[Import]:
    found = []
    for path in source_files():
        module = module_name(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found += imports_of(parse(path), module, package)
    return found


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def is_allowed(module: str, name: str) -> bool:
    package = max((package for package in MAY_IMPORT if under(module, (package,))), key=len, default=None)
    if name.partition(".")[0] not in OURS:
        return True
    return package is not None and under(name, (package, *MAY_IMPORT[package]))


def test_every_kind_of_import_is_found() -> None:
    source = """
import ray
from tasks.io import chat
from . import rows
if TYPE_CHECKING:
    import torch
def later():
    import vllm.engine
"""
    found = imports_of(ast.parse(source), "tasks.core.x", "tasks.core")
    assert [(one.name, one.at_top) for one in found] == [
        ("ray", True), ("tasks.io.chat", True), ("tasks.core.rows", True), ("vllm.engine", False),
    ]  # fmt: skip
    assert [is_allowed("tasks.core.x", one.name) for one in found] == [True, False, True, True]


@pytest.mark.parametrize(
    ("module", "name", "allowed"),
    [
        ("flows.build", "tasks.stages.evolve.evolve", True),
        ("flows.build", "tasks.core.config.load_config", True),
        ("flows.build", "tasks.core.rows.Problem", False),
        ("tasks.seeds.pocket.tree", "tasks.seeds.pocket.values", True),
        ("tasks.seeds.files", "tasks.io.hub.download", True),
        ("tasks.seeds.files", "tasks.io.chat", False),
        ("prompts", "tasks.core.errors.UserError", True),
        ("prompts", "tasks.io.disk", False),
        ("training.objectives.losses", "tasks.io.tables", False),
        ("training.loop", "tasks.io.tables", True),
    ],
)
def test_the_import_rules_apply_to_these_examples(module: str, name: str, allowed: bool) -> None:
    assert is_allowed(module, name) is allowed


def test_imports_follow_the_rules() -> None:
    wrong = [str(one) for one in all_imports() if not is_allowed(one.module, one.name)]
    assert wrong == [], "see the import directions in CONTRIBUTING.md"


def test_prefect_stays_in_flows_and_stages() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if one.name.partition(".")[0] == "prefect" and not under(one.module, PREFECT_PACKAGES)
    ]
    assert wrong == []


def test_heavy_packages_are_imported_inside_functions() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if one.at_top and one.name.partition(".")[0] in HEAVY and not under(one.module, HEAVY_AT_TOP)
    ]
    assert wrong == [], (
        "import torch, transformers, vllm, ray and deepspeed inside the function that needs them"
    )


def test_flow_files_define_no_class_and_shadow_no_package() -> None:
    for path in sorted((ROOT / "flows").glob("*.py")):
        classes = [node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
        assert classes == [], (
            f"{path.name}: a Ray worker cannot unpickle a class that is defined in a flow file"
        )
        assert path.stem not in FORBIDDEN_FLOW_FILES, f"{path.name} would shadow the package {path.stem}"


@pytest.mark.parametrize("package", ["tasks", "training"])
def test_packages_that_import_each_other_have_an_empty_init(package: str) -> None:
    path = ROOT / package / "__init__.py"
    if (ROOT / package).is_dir():
        assert path.read_text(encoding="utf-8").strip() == "", (
            f"{path} must be empty, else it creates an import cycle or loads torch"
        )


def test_no_function_is_longer_than_eighty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
        for path in source_files()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    counts = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()
    }
    assert {str(path): count for path, count in counts.items() if count > MAX_FILE_LINES} == {}
