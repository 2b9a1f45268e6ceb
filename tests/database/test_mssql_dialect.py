"""What only the SQL Server dialect has: its SQL, TLS, settings, errors, rows in bulk, and what may be one statement."""

# ruff: noqa: DTZ001 - most types of the server have no zone
from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from flowrunner_provider.database.config import MssqlConfig
from flowrunner_provider.database.dialects.model import Conflict
from flowrunner_provider.database.dialects.mssql import MssqlSession
from flowrunner_provider.database.dialects.mssql_errors import classified
from flowrunner_provider.database.dialects.mssql_query import SETTINGS, bound, check_query, check_statement
from flowrunner_provider.database.dialects.mssql_rows import encoded, encoder
from flowrunner_provider.database.dialects.mssql_structure import text_literal
from flowrunner_provider.database.dialects.mssql_swap import _LOST, _OF_COLUMNS
from flowrunner_provider.database.dialects.mssql_tables import Described
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.operators import (
    SqlCreateTableOperator,
    SqlLoadOperator,
    SqlMaintainOperator,
    SqlMigrateOperator,
    SqlReconcileOperator,
    SqlSchemaCheckOperator,
    SqlSyncOperator,
)
from tests.contracts.dialect_contract import CANARY
from tests.database.far_side import CONN_ID, act, load_rows
from tests.database.mssql_far_side import FakeFarSide
from tests.database.payloads import PAYLOADS
from tests.support.context import execute, make_context
from tests.support.tds_fake import PASSWORD, USER, TdsFake, tds_fake
from tests.support.tds_values import Reader
from tests.support.tls import Tls


@pytest.fixture
def far(fake: FakeFarSide) -> FakeFarSide:
    fake.run("CREATE TABLE dbo.orders (id integer PRIMARY KEY, note text, amount integer)")
    return fake


# -- the SQL ---------------------------------------------------------------------------------------------------

UNKNOWN_TO_THE_PARSER = (
    *SETTINGS, "SAVE TRANSACTION", "INSERT BULK", "SET TRANSACTION", "ROLLBACK TRANSACTION [", "UPDATE STATISTICS [",
    "ALTER INDEX ALL ON [", "EXEC sp_rename @P1, @P2, @P3",
)  # fmt: skip
"""What sqlglot has no grammar for; written as the vendor's reference says."""


def test_every_statement_is_one(far: FakeFarSide, server: TdsFake, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts of all kinds of work, with a name that tries to be SQL, parse as a single statement."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", far.connection)
    name = 'odd]; DROP TABLE "x" --'
    quoted = 'dbo."' + name.replace('"', '""') + '"'
    runs = (f"r{number}" for number in range(99))
    loads: list[dict[str, Any]] = [
        {"mode": "append"}, {"mode": "truncate"}, {"mode": "replace", "create_table": True},
        {"mode": "upsert", "keys": ["id"], "keep": "last", "table": "dbo.keyed"},
    ]  # fmt: skip
    source = far.jsonl([{"id": 1, name: "a"}, {"id": 2, name: "b"}])
    for more in loads:
        given = {"table": quoted, "create_table": True, "source": source, **more}
        act(far, SqlLoadOperator, **given, context={"run_id": next(runs)})
    columns = {
        "id": "integer",
        name: {"type": "string", "default": "it's"},
        "at": {"type": "timestamp", "default": "now"},
    }
    index = [{"columns": [name], "name": name}]
    for if_exists in ("replace", "skip"):
        given = {"columns": columns, "keys": ["id"], "indexes": index, "if_exists": if_exists, "table": quoted}
        act(far, SqlCreateTableOperator, **given, context={"run_id": next(runs)})
    act(far, SqlSchemaCheckOperator, tables=[quoted], snapshot=str(far.folder / "s.json"))
    far.run("CREATE TABLE dbo.shop (id bigint NOT NULL PRIMARY KEY, at datetime2)")
    far.run("CREATE TABLE dbo.target (id bigint NOT NULL PRIMARY KEY, at datetime2, gone bit)")
    far.run("INSERT INTO dbo.shop VALUES (1, '2026-01-01 10:00:00')")
    merge = {"mode": "merge", "keys": ["id"], "detect_deletes": True, "soft_delete_column": "gone"}
    grown = {**merge, "mode": "incremental", "watermark": "at", "lookback": "1s"}
    for more in ({"replace_by": "swap"}, {"replace_by": "delete"}, merge, grown, grown):
        given = {"source_conn_id": "shop", "source_table": "dbo.shop", "table": "dbo.target", **more}
        act(far, SqlSyncOperator, **given, context={"run_id": next(runs)})
    for compare in ({}, {"compare": "sums", "columns": ["id"]}, {"compare": "rows", "keys": ["id", name]}):
        sides = {"left_conn_id": "shop", "right_conn_id": "shop", "left_table": quoted, "right_table": quoted}
        operator = SqlReconcileOperator(task_id="compare", **sides, **compare, allow_empty=True)
        execute(operator, make_context(operator, state=far.state))
    for operation in ("analyze", "vacuum", "reindex", "truncate", "drop"):
        guard = {"confirm": [quoted]} if operation in ("truncate", "drop") else {}
        given = {"operation": operation, "tables": [quoted], **guard, "context": {"run_id": next(runs)}}
        act(far, SqlMaintainOperator, **given)
    check_texts(server.texts)


def check_texts(texts: list[str]) -> None:
    """Each is one statement, and none drops what the odd name speaks of."""
    kinds = set()
    for text in dict.fromkeys(texts):
        if text.startswith(UNKNOWN_TO_THE_PARSER):
            continue
        trees = sqlglot.parse(text, read="tsql")
        assert len(trees) == 1, text
        kinds.add(type(trees[0]).__name__)
        dropped = [table.name for drop in trees[0].find_all(exp.Drop) for table in drop.find_all(exp.Table)]
        assert "x" not in dropped
    assert kinds <= {
        "Select", "Insert", "Update", "Delete", "Create", "Drop", "Transaction", "Commit", "Set", "Union", "Alter",
        "TruncateTable", "Rollback",
    }  # fmt: skip
    assert {"Select", "Insert", "Update", "Delete", "Create", "Drop", "TruncateTable"} <= kinds


@pytest.mark.parametrize("payload", PAYLOADS[::3])
def test_a_name_is_quoted_as_sqlalchemy_does(payload: str) -> None:
    from sqlalchemy.dialects import mssql

    with suppress(ConfigError):
        assert Identifier(payload).quoted(MssqlSession.quoting) == mssql.dialect().identifier_preparer.quote_identifier(
            payload
        )


@pytest.mark.parametrize("payload", PAYLOADS[::3])
def test_a_name_is_one_name_or_refused(payload: str) -> None:
    try:
        quoted = TableName.of(payload, "dbo").quoted(MssqlSession.quoting)
    except ConfigError:
        return
    (tree,) = sqlglot.parse(f"SELECT * FROM {quoted}", read="tsql")
    (table,) = tree.find_all(sqlglot.exp.Table)
    assert (table.db, table.name) == ("dbo", payload)


def test_a_backslash_at_the_end_of_a_line_stays() -> None:
    """The server would take both away."""
    assert text_literal("it's") == "N'it''s'"
    assert text_literal("a\\\nb\\\r\nc\\d") == "(N'a\\' + N'\nb\\' + N'\r\nc\\d')"


def test_a_time_is_compared_in_the_digits_that_python_keeps() -> None:
    """``datetime2`` has 100 ns and ``datetime`` a 300th of a second: the latest row would be left out."""
    made = MssqlSession.__new__(MssqlSession)
    marks = iter(("@P1", "@P2", "@P3", "@P4"))

    def bounded(kind: str, sign: str) -> str:
        return made.bounded(kind, "q.[at]", sign, lambda: next(marks))

    assert made.exact("timestamp", "q.[at]") == "CONVERT(datetime2(6), q.[at])"
    assert bounded("timestamp", "<=") == (
        "(q.[at] <= DATEADD(second, 1, @P1) AND CONVERT(datetime2(6), q.[at]) <= @P2)"
    )
    assert bounded("timestamptz", ">") == (
        "(q.[at] >= DATEADD(second, -1, @P3) AND CONVERT(datetimeoffset(6), q.[at]) > @P4)"
    )
    assert (made.exact("integer", "n"), made.summed("integer", "n")) == ("n", "sum(CAST(n AS decimal(38, 0)))")
    assert made.sort_key("string", "n") == "CONVERT(nvarchar(max), n) COLLATE Latin1_General_100_BIN2"


def test_what_a_replacement_would_lose_is_asked_in_one_statement() -> None:
    for query in (_LOST, _OF_COLUMNS):
        assert len(sqlglot.parse(query.replace("\x001\0", "@P1"), read="tsql")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1", "WITH x AS (SELECT 2 AS id) UPDATE t SET n = 0 WHERE id IN (SELECT id FROM x)",
        "INSERT INTO t SELECT 1 UNION ALL SELECT 2", "UPDATE t SET a = 'DELETE; COMMIT' WHERE [commit] = 1;",
        "MERGE t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (a) VALUES (1)"
        " WHEN NOT MATCHED BY SOURCE THEN DELETE;",
        "EXEC dbo.fill @day = '2024-01-01'", "DELETE FROM t -- COMMIT\nWHERE id = 1", "TRUNCATE TABLE t",
        "SELECT a FROM t ORDER BY a OFFSET @n ROWS FETCH NEXT 5 ROWS ONLY", "INSERT INTO t EXEC dbo.rows",
        "SELECT CASE WHEN a = 1 THEN 'x' ELSE N'''' END FROM \"t\"",
    ],
)  # fmt: skip
def test_statements_that_are_one(text: str) -> None:
    check_statement(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 DELETE FROM t", "SELECT 1; DELETE FROM t", "UPDATE t SET a = 1 DELETE FROM t", "SELECT 1 COMMIT",
        "SELECT 1) ; DELETE FROM t --", "DELETE FROM t ROLLBACK", "SELECT 'a' 'b", "SELECT 1 /* /* */ */ COMMIT",
        "SELECT 1 --\rCOMMIT", "SELECT [a", 'SELECT "a', "EXEC p EXEC q", "UPDATE t SET a = 1 SET NOCOUNT ON",
        "SELECT 1 SET NOCOUNT ON", "INSERT INTO t VALUES (1) SELECT 1 SELECT 2", "BEGIN TRAN", "IF 1 = 1 SELECT 1",
        "DECLARE @a int", "SELECT (1", "", ";", "USE master", "SELECT 1 WAITFOR DELAY '1'", "SELECT 1 SELECT 2",
        "SELECT a FROM t ORDER BY a OFFSET 1 ROWS FETCH NEXT FROM c", "FETCH NEXT FROM c",
        "SELECT 1\u2028DELETE FROM t", "SELECT 1 -- a\u2028DELETE FROM t", "BULK INSERT t FROM 'x'",
    ],
)  # fmt: skip
def test_statements_that_may_be_two(text: str) -> None:
    with pytest.raises(FlowRunnerError):
        check_statement(text)


@pytest.mark.parametrize(
    "text",
    ["SELECT 1 INTO t", "SELECT 1 AS a INTO #t", "EXEC p", "DELETE FROM t", "WITH x AS (SELECT 1 AS a) DELETE FROM x",
     "SELECT * FROM OPENROWSET(BULK 'x', SINGLE_CLOB) AS q", "SELECT (SELECT 1) DROP TABLE t"],
)  # fmt: skip
def test_queries_that_may_write(text: str) -> None:
    with pytest.raises(FlowRunnerError):
        check_query(text)
    check_query("SELECT a FROM [insert] WHERE b = 'INTO' ORDER BY a;")


@given(st.text("SELCT1 '\"[]-/*;()\n\r\u2028@#DROP", max_size=30))
def test_no_text_crashes_the_guard(text: str) -> None:
    with suppress(FlowRunnerError):
        check_statement(f"SELECT {text}")


def test_more_parameters_than_the_server_takes() -> None:
    assert len(bound(", ".join(["%s"] * 2098), [1] * 2098)[1]) == 2098
    assert len(bound(", ".join(["%s"] * 9999), [None] * 9999)[1]) == 0
    with pytest.raises(Rejected, match="2099 parameters"):
        bound(", ".join(["%s"] * 2099), [1] * 2099)


def test_parameters_become_those_of_the_server() -> None:
    assert bound("a = %s AND b = %s AND c LIKE '%%'", [1, None]) == ("a = @P1 AND b = NULL AND c LIKE '%'", {"@P1": 1})
    assert bound("%(x)s %(x)s %(y)s", {"x": 1, "y": {"k": 2}}) == ("@P1 @P1 @P2", {"@P1": 1, "@P2": '{"k": 2}'})
    assert bound("a LIKE '%'", None) == ("a LIKE '%'", {})
    for text, params in (("%s", []), ("%s", [1, 2]), ("%d", [1]), ("%(x)s", {"y": 1}), ("%s", {"x": 1}), ("%", [])):
        with pytest.raises(Rejected):
            bound(text, params)


# -- rows in bulk ----------------------------------------------------------------------------------------------


def column(kind: str, size: int = 8, precision: int = 0, scale: int = 0, code_page: int | None = None) -> Described:
    return Described(
        name="c", kind=kind, size=size, precision=precision, scale=scale, identity=False, computed=False,
        code_page=code_page,
    )  # fmt: skip


def back(one: Described, value: Any) -> Any:
    """Written by ours, read by the reader of the fake."""
    made = encoder(one)
    data = encoded([(value,)], [made])
    reader = Reader(made.info + (bytes(5) if made.text else b"") + data)
    read = reader.type()
    assert reader.take(1) == b"\xd1"
    found = read()
    assert reader.take(1) == b"\xfd"
    return found


ZONED = "2024-02-29T23:59:59.123456-03:30"
MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456)


@pytest.mark.parametrize(
    ("one", "value", "wanted"),
    [
        (column("bigint"), -(2**63), -(2**63)), (column("tinyint"), "255", 255), (column("int"), Decimal("7.0"), 7),
        (column("bit"), "TRUE", True), (column("bit"), 0, False), (column("float"), "1e308", 1e308),
        (column("real"), 1.5, 1.5), (column("decimal", precision=38, scale=18), "-1.000000000000000001",
         Decimal("-1.000000000000000001")), (column("decimal", precision=5, scale=2), 1.005, Decimal("1.01")),
        (column("money"), "-922337203685477.5808", Decimal("-922337203685477.5808")),
        (column("smallmoney"), 1, Decimal(1)), (column("date"), "0001-01-01", date(1, 1, 1)),
        (column("date"), "9999-12-31", date(9999, 12, 31)), (column("time", scale=7), "23:59:59.999999",
         time(23, 59, 59, 999999)), (column("datetime2", scale=6), MOMENT, MOMENT),
        (column("datetime2", scale=0), MOMENT, MOMENT.replace(microsecond=0)),
        (column("datetimeoffset", scale=7), ZONED, datetime.fromisoformat(ZONED)),
        (column("datetime"), "1899-12-31T12:00", datetime(1899, 12, 31, 12)),
        (column("smalldatetime"), "2024-01-01T23:59:31", datetime(2024, 1, 2)),
        (column("uniqueidentifier"), "6F9619FF-8B86-D011-B42D-00C04FC964FF",
         UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF")),
        (column("nvarchar", size=-1), "é🙂" * 5000, "é🙂" * 5000), (column("nvarchar", size=4), "🙂", "🙂"),
        (column("nvarchar", size=-1), "", ""), (column("varchar", size=3, code_page=1252), "äöü", "äöü"),
        (column("nvarchar", size=-1), {"k": [1]}, '{"k": [1]}'), (column("varbinary", size=-1), b"\0\xff", b"\0\xff"),
        (column("varbinary", size=2), "0x00ff", b"\0\xff"),
    ],
)  # fmt: skip
def test_values_arrive(one: Described, value: Any, wanted: Any) -> None:
    assert back(one, value) == wanted
    assert back(one, None) is None


@pytest.mark.parametrize(
    ("one", "value"),
    [
        (column("bigint"), 2**63), (column("tinyint"), -1), (column("int"), "1.5"), (column("int"), "１"),
        (column("int"), ""), (column("bit"), "2"), (column("float"), "nan"), (column("real"), 1e300),
        (column("decimal", precision=5, scale=2), "1000"), (column("decimal", precision=5, scale=2), "1e999999"),
        (column("money"), 10**15), (column("date"), "2024-02-30"), (column("datetime"), "0001-01-01"),
        (column("datetimeoffset"), "0001-01-01T00:00+14:00"), (column("datetimeoffset"), "2024-01-01T00:00+14:01"),
        (column("uniqueidentifier"), "x"),
        (column("nvarchar", size=2), "🙂"), (column("varchar", size=9, code_page=1252), "Ж"),
        (column("varchar", size=3, code_page=65001), "🙂"), (column("varbinary", size=1), b"ab"),
        (column("varbinary", size=-1), "text"), (column("nvarchar", size=-1), "\ud800"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(one: Described, value: Any) -> None:
    with pytest.raises(Rejected) as caught:
        back(one, value)
    assert caught.value.code in MssqlSession.row_errors
    if len(str(value)) > 3:
        assert str(value) not in str(caught.value.message)


@given(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_arrives(text: str | None) -> None:
    assert back(column("nvarchar", size=-1), text) == text


def test_a_type_that_cannot_be_loaded() -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        encoder(column(""))


# -- connections -----------------------------------------------------------------------------------------------


def session(server: TdsFake, **options: Any) -> MssqlSession:
    given = {"host": "127.0.0.1", "port": server.port, "login": USER, "password": PASSWORD, **options}
    return MssqlSession(MssqlConfig(**given), Deadline(20))


@pytest.mark.parametrize("case", ["unknown authority", "wrong name", "no TLS"])
def test_no_login_leaves_without_verified_tls(case: str, tmp_path: Path, tls: Tls) -> None:
    context = None if case == "no TLS" else tls.server_context()
    options: dict[str, Any] = {} if case == "unknown authority" else {"ca_file": str(tls.ca_file)}
    if case == "wrong name":
        options["host_name_in_certificate"] = "wrong.test"
    with tds_fake(tmp_path / "server.db", context) as server:
        with pytest.raises(AccessDenied, match="no login was sent"):
            session(server, **options)
        assert server.logins == []


def test_trust_and_plain_text_only_by_an_explicit_option(server: TdsFake, tmp_path: Path) -> None:
    with session(server, trust_server_certificate=True) as made:
        assert made.run("SELECT 1 AS a") == [(1,)]
    with tds_fake(tmp_path / "plain.db") as plain, session(plain, encrypt=False) as made:
        assert made.run("SELECT 1 AS a") == [(1,)]


@pytest.mark.parametrize("options", [{"password": "wrong"}, {"schema": "other"}])
def test_a_login_that_is_refused(server: TdsFake, tls: Tls, options: dict[str, str]) -> None:
    with pytest.raises(AccessDenied) as caught:
        session(server, ca_file=str(tls.ca_file), **options)
    assert "wrong" not in str(caught.value)


def values(extra: Any = None, **fields: Any) -> MssqlConfig:
    os.environ["AIRFLOW_CONN_PROBE"] = json.dumps({"conn_type": "mssql", "host": "db.test", "extra": extra, **fields})
    try:
        found = hook_for("probe").config
    finally:
        del os.environ["AIRFLOW_CONN_PROBE"]
    assert isinstance(found, MssqlConfig)
    return found


def test_a_port_that_is_not_set_is_the_usual_one() -> None:
    assert values().port == 1433
    found = values({"login_timeout": 3, "Encrypt": "yes", "TrustServerCertificate": "no", "charset": "UTF-8"})
    assert (found.connect_timeout.total_seconds(), found.encrypt, found.trust_server_certificate) == (3, True, False)
    assert values({"encryption": "off"}).encrypt is False


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"conn_properties": "EXEC evil"}, "conn_properties"), ({"Driver": "/tmp/evil.so"}, "Driver"),
        ({"init_command": "x"}, "init_command"), ({"encrypt": "maybe"}, "encrypt"), ({"timeout": "1"}, "timeout"),
        ({"appname": "a\0b"}, "appname"), ({"flowrunner": {"nope": 1}}, "nope"), ({"failover_partner": "x"},
         "failover_partner"), ({"flowrunner": {"port": "x"}}, "port"),
    ],
)  # fmt: skip
def test_settings_that_are_not_on_the_list(extra: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(extra)
    assert caught.value.field == field


@pytest.mark.parametrize("host", ["db\\SQLEXPRESS", "db,1433", "db;Encrypt=no"])
def test_a_host_with_more_in_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(host=host)
    assert caught.value.field == "host"


# -- faults ----------------------------------------------------------------------------------------------------


class Once(list[str]):
    """The texts that the server sees; the first that begins so is the victim of a deadlock."""

    def __init__(self, server: TdsFake, start: str) -> None:
        self._server, self._start, self.met = server, start, False

    def append(self, text: str) -> None:
        super().append(text)
        if not self.met and text.startswith(self._start):
            self.met = True
            self._server.planned.append(1205)


def synced(far: FakeFarSide, **more: Any) -> Any:
    """From one table of the server into another, of two rows."""
    tables = {"source_table": "dbo.shop", "table": "dbo.orders", "source_conn_id": CONN_ID}
    return act(far, SqlSyncOperator, **{**tables, **more})


WORK: dict[str, Any] = {
    "load": lambda far: load_rows(far, far.jsonl([{"id": 1, "note": "a"}, {"id": 2, "note": "b"}])),
    "load in place": lambda far: load_rows(
        far, far.jsonl([{"id": 1, "note": "a"}, {"id": 2, "note": "b"}]), mode="replace"
    ),
    "full": synced,
    "delete": lambda far: synced(far, replace_by="delete"),
    "merge": lambda far: synced(far, mode="merge", keys=["id"], detect_deletes=True),
    "incremental": lambda far: synced(far, mode="incremental", keys=["id"], watermark="id"),
}
DEADLOCKS = [
    ("load", "INSERT BULK"), ("load", "COMMIT"), ("load in place", "DROP TABLE [dbo].[orders]"),
    ("full", "EXEC sp_rename"),
    ("delete", "DELETE FROM [dbo].[orders]"), ("merge", "INSERT INTO [dbo].[orders]"), ("merge", "DELETE FROM [#"),
    ("incremental", "UPDATE [dbo].[flowrunner_ledger]"), ("incremental", "COMMIT"),
]  # fmt: skip


@pytest.fixture
def shop(far: FakeFarSide) -> FakeFarSide:
    far.run("CREATE TABLE dbo.shop (id integer PRIMARY KEY, note text, amount integer)")
    far.run("INSERT INTO dbo.shop VALUES (1, 'a', NULL), (2, 'b', NULL)")
    return far


@pytest.mark.parametrize(("work", "start"), DEADLOCKS)
def test_a_deadlock_is_done_again(shop: FakeFarSide, server: TdsFake, work: str, start: str) -> None:
    texts = Once(server, start)
    server.texts = texts
    assert WORK[work](shop)["inserted"] == 2
    assert texts.met
    assert shop.rows() == [(1, "a", None), (2, "b", None)]
    assert shop.tables() == {"orders", "shop", "flowrunner_ledger"}


@pytest.mark.parametrize("work", [name for name in WORK if "load" not in name])
def test_a_sync_whose_commit_has_no_answer_is_looked_up(shop: FakeFarSide, server: TdsFake, work: str) -> None:
    server.silent_at = "COMMIT TRANSACTION"
    assert WORK[work](shop)["inserted"] == 2
    assert server.silent_at is None
    assert shop.rows() == [(1, "a", None), (2, "b", None)]


def test_a_migration_whose_commit_has_no_answer_has_happened_once(far: FakeFarSide, server: TdsFake) -> None:
    folder = far.folder / "migrations"
    folder.mkdir()
    (folder / "V1__a.sql").write_text("INSERT INTO dbo.orders VALUES (1, 'a', 1)\nGO\nCREATE TABLE dbo.b (id int)")
    arguments = {"location": str(folder), "history_table": "dbo.history"}
    server.silent_at = "COMMIT TRANSACTION"
    with pytest.raises(OutcomeUnknown):
        act(far, SqlMigrateOperator, **arguments)
    assert act(far, SqlMigrateOperator, **arguments)["done"] == ["V1__a.sql"]
    (folder / "V2__b.sql").write_text("INSERT INTO dbo.orders VALUES (2, 'b', 2)")
    server.texts = Once(server, "INSERT INTO dbo.orders VALUES (2")
    with pytest.raises(Unavailable, match="deadlock"):
        act(far, SqlMigrateOperator, **arguments, context={"run_id": "2"})
    assert act(far, SqlMigrateOperator, **arguments, context={"run_id": "2"})["done"] == ["V2__b.sql"]
    assert far.rows() == [(1, "a", 1), (2, "b", 2)]


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_commit_without_an_answer_is_looked_up(far: FakeFarSide, server: TdsFake, mode: str) -> None:
    server.silent_at = "COMMIT TRANSACTION"
    assert load_rows(far, far.jsonl([{"id": 1, "note": "a"}]), mode=mode)["inserted"] == 1
    assert far.rows() == [(1, "a", None)]
    assert far.run("SELECT count(*) FROM dbo.flowrunner_ledger") == [(1,)]


def test_a_procedure_that_ends_the_transaction_is_noticed(server: TdsFake, tls: Tls) -> None:
    with session(server, ca_file=str(tls.ca_file)) as made:
        made.begin()
        made.run("ROLLBACK TRANSACTION")
        with pytest.raises(IntegrityError, match="ended the transaction"):
            made.execute("SELECT 1 AS a")
        with pytest.raises(IntegrityError):
            made.commit()


def test_a_lock_timeout_of_months(server: TdsFake, tls: Tls) -> None:
    """The server takes a whole number of 32 bits."""
    config = {"host": "127.0.0.1", "port": server.port, "login": USER, "password": PASSWORD}
    patient = MssqlConfig(**config, ca_file=str(tls.ca_file), lock_timeout=timedelta(days=90))
    with MssqlSession(patient, Deadline(90 * 86400)) as made:
        made.acquire_lock("key")
    assert f"SET LOCK_TIMEOUT {2**31 - 1}" in server.texts


def test_two_attempts_wait_for_each_other(server: TdsFake, tls: Tls) -> None:
    options = {"ca_file": str(tls.ca_file), "lock_timeout": timedelta(milliseconds=200)}
    with session(server, **options) as one, session(server, **options) as other:
        one.acquire_lock("key")
        with pytest.raises(Unavailable, match="still running"):
            other.acquire_lock("key")
        other.acquire_lock("another")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(1205, Conflict), (1222, Conflict), (3960, Conflict), (2627, Rejected), (229, AccessDenied), (3952, ConfigError)]
    + [(number, Unavailable) for number in (976, 4221, 40501, 40549, 40613, 49918, 49919, 49920)],
)
def test_numbers(number: int, kind: type[FlowRunnerError]) -> None:
    assert type(classified(number, "here", broken=False, deadline=Deadline(5))) is kind


def test_neither_errors_nor_logs_tell_values(far: FakeFarSide, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flowrunner_provider")
    rows = [{"id": 1, "note": CANARY}, {"id": 1, "note": CANARY}]
    with pytest.raises(Rejected) as caught:
        load_rows(far, far.jsonl(rows))
    assert CANARY not in str(caught.value) + repr(caught.value.to_event()) + caplog.text
    assert caught.value.__cause__ is None
