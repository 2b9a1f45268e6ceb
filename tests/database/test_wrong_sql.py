"""The remedy for wrong SQL is to correct the SQL, and the message does not repeat the statement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import FlowRunnerError, Rejected
from flowrunner_provider.database.dialects.mssql_errors import classified
from flowrunner_provider.database.hook import hook_for
from tests.contracts.dialect_export import export
from tests.database.far_side import FarSide, MysqlFarSide, SqliteFarSide, connected

MYSQL = [
    ("SELEC 'canary'", "1064"),
    ("SELECT no_such_column, 'canary'", "1054"),
    ("SELECT no_such_function('canary')", "1305"),
    ("SELECT 'canary' WHERE 1 = %(day)s", "1064"),
    ("SELECT SUM(MAX(1)), 'canary'", "1111"),
    ("SELECT a.x, 'canary' FROM (SELECT 1 AS x) AS a, (SELECT 2 AS y) AS a", "1066"),
]
SQLITE = [
    "SELEC 'canary'",
    "SELECT no_such_column, 'canary'",
    "SELECT no_such_function('canary')",
    "SELECT 'canary' WHERE 1 = :day",
    "SELECT 'canary' WHERE 1 = ?",
    "SELECT 'canary' WHERE (1",
    "SELECT x, 'canary' FROM (SELECT 1 AS x) AS a, (SELECT 1 AS x) AS b",
    "SELECT lower('canary', 1, 2)",
]


@pytest.mark.backend
@pytest.mark.parametrize(("sql", "code"), MYSQL)
def test_wrong_sql_of_mysql(
    make_mysql: Callable[[], MysqlFarSide], monkeypatch: pytest.MonkeyPatch, sql: str, code: str
) -> None:
    error = _refused(connected(make_mysql(), monkeypatch), sql)
    assert f"({code})" in error.message


@pytest.mark.parametrize("sql", SQLITE)
def test_wrong_sql_of_sqlite(
    make_sqlite: Callable[[], SqliteFarSide], monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    far = connected(make_sqlite(), monkeypatch)
    far.run("CREATE TABLE orders (id integer)")
    _refused(far, sql)


def _refused(far: FarSide, sql: str) -> FlowRunnerError:
    with pytest.raises(FlowRunnerError) as caught:
        export(far, sql=sql)
    assert isinstance(caught.value, Rejected)
    assert "correct the SQL" in caught.value.remedy
    assert "canary" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("number", [102, 105, 137, 156, 195, 207, 209, 4104, 8120])
def test_wrong_sql_of_sql_server(number: int) -> None:
    error = classified(number, "db.example:1433", broken=False, deadline=Deadline(60))
    assert isinstance(error, Rejected)
    assert "correct the SQL" in error.remedy


def test_a_missing_sqlite_file_names_the_path_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    monkeypatch.setenv("AIRFLOW_CONN_SCRATCH", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    works, text = hook_for("scratch").test_connection()
    assert not works
    assert str(path) in text
    assert "check the path in the connection's host" in text
    assert "create_table" not in text
    assert not path.exists()
