"""Upkeep of tables: what cannot be undone has guards and happens once; the rest may be repeated."""

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
from flowrunner_provider.database.ledger import NAME, aside, stand_in
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import MaintainResult

__all__ = ["MaintainPlan", "maintain"]

_GUARDED = ("truncate", "drop")
_MOST = 1_000  # tables of one task


@dataclass(frozen=True, kw_only=True)
class MaintainPlan:
    """The parameters of the action ``sql.maintain``.

    :raises ConfigError: naming the parameter to mend.
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
            raise _bad("operation", "unknown operation", f"use one of {', '.join(get_args(Upkeep))}")
        if not isinstance(self.tables, list | tuple) or len(self.tables) > _MOST:
            raise _bad("tables", f"tables must be a list of at most {_MOST} names", 'write ["sales.staging"]')
        if not self.tables and self.operation != "vacuum":
            raise _bad("tables", "tables is empty", "name at least one table")
        names = [TableName.parse(table, "tables") for table in self.tables]
        if len(set(names)) != len(names):
            raise _bad("tables", "tables names one twice", "name each once")
        if any(name.name.text.lower() == NAME for name in names) and self.operation in (*_GUARDED, "swap_partition"):
            raise _bad("tables", f"{NAME} is what makes tasks happen once", "leave it as it is")
        self._check_guards()
        if (self.operation == "swap_partition") != (self.replacement is not None):
            raise _bad("replacement", "swap_partition needs a replacement, and nothing else takes one", "name a table")
        if self.replacement is not None:
            TableName.parse(self.replacement, "replacement")
            if len(self.tables) != 1:
                raise _bad("tables", "swap_partition takes one partition", "use a task for each")
        if self.concurrently and self.operation != "refresh_mview":
            raise _bad("concurrently", "concurrently is for refresh_mview", "leave it away")

    def _check_guards(self) -> None:
        guarded = self.operation in _GUARDED
        if not guarded and self.confirm is not None:
            raise _bad("confirm", "confirm is for truncate and drop", "leave it away")
        if guarded and list(self.confirm or ()) != list(self.tables):
            raise _bad(
                "confirm",
                f"confirm does not name the same tables as tables; nothing was done ({self.operation})",
                "write the names of the tables once more into confirm, which takes no templates",
            )
        most = self.max_rows
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
            raise _bad("max_rows", "max_rows must be 0 or more", "give a whole number, or null for no limit")

    @cached_property
    def names(self) -> list[TableName]:
        """The tables as they were written."""
        return [TableName.parse(table, "tables") for table in self.tables]


def _bad(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def maintain(plan: MaintainPlan, connect: Callable[[], Session], run: Run) -> MaintainResult:
    """The operation is done on every table.

    Truncate, drop and swap_partition happen on all tables or none, exactly once; the others are repeated.
    """
    work = _Work(plan, connect, run)
    if plan.dry_run:
        return work.look_only()
    if plan.operation in (*_GUARDED, "swap_partition"):
        return work.once()
    return work.each()


class _Work:
    def __init__(self, plan: MaintainPlan, connect: Callable[[], Session], run: Run) -> None:
        self.plan, self.connect, self.run = plan, connect, run
        self.key = run.effects.key("sql.maintain")
        self.tables: list[TableName] = []
        self.asides: list[TableName] = []

    def look_only(self) -> MaintainResult:
        with self.connect() as session:
            session.begin(read_only=True)
            self._find(session)
            rows = sum(session.count(table) for table in self.tables) if self.plan.operation in _GUARDED else 0
            session.rollback()
        return self._result(rows)

    def each(self) -> MaintainResult:
        """One table after the other, outside of a transaction."""
        with self.connect() as session:
            self._find(session)
            targets: list[TableName | None] = [*self.tables] or [None]
            for table in targets:
                self.run.deadline.check("the upkeep")
                self.run.lease.check()
                failpoint("sql.maintain.before_table")
                self._keep_up(session, table)
                failpoint("sql.maintain.after_table")
        return self._result(0)

    def _keep_up(self, session: Session, table: TableName | None) -> None:
        if self.plan.operation == "vacuum" or table is None:
            session.vacuum(table)
        elif self.plan.operation == "analyze":
            session.analyze(table)
        elif self.plan.operation == "reindex":
            session.reindex(table)
        else:
            session.refresh(table, concurrently=self.plan.concurrently)

    def once(self) -> MaintainResult:
        done = Once(
            action="sql.maintain",
            target=self.plan.names[0],
            fingerprint=fingerprint(asdict(self.plan)),
            connect=self.connect,
            body=self._change,
            run=self.run,
            point=lambda name: failpoint(f"sql.maintain.{name}"),
            publish=self._drop,
            tidy=self._tidy,
        ).perform()
        return MaintainResult(
            operation=self.plan.operation, tables=list(done["tables"]), rows=int(done["rows"]), dry_run=False
        )

    def _change(self, session: Session) -> dict[str, Any]:
        self._find(session)
        rows = 0
        if self.plan.operation in _GUARDED:
            for table in self.tables:
                self._check(session, table)
            rows = sum(self._emptied(session, table) for table in self.tables)
            failpoint("sql.maintain.after_empty")
        else:
            replacement = session.locate(TableName.parse(str(self.plan.replacement), "replacement"))
            if session.table(replacement) is None:
                raise NotFound(f"the table {replacement} is not there", remedy="create and fill it first")
            session.swap_partition(self.tables[0], replacement, stand_in(self.key))
            failpoint("sql.maintain.after_swap")
        return {"tables": list(map(str, self.tables)), "rows": rows}

    def _emptied(self, session: Session, table: TableName) -> int:
        rows = session.clear(table) if self.plan.operation == "truncate" else session.count(table)
        if self.plan.max_rows is not None and rows > self.plan.max_rows:
            raise self._too_many(table)
        return rows

    def _check(self, session: Session, table: TableName) -> None:
        session.seclude(table)
        if self.plan.max_rows is None:
            return
        limited = session.limited(f"SELECT 1 AS one FROM {session.sql(table)}", self.plan.max_rows + 1)
        if int(session.run(f"SELECT {session.counts} FROM ({limited}) AS q")[0][0]) > self.plan.max_rows:
            raise self._too_many(table)

    def _too_many(self, table: TableName) -> IntegrityError:
        return IntegrityError(
            f"{table} has more than max_rows={self.plan.max_rows} rows; nothing was done",
            remedy="make sure that it is the table you mean, then raise max_rows; dry_run=True counts",
        )

    def _drop(self, session: Session) -> None:
        if self.plan.operation == "drop":
            self.run.lease.check()
            session.drop(self.tables, self.asides)
            failpoint("sql.maintain.after_drop")

    def _tidy(self, session: Session, target: TableName, done: bool) -> None:
        if self.plan.operation == "drop" and done:
            session.tidy(*self._asides([target, *map(session.locate, self.plan.names[1:])]))

    def _asides(self, tables: Sequence[TableName]) -> list[TableName]:
        """Where dropped tables go at first; the ledger knows the first one's."""
        first, *rest = tables
        others = [table.beside(f"{stand_in(self.key)}_{number}") for number, table in enumerate(rest, 2)]
        return [aside(first, self.key), *others]

    def _find(self, session: Session) -> None:
        """All tables are there, and have these very names."""
        self.tables = []
        for name in self.plan.names:
            table = session.locate(name)
            if self.plan.operation != "refresh_mview":
                found = session.table(table)
                if found is None:
                    raise NotFound(f"the table {table} is not there; nothing was done", remedy="correct its name")
                if found.name.name.text != name.name.text:
                    raise _bad("tables", f"{name} is called {found.name}", "write its name exactly so")
            self.tables.append(table)
        self.asides = self._asides(self.tables) if self.tables else []

    def _result(self, rows: int) -> MaintainResult:
        return MaintainResult(
            operation=self.plan.operation,
            tables=list(map(str, self.tables)),
            rows=rows,
            dry_run=self.plan.dry_run,
        )
