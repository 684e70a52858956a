"""The flow sure-math-release and its command: a dry run by default, and the token in no output and no file."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from tasks.errors import UserError
from tasks.release.hub import Target
from tasks.runtime.products import student_product
from tasks.stages import release as stage
from tasks.storage.lineage import Kind, Product, products, record
from tasks.storage.manifest import read_manifest
from tests.release.hub_double import TOKEN, HubDouble, serve
from tests.release.small_release import write_small
from tests.release.test_model_folder import trained
from tests.storage.test_dataset import digests

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in ("release", "annotate"):
        sys.modules.pop(name, None)
    return importlib.import_module("release").parameters


def test_the_command_sends_nothing_unless_it_is_told_to(parameters) -> None:
    assert parameters({}) == {
        "what": "dataset", "profile": "pocket", "overrides": {}, "version": "1.0.0", "dry_run": True, "private": True,
        "datasets": [], "repo": None, "licence": None, "roll_back_to": None, "secret_block": None, "source": None,
        "previous": None, "evaluations": None,
    }  # fmt: skip
    sent = parameters({"UPLOAD": "1", "PUBLIC": "1", "REPO": "a/b", "WHAT": "model", "DATASETS": "a/c a/d"})
    assert (sent["dry_run"], sent["private"], sent["repo"], sent["datasets"]) == (
        False,
        False,
        "a/b",
        ["a/c", "a/d"],
    )


@pytest.mark.parametrize(
    "wrong", [{"UPLOAD": "yes"}, {"WHAT": "space"}, {"PROFILE": "none"}, {"OVERRIDES": "["}]
)
def test_a_wrong_setting_of_the_command_is_refused(parameters, wrong: dict[str, str]) -> None:
    with pytest.raises(UserError):
        parameters(wrong)


def test_the_newest_earlier_release_is_the_previous_one(tmp_path: Path) -> None:
    for name in ("dataset-1.9.0", "dataset-1.10.0", "dataset-2.0.0", "model-1.10.1", "dataset-old"):
        (tmp_path / name).mkdir()
    assert stage.newest_before(tmp_path / "dataset-2.0.0") == tmp_path / "dataset-1.10.0"
    assert stage.newest_before(tmp_path / "dataset-1.9.0") is None


def test_an_upload_without_token_or_repository_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="needs a token: set HF_TOKEN"):
        stage.hub_token(None)
    with pytest.raises(UserError, match="needs a repository"):
        stage.target_of(None, "dataset", private=True, needed=True)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    from huggingface_hub.utils import close_session

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    with serve() as hub:
        yield hub
    close_session()


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The function of the flow, run without a Prefect server."""
    from flows.release import release as flow

    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("release"))
    monkeypatch.setattr(stage, "create_markdown_artifact", lambda *_, **__: None)
    monkeypatch.setattr(stage, "write_dataset", stage.write_dataset.fn)
    monkeypatch.setattr(
        stage, "record_products", lambda root, _profile, made: [record(root, one) for one in made]
    )
    return flow.fn


def test_the_flow_checks_writes_uploads_and_rolls_back(
    release: Callable[..., str], double: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(stage, "Target", partial(Target, endpoint=double.endpoint))
    overrides = {"run.output": str(tmp_path / "out")}
    common = {
        "overrides": overrides,
        "source": str(write_small(tmp_path / "dataset")),
        "repo": "group/sure-math",
    }
    assert release(**common).startswith("dry run: ")
    place = tmp_path / "out/release/dataset-1.0.0"
    assert double.requests == [] and (place / "README.md").is_file()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = release(**common, dry_run=False)
    repo = double.repos["group/sure-math"]
    sent = {name for name in (repo.files("1.0.0") or {}) if name != ".gitattributes"}
    assert (
        sent == set(digests(place)) and repo.private and done.startswith("dataset group/sure-math: commit ")
    )
    second = write_small(tmp_path / "second", 10)
    release(**{**common, "source": str(second)}, version="1.1.0", dry_run=False)
    changes = (tmp_path / "out/release/dataset-1.1.0/CHANGELOG.md").read_text()
    assert "- 2 problems added" in changes and "## 1.0.0" in changes
    back = release(repo="group/sure-math", roll_back_to="1.0.0")
    assert repo.files("main") == repo.files("1.0.0") and back.startswith(
        "dataset group/sure-math is back at 1.0.0"
    )
    texts = [*capfd.readouterr(), caplog.text, done, back]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN in text for text in texts) and not any(
        TOKEN.encode() in content for content in written
    )


def test_the_flow_writes_nothing_if_the_contract_is_broken(
    release: Callable[..., str], tmp_path: Path
) -> None:
    source = write_small(tmp_path / "dataset", licence="mine")
    with pytest.raises(UserError, match="clause 'licences': the dataset has the licence 'mine'"):
        release(overrides={"run.output": str(tmp_path / "out")}, source=str(source))
    assert not list((tmp_path / "out").rglob("dataset-*"))


@pytest.mark.slow
def test_the_token_may_be_in_a_secret_block(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret
    from pydantic import SecretStr

    monkeypatch.delenv("HF_TOKEN", raising=False)
    Secret(value=SecretStr(TOKEN)).save("hub")
    assert stage.hub_token("hub") == TOKEN
    with pytest.raises(UserError, match="no Secret block 'other'"):
        stage.hub_token("other")


def test_a_candidate_is_the_next_version_is_never_sent_and_leaves_the_releases_alone(
    release: Callable[..., str], tmp_path: Path
) -> None:
    from flows.candidate import candidate as flow

    candidate = flow.fn
    out, source = tmp_path / "out", str(write_small(tmp_path / "dataset"))
    common = {"overrides": {"run.output": str(out)}, "source": source}
    candidate(**common)
    assert "version: 1.0.0" in (out / "release/candidate/dataset/CITATION.cff").read_text()
    release(**common, version="1.3.1")
    before = digests(out / "release/dataset-1.3.1")
    changed = str(write_small(tmp_path / "second", 10))
    assert candidate(**{**common, "source": changed}).startswith("dry run: ")
    place = out / "release/candidate/dataset"
    assert "version: 1.4.0" in (place / "CITATION.cff").read_text()
    assert "- 2 problems added" in (place / "CHANGELOG.md").read_text()
    assert digests(out / "release/dataset-1.3.1") == before
    assert sorted(path.name for path in (out / "release").iterdir()) == ["candidate", "dataset-1.3.1"]


def test_a_release_is_recorded_with_the_dataset_that_it_was_made_from(
    release: Callable[..., str], tmp_path: Path
) -> None:
    out, source = tmp_path / "out", write_small(tmp_path / "dataset")
    release(overrides={"run.output": str(out)}, source=str(source), version="1.2.0")
    (one,) = products(out).values()
    assert (one.kind, one.name, one.folder) == (Kind.RELEASE, "dataset", "release/dataset-1.2.0")
    assert one.made_from == (f"dataset:{read_manifest(source).fingerprint}",)
    assert one.facts["version"] == "1.2.0" and one.facts["state"] == "not sent"


def test_the_card_of_a_student_has_the_licence_of_the_profile_and_its_release_names_the_evaluations(
    release: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = trained(out / "distill/abc")
    student = student_product(out, run)
    others = replace(student, digest="ffff")
    for number, made_from in enumerate((student, others)):
        record(
            out,
            Product(
                kind=Kind.EVALUATION,
                digest=f"e{number}",
                folder=f"grades{number}",
                made_from=(made_from.key,),
            ),
        )
    overrides = {"run.output": str(out), "distill.licence": "mit", "evaluate.out": str(out / "none")}
    release(what="model", overrides=overrides, source=str(run))
    card = ModelCard((out / "release/model-1.0.0/README.md").read_text(), ignore_metadata_errors=False)
    assert isinstance(data := card.data, ModelCardData)
    assert data.license == "mit"
    assert [(one.dataset_name, one.metric_value) for one in data.eval_results or []] == [
        ("200 held-out problems", 40.0),
    ]  # fmt: skip
    made = [one for one in products(out).values() if one.kind is Kind.RELEASE]
    assert [one.made_from for one in made] == [(student.key, "evaluation:e0")]
    with pytest.raises(UserError, match=r"under a licence: give one, .* or set distill\.licence"):
        release(what="model", overrides={**overrides, "distill.licence": None}, source=str(run))
