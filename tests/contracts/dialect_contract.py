"""What every SQL dialect must do; its own test subclasses :class:`DialectContract` and gives a far side."""

from __future__ import annotations

import json
import os
import threading
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PartialFailure,
    PermanentError,
    Rejected,
)
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.dialects.model import Column
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.load import load
from flowrunner_provider.database.plan import LoadPlan
from tests.contracts.dialect_export import ExportContract
from tests.contracts.dialect_transaction import TransactionContract
from tests.database.far_side import CONN_ID, FarSide, load_rows
from tests.database.payloads import PAYLOADS

CANARY = "canary-7f3a91"
LEDGER = "flowrunner_ledger"


class Source:
    """Rows in memory, as an open reader gives them."""

    def __init__(self, columns: list[str], *batches: list[tuple[Any, ...]]) -> None:
        self.columns, self.batches = columns, batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class DialectContract(ExportContract, TransactionContract):
    """Subclasses define the fixture ``far``."""

    @pytest.fixture(autouse=True)
    def _connection(self, far: FarSide, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", far.connection)

    @pytest.fixture
    def orders(self, far: FarSide) -> FarSide:
        far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, note text, amount integer)")
        return far

    def direct(self, far: FarSide, source: Source, table: str, **plan: Any) -> Any:
        run = Run.alone()
        rows = LoadPlan(table=table, **plan)
        create = plan.get("create_table", False)
        return load(
            lambda: nullcontext(source),
            rows,
            lambda: hook_for(CONN_ID).open(run.deadline, create=create),
            run,
            fingerprint="f",
        )

    # -- modes -------------------------------------------------------------------------------------------

    def test_append_adds_and_the_ledger_says_so(self, orders: FarSide) -> None:
        orders.run(f"INSERT INTO {orders.name('orders')} VALUES (0, 'old', 0)")
        source = orders.write("a.csv", 'id,note,amount\n1,"a ""b"", c\r\nd",\n2,,7\n')
        result = load_rows(orders, source)
        assert orders.rows() == [(0, "old", 0), (1, 'a "b", c\r\nd', None), (2, None, 7)]
        counts = {name: result[name] for name in ("rows", "inserted", "updated", "skipped", "rejected")}
        assert counts == {"rows": 2, "inserted": 2, "updated": 0, "skipped": 0, "rejected": 0}
        ledger = orders.run(f'SELECT "rows", inserted, loaded_at FROM {orders.name(LEDGER)}')
        assert [row[:2] for row in ledger] == [(2, 2)]
        assert ledger[0][2] is not None

    def test_truncate_replaces_the_rows(self, orders: FarSide) -> None:
        orders.run(f"INSERT INTO {orders.name('orders')} VALUES (0, 'old', 0)")
        load_rows(orders, orders.jsonl([{"id": 1, "note": "", "amount": None}]), mode="truncate")
        assert orders.rows() == [(1, "", None)]

    def test_replace_keeps_structure_and_indexes(self, orders: FarSide) -> None:
        orders.run(f"CREATE UNIQUE INDEX by_note ON {orders.name('orders')} (note)")
        orders.run(f"INSERT INTO {orders.name('orders')} VALUES (0, 'old', 0)")
        load_rows(orders, orders.jsonl([{"id": 1, "note": "new", "amount": 5}]), mode="replace")
        assert orders.rows() == [(1, "new", 5)]
        assert orders.tables() == {"orders", LEDGER}
        for row in ("1, 'x', 1", "2, 'new', 1"):
            with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
                orders.run(f"INSERT INTO {orders.name('orders')} VALUES ({row})")
        where = f" ON {orders.name('orders')}" if orders.kind == "mysql" else ""
        orders.run(f"DROP INDEX {'by_note' if where else orders.name('by_note')}{where}")

    def test_replace_with_create_table_changes_the_structure(self, orders: FarSide) -> None:
        source = orders.jsonl([{"other": 1, "tags": ["a"], "flag": True}])
        load_rows(orders, source, mode="replace", create_table=True)
        assert len(orders.rows(order="other")[0]) == 3
        assert orders.tables() == {"orders", LEDGER}

    def test_upsert_inserts_updates_and_leaves_other_columns(self, orders: FarSide) -> None:
        orders.run(f"INSERT INTO {orders.name('orders')} VALUES (1, 'stays', 1), (2, 'stays', 2)")
        source = orders.jsonl([{"id": 2, "amount": 20}, {"id": 3, "amount": 30}])
        result = load_rows(orders, source, mode="upsert", keys=["id"])
        assert orders.rows() == [(1, "stays", 1), (2, "stays", 20), (3, None, 30)]
        assert (result["inserted"], result["updated"], result["skipped"]) == (1, 1, 0)

    def test_upsert_of_keys_alone_skips_what_is_there(self, orders: FarSide) -> None:
        orders.run(f"INSERT INTO {orders.name('orders')} VALUES (1, 'stays', 1)")
        source = orders.jsonl([{"id": 1}, {"id": 2}])
        result = load_rows(orders, source, mode="upsert", keys=["id"])
        assert (result["inserted"], result["updated"], result["skipped"]) == (1, 0, 1)

    @pytest.mark.parametrize("columns", [("id", "note"), ("id",)])
    def test_upsert_refuses_keys_that_are_twice(self, orders: FarSide, columns: tuple[str, ...]) -> None:
        values = [{"id": 1, "note": "a"}, {"id": 2, "note": "b"}, {"id": 1, "note": CANARY}]
        rows = [{name: row[name] for name in columns} for row in values]
        with pytest.raises(IntegrityError, match=r"same id .* keep='last'") as caught:
            load_rows(orders, orders.jsonl(rows), mode="upsert", keys=["id"])
        assert CANARY not in "".join(traceback.format_exception(caught.value))
        assert orders.rows() == []

    def test_upsert_keeps_the_last(self, orders: FarSide) -> None:
        rows = [{"id": n % 7, "note": str(n)} for n in range(50)]
        result = load_rows(orders, orders.jsonl(rows), mode="upsert", keys=["id"], keep="last", batch_size=3)
        last = {n % 7: str(n) for n in range(50)}
        assert [row[:2] for row in orders.rows()] == sorted(last.items())
        assert (result["rows"], result["inserted"], result["skipped"]) == (50, 7, 43)

    def test_upsert_refuses_a_key_without_value(self, far: FarSide) -> None:
        far.run(f"CREATE TABLE {far.name('orders')} (code text UNIQUE, n integer)")
        with pytest.raises(Rejected, match="no value in a key"):
            load_rows(far, far.jsonl([{"code": None, "n": 1}]), mode="upsert", keys=["code"])
        assert far.rows(order="code") == []

    def test_upsert_needs_a_unique_index(self, orders: FarSide) -> None:
        with pytest.raises(ConfigError, match="no primary key or unique index"):
            load_rows(orders, orders.jsonl([{"note": "a"}]), mode="upsert", keys=["note"])
        assert orders.tables() == {"orders"}

    def test_upsert_may_create_its_table(self, far: FarSide) -> None:
        for n in (1, 2):
            source = far.jsonl([{"id": 1, "n": n}], f"{n}.jsonl")
            load_rows(far, source, mode="upsert", keys=["id"], create_table=True, context={"run_id": f"run{n}"})
        assert far.rows() == [(1, 2)]

    # -- columns -----------------------------------------------------------------------------------------

    def test_create_table_takes_the_types_of_the_rows(self, far: FarSide) -> None:
        row = {"id": 1, "f": 1.5, "b": True, "t": "x", "o": {"k": [1]}, "a": [1, "z"], "n": None}
        load_rows(far, far.jsonl([row]), create_table=True)
        (found,) = far.rows()
        assert (found[0], found[1], found[2], found[3], found[6]) == (1, 1.5, True, "x", None)
        as_json = [value if not isinstance(value, str) else json.loads(value) for value in found[4:6]]
        assert as_json == [{"k": [1]}, [1, "z"]]

    def test_column_map_renames_and_leaves_out(self, orders: FarSide) -> None:
        source = orders.jsonl([{"Order No": 1, "secret": CANARY, "note": "n"}])
        load_rows(orders, source, column_map={"Order No": "id", "secret": None})
        assert orders.rows() == [(1, "n", None)]

    @pytest.mark.parametrize(
        ("column_map", "says"),
        [
            ({"nope": "id"}, "names 'nope'"),
            ({"note": "id"}, "go to 'id'"),
            ({"id": None, "note": None}, "no column is left"),
            ({"note": "missing"}, "no column 'missing'"),
            ({"note": "a\0b"}, "cannot be the name"),
        ],
    )
    def test_a_map_that_does_not_fit(self, orders: FarSide, column_map: Any, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            load_rows(orders, orders.jsonl([{"id": 1, "note": "n"}]), column_map=column_map)
        assert orders.tables() == {"orders"}

    def test_missing_table(self, far: FarSide) -> None:
        far.run(f"CREATE TABLE {far.name('other')} (id integer)")
        with pytest.raises(NotFound, match="create_table=True"):
            load_rows(far, far.jsonl([{"id": 1}]))
        assert far.tables() == {"other"}

    def test_texts_survive(self, far: FarSide) -> None:
        texts = [
            "", "\\.", "\\N", "NULL", '"', '""', "a\rb", "a\nb", "a\r\nb", ",", " x ", "é\u2028🙂", "\\", "\t", "'",
            "a\n\\.\nb",
        ]  # fmt: skip
        far.run(f"CREATE TABLE {far.name('orders')} (id integer, note text)")
        load_rows(far, far.jsonl([{"id": n, "note": text} for n, text in enumerate(texts)]), batch_size=2)
        assert [row[1] for row in far.rows()] == texts
        far.run(f"CREATE TABLE {far.name('single')} (note text)")
        load_rows(far, far.jsonl([{"note": text} for text in [*texts, None]]), "single", context={"run_id": "2"})
        assert sorted(str(row[0]) for row in far.rows("single", "note")) == sorted(map(str, [*texts, None]))

    # -- counts and bad rows -----------------------------------------------------------------------------

    def test_an_empty_source(self, orders: FarSide) -> None:
        source = orders.write("empty.csv", "id,note\n")
        assert load_rows(orders, source)["rows"] == 0
        assert orders.run(f'SELECT "rows" FROM {orders.name(LEDGER)}') == [(0,)]
        with pytest.raises(IntegrityError, match="at least 1"):
            load_rows(orders, source, min_rows=1, context={"run_id": "2"})

    def test_expected_rows(self, orders: FarSide) -> None:
        source = orders.jsonl([{"id": 1}])
        with pytest.raises(IntegrityError, match="1 rows, expected were 2"):
            load_rows(orders, source, expected_rows="2")
        assert orders.rows() == []

    def test_three_failing_attempts_leave_nothing_and_the_fourth_everything(self, orders: FarSide) -> None:
        rows = [{"id": n, "note": "x"} for n in range(2500)]
        source = orders.jsonl([*rows, {"id": 0, "note": CANARY}])
        for _ in range(3):
            with pytest.raises(Rejected) as caught:
                load_rows(orders, source, batch_size=1000)
            text = "".join(traceback.format_exception(caught.value))
            assert CANARY not in text
            assert caught.value.code == orders.key_is_taken
            assert orders.rows() == []
        orders.jsonl(rows)
        load_rows(orders, source, batch_size=1000)
        assert [row[0] for row in orders.rows()] == list(range(2500))

    def test_bad_rows_are_set_aside(self, orders: FarSide) -> None:
        rows: list[dict[str, Any]] = [{"id": n, "note": "x"} for n in range(100)]
        rows[10]["id"] = 9
        rows[57]["id"] = None if orders.kind != "sqlite" else 9
        rows[99]["id"] = CANARY
        reject = orders.folder / "rejected.jsonl"
        result = load_rows(orders, orders.jsonl(rows), on_bad_row="reject", reject_path=str(reject), batch_size=30)
        assert (result["rows"], result["inserted"], result["rejected"]) == (100, 97, 3)
        assert len(orders.rows()) == 97
        told = [json.loads(line) for line in reject.read_text().splitlines()]
        assert [row["row"] for row in told] == [11, 58, 100]
        assert told[2]["values"]["id"] == CANARY
        assert all(CANARY not in row["reason"] for row in told)
        assert reject.stat().st_mode & 0o777 == 0o600

    def test_bad_rows_do_not_overwrite_the_source(self, orders: FarSide) -> None:
        source = orders.jsonl([{"id": 1}, {"id": "x"}])
        before = Path(source).read_bytes()
        folder = orders.folder
        with pytest.raises(ConfigError) as caught:
            load_rows(orders, source, on_bad_row="reject", reject_path=f"{folder}/../{folder.name}/source.jsonl")
        assert caught.value.field == "reject_path"
        assert Path(source).read_bytes() == before
        assert orders.tables() == {"orders"}

    def test_too_many_bad_rows_store_nothing(self, orders: FarSide) -> None:
        source = orders.jsonl([{"id": n // 2, "note": CANARY} for n in range(10)])
        options: dict[str, Any] = {"on_bad_row": "reject", "reject_path": str(orders.folder / "r.jsonl")}
        with pytest.raises(PartialFailure, match="max_failures=2") as caught:
            load_rows(orders, source, max_failures=2, **options)
        assert CANARY not in "".join(traceback.format_exception(caught.value)) + str(caught.value.failed)
        assert orders.rows() == []
        assert [path.name for path in orders.folder.iterdir() if "r.jsonl" in path.name] == []

    def test_values_of_rows_stay_out_of_every_text(self, orders: FarSide, caplog: pytest.LogCaptureFixture) -> None:
        orders.run(f"CREATE TABLE {orders.name('strict')} (id integer NOT NULL CHECK (id < 5), note text UNIQUE)")
        bad = [[{"id": 9, "note": CANARY}], [{"id": 1, "note": CANARY}] * 2, [{"id": None, "note": CANARY}]]
        if orders.kind == "mysql":
            bad.append([{"id": CANARY, "note": ""}])
        if orders.kind == "postgres":
            bad += [[{"id": CANARY, "note": ""}], [{"id": 1, "note": f"{CANARY}\0"}]]
        bad.append([{"id": 1, "note": f"{CANARY}\ud800"}])
        for rows in bad:
            with pytest.raises(Rejected) as caught:
                load_rows(orders, orders.jsonl(rows), "strict")
            assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.to_event())
        assert CANARY not in caplog.text

    # -- once --------------------------------------------------------------------------------------------

    def test_a_new_run_loads_again_and_a_repeated_one_does_not(self, orders: FarSide) -> None:
        source = orders.jsonl([{"note": "x"}])
        orders.run(f"CREATE TABLE {orders.name('log')} (note text)")
        first = load_rows(orders, source, "log")
        orders.forget()
        assert load_rows(orders, source, "log") == first
        assert len(orders.rows("log", "note")) == 1
        load_rows(orders, source, "log", context={"run_id": "another"})
        assert len(orders.rows("log", "note")) == 2

    def test_other_content_under_the_same_key_is_refused(self, orders: FarSide) -> None:
        load_rows(orders, orders.jsonl([{"id": 1}]))
        orders.forget()
        with pytest.raises(PermanentError, match="has loaded other data"):
            load_rows(orders, orders.jsonl([{"id": 1}, {"id": 2}]))
        assert [row[0] for row in orders.rows()] == [1]

    def test_first_loads_at_the_same_time(self, far: FarSide) -> None:
        """All create the ledger."""
        for n in range(6):
            far.run(f"CREATE TABLE {far.name(f't{n}')} (id integer)")
        errors: list[FlowRunnerError] = []

        def one(n: int) -> None:
            try:
                self.direct(far, Source(["id"], [(n,)]), far.name(f"t{n}"))
            except FlowRunnerError as error:
                errors.append(error)

        plans = [threading.Thread(target=one, args=(n,)) for n in range(6)]
        for thread in plans:
            thread.start()
        for thread in plans:
            thread.join()
        # Run.alone() gives all of them one key: one wins, the others see other content or the same done
        assert far.run(f"SELECT count(*) FROM {far.name(LEDGER)}") == [(1,)]
        assert errors == []

    # -- names -------------------------------------------------------------------------------------------

    def test_injection_payloads_are_names_or_refused(self, far: FarSide) -> None:
        """A table and a column with each odd name: created, filled and read; nothing else happens."""
        far.run(f"CREATE TABLE {far.name('victim')} (id integer)")
        far.run(f"INSERT INTO {far.name('victim')} VALUES (1)")
        made = set()
        schema = far.name("x").rpartition(".")[0]
        run = Run.alone()
        with hook_for(CONN_ID).open(run.deadline) as session:
            session.begin()
            for payload in PAYLOADS:
                try:
                    table = TableName.of(payload, schema or None)
                    session.sql(table), session.sql(payload)
                except ConfigError:
                    continue
                try:
                    session.create(table, [Column(payload, "string"), Column("other", "string")])
                except FlowRunnerError:  # a name that the database keeps for itself
                    assert payload.lower().startswith("sqlite_") or payload.lower() in made_lower(made)
                    continue
                made.add(payload)
                with session.copy(table, [payload, "other"]) as copier:
                    copier.write([("v", "w")])
                assert session.run(f"SELECT * FROM {session.sql(table)}") == [("v", "w")]
                found = session.table(table)
                assert found is not None
                assert list(found.columns) == [payload, "other"]
            session.commit()
        assert far.tables() == made | {"victim"}
        assert far.rows("victim") == [(1,)]
        assert len(PAYLOADS) >= 200
        assert len(made) > 150

    def test_a_source_that_is_missing_creates_nothing(self, far: FarSide) -> None:
        with pytest.raises(NotFound):
            load_rows(far, str(far.folder / "nowhere.csv"), create_table=True)
        assert not (far.folder / "nowhere.csv").exists()
        assert far.tables() == set()

    def test_the_connection_test_tells_version_and_rights(self, orders: FarSide) -> None:
        ok, text = hook_for(CONN_ID).test_connection()
        assert ok
        assert "create" in text
        assert os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"]


def made_lower(made: set[str]) -> set[str]:
    """SQLite's names do not differ by case alone."""
    return {name.lower() for name in made}
