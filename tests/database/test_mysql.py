"""MySQL keeps the contract of dialects, on a real MariaDB; and what only it has: LOAD DATA, swaps, its types."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    Rejected,
    SecurityError,
)
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import TableName
from tests.contracts.dialect_contract import CANARY, DialectContract
from tests.contracts.dialect_export import export, read
from tests.contracts.dialect_transaction import transact
from tests.database.copies import check_copies
from tests.database.far_side import CONN_ID, MysqlFarSide, connected, load_rows
from tests.support.tls import Tls

pytestmark = pytest.mark.backend


@pytest.fixture
def far(make_mysql: Callable[[], MysqlFarSide], monkeypatch: pytest.MonkeyPatch) -> MysqlFarSide:
    return connected(make_mysql(), monkeypatch)


class TestMysql(DialectContract):
    """The contract, on a real server."""


# -- rows ----------------------------------------------------------------------------------------------------


TEXTS = st.one_of(
    st.none(),
    st.text(st.one_of(st.sampled_from("\\\t\n\r\0N\"'%,;é🙂"), st.characters(exclude_categories=["Cs"])), max_size=8),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.none(), st.binary(max_size=6))), min_size=1, max_size=6))
def test_what_is_sent_is_stored(far: MysqlFarSide, rows: list[tuple[Any, ...]]) -> None:
    table = TableName.parse(far.name("t"))
    far.run(f"CREATE TABLE IF NOT EXISTS {far.name('t')} (a longtext, b longtext, c longblob)")
    with hook_for(CONN_ID).open(Deadline(60)) as session:
        session.begin()
        with session.copy(table, ["a", "b", "c"]) as copier:
            copier.write(rows)
        assert copier.rows == len(rows)
        assert session.run(f"SELECT a, b, c FROM {session.sql(table)}") == rows
        session.rollback()


def test_a_file_that_is_copied_is_read_as_the_parser_reads_it(far: MysqlFarSide) -> None:
    """Random files of the characters that matter: the same rows, or left to the parser."""
    far.run(f"CREATE TABLE {far.name('t')} (a longtext, b longtext)")
    alphabet = [
        '"',
        '""',
        ",",
        "\n",
        "x",
        "y z",
        "\\",
        "\\N",
        "NULL",
        "\r\n",
        "é",
        "",
        '"x"',
        '"a,""b"',
        '"",',
        "1,2\n",
    ]
    check_copies(far, alphabet, files=500, longest=12)


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("varchar(3)", "abcd", "1265"),
        ("tinyint", "300", "1264"),
        ("integer", "x1", "1366"),
        ("integer", "1x", "1265"),
        ("date", "2026-02-30", "1265"),
        ("date", "0000-00-00", "1264"),
        ("enum('a','b')", "c", "1265"),
        ("integer NOT NULL", "", "1263"),
        ("integer CHECK (v > 5)", "1", "4025"),
        ("decimal(4,1)", "12345.6", "1264"),
        ("json", "{", "4025"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_warning_is_an_error(far: MysqlFarSide, kind: str, value: str, code: str, name: str) -> None:
    """LOAD DATA LOCAL would cut, change or skip each of these and say OK."""
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, v {kind})")
    sources = {"a.csv": far.write("a.csv", f"id,v\n2,{value}\n"), "a.jsonl": far.jsonl([{"id": 2, "v": value or None}])}
    with pytest.raises(Rejected) as caught:
        load_rows(far, sources[name])
    assert caught.value.code == code
    assert far.rows() == []


def test_a_parent_that_is_missing_and_a_duplicate_are_errors(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('parents')} (id integer PRIMARY KEY)")
    far.run(
        f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, p integer REFERENCES {far.name('parents')} (id))"
    )
    for text, code in (("1,7\n", "1452"), ("1,\n1,\n", "1062")):
        with pytest.raises(Rejected) as caught:
            load_rows(far, far.write("a.csv", f"id,p\n{text}"))
        assert caught.value.code == code
    assert far.rows() == []


def test_no_value_of_a_copied_file_is_told(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
    with pytest.raises(Rejected, match=r"1366.*near row 2") as caught:
        load_rows(far, far.write("a.csv", f"id,note\n1,x\n{CANARY},y\n"))
    assert CANARY not in repr(caught.value.to_event())


def test_a_copied_file_has_the_rows_that_its_dataset_says(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
    path = far.write("a.csv", "id,note\n1,a\n2,b\n")
    with pytest.raises(IntegrityError):
        load_rows(far, {"path": path, "format": "csv", "rows": 3})
    assert far.rows() == []


def test_the_types_of_parquet_and_back(far: MysqlFarSide) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = {
        "id": 2**62,
        "amount": Decimal("12345678901234567.89"),
        "ratio": 0.1,
        "day": date(2026, 1, 2),
        "at": when,
        "stamp": when,
        "took": timedelta(days=2, seconds=3, microseconds=4),
        "raw": b"\x00\xff\\\n",
        "tags": ["a", 'b"\\', None],
        "flag": False,
        "bits": 5,
    }
    path = far.folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, dict.fromkeys(row)]), path)
    far.run(
        f"CREATE TABLE {far.name('typed')} (id bigint, amount decimal(30,2), ratio double, day date, at datetime(6),"
        " stamp timestamp(6) NULL, took time(6), raw longblob, tags json, flag tinyint(1), bits bit(9))"
    )
    load_rows(far, str(path), "typed")
    export(far, "back.parquet", table="typed", context={"run_id": "back"})
    first, second = read(far, "back.parquet")
    naive = when.replace(tzinfo=None)
    tags = json.dumps(row["tags"])
    assert first == [
        2**62, row["amount"], 0.1, row["day"], naive, when, "48:00:03.000004", row["raw"], tags, 0, 5,
    ]  # fmt: skip
    assert set(second) == {None}
    load_rows(far, str(path), "made", create_table=True, context={"run_id": "2"})
    assert far.run(f"SELECT id, amount, raw FROM {far.name('made')} WHERE id IS NOT NULL") == [
        (2**62, row["amount"], row["raw"])
    ]


def test_a_date_of_zeros_is_told(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (d date)")
    far.run(f"INSERT INTO {far.name('orders')} VALUES ('0000-00-00')")
    with pytest.raises(Rejected, match="NULLIF"):
        export(far)
    query = f"SELECT NULLIF(d, 0) AS d FROM {far.name('orders')}"
    assert export(far, sql=query)["rows"] == 1


def test_an_upsert_matches_the_keys_and_no_other_index(far: MysqlFarSide) -> None:
    """ON DUPLICATE KEY UPDATE would overwrite row 1, which shares another unique value."""
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, code varchar(9) UNIQUE)")
    far.run(f"INSERT INTO {far.name('orders')} VALUES (1, 'a'), (2, 'b')")
    with pytest.raises(Rejected) as caught:
        load_rows(far, far.jsonl([{"id": 3, "code": "a"}]), mode="upsert", keys=["id"])
    assert caught.value.code == "1062"
    assert far.rows() == [(1, "a"), (2, "b")]


def test_a_table_without_transactions_is_refused(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer) ENGINE=MyISAM")
    with pytest.raises(ConfigError, match="MyISAM"):
        load_rows(far, far.jsonl([{"id": 1}]))
    far.run(f"CREATE VIEW {far.name('v')} AS SELECT 1 AS id")
    with pytest.raises(ConfigError, match="is not a table"):
        load_rows(far, far.jsonl([{"id": 1}]), "v")


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("CREATE TRIGGER t BEFORE INSERT ON {t} FOR EACH ROW SET NEW.id = NEW.id", "triggers"),
        ("CREATE TABLE {c} (id integer REFERENCES {t} (id))", "foreign keys"),
    ],
)
def test_replace_refuses_what_it_would_lose(far: MysqlFarSide, statement: str, lost: str) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY)")
    with far.database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(statement.format(t=far.name("orders"), c=far.name("child")))
    with pytest.raises(ConfigError, match=f"(?s){lost}.*truncate"):
        load_rows(far, far.jsonl([{"id": 1}]), mode="replace")
    assert "flowrunner_" not in "".join(far.tables() - {"flowrunner_ledger"})


def test_replace_goes_on_with_the_numbers(far: MysqlFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer AUTO_INCREMENT PRIMARY KEY, n integer) COMMENT 'mine'")
    far.run(f"INSERT INTO {far.name('orders')} VALUES (41, 1)")
    load_rows(far, far.jsonl([{"n": 2}]), mode="replace")
    assert far.rows() == [(42, 2)]
    assert far.tables() == {"orders", "flowrunner_ledger"}


# -- statements ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (id integer)", "TRUNCATE {t}", "ALTER TABLE {t} ADD x int", "/*! COMMIT */", "/*M! COMMIT */",
        "/*!50000 DROP TABLE {t} */", "LOCK TABLES {t} WRITE", "SET autocommit = 1", "# x\nDROP TABLE {t}",
        "--\nCOMMIT", "RENAME TABLE {t} TO x", "GRANT ALL ON *.* TO x", "XA START 'x'", "FLUSH TABLES",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE {t}", "EXECUTE IMMEDIATE 'COMMIT'",
    ],
)  # fmt: skip
def test_what_would_commit_is_refused_first(far: MysqlFarSide, sql: str) -> None:
    far.run(f"CREATE TABLE {far.name('stock')} (id integer PRIMARY KEY, n integer)")
    far.run(f"INSERT INTO {far.name('stock')} VALUES (1, 10)")
    with pytest.raises(FlowRunnerError):
        transact(far, {"sql": "UPDATE {t} SET n = 0"}, {"sql": sql})
    assert far.rows("stock") == [(1, 10)]


# -- connections ---------------------------------------------------------------------------------------------


def opened(far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps({**json.loads(far.connection), **fields}))
    with hook_for(CONN_ID).open(Deadline(10)) as session:
        return str(session.run("SHOW STATUS LIKE 'Ssl_cipher'")[0][1])


def test_tls(far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch, tls: Tls, tmp_path: Any) -> None:
    other = Tls.create(tmp_path)
    ca = {"ca": str(tls.ca_file)}
    assert opened(far, monkeypatch, extra={"ssl": ca})
    assert opened(far, monkeypatch, extra={"ssl": json.dumps(ca), "ssl_mode": "VERIFY_CA"}, host="127.0.0.1")
    assert opened(far, monkeypatch, extra={"ssl_mode": "required"})
    assert not opened(far, monkeypatch, extra={"ssl_mode": "DISABLED"})
    with pytest.raises(AccessDenied, match="certificate"):
        opened(far, monkeypatch, extra={"ssl": {"ca": str(other.ca_file)}})
    with pytest.raises(ConfigError, match="cannot be used"):
        opened(far, monkeypatch, extra={"ssl": {"ca": "/nowhere"}})


GREETING = (
    b"\x0a8.0.0\0\x01\0\0\0abcdefgh\0"
    + (0xF7FF & ~0x0800).to_bytes(2, "little")
    + b"\x21\x02\0"
    + (0x00FF | 0x0008).to_bytes(2, "little")
    + b"\x15"
    + b"\0" * 10
    + b"ijklmnopqrst\0mysql_native_password\0"
)


class Rogue:
    """A server that offers no TLS, and then says what it was told to say; it keeps what it hears."""

    def __init__(self, *answers: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.heard: list[bytes] = []
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        peer, _ = self.socket.accept()
        with peer:
            peer.settimeout(5)
            peer.sendall(len(GREETING).to_bytes(3, "little") + b"\0" + GREETING)
            for answer in self._answers:
                try:
                    heard = peer.recv(65536)
                except OSError:
                    return
                if not heard:
                    return
                self.heard.append(heard)
                peer.sendall(len(answer).to_bytes(3, "little") + bytes([heard[3] + 1]) + answer)
            try:
                self.heard.append(peer.recv(65536))
            except OSError:
                return

    def close(self) -> bytes:
        self.socket.close()
        self._thread.join(6)
        return b"".join(self.heard)


OK = b"\x00\x00\x00\x02\x00\x00\x00"


@pytest.mark.parametrize(
    ("extra", "answers", "error"),
    [
        ({"ssl_mode": "REQUIRED"}, [], AccessDenied),
        ({"ssl_mode": "VERIFY_IDENTITY"}, [], AccessDenied),
        ({}, [b"\xfemysql_clear_password\0"], AccessDenied),
        ({}, [OK, OK, b"\xfb/etc/passwd"], SecurityError),
        ({}, [OK, b"\xfb/etc/passwd"], FlowRunnerError),
    ],
)
def test_a_rogue_server_gets_nothing(
    far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch, extra: Any, answers: list[bytes], error: Any
) -> None:
    """No login without the TLS that was asked for, no password in the clear, no file of the worker."""
    rogue = Rogue(*answers)
    with pytest.raises(error):
        opened(far, monkeypatch, port=rogue.port, password="canary-pw", extra=extra)
    heard = rogue.close()
    assert b"canary-pw" not in heard
    assert b"root:" not in heard
    if extra:
        assert heard == b""


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"password": "wrong-canary"}, AccessDenied, "refused the login"),
        ({"schema": "nope"}, NotFound, "no such database"),
        ({"extra": {"init_command": "DROP TABLE x"}}, ConfigError, "'init_command' is not allowed"),
        ({"extra": {"read_default_file": "/etc/my.cnf"}}, ConfigError, "'read_default_file' is not"),
        ({"extra": {"client_flag": 65536}}, ConfigError, "'client_flag' is not"),
        ({"extra": {"ssl": {"engine": "x"}}}, ConfigError, "'ssl.engine' is not"),
        ({"extra": {"ssl": "x"}}, ConfigError, "'ssl' must be an object"),
        ({"extra": {"ssl_mode": "MAYBE"}}, ConfigError, "ssl_mode"),
        ({"extra": {"flowrunner": {"cleartext": True}}}, ConfigError, "cleartext"),
        ({"extra": {"unix_socket": 7}}, ConfigError, "must be a string"),
    ],
)
def test_bad_connections(
    far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch, fields: Any, error: type[FlowRunnerError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        opened(far, monkeypatch, **fields)
    assert "canary" not in str(caught.value)


def test_official_extras_change_nothing(far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"charset": "latin1", "cursor": "dictcursor", "client": "mysqlclient", "local_infile": True, "iam": False}
    opened(far, monkeypatch, extra=extra)
    far.run(f"CREATE TABLE {far.name('orders')} (note text CHARACTER SET latin1)")
    load_rows(replace(far, extra=extra), far.jsonl([{"note": "é"}]))
    assert far.rows(order="note") == [("é",)]
    with pytest.raises(Rejected):
        load_rows(far, far.jsonl([{"note": "🙂"}]), context={"run_id": "2"})


def test_the_right_to_create_is_missing(far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch) -> None:
    user = f"reader_{far.database.name}"
    far.run(f"CREATE TABLE {far.name('orders')} (id integer)")
    far.run(f"CREATE USER {user}@'%' IDENTIFIED BY 'reader'")
    far.run(f"GRANT SELECT, INSERT ON {far.database.name}.* TO {user}@'%'")
    opened(far, monkeypatch, login=user, password="reader")
    with pytest.raises(AccessDenied, match="flowrunner_ledger"):
        load_rows(far, far.jsonl([{"id": 1}]))
    assert "may not" in hook_for(CONN_ID).test_connection()[1]
