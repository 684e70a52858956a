"""The chat template of a model's prompts: the checkpoint's own or a given one, with a fixed date if it contains the date."""

from __future__ import annotations

import hashlib
from datetime import date, datetime, time
from pathlib import Path

from tasks.config import ModelRole
from tasks.errors import UserError
from tasks.llm.chat_template_check import CLOCK, chat_template, contains_date, template_problem
from tasks.llm.model_folder import model_folder
from tasks.llm.model_identity import model_identity

_DIRECTIVES = "aAbBcCdDeFgGhHIjmMpRSTuUVwWxXyYzZ"  # of C99; others stay as they are
_PERCENT = "\ue0f2"  # private use: in no template
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")


def read_template(path: Path, setting: str) -> str:
    """Return the chat template in a file. Raises `UserError`, which names the setting, if the file cannot be read, or if
    rendering it exceeds the limits of `template_problem`."""
    if (wrong := template_problem(path)) is not None:
        raise UserError(f"{setting}: {wrong}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{setting}: {path} cannot be read ({error}): give a Jinja file, such as a checkpoint's chat_template.jinja"
        ) from error


def dated_template(template: str, day: date) -> str:
    """Return the template with a `strftime_now` of its own, which gives the start of the day.

    Any renderer of chat templates then builds the same prompt, also vLLM's server, which has no setting for the date.
    """
    moment = datetime.combine(day, time())
    forms = [f"%{flag}{letter}" for flag in ("", "-") for letter in _DIRECTIVES]
    texts = [("%%", _PERCENT), *((form, moment.strftime(form)) for form in forms), (_PERCENT, "%")]
    pairs = ", ".join(f"({form!r}, {text!r})" for form, text in texts if text != form)
    return (
        f"{{%- macro {CLOCK}(form) -%}}{{%- set text = namespace(value=form) -%}}"
        f"{{%- for one in [{pairs}] -%}}{{%- set text.value = text.value.replace(one[0], one[1]) -%}}{{%- endfor -%}}"
        f"{{{{- text.value -}}}}{{%- endmacro -%}}{{{{- '' }}}}{template}"
    )


def role_template(role: ModelRole, root: Path) -> str | None:
    """Return the chat template that the engines of a model served here take instead of the checkpoint's own; None to take that.

    It is `role.chat_template`, or the checkpoint's, with the date of `role.template_date` if it contains the date. Raises
    `UserError` if that date is missing or the file of a given template cannot be used.
    """
    given = given_template(role, root)
    template = _template(role, root)
    if template is None or not contains_date(template):
        return given
    if role.template_date is None:
        raise UserError(
            f"the chat template of {role.model} contains the date, so that prompts would change from day to day: set"
            " template_date, such as 2026-01-31"
        )
    return dated_template(template, role.template_date)


def given_template(role: ModelRole, root: Path) -> str | None:
    """Return the chat template of the setting `chat_template` of a role, or None without it. Raises `UserError` as
    `read_template` does."""
    return (
        None
        if role.chat_template is None
        else read_template(root / role.chat_template.expanduser(), "chat_template")
    )


def role_date(role: ModelRole, root: Path) -> date | None:
    """Return the date in the prompts of a role's model, or None if its chat template does not contain the date."""
    if role.template_date is None:
        return None
    template = _template(role, root)
    return role.template_date if template is not None and contains_date(template) else None


def role_identity(role: ModelRole, root: Path) -> str:
    """Return the identity of a role's model. The identity of a chat template that replaces the checkpoint's own, or that contains
    the date of `role.template_date`, is added to it. Raises `UserError` as `model_identity` and `role_template` do."""
    identity = model_identity(role.model, role.revision, root)
    if role.chat_template is None and role.template_date is None:
        return identity
    template = role_template(role, root)
    if template is None:
        return identity
    return f"{identity}+template:{hashlib.sha256(template.encode()).hexdigest()[:16]}"


def _template(role: ModelRole, root: Path) -> str | None:
    """Return the given chat template of a role, or that of its checkpoint, from its folder or from the hub; None without one."""
    if (given := given_template(role, root)) is not None:
        return given
    folder = model_folder(role.model, root)
    if folder is None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(role.model, revision=role.revision, allow_patterns=list(TEMPLATE_FILES))
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"the chat template of {role.model} cannot be read from the hub ({error}): check the network and the name"
            ) from error
    return chat_template(folder)
