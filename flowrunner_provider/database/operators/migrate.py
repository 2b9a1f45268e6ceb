"""Versioned scripts."""

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
    """Every script up to the target has run once and in order, and a history in the database says which, when and by
    whom.

    Killed anywhere and retried, or run twice at once, each script runs once: on PostgreSQL, SQL Server and SQLite it
    commits together with its row in the history, and a lock lets one run work at a time. MySQL and MariaDB commit at
    every change of a structure: a script that stopped half way is recorded, and every later run stops there with an
    error until ``on_interrupted`` says what it means. The same holds for a script that starts with the line
    ``-- flowrunner:no-transaction``; it is one statement, such as ``CREATE INDEX CONCURRENTLY``.
    A script that was changed or is missing after it ran, or that comes too late, is an error before anything runs. A
    run keeps two connections open. SQL Server runs the batches between lines of ``GO`` one after the other, in the same
    transaction.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param location: the folder of the scripts, in any store: ``V1.2__orders.sql`` once, ``R__views.sql`` after them
        whenever it was changed, ``U1.2__orders.sql`` to undo. Other files that end in ``.sql`` are an error; folders
        below it are not looked into. For Alembic a folder on this machine, with ``versions`` in it.
    :param command: ``apply`` runs what is pending; ``status`` only lists; ``validate`` only compares scripts and
        history; ``baseline`` says that the database is at ``target`` already; ``undo`` goes back to ``target``.
    :param target: the last version to apply, or the one to stay with ``undo`` (``0`` undoes all); by default the
        newest. With Alembic a revision.
    :param history_table: with its schema, if it is not where the database looks first; by default
        ``flowrunner_migrations``, with Alembic ``alembic_version``.
    :param vars: values for ``${name}`` (a word or number), ``${name:identifier}`` (a quoted name) and ``${name:text}``
        (a literal with its quotes). Each must have a value, and each value a place. Without vars nothing is replaced.
    :param on_interrupted: what an unfinished script of an earlier run means: ``stop``; ``done`` (completed by hand); or
        ``again`` (it may run once more).
    :param dry_run: only list what would run.
    :param engine: ``builtin``, or ``alembic`` for revisions of Alembic in PostgreSQL and SQLite; its ``env.py`` is not
        run, and ``done`` names the revisions of the last attempt alone.
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
        self.listing = dry_run  # dry_run() is a method of every operator
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
            dry_run=self.listing,
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
                "Alembic reads its revisions from this machine alone", field="location", remedy="write /path/of/folder"
            )
        return location

    def _scripts(self, run: Run) -> list[Script]:
        from contextlib import AsyncExitStack

        from flowrunner_provider.database.migrate.scripts import read_folder
        from flowrunner_provider.files.hook import opened

        location = self._folder()

        async def read() -> list[Script]:
            async with AsyncExitStack() as stack:
                stores = await opened(run, stack, location=[location])
                return await read_folder(stores[location.root], location)

        return run_to_end(read(), run.deadline)
