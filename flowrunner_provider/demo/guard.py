"""The process that owns all others of the demo, so that none of them can outlive the command.

``python -m flowrunner_provider.demo.guard`` starts what it is told over its standard input and
stops everything when that input ends: on purpose, by an error, or because the command was killed
with SIGKILL. It lives in a session of its own (Ctrl-C does not reach it) and, on Linux, as the
*subreaper*: children whose parent died become its own and are found as well.

Input, one JSON object per line: ``{"name", "argv", "env", "log"}`` starts a process, ``{"keep": true}``
takes ``--remove`` back.
Output, likewise: ``{"event": "started", "name", "pid"}`` and ``{"event": "exited", "name", "code"}``.
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
_POLITE, _FIRM = 2.0, 10.0  # seconds after SIGTERM, and after SIGKILL


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    """In a fresh child: even if the guard itself is killed, its direct children go with it."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


class _Guard:
    def __init__(self) -> None:
        self.children: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self.stopping = False
        self.keep = False

    def tell(self, **event: Any) -> None:
        try:
            os.write(1, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:  # the command is gone; its input ends too
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
        self.tell(event="started", name=order["name"], pid=child.pid)

    def reap(self) -> None:
        """Collect every child that ended, the adopted ones too."""
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
                self.tell(event="exited", name=name, code=child.returncode)

    def serve(self) -> None:
        """Take orders until the input ends."""
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
        """SIGTERM to all descendants, SIGKILL to those that stay; returns when none is left."""
        for signum, seconds in ((signal.SIGTERM, _POLITE), (signal.SIGKILL, _FIRM)):
            deadline = Deadline(seconds)
            asked: set[int] = set()
            while not deadline.expired:
                self.reap()
                left = _descendants()
                if not left:
                    return
                for process in left:
                    if process.pid not in asked or signum == signal.SIGKILL:
                        asked.add(process.pid)
                        _signal(process, signum)
                select.select([], [], [], 0.05)


def _descendants() -> list[psutil.Process]:
    import psutil

    try:
        return psutil.Process().children(recursive=True)
    except psutil.NoSuchProcess:  # one went away while it was looked at
        return _descendants()


def _signal(process: psutil.Process, signum: int) -> None:
    import psutil

    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return


def main() -> None:
    """Serve until standard input ends or SIGTERM comes, then leave nothing behind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--remove", type=Path, help="folder to delete at the end")
    args = parser.parse_args()
    guard = _Guard()

    def leave(_signum: int, _frame: object) -> None:
        guard.stopping = True

    signal.signal(signal.SIGTERM, leave)
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
