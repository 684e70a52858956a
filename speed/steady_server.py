"""A scripted OpenAI-compatible server for `kills.py` whose replies depend only on the request's body.

    python speed/steady_server.py TEXTS.jsonl COLUMN RECEIVED

Prints its port and serves until its input closes. A request to evolve is answered with a text of the file with some words
replaced (or, rarely, a refusal), a request with a schema with a verdict, and a request for log-probabilities with a boxed number.
A 40-bit hash of the body is returned as the prompt tokens of `usage`, so that the ledger records it, and is appended to the file
RECEIVED (8 bytes, followed by one letter for the kind: e, j or s) before the answer is sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
MODELS = (
    "scripted",
    "pocket/teacher",
)  # the dataset records its teacher's tokenizer, so the teacher must exist
LOGPROBS = (-0.25, -0.5, -1.0)


class Author:
    """Generates random answers, seeded by the hash of the request."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.words = [word for text in texts for word in text.split()]

    def reply(self, number: int, body: dict[str, Any]) -> str:
        """Return the text of the answer to request `number`. In 5% of the verdicts the last criterion is false."""
        rng, kind = random.Random(number), kind_of(body)
        if kind == "j":
            *criteria, last = body["response_format"]["json_schema"]["schema"]["required"]
            return json.dumps(dict.fromkeys(criteria, True) | {last: rng.random() > 0.05})
        if kind == "s":
            return rf"We count. \boxed{{{rng.choice((3, 3, 3, 5, 8))}}}"
        if rng.random() < 0.02:
            return "I cannot help with that."
        words = rng.choice(self.texts).split()
        for place in rng.sample(range(len(words)), round(len(words) * 0.5 * rng.random())):
            words[place] = rng.choice(self.words)
        return f"<evolved>\n{' '.join(words)}\n</evolved>"


def kind_of(body: dict[str, Any]) -> str:
    """Return the kind of a request: e (evolve), j (judge) or s (solve)."""
    if body.get("response_format"):
        return "j"
    return "s" if body.get("logprobs") else "e"


def completion(number: int, kind: str, text: str) -> dict[str, Any]:
    """Return the response body, with the log-probabilities of three tokens for a solution."""
    box = text.rfind("{") + 1
    pieces = (text[:box], text[box : box + 1], text[box + 1 :])
    tokens = [
        {"token": piece, "logprob": value, "bytes": list(piece.encode()), "top_logprobs": []}
        for piece, value in zip(pieces, LOGPROBS, strict=True)
    ]
    choice = {
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens} if kind == "s" else None,
    }  # fmt: skip
    usage = {"prompt_tokens": number, "completion_tokens": 3, "total_tokens": number + 3}
    return {
        "id": f"c-{number}", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice],
        "usage": usage,
    }  # fmt: skip


class Connection(asyncio.Protocol):
    """A client connection."""

    def __init__(self, author: Author, received: int) -> None:
        self.author, self.received, self.buffer = author, received, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request when it is complete: with the list of models if it has no body, else with a completion."""
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = LENGTH.search(head)
        if length is None:
            self.buffer.clear()
            models = [{"id": name, "object": "model", "owned_by": "us"} for name in MODELS]
            self._send({"object": "list", "data": models})
        elif len(body) >= int(length[1]):
            self.buffer.clear()
            number = int.from_bytes(hashlib.sha256(body).digest()[:5], "big")
            request = json.loads(body)
            kind = kind_of(request)
            os.write(self.received, number.to_bytes(8, "big") + kind.encode())
            self._send(completion(number, kind, self.author.reply(number, request)))

    def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        if isinstance(self.transport, asyncio.WriteTransport) and not self.transport.is_closing():
            self.transport.write(head.encode() + data)


async def main(author: Author, received: Path) -> None:
    log = os.open(received, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(author, log), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    texts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    asyncio.run(main(Author([json.loads(line)[sys.argv[2]] for line in texts]), Path(sys.argv[3])))
