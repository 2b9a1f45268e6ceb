"""The SQL Server dialect keeps the contract of dialects as far as a fake can tell, and all of it on a real server.

No SQL Server can be had on a developer's machine or in our CI. ``pytest -m live_mssql`` runs the contract on the one
that ``FLOWRUNNER_MSSQL_DSN`` names: a JSON object with host, port, login, password, schema (the database) and extra.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.dialect_contract import DialectContract
from tests.database.mssql_far_side import FakeFarSide, LiveFarSide


class TestMssqlFake(DialectContract):
    """On SQLite behind the wire: isolation, MERGE-like races and the server's own checks are not what is shown."""

    @pytest.fixture
    def far(self, fake: FakeFarSide) -> FakeFarSide:
        return fake


@pytest.mark.live_mssql
class TestMssqlLive(DialectContract):
    @pytest.fixture
    def far(self, tmp_path: Path) -> Iterator[LiveFarSide]:
        if "FLOWRUNNER_MSSQL_DSN" not in os.environ:
            pytest.skip("FLOWRUNNER_MSSQL_DSN names no SQL Server")
        address = json.loads(os.environ["FLOWRUNNER_MSSQL_DSN"])
        made = LiveFarSide(tmp_path, address, f"t{uuid.uuid4().hex[:12]}").make()
        yield made
        made.remove()
