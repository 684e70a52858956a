"""What a failed run reports: its sentences, the rows concerned, and the command that continues it. Keys are removed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.keys import is_secret, masked
from tasks.storage.cards import escape_markdown
from tasks.text import visible

MAX_LINES = 40
MAX_CHARS = 1000
ROWS = "rows: "
"""Start of the note of an exception that names the rows which were being processed."""
PREFIX = "Flow run encountered an exception: "
_USER = re.compile(r"://[^/\s@'\"]+@")
_VARIABLES = {
    "problems": "FILE", "out": "OUT", "tier": "TIER", "answers": "ANSWERS", "model": "MODEL", "what": "WHAT", "repo": "REPO",
    "version": "VERSION", "licence": "LICENCE", "source": "SOURCE", "previous": "PREVIOUS", "roll_back_to": "ROLL_BACK_TO",
    "secret_block": "SECRET_BLOCK", "profile": "PROFILE", "experiment": "NAME", "max_hours": "MAX_HOURS", "results": "RESULTS",
}  # fmt: skip
"""Parameter of a flow -> variable of `make`; `_special` has those that are written in another way."""
_LISTS = {
    "benchmarks": ",",
    "protocols": ",",
    "seeds": ",",
    "only": ";",
    "datasets": " ",
    "evaluations": " ",
}
"""Parameter of a flow -> separator of its values in the variable of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed run, without keys. `rows` is empty if the failure is not about rows, or its sentences name them."""

    run: str
    run_id: str
    flow: str
    state: str
    sentences: tuple[str, ...]
    rows: tuple[str, ...]
    command: str

    def as_json(self) -> dict[str, Any]:
        """Return the failure for a webhook."""
        return {
            "run": self.run, "run_id": self.run_id, "flow": self.flow, "state": self.state,
            "sentences": list(self.sentences), "rows": list(self.rows), "continue": self.command,
        }  # fmt: skip

    def as_text(self) -> str:
        """Return the failure as plain text."""
        rows = [f"rows: {row}" for row in self.rows]
        return "\n".join(
            [f"{self.run} ended as {self.state}", *self.sentences, *rows, f"continue with: {self.command}"]
        )

    def as_markdown(self) -> str:
        """Return the failure as Markdown, with everything escaped."""
        lines = [f"**{escape_markdown(self.run)}** ended as {escape_markdown(self.state)}.", ""]
        lines += [f"- {escape_markdown(line, MAX_CHARS)}" for line in self.sentences]
        if self.rows:
            lines += [
                "",
                "Rows concerned:",
                "",
                *(f"- {escape_markdown(row, MAX_CHARS)}" for row in self.rows),
            ]
        fence = self.command.replace("```", "'''")
        return "\n".join([*lines, "", "Continue with:", "", "```sh", fence, "```", ""])


def failure(
    *,
    run: str,
    run_id: str,
    flow: str,
    state: str,
    error: BaseException | None,
    message: str,
    command: str,
) -> Failure:
    """Describe a failed run by its exception, or without one by the message of its state."""
    if error is None:
        kind, colon, rest = message.removeprefix(PREFIX).partition(": ")
        text = rest if colon and kind in ("UserError", "JobFailed") else message.removeprefix(PREFIX)
    else:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    lines = [line[:MAX_CHARS] for line in text.splitlines() if line.strip()] or ["no message"]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES:,} more lines, which are in the log"]
    rows = [note.removeprefix(ROWS) for note in getattr(error, "__notes__", ()) if note.startswith(ROWS)]
    return Failure(
        run=clean(run), run_id=run_id, flow=flow, state=state, command=clean(command),
        sentences=tuple(map(clean, lines)), rows=tuple(map(clean, rows)),
    )  # fmt: skip


def clean(text: str) -> str:
    """Return a text without the keys of this environment and without users and passwords of addresses. Controls are visible."""
    text = _USER.sub("://[removed]@", text)
    for name, value in os.environ.items():
        if is_secret(name) and value.strip():
            text = masked(text, value.strip())
    return visible(text)


# --- the command that continues -----------------------------------------------------------------------------------


def deployment_command(deployment: str, parameters: Mapping[str, Any]) -> str:
    """Return the command that starts a run of a deployment (flow/name) with these parameters."""
    given = [f"{name}={_value(value)}" for name, value in parameters.items() if value is not None]
    return shlex.join(
        ["prefect", "deployment", "run", deployment, *(part for one in given for part in ("-p", one))]
    )


def _value(value: Any) -> str:
    """Return a value as `prefect deployment run -p` reads it: JSON, or a text that is not JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def make_command(target: str, parameters: Mapping[str, Any]) -> str:
    """Return the `make` command that does what a run with these parameters does."""
    target = "plan" if target == "build" and parameters.get("dry_run") else target
    plain = [(name, str(parameters[key])) for key, name in _VARIABLES.items() if parameters.get(key)]
    given = [*plain, *_special(target, parameters)]
    return " ".join(["make", target, *(f"{name}={shlex.quote(value)}" for name, value in given)])


def _special(target: str, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if overrides := parameters.get("overrides"):
        yield "OVERRIDES", json.dumps(overrides, ensure_ascii=False)
    if columns := parameters.get("columns"):
        yield "COLUMNS", " ".join(f'{field}="{column}"' for field, column in columns.items())
    for name, separator in _LISTS.items():
        if values := parameters.get(name):
            yield name.upper(), separator.join(map(str, values))
    if target == "release":
        if parameters.get("dry_run") is False:
            yield "UPLOAD", "1"
        if parameters.get("private") is False:
            yield "PUBLIC", "1"
