"""A table is made, once; one that is there is compared, replaced, or an error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, cast, get_args

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import AlreadyExists, ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import IfExists
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Table, Type
from flowrunner_provider.database.dialects.structure import NOW, ColumnSpec, IndexSpec, Shape, TableSpec
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.ledger import aside, stand_in
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import CreateTableResult, SchemaDifference
from flowrunner_provider.database.schema_check import compared, told

__all__ = ["CreatePlan", "create_table", "table_spec"]

_FAMILIES = {
    "boolean": r"bool|tinyint\(1\)",
    "integer": r"(?:tiny|small|medium|big)?(?:int(?:eger|\d+)?|serial)\b",
    "number": r"double|real|float",
    "decimal": r"numeric|decimal",
    "json": r"json",
    "timestamptz": r"timestamp.* with time zone",
    "timestamp": r"timestamp|datetime",
    "date": r"date\Z",
    "time": r"time",
    "binary": r"bytea|\w*blob|\w*binary",
    "text": r"\w*text|\w*char|clob|enum",
}
_COLUMN_KEYS = {"type", "nullable", "default"}
_INDEX_KEYS = {"columns", "unique", "name"}
_NAME_BYTES = 60


def _bad(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def table_spec(table: str, columns: Any, keys: Any, indexes: Any) -> TableSpec:
    """What the user wrote, checked.

    :raises ConfigError: naming the parameter to mend.
    """
    if not isinstance(columns, Mapping) or not columns:
        raise _bad("columns", "columns must be an object with at least one column", 'write {"id": "integer"}, say')
    specs = [_column(name, value) for name, value in columns.items()]
    keys = _listed("keys", keys or [], columns)
    for name in keys:
        if next(spec for spec in specs if spec.name == name).type in ("object", "array"):
            raise _bad("keys", f"the key {name!r} is an object or array", "choose another column")
    if not isinstance(indexes or [], list | tuple):
        raise _bad("indexes", "indexes must be a list", 'write [{"columns": ["day"]}]')
    made = [_index(TableName.parse(table), value, columns) for value in indexes or []]
    if len({index.name for index in made}) != len(made):
        raise _bad("indexes", "two indexes have one name", "give each a name of its own")
    return TableSpec(columns=specs, keys=keys, indexes=made)


def _listed(field: str, names: Any, columns: Mapping[str, Any]) -> list[str]:
    if not isinstance(names, list | tuple) or len(set(map(str, names))) != len(names):
        raise _bad(field, f"{field} must be a list that names each column once", 'write ["id"], say')
    if unknown := [name for name in names if name not in columns]:
        raise _bad(field, f"{field} names {str(unknown[0])[:80]!r}, which is no column", "name columns of the table")
    return list(names)


def _column(name: Any, value: Any) -> ColumnSpec:
    if not isinstance(name, str):
        raise _bad("columns", "the name of a column is no text", 'write {"id": "integer"}, say')
    Identifier(name)
    given = {"type": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or given.get("type") not in get_args(Type) or set(given) - _COLUMN_KEYS:
        raise _bad(
            "columns",
            f"the column {name[:80]!r} has no known type",
            f'write "integer" or {{"type": "integer", "nullable": false, "default": 0}}; types are '
            f"{', '.join(get_args(Type))}",
        )
    kind: Type = cast("Type", given["type"])
    nullable, default = given.get("nullable", True), given.get("default")
    if not isinstance(nullable, bool):
        raise _bad("columns", f"nullable of {name[:80]!r} must be true or false", "correct it")
    if default is not None and not _suits(kind, default):
        raise _bad("columns", f"the default of {name[:80]!r} is no {kind}", "correct it, or leave it away")
    return ColumnSpec(name=name, type=kind, nullable=nullable, default=default)


def _suits(kind: Type, value: Any) -> bool:
    """Whether a default is one of the type."""
    moments: dict[str, Callable[[str], Any]] = {
        "date": date.fromisoformat, "time": time.fromisoformat, "timestamp": datetime.fromisoformat,
    }  # fmt: skip
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str) and "\0" not in value and value.isprintable()
    if kind == "integer":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if kind == "number":
        return isinstance(value, int | float) and isfinite(value)
    try:
        if kind == "decimal":
            return (
                not isinstance(value, float)
                and re.fullmatch(r"-?\d+(\.\d+)?", str(value)) is not None
                and bool(Decimal(str(value)).is_finite())
            )
        if kind in moments and isinstance(value, str):
            return value == NOW or bool(str(moments[kind](value)))
    except (ValueError, InvalidOperation):
        return False
    return False


def _index(table: TableName, value: Any, columns: Mapping[str, Any]) -> IndexSpec:
    if not isinstance(value, Mapping) or set(value) - _INDEX_KEYS or not value.get("columns"):
        raise _bad("indexes", "an index needs columns", 'write {"columns": ["day"], "unique": false, "name": "by_day"}')
    names = _listed("indexes", value["columns"], columns)
    unique, name = value.get("unique", False), value.get("name")
    if not isinstance(unique, bool) or not isinstance(name, str | None):
        raise _bad("indexes", "unique must be true or false, and name a text", "correct the index")
    if name is None:
        name = "_".join([table.name.text, *names, "key" if unique else "idx"])
        if len(name.encode()) > _NAME_BYTES:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
    return IndexSpec(name=Identifier(name).text, columns=names, unique=unique)


@dataclass(frozen=True, kw_only=True)
class CreatePlan:
    """The parameters of the action ``sql.create_table``.

    :raises ConfigError: naming the parameter to mend.
    """

    table: str
    spec: TableSpec
    if_exists: IfExists = "skip"

    def __post_init__(self) -> None:
        TableName.parse(self.table)
        if self.if_exists not in get_args(IfExists):
            raise _bad("if_exists", "unknown if_exists", f"use one of {', '.join(get_args(IfExists))}")


def create_table(plan: CreatePlan, connect: Callable[[], Session], run: Run) -> CreateTableResult:
    """The table is there, with these columns, and the ledger beside it says who made it; once over all attempts."""
    work = _Work(plan, run)
    done = Once(
        action="sql.create_table",
        target=TableName.parse(plan.table),
        fingerprint=fingerprint(asdict(plan)),
        connect=connect,
        body=work.make,
        run=run,
        point=lambda name: failpoint(f"sql.create_table.{name}"),
        publish=work.publish,
        tidy=work.tidy,
    ).perform()
    columns = {column.name: str(column.type) for column in plan.spec.columns}
    return CreateTableResult(
        table=str(done["table"]), created=bool(done["created"]), replaced=bool(done["replaced"]), columns=columns
    )


@dataclass
class _Work:
    plan: CreatePlan
    run: Run
    swap: tuple[Table, TableName, TableName] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.key = self.run.effects.key("sql.create_table")
        self.mark = f"flowrunner {self.key}"

    def make(self, session: Session) -> dict[str, Any]:
        self.swap = None
        target = session.locate(TableName.parse(self.plan.table))
        table = session.table(target)
        if table is None:
            session.make(target, self.plan.spec, self.mark)
            failpoint("sql.create_table.after_create")
            return {"table": str(target), "created": True, "replaced": False}
        if session.maker(target) == self.mark:  # an earlier attempt of this task, killed before it could say so
            return {"table": str(target), "created": True, "replaced": False}
        if self.plan.if_exists == "fail":
            raise AlreadyExists(f"the table {target} is there already", remedy="drop it, or change if_exists")
        if self.plan.if_exists == "skip":
            self._compare(session, target)
            return {"table": str(target), "created": False, "replaced": False}
        self._replace(session, table, target)
        return {"table": str(target), "created": True, "replaced": True}

    def _replace(self, session: Session, table: Table, target: TableName) -> None:
        try:
            new = session.remake(table, self.plan.spec, stand_in(self.key), self.mark)
        except ConfigError as error:
            if error.field != "mode":
                raise
            raise _bad(
                "if_exists",
                error.message.replace("mode=", "if_exists="),
                "take these away first and make them again afterwards, or change the table in a migration",
            ) from None
        failpoint("sql.create_table.after_create")
        if new != table.name:
            self.swap = table, new, aside(target, self.key)

    def publish(self, session: Session) -> None:
        """The new table takes its place, where that is a step of its own."""
        if self.swap is not None:
            self.run.lease.check()
            session.swap(*self.swap)
            failpoint("sql.create_table.after_swap")

    def tidy(self, session: Session, target: TableName, done: bool) -> None:
        """Drop what a replacement has left; the old table only when the new one is known to be in its place."""
        if self.plan.if_exists == "replace":
            new, old = target.beside(stand_in(self.key)), aside(target, self.key)
            session.tidy(*((new, old) if done else (new,)))

    def _compare(self, session: Session, target: TableName) -> None:
        wanted, found = session.sketched(self.plan.spec, target), session.shape(target)
        if differences := unfit(str(target), wanted, found or Shape(columns={})):
            raise IntegrityError(
                f"{target} is there and does not fit: {told(differences)}",
                remedy="change it in a migration, correct columns, or use if_exists='replace', which drops its rows",
            )


def unfit(table: str, wanted: Shape, found: Shape) -> list[SchemaDifference]:
    """In what the table differs so that it is not the wanted one.

    More columns that may stay empty, more indexes, other defaults and types of the same family are no such difference.
    """
    definitions = set(found.indexes.values())
    differences = []
    for item in compared({table: wanted}, {table: found}):
        if item.what in ("foreign_key", "default"):
            fits = item.what == "foreign_key" or not item.expected or bool(item.found)
        elif item.what == "index":
            fits = item.change == "added" or item.expected in definitions
        elif item.what == "column" and item.change == "added":
            column = found.columns[item.name]
            fits = column.nullable or column.default is not None
        elif item.what == "type":
            fits = _family(item.expected) == _family(item.found)
        else:
            fits = False
        if not fits:
            differences.append(item)
    return differences


def _family(kind: str) -> str:
    return next((name for name, pattern in _FAMILIES.items() if re.match(pattern, kind.lower())), kind)
