"""What migrations return, and the choices that they offer. Operators import it at parse time: nothing heavy here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Command", "Engine", "MigrateResult", "MigrationState", "OnInterrupted"]

Command = Literal["apply", "status", "validate", "baseline", "undo"]
"""What to do with the scripts."""

Engine = Literal["builtin", "alembic"]
"""Who runs them."""

OnInterrupted = Literal["stop", "again", "done"]
"""What a script means that an earlier run has begun and not finished."""


@dataclass(frozen=True, kw_only=True)
class MigrationState:
    """A script, and what the history says about it.

    :param script: the name of the file; of a revision with Alembic.
    :param kind: versioned, repeatable, baseline or undo.
    :param state: applied, pending, outdated (a repeatable one that was changed), baseline (taken for done); or what
        stops every run: changed, missing, out_of_order, interrupted.
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
    """What was done, and where the database stands now.

    :param version: the newest version in force; None before the first.
    :param done: the scripts that this task has run, over all its attempts; with ``dry_run`` those it would run.
    :param scripts: all of them in their order.
    """

    engine: str
    command: str
    dry_run: bool
    history_table: str
    version: str | None
    done: list[str]
    scripts: list[MigrationState]
