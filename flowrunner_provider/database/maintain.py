"""Maintain tables: destructive operations have guards and happen once; the others can be repeated."""

# ruff: noqa: S608 - names are quoted by identifiers.py
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, get_args

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Upkeep
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import LEDGER_TABLE, new_table_name, old_table_name
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import MaintainResult

__all__ = ["MaintainPlan", "maintain"]

_DESTRUCTIVE = ("truncate", "drop")
_MAX_TABLES = 1_000  # per task


@dataclass(frozen=True, kw_only=True)
class MaintainPlan:
    """The parameters of the action ``sql.maintain``.

    :raises ConfigError: naming the parameter to correct.
    """

    operation: Upkeep
    tables: Sequence[str]
    confirm: Sequence[str] | None = None
    max_rows: int | None = 1000
    replacement: str | None = None
    concurrently: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.operation not in get_args(Upkeep):
            raise _config_error("operation", "unknown operation", f"use one of {', '.join(get_args(Upkeep))}")
        if not isinstance(self.tables, list | tuple) or len(self.tables) > _MAX_TABLES:
            raise _config_error(
                "tables",
                f"tables must be a list of at most {_MAX_TABLES} names",
                'pass a list such as ["sales.staging"]',
            )
        if not self.tables and self.operation != "vacuum":
            raise _config_error("tables", "tables is empty", "pass at least one table")
        names = [TableName.parse(table, "tables") for table in self.tables]
        if len(set(names)) != len(names):
            raise _config_error("tables", "tables names a table twice", "name each table once")
        if any(name.name.text.lower() == LEDGER_TABLE for name in names) and self.operation in (
            *_DESTRUCTIVE,
            "swap_partition",
        ):
            raise _config_error(
                "tables", f"{LEDGER_TABLE} records completed work and must not be changed", "remove it from tables"
            )
        self._check_guards()
        if (self.operation == "swap_partition") != (self.replacement is not None):
            raise _config_error(
                "replacement",
                "replacement is required for swap_partition and not allowed otherwise",
                "add or remove it",
            )
        if self.replacement is not None:
            TableName.parse(self.replacement, "replacement")
            if len(self.tables) != 1:
                raise _config_error("tables", "swap_partition takes one partition", "use one task per partition")
        if self.concurrently and self.operation != "refresh_mview":
            raise _config_error("concurrently", "concurrently is for refresh_mview", "remove it")

    def _check_guards(self) -> None:
        destructive = self.operation in _DESTRUCTIVE
        if not destructive and self.confirm is not None:
            raise _config_error("confirm", "confirm is for truncate and drop", "remove it")
        if destructive and list(self.confirm or ()) != list(self.tables):
            raise _config_error(
                "confirm",
                f"confirm does not name the same tables as tables; nothing was done ({self.operation})",
                "repeat the names of the tables in confirm, which takes no templates",
            )
        most = self.max_rows
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
            raise _config_error("max_rows", "max_rows must be 0 or more", "pass an integer, or null for no limit")

    @cached_property
    def names(self) -> list[TableName]:
        """The parsed names."""
        return [TableName.parse(table, "tables") for table in self.tables]


def _config_error(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def maintain(plan: MaintainPlan, connect: Callable[[], Session], run: Run) -> MaintainResult:
    """Apply the operation to every table.

    Truncate, drop and swap_partition apply to all tables or none, exactly once; a retry repeats the others.
    """
    work = _Maintenance(plan, connect, run)
    if plan.dry_run:
        return work.count_rows()
    if plan.operation in (*_DESTRUCTIVE, "swap_partition"):
        return work.run_once()
    return work.run_repeatable()


class _Maintenance:
    def __init__(self, plan: MaintainPlan, connect: Callable[[], Session], run: Run) -> None:
        self.plan, self.connect, self.run = plan, connect, run
        self.key = run.effects.key("sql.maintain")
        self.tables: list[TableName] = []
        self.old_names: list[TableName] = []

    def count_rows(self) -> MaintainResult:
        with self.connect() as session:
            session.begin(read_only=True)
            self._find_tables(session)
            rows = sum(session.count(table) for table in self.tables) if self.plan.operation in _DESTRUCTIVE else 0
            session.rollback()
        return self._result(rows)

    def run_repeatable(self) -> MaintainResult:
        """Process one table after the other, outside a transaction."""
        with self.connect() as session:
            self._find_tables(session)
            targets: list[TableName | None] = [*self.tables] or [None]
            for table in targets:
                self.run.deadline.check("the upkeep")
                self.run.lease.check()
                failpoint("sql.maintain.before_table")
                self._run_operation(session, table)
                failpoint("sql.maintain.after_table")
        return self._result(0)

    def _run_operation(self, session: Session, table: TableName | None) -> None:
        if self.plan.operation == "vacuum" or table is None:
            session.vacuum(table)
        elif self.plan.operation == "analyze":
            session.analyze(table)
        elif self.plan.operation == "reindex":
            session.reindex(table)
        else:
            session.refresh(table, concurrently=self.plan.concurrently)

    def run_once(self) -> MaintainResult:
        done = Once(
            action="sql.maintain",
            target=self.plan.names[0],
            fingerprint=fingerprint(asdict(self.plan)),
            connect=self.connect,
            body=self._change,
            run=self.run,
            failpoint=lambda name: failpoint(f"sql.maintain.{name}"),
            publish=self._drop,
            remove_leftovers=self._remove_leftovers,
        ).perform()
        return MaintainResult(
            operation=self.plan.operation, tables=list(done["tables"]), rows=int(done["rows"]), dry_run=False
        )

    def _change(self, session: Session) -> dict[str, Any]:
        self._find_tables(session)
        rows = 0
        if self.plan.operation in _DESTRUCTIVE:
            for table in self.tables:
                self._check_size(session, table)
            rows = sum(self._remove_rows(session, table) for table in self.tables)
            failpoint("sql.maintain.after_empty")
        else:
            replacement = session.locate(TableName.parse(str(self.plan.replacement), "replacement"))
            if session.table(replacement) is None:
                raise NotFound(f"the table {replacement} does not exist", remedy="create and fill it first")
            session.swap_partition(self.tables[0], replacement, new_table_name(self.key))
            failpoint("sql.maintain.after_swap")
        return {"tables": list(map(str, self.tables)), "rows": rows}

    def _remove_rows(self, session: Session, table: TableName) -> int:
        rows = session.clear(table) if self.plan.operation == "truncate" else session.count(table)
        if self.plan.max_rows is not None and rows > self.plan.max_rows:
            raise self._too_many(table)
        return rows

    def _check_size(self, session: Session, table: TableName) -> None:
        session.lock_exclusively(table)
        if self.plan.max_rows is None:
            return
        limited = session.limit_rows(f"SELECT 1 AS one FROM {session.sql(table)}", self.plan.max_rows + 1)
        if int(session.run(f"SELECT {session.count_sql} FROM ({limited}) AS q")[0][0]) > self.plan.max_rows:
            raise self._too_many(table)

    def _too_many(self, table: TableName) -> IntegrityError:
        return IntegrityError(
            f"{table} has more than max_rows={self.plan.max_rows} rows; nothing was done",
            remedy="check that it is the right table, then raise max_rows; dry_run=True counts the rows",
        )

    def _drop(self, session: Session) -> None:
        if self.plan.operation == "drop":
            self.run.lease.check()
            session.drop(self.tables, self.old_names)
            failpoint("sql.maintain.after_drop")

    def _remove_leftovers(self, session: Session, target: TableName, done: bool) -> None:
        if self.plan.operation == "drop" and done:
            session.drop_leftovers(*self._old_table_names([target, *map(session.locate, self.plan.names[1:])]))

    def _old_table_names(self, tables: Sequence[TableName]) -> list[TableName]:
        """Return the temporary names of dropped tables; the ledger looks for the first one."""
        first, *rest = tables
        others = [table.beside(f"{new_table_name(self.key)}_{number}") for number, table in enumerate(rest, 2)]
        return [old_table_name(first, self.key), *others]

    def _find_tables(self, session: Session) -> None:
        """Resolve the tables and raise unless all exist under exactly these names."""
        self.tables = []
        for name in self.plan.names:
            table = session.locate(name)
            if self.plan.operation != "refresh_mview":
                found = session.table(table)
                if found is None:
                    raise NotFound(f"the table {table} does not exist; nothing was done", remedy="correct its name")
                if found.name.name.text != name.name.text:
                    raise _config_error(
                        "tables",
                        f"{name} does not exist, but {found.name} does",
                        "write the name exactly as in the database",
                    )
            self.tables.append(table)
        self.old_names = self._old_table_names(self.tables) if self.tables else []

    def _result(self, rows: int) -> MaintainResult:
        return MaintainResult(
            operation=self.plan.operation,
            tables=list(map(str, self.tables)),
            rows=rows,
            dry_run=self.plan.dry_run,
        )
