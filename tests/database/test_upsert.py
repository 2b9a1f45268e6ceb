"""Upserts in each dialect: exact counts, exactly once, and no other columns change."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound, Rejected
from flowrunner_provider.database.operators import SqlUpsertOperator
from tests.database.far_side import FarSide, act
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep

SECRET = "canary-51c0de"
ROWS = [{"id": 1, "name": "one", "n": 10}, {"id": 3, "name": "three", "n": 30}]


@pytest.fixture
def make(make_each: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return lambda: prepared(make_each())


def prepared(far: FarSide) -> FarSide:
    far.run(f"CREATE TABLE {far.name('t')} (id integer PRIMARY KEY, name text, n integer NOT NULL DEFAULT 7)")
    far.run(f"INSERT INTO {far.name('t')} VALUES (1, 'a', 1), (2, 'b', 2)")
    return far


def upsert(far: FarSide, **arguments: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    return act(far, SqlUpsertOperator, **{"table": far.name("t"), "keys": ["id"], **arguments})


def counts(result: Any) -> tuple[int, ...]:
    return tuple(result[name] for name in ("rows", "inserted", "updated", "skipped"))


def play(far: FarSide) -> Any:
    return upsert(far, rows=ROWS)


def check(far: FarSide) -> None:
    assert far.rows("t") == [(1, "one", 10), (2, "b", 2), (3, "three", 30)]
    assert far.run(f"SELECT count(*) FROM {far.name('flowrunner_ledger')}") == [(1,)]
    assert far.tables() == {"t", "flowrunner_ledger"}


@pytest.mark.faults
def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(make, play, check).kills > 9


@pytest.mark.parametrize(
    ("more", "expected", "row"),
    [
        ({}, (2, 1, 1, 0), (1, "one", 10)),
        ({"update_columns": ["n"]}, (2, 1, 1, 0), (1, "a", 10)),
        ({"on_conflict": "ignore"}, (2, 1, 0, 1), (1, "a", 1)),
        ({"column_map": {"n": None}}, (2, 1, 1, 0), (1, "one", 1)),
    ],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_counts_and_rows(far: FarSide, more: Any, expected: Any, row: Any, as_file: bool) -> None:
    given = {"source": far.jsonl(ROWS)} if as_file else {"rows": ROWS}
    result = upsert(far, **given, **more)
    assert counts(result) == expected
    assert far.rows("t")[:2] == [row, (2, "b", 2)]
    assert far.rows("t")[2] == (3, "three", 7 if "column_map" in more else 30)
    far.forget()
    assert upsert(far, **given, **more) == result


def test_rows_with_the_same_keys(far: FarSide) -> None:
    twice = [*ROWS, {"id": 3, "name": "last", "n": 31}]
    with pytest.raises(IntegrityError, match="same id"):
        upsert(far, rows=twice)
    assert len(far.rows("t")) == 2
    assert counts(upsert(far, rows=twice, keep="last")) == (3, 1, 1, 1)
    assert far.rows("t")[2] == (3, "last", 31)


CASE_INSENSITIVE = {
    "sqlite": "text COLLATE NOCASE",
    "mysql": "varchar(20) COLLATE utf8mb4_general_ci",
    "postgres": "text COLLATE {}.ci",
}


def test_keys_that_differ_only_in_case(make_real: Callable[[], FarSide]) -> None:
    """Keys that are equal in their collation are duplicates: one must not silently replace the other."""
    far = make_real()
    if far.kind == "postgres":
        settings = "provider = icu, locale = 'und-u-ks-level2', deterministic = false"
        far.run(f"CREATE COLLATION {far.name('ci')} ({settings})")
    column = CASE_INSENSITIVE[far.kind].format(far.name("").rstrip("."))
    far.run(f"CREATE TABLE {far.name('t')} (id {column} PRIMARY KEY, n integer)")
    rows = [{"id": "A", "n": 1}, {"id": "a", "n": 2}, {"id": "b", "n": 3}]
    with pytest.raises(IntegrityError, match="same id"):
        upsert(far, rows=rows)
    assert far.rows("t") == []
    assert counts(upsert(far, rows=rows, keep="last")) == (3, 2, 0, 1)
    assert far.rows("t", "n") == [("a", 2), ("b", 3)]
    assert counts(upsert(far, rows=[{"id": "B", "n": 4}], context={"run_id": "2"})) == (1, 0, 1, 0)
    assert far.rows("t", "n") == [("a", 2), ("b", 4)]


def test_other_rows_under_the_same_key_are_refused(far: FarSide) -> None:
    upsert(far, rows=ROWS)
    far.forget()
    with pytest.raises(FlowRunnerError, match="earlier attempt"):
        upsert(far, rows=ROWS[:1])
    with pytest.raises(FlowRunnerError, match="earlier attempt"):
        upsert(far, rows=ROWS, on_conflict="ignore")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"rows": ROWS, "source": "/x.csv"}, "rows"),
        ({}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": "id"}, "rows"),
        ({"rows": [7]}, "rows"),
        ({"rows": [{"id": 1}, {"id": 2, "n": 1}]}, "rows"),
        ({"rows": ROWS, "keys": []}, "keys"),
        ({"rows": ROWS, "keys": ["n"]}, "keys"),
        ({"rows": ROWS, "keys": ["nope"]}, "keys"),
        ({"rows": ROWS, "update_columns": []}, "update_columns"),
        ({"rows": ROWS, "update_columns": "n"}, "update_columns"),
        ({"rows": ROWS, "update_columns": ["id"]}, "update_columns"),
        ({"rows": ROWS, "update_columns": ["nope"]}, "update_columns"),
        ({"rows": ROWS, "update_columns": ["n"], "on_conflict": "ignore"}, "update_columns"),
        ({"rows": ROWS, "on_conflict": "replace"}, "on_conflict"),
        ({"rows": ROWS, "table": "t; DROP TABLE t"}, "table"),
        ({"rows": ROWS, "column_map": []}, "column_map"),
        ({"rows": [{"id": 1, "nope": 1}]}, "column_map"),
        ({"source": "/nowhere/x.txt"}, "source"),
    ],
)
def test_bad_arguments(far: FarSide, arguments: Any, field: str) -> None:
    if arguments.get("column_map") == []:
        arguments = {**arguments, "column_map": ["x"]}
    with pytest.raises(ConfigError) as caught:
        upsert(far, **arguments)
    assert caught.value.field == field
    assert far.tables() == {"t"}


def test_errors_contain_no_values(far: FarSide, caplog: Any) -> None:
    bad: list[list[dict[str, Any]]] = [[{"id": None, "n": 1, "name": SECRET}], [{"id": 9, "n": None, "name": SECRET}]]
    if far.kind != "sqlite":  # which stores any text in any column
        bad.append([{"id": 1, "n": SECRET}])
    for rows in bad:
        with pytest.raises(Rejected) as caught:
            upsert(far, rows=rows, context={"run_id": str(rows[0]["id"])})
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
    assert len(far.rows("t")) == 2


def test_a_missing_table_and_too_few_rows(far: FarSide) -> None:
    with pytest.raises(NotFound):
        upsert(far, table=far.name("nope"), rows=ROWS)
    with pytest.raises(IntegrityError):
        upsert(far, rows=ROWS, expected_rows=3)
    with pytest.raises(IntegrityError):
        upsert(far, source=far.write("empty.csv", "id,n\n"))
    assert len(far.rows("t")) == 2


def test_injection_payloads(far: FarSide) -> None:
    before = far.rows("t")
    for number, payload in enumerate(PAYLOADS[::25]):
        run = {"context": {"run_id": f"r{number}"}}
        for names in ({"rows": [{"id": 1, payload: 1}]}, {"rows": ROWS, "keys": [payload]}):
            with pytest.raises(FlowRunnerError):
                upsert(far, **names, **run)
        with pytest.raises(FlowRunnerError):
            upsert(far, rows=ROWS, update_columns=[payload], **run)
    assert far.rows("t") == before
    texts = [payload for payload in PAYLOADS[::5] if payload.isprintable() and payload.strip()]
    rows = [{"id": 100 + number, "name": text, "n": 0} for number, text in enumerate(texts)]
    upsert(far, rows=rows)
    assert [row[1] for row in far.rows("t")[2:]] == texts


@pytest.mark.backend
def test_a_login_without_the_privilege(make_postgres: Callable[[], Any]) -> None:
    from flowrunner_provider.core.errors import AccessDenied
    from tests.database.far_side import with_login

    far = prepared(make_postgres())
    with pytest.raises(AccessDenied) as caught:
        upsert(with_login(far, f"GRANT SELECT ON {far.name('t')}"), rows=ROWS)
    assert caught.value.remedy
    assert len(far.rows("t")) == 2
