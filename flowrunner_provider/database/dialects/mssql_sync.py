"""What a sync asks of a session, as Transact-SQL says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.syncing import Flag

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.base import Column
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Synced"]


class Synced(Session):
    """The part of a session that serves a sync."""

    delete_from: ClassVar[str] = "DELETE t FROM {} AS t"

    def add_column(self, table: TableName, column: Column) -> None:
        self.run(f"ALTER TABLE {self.sql(table)} ADD {self.sql(column.name)} {self.types[column.type]}")

    def flag_of(self, kind: str) -> Flag | None:
        if kind.lower() == "bit":
            return Flag("1", "0", "coalesce({}, 0) = 1")
        if kind.lower().startswith(("date", "smalldatetime")):
            return Flag("CURRENT_TIMESTAMP", "NULL", "{} IS NOT NULL")
        return None
