"""Rows that the source does not have any more: found by a complete listing of its keys, and never too many."""

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
    """Every staged row has its keys.

    :raises Rejected: if one has not.
    """
    if session.has_null(stage, plan.keys):
        raise Rejected(
            f"a row of the source has no value in a key column ({', '.join(plan.keys)}); nothing was stored",
            code="23502",
            remedy="correct the source, or leave such rows out with sql",
        )


def remove_unlisted(session: Session, table: Table, listing: TableName, plan: SyncPlan) -> tuple[int, int]:
    """Delete, or mark, the rows whose keys are not in ``listing``; how many were, and how many came back.

    :raises IntegrityError: if they are more than agreed on.
    """
    target, condition = session.sql(table.name), session.unlisted(listing, plan.keys)
    change, restored = session.delete_from.format(target), 0
    if plan.soft_delete_column is not None:
        flag = session.flag_of(table.columns.get(plan.soft_delete_column, ""))
        if flag is None:
            raise ConfigError(
                f"{table.name} has no column {plan.soft_delete_column!r} that can say that a row is deleted",
                field="soft_delete_column",
                remedy="name a column of a truth value, a date or a time",
            )
        column = session.sql(plan.soft_delete_column)
        marked = flag.says_so.format(f"t.{column}")
        restore = session.update_from.format(target, f"{column} = {flag.alive}")
        restored = session.execute(f"{restore} WHERE {marked} AND NOT ({condition})")
        change = session.update_from.format(target, f"{column} = {flag.deleted}")
        condition = f"{condition} AND NOT ({marked})"
    count = int(session.run(f"SELECT {session.counts} FROM {target} AS t WHERE {condition}")[0][0])
    if plan.max_deletes is not None and count > plan.max_deletes:
        raise IntegrityError(
            f"{count} rows of {table.name} are not in the source, more than max_deletes={plan.max_deletes};"
            " nothing was changed",
            remedy="look whether the source is complete; then raise max_deletes",
        )
    if count:
        session.execute(f"{change} WHERE {condition}")
        failpoint("sql.sync.after_deletes")
    return count, restored
