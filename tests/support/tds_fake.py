"""A server of TDS 7.4 over a SQLite file: what a SQL Server says on the wire, with SQLite's idea of tables behind it.

It proves packets, logins, TLS, types, parameters, bulk rows, transactions and errors by their numbers. What parses and
is no Transact-SQL it refuses (``tds_rules.py``), and what it cannot translate, too, with error 102. Before tests of
ours count, drivers of others must accept it (``test_mssql_fake.py``).

It does not prove what SQL Server makes of a statement. Otherwise than there: isolation is SQLite's (one writer at a
time, readers never wait, lock hints mean nothing); all schemas are ``dbo``; texts compare by their bytes, spaces at
their ends included; a unique index takes many NULLs; integers have 64 bits, a sum never overflows; a time has six
digits, and texts of times compare as they were written; foreign keys hold no rows back, only tables; ``MERGE`` and
the clause ``OUTPUT`` are unknown; procedures have a small grammar (``tds_routines.py``), are kept as long as the server
runs, and are no part of a transaction; statistics and rebuilt indexes are nothing.
"""

from __future__ import annotations

import re
import socket
import socketserver
import sqlite3
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlglot.errors

from tests.support.tds_routines import Play, Routine, concerns, describe, last_part, routine_of
from tests.support.tds_rules import Refused
from tests.support.tds_sql import Catalogue, id_of, translated, type_of
from tests.support.tds_values import COLLATION, Reader, Unsupported, column_info, info_bytes, stored, value_bytes

__all__ = ["PASSWORD", "USER", "TdsFake", "tds_fake"]

USER, PASSWORD = "sa", "Passw0rd!"
_PROCEDURES = {10: "sp_executesql", 11: "sp_prepare", 12: "sp_execute", 13: "sp_prepexec", 15: "sp_unprepare"}
_MOST_PARAMETERS = 2100
_NAME = r"((?:\[(?:[^\]]|\]\])*\]\.?)+)"
_UPKEEP = re.compile(
    rf"(?is)UPDATE STATISTICS {_NAME}|ALTER INDEX ALL ON {_NAME} (?:REBUILD|REORGANIZE)|ALTER TABLE {_NAME} REBUILD"
)
_QUOTED = re.compile(r"\[((?:[^\]]|\]\])*)\]")


class ServerError(Exception):
    """An error of the server, by its number; the text tells values of rows, as the real ones do."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number, self.text = number, text


class TdsFake(socketserver.ThreadingTCPServer):
    """The server.

    :param file: the database.
    :param context: its TLS; None for a server that has none.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, file: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.file, self.context = file, context
        self.texts: list[str] = []
        self.planned: list[int] = []
        """Numbers of errors for the next statements."""
        self.silent_at: str | None = None
        """The connection breaks before a statement with this in it is answered, after it was done."""
        self.logins: list[dict[str, str]] = []
        self.locks: dict[str, threading.Lock] = {}
        self.routines: dict[str, Routine] = {}
        self.open: set[socket.socket] = set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def drop_all(self) -> None:
        """End every connection."""
        for one in list(self.open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none; anything else is told as usual."""
        import sys

        if not isinstance(sys.exception(), EOFError | OSError):
            super().handle_error(request, client_address)


@contextmanager
def tds_fake(file: Path, context: ssl.SSLContext | None = None) -> Iterator[TdsFake]:
    """A running server."""
    with TdsFake(file, context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.drop_all()
        server.shutdown()
        thread.join()


def _b(text: str) -> bytes:
    data = text.encode("utf-16-le", "replace")[:510]
    return bytes([len(data) // 2]) + data


def _env(kind: int, new: bytes, old: bytes) -> bytes:
    body = bytes([kind]) + new + old
    return b"\xe3" + struct.pack("<H", len(body)) + body


def _done(count: int | None = None, *, token: int = 0xFD, more: bool = False, error: bool = False) -> bytes:
    status = more * 1 + error * 2 + (count is not None) * 0x10
    return bytes([token]) + struct.pack("<HHQ", status, 0xC1, count or 0)


def _error(error: ServerError) -> bytes:
    text = error.text[:500].encode("utf-16-le", "replace")
    body = struct.pack("<iBBH", error.number, 1, 14, len(text) // 2) + text
    body += _b("fake") + _b("") + struct.pack("<I", 1)
    return b"\xaa" + struct.pack("<H", len(body)) + body


class _Connection(socketserver.BaseRequestHandler):
    server: TdsFake

    def setup(self) -> None:
        self.tls: ssl.SSLObject | None = None
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.bulk: tuple[str, list[str]] | None = None
        self.prepared: dict[int, tuple[str, list[str]]] = {}
        self.held: list[threading.Lock] = []
        self.level, self.depth, self.number, self.truncates = "", 0, 0, False
        self.server.open.add(self.request)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, timeout=20)
        self.db.execute("ATTACH ? AS dbo", (str(self.server.file),))
        self.db.execute("PRAGMA dbo.journal_mode = WAL")
        self.db.execute("PRAGMA dbo.synchronous = OFF")
        self.catalogue = Catalogue(self.db)
        self.db.create_function("SYSUTCDATETIME", 0, lambda: stored(datetime.now(UTC).replace(tzinfo=None)))
        for name, count, function in (
            ("OBJECT_ID", 1, self._object_id),
            ("TYPE_NAME", 1, lambda kind: kind),
            ("COLLATIONPROPERTY", 2, lambda name, _: 65001 if name else None),
            ("DB_ID", 0, lambda: 5),
            ("DB_NAME", 0, lambda: "fake"),
            ("SCHEMA_NAME", 0, lambda: "dbo"),
            ("HAS_PERMS_BY_NAME", 3, lambda *_: 1),
            ("CONCAT", -1, lambda *parts: "".join(str(part) for part in parts if part is not None)),
            ("tsql_moment", 1, _moment),
            ("tsql_add", 2, lambda value, seconds: _moment(value, seconds)),
            ("tsql_text", 1, lambda value: None if value is None else str(value)),
        ):
            self.db.create_function(name, count, function, deterministic=True)

    def finish(self) -> None:
        self.server.open.discard(self.request)
        for lock in self.held:
            lock.release()
        self.db.close()

    def _object_id(self, text: str) -> int | None:
        parts = [part.replace("]]", "]") for part in _QUOTED.findall(text)] or text.split(".")
        if len(parts) > 1 and parts[0].lower() not in ("dbo", "tempdb"):
            return None
        known = self.server.routines.get(parts[-1].lower())
        return self.catalogue.number(parts[-1]) if known is None else id_of(known.name)

    # -- packets -----------------------------------------------------------------------------------------

    def _bytes(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            if self.tls is None:
                data = self.request.recv(size - len(found))
            else:
                try:
                    found += self.tls.read(size - len(found))
                    continue
                except ssl.SSLWantReadError:
                    data = self.request.recv(65536)
                    self.into.write(data)
                    if data:
                        continue
            if not data:
                raise EOFError
            found += data
        return found

    def _message(self) -> tuple[int, bytes]:
        parts = []
        while True:
            kind, status, size = struct.unpack(">BBH", self._bytes(8)[:4])
            parts.append(self._bytes(size - 8))
            if status & 1:
                return kind, b"".join(parts)

    def _send(self, data: bytes, kind: int = 4) -> None:
        step = 4088
        for start in range(0, max(1, len(data)), step):
            part = data[start : start + step]
            packet = struct.pack(">BBHHBB", kind, int(start + step >= len(data)), len(part) + 8, 0, 1, 0) + part
            if self.tls is None:
                self.request.sendall(packet)
            else:
                self.tls.write(packet)
                self.request.sendall(self.out.read())

    def handle(self) -> None:
        while True:
            kind, data = self._message()
            if kind == 0x12:
                self._greet(data)
            elif kind == 0x10:
                if not self._login(data):
                    return
            elif kind == 0x06:
                self._send(b"\xfd" + struct.pack("<HHQ", 0x20, 0, 0))
            elif kind == 0x0E:
                self._send(self._transaction_request(data))
            else:
                try:
                    self._send(self._request(kind, data))
                except Unsupported as error:
                    self._send(_error(ServerError(8009, str(error))) + _done(error=True))

    def _greet(self, data: bytes) -> None:
        wanted, at = 2, 0
        while data[at] != 0xFF:
            token, place, size = struct.unpack_from(">BHH", data, at)
            wanted = data[place] if token == 1 and size else wanted
            at += 5
        encrypts = self.server.context is not None and wanted in (1, 3)
        options = [
            (0, struct.pack(">BBHH", 16, 0, 1000, 0)),
            (1, bytes([1 if encrypts else 2])),
            (2, b"\0"),
            (4, b"\0"),
        ]
        head, body = b"", b""
        for token, value in options:
            head += struct.pack(">BHH", token, 5 * len(options) + 1 + len(body), len(value))
            body += value
        self._send(head + b"\xff" + body)
        if encrypts:
            self._shake_hands()

    def _shake_hands(self) -> None:
        assert self.server.context is not None
        tls = self.server.context.wrap_bio(self.into, self.out, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if data := self.out.read():
                    self._send(data, 0x12)
                self.into.write(self._message()[1])
            except ssl.SSLError:
                raise EOFError from None
            else:
                break
        if data := self.out.read():
            self._send(data, 0x12)
        self.tls = tls

    def _login(self, data: bytes) -> bool:
        def field(at: int) -> bytes:
            place, size = struct.unpack_from("<HH", data, at)
            return data[place : place + 2 * size]

        secret = bytes(((c ^ 0xA5) >> 4 | ((c ^ 0xA5) << 4) & 0xF0) & 0xFF for c in field(44))
        user, password = field(40).decode("utf-16-le"), secret.decode("utf-16-le", "replace")
        database = field(68).decode("utf-16-le")
        self.server.logins.append({"user": user, "password": password, "app": field(48).decode("utf-16-le")})
        if (user, password) != (USER, PASSWORD):
            self._send(_error(ServerError(18456, f"Login failed for user '{user}'.")) + _done(error=True))
            return False
        if database not in ("", "fake", "master"):
            self._send(_error(ServerError(4060, f"Cannot open database '{database}'.")) + _done(error=True))
            return False
        ack = b"\x01" + bytes.fromhex("74000004") + _b("Microsoft SQL Server") + bytes([16, 0, 3, 0xE8])
        tokens = _env(1, _b(database or "master"), _b("master")) + _env(7, bytes([5]) + COLLATION, b"\0")
        tokens += _env(4, _b("4096"), _b("4096")) + b"\xad" + struct.pack("<H", len(ack)) + ack
        self._send(tokens + _done())
        return True

    # -- requests ----------------------------------------------------------------------------------------

    def _request(self, kind: int, data: bytes) -> bytes:
        if kind == 0x07:
            return self._bulk_rows(data)
        reader = Reader(data, struct.unpack_from("<I", data)[0])
        if kind == 0x01:
            return self._answered(data[reader.place :].decode("utf-16-le"), {})
        if kind != 0x03:
            raise Unsupported(f"packet {kind:#x}")
        size = reader.number(2)
        name = _PROCEDURES.get(reader.number(2), "?") if size == 0xFFFF else reader.text(size)
        reader.number(2)
        values: list[tuple[str, Any]] = []
        while reader.more and data[reader.place] not in (0x80, 0xFF):
            title = reader.text(reader.number(1))
            reader.number(1)
            values.append((title, reader.type()()))
        return self._called(name, values)

    def _called(self, name: str, values: list[tuple[str, Any]]) -> bytes:
        end = b"\x79" + bytes(4) + _done(token=0xFE)
        if name == "sp_executesql":
            listed = {title or f"@P{n}": value for n, (title, value) in enumerate(values[2:], 1)}
            return self._answered(values[0][1], listed, token=0xFF) + end
        if name == "sp_prepexec":
            names = [part.split()[0] for part in (values[1][1] or "").split(",") if part.strip()]
            number = len(self.prepared) + 1
            self.prepared[number] = values[2][1], names
            answer = self._answered(
                values[2][1], dict(zip(names, [v for _, v in values[3:]], strict=False)), token=0xFF
            )
            handle = b"\xac" + bytes(2) + _b("") + b"\x01" + bytes(6) + b"\x26\x04\x04" + struct.pack("<i", number)
            return answer + b"\x79" + bytes(4) + handle + _done(token=0xFE)
        if name == "sp_execute":
            text, names = self.prepared[values[0][1]]
            return self._answered(text, dict(zip(names, [v for _, v in values[1:]], strict=False)), token=0xFF) + end
        if name == "sp_getapplock":
            given = dict(values)
            lock = self.server.locks.setdefault(given["@Resource"], threading.Lock())
            taken = lock in self.held or lock.acquire(timeout=given["@LockTimeout"] / 1000)
            if taken and lock not in self.held:
                self.held.append(lock)
            return b"\x79" + struct.pack("<i", 0 if taken else -1) + _done(token=0xFE)
        return end

    def _transaction_request(self, data: bytes) -> bytes:
        """What drivers of others use in place of BEGIN, COMMIT and ROLLBACK."""
        kind = struct.unpack_from("<H", data, struct.unpack_from("<I", data)[0])[0]
        return self._transaction({5: "BEGIN", 7: "COMMIT", 8: "ROLLBACK"}.get(kind, "BEGIN"), "") + _done()

    def _answered(self, text: str, values: dict[str, Any], token: int = 0xFD) -> bytes:
        self.server.texts.append(text)
        inside = token == 0xFF
        try:
            if self.server.planned:
                number = self.server.planned.pop(0)
                undone = self._transaction("ROLLBACK", "") if number == 1205 and self.db.in_transaction else b""
                error = _error(ServerError(number, "planned for canary"))
                return undone + error + _done(token=token, more=inside, error=True)
            answer = self._performed(text.strip(), values, token)
        except (ServerError, Refused, sqlite3.Error, sqlglot.errors.SqlglotError) as error:
            found = error if isinstance(error, ServerError) else _as_server(error, values)
            return _error(found) + _done(token=token, more=inside, error=True)
        if self.server.silent_at is not None and self.server.silent_at in text:
            self.server.silent_at = None
            self.request.shutdown(socket.SHUT_RDWR)
            raise EOFError
        return answer

    def _performed(self, text: str, values: dict[str, Any], token: int) -> bytes:
        inside = token == 0xFF
        upper = text.upper()
        if len(values) > _MOST_PARAMETERS:
            raise ServerError(8003, "The incoming request has too many parameters.")
        self.truncates = upper.startswith("TRUNCATE TABLE")
        if routine := routine_of(text):
            self.server.routines[routine.name.lower()] = routine
            return _done(token=token, more=inside)
        if concerns(text):
            play = Play(self)
            play.batch(text, values)
            return play.answer + _done(token=token, more=inside)
        if not text or upper.startswith(("SET ", "USE ", "IF @@TRANCOUNT", "DECLARE ")):
            if upper.startswith("SET TRANSACTION ISOLATION LEVEL"):
                self.level = upper.rpartition("LEVEL ")[2]
            if upper.startswith("SET LOCK_TIMEOUT"):
                self.db.execute(f"PRAGMA busy_timeout = {int(upper.rpartition(' ')[2])}")
            return _done(token=token, more=inside)
        if found := re.match(r"(?is)(BEGIN|COMMIT|ROLLBACK|SAVE)\s+TRAN(?:SACTION)?\b\s*(.*)", text):
            return self._transaction(found[1].upper(), found[2]) + _done(token=token, more=inside)
        if upper.startswith("INSERT BULK"):
            return self._bulk(text)
        if upper.startswith("EXEC SP_RENAME"):
            self._rename(values)
            return _done(token=token, more=inside)
        if "DM_EXEC_DESCRIBE_FIRST_RESULT_SET" in upper:
            return self._described(values, token)
        if upper.startswith("SELECT @@VERSION"):
            row = ("Microsoft SQL Server 2022 (fake)\n\tmore", "sa", "fake", 1)
            return self._table(["v", "u", "d", "may"], [row], token)
        if upper.startswith("SELECT @@TRANCOUNT"):
            return self._table(["count", "number"], [(self.depth, self.number)], token)
        if found := _UPKEEP.fullmatch(text):
            return self._kept_up(found[1] or found[2] or found[3], upper) + _done(token=token, more=inside)
        return self._batch(translated(text), values, token)

    # -- what a body of a routine asks -------------------------------------------------------------------

    def routine(self, name: str) -> Routine | None:
        return self.server.routines.get(last_part(name).lower())

    def statement(self, text: str, values: dict[str, Any]) -> bytes:
        return b"".join(self._ran(one, values, 0xFF, more=True) for one in translated(text))

    def transaction(self, verb: str) -> bytes:
        try:
            return self._transaction(verb, "") + _done(token=0xFF, more=True)
        except ServerError as error:
            return self.problem(error.number, error.text)

    def problem(self, number: int, text: str) -> bytes:
        return _error(ServerError(number, text)) + _done(token=0xFF, more=True, error=True)

    def number_of(self, error: Exception) -> tuple[int, str]:
        found = _as_server(error, {})
        return found.number, found.text

    def _batch(self, statements: list[str], values: dict[str, Any], token: int) -> bytes:
        """One after the other: an error ends its statement, and the batch only if that could not even begin."""
        answer = b""
        for number, statement in enumerate(statements, 1):
            more = token == 0xFF or number < len(statements)
            try:
                answer += self._ran(statement, values, token, more=more)
            except sqlite3.IntegrityError as error:
                if number == len(statements):
                    return answer + _error(_as_server(error, values)) + _done(token=token, more=more, error=True)
                answer += _error(_as_server(error, values)) + _done(token=token, more=True, error=True)
        return answer

    def _kept_up(self, name: str, upper: str) -> bytes:
        """Nothing to do for a file, if the table is there."""
        self.catalogue.look()
        if self._object_id(name) is None:
            raise ServerError(1088 if upper.startswith("ALTER INDEX") else 4902, f"Cannot find the object {name}.")
        return b""

    def _check_references(self, statement: str) -> None:
        found = re.match(r'(DROP TABLE(?: IF EXISTS)?|DELETE FROM) "dbo"\."((?:[^"]|"")*)"\Z', statement)
        if found is None or (found[1] == "DELETE FROM" and not self.truncates):
            return
        self.catalogue.look()
        query = 'SELECT 1 FROM temp."sys.foreign_keys" WHERE referenced_object_id = ? AND parent_object_id <> ?'
        number = self.catalogue.number(found[2].replace('""', '"'))
        if self.db.execute(query, (number, number)).fetchone():
            raise ServerError(4712 if self.truncates else 3726, "it is referenced by a FOREIGN KEY constraint")

    def _ran(self, statement: str, values: dict[str, Any], token: int, *, more: bool) -> bytes:
        if found := re.match(r"(BEGIN|COMMIT|ROLLBACK)\b", statement):
            return self._transaction(found[1], "") + _done(token=token, more=more)
        self._check_references(statement)
        into, _, query = statement.rpartition("\0")
        if into:
            self._select_into(into, query)
            return _done(0, token=token, more=more)
        if "sys." in statement:
            self.catalogue.look()
            describe(self.db, list(self.server.routines.values()))
        cursor = self.db.execute(statement, {name[1:]: stored(value) for name, value in values.items()})
        if cursor.description is None:
            count = cursor.rowcount
            if statement.startswith("WITH"):  # of which the driver does not tell the count
                count = self.db.execute("SELECT changes()").fetchone()[0]
            return _done(max(0, count), token=token, more=more)
        names = [column[0] for column in cursor.description]
        types = self._declared(statement)
        if "TSQL_MOMENT(" in statement.upper():
            types["\0"] = "datetime2"  # so what reads like a time is one
        return self._table(names, cursor.fetchall(), token, types, more=more)

    def _declared(self, query: str) -> dict[str, str]:
        """The types of the columns of the tables that a query names."""
        types: dict[str, str] = {}
        for schema, quoted, plain in re.findall(r'"?(dbo|temp)"?\.(?:"((?:[^"]|"")*)"|(\w+))', query):
            table = quoted or plain
            for row in self.db.execute(f'PRAGMA {schema}.table_info("{table}")'):
                types.setdefault(row[1], row[2])
        return types

    def _table(
        self,
        names: list[str],
        rows: list[tuple[Any, ...]],
        token: int,
        types: dict[str, str] | None = None,
        *,
        more: bool | None = None,
    ) -> bytes:
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        known = {name: type_of(kind) for name, kind in (types or {}).items()}
        times = any("date" in kind for kind, *_ in known.values())
        kinds = []
        for name, column in zip(names, columns, strict=True):
            declared, _, *digits = known.get(name, ("", 0, 0, 0))
            kinds.append(column_info(list(column), declared, digits=(digits[0], digits[1]), times=times))
        parts = [b"\x81" + struct.pack("<H", len(names))]
        parts += [
            struct.pack("<IH", 0, 9) + info_bytes(kind) + _b(name) for kind, name in zip(kinds, names, strict=True)
        ]
        for row in rows:
            parts.append(b"\xd1" + b"".join(map(value_bytes, kinds, row)))
        return b"".join(parts) + _done(len(rows), token=token, more=token == 0xFF if more is None else more)

    def _transaction(self, verb: str, name: str) -> bytes:
        found = _QUOTED.findall(name)
        name = '"{}"'.format(found[0].replace("]]", "]").replace('"', '""')) if found else name.strip()
        number = bytes([8]) + struct.pack("<Q", 7)
        if verb == "SAVE":
            self.db.execute(f"SAVEPOINT {name}")
            return b""
        if verb == "ROLLBACK" and name:
            self.db.execute(f"ROLLBACK TO {name}")
            return b""
        if verb == "BEGIN":
            self.depth += 1
            if not self.db.in_transaction:
                self.number += 1
                self.db.execute("BEGIN" if self.level == "SNAPSHOT" else "BEGIN IMMEDIATE")
            return _env(8, number, b"\0")
        if not self.db.in_transaction:
            raise ServerError(3902 if verb == "COMMIT" else 3903, "no corresponding BEGIN TRANSACTION")
        self.depth = self.depth - 1 if verb == "COMMIT" else 0
        if self.depth:
            return b""
        self.db.execute(verb)
        return _env(9 if verb == "COMMIT" else 10, b"\0", number)

    def _select_into(self, into: str, query: str) -> None:
        """A new table with the columns of the query, and those of its numbers that are an identity."""
        numbered = re.findall(r'IDENTITY\(.*?\) AS "((?:[^"]|"")*)"', query)
        plain = re.sub(r"IDENTITY\([^)]*\) AS", "NULL AS", query)
        names = [column[0] for column in self.db.execute(plain).description]
        types: dict[str, str] = {}
        for schema, table in re.findall(r'"(dbo|temp)"\."((?:[^"]|"")*)"', plain):
            for row in self.db.execute(f'PRAGMA {schema}.table_info("{table}")'):
                types.setdefault(row[1], row[2])
        parts = []
        for name in names:
            kind = "INTEGER PRIMARY KEY" if name in numbered else '"{}"'.format(types.get(name, "nvarchar(max)"))
            parts.append('"{}" {}'.format(name.replace('"', '""'), kind))
        self.db.execute(f"CREATE TABLE {into} ({', '.join(parts)})")

    def _rename(self, values: dict[str, Any]) -> None:
        old, new, _ = values.values()
        name = _QUOTED.findall(old)[-1].replace("]]", "]")
        rows = self.db.execute("SELECT type, name, sql FROM dbo.sqlite_master WHERE tbl_name = ?", (name,)).fetchall()
        if not any(kind == "table" for kind, *_ in rows):
            return  # a constraint: only its name
        self.db.execute('ALTER TABLE dbo."{}" RENAME TO "{}"'.format(name.replace('"', '""'), new.replace('"', '""')))
        for kind, index, sql in rows:
            if kind == "index" and sql and "/" in index:
                now = self.db.execute("SELECT sql FROM dbo.sqlite_master WHERE name = ?", (index,)).fetchone()[0]
                self.db.execute(f'DROP INDEX dbo."{index}"')
                short = index.rpartition("/")[0]
                self.db.execute(
                    now.replace(f'"{index}"', f'dbo."{short}"', 1).replace("INDEX dbo.dbo.", "INDEX dbo.", 1)
                )

    def _described(self, values: dict[str, Any], token: int) -> bytes:
        text, kinds = values["@P1"], values.get("@P2") or ""
        names = ["name", "system_type_name", "error_number"]
        given = dict.fromkeys(re.findall(r"@\w+", kinds))
        try:
            query, *more = translated(text)
            if more:
                raise ServerError(102, "more than one")
            cursor = self.db.execute(query, {name[1:]: None for name in given})
        except (sqlite3.Error, sqlglot.errors.SqlglotError, ServerError, Refused) as error:
            found = error if isinstance(error, ServerError) else _as_server(error, {})
            return self._table(names, [(None, None, found.number)], token)
        types = self._declared(query)
        rows = [(column[0], _type_name(types.get(column[0], "")), None) for column in cursor.description or ()]
        cursor.close()
        return self._table(names, rows, token)

    def _bulk(self, text: str) -> bytes:
        table = re.match(r"INSERT BULK\s+((?:\[(?:[^\]]|\]\])*\]\.?)+)\s*\(", text)
        if table is None:
            raise ServerError(102, "Incorrect syntax near 'BULK'.")
        name = _QUOTED.findall(table[1])[-1].replace("]]", "]")
        schema = "temp" if name.startswith("#") else "dbo"
        columns = [column.replace("]]", "]") for column in _QUOTED.findall(text[table.end() :])]
        self.bulk = schema + '."{}"'.format(name.replace('"', '""')), columns
        return _done()

    def _bulk_rows(self, data: bytes) -> bytes:
        assert self.bulk is not None
        (table, names), self.bulk = self.bulk, None
        reader = Reader(data)
        if reader.number(1) != 0x81:
            raise Unsupported("a bulk load without its columns")
        reads = []
        for _ in range(reader.number(2)):
            reader.take(6)
            reads.append(reader.type())
            if reader.text(reader.number(1)) != names[len(reads) - 1]:
                raise Unsupported("columns in another order")
        rows = []
        while (token := reader.number(1)) == 0xD1:
            rows.append(tuple(stored(read()) for read in reads))
        if token != 0xFD:
            raise Unsupported(f"token {token:#x}")
        try:
            self._insert(table, names, rows)
        except (ServerError, sqlite3.Error) as error:
            found = error if isinstance(error, ServerError) else _as_server(error, {"@P": rows[:1]})
            return _error(found) + _done(error=True)
        return _done(len(rows))

    def _insert(self, table: str, names: list[str], rows: list[tuple[Any, ...]]) -> None:
        schema, _, name = table.partition(".")
        keys = {row[1] for row in self.db.execute(f"PRAGMA {schema}.table_info({name})") if row[5]}
        for place, column in enumerate(names):
            if column in keys and any(row[place] is None for row in rows):
                raise ServerError(515, f"Cannot insert the value NULL into column '{column}'; {rows[:1]!r}")
        columns = ", ".join('"' + column.replace('"', '""') + '"' for column in names)
        self.db.execute("SAVEPOINT bulk_rows")
        try:
            self.db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})", rows)
        except sqlite3.Error:
            self.db.execute("ROLLBACK TO bulk_rows")
            raise
        finally:
            self.db.execute("RELEASE bulk_rows")


def _type_name(declared: str) -> str:
    return {"integer": "int", "text": "nvarchar(max)"}.get(declared.lower(), declared.lower())


def _moment(value: Any, seconds: int = 0) -> str | None:
    """A time in the form that the fake keeps, so that texts compare as times do."""
    return None if value is None else str(stored(datetime.fromisoformat(str(value)) + timedelta(seconds=seconds)))


def _as_server(error: Exception, values: dict[str, Any]) -> ServerError:
    if isinstance(error, Refused):
        return ServerError(error.number, error.text)
    text = f"{error} The value is ({list(values.values())!r})."
    name = getattr(error, "sqlite_errorname", "")
    numbers = {
        "SQLITE_CONSTRAINT_PRIMARYKEY": 2627, "SQLITE_CONSTRAINT_UNIQUE": 2627, "SQLITE_CONSTRAINT_NOTNULL": 515,
        "SQLITE_CONSTRAINT_ROWID": 2627, "SQLITE_CONSTRAINT_CHECK": 547, "SQLITE_CONSTRAINT_FOREIGNKEY": 547,
        "SQLITE_BUSY": 1222, "SQLITE_LOCKED": 1222, "SQLITE_BUSY_SNAPSHOT": 3960, "SQLITE_MISMATCH": 245,
    }  # fmt: skip
    if name in numbers:
        return ServerError(numbers[name], text)
    for part, number in (("no such table", 208), ("unknown database", 208), ("already exists", 2714), ("column", 207)):
        if part in str(error):
            return ServerError(number, text)
    return ServerError(102, text)
