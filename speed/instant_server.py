"""A scripted OpenAI-compatible server for `request_path.py`; answers every request after a fixed time, by default immediately.

    python speed/instant_server.py [SECONDS]

Prints its port. When it reads a line or the end of its input, it prints the request-seconds so far (the number of requests in
progress, integrated over time) and exits. It uses the standard library only, so that it starts fast and uses little CPU.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import cache

EVOLVED = (
    "<evolved>\nA depot sends out {} crates a day, each with 12 lamps. After 3 days a fifth of the lamps is broken."
    " How many lamps are whole?\n</evolved>"
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
REQUIRED = re.compile(rb'"required": *(\[[^]]*\])')


class Tally:
    """Number of requests served and in progress, and the integral of the latter over time in request-seconds."""

    def __init__(self) -> None:
        self.served = self.now = 0
        self.request_seconds, self._changed_at = 0.0, time.monotonic()

    def change(self, by: int) -> None:
        now = time.monotonic()
        self.request_seconds += self.now * (now - self._changed_at)
        self.now, self._changed_at = self.now + by, now


class Connection(asyncio.Protocol):
    """A connection. Requests with a schema are answered with a verdict in which all of its keys are true, others with an evolved
    problem with a unique number."""

    def __init__(self, tally: Tally, seconds: float) -> None:
        self.tally, self.seconds, self.received = tally, seconds, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return
        self.received.clear()
        self.tally.served += 1
        self.tally.change(1)
        keys = REQUIRED.search(body)
        reply = completion(self.tally.served, verdict(keys[1]) if keys else EVOLVED)
        if self.seconds:
            asyncio.get_running_loop().call_later(self.seconds, self.answer, reply)
        else:
            self.answer(reply)

    def answer(self, body: bytes) -> None:
        self.tally.change(-1)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if isinstance(self.transport, asyncio.WriteTransport) and not self.transport.is_closing():
            self.transport.write(head.encode() + body)


@cache
def verdict(keys: bytes) -> str:
    return json.dumps(dict.fromkeys(json.loads(keys), True))


def completion(number: int, text: str) -> bytes:
    message = {"role": "assistant", "content": text.replace("{}", str(number), 1)}
    reply = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460},
    }
    return json.dumps(reply).encode()


async def main(seconds: float) -> None:
    loop, tally = asyncio.get_running_loop(), Tally()
    server = await loop.create_server(lambda: Connection(tally, seconds), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    tally.change(0)
    print(tally.request_seconds, flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
