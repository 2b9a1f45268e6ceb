"""Client of the guard: start named processes, monitor them, and stop them all."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import Unavailable

__all__ = ["Processes"]


class Processes:
    """A context manager that stops all its processes on exit.

    If this process is killed, the guard stops them.

    :param logs: folder for one log per process.
    :param remove: folder that the guard deletes after all processes have ended.
    """

    def __init__(self, logs: Path, *, remove: Path | None = None) -> None:
        self.logs = logs
        self.remove = remove
        self.exits: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self._pending = b""
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        argv = [sys.executable, "-P", "-m", "flowrunner_provider.demo.guard"]
        if self.remove is not None:
            argv += ["--remove", str(self.remove)]
        with (self.logs / "guard.log").open("ab") as log:
            self._guard = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def guard(self) -> subprocess.Popen[bytes]:
        if self._guard is None:
            raise RuntimeError("enter the context first")
        return self._guard

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Ask the guard to start ``argv`` as ``name``; its output goes to ``<name>.log``."""
        self._order({"name": name, "argv": list(argv), "env": dict(env), "log": str(self.log(name))})

    def keep_files(self) -> None:
        """Keep the folder ``remove``, for debugging."""
        self._order({"keep": True})

    def _order(self, order: Mapping[str, object]) -> None:
        if self.guard.stdin is None:
            raise RuntimeError("the guard has no input")
        try:
            self.guard.stdin.write(json.dumps(order).encode() + b"\n")
            self.guard.stdin.flush()
        except BrokenPipeError:
            raise Unavailable("the demo's guard process has ended", remedy=f"see {self.log('guard')}") from None

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def listen(self, seconds: float = 0.0) -> None:
        """Read the reports of the guard; wait up to ``seconds`` for the first."""
        stream = self.guard.stdout
        while stream is not None and select.select([stream], [], [], seconds)[0]:
            block = os.read(stream.fileno(), 65536)
            if not block:
                raise Unavailable("the demo's guard process ended", remedy=f"see {self.log('guard')}")
            *lines, self._pending = (self._pending + block).split(b"\n")
            for event in map(json.loads, lines):
                if event["event"] == "exited":
                    self.exits[event["name"]] = event["code"]
                else:
                    self.pids[event["name"]] = event["pid"]
            seconds = 0.0

    def expect_alive(self, *names: str) -> None:
        """Raise :class:`Unavailable`, with the end of its log, if one of ``names`` has ended."""
        self.listen()
        for name in names:
            if name in self.exits:
                raise Unavailable(
                    f"{name} ended with code {self.exits[name]}: {self.tail(name)}",
                    remedy="run again with --keep and read the logs folder",
                )

    def finish(self, name: str, deadline: Deadline) -> None:
        """Wait until ``name`` has ended with success."""
        while name not in self.exits:
            deadline.check(f"waiting for {name}")
            self.listen(deadline.limit(0.2))
        if self.exits[name] != 0:
            self.expect_alive(name)

    def tail(self, name: str, lines: int = 5) -> str:
        """Return the last lines of a process's log, as one line."""
        path = self.log(name)
        if not path.exists():
            return "no output"
        text = path.read_text(encoding="utf-8", errors="replace")
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "no output"

    def close(self) -> None:
        """Stop all processes, also if interrupted while waiting."""
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        for stream in (guard.stdin, guard.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        while True:
            try:
                guard.wait()
            except KeyboardInterrupt:
                continue
            return
