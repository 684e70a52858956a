"""Runs a command so that nothing of it outlives the process that asked for it.

`python -m tasks.io.supervisor [--patience SECONDS] -- COMMAND ARGUMENT...` starts the command in a session of its own and
ends it, and everything it started, when the owner closes the supervisor's standard input, when the owner is gone (also after
`kill -9`), or when the supervisor gets SIGTERM: first SIGTERM to all, after five seconds SIGKILL. When the command ends
by itself, what it left behind is ended the same way. The exit status is the command's (128 + signal, as in a shell).

With `--patience` the command alone gets SIGTERM first, and that long to end by itself, with all that it started still there:
a training run writes a checkpoint. SIGQUIT to the supervisor ends the patience at once. Where one supervisor runs below
another, the outer one leaves what the inner one was promised to it, and waits for it.

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
from collections.abc import Callable, Iterable, Sequence

import psutil

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
NOTICE_S = 2.0
"""How long guarded processes may take to notice that their owner is gone, and again to obey SIGTERM."""
KILL_S = 3.0
"""How long SIGKILL may take before the supervisor gives up waiting."""
POLL_S = 0.25
PATIENCE = "--patience"
PR_SET_CHILD_SUBREAPER = 36


def supervise(command: Sequence[str], patience: float = 0.0) -> int:
    """Run `command` until it ends or the owner is gone, then end every descendant. Returns the exit status.

    `patience`: seconds that the command has, from then on, to end by itself.
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
    """SIGTERM to `leader` alone; its exit status when it ends within `patience` seconds and before there is haste."""
    deadline = time.monotonic() + patience
    os.kill(leader, signal.SIGTERM)
    while not stop.at_once and time.monotonic() < deadline:
        if (status := _reap(leader)) is not None:
            return status
        time.sleep(0.05)
    return None


def end_descendants(leader: int, stop: _StopFlag) -> int | None:
    """SIGTERM to the process group of `leader` and to every descendant of this process, SIGKILL to what is left.

    Supervisors among them that were promised patience get SIGTERM alone and are waited for, those below them nothing.
    Returns the exit status of `leader` when it was seen to end here, else None.
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
    """SIGTERM to `leader`'s group and to `those`, SIGKILL to what is left of them; `leader`'s exit status, if seen."""
    status: int | None = None
    for sign, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + patience
        _signal_all(leader, those(), sign)
        while time.monotonic() < deadline:
            status = _first(status, _reap(leader))
            if not those():
                return status
            if sign == signal.SIGKILL:  # a process may have been started in between
                _signal_all(leader, those(), sign)
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
    """Turns SIGTERM and SIGHUP into a flag, SIGQUIT into one without patience; Ctrl-C is the owner's business."""

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
    """Every descendant but the patient supervisors and what is theirs to end."""
    theirs = {process for supervisor in _patient() for process in [supervisor, *_children(supervisor)]}
    return [process for process in _descendants() if process not in theirs]


def _patient() -> list[psutil.Process]:
    """The supervisors among the descendants that were promised patience."""
    return [process for process in _descendants() if _promised(process) > 0]


def _promised(process: psutil.Process) -> float:
    """The seconds of patience of a process that is a supervisor; 0 for others."""
    try:
        command = process.cmdline()
        option = command.index(PATIENCE)
        return float(command[option + 1]) if command[option - 1] == "tasks.io.supervisor" else 0.0
    except (ValueError, IndexError, psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _signal_all(leader: int, processes: Iterable[psutil.Process], sign: signal.Signals) -> None:
    """To the group of `leader`, and to those of the processes that are not in it: nobody is told twice."""
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
    """Command line: `--guard`, or a command after `--`, before which its patience may stand."""
    if arguments == ["--guard"]:
        return guard()
    patience = 0.0
    if len(arguments) > 1 and arguments[0] == PATIENCE:
        patience, arguments = float(arguments[1]), arguments[2:]
    if len(arguments) < 2 or arguments[0] != "--":
        print(
            f"usage: python -m tasks.io.supervisor (--guard | [{PATIENCE} SECONDS] -- COMMAND [ARGUMENT...])",
            file=sys.stderr,
        )
        return 2
    return supervise(arguments[1:], patience)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
