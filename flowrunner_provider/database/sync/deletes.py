"""Deleting the rows that the source no longer has: by a complete listing of its keys, up to a limit."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Table
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.sync.plan import SyncPlan

__all__ = ["check_keys", "remove_unlisted"]


def check_keys(session: Session, stage: TableName, plan: SyncPlan) -> None:
    """Raise if a staged row has NULL in a key column.

    :raises Rejected: naming the key columns.
    """
    if session.has_null(stage, plan.keys):
        raise Rejected(
            f"a row of the source has no value in a key column ({', '.join(plan.keys)}); nothing was stored",
            code="23502",
            remedy="correct the source, or exclude such rows with sql",
        )


def remove_unlisted(session: Session, table: Table, listing: TableName, plan: SyncPlan) -> tuple[int, int]:
    """Delete the rows whose keys are not in ``listing``, or mark them as deleted.

    :return: how many rows were deleted or marked, and how many are no longer marked.
    :raises IntegrityError: if they are more than ``max_deletes``.
    """
    target, condition = session.sql(table.name), session.unlisted(listing, plan.keys)
    change, restored = session.delete_from.format(target), 0
    if plan.soft_delete_column is not None:
        flag = session.flag_of(table.columns.get(plan.soft_delete_column, ""))
        if flag is None:
            raise ConfigError(
                f"{table.name} has no column {plan.soft_delete_column!r} that can mark a row as deleted",
                field="soft_delete_column",
                remedy="name a boolean, date or timestamp column",
            )
        column = session.sql(plan.soft_delete_column)
        marked = flag.says_so.format(f"t.{column}")
        restore = session.update_from.format(target, f"{column} = {flag.alive}")
        restored = session.execute(f"{restore} WHERE {marked} AND NOT ({condition})")
        change = session.update_from.format(target, f"{column} = {flag.deleted}")
        condition = f"{condition} AND NOT ({marked})"
    count = int(session.run(f"SELECT {session.count_sql} FROM {target} AS t WHERE {condition}")[0][0])
    if plan.max_deletes is not None and count > plan.max_deletes:
        raise IntegrityError(
            f"{count} rows of {table.name} are not in the source, more than max_deletes={plan.max_deletes};"
            " nothing was changed",
            remedy="check that the source is complete, then raise max_deletes",
        )
    if count:
        session.execute(f"{change} WHERE {condition}")
        failpoint("sql.sync.after_deletes")
    return count, restored
