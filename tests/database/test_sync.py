"""Syncs between real databases: every pair of dialects, every mode, and what must not happen."""

from __future__ import annotations

import itertools
import json
from typing import Any, ClassVar

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.database.operators.sync import SqlSyncOperator
from tests.database.far_side import CONN_ID, FarSide, act
from tests.database.payloads import PAYLOADS

SOURCE = "shop"
_runs = itertools.count(1)


def connect(monkeypatch: pytest.MonkeyPatch, source: FarSide, dest: FarSide) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{SOURCE.upper()}", source.connection)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", dest.connection)


class Pair:
    """A source and a destination with a table ``orders`` each."""

    def __init__(self, source: FarSide, dest: FarSide) -> None:
        self.source, self.dest = source, dest

    def prepare(self, *, note: str = "text") -> Pair:
        columns = f"(id integer PRIMARY KEY, note {note}, n integer)"
        self.source.run(f"CREATE TABLE {self.source.name('orders')} {columns}")
        self.dest.run(f"CREATE TABLE {self.dest.name('copy')} {columns}")
        return self

    def fill(self, *rows: str) -> Pair:
        self.source.run(f"INSERT INTO {self.source.name('orders')} VALUES {', '.join(rows)}")
        return self

    def sync(self, **more: Any) -> Any:
        """One run of the task; another one each time."""
        if "sql" not in more:
            more.setdefault("source_table", self.source.name("orders"))
        context = more.pop("context", {"run_id": f"run-{next(_runs)}"})
        table = {"table": self.dest.name("copy")}
        return act(self.dest, SqlSyncOperator, source_conn_id=SOURCE, **{**table, **more}, context=context)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.dest.rows("copy")


def pair_of(request: pytest.FixtureRequest, source: str, dest: str) -> Pair:
    pair = Pair(request.getfixturevalue(f"make_{source}")(), request.getfixturevalue(f"make_{dest}")())
    connect(request.getfixturevalue("monkeypatch"), pair.source, pair.dest)
    return pair


KINDS = ["sqlite", "postgres", "mysql", "mssql"]


@pytest.fixture(params=itertools.product(KINDS, KINDS), ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Every source with every destination."""
    return pair_of(request, *request.param).prepare()


@pytest.fixture(params=KINDS)
def into(request: pytest.FixtureRequest) -> Pair:
    """Every destination."""
    return pair_of(request, "postgres", request.param).prepare()


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Pair:
    """From PostgreSQL into PostgreSQL."""
    return pair_of(request, "postgres", "postgres").prepare()


ODD = ["(1, 'a\tb\nc\\\\d', NULL)", "(2, '', 7)", "(3, NULL, -1)", "(4, 'NULL', 0)", "(5, '\\\\N \"q\" ''x'' €', 1)"]


def odd(kind: str) -> list[str]:
    """The rows as literals: MySQL alone reads a backslash as an escape."""
    return ODD if kind == "mysql" else [row.replace("\\\\", "\\") for row in ODD]


def read(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows]


ROWS = [(1, "a\tb\nc\\d", None), (2, "", 7), (3, None, -1), (4, "NULL", 0), (5, "\\N \"q\" 'x' €", 1)]


class TestEveryPair:
    def test_full_replaces_all_rows(self, pair: Pair) -> None:
        pair.fill(*odd(pair.source.kind))
        pair.dest.run(f"INSERT INTO {pair.dest.name('copy')} VALUES (9, 'old', 9)")
        result = pair.sync()
        assert read(pair.rows()) == ROWS
        assert (result["rows"], result["inserted"], result["deleted"]) == (5, 5, 0)
        assert pair.dest.tables() == {"copy", "flowrunner_ledger"} | ({"orders"} if pair.source is pair.dest else set())

    def test_merge_updates_inserts_and_deletes(self, pair: Pair) -> None:
        pair.fill(*odd(pair.source.kind))
        pair.dest.run(f"INSERT INTO {pair.dest.name('copy')} VALUES (1, 'old', 9), (8, 'gone', 1), (9, 'gone', 1)")
        result = pair.sync(mode="merge", keys=["id"], detect_deletes=True)
        assert read(pair.rows()) == ROWS
        assert (result["inserted"], result["updated"], result["deleted"]) == (4, 1, 2)

    def test_incremental_goes_on_where_the_last_run_was(self, pair: Pair) -> None:
        pair.fill("(1, 'a', 1)", "(2, 'b', 2)")
        settings = {"mode": "incremental", "keys": ["id"], "watermark": "n"}
        first = pair.sync(**settings)
        assert (first["rows"], first["since"], first["until"]) == (2, None, "2")
        pair.source.run(f"UPDATE {pair.source.name('orders')} SET note = 'not seen' WHERE id = 1")
        pair.source.run(f"UPDATE {pair.source.name('orders')} SET note = 'tie' WHERE id = 2")
        pair.fill("(3, 'c', 2)", "(4, 'd', 5)")
        second = pair.sync(**settings)
        assert (second["since"], second["until"], second["inserted"], second["updated"]) == ("2", "5", 2, 1)
        assert read(pair.rows()) == [(1, "a", 1), (2, "tie", 2), (3, "c", 2), (4, "d", 5)]
        third = pair.sync(**settings, lookback=4)
        assert (third["since"], third["rows"], third["inserted"]) == ("1", 4, 0)
        assert pair.rows()[0][1] == "not seen"


class TestDeletes:
    MERGE: ClassVar[dict[str, Any]] = {"mode": "merge", "keys": ["id"], "detect_deletes": True}
    GROWN: ClassVar[dict[str, Any]] = {"mode": "incremental", "keys": ["id"], "watermark": "n", "detect_deletes": True}

    @pytest.mark.parametrize("settings", [MERGE, GROWN], ids=["merge", "incremental"])
    def test_more_than_agreed_on_change_nothing(self, into: Pair, settings: dict[str, Any]) -> None:
        into.fill("(1, 'a', 1)")
        into.dest.run(f"INSERT INTO {into.dest.name('copy')} VALUES (7, 'gone', 1), (8, 'gone', 1), (9, 'gone', 1)")
        with pytest.raises(IntegrityError, match=r"3 rows .* max_deletes=2; nothing was changed"):
            into.sync(**settings, max_deletes=2)
        assert [row[0] for row in into.rows()] == [7, 8, 9]
        assert into.sync(**settings, max_deletes="3")["deleted"] == 3
        assert [row[0] for row in into.rows()] == [1]

    @pytest.mark.parametrize("settings", [MERGE, GROWN], ids=["merge", "incremental"])
    def test_an_empty_source_deletes_nothing(self, into: Pair, settings: dict[str, Any]) -> None:
        into.dest.run(f"INSERT INTO {into.dest.name('copy')} VALUES (9, 'stays', 1)")
        with pytest.raises(IntegrityError, match="has no rows; nothing was changed"):
            into.sync(**settings)
        assert len(into.rows()) == 1
        assert into.sync(**settings, allow_empty=True)["deleted"] == 1

    @pytest.mark.parametrize("kind", ["boolean", "timestamp NULL"])
    def test_rows_are_marked_and_unmarked(self, into: Pair, kind: str) -> None:
        into.dest.run(f"ALTER TABLE {into.dest.name('copy')} ADD COLUMN gone {kind}")
        into.fill("(1, 'a', 1)", "(2, 'b', 2)")
        settings = {**self.GROWN, "soft_delete_column": "gone"}
        into.sync(**settings)
        into.source.run(f"DELETE FROM {into.source.name('orders')} WHERE id = 1")
        assert (into.sync(**settings)["deleted"], into.sync(**settings)["deleted"]) == (1, 0)
        assert [bool(row[3]) for row in into.rows()] == [True, False]
        into.fill("(1, 'back', 0)")
        result = into.sync(**settings)
        assert (result["deleted"], result["restored"], result["inserted"]) == (0, 1, 0)
        assert [bool(row[3]) for row in into.rows()] == [False, False]

    def test_a_listing_is_of_all_keys_and_not_of_the_new_ones(self, into: Pair) -> None:
        into.fill("(1, 'a', 1)", "(2, 'b', 2)", "(3, 'c', 3)")
        into.sync(**self.GROWN)
        into.source.run(f"DELETE FROM {into.source.name('orders')} WHERE id = 2")
        into.fill("(4, 'd', 4)")
        result = into.sync(**self.GROWN)
        assert (result["deleted"], result["rows"]) == (1, 2)
        assert [row[0] for row in into.rows()] == [1, 3, 4]

    def test_long_texts_as_keys(self, request: pytest.FixtureRequest) -> None:
        """MariaDB has unique indexes on them, but they cannot be a primary key."""
        pair = pair_of(request, "postgres", "mysql")
        pair.source.run(f"CREATE TABLE {pair.source.name('orders')} (id text PRIMARY KEY, n integer)")
        pair.dest.run(f"CREATE TABLE {pair.dest.name('copy')} (id longtext, n integer, UNIQUE (id))")
        pair.dest.run(f"INSERT INTO {pair.dest.name('copy')} VALUES ('a', 0), ('gone', 0)")
        pair.fill("('a', 1)", "('b', 2)")
        result = pair.sync(mode="merge", keys=["id"], detect_deletes=True)
        assert (result["inserted"], result["updated"], result["deleted"]) == (1, 1, 1)
        assert pair.rows() == [("a", 1), ("b", 2)]

    @pytest.mark.parametrize("name", ["s", "t"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_table_that_is_named_like_an_alias(self, request: pytest.FixtureRequest, kind: str, name: str) -> None:
        pair = pair_of(request, "postgres", kind)
        pair.source.run(f"CREATE TABLE {pair.source.name('orders')} (id integer PRIMARY KEY, n integer)")
        pair.dest.run(f"CREATE TABLE {pair.dest.name(name)} (id integer PRIMARY KEY, n integer)")
        pair.dest.run(f"INSERT INTO {pair.dest.name(name)} VALUES (1, 1), (2, 2), (3, 3)")
        pair.fill("(1, 10)", "(3, 3)", "(4, 40)")
        pair.sync(mode="merge", keys=["id"], detect_deletes=True, table=pair.dest.name(name))
        assert pair.dest.rows(name) == [(1, 10), (3, 3), (4, 40)]


class TestColumns:
    def test_a_new_column_is_an_error_by_default(self, into: Pair) -> None:
        into.fill("(1, 'a', 1)")
        into.source.run(f"ALTER TABLE {into.source.name('orders')} ADD COLUMN more timestamp")
        with pytest.raises(ConfigError, match=r"a column 'more' that"):
            into.sync()
        assert into.rows() == []

    @pytest.mark.parametrize("settings", [{}, {"replace_by": "delete"}, {"mode": "merge", "keys": ["id"]}], ids=str)
    def test_it_is_added_or_ignored(self, into: Pair, settings: dict[str, Any]) -> None:
        into.fill("(1, 'a', 1)")
        into.source.run(f'ALTER TABLE {into.source.name("orders")} ADD COLUMN "more %s" bigint DEFAULT 5')
        assert into.sync(**settings, schema_drift="ignore")["columns_added"] == []
        assert len(into.rows()[0]) == 3
        assert into.sync(**settings, schema_drift="add")["columns_added"] == ["more %s"]
        assert read(into.rows()) == [(1, "a", 1, 5)]
        assert into.sync(**settings, schema_drift="add")["columns_added"] == []

    def test_columns_are_mapped_and_left_out(self, into: Pair) -> None:
        into.fill("(1, 'a', 1)")
        into.sync(column_map={"n": "note", "note": None})
        assert read(into.rows()) == [(1, "1", None)]

    @pytest.mark.parametrize(
        "more",
        [
            {"column_map": {"nothing": "id"}},
            {"column_map": {"note": "id"}},
            {"column_map": {"id": None}, "mode": "merge", "keys": ["id"]},
            {"mode": "merge", "keys": ["note"]},
            {"mode": "incremental", "keys": ["id"], "watermark": "nothing"},
            {"mode": "merge", "keys": ["id"], "detect_deletes": True, "soft_delete_column": "nothing"},
        ],
        ids=str,
    )
    def test_what_does_not_fit_the_tables(self, two: Pair, more: dict[str, Any]) -> None:
        two.fill("(1, 'a', 1)")
        with pytest.raises(ConfigError) as caught:
            two.sync(**more)
        assert caught.value.field in {*more}
        assert caught.value.remedy
        assert two.rows() == []


class TestReplacing:
    def test_a_table_with_a_view_keeps_it(self, two: Pair) -> None:
        two.fill("(1, 'a', 1)")
        two.dest.run(f"CREATE VIEW {two.dest.name('seen')} AS SELECT id FROM {two.dest.name('copy')}")
        with pytest.raises(ConfigError, match="views"):
            two.sync(replace_by="swap")
        two.sync()
        assert two.dest.rows("seen") == [(1,)]

    def test_an_empty_source_empties_nothing(self, into: Pair) -> None:
        into.dest.run(f"INSERT INTO {into.dest.name('copy')} VALUES (9, 'stays', 1)")
        for more in ({}, {"replace_by": "delete"}, {"mode": "merge", "keys": ["id"]}):
            with pytest.raises(IntegrityError, match="has no rows; nothing was changed"):
                into.sync(**more)
        assert [row[0] for row in into.rows()] == [9]
        assert into.sync(allow_empty=True)["rows"] == 0
        assert into.rows() == []

    def test_a_failure_in_the_middle_and_its_retries_double_nothing(self, into: Pair) -> None:
        """GenericTransfer left the pages that it had inserted, and each retry inserted them again."""
        into.fill(*(f"({n}, 'a', {n})" for n in range(1, 41)))
        into.dest.run(f"INSERT INTO {into.dest.name('copy')} VALUES (99, 'old', 1)")
        context = {"run_id": "the same"}
        broken = f"SELECT id, note, 1 / (30 - id) AS n FROM {into.source.name('orders')} ORDER BY id"
        for _ in range(3):
            with pytest.raises(Rejected, match="22012"):
                into.sync(sql=broken, batch_size=7, context=context)
            assert [row[0] for row in into.rows()] == [99]
        into.sync(context=context, mode="merge", keys=["id"])
        into.sync(context=context, mode="merge", keys=["id"])
        assert len(into.rows()) == 41

    def test_a_moving_source_is_one_snapshot(self, into: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        """With LIMIT and OFFSET rows were skipped and doubled."""
        from flowrunner_provider.database.sync import engine as module

        into.fill(*(f"({n}, 'a', {n})" for n in range(1, 41)))

        def failpoint(name: str) -> None:
            if name == "sql.sync.after_replacement":
                into.source.run(f"DELETE FROM {into.source.name('orders')} WHERE id < 20")
                into.fill("(0, 'late', 0)")

        monkeypatch.setattr(module, "failpoint", failpoint)
        into.sync(batch_size=7)
        assert [row[0] for row in into.rows()] == list(range(1, 41))


class TestWatermark:
    SETTINGS: ClassVar[dict[str, Any]] = {"mode": "incremental", "keys": ["id"], "watermark": "at"}

    def timed(self, pair: Pair) -> Pair:
        for far, table in ((pair.source, "orders"), (pair.dest, "copy")):
            far.run(
                f"ALTER TABLE {far.name(table)} ADD COLUMN at {'timestamp(6) NULL' if far.kind != 'sqlite' else 'text'}"
            )
        return pair

    def test_nothing_new_is_no_failure(self, pair: Pair) -> None:
        self.timed(pair)
        assert pair.sync(**self.SETTINGS)["until"] is None
        pair.fill("(1, 'a', 1, '2026-01-01 10:00:00.123456')")
        assert pair.sync(**self.SETTINGS)["inserted"] == 1
        assert pair.sync(**self.SETTINGS)["inserted"] == 0

    def test_late_rows_are_found_within_the_lookback(self, pair: Pair) -> None:
        self.timed(pair).fill("(1, 'a', 1, '2026-01-01 10:00:00.5')")
        pair.sync(**self.SETTINGS)
        pair.fill("(2, 'late', 1, '2026-01-01 09:30:00')", "(3, 'later', 1, '2026-01-01 08:00:00')")
        pair.sync(**self.SETTINGS, lookback="1h")
        assert [row[0] for row in pair.rows()] == [1, 2]

    def test_rows_that_come_meanwhile_come_with_the_next_run(self, into: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        from flowrunner_provider.database.sync import engine as module

        self.timed(into).fill("(1, 'a', 1, '2026-01-01')")

        def failpoint(name: str) -> None:
            if name == "sql.sync.after_stage":
                into.fill("(2, 'b', 2, '2026-01-02')")

        with monkeypatch.context() as patch:
            patch.setattr(module, "failpoint", failpoint)
            assert into.sync(**self.SETTINGS)["until"] == "2026-01-01T00:00:00"
        assert into.sync(**self.SETTINGS)["inserted"] == 1

    def test_a_row_without_it_or_from_the_future_is_an_error(self, into: Pair) -> None:
        self.timed(into).fill("(1, 'a', 1, NULL)")
        with pytest.raises(IntegrityError, match="has no at"):
            into.sync(**self.SETTINGS)
        into.source.run(f"UPDATE {into.source.name('orders')} SET at = '9999-12-31'")
        with pytest.raises(IntegrityError, match="in the future"):
            into.sync(**self.SETTINGS)
        assert into.rows() == []

    def test_a_value_that_no_row_can_follow_is_an_error(self, request: pytest.FixtureRequest) -> None:
        """Compared with NaN or infinity, no later row is new."""
        pair = pair_of(request, "postgres", "postgres")
        for far, table in ((pair.source, "orders"), (pair.dest, "copy")):
            far.run(f"CREATE TABLE {far.name(table)} (id integer PRIMARY KEY, n double precision)")
        for odd in ("NaN", "Infinity"):
            pair.source.run(f"DELETE FROM {pair.source.name('orders')}")
            pair.fill("(1, 1)", f"(2, '{odd}')")
            with pytest.raises(IntegrityError, match="no row can come after it"):
                pair.sync(mode="incremental", keys=["id"], watermark="n")
        assert pair.rows() == []

    def test_a_failed_run_does_not_move_it(self, into: Pair) -> None:
        self.timed(into).fill("(1, 'a', 1, '2026-01-01')")
        into.sync(**self.SETTINGS)
        into.fill("(2, 'b', 2, '2026-01-02')")
        into.dest.run(f"ALTER TABLE {into.dest.name('copy')} DROP COLUMN note")
        with pytest.raises(ConfigError):
            into.sync(**self.SETTINGS)
        into.dest.run(f"ALTER TABLE {into.dest.name('copy')} ADD COLUMN note text")
        into.dest.forget()
        assert into.sync(**self.SETTINGS)["inserted"] == 1

    def test_parameters_and_percent_signs(self, into: Pair) -> None:
        self.timed(into).fill("(1, '100%', 1, '2026-01-01')", "(2, 'no', 2, '2026-01-01')")
        table = into.source.name("orders")
        for sql, parameters in (
            (f"SELECT * FROM {table} WHERE note LIKE '%\\%'", None),
            (f"SELECT * FROM {table} WHERE note LIKE %s AND id %% 2 = 1", ["%\\%"]),
            (f"SELECT * FROM {table} WHERE note LIKE %(like)s;", {"like": "%\\%"}),
        ):
            for _ in range(2):
                assert into.sync(sql=sql, parameters=parameters, **self.SETTINGS)["rows"] == 1
        assert [row[:2] for row in into.rows()] == [(1, "100%")]


class TestOneConnection:
    def test_tables_of_one_database(self, request: pytest.FixtureRequest) -> None:
        for kind in KINDS:
            far = request.getfixturevalue(f"make_{kind}")()
            pair = Pair(far, far)
            connect(request.getfixturevalue("monkeypatch"), far, far)
            pair.prepare().fill("(1, 'a', 1)", "(2, 'b', 2)")
            for settings in ({}, {"replace_by": "delete"}, {"mode": "merge", "keys": ["id"], "detect_deletes": True}):
                assert pair.sync(**settings)["rows"] == 2
                assert read(pair.rows()) == [(1, "a", 1), (2, "b", 2)]
            own = f"SELECT id, note, n + 1 AS n FROM {far.name('copy')}"
            pair.sync(sql=own)
            assert read(pair.rows()) == [(1, "a", 2), (2, "b", 3)]

    def test_a_query_that_writes_is_refused(self, request: pytest.FixtureRequest) -> None:
        far = request.getfixturevalue("make_sqlite")()
        pair = Pair(far, far)
        connect(request.getfixturevalue("monkeypatch"), far, far)
        pair.prepare().fill("(1, 'a', 1)")
        with pytest.raises(Exception, match="SQLITE_READONLY"):
            pair.sync(sql="DELETE FROM orders RETURNING *")
        assert len(far.rows()) == 1

    def test_the_same_table_twice_is_refused(self, two: Pair) -> None:
        with pytest.raises(ConfigError, match="the same table"):
            act(
                two.dest,
                SqlSyncOperator,
                source_conn_id=CONN_ID,
                source_table=two.dest.name("copy"),
                table=two.dest.name("copy"),
            )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"mode": "all"}, "mode"),
        ({"mode": "merge"}, "keys"),
        ({"keys": ["id"]}, "keys"),
        ({"mode": "merge", "keys": "id"}, "keys"),
        ({"mode": "incremental", "keys": ["id"]}, "watermark"),
        ({"lookback": "1h"}, "lookback"),
        ({"mode": "incremental", "keys": ["id"], "watermark": "n", "lookback": "soon"}, "lookback"),
        ({"detect_deletes": True}, "detect_deletes"),
        ({"soft_delete_column": "gone"}, "soft_delete_column"),
        ({"max_deletes": -1}, "max_deletes"),
        ({"max_deletes": "many"}, "max_deletes"),
        ({"schema_drift": "maybe"}, "schema_drift"),
        ({"replace_by": "hand"}, "replace_by"),
        ({"batch_size": 0}, "batch_size"),
        ({"column_map": ["id"]}, "column_map"),
        ({"sql": "SELECT 1", "source_table": "a"}, "sql"),
        ({"sql": " ; "}, "sql"),
        ({"source_table": "a; DROP TABLE b"}, "source_table"),
        ({"source_table": "a", "parameters": [1]}, "parameters"),
        ({"table": "a b"}, "table"),
    ],
    ids=str,
)
def test_bad_input_is_refused_first(tmp_path: Any, arguments: dict[str, Any], field: str) -> None:
    from tests.support.context import execute, make_context

    if "sql" not in arguments:
        arguments = {"source_table": "orders", **arguments}
    given = {"source_conn_id": "nowhere", "conn_id": "nowhere", "table": "copy", **arguments}
    operator = SqlSyncOperator(task_id="t", **given)
    with pytest.raises(ConfigError) as caught:
        execute(operator, make_context(operator, state=tmp_path))
    assert caught.value.field == field
    assert caught.value.remedy


# -- values ----------------------------------------------------------------------------------------------------

TYPES = {
    "b": ("boolean", "true"),
    "i": ("bigint", "-9223372036854775808"),
    "f": ("double precision", "0.1"),
    "d": ("numeric(20, 10)", "1234567890.0123456789"),
    "t": ("text", "E'a\\t\\n\\r\\f\\x0b\\b\\\\N \\\\f \"q\" \u20ac'"),
    "y": ("bytea", "'\\x00ff0a09'"),
    "a": ("date", "'2024-02-29'"),
    "m": ("timestamp", "'2024-02-29 23:59:59.999999'"),
    "z": ("timestamptz", "'2024-02-29 23:59:59.5+02'"),
    "u": ("uuid", "'6d1c5e0a-1111-4222-8333-444455556666'"),
    "j": ("jsonb", """'{"a": [1, "\u20ac"]}'"""),
}
THERE = {
    "postgres": {},
    "mysql": {"b": "tinyint(1)", "d": "decimal(20,10)", "t": "longtext", "y": "longblob", "m": "datetime(6)",
              "z": "datetime(6)", "u": "char(36)", "j": "json"},
    "sqlite": {"b": "integer", "d": "text", "t": "text", "y": "blob", "a": "text", "m": "text", "z": "text",
               "u": "text", "j": "text"},
    # the fake keeps decimals as SQLite does: 15 digits
    "mssql": {"b": "bit", "d": "nvarchar(40)", "t": "nvarchar(400)", "y": "varbinary(400)", "m": "datetime2(6)",
              "z": "datetimeoffset(6)", "u": "uniqueidentifier", "j": "nvarchar(400)"},
}  # fmt: skip
MOST = {"f": 0.1, "i": -9223372036854775808, "t": 'a\t\n\r\f\x0b\b\\N \\f "q" \u20ac', "y": b"\0\xff\n\t"}


@pytest.mark.parametrize("how", ["as it is", "another type"])
def test_values_of_every_type_arrive(request: pytest.FixtureRequest, how: str) -> None:
    """As they are; and in the other forms when one type differs."""
    for kind in KINDS:
        pair = pair_of(request, "postgres", kind)
        columns = {name: declared for name, (declared, _) in TYPES.items()}
        pair.source.run(
            f"CREATE TABLE {pair.source.name('orders')} ({', '.join(' '.join(x) for x in columns.items())})"
        )
        values = ", ".join(text for _, text in TYPES.values())
        pair.source.run(f"INSERT INTO {pair.source.name('orders')} VALUES ({values}), ({', '.join(['NULL'] * 11)})")
        columns |= THERE[kind]
        if how == "another type":
            columns |= {"i": "numeric(30)" if kind == "postgres" else columns["i"], "u": "varchar(40)"}
        pair.dest.run(f"CREATE TABLE {pair.dest.name('copy')} ({', '.join(' '.join(x) for x in columns.items())})")
        assert pair.sync()["rows"] == 2
        found = [row for row in pair.dest.rows("copy", "i") if row[1] is not None]
        row = dict(zip(columns, found[0], strict=True))
        assert {name: row[name] for name in MOST} == MOST
        assert int(row["b"]) == 1
        assert str(row["d"]) == "1234567890.0123456789"
        assert (str(row["a"]), str(row["u"])) == ("2024-02-29", "6d1c5e0a-1111-4222-8333-444455556666")
        assert str(row["m"]) == "2024-02-29 23:59:59.999999"
        assert str(row["z"]).removesuffix("+00:00").rstrip("0") == "2024-02-29 21:59:59.5"
        assert (json.loads(row["j"]) if isinstance(row["j"], str) else row["j"]) == {"a": [1, "\u20ac"]}
        assert len(pair.dest.rows("copy", "i")) == 2


def test_types_that_no_form_shares_go_value_by_value(request: pytest.FixtureRequest) -> None:
    pair = pair_of(request, "postgres", "mysql").prepare()
    pair.sync(sql="SELECT 1 AS id, ARRAY[1, 2] AS note, 3 AS n")
    assert pair.rows()[0][1] == "[1, 2]"


@pytest.mark.parametrize("payload", [text for text in PAYLOADS[::3] if "\r" not in text])
def test_names_are_names(request: pytest.FixtureRequest, payload: str) -> None:
    """As a column of both sides, as the key and as the watermark; where a name cannot be, nothing happens."""
    pair = pair_of(request, "sqlite", "postgres").prepare()
    quoted = '"' + payload.replace('"', '""') + '"'
    try:
        for far, table in ((pair.source, "orders"), (pair.dest, "copy")):
            far.run(f"CREATE TABLE {far.name(f'odd_{table}')} ({quoted} integer PRIMARY KEY)")
        pair.source.run("INSERT INTO odd_orders VALUES (1)")
        assert len(payload.encode()) <= 63  # a longer one is cut by the server
    except Exception:  # noqa: BLE001 - no database has such a name
        settings = {"source_table": "orders", "column_map": {"id": payload}}
        with pytest.raises(ConfigError):
            pair.sync(**settings)
        return
    tables = {"source_table": "odd_orders", "table": pair.dest.name("odd_copy")}
    for _ in range(2):
        pair.sync(mode="incremental", keys=[payload], watermark=payload, **tables)
    assert pair.dest.run(f"SELECT * FROM {pair.dest.name('odd_copy')}") == [(1,)]
    assert pair.dest.tables() == {"copy", "odd_copy", "flowrunner_ledger"}
