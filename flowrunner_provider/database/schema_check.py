"""Structures of tables: written down, and compared with what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.structure import ColumnShape, Shape
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.results import SchemaDifference

__all__ = ["MOST_BYTES", "compared", "look", "parsed", "rendered", "told"]

MOST_BYTES = 8_000_000
"""Of a file of structures."""

_FORMAT = 1
_MOST_TABLES = 10_000
_SHOWN = 10

Shapes = Mapping[str, Shape]


def look(connect: Callable[[], Session], tables: Sequence[str]) -> tuple[str, dict[str, Shape | None]]:
    """The kind of the database, and the structure of each table (None: it is not there), all at one moment."""
    names = [TableName.parse(table, "tables") for table in tables]
    if not names or len(names) > _MOST_TABLES:
        raise ConfigError(
            f"there are no tables to look at, or more than {_MOST_TABLES}", field="tables", remedy="name the tables"
        )
    with connect() as session:
        session.begin("repeatable read", read_only=True)
        found = {str(name): session.shape(name) for name in names}
        session.rollback()
        return session.kind, found


def rendered(kind: str, found: Mapping[str, Shape | None]) -> str:
    """The file of structures, the same text for the same structures.

    :raises NotFound: if a table is missing: nobody wants to remember that.
    """
    if missing := sorted(name for name, shape in found.items() if shape is None):
        raise NotFound(f"the table {missing[0]} is not there; no snapshot was written", remedy="correct its name")
    tables = {name: asdict(shape) for name, shape in found.items() if shape is not None}
    return json.dumps({"format": _FORMAT, "database": kind, "tables": tables}, indent=1, sort_keys=True) + "\n"


def parsed(value: Any, what: str) -> tuple[str, dict[str, Shape]]:
    """The kind of database and the structures that a file holds.

    :param value: its JSON.
    :param what: the file, for the message.
    """
    try:
        if value["format"] != _FORMAT:
            raise ValueError("another format")
        tables = {str(TableName.parse(name)): _shape(item) for name, item in value["tables"].items()}
        kind = value["database"]
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise IntegrityError(
            f"{what} is no file of structures ({type(error).__name__})", remedy="write one anew, with snapshot"
        ) from None
    if not tables:
        raise IntegrityError(f"{what} names no tables", remedy="write one anew, with snapshot")
    return str(kind), tables


def _shape(item: Mapping[str, Any]) -> Shape:
    known = {field.name for field in fields(Shape)}
    if set(item) - known:
        raise ValueError("unknown parts")
    columns = {str(name): ColumnShape(**column) for name, column in item["columns"].items()}
    return Shape(**{**item, "columns": columns})


def compared(expected: Shapes, found: Mapping[str, Shape | None]) -> list[SchemaDifference]:
    """Every difference, table by table in the order of ``found``."""
    differences: list[SchemaDifference] = []
    for table, shape in found.items():
        before = expected.get(table)
        if before is None or shape is None:
            if before is not shape:
                change = "added" if before is None else "removed"
                differences.append(
                    SchemaDifference(table=table, change=change, what="table", name="", expected="", found="")
                )
            continue
        differences += _of_table(table, before, shape)
    return differences


def _of_table(table: str, before: Shape, now: Shape) -> Iterator[SchemaDifference]:
    old, new = before.columns, now.columns
    yield from _of_items(table, "column", {name: item.type for name, item in old.items() if name not in new}, {})
    yield from _of_items(table, "column", {}, {name: item.type for name, item in new.items() if name not in old})
    both = [name for name in old if name in new]
    yield from _of_items(table, "type", {n: old[n].type for n in both}, {n: new[n].type for n in both})
    yield from _of_items(table, "nullability", {n: _null(old[n]) for n in both}, {n: _null(new[n]) for n in both})
    yield from _of_items(
        table, "default", {n: old[n].default or "" for n in both}, {n: new[n].default or "" for n in both}
    )
    yield from _of_items(
        table, "primary_key", _keyed("", ", ".join(before.primary_key)), _keyed("", ", ".join(now.primary_key))
    )
    yield from _of_items(table, "index", before.indexes, now.indexes)
    yield from _of_items(
        table, "foreign_key", {key: key for key in before.foreign_keys}, {key: key for key in now.foreign_keys}
    )


def _null(column: ColumnShape) -> str:
    return "nullable" if column.nullable else "not null"


def _keyed(name: str, text: str) -> dict[str, str]:
    return {name: text} if text else {}


def _of_items(table: str, what: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[SchemaDifference]:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        yield SchemaDifference(table=table, change=change, what=what, name=name, expected=old or "", found=new or "")


def told(differences: Sequence[SchemaDifference]) -> str:
    """The first differences, for a message."""
    parts = []
    for item in differences[:_SHOWN]:
        values = (
            f" ({item.expected or '-'} -> {item.found or '-'})" if item.what not in ("table", "foreign_key") else ""
        )
        parts.append(f"{item.table}: {item.what} {item.name} {item.change}".replace("  ", " ") + values)
    more = len(differences) - _SHOWN
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
