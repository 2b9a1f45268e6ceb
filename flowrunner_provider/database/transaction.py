"""Run several statements in one transaction, once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Isolation, OnError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.ledger import LEDGER_TABLE
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import StatementResult, TransactionResult

__all__ = ["Statement", "TransactionPlan", "transact"]

_SKIPPED = re.compile(r"[\s;]+|--[^\n]*(?:\n|$)|/\*((?:[^*]|\*(?!/))*)\*/", re.ASCII)
_KEYWORD = re.compile(r"[A-Za-z]+|\(")
_TRANSACTION_CONTROL = frozenset(
    {"ABORT", "BEGIN", "COMMIT", "END", "PREPARE", "RELEASE", "ROLLBACK", "SAVEPOINT", "START", "ATTACH", "DETACH"}
)
_KEYS = ("sql", "params", "expect_rows", "name", "savepoint")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement.

    :param sql: with the placeholders of the driver.
    :param savepoint: the name of a savepoint before it; an error up to the next savepoint can be undone alone.
    """

    sql: str
    params: Params
    expect_rows: int | None
    name: str
    savepoint: str | None

    @classmethod
    def parse(cls, value: Any, number: int) -> Statement:
        """Parse a statement as the user wrote it.

        :raises ConfigError: naming what to correct, never a value.
        """
        where = f"statement {number}"
        if isinstance(value, str):
            value = {"sql": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("sql"), str):
            raise _config_error(f"{where} has no sql", 'pass {"sql": "UPDATE ...", "params": [...]}')
        if unknown := sorted(set(map(str, value)) - set(_KEYS)):
            raise _config_error(f"{where} has the unknown key {unknown[0]!r}", f"use only {', '.join(_KEYS)}")
        params, expect, savepoint = value.get("params"), value.get("expect_rows"), value.get("savepoint")
        if params is not None and not isinstance(params, list | tuple | dict):
            raise _config_error(f"{where}: params must be a list or an object", "pass one value per placeholder")
        if isinstance(expect, str) and expect.isascii() and expect.isdigit():
            expect = int(expect)
        if expect is not None and (not isinstance(expect, int) or isinstance(expect, bool) or expect < 0):
            raise _config_error(f"{where}: expect_rows must be 0 or more", "pass an integer")
        if savepoint is not None:
            if not isinstance(savepoint, str):
                raise _config_error(f"{where}: savepoint must be a name", "pass a name such as 'audit'")
            Identifier(savepoint)
        _check_sql(value["sql"], where)
        name = str(value.get("name") or number)
        return cls(sql=value["sql"], params=params, expect_rows=expect, name=name, savepoint=savepoint)


def _config_error(message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field="statements", remedy=remedy)


def _check_sql(sql: str, where: str) -> None:
    """Reject a statement that would end the transaction; the database itself rejects two in one text."""
    position = 0
    while found := _SKIPPED.match(sql, position):
        if found[1] and "/*" in found[1]:
            raise _config_error(f"{where} begins with a nested comment", "remove it")
        position = found.end()
    word = _KEYWORD.match(sql, position)
    if word is None:
        raise _config_error(f"{where} does not begin with an SQL keyword", "pass one statement")
    if word[0].upper() in _TRANSACTION_CONTROL:
        raise _config_error(
            f"{where} is {word[0].upper()}, which would act on the transaction itself",
            "remove it: the action begins and ends the transaction; use savepoint for parts of it",
        )


@dataclass(frozen=True, kw_only=True)
class TransactionPlan:
    """The parameters of the action ``sql.transaction``.

    :raises ConfigError: naming the parameter to correct.
    """

    statements: Sequence[Statement]
    isolation: Isolation = "read committed"
    on_error: OnError = "rollback"
    once: bool = True
    ledger_schema: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("isolation", Isolation), ("on_error", OnError)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}",
                    field=name,
                    remedy=f"use one of {', '.join(map(repr, get_args(choices)))}",
                )
        if not self.statements:
            raise _config_error("statements is empty", "pass at least one")
        names = [statement.name for statement in self.statements]
        if len(set(names)) != len(names):
            raise _config_error("two statements have the same name", "use unique names")
        if (self.on_error == "rollback_to") != any(statement.savepoint for statement in self.statements):
            raise ConfigError(
                "on_error='rollback_to' and savepoint are used together",
                field="on_error",
                remedy="add a savepoint to a statement, or use on_error='rollback' without savepoints",
            )

    @property
    def ledger(self) -> TableName:
        """The ledger table; without a schema it is in the database's default one."""
        return TableName.of(LEDGER_TABLE, self.ledger_schema)

    def fingerprint(self) -> str:
        """Return a digest of the statements; the same in every attempt."""
        parts = [asdict(statement) for statement in self.statements]
        text = json.dumps([parts, self.on_error], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def transact(plan: TransactionPlan, connect: Callable[[], Session], run: Run) -> TransactionResult:
    """Run all statements and record them in the ledger in one commit, exactly once over all attempts."""
    work = Once(
        action="sql.transaction",
        target=plan.ledger,
        fingerprint=plan.fingerprint(),
        connect=connect,
        body=lambda session: {"statements": [asdict(result) for result in _run_all(session, plan, run)]},
        run=run,
        failpoint=lambda name: failpoint(f"sql.transaction.{name}"),
        isolation=plan.isolation,
        use_ledger=plan.once,
    )
    results = [StatementResult(**item) for item in work.perform()["statements"]]
    return TransactionResult(
        statements=results,
        rows=sum(result.rows for result in results),
        undone=sum(result.undone for result in results),
    )


def _run_all(session: Session, plan: TransactionPlan, run: Run) -> list[StatementResult]:
    results: list[StatementResult] = []
    savepoint: str | None = None
    start = 0  # index of the first result after the savepoint
    skipping = False
    for statement in plan.statements:
        if statement.savepoint is not None:
            savepoint, start, skipping = statement.savepoint, len(results), False
            session.savepoint(savepoint)
        run.deadline.check("the transaction")
        rows = 0
        if not skipping:
            try:
                rows = _run_statement(session, statement)
            except (PermanentError, ConfigError) as error:
                if savepoint is None:
                    raise
                skipping = True
                session.rollback_to_savepoint(savepoint)
                run.log.warning("%s The statements since the savepoint were undone.", error.message)
                results[start:] = [StatementResult(name=done.name, rows=0, undone=True) for done in results[start:]]
        results.append(StatementResult(name=statement.name, rows=rows, undone=skipping))
        failpoint("sql.transaction.after_statement")
    return results


def _run_statement(session: Session, statement: Statement) -> int:
    try:
        rows = session.execute(statement.sql, statement.params)
    except FlowRunnerError as error:
        error.message = f"statement {statement.name!r}: {error.message}"
        if isinstance(error, PermanentError):
            error.remedy = "correct the statement or its parameters; nothing was stored"
        raise
    if statement.expect_rows not in (None, rows):
        raise IntegrityError(
            f"statement {statement.name!r} matched {rows} rows, expected {statement.expect_rows}; nothing was stored",
            remedy="check the table, or correct expect_rows",
        )
    return rows
