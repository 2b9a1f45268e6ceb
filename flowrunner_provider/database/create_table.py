"""Create a table once; compare, replace or reject an existing one."""

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
from flowrunner_provider.database.ledger import new_table_name, old_table_name
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import CreateTableResult, SchemaDifference
from flowrunner_provider.database.schema_check import compare, summary

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
_MAX_NAME_BYTES = 60


def _config_error(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def table_spec(table: str, columns: Any, keys: Any, indexes: Any) -> TableSpec:
    """Validate the user's description of a table.

    :raises ConfigError: naming the parameter to correct.
    """
    if not isinstance(columns, Mapping) or not columns:
        raise _config_error(
            "columns", "columns must be an object with at least one column", 'pass an object such as {"id": "integer"}'
        )
    specs = [_column(name, value) for name, value in columns.items()]
    keys = _column_list("keys", keys or [], columns)
    for name in keys:
        if next(spec for spec in specs if spec.name == name).type in ("object", "array"):
            raise _config_error("keys", f"the key {name!r} is of type object or array", "choose another column")
    if not isinstance(indexes or [], list | tuple):
        raise _config_error("indexes", "indexes must be a list", 'pass a list such as [{"columns": ["day"]}]')
    index_specs = [_index(TableName.parse(table), value, columns) for value in indexes or []]
    if len({index.name for index in index_specs}) != len(index_specs):
        raise _config_error("indexes", "two indexes have the same name", "use unique names")
    return TableSpec(columns=specs, keys=keys, indexes=index_specs)


def _column_list(field: str, names: Any, columns: Mapping[str, Any]) -> list[str]:
    if not isinstance(names, list | tuple) or len(set(map(str, names))) != len(names):
        raise _config_error(field, f"{field} must be a list that names each column once", 'pass a list such as ["id"]')
    if unknown := [name for name in names if name not in columns]:
        raise _config_error(
            field,
            f"{field} names {str(unknown[0])[:80]!r}, which is not a column",
            "pass names of columns of the table",
        )
    return list(names)


def _column(name: Any, value: Any) -> ColumnSpec:
    if not isinstance(name, str):
        raise _config_error(
            "columns", "the name of a column is not a string", 'pass an object such as {"id": "integer"}'
        )
    Identifier(name)
    given = {"type": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or given.get("type") not in get_args(Type) or set(given) - _COLUMN_KEYS:
        raise _config_error(
            "columns",
            f"the column {name[:80]!r} has an unknown type or option",
            f'pass "integer" or {{"type": "integer", "nullable": false, "default": 0}}; types are '
            f"{', '.join(get_args(Type))}",
        )
    kind: Type = cast("Type", given["type"])
    nullable, default = given.get("nullable", True), given.get("default")
    if not isinstance(nullable, bool):
        raise _config_error("columns", f"nullable of {name[:80]!r} must be true or false", "correct it")
    if default is not None and not _is_valid_default(kind, default):
        raise _config_error(
            "columns", f"the default of {name[:80]!r} is not of type {kind}", "correct it, or remove it"
        )
    return ColumnSpec(name=name, type=kind, nullable=nullable, default=default)


def _is_valid_default(kind: Type, value: Any) -> bool:
    """Return whether a default value is of the type."""
    parsers: dict[str, Callable[[str], Any]] = {
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
        if kind in parsers and isinstance(value, str):
            return value == NOW or bool(str(parsers[kind](value)))
    except (ValueError, InvalidOperation):
        return False
    return False


def _index(table: TableName, value: Any, columns: Mapping[str, Any]) -> IndexSpec:
    if not isinstance(value, Mapping) or set(value) - _INDEX_KEYS or not value.get("columns"):
        raise _config_error(
            "indexes", "an index needs columns", 'pass {"columns": ["day"], "unique": false, "name": "by_day"}'
        )
    names = _column_list("indexes", value["columns"], columns)
    unique, name = value.get("unique", False), value.get("name")
    if not isinstance(unique, bool) or not isinstance(name, str | None):
        raise _config_error("indexes", "unique must be true or false, and name a string", "correct the index")
    if name is None:
        name = "_".join([table.name.text, *names, "key" if unique else "idx"])
        if len(name.encode()) > _MAX_NAME_BYTES:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name.encode()[: _MAX_NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
    return IndexSpec(name=Identifier(name).text, columns=names, unique=unique)


@dataclass(frozen=True, kw_only=True)
class CreatePlan:
    """The parameters of the action ``sql.create_table``.

    :raises ConfigError: naming the parameter to correct.
    """

    table: str
    spec: TableSpec
    if_exists: IfExists = "skip"

    def __post_init__(self) -> None:
        TableName.parse(self.table)
        if self.if_exists not in get_args(IfExists):
            raise _config_error("if_exists", "unknown if_exists", f"use one of {', '.join(get_args(IfExists))}")


def create_table(plan: CreatePlan, connect: Callable[[], Session], run: Run) -> CreateTableResult:
    """Create the table and record it in the ledger, once over all attempts."""
    work = _Creation(plan, run)
    done = Once(
        action="sql.create_table",
        target=TableName.parse(plan.table),
        fingerprint=fingerprint(asdict(plan)),
        connect=connect,
        body=work.create,
        run=run,
        failpoint=lambda name: failpoint(f"sql.create_table.{name}"),
        publish=work.publish,
        remove_leftovers=work.remove_leftovers,
    ).perform()
    columns = {column.name: str(column.type) for column in plan.spec.columns}
    return CreateTableResult(
        table=str(done["table"]), created=bool(done["created"]), replaced=bool(done["replaced"]), columns=columns
    )


@dataclass
class _Creation:
    plan: CreatePlan
    run: Run
    pending_swap: tuple[Table, TableName, TableName] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.key = self.run.effects.key("sql.create_table")
        self.marker = f"flowrunner {self.key}"

    def create(self, session: Session) -> dict[str, Any]:
        self.pending_swap = None
        target = session.locate(TableName.parse(self.plan.table))
        table = session.table(target)
        if table is None:
            session.create_from_spec(target, self.plan.spec, self.marker)
            failpoint("sql.create_table.after_create")
            return {"table": str(target), "created": True, "replaced": False}
        if session.creator_of(target) == self.marker:  # by an earlier attempt that was killed before it recorded this
            return {"table": str(target), "created": True, "replaced": False}
        if self.plan.if_exists == "fail":
            raise AlreadyExists(f"the table {target} exists already", remedy="drop it, or change if_exists")
        if self.plan.if_exists == "skip":
            self._check_matches(session, target)
            return {"table": str(target), "created": False, "replaced": False}
        self._replace(session, table, target)
        return {"table": str(target), "created": True, "replaced": True}

    def _replace(self, session: Session, table: Table, target: TableName) -> None:
        try:
            new = session.recreate_from_spec(table, self.plan.spec, new_table_name(self.key), self.marker)
        except ConfigError as error:
            if error.field != "mode":
                raise
            raise _config_error(
                "if_exists",
                error.message.replace("mode=", "if_exists="),
                "drop these first and recreate them afterwards, or change the table in a migration",
            ) from None
        failpoint("sql.create_table.after_create")
        if new != table.name:
            self.pending_swap = table, new, old_table_name(target, self.key)

    def publish(self, session: Session) -> None:
        """Swap the new table in, where that is a separate step."""
        if self.pending_swap is not None:
            self.run.lease.check()
            session.swap(*self.pending_swap)
            failpoint("sql.create_table.after_swap")

    def remove_leftovers(self, session: Session, target: TableName, done: bool) -> None:
        """Drop what a replacement left behind; the old table only when the new one is known to be in its place."""
        if self.plan.if_exists == "replace":
            new, old = target.beside(new_table_name(self.key)), old_table_name(target, self.key)
            session.drop_leftovers(*((new, old) if done else (new,)))

    def _check_matches(self, session: Session, target: TableName) -> None:
        wanted, found = session.expected_shape(self.plan.spec, target), session.shape(target)
        if differences := incompatibilities(str(target), wanted, found or Shape(columns={})):
            raise IntegrityError(
                f"{target} exists and does not match: {summary(differences)}",
                remedy="change it in a migration, correct columns, or use if_exists='replace', which drops its rows",
            )


def incompatibilities(table: str, wanted: Shape, found: Shape) -> list[SchemaDifference]:
    """Return the differences that make an existing table unsuitable.

    Additional columns that are nullable or have a default, additional indexes, other defaults and other types of the
    same family are accepted.
    """
    definitions = set(found.indexes.values())
    differences = []
    for item in compare({table: wanted}, {table: found}):
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
