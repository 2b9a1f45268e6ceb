"""Errors in the SQL of the task: the remedy says so, and the message has not one word of the statement."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowrunner_provider.core.errors import FlowRunnerError, Rejected
from tests.contracts.dialect_export import export
from tests.database.far_side import PostgresFarSide, connected

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELEC 'canary'", "42601"),
        ("SELECT no_such_column, 'canary'", "42703"),
        ("SELECT no_such_function('canary')", "42883"),
        ("SELECT 'canary' WHERE 1 = %(day)s", "42601"),
    ],
)
def test_the_remedy_of_wrong_sql_is_to_correct_the_sql(
    make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch, sql: str, code: str
) -> None:
    far = connected(make_postgres(), monkeypatch)
    with pytest.raises(FlowRunnerError) as caught:
        export(far, sql=sql)
    assert isinstance(caught.value, Rejected)
    assert f"({code})" in caught.value.message
    assert "correct the SQL" in caught.value.remedy
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["'infinity'::timestamp", "'0044-03-15 BC'::date", "'-infinity'::timestamptz", "'24:00'::time"]
)
def test_dates_that_a_file_cannot_hold_are_named(
    make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    far = connected(make_postgres(), monkeypatch)
    with pytest.raises(Rejected, match="infinite, BC, after the year 9999, or 24:00") as caught:
        export(far, "out.jsonl", sql=f"SELECT {value} AS day")
    assert "cast the column to text" in caught.value.remedy
    assert value.split("'")[1] not in str(caught.value).replace("24:00", "", 1)
