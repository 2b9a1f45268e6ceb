"""SQLite keeps the contract of dialects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.dialect_contract import DialectContract
from tests.database.far_side import SqliteFarSide


class TestSqlite(DialectContract):
    @pytest.fixture
    def far(self, make_sqlite: Callable[[], SqliteFarSide]) -> SqliteFarSide:
        return make_sqlite()
