"""Run versioned migration scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.migrate.results import Command, Engine, MigrateResult, OnInterrupted
from flowrunner_provider.runtime.operator import FlowRunnerOperator, run_to_end

if TYPE_CHECKING:
    from flowrunner_provider.database.migrate.scripts import Script
    from flowrunner_provider.files.uri import Location

__all__ = ["SqlMigrateOperator"]


class SqlMigrateOperator(FlowRunnerOperator):
    """On success, every script up to ``target`` has run once and in order, and a history table records it.

    A killed or retried task, or two runs at once, run each script once. On PostgreSQL, SQL Server and SQLite, a script
    commits together with its row in the history (which also says when and by whom it ran), and a lock lets one run work
    at a time. MySQL and MariaDB commit implicitly at every DDL statement. There, an interrupted script is recorded, and
    every later run fails until ``on_interrupted`` says how to handle it. The same applies to a script whose first line
    is ``-- flowrunner:no-transaction``; it must be a single statement such as ``CREATE INDEX CONCURRENTLY``. A script
    that changed or disappeared after it ran, or that is older than the last applied version, is an error before
    anything runs. A run keeps two connections open. For SQL Server, ``GO`` lines separate batches, which run in one
    transaction.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param location: the folder of the scripts, in any store: ``V1.2__orders.sql`` runs once, ``R__views.sql`` runs
        after these whenever it changed, ``U1.2__orders.sql`` undoes version 1.2. Other .sql files are an error;
        subfolders are ignored. For Alembic: a local folder that contains ``versions``.
    :param command: ``apply`` runs pending scripts; ``status`` lists them; ``validate`` compares scripts and history;
        ``baseline`` records that the database is already at ``target``; ``undo`` goes back to ``target``.
    :param target: the last version to apply, or for ``undo`` the version to keep (``0`` undoes all); by default the
        newest. For Alembic, a revision.
    :param history_table: the history table, with its schema unless it is in the default one. The default is
        ``flowrunner_migrations``, for Alembic ``alembic_version``.
    :param vars: values for ``${name}`` (a word or number), ``${name:identifier}`` (a quoted name) and ``${name:text}``
        (a quoted literal). Every placeholder needs a value, and every value must be used. Without ``vars``, nothing is
        replaced.
    :param on_interrupted: how to treat a script that an earlier run left unfinished: ``stop`` with an error, ``done``
        (somebody completed it by hand), or ``again`` (run it once more).
    :param dry_run: only list the scripts that would run.
    :param engine: ``builtin``, or ``alembic`` to run Alembic revisions in PostgreSQL and SQLite. Alembic's ``env.py``
        is not executed, and ``done`` in the result lists only the revisions of the last attempt.
    """

    action: ClassVar[str] = "sql.migrate"
    template_fields: Sequence[str] = ("conn_id", "location", "target", "history_table", "vars")

    def __init__(
        self,
        *,
        conn_id: str,
        location: str,
        command: Command = "apply",
        target: str | None = None,
        history_table: str | None = None,
        vars: dict[str, Any] | None = None,  # noqa: A002
        on_interrupted: OnInterrupted = "stop",
        dry_run: bool = False,
        engine: Engine = "builtin",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.location = location
        self.command = command
        self.target = target
        self.history_table = history_table
        self.vars = vars
        self.on_interrupted = on_interrupted
        self.dry_run_only = dry_run  # BaseOperator has a method named dry_run
        self.engine = engine

    def perform(self, run: Run) -> MigrateResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.migrate.engine import MigratePlan, migrate

        plan = MigratePlan(
            command=self.command,
            engine=self.engine,
            target=self.target,
            history_table=self.history_table,
            vars=self.vars,
            on_interrupted=self.on_interrupted,
            dry_run=self.dry_run_only,
        )
        hook = hook_for(self.conn_id)
        create = plan.changes and plan.command != "undo"
        if plan.engine == "alembic":
            from flowrunner_provider.database.migrate.alembic_engine import migrate_with_alembic

            return migrate_with_alembic(plan, self._folder().path, lambda: hook.open(run.deadline, create=create), run)
        scripts = self._scripts(run)
        return migrate(plan, scripts, lambda: hook.open(run.deadline, create=create), run)

    def _folder(self) -> Location:
        from flowrunner_provider.files.uri import no_pattern

        location = no_pattern(self.location, "location")
        if self.engine == "alembic" and location.scheme != "file":
            raise ConfigError(
                "Alembic reads its revisions from a local folder",
                field="location",
                remedy="pass a path such as /opt/migrations",
            )
        return location

    def _scripts(self, run: Run) -> list[Script]:
        from contextlib import AsyncExitStack

        from flowrunner_provider.database.migrate.scripts import read_folder
        from flowrunner_provider.files.hook import open_stores

        location = self._folder()

        async def read() -> list[Script]:
            async with AsyncExitStack() as stack:
                stores = await open_stores(run, stack, location=[location])
                return await read_folder(stores[location.root], location)

        return run_to_end(read(), run.deadline)
