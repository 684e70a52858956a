"""An OpenAI-compatible server with scripted faults: raw HTTP over asyncio, in its own thread.

A script maps the last message's content to the behaviours of its successive requests; the last one repeats. Behaviours:
`ok` (echoes the content), `ok:TEXT`, `empty`, `huge` (100,000 characters and one), `length`, `429` or `429:SECONDS`, any
other status (`500`, `400`), `slow` (one byte at a time, for ever), `trickle` (a good reply in small pieces), `silent`,
`reset`, `cut` (reset in the middle of the body), `hangup` (a good reply, then the connection is closed without notice),
`truncated`, `malformed`, `garbage` (not HTTP), `no_choices`, `json:TEXT` (status 200 with that body), `gzip` (`huge`,
compressed), `gzips` (twice), `bomb` (64 MiB of blanks, compressed), `flood` (status 500 with an endless body), `redirect:URL`,
`echo` or `echo:STATUS` (the headers of the request in a reply or in an error). The entry `/models` of a script is for the list of
models. A server with a `capacity` replies with 429 to requests beyond that many in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HUGE = "x" * 100_001
LOGPROBS = (-0.25, -0.5, -1.0)
"""Log-probability of each token of a reply, sent on request."""


class ScriptedServer:
    """Use `running(...)`. `counts` has the requests per content, `most_at_once` the peak of requests in progress."""

    def __init__(
        self,
        script: Mapping[str, Sequence[str]],
        *,
        delay_s: float,
        models: Sequence[str],
        owner: str,
        capacity: int | None,
    ) -> None:
        self.script = {content: list(behaviours) for content, behaviours in script.items()}
        self.counts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.payloads: list[bytes] = []
        self.headers: list[str] = []
        self.most_at_once = 0
        self.connections = 0
        self.port = 0
        self._now = 0
        self._delay_s = delay_s
        self._models = models
        self._owner = owner
        self._capacity = capacity
        self.turned_away = 0
        self.refusal = ""  # body of every error reply; empty for the default body

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                await self._one_request(head, reader, writer)
        writer.close()

    async def _one_request(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.headers.append(head)
        if head.startswith("GET") and "/models" in self.script:
            await self._behave(
                self.script["/models"][0], {"messages": [{"content": head}], "model": "m"}, writer
            )
            return
        if head.startswith("GET"):
            data = [{"id": name, "object": "model", "owned_by": self._owner} for name in self._models]
            await _send(writer, 200, {"object": "list", "data": data})
            return
        lines = (
            line.split(":", 1) for line in head.lower().splitlines() if line.startswith("content-length:")
        )
        payload = await reader.readexactly(int(next(lines)[1]))
        body = json.loads(payload)
        content = body["messages"][-1]["content"]
        behaviours = self.script.get(content, ["ok"])
        behaviour = behaviours[min(self.counts[content], len(behaviours) - 1)]
        self.counts[content] += 1
        self.bodies.append(body)
        self.payloads.append(payload)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        if self._capacity is not None and self._now > self._capacity:
            self.turned_away += 1
            behaviour = "429"
        try:
            await asyncio.sleep(self._delay_s)
            await self._behave(behaviour, body, writer)
        finally:
            self._now -= 1

    async def _behave(self, behaviour: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        kind, _, detail = behaviour.partition(":")
        content = body["messages"][-1]["content"]
        good = json.dumps(_completion(body, detail or f"echo {content}")).encode()
        if kind == "ok":
            await _send(writer, 200, good)
        elif kind in ("empty", "huge", "length"):
            text = {"empty": "", "huge": HUGE, "length": "cut off"}[kind]
            await _send(writer, 200, _completion(body, text, "length" if kind == "length" else "stop"))
        elif kind == "slow":
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
            )
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        elif kind == "trickle":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(good)}\r\n\r\n"
            for start in range(0, len(head) + len(good), 40):
                writer.write((head.encode() + good)[start : start + 40])
                await writer.drain()
                await asyncio.sleep(0.001)
        elif kind == "silent":
            await asyncio.sleep(60)
        elif kind == "reset":
            writer.transport.abort()
        elif kind == "cut":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(good)}\r\n\r\n"
            writer.write(head.encode() + good[: len(good) // 2])
            await writer.drain()
            writer.transport.abort()
        elif kind == "hangup":
            await _send(writer, 200, good)
            writer.close()
        elif kind == "truncated":
            await _send(writer, 200, good, length=len(good) + 50)
            writer.close()
        elif kind == "malformed":
            await _send(writer, 200, good[: len(good) // 2])
        elif kind == "garbage":
            writer.write(b"\x16\x03 this is no HTTP\r\n\r\n")
            await writer.drain()
            writer.close()
        elif kind == "json":
            await _send(writer, 200, detail.encode())
        elif kind == "gzip":
            packed = gzip.compress(json.dumps(_completion(body, HUGE)).encode())
            await _send(writer, 200, packed, extra="content-encoding: gzip\r\n")
        elif kind == "gzips":
            packed = gzip.compress(gzip.compress(good))
            await _send(writer, 200, packed, extra="content-encoding: gzip, gzip\r\n")
        elif kind == "bomb":
            await _send(writer, 200, gzip.compress(b" " * 2**26), extra="content-encoding: gzip\r\n")
        elif kind == "echo":
            head = self.headers[-1]
            error = {"error": {"message": f"bad request: {head}"}}
            await _send(writer, int(detail or 200), error if detail else _completion(body, head))
        elif kind == "flood":
            writer.write(b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"x" * 2**16)
                await writer.drain()
                await asyncio.sleep(0)
        elif kind == "redirect":
            await _send(writer, 307, b"", extra=f"location: {detail}\r\n")
        elif kind == "no_choices":
            await _send(writer, 200, _completion(body, "") | {"choices": []})
        else:
            extra = f"retry-after: {detail}\r\n" if detail else ""
            error = self.refusal or json.dumps({"error": {"message": f"scripted {kind}", "type": "x"}})
            await _send(writer, int(kind), error.encode(), extra=extra)


def _completion(body: dict[str, Any], text: str, finish_reason: str = "stop") -> dict[str, Any]:
    answer = text.rfind("{") + 1  # three tokens: up to the last brace, one character, the rest
    pieces = (text[:answer], text[answer : answer + 1], text[answer + 1 :])
    tokens = [
        {
            "token": piece,
            "logprob": value,
            "bytes": list(piece.encode("utf-8", "replace")),
            "top_logprobs": [],
        }
        for piece, value in zip(pieces, LOGPROBS, strict=True)
    ]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens} if body.get("logprobs") else None,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


async def _send(
    writer: asyncio.StreamWriter, status: int, body: object, *, extra: str = "", length: int | None = None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length or len(data)}\r\n{extra}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


@contextlib.contextmanager
def running(
    script: Mapping[str, Sequence[str]] | None = None,
    *,
    delay_s: float = 0.0,
    models: Sequence[str] = ("scripted",),
    owner: str = "someone",
    capacity: int | None = None,
    port: int = 0,
) -> Iterator[ScriptedServer]:
    """A scripted server on a port (0: any free one), for the length of the `with` block."""
    server = ScriptedServer(script or {}, delay_s=delay_s, models=models, owner=owner, capacity=capacity)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listener = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(server.handle, "127.0.0.1", port), loop
    ).result()
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_shut_down(listener), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _shut_down(listener: asyncio.Server) -> None:
    listener.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
