"""Runs a command so that nothing of it outlives the process that asked for it.

`python -m tasks.io.supervisor -- COMMAND ARGUMENT...` starts the command in a session of its own and ends it, and
everything it started, when the owner closes the supervisor's standard input, when the owner is gone (also after
`kill -9`), or when the supervisor gets SIGTERM: first SIGTERM to all, after five seconds SIGKILL. When the command ends
by itself, what it left behind is ended the same way. The exit status is the command's (128 + signal, as in a shell).

`--guard` in place of a command watches processes that are already there (see `Guard`), for what Ray starts.

On Linux the supervisor adopts orphans (`PR_SET_CHILD_SUBREAPER`), so a descendant that left the process group, or whose
parent is dead, is still found. This file imports nothing of ours: it also runs as a plain script.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import psutil

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
NOTICE_S = 2.0
"""How long guarded processes may take to notice that their owner is gone, and again to obey SIGTERM."""
KILL_S = 3.0
"""How long SIGKILL may take before the supervisor gives up waiting."""
POLL_S = 0.25
PR_SET_CHILD_SUBREAPER = 36


def supervise(command: Sequence[str]) -> int:
    """Run `command` until it ends or the owner is gone, then end every descendant. Returns the exit status."""
    _adopt_orphans()
    owner = os.getppid()
    stop = _StopFlag()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        return 127
    status: int | None = None
    while status is None and _heard(owner, stop) is not None:
        status = _reap(child.pid)
    last = end_descendants(child.pid)
    status = status if status is not None else last
    return 128 + signal.SIGTERM if status is None else status


def end_descendants(leader: int) -> int | None:
    """SIGTERM to the process group of `leader` and to every descendant of this process, SIGKILL to what is left.

    Returns the exit status of `leader` when it was seen to end here, else None.
    """
    status: int | None = None
    for sign, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + patience
        _signal_all(leader, sign)
        while time.monotonic() < deadline:
            status = _first(status, _reap(leader))
            if not _descendants():
                return status
            if sign == signal.SIGKILL:  # a process may have been started in between
                _signal_all(leader, sign)
            time.sleep(0.05)
    return status


class Guard:
    """The owner's side of `--guard`: ends processes that the owner started by other means, when the owner is gone.

    They get two seconds to notice for themselves, then SIGTERM, then SIGKILL. `close` does the same at once.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--guard"], stdin=subprocess.PIPE, start_new_session=True
        )
        self._known: set[psutil.Process] = set()

    def watch(self, processes: Iterable[psutil.Process]) -> None:
        """Add processes to those that must not outlive this one."""
        assert self._process.stdin is not None
        for process in set(processes) - self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.stdin.write(f"{process.pid} {process.create_time()!r}\n".encode())
                self._known.add(process)
        self._process.stdin.flush()

    def close(self) -> None:
        """End what is left of the watched processes, and the guard."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def guard() -> int:
    """Read lines `PID CREATION_TIME` until the owner closes the pipe or is gone, then end those processes."""
    owner, stop, text = os.getppid(), _StopFlag(), b""
    while (heard := _heard(owner, stop)) is not None:
        text += heard
    watched = [process for line in text.decode().splitlines() if (process := _same_process(line)) is not None]
    _, alive = psutil.wait_procs(watched, timeout=NOTICE_S)
    for sign, patience in ((signal.SIGTERM, NOTICE_S), (signal.SIGKILL, KILL_S)):
        for process in alive:
            for member in [*_children(process), process]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    member.send_signal(sign)
        _, alive = psutil.wait_procs(alive, timeout=patience)
    return 1 if alive else 0


def _same_process(line: str) -> psutil.Process | None:
    """The process of a guard's line, unless it ended and its number was given away."""
    pid, created = line.split()
    try:
        process = psutil.Process(int(pid))
        return process if process.create_time() == float(created) else None
    except psutil.NoSuchProcess:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _heard(owner: int, stop: _StopFlag) -> bytes | None:
    """What the owner wrote within the next quarter of a second; None when it closed the pipe, is gone, or says stop."""
    if stop.raised or os.getppid() != owner:
        return None
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_S)
    return (os.read(sys.stdin.fileno(), 65536) or None) if readable else b""


class _StopFlag:
    """Turns SIGTERM and SIGHUP into a flag; Ctrl-C is the owner's business."""

    def __init__(self) -> None:
        self.raised = False
        signal.signal(signal.SIGTERM, self._raise)
        signal.signal(signal.SIGHUP, self._raise)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _raise(self, _number: int, _frame: object) -> None:
        self.raised = True


def _adopt_orphans() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _signal_all(leader: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, sign)
    for process in _descendants():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(sign)


def _reap(leader: int) -> int | None:
    """Collect every ended child; the status of `leader` when it was among them."""
    status: int | None = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == leader:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def main(arguments: Sequence[str]) -> int:
    """Command line: `--guard`, or a command after `--`."""
    if arguments == ["--guard"]:
        return guard()
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m tasks.io.supervisor (--guard | -- COMMAND [ARGUMENT...])", file=sys.stderr)
        return 2
    return supervise(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
