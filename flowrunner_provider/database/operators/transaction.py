"""Run several statements in one transaction."""

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
    """On success, all statements took effect in a single commit, each with the expected number of rows.

    A killed or retried task, or two attempts at once, apply them exactly once. A row in the table
    ``flowrunner_ledger``, committed in the same transaction, tells the next attempt that the work is done. After a
    deadlock or serialization failure, the transaction is retried a few times. Parameter values appear in no log or
    error.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param statements: the statements in order, each an object. ``sql`` is one statement and ``params`` the values for
        the driver's placeholders: ``%s`` and ``%(name)s`` for PostgreSQL and MySQL (write a literal ``%`` as ``%%``
        when you pass params), ``?`` and ``:name`` for SQLite. ``expect_rows`` is the number of rows the statement must
        change or return. ``name`` identifies it in the result. ``savepoint`` names a savepoint before it, see
        ``on_error``.
    :param isolation: the minimum isolation level of the transaction; SQLite is always serializable.
    :param on_error: ``rollback`` undoes everything and fails. ``rollback_to`` undoes the statements from the last
        savepoint up to the next one if one of them fails or matches an unexpected number of rows, then continues at the
        next savepoint; the result lists what was undone. Before the first savepoint, it acts as ``rollback``.
    :param once: set to False to keep no ledger; then a retry after a kill at the commit may run the statements again.
    :param ledger_schema: the schema of the ledger; by default the database's default schema.
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
            raise ConfigError(
                "statements must be a list", field="statements", remedy='pass a list such as [{"sql": "UPDATE ..."}]'
            )
        plan = TransactionPlan(
            statements=[Statement.parse(value, number) for number, value in enumerate(self.statements, 1)],
            isolation=self.isolation,
            on_error=self.on_error,
            once=self.once,
            ledger_schema=self.ledger_schema,
        )
        hook = hook_for(self.conn_id)
        return transact(plan, lambda: hook.open(run.deadline), run)
