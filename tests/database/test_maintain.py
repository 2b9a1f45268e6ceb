"""Maintenance in each dialect: destructive operations happen once, to the intended tables, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    Rejected,
)
from flowrunner_provider.database.operators import SqlMaintainOperator
from tests.database.far_side import FarSide, PostgresFarSide, act, with_login
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import sweep


@pytest.fixture
def make(make_each: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return lambda: prepared(make_each())


def prepared(far: FarSide) -> Any:
    for table in ("t", "u", "victim"):
        far.run(f"CREATE TABLE {far.name(table)} (id integer PRIMARY KEY, n integer)")
        far.run(f"INSERT INTO {far.name(table)} VALUES (1, 1), (2, 2), (3, 3)")
    return far


def maintain(far: Any, operation: str, *tables: str, **arguments: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    names = [far.name(table) for table in tables]
    if operation in ("truncate", "drop"):
        arguments = {"confirm": names, **arguments}
    return act(far, SqlMaintainOperator, **{"operation": operation, "tables": names, **arguments})


def truncate(far: FarSide) -> Any:
    return maintain(far, "truncate", "t", "u")


def truncated(far: FarSide) -> None:
    assert (far.rows("t"), far.rows("u"), len(far.rows("victim"))) == ([], [], 3)


def drop(far: FarSide) -> Any:
    return maintain(far, "drop", "t", "u")


def dropped(far: FarSide) -> None:
    assert far.tables() == {"victim", "flowrunner_ledger"}


@pytest.mark.faults
@pytest.mark.parametrize(("play", "check"), [(truncate, truncated), (drop, dropped)], ids=["truncate", "drop"])
def test_every_kill(make: Callable[[], FarSide], play: Any, check: Any) -> None:
    assert sweep(make, play, check).kills > 7


def test_truncate_happens_once(far: FarSide) -> None:
    result = truncate(far)
    assert (result["rows"], len(result["tables"]), result["dry_run"]) == (6, 2, False)
    far.run(f"INSERT INTO {far.name('t')} VALUES (7, 7)")
    far.forget()
    assert truncate(far) == result
    assert far.rows("t") == [(7, 7)]


def test_drop_happens_once(far: FarSide) -> None:
    result = drop(far)
    assert result["rows"] == 6
    dropped(far)
    far.run(f"CREATE TABLE {far.name('t')} (id integer)")
    far.forget()
    assert drop(far) == result
    assert "t" in far.tables()
    with pytest.raises(NotFound, match="nothing was done"):
        maintain(far, "drop", "t", "u", context={"run_id": "2"})
    assert "t" in far.tables()


@pytest.mark.parametrize("operation", ["truncate", "drop"])
def test_guards(far: FarSide, operation: str) -> None:
    before = far.tables()
    for confirm in ([], None, [far.name("t")]):
        with pytest.raises(ConfigError) as caught:
            maintain(far, operation, "t", "u", confirm=confirm)
        assert caught.value.field == "confirm"
    assert far.tables() == before
    with pytest.raises(IntegrityError, match="max_rows=2"):
        maintain(far, operation, "t", max_rows=2)
    assert maintain(far, operation, "t", "u", dry_run=True, context={"run_id": "dry"})["rows"] == 6
    assert len(far.rows("t")) == 3
    assert far.tables() >= before
    assert maintain(far, operation, "t", max_rows=None)["rows"] == 3


def test_a_missing_or_differently_spelled_table_stops_everything(far: FarSide) -> None:
    for operation in ("truncate", "drop", "analyze", "vacuum", "reindex"):
        if (far.kind, operation) == ("sqlite", "vacuum"):
            continue
        for other in ("nope", "T"):
            with pytest.raises((NotFound, ConfigError)):
                maintain(far, operation, "t", other, context={"run_id": operation + other})
    assert len(far.rows("t")) == 3


@pytest.mark.parametrize("operation", ["analyze", "vacuum", "reindex"])
def test_repeatable_operations(far: FarSide, operation: str) -> None:
    names = () if (far.kind, operation) == ("sqlite", "vacuum") else ("t", "u")
    for run_id in ("1", "2"):
        assert len(maintain(far, operation, *names, context={"run_id": run_id})["tables"]) == len(names)
    assert len(far.rows("t")) == 3
    if (far.kind, operation) == ("sqlite", "analyze"):
        assert far.run("SELECT count(*) FROM sqlite_stat1") == [(2,)]
    if far.kind == "postgres" and operation != "reindex":
        analyzed = f"SELECT reltuples FROM pg_class WHERE oid = '{far.name('t')}'::regclass"
        assert far.run(analyzed) == [(3.0,)]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("refresh_mview", {}), ("swap_partition", {"replacement": "u"})],
)
def test_operations_of_postgres_only(
    make_sqlite: Callable[[], FarSide], make_mysql: Callable[[], FarSide], operation: str, arguments: Any
) -> None:
    for made in (make_sqlite, make_mysql):
        far = prepared(made())
        if arguments:
            arguments = {"replacement": far.name("u")}
        with pytest.raises(ConfigError) as caught:
            maintain(far, operation, "t", **arguments)
        assert caught.value.field == "operation"


@pytest.mark.backend
def test_a_materialized_view(make_postgres: Callable[[], PostgresFarSide]) -> None:
    far = prepared(make_postgres())
    far.run(f"CREATE MATERIALIZED VIEW {far.name('m')} AS SELECT * FROM {far.name('t')}")
    far.run(f"CREATE UNIQUE INDEX ON {far.name('m')} (id)")
    far.run(f"INSERT INTO {far.name('t')} VALUES (4, 4)")
    maintain(far, "refresh_mview", "m")
    assert len(far.rows("m")) == 4
    far.run(f"INSERT INTO {far.name('t')} VALUES (5, 5)")
    maintain(far, "refresh_mview", "m", concurrently=True, context={"run_id": "2"})
    assert len(far.rows("m")) == 5
    for name, error in (("t", ConfigError), ("nope", NotFound)):
        with pytest.raises(error):
            maintain(far, "refresh_mview", name, context={"run_id": name})


def partitioned(far: Any) -> Any:
    far.run(f"CREATE TABLE {far.name('p')} (id integer PRIMARY KEY, n integer) PARTITION BY RANGE (id)")
    far.run(f"CREATE TABLE {far.name('p1')} PARTITION OF {far.name('p')} FOR VALUES FROM (0) TO (10)")
    far.run(f"INSERT INTO {far.name('p')} VALUES (9, 9)")
    return prepared(far)


def swap(far: Any) -> Any:
    return maintain(far, "swap_partition", "p1", replacement=far.name("t"))


def swapped(far: Any) -> None:
    assert (far.rows("p"), far.rows("p1"), far.rows("t")) == ([(1, 1), (2, 2), (3, 3)],) * 2 + ([(9, 9)],)
    assert far.tables() == {"p", "p1", "t", "u", "victim", "flowrunner_ledger"}


@pytest.mark.backend
@pytest.mark.faults
def test_a_partition_is_swapped_once_despite_kills(make_postgres: Callable[[], PostgresFarSide]) -> None:
    assert sweep(lambda: partitioned(make_postgres()), swap, swapped).kills > 7
    far = partitioned(make_postgres())
    with pytest.raises(ConfigError) as caught:
        maintain(far, "swap_partition", "u", replacement=far.name("t"))
    assert caught.value.field == "tables"
    far.run(f"INSERT INTO {far.name('t')} VALUES (11, 11)")
    with pytest.raises(Rejected):
        swap(far)
    assert len(far.rows("t")) == 4


@pytest.mark.parametrize(
    ("operation", "arguments", "field"),
    [
        ("destroy", {}, "operation"),
        ("analyze", {"tables": []}, "tables"),
        ("analyze", {"tables": "t"}, "tables"),
        ("analyze", {"tables": ["t", "t"]}, "tables"),
        ("analyze", {"tables": ["t; DROP TABLE t"]}, "tables"),
        ("analyze", {"confirm": ["t"]}, "confirm"),
        ("analyze", {"replacement": "u"}, "replacement"),
        ("analyze", {"concurrently": True}, "concurrently"),
        ("truncate", {"tables": ["flowrunner_ledger"], "confirm": ["flowrunner_ledger"]}, "tables"),
        ("truncate", {"max_rows": -1}, "max_rows"),
        ("swap_partition", {}, "replacement"),
    ],
)
def test_bad_arguments(far: FarSide, operation: str, arguments: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        maintain(far, operation, "t", **arguments)
    assert caught.value.field == field
    assert far.tables() == {"t", "u", "victim"}


def test_injection_payloads_are_names_or_refused(far: FarSide) -> None:
    for number, payload in enumerate(PAYLOADS[::25]):
        quoted = '"' + payload.replace('"', '""') + '"'
        for operation in ("drop", "truncate", "analyze", "reindex", "refresh_mview"):
            guard = {"confirm": [payload]} if operation in ("drop", "truncate") else {}
            run = {"context": {"run_id": f"{operation}{number}"}}
            with pytest.raises(FlowRunnerError):
                maintain(far, operation, tables=[payload], **guard, **run)
            guard = {"confirm": [quoted]} if guard else {}
            with pytest.raises(FlowRunnerError):
                maintain(far, operation, tables=[quoted], **guard, **run)
    assert [len(far.rows(table)) for table in ("t", "u", "victim")] == [3, 3, 3]


@pytest.mark.backend
def test_odd_names(make_server: Callable[[], FarSide]) -> None:
    far = prepared(make_server())
    name = far.name("").rstrip(".") + '."a ""b""; DROP TABLE t; -- %s"'
    far.run(f"CREATE TABLE {name} (id integer)")
    maintain(far, "analyze", tables=[name])
    maintain(far, "truncate", tables=[name], confirm=[name], context={"run_id": "2"})
    maintain(far, "drop", tables=[name], confirm=[name], context={"run_id": "3"})
    assert far.tables() == {"t", "u", "victim", "flowrunner_ledger"}


@pytest.mark.backend
def test_referenced_tables_are_not_dropped(make_server: Callable[[], FarSide]) -> None:
    far = prepared(make_server())
    far.run(f"CREATE TABLE {far.name('child')} (id integer, FOREIGN KEY (id) REFERENCES {far.name('t')} (id))")
    with pytest.raises(Rejected):
        maintain(far, "drop", "t")
    assert len(far.rows("t")) == 3
    assert len(maintain(far, "drop", "child", "t")["tables"]) == 2


@pytest.mark.backend
def test_a_login_without_the_privilege(make_server: Callable[[], FarSide]) -> None:
    far = prepared(make_server())
    reader = with_login(far, f"GRANT SELECT ON {far.name('t')}")
    for operation in ("truncate", "drop", "analyze", "vacuum", "reindex"):
        with pytest.raises(AccessDenied) as caught:
            maintain(reader, operation, "t", context={"run_id": operation})
        assert caught.value.remedy
    assert len(far.rows("t")) == 3
