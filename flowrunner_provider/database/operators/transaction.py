"""Statements in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Isolation, OnError
from flowrunner_provider.database.results import TransactionResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlTransactionOperator"]


class SqlTransactionOperator(FlowRunnerOperator):
    """All statements have taken effect in one commit, each with the number of rows that it was to meet.

    Killed anywhere and retried, or run twice at once, they take effect exactly once: a row in the table
    ``flowrunner_ledger``, committed with them, tells the next attempt that the work is done.
    A deadlock or serialization failure is answered by doing all of it again, a few times. Values of parameters
    appear in no log and no error.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param statements: in their order, each an object. ``sql`` is one statement, ``params`` the values of its
        placeholders, which are those of the driver: ``%s`` and ``%(name)s`` for PostgreSQL and MySQL (with params
        ``%`` itself is ``%%``), ``?`` and ``:name`` for SQLite. ``expect_rows`` is how many rows it must change or
        return; ``name`` is for the result; ``savepoint`` is a name, see ``on_error``.
    :param isolation: of the transaction, at least; SQLite's are always serializable.
    :param on_error: ``rollback`` undoes everything and fails. ``rollback_to`` undoes a statement that was refused or
        met a wrong number of rows, and those with it from its savepoint up to the next one, and goes on there; the
        result says what was undone. Before the first savepoint it is as ``rollback``.
    :param once: False to keep no ledger: then a retry after a kill at the commit may do the statements again.
    :param ledger_schema: the schema of the ledger; by default the one in which the database looks first.
    """

    action: ClassVar[str] = "sql.transaction"
    template_fields: Sequence[str] = ("conn_id", "statements", "ledger_schema")

    def __init__(
        self,
        *,
        conn_id: str,
        statements: list[dict[str, Any]],
        isolation: Isolation = "read committed",
        on_error: OnError = "rollback",
        once: bool = True,
        ledger_schema: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.statements = statements
        self.isolation = isolation
        self.on_error = on_error
        self.once = once
        self.ledger_schema = ledger_schema

    def perform(self, run: Run) -> TransactionResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.transaction import Statement, TransactionPlan, transact

        if not isinstance(self.statements, list | tuple):
            raise ConfigError("statements must be a list", field="statements", remedy='write [{"sql": "UPDATE ..."}]')
        plan = TransactionPlan(
            statements=[Statement.read(value, number) for number, value in enumerate(self.statements, 1)],
            isolation=self.isolation,
            on_error=self.on_error,
            once=self.once,
            ledger_schema=self.ledger_schema,
        )
        hook = hook_for(self.conn_id)
        return transact(plan, lambda: hook.open(run.deadline), run)
