"""The state of migrations from scripts and history: what is applied, what conflicts, and what runs next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError, IntegrityError, PermanentError
from flowrunner_provider.database.migrate.history import Row
from flowrunner_provider.database.migrate.results import MigrationState, OnInterrupted
from flowrunner_provider.database.migrate.scripts import Script, Version

__all__ = ["NOTHING", "MigrationStatus", "Step", "label"]

NOTHING: Version = (0,)
"""The version before the first script."""

_CONFLICTS = {
    "changed": "was changed after it was applied",
    "missing": "was applied and is no longer in the folder",
    "out_of_order": "is new, but older than the applied version",
    "interrupted": "was started by an earlier run and may be incomplete",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A script to run, or with ``settle`` an unfinished history row to mark as done."""

    script: Script
    settle: Row | None = None


class MigrationStatus:
    """The scripts, matched with the history.

    :param rows: the rows of the history, in order.
    """

    def __init__(self, scripts: Iterable[Script], rows: Sequence[Row], on_interrupted: OnInterrupted = "stop") -> None:
        scripts = list(scripts)
        self.versioned = sorted((s for s in scripts if s.kind == "versioned"), key=lambda s: s.version or NOTHING)
        self.repeatable = sorted((s for s in scripts if s.kind == "repeatable"), key=lambda s: s.file)
        self.undo = {s.version: s for s in scripts if s.kind == "undo"}
        self._on_interrupted = on_interrupted
        self._latest = {row.key: row for row in rows}
        in_force = [row.version for row in self._latest.values() if row.version is not None and self._is_applied(row)]
        self.newest: Version = max(in_force, default=NOTHING)
        self.baseline: Version = max((r.version or NOTHING for r in rows if r.kind == "baseline"), default=NOTHING)

    def _is_applied(self, row: Row) -> bool:
        """Return whether the version of a row is applied; one whose undo is unfinished still is."""
        return row.done == (row.kind != "undo")

    @property
    def unfinished(self) -> bool:
        """Whether a script is unfinished: it is running now, or was interrupted."""
        return not all(row.done for row in self._latest.values())

    def states(self) -> list[MigrationState]:
        """Return the state of every script in order, including missing ones."""
        known = {script.version for script in self.versioned}
        found = [(script.version or NOTHING, self._state(script), script.file) for script in self.versioned]
        for row in self._latest.values():
            if row.version is None or row.version in known or (row.done and row.kind == "undo"):
                continue
            state = "baseline" if row.kind == "baseline" else "missing" if row.version > self.baseline else "applied"
            found.append((row.version, state if row.done else "interrupted", row.script))
        states = [self._describe(version, state, file) for version, state, file in sorted(found)]
        return states + [self._describe(script.file, self._state(script), script.file) for script in self.repeatable]

    def _state(self, script: Script) -> str:
        row = self._latest.get(script.version or script.file)
        if script.version is not None and script.version <= self.baseline:
            return "baseline"
        if row is not None and not row.done:
            return "interrupted"
        if script.version is None:
            return "pending" if row is None else "applied" if row.checksum == script.checksum else "outdated"
        if row is None or row.kind == "undo":
            return "out_of_order" if script.version < self.newest else "pending"
        return "applied" if row.checksum == script.checksum else "changed"

    def _describe(self, key: Version | str, state: str, file: str) -> MigrationState:
        row = self._latest.get(key)
        kind = "repeatable" if isinstance(key, str) else "versioned"
        return MigrationState(
            script=file,
            kind=row.kind if row is not None and row.kind == "baseline" else kind,
            version=None if isinstance(key, str) else label(key),
            state=state,
            applied_at=row.applied_at if row else None,
            applied_by=row.applied_by if row else None,
            duration_ms=row.duration_ms if row else None,
        )

    def check(self) -> None:
        """Raise if scripts and history contradict each other.

        :raises IntegrityError: naming the scripts and the reasons.
        """
        conflicts = [state for state in self.states() if state.state in _CONFLICTS]
        if self._on_interrupted != "stop":
            conflicts = [state for state in conflicts if state.state != "interrupted"]
        if not conflicts:
            return
        listed = "; ".join(f"{state.script} {_CONFLICTS[state.state]}" for state in conflicts[:5])
        more = f"; and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
        half = any(state.state == "interrupted" for state in conflicts)
        raise IntegrityError(
            f"scripts and history do not match: {listed}{more}; nothing was run",
            remedy="check what it has done, complete or undo it by hand, and pass on_interrupted='done' or 'again'"
            if half
            else "restore the scripts, and make changes in a new version",
        )

    def check_target(self, target: Version, *, undo: bool) -> None:
        """Raise unless ``target`` is an existing version.

        :raises ConfigError: naming ``target``.
        """
        versions = {script.version for script in self.versioned} | {self.baseline}
        if undo and target > self.newest:
            raise ConfigError(
                f"version {label(target)} was not applied", field="target", remedy="name the version to return to"
            )
        if target not in versions | ({NOTHING} if undo else set()):
            raise ConfigError(
                f"there is no version {label(target)}", field="target", remedy="name a version of the folder"
            )

    def to_apply(self, target: Version | None) -> list[Step]:
        """Return the steps to run, in order; repeatable scripts once all versions are applied."""
        states = {state.script: state.state for state in self.states()}
        steps = [
            self._step(script, "versioned")
            for script in self.versioned
            if states[script.file] in ("pending", "interrupted")
            and (target is None or (script.version or ()) <= target)
        ]
        if target is not None and any((script.version or ()) > target for script in self.versioned):
            return steps
        waiting = ("pending", "outdated", "interrupted")
        return steps + [self._step(s, "repeatable") for s in self.repeatable if states[s.file] in waiting]

    def to_undo(self, target: Version) -> list[Step]:
        """Return the steps that undo every version above ``target``, newest first.

        :raises ConfigError: if one of them has no undo script.
        """
        steps = []
        for row in sorted(self._latest.values(), key=lambda row: row.version or NOTHING, reverse=True):
            version = row.version or NOTHING
            if version <= max(target, self.baseline) or (row.done and row.kind == "undo"):
                continue
            if version not in self.undo:
                raise ConfigError(
                    f"version {label(version)} has no undo script; nothing was run",
                    field="location",
                    remedy=f"add U{label(version)}__description.sql",
                )
            steps.append(self._step(self.undo[version], "undo"))
        return steps

    def _step(self, script: Script, kind: str) -> Step:
        row = self._latest.get(script.version or script.file)
        if row is None or row.done:
            return Step(script=script)
        if row.kind != kind:
            raise PermanentError(
                f"{row.script} was started by an earlier run and may be incomplete; nothing was run",
                remedy=f"finish it with command='{'undo' if row.kind == 'undo' else 'apply'}' first",
            )
        return Step(script=script, settle=row if self._on_interrupted == "done" else None)


def label(version: Version) -> str:
    """Return a version as text."""
    return ".".join(map(str, version))
