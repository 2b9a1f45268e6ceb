"""The parent of all processes of the demo, which ensures that none outlives the command.

``python -m flowrunner_provider.demo.guard`` starts processes on request and stops them all when its standard input
ends, also if the command was killed with SIGKILL. It runs in its own session, so that Ctrl-C does not reach it. On
Linux it is a *subreaper*: it adopts and stops processes whose parent died.

Input: one JSON object per line. ``{"name", "argv", "env", "log"}`` starts a process, ``{"keep": true}`` cancels
``--remove``.
Output, in the same form: ``{"event": "started", "name", "pid"}`` and ``{"event": "exited", "name", "code"}``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import Deadline

if TYPE_CHECKING:
    import psutil

__all__ = ["main"]

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>
_TERM_SECONDS, _KILL_SECONDS = 2.0, 10.0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    """Make the kernel kill this child process if the guard is killed."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


class _Guard:
    def __init__(self) -> None:
        self.children: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self.stopping = False
        self.keep = False

    def report(self, **event: Any) -> None:
        try:
            os.write(1, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:  # the command has ended, and so will its input
            self.stopping = True

    def start(self, order: dict[str, Any]) -> None:
        with Path(order["log"]).open("ab") as log:
            child = subprocess.Popen(
                order["argv"],
                env=order["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_guard,  # safe: the guard has one thread
            )
        self.children[child.pid] = (order["name"], child)
        self.report(event="started", name=order["name"], pid=child.pid)

    def reap(self) -> None:
        """Wait for every child that has ended, including adopted ones."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.children:
                name, child = self.children.pop(pid)
                child.returncode = os.waitstatus_to_exitcode(status)
                self.report(event="exited", name=name, code=child.returncode)

    def serve(self) -> None:
        """Execute requests until the input ends."""
        pending = b""
        while not self.stopping:
            readable, _, _ = select.select([0], [], [], 0.2)
            if readable:
                block = os.read(0, 65536)
                if not block:
                    return
                *lines, pending = (pending + block).split(b"\n")
                for order in map(json.loads, lines):
                    if "keep" in order:
                        self.keep = True
                    else:
                        self.start(order)
            self.reap()

    def stop(self) -> None:
        """Stop all descendants, with SIGTERM and then with SIGKILL."""
        for signum, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            deadline = Deadline(seconds)
            signalled: set[int] = set()
            while not deadline.expired:
                self.reap()
                remaining = _descendants()
                if not remaining:
                    return
                for process in remaining:
                    if process.pid not in signalled or signum == signal.SIGKILL:
                        signalled.add(process.pid)
                        _signal(process, signum)
                select.select([], [], [], 0.05)


def _descendants() -> list[psutil.Process]:
    import psutil

    try:
        return psutil.Process().children(recursive=True)
    except psutil.NoSuchProcess:  # a process ended during the call
        return _descendants()


def _signal(process: psutil.Process, signum: int) -> None:
    import psutil

    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return


def main() -> None:
    """Serve until standard input ends or SIGTERM arrives, then stop all processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--remove", type=Path, help="folder to delete at the end")
    args = parser.parse_args()
    guard = _Guard()

    def request_stop(_signum: int, _frame: object) -> None:
        guard.stopping = True

    signal.signal(signal.SIGTERM, request_stop)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        guard.serve()
    finally:
        guard.stop()
        if args.remove is not None and not guard.keep:
            shutil.rmtree(args.remove, ignore_errors=True)


if __name__ == "__main__":
    main()
