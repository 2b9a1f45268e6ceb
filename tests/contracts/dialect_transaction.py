"""What every dialect must do with the statements of a user."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, PermanentError, Rejected
from flowrunner_provider.database.operators import SqlTransactionOperator
from tests.database.far_side import FarSide, act
from tests.database.payloads import PAYLOADS

SECRET = "canary-51c0de"


def transact(far: FarSide, *statements: Any, **more: Any) -> Any:
    """``{t}`` is the table, ``?`` the dialect's placeholder."""
    given = [
        {**one, "sql": one["sql"].replace("{t}", far.name("stock")).replace("?", far.mark)}
        if isinstance(one, dict) and isinstance(one.get("sql"), str)
        else one
        for one in statements
    ]
    schema = far.name("x").rpartition(".")[0] or None
    return act(far, SqlTransactionOperator, **{"statements": given, "ledger_schema": schema, **more})


class TransactionContract:
    @pytest.fixture
    def stock(self, far: FarSide) -> FarSide:
        far.run(f"CREATE TABLE {far.name('stock')} (id integer PRIMARY KEY, n integer CHECK (n >= 0))")
        far.run(f"INSERT INTO {far.name('stock')} VALUES (1, 10), (2, 10)")
        return far

    def test_statements_with_their_own_parameters(self, stock: FarSide) -> None:
        head, x = "WITH x AS (SELECT 2 AS id)", "x"
        if "with before update" in stock.deviations:
            head, x = "", "(SELECT 2 AS id) AS x"
        moves = [
            {"sql": "UPDATE {t} SET n = n - ? WHERE id = ?", "params": [3, 1], "expect_rows": 1, "name": "take"},
            {"sql": "UPDATE {t} SET n = n + ? WHERE id IN (1, 2)", "params": [1], "expect_rows": "2"},
            {"sql": "SELECT id FROM {t} WHERE n % 2 >= 0", "name": "look"},
            {"sql": f"{head} UPDATE {{t}} SET n = 0 WHERE id IN (SELECT id FROM {x})"},
            {"sql": "-- a note\n /* and another; COMMIT */ DELETE FROM {t} WHERE id = 99"},
        ]
        result = transact(stock, *moves)
        found = [(one["name"], one["rows"], one["undone"]) for one in result["statements"]]
        assert found == [("take", 1, False), ("2", 2, False), ("look", 2, False), ("4", 1, False), ("5", 0, False)]
        assert (result["rows"], result["undone"]) == (6, 0)
        assert stock.rows("stock") == [(1, 8), (2, 0)]
        stock.forget()
        assert transact(stock, *moves) == result
        assert stock.rows("stock") == [(1, 8), (2, 0)]
        stock.forget()
        with pytest.raises(PermanentError, match="other work"):
            transact(stock, moves[1])
        transact(stock, moves[1], context={"run_id": "another"})
        assert stock.rows("stock") == [(1, 9), (2, 1)]

    def test_without_a_ledger(self, stock: FarSide) -> None:
        transact(stock, {"sql": "UPDATE {t} SET n = 1"}, once=False)
        assert stock.tables() == {"stock"}
        assert stock.rows("stock") == [(1, 1), (2, 1)]

    @pytest.mark.parametrize(
        ("second", "error"),
        [
            ({"sql": "UPDATE {t} SET n = ? WHERE id = ?", "params": [5, 99], "expect_rows": 1}, IntegrityError),
            ({"sql": "INSERT INTO {t} VALUES (1, 1)"}, Rejected),
            ({"sql": "UPDATE {t} SET n = ?", "params": [-1]}, Rejected),
            ({"sql": "UPDATE {t} SET nope = ?", "params": [SECRET]}, FlowRunnerError),
            ({"sql": "INSERT INTO {t} VALUES (3, 3); DELETE FROM {t}"}, Rejected),
            ({"sql": "INSERT INTO {t} VALUES (?, 1)", "params": [1, 2, 3]}, Rejected),
        ],
    )
    def test_an_error_undoes_all(self, stock: FarSide, second: Any, error: type[FlowRunnerError], caplog: Any) -> None:
        with pytest.raises(error, match="statement '2'") as caught:
            transact(stock, {"sql": "UPDATE {t} SET n = 0"}, second)
        assert stock.rows("stock") == [(1, 10), (2, 10)]
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
        transact(stock, {"sql": "UPDATE {t} SET n = 0"})
        assert stock.rows("stock") == [(1, 0), (2, 0)]

    def test_savepoints(self, stock: FarSide) -> None:
        result = transact(
            stock,
            {"sql": "UPDATE {t} SET n = 5 WHERE id = 1"},
            {"sql": "UPDATE {t} SET n = 6 WHERE id = 2", "savepoint": "first"},
            {"sql": "INSERT INTO {t} VALUES (1, 1)"},
            {"sql": "INSERT INTO {t} VALUES (4, 4)"},
            {"sql": "INSERT INTO {t} VALUES (3, 3)", "savepoint": 'odd "name'},
            on_error="rollback_to",
        )
        assert [one["undone"] for one in result["statements"]] == [False, True, True, True, False]
        assert (result["rows"], result["undone"]) == (2, 3)
        assert stock.rows("stock") == [(1, 5), (2, 10), (3, 3)]
        with pytest.raises(Rejected):
            transact(
                stock,
                {"sql": "INSERT INTO {t} VALUES (1, 1)"},
                {"sql": "DELETE FROM {t}", "savepoint": "a"},
                on_error="rollback_to",
                context={"run_id": "2"},
            )
        assert len(stock.rows("stock")) == 3

    @pytest.mark.parametrize(
        "sql",
        [
            "COMMIT", "commit and chain", "; COMMIT", "-- x\nROLLBACK", "/* x */ END", "BEGIN", "SAVEPOINT a",
            "RELEASE a", "/* /* */ COMMIT -- */", "START TRANSACTION", "", "   ", "\ufeffCOMMIT", "$1", "ABORT",
            "PREPARE TRANSACTION 'x'", "/* open", "ATTACH 'x' AS y",
        ],
    )  # fmt: skip
    def test_what_would_act_on_the_transaction(self, stock: FarSide, sql: str) -> None:
        with pytest.raises(ConfigError) as caught:
            transact(stock, {"sql": "UPDATE {t} SET n = 0"}, {"sql": sql})
        assert caught.value.field == "statements"
        assert stock.rows("stock") == [(1, 10), (2, 10)]
        assert stock.tables() == {"stock"}

    @pytest.mark.parametrize(
        ("statements", "more", "field"),
        [
            ([], {}, "statements"),
            ([7], {}, "statements"),
            ([{"sql": 7}], {}, "statements"),
            ([{"sql": "SELECT 1", "param": [1]}], {}, "statements"),
            ([{"sql": "SELECT 1", "params": "x"}], {}, "statements"),
            ([{"sql": "SELECT 1", "expect_rows": -1}], {}, "statements"),
            ([{"sql": "SELECT 1", "name": "a"}, {"sql": "SELECT 1", "name": "a"}], {}, "statements"),
            ([{"sql": "SELECT 1", "savepoint": "a"}], {}, "on_error"),
            ([{"sql": "SELECT 1"}], {"on_error": "rollback_to"}, "on_error"),
            ([{"sql": "SELECT 1"}], {"on_error": "ignore"}, "on_error"),
            ([{"sql": "SELECT 1"}], {"isolation": "none"}, "isolation"),
        ],
    )
    def test_bad_transactions(self, stock: FarSide, statements: list[Any], more: Any, field: str) -> None:
        with pytest.raises(ConfigError) as caught:
            transact(stock, *statements, **more)
        assert caught.value.field == field
        assert stock.tables() == {"stock"}

    def test_transaction_payloads_are_names_or_refused(self, stock: FarSide) -> None:
        """As a savepoint and as the ledger's schema."""
        made = 0
        for number, payload in enumerate(PAYLOADS[::2]):
            change = {"sql": "UPDATE {t} SET n = 10", "savepoint": payload}
            try:
                transact(stock, change, on_error="rollback_to", once=False, context={"run_id": f"r{number}"})
                made += 1
            except ConfigError:
                pass
            with pytest.raises(FlowRunnerError):
                transact(stock, {"sql": "DELETE FROM {t}"}, ledger_schema=payload, context={"run_id": f"s{number}"})
        assert made > 80
        assert stock.tables() == {"stock"}
        assert stock.rows("stock") == [(1, 10), (2, 10)]

    @pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
    def test_isolation(self, stock: FarSide, isolation: str) -> None:
        look = {"sql": "UPDATE {t} SET n = 1"}
        if stock.kind == "postgres":
            look["sql"] += f" WHERE current_setting('transaction_isolation') = '{isolation}'"
        assert transact(stock, look, isolation=isolation)["rows"] == 2
        stock.forget()
        assert transact(stock, look, isolation=isolation)["rows"] == 2
