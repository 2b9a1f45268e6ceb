"""A table or query to read from, and queries over it with bound values."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params, Row
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.query_text import strip_terminator

__all__ = ["Origin", "QueryBuilder"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The rows to read: a table, or a query with its parameters.

    :param names: the names of ``sql``, ``table`` and ``params`` as parameters of the action, for messages.
    :raises ConfigError: unless exactly one of ``sql`` and ``table`` is given.
    """

    sql: str | None = None
    table: str | None = None
    params: Params = None
    names: tuple[str, str, str] = ("sql", "table", "parameters")

    def __post_init__(self) -> None:
        sql, table, params = self.names
        if (self.sql is None) == (self.table is None) or (self.sql is not None and not self.sql.strip(" \t\r\n;")):
            raise ConfigError(f"give either {sql} or {table}", field=sql, remedy="name a table, or write a query")
        if self.table is not None:
            TableName.parse(self.table, table)
        if self.params is not None and (self.table is not None or not isinstance(self.params, list | tuple | Mapping)):
            raise ConfigError(
                f"the parameters for {sql} must be a list or an object",
                field=params,
                remedy=f"give one value per placeholder of {sql}, or remove them",
            )

    def column_types(self, session: Session) -> dict[str, str]:
        """Return the columns: name -> dataset type, or empty if it has none."""
        if self.sql is not None:
            return session.column_types(strip_terminator(self.sql), self.params)
        return session.column_types(f"SELECT * FROM {session.sql(TableName.parse(str(self.table)))}", None)

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.table if self.table is not None else self.names[0]


class QueryBuilder:
    """Builds a query over an origin.

    :param binds: whether :meth:`value` will be called.
    """

    def __init__(self, session: Session, origin: Origin, *, binds: bool) -> None:
        self._session, self._origin = session, origin
        self._binds = binds or origin.params is not None
        self._named = dict(origin.params) if isinstance(origin.params, Mapping) else None
        self._listed: list[Any] = [] if isinstance(origin.params, Mapping) else list(origin.params or ())

    def name(self, name: str | TableName | Identifier) -> str:
        """Quote a name."""
        return self.plain(self._session.sql(name))

    def plain(self, text: str) -> str:
        """Escape a text without placeholders."""
        return self._session.user_text(text) if self._binds else text

    def value(self, value: Any) -> str:
        """Return a placeholder for the value; positional ones must be requested in the order of the text."""
        if self._named is None:
            self._listed.append(value)
            return self._session.user_placeholder
        key = f"flowrunner_{len(self._named)}"
        self._named[key] = value
        return self._session.user_named_placeholder.format(key)

    @property
    def source(self) -> str:
        """The ``FROM`` item, with the alias ``q``."""
        origin = self._origin
        if origin.sql is None:
            return f"{self.name(TableName.parse(str(origin.table)))} AS q"
        text = strip_terminator(origin.sql)
        return f"({text if origin.params is not None else self.plain(text)}\n) AS q"

    @property
    def params(self) -> Params:
        """The parameters of the query."""
        if not self._binds:
            return None
        return self._named if self._named is not None else self._listed

    def first(self, query: str) -> Row | None:
        """Return the first row of a query."""
        with self._session.stream(query, self.params, batch_rows=1) as batches:
            return next((batch[0] for batch in batches), None)
