"""Far sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.database.far_side import FarSide, MysqlFarSide, PostgresFarSide, SqliteFarSide

if TYPE_CHECKING:
    from tests.support.mariadb import Mariadb
    from tests.support.postgres import Database, Postgres

for module in ("contract", "export", "transaction"):
    pytest.register_assert_rewrite(f"tests.contracts.dialect_{module}")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A server that the user names is asked with ``-m live_mssql`` only."""
    if "live_mssql" not in (config.option.markexpr or ""):
        live = [item for item in items if item.get_closest_marker("live_mssql")]
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if not item.get_closest_marker("live_mssql")]


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


@pytest.fixture(params=["postgres", "mysql"])
def make_server(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    """A factory of far sides on a server."""
    found: Callable[[], FarSide] = request.getfixturevalue(f"make_{request.param}")
    return found
