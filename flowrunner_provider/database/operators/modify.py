"""Updates and deletes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Operation
from flowrunner_provider.database.operators.arguments import number
from flowrunner_provider.database.results import ModifyResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlModifyOperator"]


class SqlModifyOperator(FlowRunnerOperator):
    """The rows of ``table`` that match ``where`` are updated or deleted, and they were not more than agreed on.

    Killed anywhere and retried, or run twice at once, it happens exactly once: a row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt so.
    Rows that the database itself changes along (triggers, ON DELETE CASCADE) are not counted.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param operation: ``update`` or ``delete``.
    :param table: ``table`` or ``schema.table``, taken literally.
    :param where: which rows: column -> value (a list means any of them, null means no value) or an object of
        operators such as ``{">=": 5, "<": 9}``, all of which must hold; the operators are ``= != < <= > >= like
        not_like in not_in``. Or a condition as SQL text, whose values belong into ``parameters``.
    :param set: for ``update``: column -> new value.
    :param parameters: values for the placeholders of a text: ``%s`` and ``%(name)s`` for PostgreSQL and MySQL
        (where ``%`` itself is then ``%%``), ``?`` and ``:name`` for SQLite.
    :param max_affected: with more rows nothing is changed; null for no limit.
    :param expect_affected: with another number of rows nothing is changed.
    :param dry_run: change nothing and count all rows that match.
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
        self.counting = dry_run  # dry_run() is a method of every operator

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
            expect_affected=number(self.expect_affected, "expect_affected"),
            dry_run=self.counting,
        )
        hook = hook_for(self.conn_id)
        return modify(plan, lambda: hook.open(run.deadline), run)
