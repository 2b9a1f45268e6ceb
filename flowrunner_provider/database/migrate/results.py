"""The choices and the result of migrations. Imported at parse time, so this module stays light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Command", "Engine", "MigrateResult", "MigrationState", "OnInterrupted"]

Command = Literal["apply", "status", "validate", "baseline", "undo"]
"""The commands."""

Engine = Literal["builtin", "alembic"]
"""What runs the scripts: our own engine or Alembic."""

OnInterrupted = Literal["stop", "again", "done"]
"""What to do about a script that an earlier run started and did not finish."""


@dataclass(frozen=True, kw_only=True)
class MigrationState:
    """A script and its state.

    :param script: the file name; with Alembic, the revision.
    :param kind: versioned, repeatable, baseline or undo.
    :param state: applied, pending, outdated (a changed repeatable script) or baseline (recorded as applied); or a
        conflict that stops every run: changed, missing, out_of_order or interrupted.
    :param applied_by: dag, run, task and map index.
    """

    script: str
    kind: str
    version: str | None
    state: str
    applied_at: str | None = None
    applied_by: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class MigrateResult:
    """The scripts that were run, and the state of the database.

    :param version: the newest applied version; null before the first.
    :param done: the scripts that this task has run in all its attempts; with ``dry_run``, those it would run.
    :param scripts: all scripts in order.
    """

    engine: str
    command: str
    dry_run: bool
    history_table: str
    version: str | None
    done: list[str]
    scripts: list[MigrationState]
