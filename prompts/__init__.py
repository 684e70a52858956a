"""The prompts, one Markdown file each: YAML front matter (version, variables, system), then the user message.

The name of a prompt is its path inside this package without the suffix, such as `evolution/harder`. Variables are written
as `{{variable}}`. `system` is optional. Comments in the front matter are not sent to a model.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tasks.errors import UserError
from tasks.yaml_text import BadYaml, load_yaml

__all__ = [
    "DELIMITERS",
    "MAX_VALUE_CHARS",
    "Prompt",
    "all_prompts",
    "fixed_sentences",
    "load_prompt",
    "parse_prompt",
]

MAX_VALUE_CHARS = 8_000
"""Maximum length of a value in `Prompt.render`, in characters."""

DELIMITERS = ("problem", "first", "second", "reference", "evolved")
"""Names of the tags that delimit data in the prompts and their replies."""

_PLACEHOLDER = re.compile(r"\{\{([a-z][a-z0-9_]*)\}\}")
_FRONT_MATTER = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)
_DELIMITER_OPENING = re.compile(rf"<(?=\s*+/?+\s*+(?:{'|'.join(DELIMITERS)})\s*+>)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt: the templates of the system message (may be empty) and the user message. `examples`: pairs of a user message
    and its reply that precede the user message (few-shot)."""

    name: str
    version: int
    variables: tuple[str, ...]
    system: str
    user: str
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity of the prompt in artifacts: `name@version:` and 12 hex digits of the SHA-256 of its texts."""
        turns = "".join(f"\0{question}\0{reply}" for question, reply in self.examples)
        digest = hashlib.sha256(f"{self.system}\0{self.user}{turns}".encode()).hexdigest()
        return f"{self.name}@{self.version}:{digest[:12]}"

    def data(self, **values: str) -> dict[str, str]:
        """Return the values as they stand in the messages: the `<` of a delimiter tag becomes `&lt;`, so that a value cannot
        close its delimiter.

        Raises ValueError if a variable is missing or unknown, or a value is longer than `MAX_VALUE_CHARS`.
        """
        if values.keys() != set(self.variables):
            expected, given = ", ".join(self.variables), ", ".join(sorted(values)) or "none"
            raise ValueError(f"prompt {self.name} expects the variables {expected}, got {given}")
        for variable, value in values.items():
            if len(value) > MAX_VALUE_CHARS:
                limit = f"{len(value):,} characters, at most {MAX_VALUE_CHARS:,} are allowed"
                raise ValueError(f"prompt {self.name}: {variable} has {limit}")
        return {variable: _DELIMITER_OPENING.sub("&lt;", value) for variable, value in values.items()}

    def render(self, **values: str) -> list[dict[str, str]]:
        """Return the chat messages with all placeholders replaced; an empty system message is omitted.

        The values are substituted in one pass, as `data` returns them, so a `{{variable}}` inside a value is not replaced.
        Raises ValueError as `data` does.
        """
        data = self.data(**values)

        def filled(role: str, template: str) -> dict[str, str]:
            return {"role": role, "content": _PLACEHOLDER.sub(lambda match: data[match[1]], template)}

        turns = [
            {"role": role, "content": text}
            for example in self.examples
            for role, text in zip(("user", "assistant"), example, strict=True)
        ]
        system = [filled("system", self.system)] if self.system else []
        return [*system, *turns, filled("user", self.user)]


def parse_prompt(name: str, text: str) -> Prompt:
    """Parse the text of a prompt file. Raises UserError if the front matter is invalid or does not match the text."""
    match = _FRONT_MATTER.fullmatch(text)
    if match is None:
        raise _invalid(name, "has no front matter; start it with YAML between two lines of ---")
    meta = _front_matter(name, match[1])
    system, user = meta.get("system", "").strip(), match[2].strip()
    if not user:
        raise _invalid(name, "has no text after its front matter; write the user message there")
    variables, template = tuple(meta["variables"]), f"{system}\n{user}"
    used = set(_PLACEHOLDER.findall(template))
    if used != set(variables):
        declared, found = ", ".join(variables) or "none", ", ".join(sorted(used)) or "none"
        raise _invalid(name, f"declares the variables {declared} but uses {found}; make both agree")
    if "{{" in _PLACEHOLDER.sub("", template):
        raise _invalid(name, "has a malformed placeholder; write {{variable}} in lower case, without spaces")
    return Prompt(name=name, version=meta["version"], variables=variables, system=system, user=user)


def _front_matter(name: str, text: str) -> dict[str, Any]:
    """Return the front matter after checking its keys and types."""
    try:
        meta = load_yaml(text)
    except BadYaml as error:
        raise _invalid(name, f"has front matter that is not valid YAML ({error}); correct it") from error
    if not isinstance(meta, dict):
        raise _invalid(name, "has front matter without keys; give version and variables")
    if missing := [key for key in ("version", "variables") if key not in meta]:
        raise _invalid(name, f"lacks {' and '.join(missing)} in its front matter; add it")
    if unknown := sorted(str(key) for key in meta.keys() - {"version", "variables", "system"}):
        raise _invalid(
            name, f"has unknown front matter ({', '.join(unknown)}); use version, variables, system"
        )
    version, variables = meta["version"], meta["variables"]
    if type(version) is not int or version < 1:
        raise _invalid(name, f"has version {version!r}; give an integer of at least 1")
    if not isinstance(variables, list) or not all(isinstance(variable, str) for variable in variables):
        raise _invalid(name, f"has variables {variables!r}; give a list of names")
    if len(set(variables)) < len(variables):
        raise _invalid(name, f"names a variable twice in {variables!r}; name each once")
    if not isinstance(meta.get("system", ""), str):
        raise _invalid(name, "has a system entry that is not a string; put it in quotes")
    return meta


def _invalid(name: str, problem: str) -> UserError:
    return UserError(f"prompts/{name}.md {problem}.")


@cache
def all_prompts() -> tuple[str, ...]:
    """Return the names of all prompts of the package, sorted."""
    folders = [entry for entry in files(__name__).iterdir() if entry.is_dir()]
    return tuple(
        sorted(
            f"{folder.name}/{entry.name.removesuffix('.md')}"
            for folder in folders
            for entry in folder.iterdir()
            if entry.name.endswith(".md")
        )
    )


@cache
def load_prompt(name: str) -> Prompt:
    """Return the prompt with this name. Raises UserError, listing the known names, if there is none."""
    if name not in all_prompts():
        raise UserError(f"Unknown prompt {name!r}; use one of {', '.join(all_prompts())}.")
    return parse_prompt(name, files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8"))


@cache
def fixed_sentences(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return all distinct pieces of fixed text in these prompts: lines, split at placeholders, stripped, never empty.

    They are in order of first appearance. The pocket tokenizer turns each piece of the prompts that its models are trained
    on into one token.
    """
    texts = [text for prompt in map(load_prompt, names) for text in (prompt.system, prompt.user)]
    pieces = [piece.strip() for text in texts for piece in _PLACEHOLDER.sub("\n", text).splitlines()]
    return tuple(dict.fromkeys(piece for piece in pieces if piece))
