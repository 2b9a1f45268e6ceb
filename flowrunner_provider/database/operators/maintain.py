"""Upkeep of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Upkeep
from flowrunner_provider.database.results import MaintainResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlMaintainOperator"]


class SqlMaintainOperator(FlowRunnerOperator):
    """The operation has been done on every one of ``tables``, of which none was missing.

    Killed anywhere and retried, ``truncate``, ``drop`` and ``swap_partition`` have happened exactly once, on all of the
    tables or none: a row in the table ``flowrunner_ledger``, beside the first table and committed in the same
    transaction, tells the next attempt so. The others are simply done again, which changes nothing.
    MySQL and MariaDB commit at every change of a structure: there one ``RENAME TABLE`` decides about a ``drop``, and
    ``truncate`` deletes the rows. So does SQL Server where a foreign key refers to the table, or it numbers its rows.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param operation: ``truncate`` removes all rows, ``drop`` the tables (never what depends on them); ``analyze``
        renews statistics; ``vacuum`` gives room back (SQLite: of the whole file, without ``tables``; MySQL: OPTIMIZE;
        SQL Server: indexes are reorganised, a table without a clustered index is written anew); ``reindex`` builds
        indexes anew; ``refresh_mview`` (PostgreSQL) fills materialized views; ``swap_partition`` (PostgreSQL) exchanges
        the rows of a partition and of ``replacement`` by exchanging the tables.
    :param tables: ``table`` or ``schema.table`` each, taken literally, with capitals as the database has them.
    :param confirm: for ``truncate`` and ``drop``: the same names once more; this parameter takes no templates, so that
        a name that came out of a template otherwise than meant does no harm.
    :param max_rows: for ``truncate`` and ``drop``: when a table has more rows nothing is done; null for no limit.
    :param replacement: for ``swap_partition``: the table that is to be the partition, in the same schema; it has the
        former rows afterwards.
    :param concurrently: for ``refresh_mview``: readers do not wait; the view needs a unique index.
    :param dry_run: do nothing but look whether the tables are there, and count the rows that would go.
    """

    action: ClassVar[str] = "sql.maintain"
    template_fields: Sequence[str] = ("conn_id", "tables", "replacement")

    def __init__(
        self,
        *,
        conn_id: str,
        operation: Upkeep,
        tables: list[str] | None = None,
        confirm: list[str] | None = None,
        max_rows: int | None = 1000,
        replacement: str | None = None,
        concurrently: bool = False,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.operation = operation
        self.tables = tables
        self.confirm = confirm
        self.max_rows = max_rows
        self.replacement = replacement
        self.concurrently = concurrently
        self.looking = dry_run  # dry_run() is a method of every operator

    def perform(self, run: Run) -> MaintainResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.maintain import MaintainPlan, maintain

        plan = MaintainPlan(
            operation=self.operation,
            tables=[] if self.tables is None else self.tables,
            confirm=self.confirm,
            max_rows=self.max_rows,
            replacement=self.replacement,
            concurrently=self.concurrently,
            dry_run=self.looking,
        )
        hook = hook_for(self.conn_id)
        return maintain(plan, lambda: hook.open(run.deadline), run)
