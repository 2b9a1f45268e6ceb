"""Runs Alembic revisions through Alembic's API, each in one transaction together with the version table.

``env.py`` is not run, as the connection is ours. The history is what Alembic keeps: the current revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.postgres import PostgresSession
from flowrunner_provider.database.dialects.scripts import failed_at
from flowrunner_provider.database.dialects.sqlite import SqliteSession
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.migrate.engine import MigratePlan
from flowrunner_provider.database.migrate.results import MigrateResult, MigrationState
from flowrunner_provider.database.migrate.servers import scripts_of

__all__ = ["migrate_with_alembic"]


def migrate_with_alembic(plan: MigratePlan, folder: str, connect: Callable[[], Session], run: Run) -> MigrateResult:
    """Bring the database to the target revision; each revision commits together with the version table.

    A killed or retried task continues after the last committed revision.

    :param folder: the folder that contains ``versions``.
    """
    if plan.vars is not None or plan.on_interrupted != "stop":
        raise ConfigError("vars and on_interrupted are for engine='builtin'", field="vars", remedy="remove them")
    return _AlembicMigration(plan, folder, connect, run).perform()


class _AlembicMigration:
    def __init__(self, plan: MigratePlan, folder: str, connect: Callable[[], Session], run: Run) -> None:
        self._plan, self._connect, self._run = plan, connect, run
        self._alembic = load("alembic", extra="migrate", needed_for="engine='alembic'")
        config = load("alembic.config", extra="migrate", needed_for="engine='alembic'").Config()
        config.set_main_option("script_location", folder.replace("%", "%%"))
        self._config = config
        with self._alembic_errors():
            self._scripts: Any = self._alembic.script.ScriptDirectory.from_config(config)
            self._heads = tuple(self._scripts.get_heads())
        self._table = TableName.parse(plan.table, "history_table")

    @contextmanager
    def _alembic_errors(self) -> Iterator[None]:
        """Turn Alembic's errors about revisions and folders into ConfigError."""
        try:
            yield
        except self._alembic.util.CommandError as error:
            raise ConfigError(
                f"Alembic: {error}", field="target", remedy="check location, target and the revisions"
            ) from None

    def perform(self) -> MigrateResult:
        plan = self._plan
        with self._connect() as session:
            failpoint("sql.migrate.after_connect")
            _supported(session)
            current = self._current(session)
        with self._alembic_errors():
            pending = [step.revision.revision for step in self._steps(current)] if plan.command in _MOVES else []
        if not plan.changes:
            return self._result(current, pending if plan.dry_run else [])
        done: list[str] = []
        with self._connect() as lock_holder:
            scripts_of(lock_holder)(lock_holder).exclusive()
            failpoint("sql.migrate.after_lock")
            while (revision := self._run_next()) is not None:
                done.append(revision)
                self._run.deadline.check("the migrations")
            lock_holder.rollback()
        with self._connect() as session:
            return self._result(self._current(session), done)

    def _current(self, session: Session) -> tuple[str, ...]:
        with _connection(session) as connection:
            context = self._alembic.runtime.migration.MigrationContext.configure(connection, opts=self._options())
            current = tuple(context.get_current_heads())
        with self._alembic_errors():
            try:
                self._scripts.get_revisions(current)
            except self._alembic.util.CommandError:
                raise IntegrityError(
                    f"the database is at a revision that is not in the folder: {', '.join(current)}",
                    remedy="put its file back",
                ) from None
        return current

    def _options(self) -> dict[str, Any]:
        schema = self._table.schema
        return {"version_table": self._table.name.text, "version_table_schema": schema.text if schema else None}

    def _steps(self, current: tuple[str, ...]) -> list[Any]:
        """Return the remaining steps, as Alembic's own commands compute them."""
        target, command = self._plan.target, self._plan.command
        if command == "undo":
            down = "base" if target in ("0", "base") else target
            return list(self._scripts._downgrade_revs(down, current)) if current else []
        if command == "baseline":
            wanted = tuple(revision.revision for revision in self._scripts.get_revisions(target))
            return [] if wanted == current else list(self._scripts._stamp_revs(target, current))
        return list(self._scripts._upgrade_revs(target or "heads", current))

    def _run_next(self) -> str | None:
        """Run the next revision and return its name; None if none is left."""
        ran: list[str] = []

        def next_steps(current: Any, context: Any) -> list[Any]:
            del context
            steps = self._steps(tuple(current))[: None if self._plan.command == "baseline" else 1]
            ran.extend(_name(step) for step in steps)
            return steps

        with self._connect() as session, _connection(session) as connection, self._alembic_errors():
            environment = self._alembic.runtime.environment.EnvironmentContext(
                self._config, self._scripts, fn=next_steps
            )
            with environment, connection.begin(), failed_at("a revision"):
                environment.configure(connection=connection, **self._options())
                failpoint("sql.migrate.before_script")
                environment.run_migrations()
                failpoint("sql.migrate.before_commit")
                self._run.lease.check()
            failpoint("sql.migrate.after_commit")
        return ran[-1] if ran else None

    def _result(self, current: tuple[str, ...], done: list[str]) -> MigrateResult:
        applied = (
            {revision.revision for revision in self._scripts.iterate_revisions(current, "base")} if current else set()
        )
        return MigrateResult(
            engine="alembic",
            command=self._plan.command,
            dry_run=self._plan.dry_run,
            history_table=str(self._table),
            version=",".join(current) or None,
            done=done,
            scripts=[
                MigrationState(
                    script=revision.revision,
                    kind="versioned",
                    version=revision.revision,
                    state="applied" if revision.revision in applied else "pending",
                )
                for revision in reversed(list(self._scripts.walk_revisions()))
            ],
        )


_MOVES = ("apply", "undo")


def _name(step: Any) -> str:
    revision = getattr(step, "revision", None)
    return str(revision.revision if revision is not None else step.to_)


def _supported(session: Session) -> None:
    if session.kind == "mssql":
        raise ConfigError(
            "Alembic does not support the driver of this connection", field="engine", remedy="use engine='builtin'"
        )
    if not scripts_of(session).transactional:
        raise ConfigError(
            f"Alembic cannot record in {session.kind} that a revision was interrupted",
            field="engine",
            remedy="use engine='builtin', which can",
        )


@contextmanager
def _connection(session: Session) -> Iterator[Any]:
    """Wrap the session's connection for SQLAlchemy; errors lose the statement and its values."""
    sqlalchemy = load("sqlalchemy", extra="migrate", needed_for="engine='alembic'")
    with _lent(session) as (url, raw, typed):
        engine = sqlalchemy.create_engine(url, creator=lambda: raw, poolclass=sqlalchemy.pool.StaticPool)
        if session.kind == "sqlite":
            sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            with engine.connect() as connection:
                yield connection
        except sqlalchemy.exc.DBAPIError as error:
            original = error.orig
            with typed():
                if original is not None:
                    raise original from None
            raise Rejected("the driver refused a revision", remedy="correct the revision") from None


@contextmanager
def _lent(session: Session) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Lend URL, DBAPI connection and error translator; restore the connection afterwards."""
    if isinstance(session, PostgresSession):
        raw = session._connection
        factory, raw.cursor_factory = raw.cursor_factory, session._driver.Cursor
        raw.autocommit = False
        try:
            yield "postgresql+psycopg://", raw, session.typed
        finally:
            if not raw.closed:
                raw.rollback()
                raw.autocommit, raw.cursor_factory = True, factory
    elif isinstance(session, SqliteSession):
        yield "sqlite://", session._connection, lambda: session._typed("run a revision in")
