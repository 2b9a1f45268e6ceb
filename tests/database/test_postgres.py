"""PostgreSQL keeps the contract of dialects; and what only it has: COPY of files, swaps, its types."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, Rejected
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.database.dialects.base import CsvFile
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import TableName
from tests.contracts.dialect_contract import CANARY, DialectContract
from tests.database.far_side import CONN_ID, PostgresFarSide, connected, load_rows

pytestmark = pytest.mark.backend


@pytest.fixture
def far(make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch) -> PostgresFarSide:
    return connected(make_postgres(), monkeypatch)


class TestPostgres(DialectContract):
    """The contract, on a real server."""


def test_a_file_that_is_copied_is_read_as_the_parser_reads_it(far: PostgresFarSide) -> None:
    """Random files of the characters that matter: the same rows, or left to the parser."""
    draw = random.Random(7)
    table = TableName.parse(far.name("t"))
    far.run(f"CREATE TABLE {far.name('t')} (a text, b text)")
    alphabet = ['"', '""', ",", "\n", "x", "y z", "\\", "\\.", "\r\n", "\r", "é", "", '"x"', '"a,""b"', "1,2\n"]
    passed, equal = 0, 0
    with hook_for(CONN_ID).open(Deadline(60)) as session:
        for number in range(600):
            text = "a,b" + draw.choice(["\n", "\r\n"]) + "".join(draw.choices(alphabet, k=draw.randint(0, 14)))
            path = far.write(f"{number % 3}.csv", draw.choice(["", "\ufeff"]) + text)
            null_text = draw.choice([None, ""])
            session.begin()
            file = CsvFile(path=path, width=2, delimiter=",", encoding="utf-8-sig", null_text=null_text)
            copied = session.copy_file(table, ["a", "b"], file, lambda lines: None)
            if copied is not None:
                with open_rows(path, null_text=null_text) as rows:
                    parsed = [row for batch in rows for row in batch]
                found = session.run(f"SELECT a, b FROM {session.sql(table)}")
                assert found == parsed, text
                assert copied == (len(parsed), len(parsed))
                passed, equal = passed + 1, equal + bool(parsed)
            session.rollback()
    assert passed > 40
    assert equal > 10


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('id,note\n1,5" pipe\n2,6" pipe\n', [(1, '5" pipe'), (2, '6" pipe')]),
        ("id,note\n1,a\n\n2,b\n", [(1, "a"), (2, "b")]),
        ('id,note\n1,a\n2,"\\."\n', [(1, "a"), (2, "\\.")]),
        ('id,note\n1,"a\nb"\n2,""', [(1, "a\nb"), (2, None)]),
    ],
)
def test_odd_files_are_loaded_all_the_same(far: PostgresFarSide, text: str, rows: list[Any]) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
    assert load_rows(far, far.write("odd.csv", text))["rows"] == len(rows)
    assert far.rows() == rows


def test_a_copied_file_has_the_rows_that_its_dataset_says(far: PostgresFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
    path = far.write("a.csv", "id,note\n1,a\n2,b\n")
    with pytest.raises(IntegrityError):
        load_rows(far, {"path": path, "format": "csv", "rows": 3})
    assert far.rows() == []


def test_no_value_of_a_copied_file_is_told(far: PostgresFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
    with pytest.raises(Rejected, match=r"22P02.*near row 2") as caught:
        load_rows(far, far.write("a.csv", f"id,note\n1,x\n{CANARY},y\n"))
    assert CANARY not in repr(caught.value.to_event())


def test_the_types_of_parquet(far: PostgresFarSide) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = {
        "id": 2**62,
        "amount": Decimal("12345678901234567.89"),
        "ratio": float("inf"),
        "day": date(2026, 1, 2),
        "at": when,
        "took": timedelta(days=2, seconds=3, microseconds=4),
        "raw": b"\x00\xff",
        "tags": ["a", 'b"\\', None],
        "inner": {"k": [1]},
        "flag": False,
    }
    path = far.folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, dict.fromkeys(row)]), path)
    far.run(
        f"CREATE TABLE {far.name('typed')} (id bigint, amount numeric, ratio float8, day date, at timestamptz,"
        " took interval, raw bytea, tags text[], inner_ jsonb, flag boolean)"
    )
    load_rows(far, str(path), "typed", column_map={"inner": "inner_"})
    first, second = far.rows("typed")
    assert first == tuple(row.values())
    assert set(second) == {None}
    load_rows(far, str(path), "made", create_table=True, context={"run_id": "2"})
    types = f"SELECT data_type FROM information_schema.columns WHERE table_schema = '{far.schema}'"
    assert [row[0] for row in far.run(f"{types} AND table_name = 'made' ORDER BY ordinal_position")] == [
        "bigint", "numeric", "double precision", "date", "timestamp with time zone", "text", "bytea", "jsonb",
        "jsonb", "boolean",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("CREATE VIEW {s}.v AS SELECT * FROM {s}.orders", "views"),
        ("CREATE TABLE {s}.child (id integer REFERENCES {s}.orders)", "foreign keys"),
        ("ALTER TABLE {s}.orders ADD COLUMN n serial", "serial"),
        ("ALTER TABLE {s}.orders ADD COLUMN n integer GENERATED BY DEFAULT AS IDENTITY", "identity"),
        ("CREATE POLICY p ON {s}.orders USING (true)", "row security"),
        ("CREATE RULE r AS ON INSERT TO {s}.orders DO NOTHING", "rules"),
    ],
)
def test_replace_refuses_what_it_would_lose(far: PostgresFarSide, statement: str, lost: str) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY)")
    far.run(statement.format(s=far.schema))
    with pytest.raises(ConfigError, match=f"(?s){lost}.*truncate"):
        load_rows(far, far.jsonl([{"id": 1}]), mode="replace")


def test_replace_keeps_grants_defaults_and_names(far: PostgresFarSide) -> None:
    role = f'"odd ""role {far.schema}"'
    far.run(f"CREATE ROLE {role}")
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, n integer DEFAULT 7 CHECK (n > 0))")
    far.run(f"CREATE INDEX odd_index ON {far.name('orders')} (n)")
    far.run(f"GRANT SELECT, INSERT ON {far.name('orders')} TO {role} WITH GRANT OPTION")
    far.run(f"GRANT SELECT ON {far.name('orders')} TO PUBLIC")
    privileges = (
        "SELECT grantee, privilege_type, is_grantable FROM information_schema.role_table_grants"
        f" WHERE table_schema = '{far.schema}' AND table_name = 'orders' ORDER BY 1, 2"
    )
    indexes = f"SELECT indexname FROM pg_indexes WHERE schemaname = '{far.schema}' AND tablename = 'orders' ORDER BY 1"
    before = far.run(privileges), far.run(indexes)
    load_rows(far, far.jsonl([{"id": 1}]), mode="replace")
    assert (far.run(privileges), far.run(indexes)) == before
    assert far.rows() == [(1, 7)]


def test_upsert_into_partitions(far: PostgresFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, n integer) PARTITION BY RANGE (id)")
    far.run(f"CREATE TABLE {far.name('p')} PARTITION OF {far.name('orders')} DEFAULT")
    far.run(f"INSERT INTO {far.name('orders')} VALUES (1, 1)")
    result = load_rows(far, far.jsonl([{"id": 1, "n": 2}, {"id": 2, "n": 2}]), mode="upsert", keys=["id"])
    assert (result["inserted"], result["updated"]) == (1, 1)
    assert far.rows() == [(1, 2), (2, 2)]


def test_names_are_found_on_the_search_path_and_the_ledger_stands_beside(far: PostgresFarSide) -> None:
    far.run(f"CREATE TABLE {far.name('only_here')} (id integer)")
    far.run(f"ALTER ROLE {far.database.user} IN DATABASE {far.database.name} SET search_path = {far.schema}")
    try:
        schema = far.name("x").partition(".")[0]
        with hook_for(CONN_ID).open(Deadline(10)) as session:
            assert str(session.locate(TableName.parse("only_here"))) == f"{schema}.only_here"
            assert str(session.locate(TableName.parse("nowhere"))) == f"{schema}.nowhere"
    finally:
        far.run(f"ALTER ROLE {far.database.user} IN DATABASE {far.database.name} RESET search_path")


def test_a_view_is_no_target(far: PostgresFarSide) -> None:
    far.run(f"CREATE VIEW {far.name('orders')} AS SELECT 1 AS id")
    with pytest.raises(FlowRunnerError, match="is no table"):
        load_rows(far, far.jsonl([{"id": 1}]))
