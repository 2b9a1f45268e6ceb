"""Update or delete rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Operation
from flowrunner_provider.database.operators.arguments import parse_count
from flowrunner_provider.database.results import ModifyResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlModifyOperator"]


class SqlModifyOperator(FlowRunnerOperator):
    """On success, the rows of ``table`` that match ``where`` are updated or deleted, within the agreed limits.

    A killed or retried task, or two attempts at once, apply the change exactly once. A row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt that the
    work is done. Rows that the database changes as a consequence (triggers, ON DELETE CASCADE) are not counted.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param operation: ``update`` or ``delete``.
    :param table: ``table`` or ``schema.table``, taken literally.
    :param where: the rows to change: an object column -> value (a list matches any of its values, null matches NULL),
        or column -> object of operators, e.g. ``{">=": 5, "<": 9}``. All conditions must hold. The operators are
        ``= != < <= > >= like not_like in not_in``. Alternatively, an SQL condition with values in ``parameters``.
    :param set: for ``update``: column -> new value. Objects are stored as JSON; lists too, unless the column is an
        array.
    :param parameters: values for the placeholders of a ``where`` text: ``%s`` and ``%(name)s`` for PostgreSQL and MySQL
        (write a literal ``%`` as ``%%`` when you pass parameters), ``?`` and ``:name`` for SQLite.
    :param max_affected: the maximum number of rows; with more, nothing is changed. Null for no limit.
    :param expect_affected: the exact number of rows; with any other number, nothing is changed.
    :param dry_run: change nothing and count all matching rows.
    """

    action: ClassVar[str] = "sql.modify"
    template_fields: Sequence[str] = ("conn_id", "table", "where", "set", "parameters", "expect_affected")

    def __init__(
        self,
        *,
        conn_id: str,
        operation: Operation,
        table: str,
        where: str | dict[str, Any],
        set: dict[str, Any] | None = None,  # noqa: A002
        parameters: list[Any] | dict[str, Any] | None = None,
        max_affected: int | None = 1000,
        expect_affected: int | str | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.operation = operation
        self.table = table
        self.where = where
        self.set = set
        self.parameters = parameters
        self.max_affected = max_affected
        self.expect_affected = expect_affected
        self.dry_run_only = dry_run  # BaseOperator has a method named dry_run

    def perform(self, run: Run) -> ModifyResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.modify import ModifyPlan, modify

        plan = ModifyPlan(
            operation=self.operation,
            table=self.table,
            where=self.where,
            set=self.set,
            params=self.parameters,
            max_affected=self.max_affected,
            expect_affected=parse_count(self.expect_affected, "expect_affected"),
            dry_run=self.dry_run_only,
        )
        hook = hook_for(self.conn_id)
        return modify(plan, lambda: hook.open(run.deadline), run)
