"""Guarded updates and deletes in each dialect: exactly the intended rows, once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound, Rejected
from flowrunner_provider.database.operators import SqlModifyOperator
from tests.database.far_side import FarSide, act
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep


@pytest.fixture
def make(make_each: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return lambda: prepared(make_each())


def prepared(far: FarSide) -> FarSide:
    far.run(f'CREATE TABLE {far.name("t")} (id integer PRIMARY KEY, "50%%s" text, n integer)')
    far.run(f"INSERT INTO {far.name('t')} VALUES (1, 'a', 1), (2, 'b', 2), (3, NULL, 3)")
    return far


def modify(far: FarSide, **arguments: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    return act(far, SqlModifyOperator, **{"operation": "update", "table": far.name("t"), **arguments})


def play(far: FarSide) -> Any:
    return modify(far, where={"id": {">=": 2}}, set={"n": 9}, expect_affected=2)


def check(far: FarSide) -> None:
    assert [row[2] for row in far.rows("t")] == [1, 9, 9]
    assert far.run(f"SELECT count(*) FROM {far.name('flowrunner_ledger')}") == [(1,)]


def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(make, play, check).kills > 7


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"id": 1}, [1]),
        ({"id": [1, 3]}, [1, 3]),
        ({"50%%s": None}, [3]),
        ({"50%%s": {"!=": None, "not_like": "a%"}}, [2]),
        ({"50%%s": {"in": ["a", "b' OR 1=1 --"]}, "n": {"<": 2}}, [1]),
        ({"id": {"not_in": [1]}, "n": {"<=": 2}}, [2]),
        ("n % 2 = 1", [1, 3]),
        ("id = 1 -- a note", [1]),
    ],
)
def test_conditions(far: FarSide, where: Any, ids: list[int]) -> None:
    counted = modify(far, where=where, set={"50%%s": "x"}, dry_run=True, context={"run_id": "dry"})
    assert (counted["affected"], counted["dry_run"]) == (len(ids), True)
    assert far.tables() == {"t"}
    assert modify(far, where=where, set={"50%%s": "x%s"})["affected"] == len(ids)
    assert [row[0] for row in far.rows("t") if row[1] == "x%s"] == ids
    assert modify(far, operation="delete", where=where, context={"run_id": "2"})["operation"] == "delete"


@pytest.mark.parametrize("condition", [0, {"<": 5}, [0, 7]])
def test_a_number_does_not_match_text_without_digits(make_real: Callable[[], FarSide], condition: Any) -> None:
    """MariaDB reads such text as 0 with only a warning: a delete where name = 0 would match every row."""
    far = make_real()
    far.run(f"CREATE TABLE {far.name('t')} (id integer PRIMARY KEY, name varchar(10))")
    far.run(f"INSERT INTO {far.name('t')} VALUES (1, 'a'), (2, 'b')")
    with nullcontext() if far.kind == "sqlite" else pytest.raises(Rejected):
        assert modify(far, operation="delete", where={"name": condition})["affected"] == 0
    assert far.rows("t") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("named", [False, True])
def test_text_with_parameters(far: FarSide, named: bool) -> None:
    parameters: Any = {"i": 2} if named else [2]
    where = f"id = {far.named_mark.format('i') if named else far.mark}"
    assert modify(far, where=where, parameters=parameters, set={"n": 7, "50%%s": None})["affected"] == 1
    assert far.rows("t") == [(1, "a", 1), (2, None, 7), (3, None, 3)]


@pytest.mark.parametrize("guard", [{"max_affected": 2}, {"expect_affected": 2}, {"expect_affected": "4"}])
@pytest.mark.parametrize("operation", ["update", "delete"])
def test_guards(far: FarSide, guard: Any, operation: str) -> None:
    before = far.rows("t")
    values = {"set": {"n": 0}} if operation == "update" else {}
    with pytest.raises(IntegrityError, match="nothing was changed"):
        modify(far, operation=operation, where="1 = 1", **values, **guard)
    assert far.rows("t") == before
    assert far.run(f"SELECT count(*) FROM {far.name('flowrunner_ledger')}") == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"where": {}}, "where"),
        ({"where": " ; "}, "where"),
        ({"where": {"id": {"~": 1}}}, "where"),
        ({"where": {"id": []}}, "where"),
        ({"where": {"id": {"<": None}}}, "where"),
        ({"where": {"id": 1}, "parameters": [1]}, "parameters"),
        ({"where": {"id": 1}, "set": {}}, "set"),
        ({"where": {"id": 1}, "operation": "delete"}, "set"),
        ({"where": {"id": 1}, "operation": "drop"}, "operation"),
        ({"where": {"id": 1}, "table": "t; DROP TABLE t"}, "table"),
        ({"where": {"id": 1}, "max_affected": -1}, "max_affected"),
        ({"where": {"id": 1}, "expect_affected": "x"}, "expect_affected"),
    ],
)
def test_bad_arguments(far: FarSide, arguments: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        modify(far, **{"set": {"n": 0}, **arguments})
    assert caught.value.field == field
    assert far.tables() == {"t"}


@pytest.mark.backend
def test_lists_are_stored_as_json_or_arrays(make_real: Callable[[], FarSide]) -> None:
    far = make_real()
    kind = {"postgres": "jsonb", "mysql": "json"}.get(far.kind, "varchar(99)")
    array = ", tags text[]" if far.kind == "postgres" else ""
    far.run(f"CREATE TABLE {far.name('t')} (id integer PRIMARY KEY, doc {kind}{array})")
    far.run(f"INSERT INTO {far.name('t')} (id) VALUES (1)")
    values = {"doc": ["a", {"b": [1, None]}], **({"tags": ["x", "y z"]} if array else {})}
    assert modify(far, where={"id": 1}, set=values)["affected"] == 1
    stored = far.rows("t")[0]
    assert (json.loads(stored[1]) if isinstance(stored[1], str) else stored[1]) == values["doc"]
    assert list(stored[2:]) == ([["x", "y z"]] if array else [])
    assert modify(far, where={"id": 1}, set={"doc": []}, context={"run_id": "2"})["affected"] == 1


def test_a_missing_table(far: FarSide) -> None:
    with pytest.raises(NotFound):
        modify(far, table=far.name("nope"), where="1 = 1", set={"n": 0})


def test_injection_payloads_are_names_or_refused(far: FarSide) -> None:
    before = far.rows("t")
    for number, payload in enumerate(PAYLOADS[::4]):
        run = {"context": {"run_id": f"r{number}"}}
        for names in ({"where": {payload: 1}, "set": {"n": 0}}, {"where": {"id": 1}, "set": {payload: 0}}):
            with pytest.raises(FlowRunnerError):
                modify(far, **names, **run)
    assert far.rows("t") == before
