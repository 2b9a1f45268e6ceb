"""Names of tables and columns: the only way for a name to reach SQL.

A name is taken literally: never folded to lower case, never trimmed, always quoted. A name that cannot be quoted
safely, or that the server would truncate, is rejected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError

__all__ = ["Identifier", "Quoting", "TableName"]

_PLAIN = re.compile(r"[^\W\d][\w$]*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_MAX_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Quoting:
    """How a database quotes a name.

    :param mark: the quotation mark; doubled inside a name.
    :param end: the closing mark, if it differs; then this one is doubled.
    :param max_bytes: the longest name in UTF-8; the server would truncate or reject longer ones.
    :param max_characters: the longest name in characters, where the server counts these.
    :param forbidden: a pattern of what no name may contain because the server would change or misread it.
    """

    mark: str = '"'
    end: str | None = None
    max_bytes: int = 63
    max_characters: int | None = None
    forbidden: str | None = None


@dataclass(frozen=True)
class Identifier:
    """One name, e.g. of a column.

    :raises ConfigError: if it is empty, or contains NUL or half of a surrogate pair.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text or "\0" in self.text or not _encodable(self.text):
            raise ConfigError(
                f"{self.text[:_MAX_SHOWN]!r} cannot be the name of a table or column",
                field="table",
                remedy="use a non-empty name of valid Unicode without NUL",
            )

    def quoted(self, quoting: Quoting) -> str:
        """Return the name as SQL.

        :raises ConfigError: if it is too long.
        """
        size = len(self.text.encode())
        if size > quoting.max_bytes:
            raise ConfigError(
                f"the name {self.text[:_MAX_SHOWN]!r} has {size} bytes; this database allows {quoting.max_bytes}",
                field="table",
                remedy="choose a shorter name, or map the column with column_map",
            )
        if quoting.max_characters is not None and len(self.text) > quoting.max_characters:
            raise ConfigError(
                f"the name {self.text[:_MAX_SHOWN]!r} has more than {quoting.max_characters} characters",
                field="table",
                remedy="choose a shorter name, or map the column with column_map",
            )
        if quoting.forbidden is not None and re.search(quoting.forbidden, self.text):
            raise ConfigError(
                f"{self.text[:_MAX_SHOWN]!r} cannot be the name of a table or column in this database",
                field="table",
                remedy="choose another name, or map the column with column_map",
            )
        end = quoting.end or quoting.mark
        return quoting.mark + self.text.replace(end, end * 2) + end


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class TableName:
    """A table and its schema (None: the database's default schema)."""

    name: Identifier
    schema: Identifier | None = None

    @classmethod
    def of(cls, name: str, schema: str | None = None) -> TableName:
        """Build a name from parts that are not parsed."""
        return cls(Identifier(name), None if schema is None else Identifier(schema))

    @classmethod
    def parse(cls, text: str, field: str = "table") -> TableName:
        """Parse ``table``, ``schema.table``, or either part ``"quoted"`` as in SQL.

        :raises ConfigError: for anything else.
        """
        parts: list[str] = []
        position = 0
        while isinstance(text, str) and position <= len(text):
            match = _QUOTED.match(text, position) or _PLAIN.match(text, position)
            if match is None:
                break
            parts.append(match[1].replace('""', '"') if match.re is _QUOTED else match[0])
            position = match.end()
            if position == len(text) and len(parts) <= 2:
                return cls.of(parts[-1], parts[0] if len(parts) == 2 else None)
            if text[position : position + 1] != ".":
                break
            position += 1
        shown = text[:_MAX_SHOWN] if isinstance(text, str) else type(text).__name__
        raise ConfigError(
            f"{shown!r} is not the name of a table",
            field=field,
            remedy='write table or schema.table; quote unusual names, e.g. "my schema"."my table"',
        )

    def quoted(self, quoting: Quoting) -> str:
        """Return the name as SQL, with its schema if it has one."""
        parts = [self.name] if self.schema is None else [self.schema, self.name]
        return ".".join(part.quoted(quoting) for part in parts)

    def beside(self, name: str) -> TableName:
        """Return another table in the same schema."""
        return TableName(Identifier(name), self.schema)

    def __str__(self) -> str:
        parts = [self.name] if self.schema is None else [self.schema, self.name]
        return ".".join(
            part.text if _PLAIN.fullmatch(part.text) else '"' + part.text.replace('"', '""') + '"' for part in parts
        )
