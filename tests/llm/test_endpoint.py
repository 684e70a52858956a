"""Requests by the openai client: what is sent, to whom, with which key; answers bounded in size; no redirects."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm import chat, endpoint
from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest, Completion, Failure
from tasks.llm.endpoint import ConnectionFailed, open_client, post
from tasks.llm.servers import check_endpoint
from tests.scripted_server import ScriptedServer, running

NOBODY = "http://127.0.0.1:9"
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-secret",
    "OPENAI_ADMIN_KEY": "sk-secret-admin",
    "OPENAI_ORG_ID": "org-secret",
    "OPENAI_PROJECT_ID": "proj-secret",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer secret\nX-Team: team-secret",
    "OPENAI_BASE_URL": f"{NOBODY}/secret",
    "HTTP_PROXY": f"{NOBODY}/secret",
    "http_proxy": f"{NOBODY}/secret",
    "ALL_PROXY": f"{NOBODY}/secret",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of the environment but a test's own, and no pauses between attempts."""
    for name in (*ENVIRONMENT, "NO_PROXY", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, _retry_after=None: 0.002)


@pytest.fixture
def full_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def role_at(server: ScriptedServer, **settings: object) -> ModelRole:
    return ModelRole.model_validate({"model": "scripted", "base_url": server.base_url} | settings)


def send(role: ModelRole, base_url: str, content: str = "a", seed: int | None = None) -> ChatOutcome:
    request = ChatRequest(
        key=content,
        messages=[{"role": "user", "content": content}],
        sampling=Sampling(max_tokens=9),
        prompt="p1",
        seed=seed,
    )
    (outcome,) = ChatModel(role, base_url, "scripted", "scripted@1").complete_all([request])
    return outcome


def test_the_bytes_of_a_request() -> None:
    with running() as server:
        send(role_at(server), server.base_url, "Höhe", seed=5)
    assert server.payloads == [
        b'{"model":"scripted","messages":[{"role":"user","content":"H\\u00f6he"}],"temperature":0.7,"top_p":1.0,'
        b'"max_tokens":9,"seed":5}'
    ]


# --- the environment ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("full_environment")
def test_a_server_started_here_gets_nothing_from_the_environment() -> None:
    with running() as server:
        outcome = send(ModelRole(model="scripted", serve=Serve()), server.base_url)
    assert isinstance(outcome, Completion)
    assert "secret" not in server.headers[0] and "Bearer EMPTY" in server.headers[0]
    assert "x-stainless" not in server.headers[0].lower()


@pytest.mark.usefixtures("full_environment")
def test_an_endpoint_gets_key_organisation_and_project_at_the_address_of_the_profile() -> None:
    with running() as server:
        role = role_at(server)
        check_endpoint(role)
        assert isinstance(send(role, server.base_url), Completion)
    assert [head.split(" HTTP")[0] for head in server.headers] == [
        "GET /v1/models",
        "POST /v1/chat/completions",
    ]
    for head in server.headers:
        lines = head.lower().splitlines()
        assert [line for line in lines if "authorization" in line] == ["authorization: bearer sk-secret"]
        assert {"openai-organization: org-secret", "openai-project: proj-secret"} <= set(lines)
        assert "x-team: team-secret" in lines
        assert not [line for line in lines if line.startswith("x-stainless")], "nothing about this machine"


def test_an_endpoint_without_a_key_gets_a_placeholder_or_the_header_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as server:
        send(role_at(server), server.base_url)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Basic abc")
        send(role_at(server), server.base_url)
    first, second = server.headers
    assert "authorization: bearer empty" in first.lower() and "organization" not in first.lower()
    assert "authorization: basic abc" in second.lower()


@pytest.mark.parametrize("written", ["sk-secret\n", "  sk-secret\r\n"])
def test_blanks_and_line_ends_around_a_key_are_not_part_of_it(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", written)
    with running() as server:
        send(role_at(server, api_key_env="SOME_KEY"), server.base_url)
    assert "authorization: bearer sk-secret\r\n" in server.headers[0].lower()


@pytest.mark.parametrize("written", ["sk-sec\nret", "sk-sec ret", "sk-sécret", "sk-sec\x07ret"])
def test_a_malformed_key_is_refused_and_not_quoted(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", written)
    with running() as server:
        role = role_at(server, api_key_env="SOME_KEY")
        for request in (lambda: send(role, server.base_url), lambda: check_endpoint(role)):
            with pytest.raises(UserError, match=r"^the key in SOME_KEY has a blank or .* again$") as caught:
                request()
            assert "ret" not in "".join(traceback.format_exception(caught.value)).replace("return", "")
    assert server.headers == []


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_server_that_sends_the_key_and_headers_back_in_an_error_does_not_get_them_into_a_message(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret\n")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other-Key: secret-too")
    script = {"a": [f"echo:{status}"], "/models": [f"echo:{status}"]}
    with running(script) as server:
        role, said = role_at(server, api_key_env="SOME_KEY"), list[str]()
        try:
            outcome = send(role, server.base_url)
            assert (
                isinstance(outcome, Failure)
                and "[key]" in outcome.reason
                and "bad request: POST" in outcome.reason
            )
            said.append(outcome.reason)
        except UserError as error:
            assert status == 401
            said.append("".join(traceback.format_exception(error)))
        with pytest.raises(UserError) as caught:
            check_endpoint(role)
        said.append("".join(traceback.format_exception(caught.value)))
    assert all("sk-secret" in head for head in server.headers) and len(server.headers) == 2
    assert "secret" not in "".join(said)


def test_an_answer_with_the_key_in_it_costs_that_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with running({"a": ["echo"]}) as server:
        outcome = send(role_at(server, api_key_env="SOME_KEY"), server.base_url)
        assert outcome == Failure(key="a", reason="unreadable answer: the API key is in it", attempts=6)
        monkeypatch.setenv("SOME_KEY", "EMPTY")  # no key, though the word may be in any answer
        assert isinstance(send(role_at(server, api_key_env="SOME_KEY"), server.base_url), Completion)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("OPENAI_ORG_ID", "org\nx-other: secret", "has a character that is not printable ASCII"),
        ("ALL_PROXY", "socks5://me:secret@proxy.invalid:1080", "to http:// addresses"),
        ("ALL_PROXY", "gopher://me:secret@proxy.invalid:1080", "to http:// addresses"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "SSL_CERT_FILE or SSL_CERT_DIR cannot be read"),
    ],
)
def test_an_unusable_variable_is_refused_before_anything_is_sent(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence) as caught:
        check_endpoint(ModelRole(model="m", base_url="https://models.invalid/v1"))
    assert "secret" not in str(caught.value)


def test_a_host_in_no_proxy_needs_no_usable_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.invalid:1080")
    monkeypatch.setenv("NO_PROXY", "models.invalid")
    with pytest.raises(UserError, match="does not answer"):
        check_endpoint(ModelRole(model="m", base_url="http://models.invalid/v1"))


def test_a_broken_connection_is_reported_without_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    async def attempt() -> None:
        async with open_client(ModelRole(model="m", base_url=NOBODY), NOBODY) as client:
            await post(client, "/chat/completions", {}, 30.0)

    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9") as caught:
        asyncio.run(attempt())
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "secret" not in "".join(traceback.format_exception(caught.value))


# --- answers -----------------------------------------------------------------------------------------------------


def test_a_redirect_stops_the_run_and_the_prompt_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with running() as other:
        target = f"{other.base_url}/chat/completions"
        with running({"a": [f"redirect:{target}"]}) as server:
            sentence = rf"sends prompts elsewhere \(status 307: redirects to {target}\): set `base_url`"
            with pytest.raises(UserError, match=sentence):
                send(role_at(server), server.base_url)
    assert (server.counts["a"], other.headers) == (1, [])


def test_the_body_of_an_error_is_bounded() -> None:
    with running({"a": ["flood"]}) as server:
        outcome = send(role_at(server, request_timeout_s=30.0), server.base_url)
    assert isinstance(outcome, Failure) and outcome.reason == "status 500: " + "x" * 500


def test_a_compressed_answer_is_bounded_by_its_unpacked_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with running({"a": ["gzip"]}) as server:
        whole = send(role_at(server), server.base_url)
        monkeypatch.setattr(endpoint, "MAX_ANSWER_BYTES", 50_000)
        bounded = send(role_at(server), server.base_url)
    assert isinstance(whole, Completion) and len(whole.text) == 100_000
    assert isinstance(bounded, Failure) and bounded.reason == "unreadable answer: longer than 50,000 bytes"


def test_an_answer_may_be_longer_the_more_tokens_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ANSWER_BYTES", 1_000)
    for tokens, complete in ((9, False), (200, True)):  # the answer has 100,000 characters
        request = ChatRequest(
            key="a", messages=[{"content": "a"}], sampling=Sampling(max_tokens=tokens), prompt="p"
        )
        with running({"a": ["huge"]}) as server:
            (outcome,) = ChatModel(role_at(server), server.base_url, "scripted", "id").complete_all([request])
        assert isinstance(outcome, Completion) is complete, outcome


def test_an_answer_encoded_twice_is_refused_before_it_is_decoded() -> None:
    with running({"a": ["gzips"]}) as server:
        outcome = send(role_at(server), server.base_url)
    assert isinstance(outcome, Failure) and "several content encodings (gzip, gzip)" in outcome.reason


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("slow", r"does not answer \(timeout\): start it"),
        ("silent", r"does not answer \(timeout\): start it"),
        ("bomb", r"does not answer \(longer than 8,388,608 bytes\)"),
        ("gzips", r"does not answer \(it has several content encodings"),
        ("flood", r"does not return a list of models \(status 500: x+\)"),
        ("redirect:http://127.0.0.1:9/v1", r"\(status 307: redirects to http://127\.0\.0\.1:9/v1\)"),
        ("json:[]", "does not return a list of models"),
        ('json:{"data": 5}', "does not return a list of models"),
        ('json:{"data": [5]}', "does not return a list of models"),
        ('json:{"data": [{"id": {}}]}', "does not return a list of models"),
        ('json:{"data": [{"id": "b"}, {"id": 5}]}', "does not return a list of models"),
        ('json:{"data": []}', "offers no model: set `base_url`"),
        ('json:{"data": [{"id": "' + "x" * 5_000 + '"}]}', r"set `model` to one of (x| \.\.\.){1,110}$"),
        ("json:" + "[" * 100_000, "does not return a list of models"),
    ],
)
def test_a_list_of_models_is_limited_in_time_size_and_shape(behaviour: str, sentence: str) -> None:
    with running({"/models": [behaviour]}) as server, pytest.raises(UserError, match=sentence):
        check_endpoint(role_at(server), timeout_s=1.5 if behaviour in ("slow", "silent") else 60.0)


def test_more_than_a_hundred_requests_are_in_flight_at_once() -> None:
    with running(delay_s=1.5) as server:
        model = ChatModel(role_at(server, concurrency=150), server.base_url, "scripted", "scripted@1")
        model.servers[0].throttle.limit = 150.0
        outcomes = model.complete_all(
            ChatRequest(key=str(i), messages=[{"content": str(i)}], sampling=Sampling(), prompt="p")
            for i in range(150)
        )
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert server.most_at_once > 100
