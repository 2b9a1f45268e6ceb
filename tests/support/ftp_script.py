"""An FTP server that says what it is told to, for what real servers do only on bad days."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["ScriptedFtp"]

ANSWERS = {
    "USER": "331 go on",
    "PASS": "230 hello",
    "FEAT": "211-Features:\r\n MLST type*;size*;modify*;\r\n SIZE\r\n REST STREAM\r\n211 End",
    "SYST": "215 UNIX Type: L8",
    "PWD": '257 "/"',
    "TYPE": "200 binary",
    "CWD": "250 there",
    "REST": "350 from there",
    "QUIT": "221 bye",
}


class ScriptedFtp:
    """It keeps what clients send in ``lines``.

    :param answers: verb -> reply; an empty reply is silence, ``...`` one that never ends; 421 ends
        the connection.
    :param data: verb -> what its data connection carries.
    :param pasv_host: what PASV names, as it is written there.
    :param greets: False for silence from the start.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        answers: dict[str, str] | None = None,
        data: dict[str, bytes] | None = None,
        *,
        pasv_host: str = "127,0,0,1",
        greets: bool = True,
    ) -> None:
        self.answers = {**ANSWERS, **(answers or {})}
        self.data, self.pasv_host, self.greets = data or {}, pasv_host, greets
        self.lines: list[str] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        waiting: socket.socket | None = None
        with suppress(OSError), connection, connection.makefile("rb") as file:
            if not self.greets:
                while file.read1():
                    continue
                return
            connection.sendall(b"220 ready\r\n")
            for raw in file:
                line = raw.decode(errors="replace").rstrip("\r\n")
                self.lines.append(line)
                verb = line.partition(" ")[0].upper()
                if verb == "PASV":
                    waiting = socket.create_server((self.host, 0))
                    port = waiting.getsockname()[1]
                    answer = f"227 Entering ({self.pasv_host},{port // 256},{port % 256})"
                elif verb in self.data and waiting is not None:
                    with waiting:
                        connection.sendall(b"150 here it comes\r\n")
                        data, _ = waiting.accept()
                        with data:
                            data.sendall(self.data[verb])
                    answer = self.answers.get(verb, "226 done")
                else:
                    answer = self.answers.get(verb, "502 what?")
                if answer == "...":  # a byte now and then, and never the end
                    while True:
                        connection.sendall(b"2")
                        time.sleep(0.05)
                if answer:
                    connection.sendall(answer.encode() + b"\r\n")
                if answer.startswith("421"):
                    return
