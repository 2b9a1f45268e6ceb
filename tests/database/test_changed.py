"""The row watcher reports every range once and skips none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, PermanentError
from flowrunner_provider.database.triggers import SqlRowTrigger
from tests.database.far_side import CONN_ID, FarSide


@pytest.fixture(params=["sqlite", "postgres", "mysql", "mssql"])
def far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FarSide:
    made: FarSide = request.getfixturevalue(f"make_{request.param}")()
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", made.connection)
    kind = "text" if made.kind == "sqlite" else "timestamp NULL"
    made.run(f"CREATE TABLE {made.name('orders')} (id integer PRIMARY KEY, at {kind}, note text)")
    return made


def fill(far: FarSide, *rows: tuple[int, str]) -> None:
    values = ", ".join(f"({number}, {(at and repr(at)) or 'NULL'}, 'canary')" for number, at in rows)
    far.run(f"INSERT INTO {far.name('orders')} VALUES {values}")


def look(far: FarSide, cursor: Any = None, **more: Any) -> tuple[list[Any], Any]:
    given = {"conn_id": CONN_ID, "table": far.name("orders"), "watermark": "at", "start": "existing"}
    if "sql" in more:
        del given["table"]
    seen = asyncio.run(SqlRowTrigger(**{**given, **more}).poll(cursor))
    assert "canary" not in str(seen)
    return list(seen.events), seen.cursor


DAY = "2026-01-0{} 00:00:00"


def test_a_backlog_is_reported_in_batches_each_once(far: FarSide) -> None:
    fill(far, *((n, DAY.format(1 + n // 3)) for n in range(8)))
    events, cursor = look(far, tie_break="id", batch=3, hold_back=False)
    assert [event["rows"] for event in events] == [3, 3, 2]
    assert [event["until"]["id"] for event in events] == ["2", "5", "7"]
    assert [event["after"] and event["after"]["id"] for event in events] == [None, "2", "5"]
    assert len({event["id"] for event in events}) == 3
    assert look(far, cursor, tie_break="id", batch=3, hold_back=False) == ([], cursor)
    fill(far, (8, DAY.format(3)), (9, DAY.format(9)))
    events, _ = look(far, cursor, tie_break="id", batch=3, hold_back=False)
    assert [(event["rows"], event["until"]["id"]) for event in events] == [(2, "9")]


def test_ties_stay_together_without_a_tie_break(far: FarSide) -> None:
    fill(far, *((n, DAY.format(1 + n // 4)) for n in range(8)))
    events, _ = look(far, batch=3, hold_back=False)
    assert [event["rows"] for event in events] == [4, 4]


def test_hold_back_reports_a_row_one_poll_later(far: FarSide) -> None:
    """A row that is committed late, with a smaller watermark, is also reported."""
    fill(far, (1, DAY.format(5)))
    events, cursor = look(far)
    assert events == []
    fill(far, (2, DAY.format(4)), (3, DAY.format(6)))
    events, cursor = look(far, cursor)
    assert [event["rows"] for event in events] == [2]
    events, cursor = look(far, cursor)
    assert [event["rows"] for event in events] == [1]
    assert look(far, cursor) == ([], cursor)


def test_by_default_only_new_rows_are_reported(far: FarSide) -> None:
    fill(far, (1, DAY.format(1)))
    events, cursor = look(far, start="new", hold_back=False)
    assert events == []
    fill(far, (2, DAY.format(2)), (3, ""))
    events, _ = look(far, cursor, start="new", hold_back=False)
    assert [event["rows"] for event in events] == [1]


def test_a_table_that_is_empty_at_first(far: FarSide) -> None:
    events, cursor = look(far, start="new", hold_back=False)
    assert events == []
    fill(far, (1, DAY.format(1)))
    events, _ = look(far, cursor, start="new", hold_back=False)
    assert [event["rows"] for event in events] == [1]


def test_a_query_with_percent_signs_and_a_number(far: FarSide) -> None:
    fill(far, *((n, DAY.format(1)) for n in range(1, 6)))
    sql = f"SELECT id FROM {far.name('orders')} WHERE note LIKE 'can%';"
    events, cursor = look(far, sql=sql, watermark="id", batch=4, hold_back=False)
    assert [(event["rows"], event["until"]) for event in events] == [(4, {"id": "4"}), (1, {"id": "5"})]
    assert look(far, cursor, sql=sql, watermark="id", hold_back=False)[0] == []


def test_the_number_of_ranges_per_poll_is_limited(far: FarSide) -> None:
    fill(far, *((n, DAY.format(1)) for n in range(50)))
    events, cursor = look(far, tie_break="id", batch=2, hold_back=False)
    assert len(events) == 20
    events, _ = look(far, cursor, tie_break="id", batch=2, hold_back=False)
    assert sum(event["rows"] for event in events) == 10


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"watermark": "nothing"}, "watermark"),
        ({"tie_break": "nothing"}, "tie_break"),
        ({"tie_break": "at"}, "tie_break"),
        ({"batch": 0}, "batch"),
        ({"sql": "SELECT 1", "table": "orders"}, "sql"),
        ({"conn_id": "nowhere"}, "conn_id"),
    ],
    ids=str,
)
def test_bad_input(far: FarSide, arguments: dict[str, Any], field: str) -> None:
    given = {"conn_id": CONN_ID, "table": far.name("orders"), "watermark": "at"}
    with pytest.raises(ConfigError) as caught:
        asyncio.run(SqlRowTrigger(**{**given, **arguments}).poll(None))
    assert caught.value.field == field
    assert caught.value.remedy


def test_a_missing_table(far: FarSide) -> None:
    with pytest.raises(PermanentError):
        look(far, sql="SELECT * FROM nothing")
