"""The repository contains no package indexes, local paths or large weights, and all profiles and prompts resolve."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from prompts import all_prompts, load_prompt
from tasks.config import load_config, profiles

ROOT = Path(__file__).resolve().parents[2]
TEXT = frozenset({"", ".cfg", ".in", ".j2", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"})
LOCK_FILES = frozenset(
    {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "pylock.toml", "package-lock.json"}
)
MACHINE_PATH = re.compile(r"(?<![\w.~$}/:-])/(?:home|root|Users|work|opt|mnt|workspace)/[\w.]")
INDEX_HOST = re.compile(
    r"https?://(?:pypi\.org|files\.pythonhosted\.org|download\.pytorch\.org|[\w.-]*/simple\b)"
)
MAX_WEIGHT_BYTES = 40 * 1024 * 1024


def repository_files() -> list[Path]:
    """Return the files that git tracks or would track (neither ignored nor deleted)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [ROOT / name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file()]


@cache
def text_lines() -> list[tuple[str, str]]:
    """Return (location, line) for every line of every text file, except for tokenizers and this file."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in repository_files()
        if path.suffix in TEXT and path.name != "tokenizer.json" and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    ]


def test_the_patterns_match_paths_and_hosts() -> None:
    assert MACHINE_PATH.search("open('/home/ada/x')") and MACHINE_PATH.search("/root/.cache")
    assert not MACHINE_PATH.search("https://example.org/home/x") and not MACHINE_PATH.search("tasks/work/x")
    assert INDEX_HOST.search("--index-url https://pypi.org/simple")
    assert not INDEX_HOST.search("https://example.org/paper")


def test_no_line_names_a_machine_or_a_package_index() -> None:
    wrong = [where for where, line in text_lines() if MACHINE_PATH.search(line) or INDEX_HOST.search(line)]
    assert wrong == []


def test_there_is_no_lock_file() -> None:
    assert [path.name for path in repository_files() if path.name in LOCK_FILES] == []


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)


def test_weights_are_small_and_not_pickled() -> None:
    weights = [path for path in repository_files() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) < MAX_WEIGHT_BYTES
    pickles = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
    assert [path for path in repository_files() if path.suffix in pickles] == []


def top_level_packages() -> set[str]:
    """Directories at the top of the repository that hold Python files."""
    files = [path.relative_to(ROOT) for path in repository_files() if path.suffix == ".py"]
    return {path.parts[0] for path in files if len(path.parts) > 1}


def test_setuptools_finds_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    include = settings["packages"]["find"]["include"]
    installed = top_level_packages() - {"scripts", "speed", "tests"}
    assert sorted(include) == sorted(pattern for name in installed for pattern in (name, f"{name}.*"))
    folders = {path.parent for name in installed for path in (ROOT / name).rglob("*.py")}
    bare = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()]
    assert [name for name in bare if ".work" not in name] == [], "a folder of modules needs an __init__.py"


def test_pyright_and_ruff_read_every_package() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = top_level_packages()
    assert set(tool["pyright"]["include"]) == packages
    assert set(tool["ruff"]["lint"]["isort"]["known-first-party"]) == packages - {"scripts"}


@pytest.mark.parametrize("name", all_prompts())
def test_every_prompt_resolves(name: str) -> None:
    prompt = load_prompt(name)
    assert prompt.name == name and prompt.user.strip()


@pytest.mark.parametrize("profile", profiles())
def test_every_profile_resolves(profile: str) -> None:
    assert load_config(profile).profile == profile
