"""A session with an FTP server: the control connection, and the data connection of its transfer. All calls block.

It extends the standard library's :mod:`ftplib` with implicit TLS, resumption of the TLS session on data connections,
names that are not valid in the encoding, and existence checks that do not rely on the text of a refusal.
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
"""Bytes per socket call, so that the timeout applies to silence and not to the whole transfer."""

_QUIT_SECONDS = 5.0
_NOT_SUPPORTED = (500, 501, 502, 504)


class Control(ftplib.FTP):
    """A session: logged in, in binary mode, UTF-8 if the server supports it, ``PROT P`` with TLS.

    :param context: None without TLS.
    """

    def __init__(self, target: FtpTarget, context: ssl.SSLContext | None) -> None:
        super().__init__(timeout=target.connect_timeout, encoding=target.encoding)
        self._target, self._context = target, context
        self._extended = False
        self._data: socket.socket | None = None
        self.transferring = False
        """A transfer is running, or its reply was not read; the session accepts no other command."""
        self.features: frozenset[str] = frozenset()
        self.system = ""
        self.home = "/"

    @property
    def _control_socket(self) -> socket.socket:
        if self.sock is None:
            raise EOFError("the session is closed")
        return self.sock

    @property
    def _data_socket(self) -> socket.socket:
        if self._data is None:
            raise EOFError("no transfer is under way")
        return self._data

    def open(self) -> Self:
        """Connect, start TLS and log in; close everything on failure."""
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
            self._wrap_tls()
        self._read_replies()
        self.welcome = self.getresp()
        while self.welcome[:1] == "1":
            self.welcome = self.getresp()
        if target.security == "explicit":
            self._start_tls()
        self.login(line_safe(target.login), line_safe(target.password))
        if self._context is not None:
            self.voidcmd("PBSZ 0")
            self.voidcmd("PROT P")
        self._negotiate()
        self.timeout = target.timeout
        self.sock.settimeout(target.timeout)

    def _start_tls(self) -> None:
        try:
            self.voidcmd("AUTH TLS")
        except ftplib.error_perm as error:
            raise SecurityError(
                f"{self._target.where} does not support TLS ({said(error)}), so no login was sent",
                remedy="check the port; if plain FTP is acceptable, use ftp://",
            ) from error
        self._wrap_tls()
        self._read_replies()

    def _wrap_tls(self) -> None:
        if self._context is not None:
            self.sock = self._context.wrap_socket(self._control_socket, server_hostname=self.host)

    def _read_replies(self) -> None:
        """Read replies from the current socket; drop data that was buffered before TLS started."""
        self.file = self._control_socket.makefile("r", encoding=self.encoding, errors="surrogateescape", newline="\n")

    def _negotiate(self) -> None:
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
        """Send exactly one line."""
        self._control_socket.sendall(f"{line_safe(line)}\r\n".encode(self.encoding, "surrogateescape"))

    def makepasv(self) -> tuple[str, int]:
        """Return the address of the data connection: always the server itself, as in CVE-2021-4189."""
        peer = self._control_socket.getpeername()
        if self.af == socket.AF_INET and not self._extended:
            try:
                return peer[0], ftplib.parse227(self.sendcmd("PASV"))[1]  # noqa: S321 - the parser
            except ftplib.error_perm as error:
                if code_of(error) not in (*_NOT_SUPPORTED, 522):
                    raise
                self._extended = True
        return peer[0], ftplib.parse229(self.sendcmd("EPSV"), peer)[1]  # noqa: S321

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Open the data connection: only with the server itself, resuming its TLS session."""
        connection, size = super().ntransfercmd(cmd, rest)
        try:
            if connection.getpeername()[0] != self._control_socket.getpeername()[0]:
                raise TargetForbidden(
                    f"another host than {self._target.where} opened the data connection",
                    remedy="use passive mode: remove `passive` from the extra",
                )
            if self._context is not None:
                line = self._control_socket
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
        """Return ``wanted`` bytes; fewer only at the end of the data."""
        data, buffer = self._data_socket, bytearray(wanted)
        view, got = memoryview(buffer), 0
        while got < wanted and (more := data.recv_into(view[got:], min(wanted - got, 4 * SLICE))):
            got += more
        return bytes(view[:got])

    def send(self, chunk: bytes) -> None:
        """Send all of ``chunk``."""
        data, view = self._data_socket, memoryview(chunk)
        for start in range(0, len(chunk), SLICE):
            data.sendall(view[start : start + SLICE])

    def finish(self) -> None:
        """End the transfer and wait for the server's confirmation."""
        self._end_data(self.timeout)
        self.voidresp()
        self.transferring = False

    def leave(self) -> None:
        """End a transfer early. Unless the server answers quickly, the session cannot be used again."""
        with suppress(ftplib.Error, OSError, EOFError):
            self._end_data(_QUIT_SECONDS)
            self._control_socket.settimeout(min(_QUIT_SECONDS, self._target.timeout))
            self.voidresp()
            self._control_socket.settimeout(self._target.timeout)
            self.transferring = False

    def raise_reply(self) -> None:
        """After a failed write, raise the error that the server replies with, if any."""
        self._end_data(_QUIT_SECONDS)
        self._control_socket.settimeout(min(_QUIT_SECONDS, self._target.timeout))
        self.voidresp()

    def _end_data(self, timeout: float | None) -> None:
        data, self._data = self._data, None
        if data is None:
            return
        try:
            if isinstance(data, ssl.SSLSocket):
                data.settimeout(min(timeout or _QUIT_SECONDS, _QUIT_SECONDS))
                with suppress(OSError):  # the reply on the control connection decides
                    data.unwrap()
        finally:
            data.close()

    def cut_off(self) -> None:
        """Interrupt a thread that waits for the server; callable from any thread. Ends the session."""
        self.transferring = True
        for connection in (self._data, self.sock):
            if connection is not None:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def stale(self) -> bool:
        """Return whether the server sent something unasked: an idle timeout, a shutdown, the end."""
        if self.sock is None:
            return True
        poll = select.poll()  # select.select() fails for descriptors above 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def bye(self) -> None:
        """Send QUIT and close."""
        with suppress(ftplib.Error, OSError, EOFError):
            if self.sock is not None and not self.transferring:
                self.sock.settimeout(min(_QUIT_SECONDS, self._target.timeout))
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
        """Return the size of a file, or None if the server does not report it."""
        try:
            reply = self.sendcmd(f"SIZE {path}")
        except ftplib.error_perm:
            return None
        size = next(iter(reply[4:].split()), "")
        return int(size) if reply[:3] == "213" and size.isascii() and size.isdecimal() else None

    def modified(self, entry: Entry) -> Entry:
        """Return the entry with its exact time, which LIST does not have."""
        with suppress(ftplib.error_perm):
            return entry._replace(modified=moment(self.sendcmd(f"MDTM {self.absolute(entry.path)}")[4:]))
        return entry

    def lacks_file(self, path: str) -> bool:
        """Return whether a folder that we may enter has no file of this name."""
        where = self.absolute(path)
        return self.length(where) is None and self.enters(parent_of(where))

    def enters(self, folder: str) -> bool:
        """Return whether ``folder`` is a folder that we may enter."""
        try:
            self.voidcmd(f"CWD {folder}")
        except ftplib.error_perm:
            return False
        return True

    def absolute(self, path: str) -> str:
        """Return an absolute path; without a leading slash, ``path`` is relative to the home folder."""
        line_safe(path)
        if path in ("", "."):
            return self.home
        return path if path.startswith("/") else f"{self.home.rstrip('/')}/{path.removeprefix('./')}"

    def find(self, path: str, label: str) -> Entry | None:
        """Return the entry at a path, or None if it is known not to exist.

        A refusal alone proves nothing, whatever its text. A path does not exist if every command refuses it and yet
        its folder may be entered.

        :raises AccessDenied: if this cannot be determined.
        """
        where = self.absolute(path)
        if "MLST" in self.features:
            with suppress(ftplib.error_perm):
                return self._mlst(path, where)
        elif self.enters(where):
            return Entry(path=path, name=_name_of(path), size=None, modified=None, is_dir=True)
        size = self.length(where)
        if size is not None and "MLST" not in self.features:
            return self.modified(Entry(path=path, name=_name_of(path), size=size, modified=None))
        parent = parent_of(where)
        if size is None and where != "/":
            shown = False
            if self.enters(parent):
                shown = "MLST" not in self.features and self._listed(where, parent)
                if not shown:
                    return None
            above = self.find(parent, label)
            if above is None or not (above.is_dir or above.is_link):
                return None
            if not shown and self.enters(parent):
                return None  # it was created between two commands
        raise AccessDenied(
            f"the server does not allow {self._target.login or 'anonymous'} to access {label}",
            remedy="ask the owner of the server for permission",
        )

    def _listed(self, where: str, parent: str) -> bool:
        """Return whether the listing of the folder contains it: without MLST, a forbidden folder looks missing."""
        name = _name_of(where)
        if not name.startswith(".") and not set(name) & set("*?[{"):  # STAT hides dot files and expands wildcards
            with suppress(ftplib.error_perm):
                first, *lines = self.sendcmd(f"STAT {where}").splitlines()
                if first[:3] in ("212", "213"):
                    found = [list_entry(line.strip(), "") for line in lines[:-1]]
                    return any(entry is not None and entry.name == name for entry in found)
        with tempfile.TemporaryFile() as spool:
            self.spool(parent, spool)
            lines_of = (raw.decode(self.encoding, "surrogateescape").rstrip("\r\n") for raw in spool)
            return any(entry is not None and entry.name == name for entry in (list_entry(x, "") for x in lines_of))

    def _mlst(self, path: str, where: str) -> Entry | None:
        lines = self.sendcmd(f"MLST {where}").splitlines()
        line = next((line[1:] for line in lines[1:] if line.startswith(" ")), lines[1] if len(lines) > 1 else "")
        entry = fact_entry(line, path=path)
        if entry is not None and "unix.mode=0777" in line.lower() and not entry.is_dir:
            size = self.length(where)  # this mode may be a link, and SIZE follows links
            if size is not None and size != entry.size:
                entry = entry._replace(is_link=True)
        return entry

    def spool(self, folder: str, into: IO[bytes]) -> bool:
        """Write the complete listing of a folder to a file; return True if it is in MLSD format."""
        self.voidcmd(f"CWD {self.absolute(folder)}")  # instead of an argument, which some servers take for a pattern
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
        """Run an empty transfer to the server."""
        self.begin(f"{command} {path}")
        self.finish()

    def move(self, path: str, target: str) -> None:
        """Rename a file."""
        self.sendcmd(f"RNFR {path}")
        self.voidcmd(f"RNTO {target}")


def _name_of(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
