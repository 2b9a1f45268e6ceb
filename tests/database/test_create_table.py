"""Tables are created in each dialect: once, exactly as requested, and never in place of another table."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, ConfigError, FlowRunnerError, IntegrityError
from flowrunner_provider.database.operators import SqlCreateTableOperator
from tests.database.far_side import FarSide, PostgresFarSide, act, with_login
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep

COLUMNS: dict[str, Any] = {
    "id": "integer",
    "name": {"type": "string", "nullable": False, "default": 'it\'s \\ "q" %s'},
    "price": {"type": "decimal", "default": "1.50"},
    "ratio": {"type": "number", "default": 0.5},
    "open": {"type": "boolean", "nullable": False, "default": True},
    "at": {"type": "timestamp", "default": "now"},
    "day": {"type": "date", "default": "2026-01-31"},
    "more": "object",
    "raw": "binary",
}
INDEXES = [{"columns": ["name"], "unique": True}, {"columns": ["day", "open"], "name": "by day"}]
ALL: dict[str, Any] = {"columns": COLUMNS, "keys": ["id"], "indexes": INDEXES}


def create(far: Any, **arguments: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    return act(far, SqlCreateTableOperator, **{"table": far.name("t"), **arguments})


def old(far: FarSide) -> FarSide:
    far.run(f"CREATE TABLE {far.name('t')} (id integer PRIMARY KEY, old integer)")
    far.run(f"INSERT INTO {far.name('t')} VALUES (1, 1)")
    return far


def made_new(far: FarSide) -> Any:
    return create(far, if_exists="fail", **ALL)


def replaced(far: FarSide) -> Any:
    return create(far, if_exists="replace", **ALL)


def check(far: FarSide) -> None:
    assert far.tables() == {"t", "flowrunner_ledger"}
    far.run(f"INSERT INTO {far.name('t')} (id) VALUES (7)")
    assert [row[:2] for row in far.rows("t")] == [(7, COLUMNS["name"]["default"])]


@pytest.mark.faults
@pytest.mark.parametrize("case", ["fail", "replace"])
def test_every_kill(make: Callable[[], FarSide], case: str) -> None:
    prepare, play = (make, made_new) if case == "fail" else (lambda: old(make()), replaced)
    assert sweep(prepare, play, check).kills > 7


def test_columns_keys_and_indexes(far: FarSide) -> None:
    result = create(far, **ALL)
    assert (result["created"], result["replaced"], result["columns"]["at"]) == (True, False, "timestamp")
    far.run(f"INSERT INTO {far.name('t')} (id) VALUES (1)")
    row = far.rows("t")[0]
    assert row[1] == COLUMNS["name"]["default"]
    assert (float(row[2]), row[3], bool(row[4]), str(row[6])) == (1.5, 0.5, True, "2026-01-31")
    assert str(row[5]).startswith("20")
    for bad in ("(id) VALUES (1)", "(id, name) VALUES (2, NULL)", "(id) VALUES (2)"):
        with pytest.raises(Exception, match=r"(?i)unique|null|duplicate"):
            far.run(f"INSERT INTO {far.name('t')} {bad}")
    far.forget()
    assert create(far, **ALL) == result
    assert len(far.rows("t")) == 1
    again = create(far, **ALL, context={"run_id": "2"})
    assert (again["created"], again["replaced"]) == (False, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": {**COLUMNS, "extra": "string"}}, "column extra removed"),
        ({"columns": {**COLUMNS, "ratio": "string"}}, "type ratio changed"),
        ({"columns": {**COLUMNS, "ratio": {"type": "number", "nullable": False}}}, "nullability ratio changed"),
        ({"columns": {name: kind for name, kind in COLUMNS.items() if name != "open"}, "indexes": []}, None),
        ({"columns": {**COLUMNS, "id": {"type": "integer", "default": 5}}}, "default id"),
        ({"keys": ["id", "day"]}, "primary_key"),
        ({"indexes": [*INDEXES, {"columns": ["ratio"]}]}, "index"),
        ({"indexes": []}, None),
    ],
)
def test_skip_compares_the_existing_table(far: FarSide, change: Any, words: str | None) -> None:
    create(far, **ALL)
    again = {**ALL, **change, "context": {"run_id": "2"}}
    if words is None:
        assert create(far, **again)["created"] is False
    else:
        with pytest.raises(IntegrityError, match=words) as caught:
            create(far, **again)
        assert caught.value.remedy
    assert far.tables() == {"t", "flowrunner_ledger"}


def test_types_of_the_same_family_match(far: FarSide) -> None:
    far.run(f"CREATE TABLE {far.name('t')} (id integer NOT NULL PRIMARY KEY, name varchar(20), more integer)")
    wanted: Any = {"columns": {"id": "integer", "name": "string"}, "keys": ["id"]}
    assert create(far, **wanted)["created"] is False
    far.run(f"ALTER TABLE {far.name('t')} ADD COLUMN needed integer NOT NULL DEFAULT 1")
    assert create(far, **wanted, context={"run_id": "2"})["created"] is False


def test_fail_and_replace(far: FarSide) -> None:
    old(far)
    with pytest.raises(AlreadyExists):
        create(far, if_exists="fail", **ALL)
    assert far.rows("t") == [(1, 1)]
    result = create(far, if_exists="replace", **ALL)
    assert (result["created"], result["replaced"]) == (True, True)
    far.run(f"INSERT INTO {far.name('t')} (id) VALUES (7)")
    far.forget()
    assert create(far, if_exists="replace", **ALL) == result
    assert len(far.rows("t")) == 1
    assert far.tables() == {"t", "flowrunner_ledger"}


@pytest.mark.backend
def test_replace_keeps_grants_and_refuses_to_lose_views(make_postgres: Callable[[], PostgresFarSide]) -> None:
    far = old(make_postgres())
    reader = with_login(far, f"GRANT SELECT ON {far.name('t')}")
    far.run(f"CREATE VIEW {far.name('v')} AS SELECT id FROM {far.name('t')}")
    with pytest.raises(ConfigError, match="views") as caught:
        create(far, if_exists="replace", **ALL)
    assert caught.value.field == "if_exists"
    assert far.rows("t") == [(1, 1)]
    far.run(f"DROP VIEW {far.name('v')}")
    create(far, if_exists="replace", **ALL)
    assert reader.rows("t") == []
    with pytest.raises(AccessDenied) as denied:
        create(reader, if_exists="replace", **ALL, context={"run_id": "2"})
    assert denied.value.remedy


def test_columns_inferred_from_a_file(far: FarSide) -> None:
    source = far.jsonl([{"id": 1, "name": "a", "n": 1.5, "yes": True, "more": {"a": 1}}])
    result = create(far, infer_from=source, columns={"at": "timestamp", "id": {"type": "integer"}}, keys=["id"])
    assert result["columns"] == {
        "id": "integer", "name": "string", "n": "number", "yes": "boolean", "more": "object", "at": "timestamp",
    }  # fmt: skip
    declared = {"path": "/nowhere/x.csv", "format": "csv", "columns": {"a": "decimal", "b": "null"}}
    other = create(far, table=far.name("u"), infer_from=declared, context={"run_id": "2"})
    assert other["columns"] == {"a": "decimal", "b": "string"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "columns"),
        ({"columns": {"id": "int"}}, "columns"),
        ({"columns": {"id": {"type": "integer", "size": 4}}}, "columns"),
        ({"columns": {"id": {"type": "integer", "nullable": "no"}}}, "columns"),
        ({"columns": {"id": {"type": "integer", "default": "x"}}}, "columns"),
        ({"columns": {"id": {"type": "integer", "default": True}}}, "columns"),
        ({"columns": {"id": {"type": "number", "default": float("nan")}}}, "columns"),
        ({"columns": {"id": {"type": "decimal", "default": "1; DROP TABLE t"}}}, "columns"),
        ({"columns": {"id": {"type": "date", "default": "today"}}}, "columns"),
        ({"columns": {"id": {"type": "string", "default": "a\0b"}}}, "columns"),
        ({"columns": {"id": {"type": "object", "default": "{}"}}}, "columns"),
        ({"columns": {"id": "integer"}, "keys": ["nope"]}, "keys"),
        ({"columns": {"id": "object"}, "keys": ["id"]}, "keys"),
        ({"columns": {"id": "integer"}, "keys": "id"}, "keys"),
        ({"columns": {"id": "integer"}, "indexes": {"columns": ["id"]}}, "indexes"),
        ({"columns": {"id": "integer"}, "indexes": [{"columns": []}]}, "indexes"),
        ({"columns": {"id": "integer"}, "indexes": [{"columns": ["nope"]}]}, "indexes"),
        ({"columns": {"id": "integer"}, "indexes": [{"columns": ["id"]}, {"columns": ["id"]}]}, "indexes"),
        ({"columns": {"id": "integer"}, "if_exists": "append"}, "if_exists"),
        ({"columns": {"id": "integer"}, "table": "t; DROP TABLE t"}, "table"),
        ({"infer_from": "/nowhere/x.txt"}, "infer_from"),
    ],
)
def test_bad_arguments(far: FarSide, arguments: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create(far, **arguments)
    assert caught.value.field == field
    assert far.tables() == set()


def test_injection_payloads_are_names_and_values_or_refused(far: FarSide) -> None:
    far.run(f"CREATE TABLE {far.name('victim')} (id integer)")
    far.run(f"INSERT INTO {far.name('victim')} VALUES (1)")
    made = 0
    for number, payload in enumerate(PAYLOADS[::15]):
        try:
            create(
                far,
                table=far.name(f"t{number}"),
                columns={"id": "integer", payload: {"type": "string", "default": payload}},
                indexes=[{"columns": [payload], "name": payload}],
                context={"run_id": f"r{number}"},
            )
        except FlowRunnerError:
            continue
        made += 1
        far.run(f"INSERT INTO {far.name(f't{number}')} (id) VALUES (1)")
        assert far.rows(f"t{number}") == [(1, payload)]
    assert made > 8
    assert far.rows("victim") == [(1,)]
