"""Migrations: each script once, in order, together with the record that it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from flowrunner_provider.core.errors import AlreadyExists, ConfigError, OutcomeUnknown
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.scripts import Scripts, failed_at
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.migrate.history import History, Row
from flowrunner_provider.database.migrate.plan import NOTHING, Book, Step, label
from flowrunner_provider.database.migrate.results import Command, Engine, MigrateResult, OnInterrupted
from flowrunner_provider.database.migrate.scripts import Script, Version, rendered, version_of
from flowrunner_provider.database.migrate.servers import scripts_of

__all__ = ["MigratePlan", "migrate"]


@dataclass(frozen=True, kw_only=True)
class MigratePlan:
    """The parameters of the action ``sql.migrate``.

    :raises ConfigError: naming the parameter to mend.
    """

    command: Command = "apply"
    engine: Engine = "builtin"
    target: str | None = None
    history_table: str | None = None
    vars: Mapping[str, str | int] | None = None
    on_interrupted: OnInterrupted = "stop"
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("command", Command), ("engine", Engine), ("on_interrupted", OnInterrupted)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}",
                    field=name,
                    remedy=f"use one of {', '.join(map(repr, get_args(choices)))}",
                )
        TableName.parse(self.table, "history_table")
        if self.target is None and self.command in ("undo", "baseline"):
            raise ConfigError(
                f"command={self.command!r} needs a target",
                field="target",
                remedy="name the version that is in force already"
                if self.command == "baseline"
                else "name the version to go back to; '0' for before the first",
            )
        values = self.vars
        if values is not None and (
            not isinstance(values, Mapping)
            or not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values.values())
        ):
            raise ConfigError("vars must be an object of texts and numbers", field="vars", remedy='write {"a": "b"}')

    @property
    def table(self) -> str:
        """The name of the history."""
        return self.history_table or ("alembic_version" if self.engine == "alembic" else "flowrunner_migrations")

    @property
    def changes(self) -> bool:
        """Whether anything may be written."""
        return not self.dry_run and self.command in ("apply", "baseline", "undo")

    @property
    def version(self) -> Version | None:
        """The target."""
        return None if self.target is None else version_of(self.target, "target")


def migrate(plan: MigratePlan, scripts: Sequence[Script], connect: Callable[[], Session], run: Run) -> MigrateResult:
    """The scripts that were to run have run, each once and in order, and the history says so.

    Killed or repeated anywhere, it goes on behind the last script that is recorded. Where structures change in
    transactions each script and its record commit together; elsewhere a script that stopped half way is recorded.
    """
    return _Work(plan, scripts, connect, run).perform()


class _Work:
    def __init__(self, plan: MigratePlan, scripts: Sequence[Script], connect: Callable[[], Session], run: Run) -> None:
        self._plan, self._connect, self._run = plan, connect, run
        self._me = " ".join(run.scope)
        with connect() as session:
            failpoint("sql.migrate.after_connect")
            self._kind: type[Scripts[Any]] = scripts_of(session)
            self._table = session.locate(TableName.parse(plan.table, "history_table"))
            self._scripts = rendered(scripts, plan.vars, session.quoting, self._kind.literal)

    def perform(self) -> MigrateResult:
        plan = self._plan
        book = self._look()
        if plan.command == "status":
            return self._result(book, [])
        if plan.command == "baseline":
            return self._baseline()
        if plan.changes and book.begun:
            book = self._look_in_turn()
        book.check()
        steps = self._steps(book)
        for step in steps:
            if not step.script.alone:
                self._kind.check(step.script.text, step.script.file)
        if plan.command == "validate" or plan.dry_run:
            return self._result(book, [step.script.file for step in steps if plan.command != "validate"])
        if steps:
            self._ensure()
            with self._connect() as keeper:
                self._kind(keeper).exclusive()
                failpoint("sql.migrate.after_lock")
                while self._next():
                    self._run.deadline.check("the migrations")
                keeper.rollback()
        return self._result(self._look(), None)

    def _steps(self, book: Book) -> list[Step]:
        target = self._plan.version
        if target is not None:
            book.known(target, undo=self._plan.command == "undo")
        if self._plan.command == "undo":
            return book.to_undo(target or NOTHING)
        return book.to_apply(target)

    def _look(self) -> Book:
        with self._connect() as session:
            return Book(self._scripts, self._rows(session), self._plan.on_interrupted)

    def _look_in_turn(self) -> Book:
        """What is there when no other run is at work: a script that has begun may be one that is not yet done."""
        with self._connect() as keeper:
            self._kind(keeper).exclusive()
            book = self._look()
            keeper.rollback()
        return book

    def _rows(self, session: Session) -> list[Row]:
        history = History(session, self._table)
        return history.rows() if history.exists() else []

    def _ensure(self) -> None:
        with self._connect() as session:
            History(session, self._table).ensure()
        failpoint("sql.migrate.after_history_table")

    def _next(self) -> bool:
        """Run the next script, in a connection of its own: what a script sets is gone with it."""
        with self._connect() as session:
            history = self._opened(session)
            book = Book(self._scripts, history.rows(), self._plan.on_interrupted)
            book.check()
            steps = self._steps(book)
            if not steps:
                session.rollback()
                return False
            script, began = steps[0].script, self._run.clock.monotonic()
            settled = steps[0].settle
            if settled is not None:
                history.finish(settled.position, checksum=script.checksum, duration_ms=0)
            else:
                position = history.begin(
                    kind=script.kind,
                    version=script.label,
                    script=script.file,
                    checksum=script.checksum,
                    applied_by=self._me,
                )
                self._execute(session, script)
                milliseconds = int((self._run.clock.monotonic() - began) * 1000)
                history.finish(position, checksum=script.checksum, duration_ms=milliseconds)
            failpoint("sql.migrate.before_commit")
            self._commit(session, happened=script.alone or not self._kind.transactional)
            self._run.log.info("%s is done.", script.file)
            failpoint("sql.migrate.after_commit")
            return True

    def _opened(self, session: Session) -> History:
        """The history, which nobody else writes until the transaction ends."""
        session.begin()
        session.lock(self._table)
        return History(session, self._table)

    def _execute(self, session: Session, script: Script) -> None:
        """In the open transaction; or, where it cannot be in one, between two of them."""
        server = self._kind(session)
        failpoint("sql.migrate.before_script")
        self._run.lease.check()
        with failed_at(script.file):
            if script.alone:
                self._commit(session)
                failpoint("sql.migrate.before_statement")
                server.run_alone(script.text)
                failpoint("sql.migrate.after_statement")
                self._opened(session)
            else:
                server.run(script.text)
        failpoint("sql.migrate.after_script")

    def _commit(self, session: Session, *, happened: bool = False) -> None:
        """Make it durable, unless a newer attempt has taken over.

        :param happened: the script has: its record is true whoever writes it, and without it nobody would know.
        """
        if not happened:
            self._run.lease.check()
        try:
            session.commit()
        except OutcomeUnknown as error:
            error.remedy = "the retry looks into the history first"
            raise

    def _baseline(self) -> MigrateResult:
        """Everything up to the target counts as applied; on a history that has nothing else."""
        version = self._plan.version or NOTHING
        name = f"<baseline {label(version)}>"
        if self._plan.dry_run:
            self._started_otherwise(self._look_rows(), version)
            return self._result(self._look(), [name])
        self._started_otherwise(self._look_rows(), version)
        self._ensure()
        with self._connect() as keeper, self._connect() as session:
            self._kind(keeper).exclusive()
            history = self._opened(session)
            if not self._started_otherwise(history.rows(), version):
                position = history.begin(
                    kind="baseline", version=label(version), script=name, checksum="", applied_by=self._me
                )
                history.finish(position, checksum="", duration_ms=0)
            failpoint("sql.migrate.before_commit")
            self._commit(session)
            failpoint("sql.migrate.after_commit")
            keeper.rollback()
        return self._result(self._look(), None)

    def _look_rows(self) -> list[Row]:
        with self._connect() as session:
            return self._rows(session)

    def _started_otherwise(self, rows: list[Row], version: Version) -> bool:
        """Whether the baseline is there already."""
        if rows and (rows[0].kind != "baseline" or rows[0].version != version):
            raise AlreadyExists(
                f"the history {self._table} has begun otherwise", remedy="a baseline is for an empty history"
            )
        return bool(rows)

    def _result(self, book: Book, done: list[str] | None) -> MigrateResult:
        if done is None:
            done = [row.script for row in self._look_rows() if row.done and row.applied_by == self._me]
        return MigrateResult(
            engine="builtin",
            command=self._plan.command,
            dry_run=self._plan.dry_run,
            history_table=str(self._table),
            version=None if book.newest == NOTHING else label(book.newest),
            done=done,
            scripts=book.states(),
        )
