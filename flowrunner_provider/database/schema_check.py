"""Take snapshots of table structures and compare them."""

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

__all__ = ["MAX_SNAPSHOT_BYTES", "compare", "parse", "read_structures", "render", "summary"]

MAX_SNAPSHOT_BYTES = 8_000_000
"""The size limit of a snapshot file."""

_FORMAT = 1
_MAX_TABLES = 10_000
_MAX_SHOWN = 10

Shapes = Mapping[str, Shape]


def read_structures(connect: Callable[[], Session], tables: Sequence[str]) -> tuple[str, dict[str, Shape | None]]:
    """Return the kind of the database and the structure of each table (None if missing), read in one transaction."""
    names = [TableName.parse(table, "tables") for table in tables]
    if not names or len(names) > _MAX_TABLES:
        raise ConfigError(
            f"tables must name 1 to {_MAX_TABLES} tables", field="tables", remedy="pass the names of the tables"
        )
    with connect() as session:
        session.begin("repeatable read", read_only=True)
        found = {str(name): session.shape(name) for name in names}
        session.rollback()
        return session.kind, found


def render(kind: str, found: Mapping[str, Shape | None]) -> str:
    """Return the snapshot file; the same structures give the same text.

    :raises NotFound: if a table is missing.
    """
    if missing := sorted(name for name, shape in found.items() if shape is None):
        raise NotFound(f"the table {missing[0]} does not exist; no snapshot was written", remedy="correct its name")
    tables = {name: asdict(shape) for name, shape in found.items() if shape is not None}
    return json.dumps({"format": _FORMAT, "database": kind, "tables": tables}, indent=1, sort_keys=True) + "\n"


def parse(value: Any, what: str) -> tuple[str, dict[str, Shape]]:
    """Return the kind of database and the structures in a snapshot file.

    :param value: its JSON.
    :param what: the file, for error messages.
    """
    try:
        if value["format"] != _FORMAT:
            raise ValueError("another format")
        tables = {str(TableName.parse(name)): _shape(item) for name, item in value["tables"].items()}
        kind = value["database"]
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise IntegrityError(
            f"{what} is not a snapshot of structures ({type(error).__name__})", remedy="write a new one with snapshot"
        ) from None
    if not tables:
        raise IntegrityError(f"{what} names no tables", remedy="write a new one with snapshot")
    return str(kind), tables


def _shape(item: Mapping[str, Any]) -> Shape:
    known = {field.name for field in fields(Shape)}
    if set(item) - known:
        raise ValueError("unknown parts")
    columns = {str(name): ColumnShape(**column) for name, column in item["columns"].items()}
    return Shape(**{**item, "columns": columns})


def compare(expected: Shapes, found: Mapping[str, Shape | None]) -> list[SchemaDifference]:
    """Return every difference, table by table in the order of ``found``."""
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
        differences += _compare_table(table, before, shape)
    return differences


def _compare_table(table: str, before: Shape, now: Shape) -> Iterator[SchemaDifference]:
    old, new = before.columns, now.columns
    yield from _compare_items(table, "column", {name: item.type for name, item in old.items() if name not in new}, {})
    yield from _compare_items(table, "column", {}, {name: item.type for name, item in new.items() if name not in old})
    both = [name for name in old if name in new]
    yield from _compare_items(table, "type", {n: old[n].type for n in both}, {n: new[n].type for n in both})
    yield from _compare_items(
        table, "nullability", {n: _nullability(old[n]) for n in both}, {n: _nullability(new[n]) for n in both}
    )
    yield from _compare_items(
        table, "default", {n: old[n].default or "" for n in both}, {n: new[n].default or "" for n in both}
    )
    yield from _compare_items(
        table, "primary_key", _entry("", ", ".join(before.primary_key)), _entry("", ", ".join(now.primary_key))
    )
    yield from _compare_items(table, "index", before.indexes, now.indexes)
    yield from _compare_items(
        table, "foreign_key", {key: key for key in before.foreign_keys}, {key: key for key in now.foreign_keys}
    )


def _nullability(column: ColumnShape) -> str:
    return "nullable" if column.nullable else "not null"


def _entry(name: str, text: str) -> dict[str, str]:
    return {name: text} if text else {}


def _compare_items(
    table: str, what: str, before: Mapping[str, str], now: Mapping[str, str]
) -> Iterator[SchemaDifference]:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        yield SchemaDifference(table=table, change=change, what=what, name=name, expected=old or "", found=new or "")


def summary(differences: Sequence[SchemaDifference]) -> str:
    """Return the first differences as text for an error message."""
    parts = []
    for item in differences[:_MAX_SHOWN]:
        values = (
            f" ({item.expected or '-'} -> {item.found or '-'})" if item.what not in ("table", "foreign_key") else ""
        )
        parts.append(f"{item.table}: {item.what} {item.name} {item.change}".replace("  ", " ") + values)
    more = len(differences) - _MAX_SHOWN
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
