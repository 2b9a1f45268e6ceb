"""Transact-SQL for SQLite: what the fake SQL Server understands, and the parts of the catalogue it can tell honestly.

The file is attached as ``dbo``. A type keeps its name of Transact-SQL, in quotes, so the catalogue can tell it.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp

from tests.support.tds_rules import check_text, check_tree

__all__ = ["Catalogue", "id_of", "translated", "type_of"]

CATALOGUE = {
    "sys.schemas": ("schema_id", "name"),
    "sys.objects": ("object_id", "schema_id", "name", "type", "parent_object_id"),
    "sys.columns": (
        "object_id", "column_id", "name", "system_type_id", "max_length", "precision", "scale", "is_identity",
        "is_computed", "collation_name", "is_nullable", "default_object_id", "is_masked",
    ),
    "sys.indexes": (
        "object_id", "index_id", "name", "type", "is_unique", "is_primary_key", "is_unique_constraint", "is_disabled",
        "has_filter", "type_desc", "filter_definition", "is_hypothetical",
    ),
    "sys.index_columns": (
        "object_id", "index_id", "column_id", "key_ordinal", "index_column_id", "is_descending_key",
        "is_included_column",
    ),
    "sys.databases": ("database_id", "snapshot_isolation_state"),
    "sys.triggers": ("parent_id",),
    "sys.foreign_keys": (
        "object_id", "parent_object_id", "referenced_object_id", "delete_referential_action_desc",
        "update_referential_action_desc", "is_disabled",
    ),
    "sys.foreign_key_columns": (
        "constraint_object_id", "constraint_column_id", "parent_object_id", "parent_column_id",
        "referenced_object_id", "referenced_column_id",
    ),
    "sys.check_constraints": ("parent_object_id",),
    "sys.default_constraints": ("object_id", "parent_object_id", "definition"),
    "sys.computed_columns": ("object_id", "column_id", "definition"),
    "sys.partitions": ("object_id", "partition_number", "data_compression"),
    "sys.extended_properties": ("class", "major_id"),
    "sys.security_predicates": ("target_object_id",),
    "sys.fulltext_indexes": ("object_id",),
    "sys.database_permissions": ("class", "major_id"),
    "sys.sql_expression_dependencies": ("referencing_id", "referenced_id", "is_schema_bound_reference"),
    "sys.tables": ("object_id", "temporal_type", "is_memory_optimized", "is_tracked_by_cdc", "is_published"),
    "sys.change_tracking_tables": ("object_id",),
    "sys.all_objects": ("object_id", "schema_id", "name", "type"),
    "sys.all_parameters": (
        "object_id", "parameter_id", "name", "system_type_id", "max_length", "precision", "scale", "is_output",
    ),
}  # fmt: skip
_SIZES = {"tinyint": 1, "smallint": 2, "int": 4, "bigint": 8, "bit": 1, "float": 8, "real": 4, "date": 3}
_NAMES = {"integer": "int", "text": "nvarchar", "numeric": "decimal", "": "nvarchar"}

_CONTINUED = re.compile(r"\\\r?\n")
"""A long text constant goes on in the next line, without either."""
_CLUSTERED = re.compile(r"(?i)\A(CREATE (?:UNIQUE )?)(?:NON)?CLUSTERED (?=INDEX )")


def id_of(name: str) -> int:
    """The number of an object."""
    return zlib.crc32(name.lower().encode()) & 0x7FFFFFFF


def type_of(declared: str) -> tuple[str, int, int, int]:
    """Name, bytes, precision and scale of a declared type."""
    found = re.match(r"(\w*)\s*(?:\(\s*(\w+)\s*(?:,\s*(\d+))?\s*\))?", declared.lower())
    assert found is not None
    name, first, second = _NAMES.get(found[1], found[1]), found[2], found[3]
    if name in ("nvarchar", "varchar", "nchar", "char", "varbinary", "binary"):
        size = -1 if first in (None, "max") else int(first) * (2 if name.startswith("n") else 1)
        return name, size, 0, 0
    if name in ("decimal", "numeric"):
        return name, 17, int(first or 18), int(second or 0)
    if name in ("time", "datetime2", "datetimeoffset"):
        return name, 8, 0, 7 if first is None else int(first)
    return name, _SIZES.get(name, 16), 0, 0


class Catalogue:
    """The tables ``sys.*`` of one connection, kept as the file is."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seen: dict[tuple[str, str], tuple[Any, ...]] = {}
        for table, columns in CATALOGUE.items():
            db.execute(f'CREATE TEMP TABLE "{table}" ({", ".join(columns)})')
        self._put("sys.schemas", 1, "dbo")
        self._put("sys.databases", 5, 1)

    def number(self, name: str) -> int | None:
        """``OBJECT_ID``."""
        known = {table.lower() for _, table in self._seen}
        return id_of(name) if name.lower() in known else None

    def look(self) -> None:
        """Learn what has changed."""
        now: dict[tuple[str, str], tuple[Any, ...]] = {}
        for schema, listed in (("dbo", "dbo.sqlite_master"), ("temp", "sqlite_temp_master")):
            query = f"SELECT tbl_name, min(type = 'view'), group_concat(sql) FROM {listed} GROUP BY tbl_name"
            for name, *rest in self._db.execute(query).fetchall():
                if name not in CATALOGUE and not name.startswith("sqlite_"):
                    now[schema, name] = tuple(rest)
        for gone in self._seen.keys() - now.keys():
            self._forget(gone[1])
        for one in now:
            if self._seen.get(one) != now[one]:
                self._forget(one[1])
                self._learn(*one, "V " if now[one][0] else "U ")
        self._seen = now

    def _put(self, table: str, *values: Any) -> None:
        self._db.execute(f'INSERT INTO temp."{table}" VALUES ({", ".join("?" * len(values))})', values)

    def _forget(self, name: str) -> None:
        for table in ("sys.objects", "sys.tables", "sys.columns", "sys.indexes", "sys.index_columns"):
            self._db.execute(f'DELETE FROM temp."{table}" WHERE object_id = ?', (id_of(name),))
        for table in ("sys.default_constraints", "sys.foreign_keys", "sys.foreign_key_columns"):
            self._db.execute(f'DELETE FROM temp."{table}" WHERE parent_object_id = ?', (id_of(name),))

    def _learn(self, schema: str, name: str, kind: str) -> None:
        number = id_of(name)
        self._put("sys.objects", number, 1, name, kind, 0)
        self._put("sys.tables", number, 0, 0, 0, 0)
        places = {}
        for place, column, declared, needed, default, key, hidden in self._db.execute(
            f"PRAGMA {schema}.table_xinfo({_quoted(name)})"
        ).fetchall():
            kind_name, size, precision, scale = type_of(declared)
            places[column] = place + 1
            collation = "Latin1_General_100_BIN2" if "char" in kind_name else None
            self._put(
                "sys.columns", number, place + 1, column, kind_name, size, precision, scale,
                int(column == "flowrunner_row"), int(hidden != 0), collation, int(not (needed or key)),
                0 if default is None else id_of(f"DF {name} {column}"), 0,
            )  # fmt: skip
            if default is not None:
                self._put("sys.default_constraints", id_of(f"DF {name} {column}"), number, f"({default})")
        for found, parents, at, *_ in _foreign(self._db, schema, _quoted(name)):
            key_number = id_of(f"FK {name} {found}")
            if at == 0:
                actions = ("NO_ACTION", "NO_ACTION", 0)
                self._put("sys.foreign_keys", key_number, number, id_of(parents[0]), *actions)
            self._put(
                "sys.foreign_key_columns", key_number, at + 1, number, places[parents[1]], id_of(parents[0]), parents[2]
            )
        _indexes(self._db, self._put, schema, _quoted(name), number, places)


def _foreign(db: sqlite3.Connection, schema: str, quoted: str) -> Iterator[tuple[int, tuple[str, str, int], int]]:
    """Of each column of a foreign key: its key, the parent's name, itself, the parent's column, and its place."""
    for found, at, parent, column, referred, *_ in db.execute(f"PRAGMA {schema}.foreign_key_list({quoted})").fetchall():
        there = db.execute(f"PRAGMA {schema}.table_info({_quoted(parent)})").fetchall()
        place = next((row[0] + 1 for row in there if row[1] == referred or (referred is None and row[5])), 0)
        yield found, (parent, column, place), at


def _indexes(db: sqlite3.Connection, put: Any, schema: str, quoted: str, number: int, places: dict[str, int]) -> None:
    keys = [row for row in db.execute(f"PRAGMA {schema}.table_info({quoted})").fetchall() if row[5]]
    listed = db.execute(f"PRAGMA {schema}.index_list({quoted})").fetchall()
    if keys and not any(row[3] == "pk" for row in listed):
        listed.append((99, "", 1, "pk", 0))
    for place, (_, name, unique, origin, partial) in enumerate(listed, 1):
        kind = 1 if origin == "pk" else 2
        put(
            "sys.indexes", number, place, name.rpartition("/")[0] or name or "PK", kind, unique, int(origin == "pk"),
            int(origin == "u"), 0, partial, ("CLUSTERED", "NONCLUSTERED")[kind - 1], None, 0,
        )  # fmt: skip
        if name:
            sql = '"' + name.replace('"', '""') + '"'
            columns = [row[2] for row in db.execute(f"PRAGMA {schema}.index_info({sql})").fetchall()]
        else:
            columns = [row[1] for row in sorted(keys, key=lambda row: row[5])]
        for at, column in enumerate(columns, 1):
            put("sys.index_columns", number, place, places.get(column), at, at, 0, 0)


@lru_cache(4096)
def translated(text: str) -> list[str]:
    """Each statement of a text for SQLite; one that makes a table of a query is two parts with NUL between."""
    text = _CONTINUED.sub("", text)
    check_text(text)
    text = _CLUSTERED.sub(r"\1", text)
    trees = [tree for tree in sqlglot.parse(text, read="tsql") if tree is not None]
    for tree in trees:
        check_tree(tree)
    return [_sqlite(tree) for tree in trees]


def _sqlite(tree: exp.Expression) -> str:
    into = tree.find(exp.Into) if isinstance(tree, exp.Select) else None
    target = into.this.copy() if into is not None else None
    if into is not None:
        into.pop()
    tree = _without_alias(tree).transform(_changed)
    if target is not None:
        return f"{_table(target).sql('sqlite')}\0{tree.sql('sqlite')}"
    if isinstance(tree, exp.Alter):
        return _alter(tree)
    if isinstance(tree, exp.Create) and tree.kind == "INDEX":
        return _index(tree)
    return str(tree.sql("sqlite")).replace('REFERENCES "dbo".', "REFERENCES ")


def _without_alias(tree: exp.Expression) -> exp.Expression:
    """``UPDATE t ... FROM x AS t`` and ``DELETE t FROM x AS t`` name the table itself there."""
    if isinstance(tree, exp.Delete) and tree.args.get("tables"):
        if [table.name for table in tree.args["tables"]] == [tree.this.alias]:
            tree.set("tables", None)
    elif isinstance(tree, exp.Update) and isinstance(tree.args.get("from_"), exp.From) and not tree.this.db:
        source = tree.args["from_"].this
        if isinstance(source, exp.Table) and source.alias == tree.this.name:
            others = source.args.pop("joins", None)
            tree.set("this", source)
            tree.set("from_", exp.From(this=others[0].this) if others else None)
    return tree


def _default(node: exp.DefaultColumnConstraint) -> exp.Expression:
    """SQLite's own clock: who looks into the file knows no other."""
    value = node.this
    if "SYSUTCDATETIME" in value.sql("tsql").upper():
        to = value.this.this if isinstance(value, exp.Convert) else None
        node.set("this", exp.Var(this=_CLOCKS.get(to, "CURRENT_TIMESTAMP")))
    else:
        node.set("this", value.transform(_changed))
    return node


_CLOCKS = {exp.DType.DATE: "CURRENT_DATE", exp.DType.TIME: "CURRENT_TIME"}
_MOMENTS = (exp.DType.DATETIME2, exp.DType.DATETIME, exp.DType.SMALLDATETIME, exp.DType.TIMESTAMP)
_TEXTS = (exp.DType.NVARCHAR, exp.DType.VARCHAR, exp.DType.NCHAR, exp.DType.CHAR)


def _converted(node: exp.Expression) -> exp.Expression:
    """A conversion, by functions of the fake."""
    to, value = (node.this, node.expression) if isinstance(node, exp.Convert) else (node.to, node.this)
    value = value.transform(_changed)
    if to.this in _MOMENTS:
        return exp.Anonymous(this="tsql_moment", expressions=[value])
    if to.this == exp.DType.DATE:
        return exp.Anonymous(this="substr", expressions=[value, exp.Literal.number(1), exp.Literal.number(10)])
    if to.this in _TEXTS:
        return exp.Anonymous(this="tsql_text", expressions=[value])
    if to.this in (exp.DType.DECIMAL, exp.DType.TIMESTAMPTZ):
        return value
    return node


def _changed(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.DefaultColumnConstraint):
        return _default(node)
    if isinstance(node, exp.Convert | exp.Cast):
        return _converted(node)
    if isinstance(node, exp.DateAdd):
        return exp.Anonymous(this="tsql_add", expressions=[node.this.transform(_changed), node.expression])
    if isinstance(node, exp.TruncateTable):
        return exp.Delete(this=_table(node.expressions[0]))
    if isinstance(node, exp.Add) and isinstance(node.expression, exp.National):
        return exp.DPipe(this=node.this.transform(_changed), expression=_changed(node.expression))
    if isinstance(node, exp.National):
        return exp.Literal.string(node.this)
    if isinstance(node, exp.Collate):
        return _changed(node.this)
    if isinstance(node, exp.CurrentUser | exp.CurrentSchema):
        return exp.Literal.string("sa" if isinstance(node, exp.CurrentUser) else "dbo")
    if isinstance(node, exp.ColumnDef) and node.kind is not None:
        kind = node.kind.sql("tsql").lower()
        node.set("kind", exp.Identifier(this="int" if kind == "integer" else kind, quoted=True))
        return node
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        return _table(node)
    if isinstance(node, exp.Column) and isinstance(node.args.get("table"), exp.Identifier):
        owner = node.args["table"]
        if owner.args.get("temporary"):
            node.set("table", exp.Identifier(this=f"#{owner.this}", quoted=True))
        return node
    return node


def _table(node: exp.Expression) -> exp.Expression:
    if not isinstance(node, exp.Table):
        node = exp.Table(this=node)
    name = node.this
    node.set("hints", None)
    if name.args.get("temporary"):
        node.set("this", exp.Identifier(this=f"#{name.this}", quoted=True))
        node.set("db", exp.Identifier(this="temp", quoted=True))
    elif node.db.lower() == "sys":
        node.set("this", exp.Identifier(this=f"sys.{name.this}", quoted=True))
        node.set("db", exp.Identifier(this="temp", quoted=True))
    elif not node.db and not name.this.startswith("#"):
        inside = node.find_ancestor(exp.Select)
        names = {one.alias for one in inside.find_all(exp.CTE)} if inside is not None else set()
        root = node.root()
        names |= {one.alias for one in root.find_all(exp.CTE)}
        if name.this not in names:
            node.set("db", exp.Identifier(this="dbo", quoted=True))
    node.set("catalog", None)
    return node


def _alter(tree: exp.Expression) -> str:
    """A key that is added afterwards becomes a unique index: SQLite has no other way."""
    text = tree.sql("tsql")
    found = re.search(r"ADD CONSTRAINT \[((?:[^\]]|\]\])*)\].*?\((.*)\)\s*$", text, re.DOTALL)
    if found is None:
        return str(tree.sql("sqlite"))
    columns = re.sub(r"\[((?:[^\]]|\]\])*)\]", lambda part: _quoted(part[1].replace("]]", "]")), found[2])
    table = tree.find(exp.Table)
    assert table is not None
    return f"CREATE UNIQUE INDEX dbo.{_quoted(found[1])} ON {_quoted(table.name)} ({columns})"


def _index(tree: exp.Create) -> str:
    table = tree.find(exp.Table)
    assert table is not None
    name, schema = tree.this.this.name, "temp" if table.name.startswith("#") else "dbo"
    columns = ", ".join(one.sql("sqlite") for one in tree.this.args["params"].args["columns"])
    unique = "UNIQUE " if tree.args.get("unique") else ""
    # an index's name is unique in its table there, and in the whole schema here
    return f"CREATE {unique}INDEX {schema}.{_quoted(f'{name}/{table.name}')} ON {_quoted(table.name)} ({columns})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
