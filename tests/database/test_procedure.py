"""Procedures and functions: their changes happen once, and their outputs are returned."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    Rejected,
)
from flowrunner_provider.database.operators import SqlProcedureOperator
from tests.database.far_side import FarSide, act, with_login
from tests.database.payloads import PAYLOADS
from tests.database.test_faults import ENVIRONMENT
from tests.support.kill import Attempt, kill_at, sweep

SECRET = "canary-51c0de"
BODIES = {
    "postgres": [
        """CREATE PROCEDURE {s}.add(a integer, INOUT n integer, OUT told text) LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO {s}.log VALUES (a, 'x'); n := n + a; told := 'added'; END $$""",
        """CREATE PROCEDURE {s}.selfish() LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO {s}.log VALUES (1, 'selfish'); COMMIT; END $$""",
        """CREATE PROCEDURE {s}.broken(v text) LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO {s}.log VALUES (1, v); RAISE EXCEPTION 'no: %', v; END $$""",
        """CREATE FUNCTION {s}.many(m integer) RETURNS TABLE (id integer, at timestamp, price numeric)
        LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {s}.log VALUES (m, 'many');
        RETURN QUERY SELECT i, timestamp '2026-01-31 12:00', 1.50 FROM generate_series(1, m) i; END $$""",
        "CREATE FUNCTION {s}.shown(v text, d date) RETURNS text LANGUAGE sql AS $$ SELECT v || d $$",
    ],
    "mysql": [
        """CREATE PROCEDURE {s}.`add`(a integer, INOUT n integer, OUT told text)
        BEGIN INSERT INTO log VALUES (a, 'x'); SET n = n + a, told = 'added'; END""",
        """CREATE PROCEDURE {s}.selfish() BEGIN INSERT INTO log VALUES (1, 'selfish'); COMMIT; END""",
        """CREATE PROCEDURE {s}.broken(v text)
        BEGIN INSERT INTO log VALUES (1, v); SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v; END""",
        """CREATE PROCEDURE {s}.many(m integer) BEGIN INSERT INTO log VALUES (m, 'many');
        SELECT seq AS id, timestamp '2026-01-31 12:00' AS at, 1.50 AS price FROM seq_1_to_1000 WHERE seq <= m; END""",
        "CREATE PROCEDURE {s}.two() BEGIN SELECT 1 AS a; SELECT 2 AS b UNION SELECT 3; END",
        """CREATE PROCEDURE {s}.undone() BEGIN INSERT INTO log VALUES (1, 'undone'); ROLLBACK; END""",
        "CREATE FUNCTION {s}.shown(v text, d date) RETURNS text DETERMINISTIC RETURN CONCAT(v, d)",
    ],
    "mssql": [
        """CREATE PROCEDURE {s}.[add] @a int, @n int OUTPUT, @told nvarchar(20) OUTPUT AS
        BEGIN INSERT INTO {s}.log VALUES (@a, 'x'); SET @n = @n + @a; SET @told = 'added'; END""",
        """CREATE PROCEDURE {s}.selfish AS BEGIN INSERT INTO {s}.log VALUES (1, 'selfish');
        IF @@TRANCOUNT > 0 COMMIT TRANSACTION; END""",
        """CREATE PROCEDURE {s}.broken @v nvarchar(max) AS
        BEGIN INSERT INTO {s}.log VALUES (1, @v); THROW 50000, @v, 1; END""",
        """CREATE PROCEDURE {s}.many @m int AS BEGIN INSERT INTO {s}.log VALUES (@m, 'many');
        SELECT 1 AS id, CONVERT(datetime2(6), '2026-01-31 12:00:00') AS at, '1.50' AS price WHERE 1 <= @m
        UNION ALL SELECT 2, CONVERT(datetime2(6), '2026-01-31 12:00:00'), '1.50' WHERE 2 <= @m
        UNION ALL SELECT 3, CONVERT(datetime2(6), '2026-01-31 12:00:00'), '1.50' WHERE 3 <= @m; END""",
        "CREATE PROCEDURE {s}.two AS BEGIN SELECT 1 AS a; SELECT 2 AS b UNION SELECT 3; END",
        """CREATE PROCEDURE {s}.undone AS BEGIN INSERT INTO {s}.log VALUES (1, 'undone');
        ROLLBACK TRANSACTION; END""",
        """CREATE FUNCTION {s}.shown(@v nvarchar(max), @d date) RETURNS nvarchar(max) AS
        BEGIN RETURN CONCAT(@v, CONVERT(nvarchar(10), @d)); END""",
    ],
}


@pytest.fixture(params=["postgres", "mysql", "mssql"])
def make(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    made: Callable[[], FarSide] = request.getfixturevalue(f"make_{request.param}")
    return lambda: prepared(made())


def prepared(far: Any) -> Any:
    far.run(f"CREATE TABLE {far.name('log')} (a integer, v text)")
    for body in BODIES[far.kind]:
        far.run(body.replace("{s}", schema(far)).replace("`add`", '"add"'))
    return far


def schema(far: Any) -> str:
    return str(far.name("x").rpartition(".")[0])


def call(far: Any, routine: str, /, *arguments: Any, **more: Any) -> Any:
    os.environ[ENVIRONMENT] = far.connection
    given = {"name": far.name(routine), "arguments": list(arguments), "ledger_schema": schema(far), **more}
    return act(far, SqlProcedureOperator, **given)


def rows(far: Any, **more: Any) -> Any:
    """Call the routine that returns rows."""
    return call(far, "many", 3, routine="function" if far.kind == "postgres" else "procedure", **more)


ARGUMENTS = (5, {"mode": "inout", "name": "n", "value": 2}, {"mode": "out", "name": "told"})


def play(far: Any) -> Any:
    return call(far, "add", *ARGUMENTS)


def check(far: Any) -> None:
    assert far.rows("log", "a") == [(5, "x")]
    assert far.tables() == {"log", "flowrunner_ledger"}


def save(far: Any) -> Any:
    return rows(far, save_to=str(far.folder / "out" / "many.jsonl"))


def saved(far: Any) -> None:
    assert far.rows("log", "a") == [(3, "many")]
    files = list((far.folder / "out").iterdir())
    assert [path.name for path in files] == ["many.jsonl"]
    assert [json.loads(line)["id"] for line in files[0].read_text().splitlines()] == [1, 2, 3]


@pytest.mark.backend
@pytest.mark.faults
@pytest.mark.parametrize(("playing", "checking"), [(play, check), (save, saved)], ids=["outputs", "file"])
def test_every_kill(make: Callable[[], FarSide], playing: Any, checking: Any) -> None:
    assert sweep(make, playing, checking).kills > 8


@pytest.mark.backend
class TestCalls:
    def test_outputs(self, far: FarSide) -> None:
        result = play(far)
        assert result == {"outputs": {"n": 7, "told": "added"}, "result_sets": [], "rows": 0, "dataset": None}
        check(far)
        far.forget()
        assert play(far) == result
        check(far)
        far.forget()
        with pytest.raises(FlowRunnerError, match="earlier attempt"):
            call(far, "add", 6, *ARGUMENTS[1:])

    def test_rows(self, far: FarSide) -> None:
        result = rows(far)
        assert result["rows"] == 3
        assert result["result_sets"][0][0] == {"id": 1, "at": "2026-01-31T12:00:00", "price": "1.50"}
        far.forget()
        assert rows(far) == result
        assert far.rows("log", "a") == [(3, "many")]
        with pytest.raises(IntegrityError, match="max_rows=2"):
            rows(far, max_rows=2, context={"run_id": "2"})
        assert far.rows("log", "a") == [(3, "many")]

    def test_rows_in_a_file(self, far: FarSide) -> None:
        result = save(far)
        assert (result["dataset"]["rows"], result["result_sets"]) == (3, [])
        saved(far)
        with pytest.raises(IntegrityError, match="no rows to save"):
            call(far, "add", *ARGUMENTS, save_to=str(far.folder / "x.jsonl"), context={"run_id": "2"})
        assert len(far.rows("log", "a")) == 1
        assert not (far.folder / "x.jsonl").exists()

    def test_several_results(self, far: FarSide) -> None:
        if far.kind == "postgres":
            pytest.skip("a procedure of PostgreSQL returns one")
        assert call(far, "two")["result_sets"] == [[{"a": 1}], [{"b": 2}, {"b": 3}]]
        with pytest.raises(IntegrityError, match="several results"):
            call(far, "two", save_to=str(far.folder / "x.jsonl"), context={"run_id": "2"})
        assert not list(far.folder.glob("*x.jsonl*"))

    def test_a_function_with_typed_values(self, far: FarSide) -> None:
        day = {"value": "2026-01-31", "type": "date"}
        result = call(far, "shown", "a'b\\c %s", day, routine="function")
        assert list(result["result_sets"][0][0].values()) == ["a'b\\c %s2026-01-31"]

    def test_an_error_rolls_back_and_shows_no_values(self, far: FarSide, caplog: Any) -> None:
        with pytest.raises(Rejected) as caught:
            call(far, "broken", SECRET)
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
        assert far.rows("log", "a") == []

    def test_only_sql_server_has_return_codes(self, far: FarSide) -> None:
        if far.kind == "mssql":
            pytest.skip("what it makes of them is in test_mssql_procedure")
        with pytest.raises(ConfigError, match="return code"):
            call(far, "add", *ARGUMENTS, {"mode": "return"})
        assert far.rows("log", "a") == []

    def test_an_unknown_routine(self, far: FarSide) -> None:
        for name, routine in (("nope", "procedure"), ("shown", "procedure"), ("nope", "function")):
            with pytest.raises(NotFound) as caught:
                call(far, name, 1, routine=routine, context={"run_id": name + routine})
            assert caught.value.remedy


@pytest.mark.backend
class TestProceduresThatCommit:
    def test_a_committing_procedure_in_a_transaction(self, far: FarSide) -> None:
        error = ConfigError if far.kind == "postgres" else OutcomeUnknown
        for _ in range(2):
            with pytest.raises(error) as caught:
                call(far, "selfish")
            assert "once=False" in caught.value.remedy
            far.forget()
        assert len(far.rows("log", "a")) == (0 if far.kind == "postgres" else 1)

    def test_a_procedure_that_rolls_back(self, far: FarSide) -> None:
        if far.kind == "postgres":
            pytest.skip("it is refused there, as COMMIT is")
        with pytest.raises(IntegrityError, match="rolls the transaction back"):
            call(far, "undone")
        assert far.rows("log", "a") == []

    def test_a_committing_procedure_outside_a_transaction(self, far: FarSide) -> None:
        result = call(far, "selfish", once=False)
        assert call(far, "selfish", once=False) == result
        assert far.rows("log", "a") == [(1, "selfish")]

    def test_an_interrupted_call_is_not_repeated(self, far: FarSide) -> None:
        first = Attempt(selfish, far, rules=[kill_at("sql.procedure.after_call")]).wait()
        assert not first.ok
        second = Attempt(selfish, far, try_number=2).wait()
        assert second.error_type == "OutcomeUnknown"
        assert far.rows("log", "a") == [(1, "selfish")]


def selfish(far: Any) -> Any:
    return call(far, "selfish", once=False)


def test_sqlite_has_no_procedures(make_sqlite: Callable[[], FarSide]) -> None:
    far = make_sqlite()
    far.run("CREATE TABLE t (id integer)")
    with pytest.raises(ConfigError) as caught:
        call(far, "add", ledger_schema=None)
    assert caught.value.field == "conn_id"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "a; DROP TABLE log"}, "name"),
        ({"arguments": "x"}, "arguments"),
        ({"arguments": [{"mod": "in"}]}, "arguments"),
        ({"arguments": [{"mode": "sideways"}]}, "arguments"),
        ({"arguments": [{"mode": "out", "value": 1}]}, "arguments"),
        ({"arguments": [{"value": 1, "type": "int"}]}, "arguments"),
        ({"arguments": [{"value": "x", "type": "date"}]}, "arguments"),
        ({"arguments": [{"value": "x", "type": "boolean"}]}, "arguments"),
        ({"arguments": [{"value": {}, "type": "integer"}]}, "arguments"),
        ({"arguments": [{"value": 1, "name": "a"}, {"value": 1, "name": "a"}]}, "arguments"),
        ({"arguments": [{"mode": "out"}], "routine": "function"}, "arguments"),
        ({"arguments": [{"mode": "return", "value": 1}]}, "arguments"),
        ({"arguments": [{"mode": "return"}, {"mode": "return"}]}, "arguments"),
        ({"arguments": [{"mode": "return"}], "routine": "function"}, "arguments"),
        ({"routine": "view"}, "routine"),
        ({"routine": "function", "once": False}, "once"),
        ({"max_rows": -1}, "max_rows"),
        ({"save_to": "/x.txt"}, "save_to"),
    ],
)
def test_bad_arguments(make_sqlite: Callable[[], FarSide], arguments: Any, field: str) -> None:
    far = make_sqlite()
    with pytest.raises(ConfigError) as caught:
        call(far, "add", **arguments)
    assert caught.value.field == field
    assert far.tables() == set()


@pytest.mark.backend
def test_injection_payloads(far: FarSide) -> None:
    for number, payload in enumerate(PAYLOADS[::15]):
        for name in (payload, '"' + payload.replace('"', '""') + '"'):
            with pytest.raises(FlowRunnerError):
                call(far, "x", 1, name=name, context={"run_id": f"r{number}"})
        if payload.isprintable():
            shown = call(far, "shown", payload, {"value": "2026-01-31", "type": "date"}, routine="function",
                         context={"run_id": f"s{number}"})  # fmt: skip
            assert list(shown["result_sets"][0][0].values()) == [payload + "2026-01-31"]
    assert far.rows("log", "a") == []


@pytest.mark.backend
def test_a_login_without_the_privilege(far: Any) -> None:
    if far.kind == "mssql":
        pytest.skip("the fake has one login; its refusal is in test_mssql_procedure")
    if far.kind == "postgres":
        far.run(f"REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA {far.schema} FROM PUBLIC")
        reader = with_login(far)
    else:
        reader = with_login(far, f"GRANT SELECT, INSERT ON {far.name('log')}")
    with pytest.raises(AccessDenied) as caught:
        play(reader)
    assert caught.value.remedy
    assert far.rows("log", "a") == []
