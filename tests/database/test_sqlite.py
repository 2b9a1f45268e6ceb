"""SQLite keeps the contract of dialects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import Rejected
from flowrunner_provider.database.operators import SqlModifyOperator, SqlUpsertOperator
from tests.contracts.dialect_contract import DialectContract
from tests.database.far_side import SqliteFarSide, act, connected, load_rows


class TestSqlite(DialectContract):
    @pytest.fixture
    def far(self, make_sqlite: Callable[[], SqliteFarSide]) -> SqliteFarSide:
        return make_sqlite()


def test_nan_is_refused_and_not_stored_as_null(
    make_sqlite: Callable[[], SqliteFarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = connected(make_sqlite(), monkeypatch)
    far.run("CREATE TABLE t (id integer PRIMARY KEY, x real)")
    source = far.write("source.jsonl", '{"id": 1, "x": 1.5}\n{"id": 2, "x": NaN}\n{"id": 3, "x": null}\n')
    nan = math.nan
    with pytest.raises(Rejected, match="NaN"):
        load_rows(far, source, "t")
    with pytest.raises(Rejected, match="NaN"):
        act(far, SqlUpsertOperator, table="t", keys=["id"], rows=[{"id": 1, "x": nan}], context={"run_id": "2"})
    assert far.rows("t") == []
    rejected = str(far.folder / "rejected.jsonl")
    arguments = {"on_bad_row": "reject", "reject_path": rejected, "context": {"run_id": "3"}}
    assert load_rows(far, source, "t", **arguments)["rejected"] == 1
    assert far.rows("t") == [(1, 1.5), (3, None)]
    record = json.loads(Path(rejected).read_text(), parse_constant=pytest.fail)
    assert (record["row"], record["values"]) == (2, {"id": 2, "x": "NaN"})
    with pytest.raises(Rejected, match="NaN"):
        act(far, SqlModifyOperator, operation="update", table="t", where={"id": 1}, set={"x": nan})
    assert far.rows("t") == [(1, 1.5), (3, None)]
