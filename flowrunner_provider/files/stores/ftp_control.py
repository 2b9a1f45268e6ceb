"""One control connection to an FTP server, and the data connection of its transfer. Everything here blocks.

The wire is the standard library's :mod:`ftplib`. What it lacks for today's servers is here: implicit TLS, the TLS
session of the control connection taken up by each data connection, names that are not valid in the encoding, and a
file's whereabouts by evidence instead of by the words of a refusal.
"""

from __future__ import annotations

import ftplib
import select
import socket
import ssl
import tempfile
from contextlib import suppress
from typing import IO, Self

from flowrunner_provider.core.errors import AccessDenied, SecurityError, TargetForbidden
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.ftp_errors import code_of, said
from flowrunner_provider.files.stores.ftp_listing import fact_entry, list_entry, moment
from flowrunner_provider.files.stores.ftp_target import FtpTarget, line_safe, parent_of

__all__ = ["Control"]

SLICE = 64 * 1024
"""Bytes per call to a socket, so that its time-out is one for silence and not for the whole."""

_BYE = 5.0
_UNKNOWN = (500, 501, 502, 504)


class Control(ftplib.FTP):
    """A session: logged in, binary, UTF-8 where the server has it; ``PROT P`` whenever there is TLS.

    :param context: None for no TLS.
    """

    def __init__(self, target: FtpTarget, context: ssl.SSLContext | None) -> None:
        super().__init__(timeout=target.connect_timeout, encoding=target.encoding)
        self._target, self._context = target, context
        self._extended = False
        self._data: socket.socket | None = None
        self.transferring = False
        """A transfer is under way, or its reply was not read: good for no other command."""
        self.features: frozenset[str] = frozenset()
        self.system = ""
        self.home = "/"

    @property
    def _line(self) -> socket.socket:
        if self.sock is None:
            raise EOFError("the session is closed")
        return self.sock

    @property
    def _pipe(self) -> socket.socket:
        if self._data is None:
            raise EOFError("no transfer is under way")
        return self._data

    def open(self) -> Self:
        """Connect, secure, log in; on failure nothing stays open."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        target = self._target
        self.host, self.port = target.host, target.port
        self.sock = socket.create_connection((target.host, target.port), target.connect_timeout)
        self.af = self.sock.family
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # the control connection is idle during long transfers
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        if target.security == "implicit":
            self._secure()
        self._listen()
        self.welcome = self.getresp()
        while self.welcome[:1] == "1":
            self.welcome = self.getresp()
        if target.security == "explicit":
            self._start_tls()
        self.login(line_safe(target.login), line_safe(target.password))
        if self._context is not None:
            self.voidcmd("PBSZ 0")
            self.voidcmd("PROT P")
        self._settle()
        self.timeout = target.timeout
        self.sock.settimeout(target.timeout)

    def _start_tls(self) -> None:
        try:
            self.voidcmd("AUTH TLS")
        except ftplib.error_perm as error:
            raise SecurityError(
                f"{self._target.where} offers no TLS ({said(error)}), so no login was sent",
                remedy="look at the port; where only plain FTP is to be had, and may be, use ftp://",
            ) from error
        self._secure()
        self._listen()

    def _secure(self) -> None:
        if self._context is not None:
            self.sock = self._context.wrap_socket(self._line, server_hostname=self.host)

    def _listen(self) -> None:
        """Replies from here on; what was sent in clear before TLS is thrown away with the old file."""
        self.file = self._line.makefile("r", encoding=self.encoding, errors="surrogateescape", newline="\n")

    def _settle(self) -> None:
        with suppress(ftplib.error_perm):
            lines = self.sendcmd("FEAT").splitlines()[1:-1]
            self.features = frozenset(line.split()[0].upper() for line in lines if line.strip())
        if "UTF8" in self.features and self.encoding.lower().replace("-", "") == "utf8":
            with suppress(ftplib.error_perm):
                self.sendcmd("OPTS UTF8 ON")
        with suppress(ftplib.error_perm):
            self.system = self.sendcmd("SYST")[4:]
        with suppress(ftplib.error_perm):
            self.home = self.pwd() or "/"
        self.passiveserver = self._target.passive
        self.voidcmd("TYPE I")

    def putline(self, line: str) -> None:
        """Send one line, and never two."""
        self._line.sendall(f"{line_safe(line)}\r\n".encode(self.encoding, "surrogateescape"))

    def makepasv(self) -> tuple[str, int]:
        """Where the data connection goes: to the server itself, whatever host it names (CVE-2021-4189)."""
        peer = self._line.getpeername()
        if self.af == socket.AF_INET and not self._extended:
            try:
                return peer[0], ftplib.parse227(self.sendcmd("PASV"))[1]  # noqa: S321 - the parser
            except ftplib.error_perm as error:
                if code_of(error) not in (*_UNKNOWN, 522):
                    raise
                self._extended = True
        return peer[0], ftplib.parse229(self.sendcmd("EPSV"), peer)[1]  # noqa: S321

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """The data connection of a transfer: with our server, and under its TLS session."""
        connection, size = super().ntransfercmd(cmd, rest)
        try:
            if connection.getpeername()[0] != self._line.getpeername()[0]:
                raise TargetForbidden(
                    f"somebody else than {self._target.where} opened the data connection",
                    remedy="use passive mode: remove `passive` from the extra",
                )
            if self._context is not None:
                line = self._line
                session = line.session if isinstance(line, ssl.SSLSocket) else None
                connection = self._context.wrap_socket(connection, server_hostname=self.host, session=session)
        except BaseException:
            connection.close()
            raise
        return connection, size

    def begin(self, command: str, rest: int = 0) -> None:
        """Start a transfer; :meth:`receive` or :meth:`send`, then :meth:`finish`."""
        self.transferring = True
        try:
            self._data = self.transfercmd(command, rest or None)
        except (ftplib.error_perm, ftplib.error_temp):
            self.transferring = False
            raise

    def receive(self, wanted: int) -> bytes:
        """``wanted`` bytes; fewer only at the end of the data."""
        data, buffer = self._pipe, bytearray(wanted)
        view, got = memoryview(buffer), 0
        while got < wanted and (more := data.recv_into(view[got:], min(wanted - got, 4 * SLICE))):
            got += more
        return bytes(view[:got])

    def send(self, chunk: bytes) -> None:
        """All of ``chunk``."""
        data, view = self._pipe, memoryview(chunk)
        for start in range(0, len(chunk), SLICE):
            data.sendall(view[start : start + SLICE])

    def finish(self) -> None:
        """End the transfer; the server says that it has, or has sent, everything."""
        self._end_data(self.timeout)
        self.voidresp()
        self.transferring = False

    def leave(self) -> None:
        """End a transfer early. Without a clear and quick answer the session stays unfit for others."""
        with suppress(ftplib.Error, OSError, EOFError):
            self._end_data(_BYE)
            self._line.settimeout(min(_BYE, self._target.timeout))
            self.voidresp()
            self._line.settimeout(self._target.timeout)
            self.transferring = False

    def leave_for_reason(self) -> None:
        """After a failed write: raise what the server says about it; nothing if it says nothing."""
        self._end_data(_BYE)
        self._line.settimeout(min(_BYE, self._target.timeout))
        self.voidresp()

    def _end_data(self, timeout: float | None) -> None:
        data, self._data = self._data, None
        if data is None:
            return
        try:
            if isinstance(data, ssl.SSLSocket):
                data.settimeout(min(timeout or _BYE, _BYE))
                with suppress(OSError):  # the reply on the control connection is what counts
                    data.unwrap()
        finally:
            data.close()

    def cut_off(self) -> None:
        """Wake up a thread that waits for the server; from any thread. The session is useless afterwards."""
        self.transferring = True
        for each in (self._data, self.sock):
            if each is not None:
                with suppress(OSError):
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def stale(self) -> bool:
        """The server has something to say unasked: time-out, shutdown, end."""
        return self.sock is None or bool(select.select([self.sock], [], [], 0)[0])

    def bye(self) -> None:
        """Say goodbye and close."""
        with suppress(ftplib.Error, OSError, EOFError):
            if self.sock is not None and not self.transferring:
                self.sock.settimeout(min(_BYE, self._target.timeout))
                self.voidcmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close at once."""
        if self._data is not None:
            self._data.close()
            self._data = None
        super().close()

    # -- questions and commands ----------------------------------------------------------------------------------

    def length(self, path: str) -> int | None:
        """The size of a file; None where the server does not say."""
        try:
            reply = self.sendcmd(f"SIZE {path}")
        except ftplib.error_perm:
            return None
        return int(reply[4:].split()[0]) if reply[:3] == "213" else None

    def modified(self, entry: Entry) -> Entry:
        """The entry with its time, which LIST does not tell to the second."""
        with suppress(ftplib.error_perm):
            return entry._replace(modified=moment(self.sendcmd(f"MDTM {self.absolute(entry.path)}")[4:]))
        return entry

    def lacks_file(self, path: str) -> bool:
        """Whether a folder that we may look into has no file of this name."""
        where = self.absolute(path)
        return self.length(where) is None and self.enters(parent_of(where))

    def enters(self, folder: str) -> bool:
        """Whether it is a folder, and one that we may look into."""
        try:
            self.voidcmd(f"CWD {folder}")
        except ftplib.error_perm:
            return False
        return True

    def absolute(self, path: str) -> str:
        """A path from the top; without a leading slash it is below the login's home."""
        line_safe(path)
        if path in ("", "."):
            return self.home
        return path if path.startswith("/") else f"{self.home.rstrip('/')}/{path.removeprefix('./')}"

    def look(self, path: str, label: str) -> Entry | None:
        """What is at a path; None when it is known not to be there.

        A refusal proves nothing, whatever its words. What is asked for is absent if the server denies knowledge of
        it by every question there is, and yet lets us into the folder that it would be in.

        :raises AccessDenied: if nobody can tell.
        """
        where = self.absolute(path)
        if "MLST" in self.features:
            with suppress(ftplib.error_perm):
                return self._facts(path, where)
        elif self.enters(where):
            return Entry(path=path, name=_last(path), size=None, modified=None, is_dir=True)
        size = self.length(where)
        if size is not None and "MLST" not in self.features:
            return self.modified(Entry(path=path, name=_last(path), size=size, modified=None))
        parent = parent_of(where)
        if size is None and where != "/":
            shown = False
            if self.enters(parent):
                shown = "MLST" not in self.features and self._listed(where, parent)
                if not shown:
                    return None
            above = self.look(parent, label)
            if above is None or not (above.is_dir or above.is_link):
                return None
            if not shown and self.enters(parent):
                return None  # it was made while we asked
        raise AccessDenied(
            f"the server does not let {self._target.login or 'anonymous'} look at {label}",
            remedy="ask the owner of the server for the permission",
        )

    def _listed(self, where: str, parent: str) -> bool:
        """Whether the folder's listing has it: without MLST a folder that is shut looks as if it were not there."""
        name = _last(where)
        if not name.startswith(".") and not set(name) & set("*?[{"):  # STAT hides the former and expands the latter
            with suppress(ftplib.error_perm):
                first, *lines = self.sendcmd(f"STAT {where}").splitlines()
                if first[:3] in ("212", "213"):
                    found = [list_entry(line.strip(), "") for line in lines[:-1]]
                    return any(entry is not None and entry.name == name for entry in found)
        with tempfile.TemporaryFile() as spool:
            self.spool(parent, spool)
            lines_of = (raw.decode(self.encoding, "surrogateescape").rstrip("\r\n") for raw in spool)
            return any(entry is not None and entry.name == name for entry in (list_entry(x, "") for x in lines_of))

    def _facts(self, path: str, where: str) -> Entry | None:
        lines = self.sendcmd(f"MLST {where}").splitlines()
        line = next((line[1:] for line in lines[1:] if line.startswith(" ")), lines[1] if len(lines) > 1 else "")
        entry = fact_entry(line, path=path)
        if entry is not None and "unix.mode=0777" in line.lower() and not entry.is_dir:
            size = self.length(where)  # what has this mode may be a link, and SIZE goes through it
            if size is not None and size != entry.size:
                entry = entry._replace(is_link=True)
        return entry

    def spool(self, folder: str, into: IO[bytes]) -> bool:
        """The whole listing of a folder into a file; True if it has facts. It is complete on return."""
        self.voidcmd(f"CWD {self.absolute(folder)}")  # and no path below: some servers take it for a pattern
        facts = "MLST" in self.features
        unix = self.system.upper().startswith("UNIX")
        for command in ("MLSD",) if facts else ("LIST -a", "LIST") if unix else ("LIST",):
            into.seek(0)
            into.truncate()
            self.begin(command)
            first = b""
            while chunk := self.receive(4 * SLICE):
                first = first or chunk
                into.write(chunk)
            self.finish()
            if first or facts:
                break
        into.seek(0)
        return facts

    def put(self, command: str, path: str) -> None:
        """A transfer to the server without a byte."""
        self.begin(f"{command} {path}")
        self.finish()

    def move(self, path: str, target: str) -> None:
        """Rename, both halves."""
        self.sendcmd(f"RNFR {path}")
        self.voidcmd(f"RNTO {target}")


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
