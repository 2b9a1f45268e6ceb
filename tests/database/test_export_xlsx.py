"""Excel files: the value of each type, rejected values, and no formulas."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from datetime import datetime, time
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.data import xlsx_writer
from flowrunner_provider.database.export_plan import ExportPlan
from flowrunner_provider.database.operators import SqlExportOperator
from tests.database.far_side import FarSide, PostgresFarSide, SqliteFarSide, act
from tests.support.kill import sweep

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    '=HYPERLINK("http://x","y")',
    "http://x.example/",
    "=cmd|' /C calc'!A0",
]
TYPES = {
    "12::bigint": 12,
    "123456789012345678::bigint": "123456789012345678",
    "1.25::numeric": 1.25,
    "1234567890123456.25::numeric": "1234567890123456.25",
    "0.1::double precision": 0.1,
    "'NaN'::double precision": "NaN",
    "true": True,
    "NULL::text": None,
    "''::text": "",
    "date '2026-02-28'": datetime.fromisoformat("2026-02-28"),
    "date '1850-01-01'": "1850-01-01",
    "timestamp '2026-02-28 10:20:30.125'": datetime.fromisoformat("2026-02-28 10:20:30.125"),
    "timestamptz '2026-02-28 10:20:30+02'": "2026-02-28T08:20:30+00:00",
    """'{"a": 1}'::jsonb""": '{"a":1}',
    "'12:30'::time": time(12, 30),
    "'a\u2028b🙂'::text": "a\u2028b🙂",
}


def export(far: FarSide, name: str = "out.xlsx", run_id: str = "r1", **more: Any) -> Any:
    return act(far, SqlExportOperator, dest=str(far.folder / name), context={"run_id": run_id}, **more)


def read(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in openpyxl.load_workbook(path, data_only=False).active.iter_rows(values_only=True)]


def left(far: FarSide) -> set[str]:
    return {path.name for path in far.folder.iterdir()} - {"state", "far.db"}


@pytest.fixture
def far(make_sqlite: Callable[[], SqliteFarSide], monkeypatch: pytest.MonkeyPatch) -> FarSide:
    made = make_sqlite()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", made.connection)
    made.run("CREATE TABLE orders (id integer, note text)")
    return made


def fill(far: FarSide, rows: int) -> None:
    far.run(f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
            " INSERT INTO orders SELECT i, 'n' || i FROM n")  # fmt: skip


@pytest.mark.backend
def test_each_type(make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    far = make_postgres()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", far.connection)
    columns = ", ".join(f"{value} AS c{place}" for place, value in enumerate(TYPES))
    export(far, sql=f"SELECT {columns}")
    header, row = read(far.folder / "out.xlsx")
    assert header == tuple(f"c{place}" for place in range(len(TYPES)))
    assert dict(zip(TYPES, row, strict=True)) == TYPES


def test_text_is_never_a_formula(far: FarSide) -> None:
    for number, text in enumerate(FORMULAS):
        quoted = text.replace("'", "''")
        far.run(f"INSERT INTO orders VALUES ({number}, '{quoted}')")
    result = export(far, sql='SELECT id, note AS "=note" FROM orders ORDER BY id')
    assert result["format"] == "xlsx"
    book = openpyxl.load_workbook(far.folder / "out.xlsx")
    cells = [row[1] for row in book.active.iter_rows()]
    assert [cell.value for cell in cells] == ["=note", *FORMULAS]
    assert all(cell.data_type == "s" and cell.hyperlink is None for cell in cells)
    assert all(cell.quotePrefix for cell in cells if cell.value[0] in "=+-@\t")
    with zipfile.ZipFile(far.folder / "out.xlsx") as packed:
        assert b"<f>" not in packed.read("xl/worksheets/sheet1.xml")
        assert not [name for name in packed.namelist() if "rels" in name and "sheet" in name]


def test_the_same_rows_give_the_same_bytes(far: FarSide) -> None:
    fill(far, 2500)
    export(far, "a.xlsx", table="orders", order_by=["id"], chunk_size=7)
    export(far, "b.xlsx", "r2", table="orders", order_by=["id"])
    assert (far.folder / "a.xlsx").read_bytes() == (far.folder / "b.xlsx").read_bytes()
    assert len(read(far.folder / "a.xlsx")) == 2501
    assert left(far) == {"a.xlsx", "b.xlsx"}


def test_more_rows_than_a_sheet_holds(far: FarSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx_writer, "MOST_ROWS", 10)
    fill(far, 25)
    (far.folder / "out.xlsx").write_text("old")
    with pytest.raises(IntegrityError, match="at most 10 rows"):
        export(far, table="orders", chunk_size=4)
    assert (far.folder / "out.xlsx").read_text() == "old"
    assert left(far) == {"out.xlsx"}
    result = export(far, "part.xlsx", table="orders", order_by=["id"], max_rows_per_file=10)
    assert [one["rows"] for one in result["files"]] == [10, 10, 5]
    assert read(far.folder / "part-00003.xlsx")[-1] == (25, "n25")
    assert left(far) == {"out.xlsx", *(f"part-0000{n}.xlsx" for n in (1, 2, 3))}
    with pytest.raises(ConfigError, match="at most 1048575 rows"):
        ExportPlan(dest="/out.xlsx", table="orders", max_rows_per_file=2_000_000)


def play(far: FarSide) -> Any:
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = far.connection
    return export(far, table="orders", order_by=["id"])


def check(far: FarSide) -> None:
    assert read(far.folder / "out.xlsx") == [("id", "note"), (1, "n1"), (2, "n2")]
    assert left(far) == {"out.xlsx"}


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_every_kill(make_sqlite: Callable[[], SqliteFarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "")

    def make() -> FarSide:
        far = make_sqlite()
        far.run("CREATE TABLE orders (id integer, note text)")
        fill(far, 2)
        return far

    assert sweep(make, play, check, at=lambda point: point.startswith("sql.")).kills > 4


def test_text_that_excel_would_truncate(far: FarSide) -> None:
    far.run(f"INSERT INTO orders VALUES (1, '{'x' * 32_768}')")
    with pytest.raises(IntegrityError, match="row 1, column 'note'"):
        export(far, table="orders")
    far.run(f"UPDATE orders SET note = '{'x' * 32_767}'")
    export(far, run_id="r2", table="orders")
    assert len(read(far.folder / "out.xlsx")[1][1]) == 32_767
    assert left(far) == {"out.xlsx"}
