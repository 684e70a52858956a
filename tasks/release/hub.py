"""Upload a release folder to the Hugging Face hub: one commit with the files that differ, and a tag.

Every attempt starts from what the hub has, so a repeated call continues an interrupted one: large files that were sent are
not sent again, and a commit whose answer was lost is found. The commit names its parent, so it is refused if somebody else was
faster.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks.errors import UserError
from tasks.keys import masked
from tasks.text import counted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "model"]

WAITS_S: Final = (2.0, 8.0, 30.0, 60.0)
"""Seconds between the attempts; each request is also repeated by `huggingface_hub` itself, except the commit."""
_KEPT: Final = frozenset({".gitattributes"})  # written by the hub
_TRANSIENT: Final = frozenset(
    {408, 412, 429, 500, 502, 503, 504}
)  # 412: the parent of the commit is no longer the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A repository on the hub. `private` holds when it is created; `endpoint` is by default the public hub."""

    repo: str
    kind: Kind
    private: bool = True
    endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was committed and tagged; no commit was made if no file differs."""

    commit: str
    tag: str
    changed: Mapping[str, int]  # path -> bytes
    removed: tuple[str, ...]

    def __str__(self) -> str:
        if not self.changed and not self.removed:
            return f"the hub already has these files (commit {self.commit[:12]}, tag {self.tag}); nothing was sent"
        return (
            f"commit {self.commit[:12]}, tag {self.tag}: {counted(len(self.changed), 'file')} changed"
            f" ({sum(self.changed.values()):,} bytes), {len(self.removed):,} removed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The newest commit of the branch main, and the files at a revision: path -> (sha1 of the blob, sha256 if it is in LFS)."""

    commit: str
    files: Mapping[str, tuple[str, str | None]]


def upload(folder: Path, target: Target, version: str, token: str, log: Callable[[str], None]) -> Sent:
    """Make the repository contain exactly the files of `folder`, in one commit with the tag `version`.

    The repository is created if needed. Raises `UserError` if the hub cannot be reached after several attempts, refuses the
    token, or has the tag with other files. The repository then is as before, or has the whole commit.
    """
    sent: dict[
        str, int
    ] = {}  # by all attempts: the answer to the commit of an earlier one may have been lost
    local = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }

    def attempt(api: HfApi) -> Sent:
        _create(api, target)
        tagged = _tags(api, target).get(version)
        head = _files_at(api, target, tagged or "main")
        changed = {name: path for name, path in local.items() if not _is_same(path, head.files.get(name))}
        removed = tuple(sorted(head.files.keys() - local.keys() - _KEPT))
        if tagged is not None:
            if changed or removed:
                raise UserError(
                    f"{target.repo} has the tag {version} with other files ({', '.join([*changed, *removed][:3])}): release"
                    " under a new version"
                )
            return Sent(commit=tagged, tag=version, changed=sent, removed=())
        sent.update((name, path.stat().st_size) for name, path in changed.items())
        commit = _commit(
            api, target, f"Version {version}", head, [*_additions(changed), *_deletions(removed)]
        )
        api.create_tag(target.repo, tag=version, revision=commit, repo_type=target.kind, exist_ok=True)
        return Sent(commit=commit, tag=version, changed=sent, removed=removed)

    return _persistently(attempt, target, token, log)


def roll_back(target: Target, version: str, token: str, log: Callable[[str], None]) -> Sent:
    """Make the newest commit contain the files of the tag `version` again, in one commit on the hub. No large file is sent.

    Raises `UserError` if there is no such tag, or as `upload` does.
    """

    def attempt(api: HfApi) -> Sent:
        from huggingface_hub import CommitOperationCopy

        tags = _tags(api, target)
        if version not in tags:
            known = ", ".join(sorted(tags)) or "none"
            raise UserError(f"{target.repo} has no tag {version}: choose one of its tags ({known})")
        head, wanted = _files_at(api, target, "main"), _files_at(api, target, tags[version])
        changed = [name for name, found in wanted.files.items() if head.files.get(name) != found]
        removed = tuple(sorted(head.files.keys() - wanted.files.keys() - _KEPT))
        copies = [CommitOperationCopy(name, name, src_revision=tags[version]) for name in changed]
        commit = _commit(api, target, f"Back to version {version}", head, [*copies, *_deletions(removed)])
        return Sent(commit=commit, tag=version, changed=dict.fromkeys(changed, 0), removed=removed)

    return _persistently(attempt, target, token, log)


def _persistently(
    attempt: Callable[[HfApi], Sent], target: Target, token: str, log: Callable[[str], None]
) -> Sent:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=target.endpoint, token=token or False)
    for wait in (*WAITS_S, None):
        try:
            with _hub_errors(target, token), _without_progress():
                return attempt(api)
        except _Transient as error:
            if wait is None:
                raise UserError(
                    f"{target.repo} could not be written, since the Hugging Face hub does not respond ({error}): run the same"
                    " command again, and it continues"
                ) from None
            log(f"release: {error}; trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


class _Transient(Exception):
    """A failure that may not occur again. The message has no token."""


@contextmanager
def _hub_errors(target: Target, token: str) -> Iterator[None]:
    """Turn the library's errors into `_Transient` or `UserError`, without the token and the chain of causes."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    failure: Exception
    try:
        yield
        return
    except HfHubHTTPError as error:
        status = error.response.status_code
        text = masked(f"{status}: {' '.join(str(error).split())[:200]}", token)
        if status in _TRANSIENT:
            failure = _Transient(text)
        elif status in (401, 403):
            failure = UserError(
                f"the Hugging Face hub refuses the token for {target.repo} ({status}): set HF_TOKEN, or a Secret block, to a"
                " token that may write it"
            )
        else:
            failure = UserError(
                f"the Hugging Face hub refuses {target.repo} ({text}): correct the repository"
            )
    except (TransportError, OSError, RuntimeError) as error:  # RuntimeError: of hf_xet
        failure = _Transient(masked(f"{type(error).__name__}: {str(error)[:200]}", token))
    except ValueError as error:  # metadata or an answer that the library refuses
        failure = UserError(
            masked(f"{target.repo} was not written ({' '.join(str(error).split())[:300]})", token)
        )
    raise failure from None


@contextmanager
def _without_progress() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _create(api: HfApi, target: Target) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        api.repo_info(target.repo, repo_type=target.kind)
    except RepositoryNotFoundError:
        api.create_repo(target.repo, repo_type=target.kind, private=target.private, exist_ok=True)


def _tags(api: HfApi, target: Target) -> dict[str, str]:
    return {
        tag.name: tag.target_commit for tag in api.list_repo_refs(target.repo, repo_type=target.kind).tags
    }


def _files_at(api: HfApi, target: Target, revision: str) -> _Head:
    from huggingface_hub.hf_api import RepoFile

    commit = api.repo_info(target.repo, repo_type=target.kind, revision=revision).sha
    if commit is None:
        raise ValueError("the hub returned no commit")
    tree = api.list_repo_tree(target.repo, repo_type=target.kind, revision=commit, recursive=True)
    files = {
        one.path: (one.blob_id, one.lfs.sha256 if one.lfs else None)
        for one in tree
        if isinstance(one, RepoFile)
    }
    return _Head(commit=commit, files=files)


def _is_same(path: Path, remote: tuple[str, str | None] | None) -> bool:
    if remote is None:
        return False
    blob, sha256 = remote
    with path.open("rb") as file:
        if sha256 is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        start = f"blob {path.stat().st_size}\0".encode()
        return hashlib.sha1(start + file.read(), usedforsecurity=False).hexdigest() == blob


def _additions(changed: Mapping[str, Path]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(name, path) for name, path in changed.items()]


def _deletions(removed: tuple[str, ...]) -> list[Any]:
    from huggingface_hub import CommitOperationDelete

    return [CommitOperationDelete(name) for name in removed]


def _commit(api: HfApi, target: Target, message: str, head: _Head, operations: list[Any]) -> str:
    if not operations:
        return head.commit
    return api.create_commit(
        target.repo, operations, commit_message=message, repo_type=target.kind, parent_commit=head.commit
    ).oid
