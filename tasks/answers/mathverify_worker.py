"""The worker process of `tasks.answers.mathverify`. Run as a script; imports nothing from this repository.

Reads lines of JSON `[first, second, timeout_s]` and writes `true`, `false`, or `null` if Math-Verify cannot read one of them.
Exits when its input is closed or its parent has exited. If a pair needs more than `timeout_s` seconds of CPU, SIGPROF
terminates the process (default action, done by the kernel).
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any

_GROWTH_BYTES = 180 << 20
_PARENT_CHECK_S = 2.0


def _limit() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        with open("/proc/self/statm", encoding="ascii") as sizes:
            limit = int(sizes.read().split()[0]) * resource.getpagesize() + _GROWTH_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ValueError, OSError):  # not every system supports this limit
        return


@lru_cache(maxsize=512)
def _parsed(answer: str) -> tuple[Any, ...]:
    from math_verify import LatexExtractionConfig, parse

    config = (LatexExtractionConfig(),)
    return tuple(
        parse(f"${answer}$", config, fallback_mode="no_fallback", parsing_timeout=0, raise_on_error=True)
    )


def _same(first: str, second: str) -> bool | None:
    from math_verify import verify

    try:
        a, b = list(_parsed(first)), list(_parsed(second))
        if not a or not b:
            return None
        return all(verify(gold, target, timeout_seconds=0) for gold, target in ((a, b), (b, a)))
    except Exception:  # the parser and sympy can raise anything on unusual input: no opinion
        return None


def _serve(timeout_s: float, first: str, second: str) -> None:
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    verdict = _same(first, second)
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    sys.stdout.write(json.dumps(verdict) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer pairs, one JSON list per line of standard input, until the input or the parent process ends."""
    parent = os.getppid()
    _same(r"\frac{1}{2}", "0.5")  # load the grammar before the first pair
    _limit()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    descriptor = sys.stdin.fileno()
    pending = b""
    while os.getppid() == parent:
        if not select.select([descriptor], [], [], _PARENT_CHECK_S)[0]:
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            first, second, timeout_s = json.loads(line)
            _serve(timeout_s, first, second)


if __name__ == "__main__":
    main()
