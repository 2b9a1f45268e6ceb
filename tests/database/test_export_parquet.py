"""Parquet from PostgreSQL: ``COPY`` and a cursor give the same table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError
from flowrunner_provider.data.writers import ParquetOptions
from flowrunner_provider.database import export
from flowrunner_provider.database.dialects.postgres import PostgresSession
from flowrunner_provider.database.operators import SqlExportOperator
from tests.contracts.dialect_contract import CANARY
from tests.database.far_side import FarSide, PostgresFarSide, act, connected, load_rows

pytestmark = pytest.mark.backend

TEXT = st.text(
    st.one_of(st.sampled_from("\",\n\r\\. \tNULLx'{}é\U0001f642"), st.characters(blacklist_characters="\0")), max_size=8
).filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
NUMBER = st.one_of(st.floats(), st.sampled_from([0.1, -0.0, 1e-300, 5e-324, 1.7976931348623157e308]))
COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "big": ("bigint", st.integers(-(2**63), 2**63 - 1)),
    "small": ("smallint", st.integers(-(2**15), 2**15 - 1)),
    "number": ("float8", NUMBER),
    "half": ("float4", st.floats(width=32)),
    "price": ("numeric(20,4)", st.decimals(-(10**15), 10**15, places=4)),
    "any_number": ("numeric", st.one_of(st.decimals(allow_nan=False, allow_infinity=False), st.just(Decimal("NaN")))),
    "flag": ("boolean", st.booleans()),
    "day": ("date", st.dates()),
    "hour": ("time", st.times()),
    "wall": ("timestamp", st.datetimes()),
    "moment": ("timestamptz", st.datetimes(timezones=st.just(UTC))),
    "note": ("text", TEXT),
    "padded": ("char(9)", TEXT),
    "raw": ("bytea", st.binary(max_size=6)),
    "id": ("uuid", st.uuids()),
    "doc": ("jsonb", st.dictionaries(TEXT, st.integers(), max_size=2).map(json.dumps)),
    "list": ("text[]", st.lists(TEXT, max_size=3)),
    "took": ("interval", st.timedeltas(timedelta(-999), timedelta(999))),
}
ROWS = st.lists(
    st.tuples(*(st.one_of(st.none(), strategy) for _, strategy in COLUMNS.values())), min_size=1, max_size=12
)


@pytest.fixture
def far(make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch) -> PostgresFarSide:
    return connected(make_postgres(), monkeypatch)


def exported(far: FarSide, name: str, **more: Any) -> pyarrow.Table:
    result = act(far, SqlExportOperator, dest=str(far.folder / name), context={"run_id": name}, **more)
    table = pyarrow.parquet.read_table(far.folder / name)
    assert result["rows"] == table.num_rows
    assert not list(far.folder.glob(".*"))
    return table


def by_row(far: PostgresFarSide, name: str, **more: Any) -> pyarrow.Table:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresSession, "copy_out", lambda *arguments, **more: None)
        return exported(far, name, **more)


def comparable(table: pyarrow.Table) -> list[str]:
    """Make values comparable: NaN equals NaN, and a decimal equals itself with an exponent."""
    amounts = {"price", "any_number"}
    rows = table.to_pylist()
    return [
        repr([str(Decimal(value).normalize()) if name in amounts and value else value for name, value in row.items()])
        for row in rows
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_copy_and_cursor_give_the_same_table(far: PostgresFarSide, rows: list[tuple[Any, ...]]) -> None:
    name = far.name("t")
    marks = ", ".join(f"%s::{kind}" for kind, _ in COLUMNS.values())
    columns = ", ".join(f"{column} {kind}" for column, (kind, _) in COLUMNS.items())
    with far.database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (n serial, {columns})".encode())
        cursor.executemany(f"INSERT INTO {name} VALUES (DEFAULT, {marks})".encode(), rows)
    copied = exported(far, "a.parquet", table=name, order_by=["n"], chunk_size=5)
    fetched = by_row(far, "b.parquet", table=name, order_by=["n"])
    assert copied.schema == fetched.schema
    assert comparable(copied) == comparable(fetched)
    bound = exported(far, "c.parquet", sql=f"SELECT * FROM {name} WHERE n > %s ORDER BY n", parameters=[0])
    assert comparable(bound) == comparable(copied)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_one_column(far: PostgresFarSide, kind: str) -> None:
    """An empty line is a row."""
    values = "(1, NULL), (2, '7'), (3, NULL), (4, NULL)"
    sql = f"SELECT v::{kind} FROM (VALUES {values}) AS t (n, v) ORDER BY n"
    seven: Any = {"text": "7", "integer": 7}[kind]
    assert exported(far, "a.parquet", sql=sql)["v"].to_pylist() == [None, seven, None, None]


def test_null_differs_from_empty_text_and_the_word_null(far: PostgresFarSide) -> None:
    sql = "SELECT v FROM (VALUES (1, ''), (2, NULL), (3, 'NULL'), (4, '\\.'), (5, 'NaN')) AS t (n, v) ORDER BY n"
    assert exported(far, "a.parquet", sql=sql)["v"].to_pylist() == ["", None, "NULL", "\\.", "NaN"]


def test_row_groups_are_bounded_and_files_are_split(far: PostgresFarSide, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(ParquetOptions(), row_group_rows=400)
    monkeypatch.setattr(export, "ParquetOptions", lambda: options)
    sql = "SELECT g AS id, repeat('x', 300) AS note FROM generate_series(1, 2500) AS g ORDER BY g"
    result = act(far, SqlExportOperator, dest=str(far.folder / "a.parquet"), sql=sql, max_rows_per_file=1100)
    assert [file["rows"] for file in result["files"]] == [1100, 1100, 300]
    files = [pyarrow.parquet.ParquetFile(file["path"]) for file in result["files"]]
    assert [value for file in files for value in file.read()["id"].to_pylist()] == list(range(1, 2501))
    for file in files:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        assert max(groups) <= 400


@pytest.mark.parametrize(
    "value",
    ["date 'infinity'", "timestamptz '-infinity'", "date '0044-03-15 BC'", "time '24:00'", "date '12026-1-1'"],
)
def test_a_value_that_parquet_cannot_hold_is_an_error(far: PostgresFarSide, value: str) -> None:
    sql = f"SELECT 1 AS id, {value} AS moment, '{CANARY}' AS note"
    with pytest.raises(IntegrityError, match=r"'moment'.*does not fit") as caught:
        exported(far, "a.parquet", sql=sql)
    assert "text" in str(caught.value.remedy)
    assert CANARY not in repr(caught.value.to_event())
    assert not list(far.folder.glob("*.parquet"))
    with pytest.raises(FlowRunnerError):
        by_row(far, "b.parquet", sql=sql)
    exported(far, "a.parquet", sql=f"SELECT ({value})::text AS moment")


def test_types(far: PostgresFarSide) -> None:
    sql = "SELECT 1.50::numeric(9,2) AS amount, date '2026-01-02' AS day, time '01:02:03' AS hour, 7::oid AS number"
    assert exported(far, "a.parquet", sql=sql).to_pylist() == [
        {"amount": Decimal("1.50"), "day": date(2026, 1, 2), "hour": time(1, 2, 3), "number": 7}
    ]


def test_decimals_have_the_declared_digits(far: PostgresFarSide) -> None:
    sql = (
        "SELECT 1.5::numeric(9,2) AS declared, 1.5::numeric AS free, '-0.01'::numeric(38,38) AS longest,"
        " 1.5::numeric(39,1) AS longer, sum(1.5::numeric(9,2)) AS total, NULL::numeric(4,4) AS nothing"
    )
    text = pyarrow.string()
    types = [pyarrow.decimal128(9, 2), text, pyarrow.decimal128(38, 38), text, text, pyarrow.decimal128(4, 4)]
    for table in (exported(far, "a.parquet", sql=sql), by_row(far, "b.parquet", sql=sql)):
        assert table.schema.types == types
        assert list(table.to_pylist()[0].values()) == [
            Decimal("1.50"), "1.5", Decimal("-0.01"), "1.5", "1.50", None,
        ]  # fmt: skip
    load_rows(far, str(far.folder / "a.parquet"), "made", create_table=True, context={"run_id": "back"})
    assert far.run(f"SELECT declared FROM {far.name('made')}") == [(Decimal("1.50"),)]


@pytest.mark.parametrize("way", [exported, by_row])
def test_nan_in_a_decimal_column_is_an_error(far: PostgresFarSide, way: Any) -> None:
    with pytest.raises(IntegrityError, match=r"'n'.*does not fit") as caught:
        way(far, "a.parquet", sql="SELECT 'NaN'::numeric(9,2) AS n")
    assert "text" in str(caught.value.remedy)
    assert way(far, "a.parquet", sql="SELECT 'NaN'::numeric(9,2)::text AS n")["n"].to_pylist() == ["NaN"]


@pytest.mark.parametrize("kind", ["mysql", "mssql"])
def test_decimals_of_other_databases(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    far = connected(request.getfixturevalue(f"make_{kind}")(), monkeypatch)
    far.run(f"CREATE TABLE {far.name('orders')} (a decimal(10,2), b decimal(38,0), c decimal(3,3))")
    far.run(f"INSERT INTO {far.name('orders')} VALUES (-12345678.90, 7, 0.125), (NULL, NULL, NULL)")
    table = exported(far, "a.parquet", table=far.name("orders"))
    assert table.schema.types == [pyarrow.decimal128(10, 2), pyarrow.decimal128(38, 0), pyarrow.decimal128(3, 3)]
    rows = sorted(table.to_pylist(), key=lambda row: row["a"] is None)
    assert [list(row.values()) for row in rows] == [[Decimal("-12345678.90"), 7, Decimal("0.125")], [None] * 3]
