"""Whether a chat template ends, and whether it contains the date. A template is a program: it is first rendered in a process with
limits.

Run as a module, it renders the template that it reads from its standard input.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

CPU_S = 15
MEMORY_BYTES = 4 << 30
MAX_TEMPLATE_CHARS = 1 << 20
MAX_TEXT_CHARS = 1 << 20
TOO_LARGE, DATED = 3, 4
CLOCK = "strftime_now"  # the function by which chat templates read the date
MESSAGES = (
    [{"role": "user", "content": "Find 2 + 2."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Find 2 + 2."}],
)


def template_problem(folder: Path) -> str | None:
    """Return what is wrong with the chat template of a local model if rendering it exceeds its limits, or None. The path of a
    template is possible too.

    The limits are 15 s of CPU time, 4 GiB of memory, and a million characters. A template that is missing or raises an error is
    no such problem.
    """
    template = chat_template(folder)
    if template is not None and len(template) > MAX_TEMPLATE_CHARS:
        what = f"has {len(template):,} characters"
    else:
        what = None if template is None else _excess(template)
    return what and f"the chat template of {folder} {what}: use a checkpoint whose template works"


def chat_template(folder: Path) -> str | None:
    """Return the chat template of a local model, from `chat_template.jinja` or tokenizer_config.json; None if there is none."""
    try:
        if (path := folder if folder.is_file() else folder / "chat_template.jinja").is_file():
            return path.read_text(encoding="utf-8", errors="replace")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        found = settings.get("chat_template")
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found}.get("default")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # reported where the tokenizer is loaded
    return found if isinstance(found, str) else None


def contains_date(template: str) -> bool:
    """Whether the text that a template makes depends on the day, because the template calls `strftime_now`."""
    return CLOCK in template and len(template) <= MAX_TEMPLATE_CHARS and _status(template) == DATED


def _excess(template: str) -> str | None:
    """Return how rendering a template exceeds its limits, or None."""
    status = _status(template)
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "does not end"
    return "makes a text without bounds" if status == TOO_LARGE else None


@cache
def _status(template: str) -> int:
    """Return the exit status of a process that renders a template."""
    return subprocess.run(
        [sys.executable, "-m", "tasks.llm.chat_template_check"],
        input=template.encode("utf-8", "replace"), capture_output=True, check=False,
    ).returncode  # fmt: skip


def _lengths(template: str, **variables: Any) -> Iterator[int]:
    """Yield the lengths of the texts that a template makes with these variables."""
    from transformers.utils.chat_template_utils import render_jinja_template

    for thinking in (False, True):
        for messages in MESSAGES:
            texts, _ = render_jinja_template(
                conversations=[messages],
                chat_template=template,
                add_generation_prompt=True,
                enable_thinking=thinking,
                **variables,
            )
            yield len(texts[0])


def main(template: str) -> int:
    """Render a template. Returns 0, `DATED` if it calls the clock, or `TOO_LARGE` if memory or the length of a text exceeds its
    limit."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    forms: list[str] = []

    def strftime_now(form: str) -> str:
        forms.append(form)
        return form

    try:
        if any(length > MAX_TEXT_CHARS for length in _lengths(template, **{CLOCK: strftime_now})):
            return TOO_LARGE
    except MemoryError:
        return TOO_LARGE
    except Exception:  # the template's own error, which is reported where it is used
        pass
    return DATED if forms else 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.read().decode("utf-8", "replace")))
