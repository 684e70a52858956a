"""Run a command so that none of its processes outlives the process that started the supervisor (the owner).

`python -m tasks.processes.supervisor -- COMMAND ARGUMENT...` starts the command in its own session and terminates it, with all
its descendants, when the owner closes the supervisor's standard input, when the owner dies (also by `kill -9`), or when the
supervisor gets SIGTERM: first SIGTERM to all, then SIGKILL after five seconds. When the command exits by itself, remaining
descendants are terminated in the same way. The exit status is the command's (128 + signal, as in a shell).

The environment variable `SURE_MATH_GRACE_S` sets a grace period: only the command gets SIGTERM first, and that many seconds to
exit while its descendants keep running, so that a training run can write a checkpoint. SIGQUIT to the supervisor ends this
grace period at once. If one supervisor runs below another, the outer one waits for the grace period of the inner one. The
supervisor removes the variable from the environment of its command, so that it marks supervisors only.

`--guard` instead of a command watches processes that are already running (see `Guard`), such as those that Ray starts.

On Linux the supervisor adopts orphans (`PR_SET_CHILD_SUBREAPER`), so descendants that left the process group, or whose
parent is dead, are found too. This file imports no other module of the project, because it also runs as a plain script.
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
from collections.abc import Callable, Iterable, Sequence

import psutil

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
NOTICE_S = 2.0
"""Seconds that guarded processes have to exit by themselves after the death of their owner, and again after SIGTERM."""
KILL_S = 3.0
"""Seconds to wait for processes to end after SIGKILL."""
POLL_S = 0.25
PATIENCE = "SURE_MATH_GRACE_S"
"""The environment variable with the grace period of a supervisor in seconds."""
PR_SET_CHILD_SUBREAPER = 36


def supervise(command: Sequence[str], patience: float = 0.0) -> int:
    """Run `command` until it exits or the owner is gone, then terminate every descendant. Returns the exit status.

    `patience`: seconds that the command has to exit after the owner is gone.
    """
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
    if status is None and patience > 0:
        status = _ended_by_itself(child.pid, patience, stop)
    last = end_descendants(child.pid, stop)
    status = _first(status, last)
    return 128 + signal.SIGTERM if status is None else status


def _ended_by_itself(leader: int, patience: float, stop: _StopFlag) -> int | None:
    """Send SIGTERM to `leader` only. Returns its exit status if it exits within `patience` seconds and before SIGQUIT."""
    deadline = time.monotonic() + patience
    os.kill(leader, signal.SIGTERM)
    while not stop.at_once and time.monotonic() < deadline:
        if (status := _reap(leader)) is not None:
            return status
        time.sleep(0.05)
    return None


def end_descendants(leader: int, stop: _StopFlag) -> int | None:
    """Send SIGTERM to the process group of `leader` and to every descendant of this process, then SIGKILL to the remaining
    ones.

    Nested supervisors with a grace period get SIGTERM only, and time to finish; their descendants get no signal from here.
    Returns the exit status of `leader` if it ended here, else None.
    """
    began = time.monotonic()
    _send(_patient(), signal.SIGTERM)
    status = _end(leader, _own)
    if not _patient():
        return status
    while (left := _patient()) and not stop.at_once and time.monotonic() - began < max(map(_promised, left)):
        status = _first(status, _reap(leader))
        time.sleep(0.05)
    _send(left, signal.SIGQUIT)
    began = time.monotonic()
    while _patient() and time.monotonic() - began < GRACE_S + 2 * KILL_S:
        status = _first(status, _reap(leader))
        time.sleep(0.05)
    return _first(status, _end(leader, _descendants))


def _end(leader: int, those: Callable[[], list[psutil.Process]]) -> int | None:
    """Send SIGTERM to `leader`'s group and to `those`, then SIGKILL to the remaining ones. Returns `leader`'s exit status if
    it ended here, else None."""
    status: int | None = None
    for sign, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + patience
        _signal_all(leader, those(), sign)
        while time.monotonic() < deadline:
            status = _first(status, _reap(leader))
            if not those():
                return status
            if sign == signal.SIGKILL:  # again, for processes started in between
                _signal_all(leader, those(), sign)
            time.sleep(0.05)
    return status


class Guard:
    """Handle of a `--guard` process, which terminates processes that the owner started by other means once the owner is gone.

    They get two seconds to exit by themselves, then SIGTERM, then SIGKILL. `close` starts the same at once.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--guard"], stdin=subprocess.PIPE, start_new_session=True
        )
        self._known: set[psutil.Process] = set()

    def watch(self, processes: Iterable[psutil.Process]) -> None:
        """Add processes that must not outlive this one."""
        assert self._process.stdin is not None
        for process in set(processes) - self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.stdin.write(f"{process.pid} {process.create_time()!r}\n".encode())
                self._known.add(process)
        self._process.stdin.flush()

    def close(self) -> None:
        """Terminate the watched processes that are still running, and the guard."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def guard() -> int:
    """Read lines `PID CREATION_TIME` until the owner closes the pipe or is gone, then terminate those processes. Returns 1 if
    one of them survives, else 0."""
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
    """Return the process of a line of the guard, or None if it has ended, even if its PID was reused."""
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
    """Return what the owner writes within the next `POLL_S` seconds; None if it closed the pipe or is gone, or after a stop
    signal."""
    if stop.raised or os.getppid() != owner:
        return None
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_S)
    return (os.read(sys.stdin.fileno(), 65536) or None) if readable else b""


class _StopFlag:
    """Set by SIGTERM, SIGHUP and SIGQUIT; SIGQUIT also sets `at_once`. SIGINT is ignored: the owner handles Ctrl-C."""

    def __init__(self) -> None:
        self.raised = self.at_once = False
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._raise)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _raise(self, number: int, _frame: object) -> None:
        self.raised = True
        self.at_once = self.at_once or number == signal.SIGQUIT


def _adopt_orphans() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _own() -> list[psutil.Process]:
    """Return every descendant except nested supervisors with a grace period and their descendants."""
    theirs = {process for supervisor in _patient() for process in [supervisor, *_children(supervisor)]}
    return [process for process in _descendants() if process not in theirs]


def _patient() -> list[psutil.Process]:
    """Return the descendants that are supervisors with a grace period."""
    return [process for process in _descendants() if _promised(process) > 0]


def _promised(process: psutil.Process) -> float:
    """Return the grace period in seconds of a process that is a supervisor; 0 for other processes."""
    try:
        return float(process.environ().get(PATIENCE, 0.0))
    except (OSError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _signal_all(leader: int, processes: Iterable[psutil.Process], sign: signal.Signals) -> None:
    """Send a signal to the group of `leader` and to the processes outside of it, so that none gets it twice."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, sign)
    _send((process for process in processes if _group(process) != leader), sign)


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _send(processes: Iterable[psutil.Process], sign: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(sign)


def _reap(leader: int) -> int | None:
    """Reap every ended child. Returns the status of `leader` if it was among them, else None."""
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
    """Run the command line: `--guard`, or a command after `--`."""
    patience = float(os.environ.pop(PATIENCE, 0.0))
    if arguments == ["--guard"]:
        return guard()
    if len(arguments) < 2 or arguments[0] != "--":
        print(
            "usage: python -m tasks.processes.supervisor (--guard | -- COMMAND [ARGUMENT...])",
            file=sys.stderr,
        )
        return 2
    return supervise(arguments[1:], patience)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
