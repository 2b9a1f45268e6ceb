"""What a MySQL or MariaDB server is set to otherwise than by default, on a real MariaDB with that setting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.database.config import MysqlConfig
from flowrunner_provider.database.dialects.model import Conflict
from flowrunner_provider.database.dialects.mysql_errors import classified, connect_failed
from flowrunner_provider.database.dialects.mysql_insert import InsertStream
from flowrunner_provider.database.dialects.mysql_query import settings as session_settings
from flowrunner_provider.database.dialects.mysql_tables import sees_triggers
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.operators.sync import SqlSyncOperator
from tests.database.far_side import CONN_ID, MysqlFarSide, act, connected, load_rows, with_login
from tests.database.test_mysql import TEXTS

pytestmark = pytest.mark.backend


@pytest.fixture
def far(make_mysql: Callable[[], MysqlFarSide], monkeypatch: pytest.MonkeyPatch) -> MysqlFarSide:
    return connected(make_mysql(), monkeypatch)


@contextmanager
def server_set(far: MysqlFarSide, name: str, value: int) -> Iterator[None]:
    """New sessions of the server have this setting."""
    before = far.run(f"SELECT @@GLOBAL.{name}")[0][0]
    far.run(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        far.run(f"SET GLOBAL {name} = {before}")


def test_a_load_outlives_a_pause_of_its_source(far: MysqlFarSide) -> None:
    """The server gives up a client that sends nothing for net_read_timeout, 30 seconds by default."""
    far.run(f"CREATE TABLE {far.name('orders')} (id integer)")
    with server_set(far, "net_read_timeout", 1), hook_for(CONN_ID).open(Deadline(60)) as session:
        session.begin()
        with session.copy(TableName.parse(far.name("orders")), ["id"]) as copier:
            copier.write([(1,)])
            time.sleep(2)
            copier.write([(2,)])
        assert copier.rows == 2
        session.commit()
    assert far.rows() == [(1,), (2,)]


def test_a_query_outlives_a_pause_of_its_reader(far: MysqlFarSide) -> None:
    """The server gives up a client that takes nothing for net_write_timeout, 60 seconds by default."""
    query = "SELECT REPEAT('x', 1000000) AS x FROM seq_1_to_60"
    with server_set(far, "net_write_timeout", 1), hook_for(CONN_ID).open(Deadline(60)) as session:
        session.begin(read_only=True)
        with session.stream(query, None, batch_rows=1) as batches:
            rows = len(next(batches))
            time.sleep(2.5)
            rows += sum(map(len, batches))
    assert rows == 60


def test_a_lock_outlives_a_long_silence(far: MysqlFarSide) -> None:
    """The session that holds the lock of a migration says nothing while scripts run in others."""
    with server_set(far, "wait_timeout", 1), hook_for(CONN_ID).open(Deadline(60)) as session:
        session.acquire_lock("silence")
        time.sleep(2.5)
        assert far.run("SELECT IS_USED_LOCK('flowrunner:silence')")[0][0] is not None


def test_replace_refuses_triggers_that_the_login_may_not_see(
    far: MysqlFarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY)")
    far.run(f"CREATE TRIGGER t BEFORE INSERT ON {far.name('orders')} FOR EACH ROW SET NEW.id = NEW.id")
    limited = with_login(far, f"GRANT SELECT, INSERT, UPDATE, DELETE, ALTER, DROP ON {far.database.name}.*")
    connected(limited, monkeypatch)
    with pytest.raises(ConfigError, match=r"(?s)trigger.*truncate"):
        load_rows(limited, far.jsonl([{"id": 1}]), mode="replace")
    assert far.run(
        f"SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = '{far.database.name}'"
    ) == [(1,)]


def test_a_primary_key_that_the_server_requires(far: MysqlFarSide) -> None:
    with server_set(far, "innodb_force_primary_key", 1), pytest.raises(ConfigError, match="primary key"):
        load_rows(far, far.jsonl([{"id": 1}]), create_table=True)


class TestWithoutLocalData:
    """MySQL 8 has local_infile off by default: rows travel as INSERT statements."""

    @pytest.fixture(autouse=True)
    def local_data_is_off(self, far: MysqlFarSide) -> Iterator[None]:
        with server_set(far, "local_infile", 0):
            yield

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.none(), st.binary(max_size=6))), min_size=1, max_size=6))
    def test_what_is_sent_is_stored(self, far: MysqlFarSide, rows: list[tuple[Any, ...]]) -> None:
        table = TableName.parse(far.name("t"))
        far.run(f"CREATE TABLE IF NOT EXISTS {far.name('t')} (a longtext, b longtext, c longblob)")
        with hook_for(CONN_ID).open(Deadline(60)) as session:
            session.begin()
            with session.copy(table, ["a", "b", "c"]) as copier:
                copier.write(rows)
            assert copier.rows == len(rows)
            assert session.run(f"SELECT a, b, c FROM {session.sql(table)}") == rows
            session.rollback()

    def test_bad_rows_are_set_aside_and_the_others_stored(self, far: MysqlFarSide) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, note varchar(3) NOT NULL)")
        rows = [
            {"id": 1, "note": "a"}, {"id": "x", "note": "b"}, {"id": 3, "note": "long"}, {"id": 4, "note": None},
            {"id": 1, "note": "d"}, {"id": 6, "note": "f"},
        ]  # fmt: skip
        rejects = far.folder / "rejects.jsonl"
        result = load_rows(far, far.jsonl(rows), on_bad_row="reject", reject_path=str(rejects))
        assert (result["inserted"], result["rejected"]) == (2, 4)
        assert far.rows() == [(1, "a"), (6, "f")]

    def test_a_csv_file_is_parsed(self, far: MysqlFarSide) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
        source = far.folder / "orders.csv"
        source.write_text('id,note\n1,"it\'s\\"\n2,\n')
        load_rows(far, str(source))
        assert far.rows() == [(1, "it's\\"), (2, None)]

    def test_many_rows_go_in_several_statements(self, far: MysqlFarSide) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note longtext)")
        load_rows(far, far.jsonl([{"id": n, "note": "x" * 100_000} for n in range(30)]))
        assert far.run(f"SELECT COUNT(*), SUM(LENGTH(note)) FROM {far.name('orders')}") == [(30, 3_000_000)]

    def test_rows_of_another_database(self, far: MysqlFarSide, request: pytest.FixtureRequest) -> None:
        source = request.getfixturevalue("make_postgres")()
        source.run(f"CREATE TABLE {source.name('orders')} (id integer PRIMARY KEY, note text, data bytea)")
        source.run(f"INSERT INTO {source.name('orders')} VALUES (1, E'a\\t''\\f\\\\', '\\x00ff'), (2, NULL, NULL)")
        far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, note text, data blob)")
        request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_SHOP", source.connection)
        table = {"source_conn_id": "shop", "source_table": source.name("orders"), "table": far.name("orders")}
        assert act(far, SqlSyncOperator, **table)["inserted"] == 2
        assert far.rows() == [(1, "a\t'\f\\", b"\x00\xff"), (2, None, None)]


def test_a_block_may_end_within_a_row() -> None:
    """In the middle of a value, of an escape, and of a character."""
    sent: list[bytes] = []
    data = "1\t\\\\é\n\\N\tit's\n".encode()
    for size in range(1, len(data)):
        sent.clear()
        stream = InsertStream("V ", ["{}", "UNHEX({})"], lambda statement: sent.append(statement) or 1)  # type: ignore[func-returns-value]
        for start in range(0, len(data), size):
            stream.write(data[start : start + size])
        rows = b",".join(statement.removeprefix(b"V ") for statement in sent)
        assert rows.decode() == "('1',UNHEX('\\\\é')),(NULL,UNHEX('it''s'))"


# -- MySQL 8, of which there is no server here: the statements, and the numbers of its errors ------------------


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("8.0.36", ["max_execution_time = 60000", "information_schema_stats_expiry = 0"], ["max_statement_time"]),
        ("8.4.0-cluster", ["information_schema_stats_expiry = 0"], ["max_statement_time"]),
        ("26.10.0", ["information_schema_stats_expiry = 0"], ["max_statement_time"]),
        ("5.7.44-log", ["max_execution_time = 60000"], ["information_schema_stats_expiry", "max_statement_time"]),
        ("5.5.5-10.11.6-MariaDB-log", ["max_statement_time = 60.000"], ["max_execution_time", "stats_expiry"]),
        ("11.4.2-MariaDB", ["max_statement_time = 60.000"], ["max_execution_time", "stats_expiry"]),
    ],
)
def test_settings_of_each_version(version: str, has: list[str], lacks: list[str]) -> None:
    config = MysqlConfig(statement_timeout=timedelta(minutes=1))
    text = session_settings(config, Deadline(3600), 10.0**12, version=version)
    assert text.startswith("SET SESSION sql_mode = 'STRICT_ALL_TABLES,")
    assert "net_read_timeout = 2147483, SESSION net_write_timeout = 2147483" in text
    assert all(part in text for part in has)
    assert not any(part in text for part in lacks)


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (3948, ConfigError, "local_infile"), (4166, ConfigError, "local_infile"), (3750, ConfigError, "primary key"),
        (1173, ConfigError, "primary key"), (3748, ConfigError, "binlog_format"), (1665, ConfigError, "binlog_format"),
        (3101, Conflict, "another transaction"), (3058, Conflict, "another transaction"), (3572, Conflict, ""),
        (3024, TimedOut, "too long"), (3819, Rejected, "violates a check"), (1290, Unavailable, "read-only"),
        (1047, Unavailable, ""), (1820, AccessDenied, ""), (3950, Rejected, ""),
    ],
)  # fmt: skip
def test_numbers(number: int, kind: type[FlowRunnerError], says: str) -> None:
    error = classified(number, "canary", "shop", broken=False, deadline=Deadline(60))
    assert type(error) is kind
    assert says in str(error)
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    ("number", "kind"), [(3159, AccessDenied), (3955, AccessDenied), (1129, Unavailable), (2003, ConnectionLost)]
)
def test_numbers_of_a_failed_login(number: int, kind: type[FlowRunnerError]) -> None:
    assert type(connect_failed(number, "shop")) is kind


@pytest.mark.parametrize(
    ("grants", "seen"),
    [
        (["GRANT USAGE ON *.* TO `a`@`%`", "GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%`"], True),
        (["GRANT SELECT, TRIGGER, CREATE ROLE ON *.* TO `a`@`%`"], True),
        (["GRANT SELECT, TRIGGER ON `sh_p`.* TO `a`@`%`"], True),
        (["GRANT SELECT, TRIGGER ON `shop`.`orders` TO `a`@`%`"], True),
        (["GRANT USAGE ON *.* TO `a`@`%`", "GRANT `writer`@`%`,`owner`@`%` TO `a`@`%`"], True),
        (["GRANT SELECT, TRIGGER ON `sh\\_p`.* TO `a`@`%`"], False),
        (["GRANT ALL PRIVILEGES ON `shop2`.* TO `a`@`%`", "GRANT SELECT ON `shop`.* TO `a`@`%`"], False),
        (["GRANT TRIGGER ON `shop`.`others` TO `a`@`%`"], False),
        (["GRANT SELECT (`TRIGGER`) ON `shop`.`orders` TO `a`@`%`"], False),
    ],
)
def test_grants_that_show_triggers(grants: list[str], seen: bool) -> None:
    session = SimpleNamespace(run=lambda sql: [(line,) for line in grants])
    assert sees_triggers(session, TableName.of("orders", "shop")) is seen  # type: ignore[arg-type]
