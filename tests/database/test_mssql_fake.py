"""Drivers of others accept the fake SQL Server: what tests see on it is not only our own reading of the protocol."""

# ruff: noqa: DTZ001 - most types of the server have no zone
from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.tds_fake import PASSWORD, USER, TdsFake, tds_fake


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TdsFake]:
    with tds_fake(tmp_path / "server.db") as found:
        yield found


def pymssql(server: TdsFake, password: str) -> Any:
    module = pytest.importorskip("pymssql")
    return module.connect(
        "127.0.0.1", user=USER, password=password, port=str(server.port), login_timeout=10, autocommit=True
    )


def python_tds(server: TdsFake, password: str) -> Any:
    module = pytest.importorskip("pytds")
    return module.connect("127.0.0.1", port=server.port, user=USER, password=password, autocommit=True)


def freetds(server: TdsFake, password: str) -> Any:
    module = pytest.importorskip("pyodbc")
    if "FreeTDS" not in module.drivers():
        pytest.skip("the ODBC driver FreeTDS is not installed (Debian: tdsodbc)")
    address = f"DRIVER=FreeTDS;SERVER=127.0.0.1;PORT={server.port};UID={USER};PWD={password};TDS_Version=7.4"
    return module.connect(address, timeout=10, autocommit=True)


def microsoft(server: TdsFake, password: str) -> Any:
    module = pytest.importorskip("mssql_python")
    address = f"Server=127.0.0.1,{server.port};UID={USER};PWD={password};Encrypt=no"
    return module.connect(address, autocommit=True)


DRIVERS = [(pymssql, "%s"), (python_tds, "%s"), (freetds, "?"), (microsoft, "?")]
Connect = Callable[[TdsFake, str], Any]


@pytest.mark.parametrize(("connect", "mark"), DRIVERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_driver_of_others(server: TdsFake, connect: Connect, mark: str) -> None:
    with pytest.raises(Exception, match=r"(?i)login"):
        connect(server, "wrong")
    connection = connect(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE [t] ([id] INT PRIMARY KEY, [v] NVARCHAR(50), [big] NVARCHAR(MAX))")
    row = (1, "héllo ✓🙂", "x" * (900 if connect is freetds else 9000))  # FreeTDS cuts longer ones by its own TEXTSIZE
    cursor.execute(f"INSERT INTO t (id, v, big) VALUES ({mark}, {mark}, {mark})", row)
    cursor.execute(f"SELECT TOP 5 id, v, big, NULL AS missing FROM t WHERE id = {mark}", (1,))
    assert [tuple(found) for found in cursor.fetchall()] == [(*row, None)]
    with pytest.raises(Exception, match=r"2627|(?i:unique|constraint)"):
        cursor.execute(f"INSERT INTO t (id, v) VALUES ({mark}, {mark})", (1, "twice"))
    server.planned.append(1205)
    with pytest.raises(Exception, match=r"1205|(?i:deadlock|planned|serialization)"):
        connection.cursor().execute("SELECT 1 AS a")
    connection.close()


def test_bulk_rows_of_python_tds(server: TdsFake) -> None:
    """The same rows by its writer and by ours are stored alike (ours: test_mssql_dialect)."""
    connection = python_tds(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE dbo.plain (a nvarchar(4000), b nvarchar(4000))")
    cursor.copy_to(table_or_view="plain", schema="dbo", columns=["a", "b"], data=[("é", None), ("", "x")])
    cursor.execute("SELECT a, b FROM dbo.plain")
    assert cursor.fetchall() == [("é", None), ("", "x")]
    connection.close()


# -- what the reference says is an error is one here -------------------------------------------------------------

REFUSED = [
    ("SELECT a FROM dbo.t LIMIT 1", 102), ("CREATE TABLE IF NOT EXISTS dbo.u (a int)", 102),
    ("SELECT a || b FROM dbo.t", 102),
    ("INSERT INTO dbo.t (a) VALUES (1) ON CONFLICT (a) DO NOTHING", 102), ("DELETE FROM dbo.t RETURNING a", 102),
    ("UPDATE dbo.t AS x SET a = 1", 102), ("DELETE FROM dbo.t AS x WHERE a = 1", 102), ("SELECT TRUE AS a", 102),
    ("ALTER TABLE dbo.t ADD COLUMN c int", 102), ("CREATE TABLE dbo.u (a boolean)", 102),
    ("SELECT a FROM (SELECT a FROM dbo.t ORDER BY a) AS q", 1033), ("SELECT 1 AS n FROM (SELECT 1) AS q", 8155),
    ("SELECT a FROM (WITH x AS (SELECT a FROM dbo.t) SELECT a FROM x) AS q", 156),
    ("SELECT a FROM dbo.t OFFSET 1 ROWS FETCH NEXT 1 ROWS ONLY", 102), ("TRUNCATE TABLE [dbo].[parent]", 4712),
    ("DROP TABLE [dbo].[parent]", 3726), ("UPDATE STATISTICS [dbo].[nothing]", 4902), ("FROBNICATE dbo.t", 102),
    ("MERGE dbo.t USING dbo.t AS s ON 1 = 0 WHEN MATCHED THEN DELETE", 10713), ("COMMIT", 3902), ("ROLLBACK", 3903),
    (f"INSERT INTO dbo.t (a) VALUES {', '.join(['(1)'] * 1001)}", 10738),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_the_server_refuses(server: TdsFake, text: str, number: int) -> None:
    error: Any = pytest.importorskip("pytds").Error
    connection = python_tds(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE dbo.t (a int, b nvarchar(9))")
    cursor.execute("CREATE TABLE dbo.parent (id int PRIMARY KEY)")
    cursor.execute("CREATE TABLE dbo.child (id int, FOREIGN KEY (id) REFERENCES parent (id))")
    with pytest.raises(error) as caught:
        cursor.execute(text)
    assert caught.value.number == number
    connection.close()


def test_more_parameters_than_a_call_takes(server: TdsFake) -> None:
    connection = python_tds(server, PASSWORD)
    marks = ", ".join(["%s"] * 2101)
    with pytest.raises(Exception, match="too many parameters"):
        connection.cursor().execute(f"SELECT 1 AS n WHERE 1 IN ({marks})", tuple(range(2101)))
    connection.close()


@pytest.mark.parametrize(("connect", "mark"), DRIVERS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_our_statements_need_serves_others_too(server: TdsFake, connect: Connect, mark: str) -> None:
    """Temporary tables, the catalogue, times, aliases in changes, transactions with places to go back to."""
    connection = connect(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute(
        "CREATE TABLE [dbo].[t] ([id] int NOT NULL PRIMARY KEY, [at] datetime2(6) NULL, [n] int DEFAULT 5 NULL)"
    )
    cursor.execute(f"INSERT INTO dbo.t (id, at) VALUES ({mark}, {mark})", (1, datetime(2026, 1, 2, 3, 4, 5)))
    cursor.execute("SELECT id, at, n FROM dbo.t")
    assert [tuple(row) for row in cursor.fetchall()] == [(1, datetime(2026, 1, 2, 3, 4, 5), 5)]
    cursor.execute(
        "SELECT MAX(CONVERT(datetime2(6), q.[at])) AS latest FROM dbo.t AS q"
        f" WHERE q.[at] >= DATEADD(second, -1, {mark})",
        (datetime(2026, 1, 2, 3, 4, 5),),
    )
    assert [tuple(row) for row in cursor.fetchall()] == [(datetime(2026, 1, 2, 3, 4, 5),)]
    cursor.execute("SELECT TOP (0) IDENTITY(bigint, 1, 1) AS [row], t.[id] INTO [#stage] FROM (SELECT 1 AS one) AS x"
                   " LEFT JOIN [dbo].[t] AS t ON 1 = 0")  # fmt: skip
    cursor.execute("INSERT INTO [#stage] ([id]) VALUES (1)")
    cursor.execute(
        "UPDATE t SET [n] = 6 FROM [dbo].[t] AS t WHERE EXISTS (SELECT 1 FROM [#stage] AS s WHERE s.[id] = t.[id])"
    )
    cursor.execute("BEGIN TRANSACTION")
    cursor.execute("SAVE TRANSACTION [here]")
    cursor.execute("DELETE t FROM [dbo].[t] AS t WHERE t.[id] = 1")
    cursor.execute("ROLLBACK TRANSACTION [here]")
    cursor.execute("SELECT @@TRANCOUNT, CURRENT_TRANSACTION_ID()")
    assert [row[0] for row in cursor.fetchall()] == [1]
    cursor.execute("COMMIT TRANSACTION")
    cursor.execute("SELECT c.name, c.is_nullable, d.definition FROM sys.columns AS c"
                   " LEFT JOIN sys.default_constraints AS d ON d.object_id = c.default_object_id"
                   " WHERE c.object_id = OBJECT_ID(N'[dbo].[t]') ORDER BY c.column_id")  # fmt: skip
    assert [tuple(row) for row in cursor.fetchall()] == [("id", 0, None), ("at", 1, None), ("n", 1, "(5)")]
    cursor.execute("SELECT n FROM dbo.t ORDER BY n OFFSET 0 ROWS FETCH NEXT 1 ROWS ONLY")
    assert [tuple(row) for row in cursor.fetchall()] == [(6,)]
    connection.close()


PROCEDURE = """CREATE PROCEDURE [dbo].[fill] @a int, @b nvarchar(3) OUTPUT AS BEGIN
INSERT INTO dbo.t (a, b) VALUES (@a, @b); SET @b = 'told'; SELECT a, b FROM dbo.t; RETURN 3; END"""
CALLS = [
    ("EXEC dbo.nope", 2812), ("EXEC dbo.fill 1", 201), ("EXEC dbo.fill 1, 'x', 2", 8144),
    ("EXEC dbo.fill @a = 1, @c = 2", 8145), ("DECLARE @x int; EXEC dbo.fill @x OUTPUT, 'x'", 8162),
    ("EXEC dbo.fill 'one', 'x'", 8114), ("SELECT [dbo].[nope](1) AS [result]", 4121),
]  # fmt: skip


@pytest.mark.parametrize(("connect", "mark"), DRIVERS, ids=lambda value: getattr(value, "__name__", ""))
def test_procedures_are_called_by_others(server: TdsFake, connect: Connect, mark: str) -> None:
    connection = connect(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE dbo.t (a int, b nvarchar(9))")
    cursor.execute(PROCEDURE)
    cursor.execute(f"EXEC [dbo].[fill] {mark}, {mark}", (1, "long"))
    while cursor.description is None:
        assert cursor.nextset()
    assert [tuple(row) for row in cursor.fetchall()] == [(1, "lon")]
    connection.close()


def test_what_a_call_returns_or_is_refused_for(server: TdsFake) -> None:
    error: Any = pytest.importorskip("pytds").Error
    connection = python_tds(server, PASSWORD)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE dbo.t (a int, b nvarchar(9))")
    cursor.execute(PROCEDURE)
    for text, number in CALLS:
        with pytest.raises(error) as caught:
            cursor.execute(text)
        assert caught.value.number == number, text
    batch = "DECLARE @s int, @b nvarchar(3) = 'in'; EXEC @s = dbo.fill @b = @b OUTPUT, @a = 7; SELECT @s AS s, @b AS b"
    cursor.execute(batch)
    found = []
    while True:
        if cursor.description is not None:
            found += cursor.fetchall()
        if not cursor.nextset():
            break
    assert found == [(7, "in"), (3, "tol")]
    cursor.execute("SELECT name, TYPE_NAME(system_type_id), max_length, is_output FROM sys.all_parameters"
                   " WHERE object_id = OBJECT_ID(N'dbo.fill') ORDER BY parameter_id")  # fmt: skip
    assert cursor.fetchall() == [("@a", "int", 4, 0), ("@b", "nvarchar", 6, 1)]
    connection.close()
