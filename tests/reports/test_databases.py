"""``email.send_report`` from the other databases: the same rows arrive. (SQL Server is the fake.)"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.database.conftest import make_mssql, make_mysql
from tests.email.support import connect
from tests.reports.test_report import Scene, attached, send
from tests.support.smtp_sink import SmtpSink

__all__ = ["make_mssql", "make_mysql"]


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["mysql", "mssql"])
def test_a_report(
    request: pytest.FixtureRequest, tmp_path: Path, smtp_sink: SmtpSink, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Callable[[], Any] = request.getfixturevalue(f"make_{kind}")
    far = make()
    far.run(f"CREATE TABLE {far.name('items')} (id INT, name VARCHAR(20))")
    far.run(f"INSERT INTO {far.name('items')} VALUES (1, 'pear'), (2, '=1+1'), (3, NULL)")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", far.connection)
    connect(smtp_sink)
    scene = Scene(tmp_path, smtp_sink.directory)
    result = send(
        scene,
        conn_id="warehouse",
        sql=f"SELECT id, name FROM {far.name('items')} WHERE id < {far.mark} ORDER BY id",
        parameters=[9],
        format="csv",
    )
    assert (result["sent"], result["rows"]) == (True, 3)
    rows = list(csv.reader(io.StringIO(attached(scene.mails()[0])[2].decode("utf-8-sig"))))
    assert rows == [["id", "name"], ["1", "pear"], ["2", "'=1+1"], ["3", ""]]
