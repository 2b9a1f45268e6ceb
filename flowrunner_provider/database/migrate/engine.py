"""The migration engine: runs each script once, in order, and records it in the history."""

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
from flowrunner_provider.database.migrate.plan import NOTHING, MigrationStatus, Step, label
from flowrunner_provider.database.migrate.results import Command, Engine, MigrateResult, OnInterrupted
from flowrunner_provider.database.migrate.scripts import Script, Version, rendered, version_of
from flowrunner_provider.database.migrate.servers import scripts_of

__all__ = ["MigratePlan", "migrate"]


@dataclass(frozen=True, kw_only=True)
class MigratePlan:
    """The parameters of the action ``sql.migrate``.

    :raises ConfigError: naming the parameter to correct.
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
                remedy="name the version that the database already has"
                if self.command == "baseline"
                else "name the version to return to; '0' for the state before the first",
            )
        values = self.vars
        if values is not None and (
            not isinstance(values, Mapping)
            or not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values.values())
        ):
            raise ConfigError(
                "vars must be an object with texts and whole numbers as values",
                field="vars",
                remedy='for example {"schema": "shop"}',
            )

    @property
    def table(self) -> str:
        """The name of the history table."""
        return self.history_table or ("alembic_version" if self.engine == "alembic" else "flowrunner_migrations")

    @property
    def changes(self) -> bool:
        """Whether the command may write anything."""
        return not self.dry_run and self.command in ("apply", "baseline", "undo")

    @property
    def version(self) -> Version | None:
        """The target as a version."""
        return None if self.target is None else version_of(self.target, "target")


def migrate(plan: MigratePlan, scripts: Sequence[Script], connect: Callable[[], Session], run: Run) -> MigrateResult:
    """Run the pending scripts, each once and in order, and record them in the history.

    A killed or retried task continues after the last recorded script. Where DDL is transactional, each script commits
    together with its history row; elsewhere a script that was interrupted is recorded as such.
    """
    return _Migration(plan, scripts, connect, run).perform()


class _Migration:
    def __init__(self, plan: MigratePlan, scripts: Sequence[Script], connect: Callable[[], Session], run: Run) -> None:
        self._plan, self._connect, self._run = plan, connect, run
        self._attempt = " ".join(run.scope)
        with connect() as session:
            failpoint("sql.migrate.after_connect")
            self._kind: type[Scripts[Any]] = scripts_of(session)
            self._table = session.locate(TableName.parse(plan.table, "history_table"))
            self._scripts = rendered(scripts, plan.vars, session.quoting, self._kind.literal)

    def perform(self) -> MigrateResult:
        plan = self._plan
        status = self._read_status()
        if plan.command == "status":
            return self._result(status, [])
        if plan.command == "baseline":
            return self._baseline()
        if plan.changes and status.unfinished:
            status = self._read_status_exclusively()
        status.check()
        steps = self._steps(status)
        for step in steps:
            if not step.script.alone:
                self._kind.check(step.script.text, step.script.file)
        if plan.command == "validate" or plan.dry_run:
            return self._result(status, [step.script.file for step in steps if plan.command != "validate"])
        if steps:
            self._create_history()
            with self._connect() as lock_holder:
                self._kind(lock_holder).exclusive()
                failpoint("sql.migrate.after_lock")
                while self._run_next():
                    self._run.deadline.check("the migrations")
                lock_holder.rollback()
        return self._result(self._read_status(), None)

    def _steps(self, status: MigrationStatus) -> list[Step]:
        target = self._plan.version
        if target is not None:
            status.check_target(target, undo=self._plan.command == "undo")
        if self._plan.command == "undo":
            return status.to_undo(target or NOTHING)
        return status.to_apply(target)

    def _read_status(self) -> MigrationStatus:
        with self._connect() as session:
            return MigrationStatus(self._scripts, self._rows(session), self._plan.on_interrupted)

    def _read_status_exclusively(self) -> MigrationStatus:
        """Read the status while no other run is active, which could have a script in progress."""
        with self._connect() as lock_holder:
            self._kind(lock_holder).exclusive()
            status = self._read_status()
            lock_holder.rollback()
        return status

    def _rows(self, session: Session) -> list[Row]:
        history = History(session, self._table)
        return history.rows() if history.exists() else []

    def _create_history(self) -> None:
        with self._connect() as session:
            History(session, self._table).ensure()
        failpoint("sql.migrate.after_history_table")

    def _run_next(self) -> bool:
        """Run the next script and return whether there was one.

        Each script has its own connection, so that its session settings end with it.
        """
        with self._connect() as session:
            history = self._lock_history(session)
            status = MigrationStatus(self._scripts, history.rows(), self._plan.on_interrupted)
            status.check()
            steps = self._steps(status)
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
                    applied_by=self._attempt,
                )
                self._execute(session, script)
                milliseconds = int((self._run.clock.monotonic() - began) * 1000)
                history.finish(position, checksum=script.checksum, duration_ms=milliseconds)
            failpoint("sql.migrate.before_commit")
            self._commit(session, happened=script.alone or not self._kind.transactional)
            self._run.log.info("%s is done.", script.file)
            failpoint("sql.migrate.after_commit")
            return True

    def _lock_history(self, session: Session) -> History:
        """Begin a transaction and return the history, locked against other writers."""
        session.begin()
        session.lock(self._table)
        return History(session, self._table)

    def _execute(self, session: Session, script: Script) -> None:
        """Run a script in the open transaction, or between two transactions if it cannot run in one."""
        server = self._kind(session)
        failpoint("sql.migrate.before_script")
        self._run.lease.check()
        with failed_at(script.file):
            if script.alone:
                self._commit(session)
                failpoint("sql.migrate.before_statement")
                server.run_alone(script.text)
                failpoint("sql.migrate.after_statement")
                self._lock_history(session)
            else:
                server.run(script.text)
        failpoint("sql.migrate.after_script")

    def _commit(self, session: Session, *, happened: bool = False) -> None:
        """Commit, unless a newer attempt has taken over.

        :param happened: the script already took effect, so its history row must be written in any case.
        """
        if not happened:
            self._run.lease.check()
        try:
            session.commit()
        except OutcomeUnknown as error:
            error.remedy = "the retry checks the history first"
            raise

    def _baseline(self) -> MigrateResult:
        """Record everything up to the target as applied; only in an empty history."""
        version = self._plan.version or NOTHING
        name = f"<baseline {label(version)}>"
        if self._plan.dry_run:
            self._has_baseline(self._read_history(), version)
            return self._result(self._read_status(), [name])
        self._has_baseline(self._read_history(), version)
        self._create_history()
        with self._connect() as lock_holder, self._connect() as session:
            self._kind(lock_holder).exclusive()
            history = self._lock_history(session)
            if not self._has_baseline(history.rows(), version):
                position = history.begin(
                    kind="baseline", version=label(version), script=name, checksum="", applied_by=self._attempt
                )
                history.finish(position, checksum="", duration_ms=0)
            failpoint("sql.migrate.before_commit")
            self._commit(session)
            failpoint("sql.migrate.after_commit")
            lock_holder.rollback()
        return self._result(self._read_status(), None)

    def _read_history(self) -> list[Row]:
        with self._connect() as session:
            return self._rows(session)

    def _has_baseline(self, rows: list[Row], version: Version) -> bool:
        """Return whether the history already has this baseline.

        :raises AlreadyExists: if it has anything else.
        """
        if rows and (rows[0].kind != "baseline" or rows[0].version != version):
            raise AlreadyExists(
                f"the history {self._table} is not empty", remedy="use baseline only for an empty history"
            )
        return bool(rows)

    def _result(self, status: MigrationStatus, done: list[str] | None) -> MigrateResult:
        if done is None:
            done = [row.script for row in self._read_history() if row.done and row.applied_by == self._attempt]
        return MigrateResult(
            engine="builtin",
            command=self._plan.command,
            dry_run=self._plan.dry_run,
            history_table=str(self._table),
            version=None if status.newest == NOTHING else label(status.newest),
            done=done,
            scripts=status.states(),
        )
