"""Real servers for tests: found, started on a free port of 127.0.0.1, awaited, stopped by pid.

A server that is not installed skips the test (or fails it when ``REQUIRE_BACKENDS=1``, as CI sets);
a server that is installed and does not start, or does not greet, always fails the test.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

__all__ = ["Server", "ServerBroken", "free_port", "greets", "require"]

HOST = "127.0.0.1"
STOP_SECONDS = 10.0


class ServerBroken(AssertionError):
    """A server is installed and does not work; the message ends with its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago (so :class:`Server` tries a second one)."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require(*candidates: str, apt: str) -> str:
    """The first of ``candidates`` that exists, or skip the test naming the package to install.

    :param candidates: absolute paths, or bare names that are looked up in ``PATH``.
    :param apt: the Debian package that brings the program.
    """
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    message = f"{candidates[0]} is not installed: apt-get install {apt}"
    if os.environ.get("REQUIRE_BACKENDS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def greets(port: int, expected: bytes, *, say: bytes = b"") -> bool:
    """Whether the server at ``port``, after ``say``, answers with something starting with ``expected``."""
    with socket.create_connection((HOST, port), 1.0) as connection:
        connection.settimeout(1.0)
        if say:
            connection.sendall(say)
        answer = b""
        while len(answer) < len(expected) and (chunk := connection.recv(4096)):
            answer += chunk
    return answer.startswith(expected)


class Server:
    """One server process in a session of its own.

    :param name: for messages.
    :param command: the argument list for a given port; called again when the start is retried.
    :param ready: whether the server speaks its protocol yet; an ``OSError`` counts as no.
    :param log: the file that gets its output.
    :param stop_signal: what ends it politely; SIGKILL follows after ten seconds.
    :param user: run as this user (only root may ask for another one).
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        ready: Callable[[int], bool],
        log: Path,
        stop_signal: int = signal.SIGTERM,
        user: str | None = None,
        start_seconds: float = 30.0,
    ) -> None:
        self.name = name
        self.log = log
        self.port = 0
        self._command = command
        self._ready = ready
        self._stop_signal = stop_signal
        self._user = user
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the running server."""
        if self._process is None:
            raise ServerBroken(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait for its greeting; once more on another port if the first was taken."""
        try:
            self._start()
        except ServerBroken:
            if "in use" not in self.tail():
                raise
            self._start()
        return self

    def _start(self) -> None:
        self.port = free_port()
        as_user: dict[str, Any] = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
                **as_user,
            )
        end = time.monotonic() + self._start_seconds
        while not self._is_ready():
            if (code := self._process.poll()) is not None:
                raise ServerBroken(f"{self.name} ended with code {code} instead of starting\n{self.tail()}")
            if time.monotonic() > end:
                self.stop()
                raise ServerBroken(f"{self.name} did not greet in {self._start_seconds:g} s\n{self.tail()}")
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        try:
            return self._ready(self.port)
        except OSError:
            return False

    def tail(self, characters: int = 3000) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def stop(self) -> None:
        """End the server, politely and then by force, and whatever it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        family = _descendants(process.pid)
        if process.poll() is None:
            process.send_signal(self._stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in family:
            if child.is_running():  # compares the creation time too: never a stranger with the same pid
                child.kill()
        psutil.wait_procs(family, STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
