"""Call stored procedures and functions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.database.choices import Routine
from flowrunner_provider.database.results import ProcedureResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlProcedureOperator"]


class SqlProcedureOperator(FlowRunnerOperator):
    """On success, the procedure or function has run, and the result holds its outputs; ``save_to`` holds its rows.

    A killed or retried task, or two attempts at once, run it exactly once. A row in the table ``flowrunner_ledger``,
    committed in the same transaction, records the result for the next attempt. This cannot cover a procedure that
    commits by itself. Call such a procedure with ``once=False``: it runs outside a transaction, and an interrupted call
    is never repeated but fails as OutcomeUnknown. MySQL and SQL Server do not refuse such a procedure inside a
    transaction; there, the task fails as OutcomeUnknown afterwards. A SQL Server procedure that returns a code other
    than 0 has failed and is rolled back (except what it committed itself with ``once=False``), unless an argument of
    mode ``return`` takes the code.

    :param conn_id: a connection of type ``postgres``, ``mysql`` or ``mssql``; SQLite has no procedures.
    :param name: ``name`` or ``schema.name``, taken literally.
    :param arguments: the arguments in order. Each is a value, or an object with ``mode`` (``in``, ``out`` or
        ``inout``), ``value``, ``type`` (a dataset type that says how to read a string: ``date``, ``timestamp``,
        ``decimal``, ``binary`` in base64, ...) and ``name`` (of an output in the result; PostgreSQL uses its own
        names). For SQL Server, a name that starts with ``@`` passes the argument by name, and one argument may have
        mode ``return`` for the return code.
    :param routine: ``procedure`` (CALL, EXEC) or ``function`` (PostgreSQL: ``SELECT * FROM name(...)``).
    :param max_rows: the maximum number of rows in the result without ``save_to``; with more, nothing is stored.
    :param save_to: a .jsonl, .csv or .parquet file on the worker's disk for the rows of a single result set. The file
        appears complete, before the commit.
    :param once: set to False for a procedure that commits by itself; its result is then stored in the task's state.
    :param ledger_schema: the schema of the ledger; by default the database's default schema.
    """

    action: ClassVar[str] = "sql.procedure"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("conn_id", "name", "arguments", "save_to", "ledger_schema")

    def __init__(
        self,
        *,
        conn_id: str,
        name: str,
        arguments: list[Any] | None = None,
        routine: Routine = "procedure",
        max_rows: int = 100,
        save_to: str | None = None,
        once: bool = True,
        ledger_schema: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.name = name
        self.arguments = arguments
        self.routine = routine
        self.max_rows = max_rows
        self.save_to = save_to
        self.once = once
        self.ledger_schema = ledger_schema

    async def perform(self, run: Run) -> ProcedureResult:
        """Validate the arguments, then call the routine."""
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.procedure import (
            ProcedurePlan,
            call_in_transaction,
            call_outside_transaction,
            parse_argument,
        )

        if not isinstance(self.arguments, list | tuple | None):
            raise ConfigError(
                "arguments must be a list", field="arguments", remedy='pass a list such as [7, {"mode": "out"}]'
            )
        plan = ProcedurePlan(
            name=self.name,
            arguments=[parse_argument(given, number) for number, given in enumerate(self.arguments or (), 1)],
            routine=self.routine,
            max_rows=self.max_rows,
            save_to=None if self.save_to is None else Dataset.from_value(self.save_to, field="save_to"),
            once=self.once,
            ledger_schema=self.ledger_schema,
        )
        hook = hook_for(self.conn_id)
        if self.once:
            result = await asyncio.to_thread(call_in_transaction, plan, lambda: hook.open(run.deadline), run)
        else:
            result = await call_outside_transaction(plan, lambda: hook.open(run.deadline), run)
        dataset = Dataset(**result["dataset"]) if result["dataset"] is not None else None
        return ProcedureResult(
            outputs=result["outputs"], result_sets=result["result_sets"], rows=result["rows"], dataset=dataset
        )
