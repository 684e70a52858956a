"""Uploads against a local double of the hub: one whole commit or none, whatever fails, and the token nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.release.hub import Sent, Target, roll_back, upload
from tests.release.hub_double import TOKEN, Fault, HubDouble, serve

REPO = "group/sure-math"
FIRST = {
    "README.md": b"---\nlicense: mit\n---\n# Card\n",
    "data/mit/train-00000-of-00001.parquet": b"PAR1" + bytes(range(256)) * 20,
    "data/mit/test-00000-of-00001.parquet": b"PAR1 small",
    "croissant.json": b"{}" * 8_000,
}
SECOND = {
    **{name: FIRST[name] for name in ("croissant.json", "data/mit/test-00000-of-00001.parquet")},
    "README.md": b"---\nlicense: mit\n---\n# Another card\n",
    "data/mit/train-00000-of-00002.parquet": b"PAR1" + bytes(range(256)) * 30,
}


@dataclass
class Hub:
    """The double, the folders to upload, and what was logged."""

    double: HubDouble
    root: Path
    log: list[str] = field(default_factory=list)

    def folder(self, files: dict[str, bytes], name: str) -> Path:
        for path, content in files.items():
            (self.root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name / path).write_bytes(content)
        return self.root / name

    @property
    def target(self) -> Target:
        return Target(repo=REPO, kind="dataset", endpoint=self.double.endpoint)

    def send(self, files: dict[str, bytes], version: str, token: str = TOKEN) -> Sent:
        return upload(self.folder(files, f"v{version}"), self.target, version, token, self.log.append)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        found = self.double.repos[REPO].files(revision) or {}
        return {name: blob.content for name, blob in found.items() if name != ".gitattributes"}

    @property
    def commits(self) -> int:
        return len(self.double.repos[REPO].commits) - 1  # without that of the repository's creation

    @property
    def bytes_sent(self) -> int:
        return sum(
            size for request, size in self.double.requests if "/storage/" in request or "/commit/" in request
        )


@pytest.fixture(scope="module", autouse=True)
def _own_session() -> Iterator[None]:
    from huggingface_hub.utils import close_session

    close_session()
    yield
    close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve() as double:
        yield Hub(double=double, root=tmp_path)


def test_a_release_is_one_private_commit_with_a_tag(hub: Hub) -> None:
    sent = hub.send(FIRST, "1.0.0")
    assert hub.files() == hub.files("1.0.0") == FIRST
    repo = hub.double.repos[REPO]
    assert repo.private and hub.commits == 1 and repo.tags == {"1.0.0": sent.commit}
    assert sent.changed == {name: len(content) for name, content in FIRST.items()} and sent.removed == ()
    assert str(sent).startswith(f"commit {sent.commit[:12]}, tag 1.0.0: 4 files changed")


def test_the_same_content_again_sends_no_data(hub: Hub) -> None:
    first = hub.send(FIRST, "1.0.0")
    before = hub.bytes_sent
    again = hub.send(FIRST, "1.0.0")
    assert (again.commit, again.changed, again.removed) == (first.commit, {}, ())
    assert "nothing was sent" in str(again)
    tagged = hub.send(FIRST, "1.0.1")
    assert tagged.commit == first.commit and hub.double.repos[REPO].tags["1.0.1"] == first.commit
    assert hub.bytes_sent == before and hub.commits == 1


def test_a_new_version_sends_changed_files_only_and_removes_the_others(hub: Hub) -> None:
    hub.send(FIRST, "1.0.0")
    stored = hub.double.count("PUT /storage/")
    sent = hub.send(SECOND, "1.1.0")
    assert hub.files() == SECOND and hub.files("1.0.0") == FIRST and hub.commits == 2
    assert set(sent.changed) == {"README.md", "data/mit/train-00000-of-00002.parquet"}
    assert sent.removed == ("data/mit/train-00000-of-00001.parquet",)
    assert hub.double.count("PUT /storage/") == stored + 1


def test_a_tag_with_other_files_is_not_moved(hub: Hub) -> None:
    hub.send(FIRST, "1.0.0")
    with pytest.raises(
        UserError, match=r"has the tag 1\.0\.0 with other files \(README\.md.*under a new version"
    ):
        upload(hub.folder(SECOND, "other"), hub.target, "1.0.0", TOKEN, hub.log.append)
    assert hub.files() == FIRST and hub.commits == 1


FAILURES = [
    *((request, how) for request in ("PUT /storage/", "POST .*/commit/", "POST .*/tag/") for how in (429, 500, "drop", "lost")),
    ("POST /api/repos/create", "lost"), ("POST /api/repos/create", 503), ("POST .*/preupload/", 500),
    ("POST .*/info/lfs/", "drop"), ("GET .*/refs", 429), ("GET .*/tree/", "drop"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "how"), FAILURES)
def test_after_a_failure_anywhere_there_is_one_whole_commit(hub: Hub, request_: str, how: int | str) -> None:
    hub.double.faults.append(Fault(request=request_, how=how))
    sent = hub.send(FIRST, "1.0.0")
    assert hub.files() == hub.files("1.0.0") == FIRST and hub.commits == 1
    assert hub.double.faults[0].times == 0
    assert sent.changed.keys() == FIRST.keys()  # also if the answer to the commit was lost


@pytest.mark.parametrize("request_", ["PUT /storage/", "POST .*/commit/", "POST .*/preupload/"])
def test_a_failure_that_stays_leaves_no_commit_and_the_next_call_continues(
    hub: Hub, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.release.hub.WAITS_S", (0.0,))
    hub.double.faults.append(Fault(request=request_, how=500, times=1000))
    with pytest.raises(
        UserError, match=r"could not be written.*run the same command again, and it continues"
    ):
        hub.send(FIRST, "1.0.0")
    assert hub.commits == 0 and hub.files() == {} and hub.double.repos[REPO].tags == {}
    hub.double.faults.clear()
    stored, objects = hub.double.count("PUT /storage/"), len(hub.double.stored)
    hub.send(FIRST, "1.0.0")
    assert hub.files() == FIRST and hub.commits == 1
    assert hub.double.count("PUT /storage/") == stored + 3 - objects  # what was stored is not sent again


def test_a_commit_of_somebody_else_in_between_is_not_overwritten_unseen(hub: Hub) -> None:
    hub.send(FIRST, "1.0.0")
    repo = hub.double.repos[REPO]
    answer, done = hub.double.fault, []

    def other_commit(request: str) -> Fault | None:
        if "/commit/" in request and not done:
            done.append(hub.double.commit(repo, dict(repo.commits[-1][1])))
        return answer(request)

    hub.double.fault = other_commit  # type: ignore[method-assign]
    hub.send(SECOND, "1.1.0")
    assert [oid for oid, _ in repo.commits].index(done[0]) == len(repo.commits) - 2
    assert hub.files() == SECOND and "412" in hub.log[0]


def test_rolling_back_makes_one_commit_with_the_files_of_a_tag_and_sends_no_large_file(hub: Hub) -> None:
    hub.send(FIRST, "1.0.0")
    hub.send(SECOND, "1.1.0")
    stored = hub.double.count("PUT /storage/")
    sent = roll_back(hub.target, "1.0.0", TOKEN, hub.log.append)
    assert hub.files() == FIRST and hub.files("1.1.0") == SECOND and hub.commits == 3
    assert sent.removed == ("data/mit/train-00000-of-00002.parquet",)
    assert hub.double.count("PUT /storage/") == stored
    roll_back(hub.target, "1.0.0", TOKEN, hub.log.append)
    assert hub.commits == 3
    with pytest.raises(UserError, match=r"has no tag 2\.0\.0: choose one of its tags \(1\.0\.0, 1\.1\.0\)"):
        roll_back(hub.target, "2.0.0", TOKEN, hub.log.append)


def test_a_refused_token_is_one_sentence_without_the_token(
    hub: Hub, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "hf_" + "Wrong" * 8
    with pytest.raises(UserError, match="refuses the token for group/sure-math") as refused:
        hub.send(FIRST, "1.0.0", token=wrong)
    assert refused.value.__cause__ is None and wrong not in str(refused.value)
    hub.double.faults.append(Fault(request="POST .*/commit/", how=500))
    sent = hub.send(FIRST, "1.0.0")
    everything = [*hub.log, str(sent), caplog.text, *capsys.readouterr(), str(refused.value)]
    everything += [path.read_bytes().decode("latin-1") for path in hub.root.rglob("*") if path.is_file()]
    assert not any(token in text for token in (wrong, TOKEN) for text in everything)
    assert hub.log
