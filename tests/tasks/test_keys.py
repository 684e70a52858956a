"""Keys: read without the white space around them, never quoted, and not inherited by processes that need none."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

import pytest

from tasks.config import ModelRole, Serve, load_config
from tasks.errors import UserError
from tasks.keys import environment_without_keys, is_secret, masked, quotes, read_key, shown, without_keys
from tasks.llm.vllm_options import engine_environment
from tasks.processes.mapper import open_mapper
from tasks.runtime.training_job import environment
from tasks.storage.hub import hub_token

SECRETS = (
    "OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_CUSTOM_HEADERS", "HF_TOKEN", "TEAM_KEY", "aws_secret_access_key",
    "VLLM_API_KEY", "GITHUB_TOKEN", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_KEY",
    "DB_PASSWORD",
)  # fmt: skip
PUBLIC = (
    "PATH", "HOME", "TOKENIZERS_PARALLELISM", "TIKTOKEN_RS_CACHE_DIR", "OMP_NUM_THREADS", "RAY_AUTH_TOKEN", "PREFECT_API_URL",
    "KEYBOARD", "HF_HOME",
)  # fmt: skip


def names_seen(_item: int) -> list[str]:
    """The variables of a worker process."""
    return sorted(os.environ)


def test_keys_are_recognised_by_the_words_of_their_names() -> None:
    assert [name for name in (*SECRETS, *PUBLIC) if is_secret(name)] == list(SECRETS)


@pytest.mark.parametrize("written", ["hf_secret", "hf_secret\n", "\r\nhf_secret\r\n", " \thf_secret "])
def test_the_white_space_around_a_key_is_not_part_of_it(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", written)
    assert read_key("HF_TOKEN") == hub_token() == "hf_secret"
    assert engine_environment(Serve(), local=False, on_cpu=False)["HF_TOKEN"] == "hf_secret"
    assert "HF_TOKEN" not in engine_environment(Serve(), local=True, on_cpu=False)
    monkeypatch.setenv("HF_TOKEN", " \n")
    assert (read_key("HF_TOKEN"), hub_token()) == ("", False)


@pytest.mark.parametrize(
    "written",
    ["hf_se\ncret", "hf_se cret", "hf_sécret", "hf_\x7fsecret", "hf_\u200bsecret", "hf_\udcffsecret"],
)
def test_a_malformed_token_of_the_hub_is_refused_and_not_quoted(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", written)
    with pytest.raises(
        UserError, match=r"^the key in HF_TOKEN has a blank or .*: set HF_TOKEN again$"
    ) as caught:
        hub_token()
    assert "hf_" not in "".join(traceback.format_exception(caught.value))


def test_a_key_is_masked_in_texts_but_a_word_is_not() -> None:
    assert masked("wrong key sk-12345 given", "sk-12345") == "wrong key [key] given"
    assert masked("an EMPTY list", "EMPTY") == "an EMPTY list" == masked("an EMPTY list", "")
    assert quotes(b"x sk-12345", "sk-12345") and not quotes(b"EMPTY", "EMPTY") and not quotes(b"", "")


def test_keys_are_out_of_the_environment_inside_the_block_only_and_are_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEAM_KEY", "sk-12345")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    with pytest.raises(ValueError, match="inside"), without_keys():
        seen = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.environ)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "TEAM_KEY" not in seen.stdout and "PREFECT_API_URL" in seen.stdout
        assert read_key("TEAM_KEY") == "sk-12345"
        raise ValueError("inside")
    assert os.environ["TEAM_KEY"] == "sk-12345" == read_key("TEAM_KEY")


def test_workers_and_training_get_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "sk-12345")
    with open_mapper(2) as mapper:
        (seen,) = mapper(names_seen, [0])
    for names in (seen, environment(), environment_without_keys()):
        assert "PATH" in names and not set(SECRETS) & set(names)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:sk-12345@host/v1",
        "https://sk-12345@host/v1",
        "https://host/v1?key=sk-12345",
        "https://host/v1#sk-12345",
    ],
)
def test_an_address_with_a_key_is_refused_and_not_quoted(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = (
        {"models.teacher": {"serve": None, "base_url": address}},
        {"distill": {"ray_address": address}},
        {"ray.address": address},
    )
    for overrides in roles:
        with pytest.raises(
            UserError, match="has a user name, a password or a query: write the address alone"
        ) as caught:
            load_config("pocket", overrides)
        assert "12345" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ValueError, match="base_url has a user name") as refused:
        ModelRole(model="m")
    assert "12345" not in str(refused.value)
    assert shown(address) == "https://host/v1"


def test_the_variable_of_a_key_has_the_name_of_a_key() -> None:
    with pytest.raises(ValueError, match="api_key_env is not the name of a key: take one with the word KEY"):
        ModelRole(model="m", base_url="http://host/v1", api_key_env="MISTRAL")
