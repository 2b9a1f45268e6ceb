"""Comparisons between real databases."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.database.operators.reconcile import SqlReconcileOperator
from flowrunner_provider.database.reconcile.values import Sameness
from tests.database.far_side import CONN_ID, FarSide
from tests.support.context import execute, make_context
from tests.support.kill import sweep

KINDS = ["sqlite", "postgres", "mysql", "mssql"]
ROWS = ["(1, 'a', 1.5)", "(2, 'B', NULL)", "(10, 'é€', -3)", "(11, NULL, 0.1)"]


class Sides:
    """A table ``orders`` on each side."""

    def __init__(self, left: FarSide, right: FarSide) -> None:
        self.left, self.right = left, right

    def prepare(self, *rows: str) -> Sides:
        for far in (self.left, self.right):
            kind = "varchar(40)" if far.kind == "mysql" else "text"
            far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, note {kind}, n numeric(9, 3))")
            far.run(f"INSERT INTO {far.name('orders')} VALUES {', '.join(rows)}")
        return self

    def compare(self, **more: Any) -> Any:
        if "left_sql" not in more:
            more.setdefault("left_table", self.left.name("orders"))
            more.setdefault("right_table", self.right.name("orders"))
        ends = {"left_conn_id": "shop", "right_conn_id": CONN_ID}
        operator = SqlReconcileOperator(task_id="compare", **{**ends, **more})
        return execute(operator, make_context(operator, state=self.right.state))

    def read(self, path: Any) -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]


def sides_of(request: pytest.FixtureRequest, left: str, right: str) -> Sides:
    sides = Sides(request.getfixturevalue(f"make_{left}")(), request.getfixturevalue(f"make_{right}")())
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", sides.left.connection)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", sides.right.connection)
    return sides


@pytest.fixture(params=itertools.combinations_with_replacement(KINDS, 2), ids="-".join)
def sides(request: pytest.FixtureRequest) -> Sides:
    """Every pair of dialects."""
    return sides_of(request, *request.param).prepare(*ROWS)


class TestEveryPair:
    @pytest.mark.parametrize(
        "how", [{}, {"compare": "sums", "columns": ["id", "n"]}, {"compare": "rows", "keys": ["id"]}], ids=str
    )
    def test_the_same(self, sides: Sides, how: dict[str, Any]) -> None:
        result = sides.compare(**how)
        assert (result["matches"], result["left_rows"], result["right_rows"]) == (True, 4, 4)

    def test_what_differs_is_named_by_its_key(self, sides: Sides) -> None:
        sides.left.run(f"DELETE FROM {sides.left.name('orders')} WHERE id = 1")
        sides.right.run(f"DELETE FROM {sides.right.name('orders')} WHERE id = 11")
        sides.right.run(f"UPDATE {sides.right.name('orders')} SET note = 'secret', n = 7 WHERE id = 10")
        path = sides.right.folder / "diff.jsonl"
        how = {"compare": "rows", "keys": ["id"], "batch_size": 1, "diff_path": str(path)}
        with pytest.raises(IntegrityError, match="1 only left, 1 only right, 1 different") as caught:
            sides.compare(**how)
        assert "secret" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert sides.read(path) == [
            {"id": 1, "found": "only_right", "columns": []},
            {"id": 10, "found": "different", "columns": ["note", "n"]},
            {"id": 11, "found": "only_left", "columns": []},
        ]
        result = sides.compare(**how, on_mismatch="report", max_diffs=2)
        assert (result["only_left"], result["only_right"], result["different"], result["diff"]["rows"]) == (1, 1, 1, 2)
        assert not sides.compare(on_mismatch="report", **{**how, "columns": ["note"]})["matches"]

    def test_texts_as_keys_come_in_one_order(self, sides: Sides) -> None:
        for far in (sides.left, sides.right):
            far.run(f"UPDATE {far.name('orders')} SET note = 'Ab_ 1' WHERE note IS NULL")
        assert sides.compare(compare="rows", keys=["note"])["matches"]
        assert sides.compare(compare="rows", keys=["note", "id"])["matches"]

    def test_sums_and_their_tolerance(self, sides: Sides) -> None:
        sides.right.run(f"UPDATE {sides.right.name('orders')} SET n = 1.502 WHERE id = 1")
        how = {"compare": "sums", "columns": ["n"]}
        with pytest.raises(IntegrityError, match="other sums of n"):
            sides.compare(**how, tolerance=0.001)
        assert sides.compare(**how, tolerance="0.0021")["matches"]
        assert sides.compare(compare="rows", keys=["id"], tolerance=0.003)["matches"]

    def test_counts_differ(self, sides: Sides) -> None:
        sides.right.run(f"DELETE FROM {sides.right.name('orders')} WHERE id = 1")
        with pytest.raises(IntegrityError, match="4 rows on the left, 3 on the right"):
            sides.compare()

    def test_nothing_is_not_the_same(self, sides: Sides) -> None:
        for far in (sides.left, sides.right):
            far.run(f"DELETE FROM {far.name('orders')}")
        with pytest.raises(IntegrityError, match="nothing was compared"):
            sides.compare()
        assert sides.compare(allow_empty=True)["matches"]


class TestKeys:
    def test_a_key_with_a_character_below_the_space(self, request: pytest.FixtureRequest) -> None:
        """MySQL compares texts as if they had spaces at their ends."""
        sides = sides_of(request, "postgres", "mysql").prepare("(1, 'a', 1)", "(2, 'a ', 1)")
        for far, tab in ((sides.left, "E'a\\tb'"), (sides.right, "'a\\tb'")):
            far.run(f"INSERT INTO {far.name('orders')} VALUES (3, {tab}, 1)")
        assert sides.compare(compare="rows", keys=["note"])["matches"]

    def test_a_key_that_is_not_a_number(self, request: pytest.FixtureRequest) -> None:
        sides = sides_of(request, "postgres", "postgres")
        for far in (sides.left, sides.right):
            far.run(f"CREATE TABLE {far.name('orders')} (id double precision PRIMARY KEY)")
            far.run(f"INSERT INTO {far.name('orders')} VALUES (1), ('NaN')")
        with pytest.raises(ConfigError, match="order"):
            sides.compare(compare="rows", keys=["id"])

    def test_a_key_twice_or_missing(self, request: pytest.FixtureRequest) -> None:
        sides = sides_of(request, "postgres", "sqlite").prepare(*ROWS)
        with pytest.raises(IntegrityError, match="no value in a key"):
            sides.compare(compare="rows", keys=["note"])
        doubled = f"SELECT 1 AS id FROM {sides.left.name('orders')}"
        with pytest.raises(IntegrityError, match="has a duplicate key"):
            sides.compare(left_sql=doubled, right_sql="SELECT 1 AS id FROM orders", compare="rows", keys=["id"])
        with pytest.raises(ConfigError, match="cannot be ordered"):
            sides.compare(left_sql="SELECT 1 AS id", right_sql="SELECT 'x' AS id", compare="rows", keys=["id"])

    def test_uuids_times_and_parameters(self, request: pytest.FixtureRequest) -> None:
        sides = sides_of(request, "postgres", "sqlite").prepare(*ROWS)
        left = (
            "SELECT md5(g::text)::uuid AS id, timestamptz '2026-01-01 10:00:00+00' + g * interval '1 second' AS at"
            " FROM generate_series(1, %s) AS g"
        )
        [(rows,)] = sides.left.run(f"SELECT json_agg(q) FROM ({left.replace('%s', '50')}) AS q")
        sides.right.run("CREATE TABLE times (id text, at text)")
        for row in rows:
            sides.right.run(f"INSERT INTO times VALUES ('{row['id']}', '{row['at'][:19].replace('T', ' ')}.4')")
        how = {"left_sql": left, "left_parameters": [50], "right_table": "times", "compare": "rows", "keys": ["id"]}
        assert sides.compare(**how, on_mismatch="report")["different"] == 50
        assert sides.compare(**how, time_tolerance=0.5)["matches"]


def test_sameness() -> None:
    same = Sameness(numbers=Decimal("0.1"))
    assert same.of(1, 1.05)
    assert same.of(True, 1)
    assert same.of("1.05", Decimal(1))
    assert same.of({"a": 1}, '{"a": 1}')
    assert same.of(float("nan"), float("nan"))
    assert not same.of(float("inf"), 1)
    assert not same.of(None, 0)
    assert not same.of("", None)
    assert not same.of("a", 1)


def play(sides: Sides) -> Any:
    import os

    os.environ["AIRFLOW_CONN_SHOP"] = sides.left.connection
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = sides.right.connection
    path = str(sides.right.folder / "diff.jsonl")
    tables = {"left_table": sides.left.name("orders"), "right_table": "orders", "diff_path": path}
    how = {"compare": "rows", "keys": ["id"], "on_mismatch": "report", **tables}
    operator = SqlReconcileOperator(task_id="compare", left_conn_id="shop", right_conn_id=CONN_ID, **how)
    return execute(operator, make_context(operator, state=sides.right.state))


def check(sides: Sides) -> None:
    assert sides.read(sides.right.folder / "diff.jsonl") == [{"id": 1, "found": "only_left", "columns": []}]
    assert {path.name for path in sides.right.folder.iterdir()} == {"diff.jsonl", "far.db", "state"}


@pytest.mark.faults
def test_every_kill(request: pytest.FixtureRequest) -> None:
    def make() -> Sides:
        sides = sides_of(request, "postgres", "sqlite").prepare(*ROWS)
        sides.right.run("DELETE FROM orders WHERE id = 1")
        return sides

    assert sweep(make, play, check).kills > 3


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"compare": "all"}, "compare"),
        ({"compare": "rows"}, "keys"),
        ({"keys": ["id"]}, "keys"),
        ({"columns": ["id"]}, "columns"),
        ({"compare": "sums", "columns": ["id", "id"]}, "columns"),
        ({"tolerance": "much"}, "tolerance"),
        ({"tolerance": -1}, "tolerance"),
        ({"time_tolerance": "soon"}, "time_tolerance"),
        ({"diff_path": "/a.jsonl"}, "diff_path"),
        ({"compare": "rows", "keys": ["id"], "diff_path": "/a.csv"}, "diff_path"),
        ({"max_diffs": 0}, "max_diffs"),
        ({"on_mismatch": "cry"}, "on_mismatch"),
        ({"left_sql": "SELECT 1"}, "left_sql"),
        ({"right_table": "a b"}, "right_table"),
        ({"right_parameters": [1]}, "right_parameters"),
    ],
    ids=str,
)
def test_bad_input_is_refused_first(tmp_path: Any, arguments: dict[str, Any], field: str) -> None:
    given = {"left_conn_id": "nowhere", "right_conn_id": "nowhere", "left_table": "a", "right_table": "b"}
    operator = SqlReconcileOperator(task_id="t", **{**given, **arguments})
    with pytest.raises(ConfigError) as caught:
        execute(operator, make_context(operator, state=tmp_path))
    assert caught.value.field == field
    assert caught.value.remedy
