"""Create tables, and compare their structure with an expected one."""

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

_MAX_DIFFERENCES = 200  # in the result


class SqlCreateTableOperator(FlowRunnerOperator):
    """On success, the table exists with these columns, keys and indexes; an existing table matched or was replaced.

    A killed or retried task, or two attempts at once, create (or replace) the table exactly once. A row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt that the
    work is done; rows inserted into the new table meanwhile are kept. MySQL and MariaDB commit implicitly at every DDL
    statement: there, the table's comment records which task created it, and one ``RENAME TABLE`` decides a replacement.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param table: ``table`` or ``schema.table``, taken literally (not folded to lower case).
    :param columns: name -> type, or name -> ``{"type": ..., "nullable": false, "default": ...}``. The types are those
        of a dataset: ``string integer number decimal boolean object array date time timestamp binary``. A default is a
        literal value; for a date or time, ``now`` means the time of the insert.
    :param infer_from: the result of a task that wrote rows, or the path of a .csv, .jsonl or .parquet file, to take
        columns and types from. Types the dataset does not declare come from its first rows; CSV columns are strings.
        ``columns`` overrides these.
    :param keys: the columns of the primary key, which are never null.
    :param indexes: a list of ``{"columns": [...], "unique": true, "name": ...}``; the last two are optional. In MySQL,
        a string column in a key or index holds at most 255 characters.
    :param if_exists: ``skip`` accepts an existing table that matches, and otherwise fails with the differences. A table
        matches if all columns exist with types of the same family and the same nullability, and the primary key and
        indexes are the same; additional columns must be nullable or have a default. ``replace`` drops the table with
        its rows, but refuses if that would lose more, such as views. ``fail`` fails.
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
            raise ConfigError(
                "columns must be an object", field="columns", remedy='pass an object such as {"id": "integer"}'
            )
        columns = {**self._infer_columns(), **(self.columns or {})}
        spec = table_spec(self.table, columns, self.keys, self.indexes)
        plan = CreatePlan(table=self.table, spec=spec, if_exists=self.if_exists)
        hook = hook_for(self.conn_id)
        return create_table(plan, lambda: hook.open(run.deadline, create=True), run)

    def _infer_columns(self) -> dict[str, Any]:
        """Return the columns of ``infer_from`` and their types."""
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
    """On success, every table has the structure in ``expected``, or the result lists the differences; ``snapshot`` is
    complete.

    The task only reads the database, so a killed or retried task checks again. A snapshot gets its final name when it
    is complete, and only after the comparison did not fail. The comparison covers columns, types, nullability,
    defaults, primary keys, indexes and foreign keys, as the database itself reports them, for all tables in one
    transaction. MySQL and MariaDB show a login only the tables it may read; other tables count as removed.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param tables: the tables, each ``table`` or ``schema.table``, taken literally; by default those in ``expected``.
    :param expected: a file that ``snapshot`` wrote, in any store, e.g. ``s3://lake@schemas/sales.json``.
    :param snapshot: the file to write the current structures to, in any store; it must differ from ``expected``.
    :param on_drift: at a difference, ``fail``, or ``warn`` in the log and list the differences in the result.
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
        """Read the expected structures, compare, then write the snapshot."""
        from flowrunner_provider.database import schema_check as engine
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.files.content import write_once
        from flowrunner_provider.files.hook import open_stores

        files = self._files()
        hook = hook_for(self.conn_id)
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, **{field: [location] for field, location in files.items()})
            kind, expected = await self._expected(stores, files.get("expected"))
            tables = list(expected) if self.tables is None else self.tables
            actual_kind, found = await asyncio.to_thread(
                engine.read_structures, lambda: hook.open(run.deadline), tables
            )
            if kind not in (None, actual_kind):
                raise ConfigError(
                    f"expected describes a {kind} database, but the connection is {actual_kind}",
                    field="expected",
                    remedy="write a snapshot from a database of the same kind",
                )
            differences = engine.compare(expected, found) if kind is not None else []
            if differences and self.on_drift == "fail":
                raise IntegrityError(
                    f"{len(differences)} difference(s): {engine.summary(differences)}",
                    remedy="revert the change, or write a new snapshot if the change is intended",
                )
            if differences:
                self.log.warning("%d difference(s): %s", len(differences), engine.summary(differences))
            if self.snapshot is not None:
                where = files["snapshot"]
                data = engine.render(actual_kind, found).encode()
                await write_once(stores[where.root], where.path, data, "overwrite", run, self.snapshot)
        return SchemaCheckResult(
            tables=len(found),
            drift=bool(differences),
            count=len(differences),
            differences=differences[:_MAX_DIFFERENCES],
            snapshot=self.snapshot or "",
        )

    def _files(self) -> dict[str, Location]:
        """Validate the arguments and return the locations of the given files."""
        from flowrunner_provider.database.identifiers import TableName
        from flowrunner_provider.files.uri import one_file

        if self.on_drift not in ("fail", "warn"):
            raise ConfigError("unknown on_drift", field="on_drift", remedy="use 'fail' or 'warn'")
        given = {"expected": self.expected, "snapshot": self.snapshot}
        files = {field: one_file(uri, field) for field, uri in given.items() if uri is not None}
        if not files:
            raise ConfigError("neither expected nor snapshot is given", field="expected", remedy="pass at least one")
        if len(files) == 2 and files["expected"] == files["snapshot"]:
            raise ConfigError(
                "snapshot is the same file as expected",
                field="snapshot",
                remedy="pass another file: a retry must still find expected",
            )
        if (self.tables is None and self.expected is None) or (self.tables is not None and not self.tables):
            raise ConfigError("tables is empty", field="tables", remedy="pass at least one table")
        if not isinstance(self.tables, list | tuple | None):
            raise ConfigError("tables must be a list", field="tables", remedy='pass a list such as ["sales.orders"]')
        for table in self.tables or ():
            TableName.parse(table, "tables")
        return files

    async def _expected(self, stores: Mapping[str, Store], where: Location | None) -> tuple[str | None, Any]:
        from flowrunner_provider.database.schema_check import MAX_SNAPSHOT_BYTES, parse
        from flowrunner_provider.files.content import decode_content, read_whole

        if where is None:
            return None, {}
        data = await read_whole(stores[where.root], where.path, MAX_SNAPSHOT_BYTES)
        what = str(self.expected)
        return parse(decode_content(data, "json", "utf-8", what), what)
