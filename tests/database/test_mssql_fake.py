"""Drivers of others accept the fake SQL Server: what tests see on it is not only our own reading of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
