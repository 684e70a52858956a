"""Requests to OpenAI-compatible servers by the openai client, limited in time and size; errors carry the server's own message."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai

from tasks.config import ModelRole
from tasks.errors import UserError
from tasks.keys import masked, quotes, read_key

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Longest answer that is accepted to any request. As JSON it may take twenty times as much memory."""
ANSWER_BYTES: Final = 2 * 2**20
TOKEN_BYTES: Final = 2**10
"""Longest answer to a request of t tokens: ANSWER_BYTES + t * TOKEN_BYTES. A log-probability takes about 200 bytes."""
MODELS_BYTES: Final = 8 * 2**20
"""Longest list of models."""
MAX_ERROR_BYTES: Final = 2**16
"""How much of the answer is read for an error message."""
_PUBLIC: Final = ("accept", "connection", "content-", "host", "user-agent")
"""Prefixes of request headers that are no secret; the others may be from OPENAI_CUSTOM_HEADERS."""
_ABOUT_THE_CLIENT: Final = "x-stainless-"
"""Prefix of the headers in which the openai client describes itself and this machine. They are left out."""
_WITHOUT_COUNT: Final[openai.RequestOptions] = {"headers": {"X-Stainless-Retry-Count": openai.Omit()}}
NO_KEY: Final = "EMPTY"
"""Sent to a server that needs no key."""


class BadStatus(Exception):
    """An answer with a status outside 200-299. `retry_after`: the pause in seconds that the server requested."""

    def __init__(self, status: int, message: str, retry_after: float | None) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status
        self.retry_after = retry_after

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400


class ConnectionFailed(Exception):
    """A request without a complete answer. It has the cause's message, and no reference to the request and its headers."""


class _Endpoint(openai.AsyncOpenAI):
    """A client that does not describe itself and this machine."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        headers = super().default_headers
        return {name: headers[name] for name in headers if not name.lower().startswith(_ABOUT_THE_CLIENT)}


class _OwnServer(openai.AsyncOpenAI):
    """A client that sends no organisation, project or header from the environment."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept": "application/json", "Content-Type": "application/json"}


def open_client(role: ModelRole, base_url: str) -> openai.AsyncOpenAI:
    """Return a client for the running event loop, with any number of keep-alive connections to `base_url`. The caller closes it.

    A server that was started here gets nothing from the user's environment. An endpoint gets the key of `role.api_key_env`
    and whatever else the openai library reads from the environment, except its address. Redirects are not followed.
    Raises `UserError` if the address, the key or another variable cannot be used.
    """
    own = role.serve is not None
    key = "" if own else read_key(role.api_key_env)
    try:
        client = (_OwnServer if own else _Endpoint)(
            base_url=base_url,
            api_key=key or NO_KEY,
            default_headers={"Authorization": f"Bearer {key}"} if key else None,
            http_client=_http_client(base_url),
            max_retries=0,
            timeout=None,
        )
    except httpx2.InvalidURL as error:
        raise UserError(f"model server {base_url}: {error}: correct `base_url` in the profile") from None
    if not all(map(_fits_a_header, client.default_headers.values())):
        raise UserError(
            "OPENAI_ORG_ID, OPENAI_PROJECT_ID or OPENAI_CUSTOM_HEADERS has a character that is not printable ASCII: correct it"
        )
    return client


class SharedClients:
    """The clients of a role's addresses, open while at least one `with` block uses them, so that batches of requests that overlap
    share connections. All blocks must run on the same event loop as long as one is open."""

    def __init__(self, role: ModelRole, base_urls: Sequence[str]) -> None:
        self._role, self._base_urls = role, base_urls
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._blocks = 0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Mapping[str, openai.AsyncOpenAI]]:
        """Yield the clients by address. Raises the errors of `open_client`."""
        if not self._clients:
            self._clients = {base_url: open_client(self._role, base_url) for base_url in self._base_urls}
        clients = self._clients
        self._blocks += 1
        try:
            yield clients
        finally:
            self._blocks -= 1
            try:
                await asyncio.sleep(0)  # a batch that waited for the last request of this one takes over
            finally:
                if not self._blocks and self._clients is clients:
                    self._clients = {}
                    await asyncio.gather(*(client.close() for client in clients.values()))


def _http_client(base_url: str) -> httpx2.AsyncClient:
    """Return the client below the openai client. Proxies of the environment do not apply to this machine."""
    use_proxies = not is_loopback(base_url)
    try:
        if use_proxies and _proxy(base_url).startswith("socks"):
            raise ValueError("aiohttp takes any proxy for an HTTP proxy")
        return openai.DefaultAioHttpClient(
            verify=httpx2.create_ssl_context(trust_env=base_url.startswith("https:")),
            trust_env=use_proxies,
            timeout=None,  # `_answer` limits the total time
            limits=httpx2.Limits(max_connections=0),  # aiohttp's 0: no limit
            follow_redirects=False,
            event_hooks={"response": [_raise_for_status]},
        )
    except OSError as error:
        raise UserError(
            f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error}): correct the variable"
        ) from error
    except ValueError:  # may quote the proxy with its password
        raise UserError(
            "a proxy of the environment cannot be used: set HTTP_PROXY, HTTPS_PROXY and ALL_PROXY to http:// addresses"
        ) from None


def _proxy(url: str) -> str:
    """Return the proxy that the environment sets for `url`, or an empty text."""
    parts, proxies = urlsplit(url), getproxies()
    if proxy_bypass(parts.hostname or ""):
        return ""
    return proxies.get(parts.scheme) or proxies.get("all") or ""


async def post(
    client: openai.AsyncOpenAI, path: str, body: Mapping[str, Any], timeout_s: float, tokens: int = 0
) -> bytes:
    """Send a JSON body and return the body of the answer. `timeout_s` limits the total time, since a server that sends slowly
    would keep resetting a limit per read. `tokens` is the most that the answer may have.

    Raises `BadStatus`, `ConnectionFailed`, `TimeoutError`, and `ValueError` for an answer that is too long, or has the API key
    in it. No error has the key in its message.
    """
    data = json.dumps(body, separators=(",", ":")).encode("ascii")
    return await _answer(
        client.post(
            path,
            content=data,
            options=_WITHOUT_COUNT,
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=openai.AsyncStream,
        ),
        timeout_s,
        min(MAX_ANSWER_BYTES, ANSWER_BYTES + tokens * TOKEN_BYTES),
    )


async def get(client: openai.AsyncOpenAI, path: str, timeout_s: float) -> bytes:
    """Return the body of the answer to a GET request, of at most `MODELS_BYTES`. Raises the errors of `post`."""
    return await _answer(
        client.get(
            path,
            options=_WITHOUT_COUNT,
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=openai.AsyncStream,
        ),
        timeout_s,
        MODELS_BYTES,
    )


async def _answer(sending: Awaitable[Any], timeout_s: float, limit: int) -> bytes:
    """Return the body of the response of `sending`, which was not read yet."""
    try:
        async with asyncio.timeout(timeout_s):
            response: httpx2.Response = await sending
            try:
                body, complete = await _read(response, limit)
            finally:
                await response.aclose()
    except TimeoutError:
        raise
    # the transport leaves some of aiohttp's errors as they are
    except (openai.APIConnectionError, httpx2.RequestError, aiohttp.ClientError, OSError) as error:
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        raise ConnectionFailed(printable(cause) or type(cause).__name__) from None
    if not complete:
        raise ValueError(f"longer than {limit:,} bytes")
    if quotes(body, _sent_key(response.request)):
        raise ValueError("the API key is in it")
    return body


async def _read(response: httpx2.Response, limit: int) -> tuple[bytes, bool]:
    """Return the first `limit` bytes of the body, and whether that is all of it. Raises `ValueError` for a body that was encoded
    more than once: decoding it may take hours without giving a byte."""
    if "," in (encoding := response.headers.get("content-encoding", "")):
        raise ValueError(f"it has several content encodings ({printable(encoding)})")
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > limit:
            return bytes(body[:limit]), False
    return bytes(body), True


async def _raise_for_status(response: httpx2.Response) -> None:
    """Raise `BadStatus` unless the request succeeded. The openai client would read the whole body first, however long."""
    if response.is_success:
        return
    if response.is_redirect:
        message = f"redirects to {response.headers.get('location', 'another address')}"
    else:
        message = _error_text((await _read(response, MAX_ERROR_BYTES))[0])
    for name, value in response.request.headers.items():
        message = message if name.startswith(_PUBLIC) else masked(message, value)
    message = printable(masked(message, _sent_key(response.request)))
    raise BadStatus(response.status_code, message, _retry_after(response.headers))


def _sent_key(request: httpx2.Request) -> str:
    """Return the key that a request was sent with, whichever variable it is from."""
    return request.headers.get("authorization", "").rpartition(" ")[2]


def printable(text: object) -> str:
    """Return text from a server as valid UTF-8 of at most 500 characters, with lone surrogates replaced."""
    return str(text)[:500].encode("utf-8", "replace").decode("utf-8")


def is_loopback(url: str) -> bool:
    """Return whether `url` is on this machine, so that proxy settings must not apply."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _fits_a_header(value: object) -> bool:
    return not isinstance(value, str) or (value.isascii() and value.isprintable())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait from the header Retry-After (seconds or a date); None if it is missing or invalid."""
    header = headers.get("retry-after", "")
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (OverflowError, TypeError, ValueError):  # TypeError: a date without a time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _error_text(answer: bytes) -> str:
    """Return the server's error message: from its JSON, or else the raw answer."""
    try:
        body = json.loads(answer)
        error = body.get("error", body)
        return str(error["message"])
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return answer.decode("utf-8", "replace").strip()
