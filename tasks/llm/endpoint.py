"""POST requests to an OpenAI-compatible server, limited in time and size; errors carry the server's own message."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx

from tasks.llm.servers import is_loopback

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Longest answer that is accepted; log-probabilities take about 200 bytes per token."""


class BadStatus(Exception):
    """An answer with a status of 400 or more. `retry_after`: the pause in seconds that the server requested."""

    def __init__(self, status: int, message: str, retry_after: float | None) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status
        self.retry_after = retry_after


def open_session(base_url: str, key: str) -> aiohttp.ClientSession:
    """Open a session with keep-alive connections to `base_url`, unlimited in number, on the running event loop.

    It has no timeout, since `post` sets one. The proxy is determined once here: aiohttp would look for a proxy, and for a
    password in ~/.netrc, at every request.
    """
    certificates = httpx.create_ssl_context() if base_url.startswith("https:") else True
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=certificates),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(),
        proxy=_proxy(base_url),
    )


async def post(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], timeout_s: float) -> bytes:
    """Send a JSON body and return the body of the answer. `timeout_s` limits the total time, since a server that sends slowly
    would keep resetting a limit per read.

    Raises `BadStatus` for a status of 400 or more, `TimeoutError`, `aiohttp.ClientError` or `OSError` for a broken
    connection, and `ValueError` for an answer longer than `MAX_ANSWER_BYTES`.
    """
    data = json.dumps(body, separators=(",", ":")).encode("ascii")
    async with asyncio.timeout(timeout_s), session.post(url, data=data) as response:
        answer = bytearray()
        async for piece in response.content.iter_any():
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"longer than {MAX_ANSWER_BYTES:,} bytes")
        if response.status >= 400:
            raise BadStatus(response.status, _error_text(answer), _retry_after(response.headers))
        return bytes(answer)


def printable(text: object) -> str:
    """Return text from a server as valid UTF-8 of at most 500 characters, with lone surrogates replaced."""
    return str(text)[:500].encode("utf-8", "replace").decode("utf-8")


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for `url`; None for addresses of this machine."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


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


def _error_text(answer: bytes | bytearray) -> str:
    """Return the server's error message: from its JSON, or else the raw answer."""
    try:
        body = json.loads(answer)
        error = body.get("error", body)
        return printable(error["message"])
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return printable(answer.decode("utf-8", "replace").strip())
