"""Tables are made, and their structures compared with what was expected."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.database.choices import IfExists, OnDrift
from flowrunner_provider.database.results import CreateTableResult, SchemaCheckResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.store import Store
    from flowrunner_provider.files.uri import Location

__all__ = ["SqlCreateTableOperator", "SqlSchemaCheckOperator"]

_MOST = 200  # differences in a result


class SqlCreateTableOperator(FlowRunnerOperator):
    """The table is there with these columns, keys and indexes; one that was there before fits, or was replaced.

    Killed anywhere and retried, or run twice at once, it is made (or replaced) exactly once: a row in the table
    ``flowrunner_ledger``, in the same schema and committed together with it, tells the next attempt so; rows that
    came into the new table meanwhile stay. MySQL and MariaDB commit at every change of a structure: there the
    table's comment says which attempt has made it, and one ``RENAME TABLE`` decides about a replacement.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param table: ``table`` or ``schema.table``, taken literally (no folding to lower case).
    :param columns: name -> type, or name -> ``{"type": ..., "nullable": false, "default": ...}``. The types are those
        of a dataset: ``string integer number decimal boolean object array date time timestamp binary``. A default is
        a value; that of a date or time may be ``now``, when the row is inserted.
    :param infer_from: the result of a task that wrote rows, or the path of a .csv, .jsonl or .parquet file: its
        columns and types (those of the first rows, where it declares none; CSV holds text); ``columns`` goes before.
    :param keys: the columns of the primary key, which are never null.
    :param indexes: each ``{"columns": [...], "unique": true, "name": ...}``, the last two as needed. In MySQL a text
        in a key or index has at most 255 characters.
    :param if_exists: ``skip`` leaves a table that fits (all columns with types of the same family, nullability, the
        primary key, the indexes; more columns may be there if they can stay empty) and fails with the differences
        otherwise; ``replace`` drops the table with its rows, and refuses where more would be lost, such as views;
        ``fail``.
    """

    action: ClassVar[str] = "sql.create_table"
    template_fields: Sequence[str] = ("conn_id", "table", "columns", "infer_from", "keys", "indexes")

    def __init__(
        self,
        *,
        conn_id: str,
        table: str,
        columns: dict[str, Any] | None = None,
        infer_from: str | dict[str, Any] | None = None,
        keys: list[str] | None = None,
        indexes: list[dict[str, Any]] | None = None,
        if_exists: IfExists = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.table = table
        self.columns = columns
        self.infer_from = infer_from
        self.keys = keys
        self.indexes = indexes
        self.if_exists = if_exists

    def perform(self, run: Run) -> CreateTableResult:
        from flowrunner_provider.database.create_table import CreatePlan, create_table, table_spec
        from flowrunner_provider.database.hook import hook_for

        if self.columns is not None and not isinstance(self.columns, Mapping):
            raise ConfigError("columns must be an object", field="columns", remedy='write {"id": "integer"}, say')
        columns = {**self._inferred(), **(self.columns or {})}
        spec = table_spec(self.table, columns, self.keys, self.indexes)
        plan = CreatePlan(table=self.table, spec=spec, if_exists=self.if_exists)
        hook = hook_for(self.conn_id)
        return create_table(plan, lambda: hook.open(run.deadline, create=True), run)

    def _inferred(self) -> dict[str, Any]:
        """The columns of the dataset with their types."""
        from flowrunner_provider.data.readers import open_rows
        from flowrunner_provider.database.dialects.values import types_of
        from flowrunner_provider.database.load import column_type

        if self.infer_from is None:
            return {}
        dataset = Dataset.from_value(self.infer_from, field="infer_from")
        if dataset.columns:
            return {name: column_type(kind, set()) for name, kind in dataset.columns.items()}
        with open_rows(dataset, null_text="") as rows:
            names = list(rows.columns)
            first = next(iter(rows), [])
        found = types_of(first) if first else [set[type]() for _ in names]
        return {name: column_type(None, types) for name, types in zip(names, found, strict=True)}


class SqlSchemaCheckOperator(FlowRunnerOperator):
    """Every table has the structure that ``expected`` says, or the differences are told; a ``snapshot`` is whole.

    It only reads the database, so a retry after a kill looks again; a snapshot gets its final name when it is whole,
    and only after a comparison that did not fail. Compared are columns, types, nullability, defaults, primary keys,
    indexes and foreign keys, as the database itself names them; all tables are looked at in one transaction.
    MySQL and MariaDB show a login only the tables that it may read: another one counts as removed.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param tables: ``table`` or ``schema.table`` each, taken literally; by default those of ``expected``.
    :param expected: a file that a ``snapshot`` has written, in any store, e.g. ``s3://lake@schemas/sales.json``.
    :param snapshot: the file, in any store, that gets the structures as they are now; another one than ``expected``.
    :param on_drift: ``fail`` at a difference, or ``warn`` in the log and tell them in the result.
    """

    action: ClassVar[str] = "sql.schema_check"
    template_fields: Sequence[str] = ("conn_id", "tables", "expected", "snapshot")

    def __init__(
        self,
        *,
        conn_id: str,
        tables: list[str] | None = None,
        expected: str | None = None,
        snapshot: str | None = None,
        on_drift: OnDrift = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.tables = tables
        self.expected = expected
        self.snapshot = snapshot
        self.on_drift = on_drift

    async def perform(self, run: Run) -> SchemaCheckResult:
        """Read what is expected, look, compare, write what is there."""
        from flowrunner_provider.database import schema_check as engine
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.files.content import write_once
        from flowrunner_provider.files.hook import opened

        files = self._files()
        hook = hook_for(self.conn_id)
        async with AsyncExitStack() as stack:
            stores = await opened(run, stack, **{field: [location] for field, location in files.items()})
            kind, expected = await self._expected(stores, files.get("expected"))
            tables = list(expected) if self.tables is None else self.tables
            now, found = await asyncio.to_thread(engine.look, lambda: hook.open(run.deadline), tables)
            if kind not in (None, now):
                raise ConfigError(
                    f"expected is of a {kind} database, and the connection's is {now}",
                    field="expected",
                    remedy="write a snapshot of a database of the same kind",
                )
            differences = engine.compared(expected, found) if kind is not None else []
            if differences and self.on_drift == "fail":
                raise IntegrityError(
                    f"{len(differences)} difference(s): {engine.told(differences)}",
                    remedy="take the change back, or write a new snapshot once it is meant",
                )
            if differences:
                self.log.warning("%d difference(s): %s", len(differences), engine.told(differences))
            if self.snapshot is not None:
                where = files["snapshot"]
                data = engine.rendered(now, found).encode()
                await write_once(stores[where.root], where.path, data, "overwrite", run, self.snapshot)
        return SchemaCheckResult(
            tables=len(found),
            drift=bool(differences),
            count=len(differences),
            differences=differences[:_MOST],
            snapshot=self.snapshot or "",
        )

    def _files(self) -> dict[str, Location]:
        """The files that are given, after a look at the arguments."""
        from flowrunner_provider.database.identifiers import TableName
        from flowrunner_provider.files.uri import one_file

        if self.on_drift not in ("fail", "warn"):
            raise ConfigError("unknown on_drift", field="on_drift", remedy="use 'fail' or 'warn'")
        given = {"expected": self.expected, "snapshot": self.snapshot}
        files = {field: one_file(uri, field) for field, uri in given.items() if uri is not None}
        if not files:
            raise ConfigError("neither expected nor snapshot is given", field="expected", remedy="give at least one")
        if len(files) == 2 and files["expected"] == files["snapshot"]:
            raise ConfigError(
                "snapshot is the same file as expected", field="snapshot", remedy="a retry could not compare any more"
            )
        if (self.tables is None and self.expected is None) or (self.tables is not None and not self.tables):
            raise ConfigError("tables is empty", field="tables", remedy="name at least one table")
        if not isinstance(self.tables, list | tuple | None):
            raise ConfigError("tables must be a list", field="tables", remedy='write ["sales.orders"]')
        for table in self.tables or ():
            TableName.parse(table, "tables")
        return files

    async def _expected(self, stores: Mapping[str, Store], where: Location | None) -> tuple[str | None, Any]:
        from flowrunner_provider.database.schema_check import MOST_BYTES, parsed
        from flowrunner_provider.files.content import decoded, read_whole

        if where is None:
            return None, {}
        data = await read_whole(stores[where.root], where.path, MOST_BYTES)
        what = str(self.expected)
        return parsed(decoded(data, "json", "utf-8", what), what)
