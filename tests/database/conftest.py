"""Far sides."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.database.far_side import FarSide, MysqlFarSide, PostgresFarSide, SqliteFarSide, connected
from tests.database.mssql_far_side import FakeFarSide, LiveFarSide
from tests.support.tds_fake import TdsFake, tds_fake

if TYPE_CHECKING:
    from tests.support.mariadb import Mariadb
    from tests.support.postgres import Database, Postgres
    from tests.support.tls import Tls

for module in ("contract", "export", "transaction"):
    pytest.register_assert_rewrite(f"tests.contracts.dialect_{module}")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A server that the user names is asked with ``-m live_mssql`` only."""
    if "live_mssql" not in (config.option.markexpr or ""):
        live = [item for item in items if item.get_closest_marker("live_mssql")]
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if not item.get_closest_marker("live_mssql")]
    if "FLOWRUNNER_KILLS" not in os.environ:
        rare = [item for item in items if _is_rare(item)]
        config.hook.pytest_deselected(items=rare)
        items[:] = [item for item in items if not _is_rare(item)]


def _is_rare(item: pytest.Item) -> bool:
    """A sweep of kills on the fake SQL Server that the sweeps on real servers have told nearly all about."""
    sweeps = ("test_every_kill[mssql", "test_kills_at_random[mssql", "test_two_kills_in_a_row[mssql", "test_200_mb")
    always = tuple(f"test_every_kill[mssql-{case}]" for case in ("append", "swap", "drop", "outputs"))
    return "mssql" in item.name and item.name.startswith(sweeps) and not item.name.startswith(always)


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> Database:
    """One database; tests get a schema each."""
    return postgres.database()


@pytest.fixture
def make_sqlite(tmp_path: Path) -> Callable[[], SqliteFarSide]:
    """A factory of fresh SQLite far sides."""

    def make() -> SqliteFarSide:
        folder = tmp_path / f"far-{next(_numbers)}"
        folder.mkdir()
        return SqliteFarSide(folder)

    return make


@pytest.fixture
def make_postgres(tmp_path: Path, database: Database) -> Callable[[], PostgresFarSide]:
    """A factory of fresh PostgreSQL far sides."""

    def make() -> PostgresFarSide:
        number = next(_numbers)
        folder = tmp_path / f"far-{number}"
        folder.mkdir()
        return PostgresFarSide(folder, database, f"s{number}").make()

    return make


@pytest.fixture
def make_mysql(tmp_path: Path, mariadb: Mariadb) -> Callable[[], MysqlFarSide]:
    """A factory of fresh MariaDB far sides."""

    def make() -> MysqlFarSide:
        folder = tmp_path / f"far-{next(_numbers)}"
        folder.mkdir()
        return MysqlFarSide(folder, mariadb.database())

    return make


@pytest.fixture
def make_mssql(tmp_path: Path, tls: Tls) -> Iterator[Callable[[], FarSide]]:
    """A factory of fresh SQL Server far sides: fakes, or schemas of the server that FLOWRUNNER_MSSQL_DSN names."""
    with ExitStack() as stack:

        def make() -> FarSide:
            folder = tmp_path / f"far-{next(_numbers)}"
            folder.mkdir()
            if "FLOWRUNNER_MSSQL_DSN" in os.environ:
                address = json.loads(os.environ["FLOWRUNNER_MSSQL_DSN"])
                live = LiveFarSide(folder, address, f"t{uuid.uuid4().hex[:12]}").make()
                stack.callback(live.remove)
                return live
            file = folder.with_suffix(".db")
            server = stack.enter_context(tds_fake(file, tls.server_context()))
            return FakeFarSide(folder, file, server.port, tls.ca_file)

        yield make


@pytest.fixture
def server(tmp_path: Path, tls: Tls) -> Iterator[TdsFake]:
    """One fake SQL Server."""
    with tds_fake(tmp_path / "server.db", tls.server_context()) as found:
        yield found


@pytest.fixture
def fake(tmp_path: Path, server: TdsFake, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> FakeFarSide:
    """The far side on it, which the tests' connection leads to."""
    folder = tmp_path / "far"
    folder.mkdir()
    return connected(FakeFarSide(folder, server.file, server.port, tls.ca_file), monkeypatch)


@pytest.fixture(params=["sqlite", "postgres", "mysql", "mssql"])
def make_each(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    """A factory of far sides, for each dialect."""
    return _factory(request)


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def make_real(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    """A factory of far sides, for each dialect whose server is not a fake."""
    return _factory(request)


@pytest.fixture(params=["postgres", "mysql"])
def make_server(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    """A factory of far sides on a server."""
    return _factory(request)


def _factory(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    found: Callable[[], FarSide] = request.getfixturevalue(f"make_{request.param}")
    return found


@pytest.fixture
def make(make_each: Callable[[], FarSide]) -> Callable[[], FarSide]:
    """What a module's tests make their far sides with, where it does not say otherwise."""
    return make_each


@pytest.fixture
def far(make: Callable[[], FarSide]) -> FarSide:
    """A fresh far side."""
    return make()
