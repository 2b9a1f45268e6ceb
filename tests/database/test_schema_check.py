"""Structures in each dialect: every difference is reported, and a snapshot is complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound
from flowrunner_provider.database.operators import SqlSchemaCheckOperator
from tests.database.far_side import FarSide, act
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep


@pytest.fixture
def make(make_each: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return lambda: prepared(make_each())


def prepared(far: FarSide) -> FarSide:
    far.run(f"CREATE TABLE {far.name('t')} (id integer PRIMARY KEY, name varchar(20) NOT NULL, n integer DEFAULT 5)")
    far.run(
        f"CREATE TABLE {far.name('u')} (id integer, t_id integer, FOREIGN KEY (t_id) REFERENCES {far.name('t')} (id))"
    )
    return far


def snapshot(far: FarSide) -> str:
    return str(far.folder / "schema" / "sales.json")


def look(far: FarSide, *tables: str, **arguments: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    if tables:
        arguments["tables"] = [far.name(table) for table in tables]
    return act(far, SqlSchemaCheckOperator, **arguments)


def play(far: FarSide) -> Any:
    return look(far, "t", "u", snapshot=snapshot(far))


def check(far: FarSide) -> None:
    assert list(json.loads(Path(snapshot(far)).read_text())["tables"]) == [far.name("t"), far.name("u")]
    assert [path.name for path in Path(snapshot(far)).parent.iterdir()] == ["sales.json"]
    assert far.tables() == {"t", "u"}


@pytest.mark.faults
def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(make, play, check).kills > 5


def test_no_change_is_no_difference(far: FarSide) -> None:
    assert play(far)["tables"] == 2
    text = Path(snapshot(far)).read_text()
    result = look(far, expected=snapshot(far), snapshot=snapshot(far) + ".new.json", context={"run_id": "2"})
    assert (result["tables"], result["drift"], result["differences"]) == (2, False, [])
    assert Path(snapshot(far) + ".new.json").read_text() == text


def changes(far: FarSide) -> tuple[list[str], set[tuple[str, str, str]]]:
    """Return statements and the differences they cause."""
    t, place = far.name("t"), far.name("by_n") if far.kind == "sqlite" else "by_n"
    on = t if far.kind != "sqlite" else "t"
    statements = [f"ALTER TABLE {t} ADD COLUMN more text", f"CREATE UNIQUE INDEX {place} ON {on} (n)"]
    made = {("added", "column", "more"), ("added", "index", "by_n")}
    if far.kind == "postgres":
        statements += [
            f"ALTER TABLE {t} ALTER COLUMN name TYPE varchar(30)",
            f"ALTER TABLE {t} ALTER COLUMN name DROP NOT NULL",
            f"ALTER TABLE {t} ALTER COLUMN n SET DEFAULT 6",
            f"ALTER TABLE {far.name('u')} ADD PRIMARY KEY (id)",
            f"ALTER TABLE {far.name('u')} DROP COLUMN t_id",
        ]
    elif far.kind == "mysql":
        statements += [
            f"ALTER TABLE {t} MODIFY name varchar(30), MODIFY n integer DEFAULT 6",
            f"ALTER TABLE {far.name('u')} ADD PRIMARY KEY (id), DROP FOREIGN KEY u_ibfk_1, DROP COLUMN t_id",
        ]
        made.add(("removed", "index", "t_id"))
    if far.kind in ("postgres", "mysql"):
        reference = {"postgres": f"FOREIGN KEY (t_id) REFERENCES {t}(id)", "mysql": "t_id -> t.id"}[far.kind]
        made |= {
            ("changed", "type", "name"), ("changed", "nullability", "name"), ("changed", "default", "n"),
            ("added", "primary_key", ""), ("removed", "column", "t_id"), ("changed", "nullability", "id"),
            ("removed", "foreign_key", reference),
        }  # fmt: skip
    return statements, made


def test_every_change_is_reported(far: FarSide) -> None:
    play(far)
    statements, made = changes(far)
    for statement in statements:
        far.run(statement)
    with pytest.raises(IntegrityError, match="column more added") as caught:
        look(far, expected=snapshot(far), snapshot=snapshot(far) + ".new.json", context={"run_id": "2"})
    assert caught.value.remedy
    assert not Path(snapshot(far) + ".new.json").exists()
    result = look(far, expected=snapshot(far), on_drift="warn", context={"run_id": "3"})
    assert (result["drift"], result["count"]) == (True, len(made))
    assert {(item["change"], item["what"], item["name"]) for item in result["differences"]} == made


def test_missing_and_new_tables(far: FarSide) -> None:
    with pytest.raises(NotFound):
        look(far, "t", "nope", snapshot=snapshot(far))
    assert not Path(snapshot(far)).exists()
    look(far, "t", snapshot=snapshot(far), context={"run_id": "2"})
    result = look(far, "t", "u", expected=snapshot(far), on_drift="warn", context={"run_id": "3"})
    assert [(item["change"], item["what"]) for item in result["differences"]] == [("added", "table")]
    far.run(f"DROP TABLE {far.name('u')}")
    far.run(f"DROP TABLE {far.name('t')}")
    with pytest.raises(IntegrityError, match="table removed"):
        look(far, expected=snapshot(far), context={"run_id": "4"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "tables": {}}', '{"format": 1, "tables": {"t": 7}}'])
def test_files_that_are_no_snapshots(far: FarSide, text: str) -> None:
    with pytest.raises(FlowRunnerError) as caught:
        look(far, expected=far.write("x.json", text))
    assert caught.value.remedy


def test_a_missing_file_and_a_snapshot_of_another_database(far: FarSide) -> None:
    with pytest.raises(NotFound):
        look(far, expected="/nowhere/x.json")
    play(far)
    text = Path(snapshot(far)).read_text().replace(f'"{far.kind}"', '"other"')
    with pytest.raises(ConfigError) as caught:
        look(far, expected=far.write("x.json", text), context={"run_id": "2"})
    assert caught.value.field == "expected"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "expected"),
        ({"tables": ["t"]}, "expected"),
        ({"snapshot": "/tmp/x.json"}, "tables"),
        ({"tables": [], "snapshot": "/tmp/x.json"}, "tables"),
        ({"tables": "t", "snapshot": "/tmp/x.json"}, "tables"),
        ({"tables": ["t; --"], "snapshot": "/tmp/x.json"}, "tables"),
        ({"tables": ["t"], "snapshot": "x.json"}, "snapshot"),
        ({"tables": ["t"], "snapshot": "/tmp/*.json"}, "snapshot"),
        ({"expected": "/tmp/x.json", "snapshot": "/tmp/x.json"}, "snapshot"),
        ({"expected": "/tmp/x.json", "on_drift": "ignore"}, "on_drift"),
    ],
)
def test_bad_arguments(far: FarSide, arguments: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        look(far, **arguments)
    assert caught.value.field == field


def test_injection_payloads_are_names_or_refused(far: FarSide) -> None:
    for number, payload in enumerate(PAYLOADS[::20]):
        for name in (payload, '"' + payload.replace('"', '""') + '"'):
            with pytest.raises(FlowRunnerError):
                look(far, tables=[name], snapshot=snapshot(far), context={"run_id": f"r{number}"})
    assert far.tables() == {"t", "u"}
    assert not Path(snapshot(far)).exists()
