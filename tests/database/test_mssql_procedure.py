"""Procedures of SQL Server alone: parameters by name, return codes, transactions of their own, errors that go on."""

from __future__ import annotations

from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    Rejected,
)
from flowrunner_provider.database.dialects.mssql_query import tokens
from flowrunner_provider.database.operators import SqlProcedureOperator
from tests.database.far_side import act
from tests.database.mssql_far_side import FakeFarSide
from tests.support.tds_fake import TdsFake

NAME = 'odd]; DROP TABLE "log" --%s'
INSERT = "INSERT INTO dbo.log (a) VALUES"
BODIES = {
    "add @a int, @n int OUTPUT, @told nvarchar(5) OUTPUT": f"{INSERT} (@a); SET @n = @n + @a; SET @told = 'added'",
    "coded @code int": f"{INSERT} (@code); RETURN @code",
    "noisy @n int OUTPUT": f"{INSERT} (1); SELECT 1 AS a; {INSERT} (2); SELECT 2 AS b; {INSERT} (3); SET @n = 4",
    "twice": f"{INSERT} (1); {INSERT} (1); {INSERT} (2)",
    "kept_and_failed": f"{INSERT} (1); IF @@TRANCOUNT > 0 COMMIT TRANSACTION; THROW 50001, 'canary', 1",
    "undone_and_failed": f"{INSERT} (1); ROLLBACK TRANSACTION; THROW 50001, 'canary', 1",
    "begun": f"BEGIN TRANSACTION; {INSERT} (1)",
    "another": f"{INSERT} (1); COMMIT TRANSACTION; BEGIN TRANSACTION; {INSERT} (2)",
    "instead": f"{INSERT} (1); ROLLBACK TRANSACTION; BEGIN TRANSACTION; {INSERT} (2)",
    f"[{NAME.replace(']', ']]')}]": f"{INSERT} (1)",
}


@pytest.fixture
def far(fake: FakeFarSide) -> FakeFarSide:
    fake.run("CREATE TABLE dbo.log (a int PRIMARY KEY)")
    for head, body in BODIES.items():
        fake.run(f"CREATE PROCEDURE dbo.{head} AS BEGIN {body}; END")
    return fake


def call(far: FakeFarSide, routine: str, *arguments: Any, **more: Any) -> Any:
    return act(far, SqlProcedureOperator, **{"name": f"dbo.{routine}", "arguments": list(arguments), **more})


def logged(far: FakeFarSide) -> list[int]:
    return [row[0] for row in far.rows("log", "a")]


def test_parameters_by_name_and_by_place(far: FakeFarSide, server: TdsFake) -> None:
    told, count = {"mode": "out", "name": "@TOLD"}, {"mode": "inout", "name": "@n", "value": 2}
    result = call(far, "add", told, count, {"name": "@a", "value": 5})
    assert result["outputs"] == {"@TOLD": "added", "@n": 7}
    mixed = call(far, "add", 6, count, told, context={"run_id": "2"})
    assert mixed["outputs"] == {"@n": 8, "@TOLD": "added"}
    assert call(far, "add", None, {**count, "value": None}, told, name="add", context={"run_id": "3"})["rows"] == 0
    assert (
        "DECLARE @flowrunner_status int, @flowrunner_1 nvarchar(5), @flowrunner_2 int = @P1;"
        " EXEC @flowrunner_status = [dbo].[add] @told = @flowrunner_1 OUTPUT, @n = @flowrunner_2 OUTPUT, @a = @P2;"
        " SELECT @flowrunner_status AS [flowrunner_status], @flowrunner_1 AS [flowrunner_1],"
        " @flowrunner_2 AS [flowrunner_2];"
    ) in server.texts


@pytest.mark.parametrize(
    "arguments",
    [
        [{"name": "@a", "value": 1}, 2],
        [{"name": "@b", "value": 1}],
        [{"name": "@a = 1; DROP TABLE log --", "value": 1}],
        [{"name": "@A", "value": 1}, {"name": "@a", "value": 1}],
        [{"mode": "out"}, 1],
        [1, 2, {"mode": "inout", "value": "longer"}],
    ],
    ids=["place after name", "unknown", "payload", "twice", "no output", "too long"],
)
def test_arguments_that_do_not_fit_are_refused_before_the_call(
    far: FakeFarSide, server: TdsFake, arguments: list[Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        call(far, "add", *arguments)
    assert (caught.value.field, bool(caught.value.remedy)) == ("arguments", True)
    assert not any("EXEC" in text for text in server.texts)


@pytest.mark.parametrize("arguments", [[1], [1, 2, 3, 4]], ids=["too few", "too many"])
def test_too_few_or_too_many_arguments(far: FakeFarSide, arguments: list[Any]) -> None:
    with pytest.raises(NotFound, match="takes these arguments"):
        call(far, "add", *arguments)
    assert logged(far) == []


def test_a_return_code_other_than_0_is_a_failure_unless_asked_for(far: FakeFarSide) -> None:
    assert call(far, "coded", 0)["outputs"] == {}
    for number in (7, -1, 201, 266):  # numbers of errors, too
        with pytest.raises(Rejected, match=f"returned {number}"):
            call(far, "coded", number, context={"run_id": str(number)})
    assert logged(far) == [0]
    code = {"mode": "return", "name": "code"}
    assert call(far, "coded", code, 7, context={"run_id": "3"})["outputs"] == {"code": 7}
    assert logged(far) == [0, 7]
    with pytest.raises(Rejected, match="returned 8"):
        call(far, "coded", 8, once=False, context={"run_id": "4"})
    assert logged(far) == [0, 7, 8]


def test_results_between_counts_and_the_outputs(far: FakeFarSide) -> None:
    result = call(far, "noisy", {"mode": "inout", "name": "n", "value": 1})
    assert (result["result_sets"], result["outputs"]) == ([[{"a": 1}], [{"b": 2}]], {"n": 4})
    assert logged(far) == [1, 2, 3]


def test_an_error_is_told_and_in_a_transaction_undoes_all(far: FakeFarSide) -> None:
    with pytest.raises(Rejected) as caught:
        call(far, "twice")
    assert (caught.value.code, logged(far)) == ("2627", [])
    with pytest.raises(Rejected) as caught:
        call(far, "twice", once=False, context={"run_id": "2"})
    assert (caught.value.code, logged(far)) == ("2627", [1, 2]), "it went on after the error, as it does for anybody"


@pytest.mark.parametrize(
    ("routine", "error", "match", "left"),
    [
        ("kept_and_failed", OutcomeUnknown, "committed the transaction by itself", [1]),
        ("undone_and_failed", Rejected, "50001", []),
        ("begun", Rejected, "leaves a transaction open", []),
        ("another", OutcomeUnknown, "committed the transaction by itself", [1]),
        ("instead", IntegrityError, "rolls the transaction back", []),
    ],
)
def test_transactions_of_its_own(
    far: FakeFarSide, routine: str, error: type[FlowRunnerError], match: str, left: list[int]
) -> None:
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            call(far, routine)
        assert "canary" not in str(caught.value)
        assert logged(far) == left
        far.forget()


def test_a_commit_without_an_answer_is_looked_up(far: FakeFarSide, server: TdsFake) -> None:
    server.silent_at = "COMMIT TRANSACTION"
    arguments = [5, {"mode": "inout", "name": "n", "value": 2}, {"mode": "out", "name": "told"}]
    assert call(far, "add", *arguments)["outputs"] == {"n": 7, "told": "added"}
    assert logged(far) == [5]


def test_a_call_without_an_answer_is_undone_and_made_again(far: FakeFarSide, server: TdsFake) -> None:
    server.silent_at = "EXEC @flowrunner_status"
    with pytest.raises(ConnectionLost):
        call(far, "coded", 0)
    assert logged(far) == []
    call(far, "coded", 0)
    assert logged(far) == [0]
    server.silent_at = "EXEC @flowrunner_status"
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            call(far, "coded", 0, once=False, context={"run_id": "2"})


def test_a_login_without_the_privilege(far: FakeFarSide, server: TdsFake) -> None:
    server.texts = _Denied(server)
    with pytest.raises(AccessDenied) as caught:
        call(far, "coded", 0)
    assert caught.value.remedy
    assert logged(far) == []


class _Denied(list[str]):
    """The server's list of texts; a call is refused."""

    def __init__(self, server: TdsFake) -> None:
        super().__init__()
        self._server = server

    def append(self, text: str) -> None:
        super().append(text)
        if "EXEC @flowrunner_status" in text:
            self._server.planned.append(229)


def test_a_name_that_tries_to_be_sql(far: FakeFarSide, server: TdsFake) -> None:
    call(far, "x", name='dbo."' + NAME.replace('"', '""') + '"')
    assert logged(far) == [1]
    text = next(text for text in server.texts if "EXEC @flowrunner" in text)
    assert "DROP" not in [word for word, kind, _ in tokens(text, "name") if kind == "word"]
