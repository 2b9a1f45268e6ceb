"""Maintain tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Upkeep
from flowrunner_provider.database.results import MaintainResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlMaintainOperator"]


class SqlMaintainOperator(FlowRunnerOperator):
    """On success, the operation has been applied to every table in ``tables``, and none of them was missing.

    A killed or retried task applies ``truncate``, ``drop`` and ``swap_partition`` exactly once, to all tables or none.
    A row in the table ``flowrunner_ledger``, in the schema of the first table and committed in the same transaction,
    tells the next attempt that the work is done. The other operations are repeated, which is harmless. MySQL and
    MariaDB commit implicitly at every DDL statement: there, ``drop`` is decided by one ``RENAME TABLE`` and
    ``truncate`` deletes the rows. SQL Server also deletes the rows if the table has an identity column or a foreign key
    refers to it.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param operation: ``truncate`` removes all rows. ``drop`` drops the tables, but never objects that depend on them.
        ``analyze`` refreshes statistics. ``vacuum`` reclaims space (SQLite: of the database file, without ``tables``;
        MySQL: OPTIMIZE TABLE; SQL Server: reorganizes indexes and rebuilds tables without a clustered index).
        ``reindex`` rebuilds indexes. ``refresh_mview`` (PostgreSQL) refreshes materialized views. ``swap_partition``
        (PostgreSQL) exchanges a partition with the table ``replacement``.
    :param tables: the tables, each ``table`` or ``schema.table``, taken literally and in the database's own case.
    :param confirm: for ``truncate`` and ``drop``: the same names again. This parameter takes no templates, so a
        template that renders to an unexpected name does no harm.
    :param max_rows: for ``truncate`` and ``drop``: do nothing and fail if a table has more rows; null for no limit.
    :param replacement: for ``swap_partition``: the table in the same schema that becomes the partition. It holds the
        former rows of the partition afterwards.
    :param concurrently: for ``refresh_mview``: do not block readers; the view needs a unique index.
    :param dry_run: change nothing; only check that the tables exist and count the rows that would be removed.
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
        self.dry_run_only = dry_run  # BaseOperator has a method named dry_run

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
            dry_run=self.dry_run_only,
        )
        hook = hook_for(self.conn_id)
        return maintain(plan, lambda: hook.open(run.deadline), run)
