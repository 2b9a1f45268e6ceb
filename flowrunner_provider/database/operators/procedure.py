"""Stored procedures and functions."""

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
    """The procedure or function has run, and what it returned is the result; rows are in the file if one was named.

    Killed anywhere and retried, or run twice at once, it has run exactly once: a row in the table
    ``flowrunner_ledger``, committed in the same transaction and holding the result, tells the next attempt so.
    A procedure that commits by itself cannot be in that transaction: with ``once=False`` it is called outside of one,
    and a call that was interrupted is never repeated but stops as OutcomeUnknown. MySQL and SQL Server do not refuse
    such a procedure in a transaction: there the task stops as OutcomeUnknown after it. A procedure of SQL Server that
    returns another code than 0 has failed, and nothing of it is stored (with ``once=False`` what it committed stays),
    unless an argument of mode return takes the code.

    :param conn_id: a connection of type ``postgres``, ``mysql`` or ``mssql``; SQLite has no procedures.
    :param name: ``name`` or ``schema.name``, taken literally.
    :param arguments: in their order, each a value, or an object: ``mode`` is in, out or inout, ``value`` the value,
        ``type`` (of a dataset) how a text is to be read (``date``, ``timestamp``, ``decimal``, ``binary`` in base64,
        ...), ``name`` that of an output in the result (PostgreSQL gives its own). In SQL Server a name that begins
        with ``@`` is the parameter's, in any order, and one argument may have the mode return: the return code.
    :param routine: ``procedure`` (CALL, EXEC) or ``function`` (PostgreSQL: ``SELECT * FROM name(...)``).
    :param max_rows: how many rows may be returned without ``save_to``; with more nothing is stored.
    :param save_to: a .jsonl, .csv or .parquet file on the worker's disk for the rows of the only result; it appears
        whole, before the commit.
    :param once: False for a procedure that commits by itself; its result is then remembered in the task's state.
    :param ledger_schema: the schema of the ledger; by default the one in which the database looks first.
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
        """Check the arguments, then call."""
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.procedure import ProcedurePlan, argument, call_now, call_once

        if not isinstance(self.arguments, list | tuple | None):
            raise ConfigError("arguments must be a list", field="arguments", remedy='write [7, {"mode": "out"}], say')
        plan = ProcedurePlan(
            name=self.name,
            arguments=[argument(given, number) for number, given in enumerate(self.arguments or (), 1)],
            routine=self.routine,
            max_rows=self.max_rows,
            save_to=None if self.save_to is None else Dataset.from_value(self.save_to, field="save_to"),
            once=self.once,
            ledger_schema=self.ledger_schema,
        )
        hook = hook_for(self.conn_id)
        if self.once:
            found = await asyncio.to_thread(call_once, plan, lambda: hook.open(run.deadline), run)
        else:
            found = await call_now(plan, lambda: hook.open(run.deadline), run)
        dataset = Dataset(**found["dataset"]) if found["dataset"] is not None else None
        return ProcedureResult(
            outputs=found["outputs"], result_sets=found["result_sets"], rows=found["rows"], dataset=dataset
        )
