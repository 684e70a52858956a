"""Chat templates of the dataset's engines: a given file, a fixed date, and what identifies them."""

from __future__ import annotations

import shutil
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pocket.recipes import POCKET
from prompts import load_prompt
from tasks.config import PROJECT_ROOT, ModelRole, Serve, load_config
from tasks.errors import UserError
from tasks.llm.chat_template_check import contains_date
from tasks.llm.chat_templates import dated_template, role_date, role_identity, role_template
from tasks.llm.model_identity import model_identity
from tasks.llm.prompt_tokens import PromptEncoder
from tasks.llm.tokenizer import load_tokenizer
from tasks.runtime.annotation_identity import annotation_recipe, teacher_of
from tasks.runtime.driver import Run
from tasks.runtime.model_preflight import role_problems
from tasks.storage.artifacts import Store
from tests.tiny_model import CHAT_TEMPLATE
from training.data.model_files import prompt_ids

DAY = date(2026, 2, 3)
LIKE_LLAMA = (
    """\
{%- if strftime_now is defined %}{%- set today = strftime_now('%d %b %Y') %}{%- else %}{%- set today = '?' %}{%- endif %}
{%- macro header() %}{{ 'Today: ' + today + ', year ' + strftime_now('%Y') + '\\n' }}{%- endmacro %}
{{- header() }}
"""
    + CHAT_TEMPLATE
)
FOR_TOOLS = "{%- if tools %}{{ strftime_now('%d %b %Y') }}{%- endif %}\n" + CHAT_TEMPLATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(POCKET / "teacher", tmp_path / "teacher"))


def served(folder: Path | str, **settings: Any) -> ModelRole:
    return ModelRole(model=str(folder), serve=Serve(), **settings)


def rendered(template: str, **variables: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 % 3 = %d?"}]
    (text,), _ = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=True,
        enable_thinking=False,
        **variables,
    )
    return text


# --- a fixed date ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["%d %B %Y", "%-d.%-m.%y", "%A, %j, week %V", "%H:%M:%S", "100%% %%d %d", "%x %X %c", "none", ""]
)
def test_a_dated_template_makes_the_text_of_that_day_in_any_renderer(form: str) -> None:
    moment = datetime.combine(DAY, time())
    template = f"  {{{{ strftime_now('{form}') }}}}\n" + LIKE_LLAMA
    expected = rendered(template, strftime_now=moment.strftime)
    assert rendered(dated_template(template, DAY)) == expected
    assert expected.startswith(f"  {moment.strftime(form)}Today: 03 Feb 2026, year 2026\n")


def test_the_text_of_a_template_without_the_date_is_unchanged() -> None:
    for template in (CHAT_TEMPLATE, FOR_TOOLS, "\n {{ messages[1].content }}"):
        assert rendered(dated_template(template, DAY)) == rendered(template)


def test_only_a_template_that_writes_the_date_contains_it() -> None:
    own = (POCKET / "teacher/chat_template.jinja").read_text()
    assert [contains_date(one) for one in (own, FOR_TOOLS, LIKE_LLAMA)] == [False, False, True]


def test_engines_and_training_build_the_same_dated_prompts(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(LIKE_LLAMA)
    training = prompt_ids(load_tokenizer(str(folder)), ["Find 1 + 2."], thinking=False, day=DAY)
    engines = load_tokenizer(str(folder))
    engines.chat_template = role_template(served(folder, template_date=DAY), PROJECT_ROOT)
    encoder = PromptEncoder(engines, enable_thinking=False)
    assert training == [tuple(encoder.encode(load_prompt("teacher/solve"), {"problem": "Find 1 + 2."}))]
    assert engines.decode(training[0]).startswith("Today: 03 Feb 2026, year 2026\n")


# --- the template of a role --------------------------------------------------------------------------------------


def test_a_template_with_the_date_needs_one(folder: Path) -> None:
    assert role_template(served(folder, template_date=DAY), PROJECT_ROOT) is None
    (folder / "chat_template.jinja").write_text(LIKE_LLAMA)
    with pytest.raises(UserError, match=r"contains the date, .*: set template_date, such as") as refused:
        role_template(served(folder), PROJECT_ROOT)
    assert "\n" not in str(refused.value)
    assert role_template(served(folder, template_date=DAY), PROJECT_ROOT) == dated_template(LIKE_LLAMA, DAY)


def test_a_given_template_replaces_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.jinja"
    with pytest.raises(UserError, match=r"chat_template: .*given\.jinja cannot be read"):
        role_template(served(folder, chat_template=given), PROJECT_ROOT)
    given.write_text(CHAT_TEMPLATE)
    assert role_template(served(folder, chat_template=given), PROJECT_ROOT) == CHAT_TEMPLATE
    assert role_template(served("Qwen/Qwen3-8B", chat_template=given), PROJECT_ROOT) == CHAT_TEMPLATE
    given.write_text("x" * (2**20 + 1))
    with pytest.raises(UserError, match=r"chat_template: the chat template of .* has 1,048,577 characters"):
        role_template(served(folder, chat_template=given), PROJECT_ROOT)


def test_the_template_of_a_hub_model_is_read_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import huggingface_hub

    (folder / "chat_template.jinja").write_text(LIKE_LLAMA)
    asked = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    role = served("meta/Llama", revision="abc", template_date=DAY)
    assert role_template(role, PROJECT_ROOT) == dated_template(LIKE_LLAMA, DAY)
    assert asked == [("meta/Llama", "abc")]

    def offline(name: str, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="cannot be read from the hub"):
        role_template(role, PROJECT_ROOT)


# --- what identifies it ------------------------------------------------------------------------------------------


def test_the_date_is_part_of_the_identity_only_if_the_prompts_contain_it(
    folder: Path, tmp_path: Path
) -> None:
    plain = model_identity(str(folder), None, PROJECT_ROOT)
    assert role_identity(served(folder), PROJECT_ROOT) == plain
    assert role_identity(served(folder, template_date=DAY), PROJECT_ROOT) == plain
    assert role_date(served(folder, template_date=DAY), PROJECT_ROOT) is None
    given = tmp_path / "given.jinja"
    given.write_text(LIKE_LLAMA)
    seen = {plain}
    for day in (DAY, date(2026, 2, 4)):
        role = served(folder, chat_template=given, template_date=day)
        seen.add(role_identity(role, PROJECT_ROOT))
        assert role_date(role, PROJECT_ROOT) == day
    given.write_text(CHAT_TEMPLATE)
    seen.add(role_identity(served(folder, chat_template=given, template_date=DAY), PROJECT_ROOT))
    assert len(seen) == 4 and all(one.startswith(plain) for one in seen)
    assert role_identity(served(folder, chat_template=given), PROJECT_ROOT) in seen


def run_of(**overrides: Any) -> Run:
    config = load_config("pocket", overrides)
    roles = {name: getattr(config.models, name) for name in ("teacher", "equivalence_judge")}
    identities = {name: role_identity(role, PROJECT_ROOT) for name, role in roles.items()}
    return Run(config=config, store=Store(Path("x")), identities=identities)


def test_an_annotation_depends_on_the_date_in_the_prompts_and_pocket_annotations_do_not(folder: Path) -> None:
    own = annotation_recipe(run_of())
    assert own == annotation_recipe(run_of(**{"models.teacher.template_date": "2026-02-03"}))
    assert own.teacher == model_identity("pocket/teacher", None, PROJECT_ROOT)
    (folder / "chat_template.jinja").write_text(LIKE_LLAMA)
    days = ["2026-02-03", "2026-02-04"]
    runs = [run_of(**{"models.teacher": {"model": str(folder), "template_date": day}}) for day in days]
    assert len({annotation_recipe(run).sampling for run in runs}) == 2
    found = [teacher_of(run) for run in runs]
    assert [one.template_date for one in found] == days
    assert found[0].model == found[1].model == model_identity(str(folder), None, PROJECT_ROOT)
    assert teacher_of(run_of(**{"models.teacher.template_date": "2026-02-03"})).template_date is None


def test_the_settings_of_existing_artifacts_are_unchanged() -> None:
    names = {"chat_template", "template_date"}
    assert not names & load_config("pocket").models.teacher.identity().keys()


def test_a_given_template_is_what_the_manifest_names(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.jinja"
    given.write_text((folder / "chat_template.jinja").read_text())
    (folder / "chat_template.jinja").unlink()
    changed = {"models.teacher": {"model": str(folder), "chat_template": str(given)}}
    assert teacher_of(run_of(**changed)).chat_template == teacher_of(run_of()).chat_template


# --- before the run ----------------------------------------------------------------------------------------------


def test_missing_templates_and_dates_are_found_before_the_run(folder: Path, tmp_path: Path) -> None:
    def problems(**changes: Any) -> list[str]:
        given = {"model": str(folder), **changes}
        return role_problems(load_config("pocket", {"models.evolver": given}), ["evolver"])

    assert problems() == []
    (folder / "chat_template.jinja").unlink()
    (missing,) = problems()
    assert missing.startswith(
        f"models.evolver: {folder} has no chat template: set chat_template to a Jinja file"
    )
    given = tmp_path / "given.jinja"
    (unread,) = problems(chat_template=str(given))
    assert "chat_template: " in unread and "cannot be read" in unread
    given.write_text(LIKE_LLAMA)
    (undated,) = problems(chat_template=str(given))
    assert undated.startswith("models.evolver: the chat template of") and "set template_date" in undated
    assert problems(chat_template=str(given), template_date="2026-02-03") == []


def test_a_server_that_runs_elsewhere_has_its_own_template() -> None:
    for settings in ({"chat_template": "x.jinja"}, {"template_date": "2026-02-03"}):
        with pytest.raises(ValidationError, match="need serve: the server at base_url has a chat template"):
            ModelRole.model_validate({"model": "m", "base_url": "http://127.0.0.1:9/v1", **settings})


def test_the_training_follows_the_template_of_the_teacher(tmp_path: Path) -> None:
    chosen = {"models.teacher.chat_template": "a.jinja", "models.teacher.template_date": "2026-02-03"}
    config = load_config("pocket", chosen)
    assert config.distill is not None
    assert config.distill.run["prompt"] == {"chat_template": "a.jinja", "date": "2026-02-03"}
    other = load_config("pocket", {**chosen, "distill.run.prompt.date": "2026-02-04"})
    assert other.distill is not None and other.distill.run["prompt"]["date"] == "2026-02-04"
    plain = load_config("pocket")
    assert plain.distill is not None and "prompt" not in plain.distill.run
