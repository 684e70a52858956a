"""A headless Chromium that the tests drive over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.reports.test_pages import BROWSER

PATIENCE_S = 30.0


class Tab:
    """One page. `requests` are the addresses that it asked for, `errors` its exceptions and console errors."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket = loop, socket
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Performance.enable", timeDomain="threadTicks")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that arrive before it are recorded."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, params), PATIENCE_S))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._record(message["method"], message["params"])

    def _record(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.errors.append(json.dumps(params["entry"]))
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")

    def run(self, script: str) -> Any:
        """Return the value of an expression or promise in the page."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def work_ms(self) -> float:
        """Return the CPU time that the page's main thread has spent."""
        metrics = {one["name"]: one["value"] for one in self.send("Performance.getMetrics")["metrics"]}
        return 1000 * metrics["TaskDuration"]

    def open(self, address: str, *, width: int = 1280, height: int = 900) -> None:
        """Load the report in a window of this size, and wait until its script is ready."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        self.send("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.requests.clear()
        self.send("Page.navigate", url=address)
        self.wait("document.documentElement && document.documentElement.dataset.ready === 'yes'")

    def type(self, text: str) -> None:
        """Type into the focused element, as from a keyboard."""
        for letter in text:
            self.send("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def picture(self, path: Path, *, dark: bool = False) -> None:
        """Write a PNG of the window."""
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start a Chromium and yield its tab; end it afterwards."""
    folder = Path(tempfile.mkdtemp())
    options = [
        "--headless", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0", "--no-first-run",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [str(BROWSER), *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    loop = asyncio.new_event_loop()
    try:
        session, socket = loop.run_until_complete(_connect(folder / "DevToolsActivePort"))
        try:
            yield Tab(loop, socket)
        finally:
            loop.run_until_complete(session.close())
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _connect(note: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    end = time.monotonic() + PATIENCE_S
    while not (note.exists() and "\n" in note.read_text()):
        assert time.monotonic() < end, "Chromium did not start"
        await asyncio.sleep(0.05)
    port = note.read_text().split()[0]
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        targets = await answer.json()
    address = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
    return session, await session.ws_connect(address, max_msg_size=0)
