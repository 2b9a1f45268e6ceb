"""The files that could not be copied: named at the end, and the only ones that a retry copies."""

from __future__ import annotations

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, Json, NotFound, PartialFailure
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.items import Item

__all__ = ["Failures"]

_MAX_CHARACTERS = 40_000
_SHOWN = 20

Key = tuple[int, str]


class Failures:
    """The failed files of all attempts.

    :param identity: JSON that must be unchanged for a retry to resume.
    :param most: end the attempt after more failures than this.
    """

    def __init__(self, run: Run, identity: Json, most: int) -> None:
        self._checkpoint = run.checkpoint("copy.failed", fingerprint(identity))
        self.before: list[Key] = [(int(source), str(name)) for source, name in self._checkpoint.state or []]
        self._open = set(self.before)
        self._reasons: dict[str, str] = {}
        self._most, self._retryable, self._saved = most, False, set(self._open)

    def add(self, item: Item, error: FlowRunnerError) -> None:
        """Add a failed file.

        :raises PartialFailure: if there are too many.
        """
        self._open.add(item.key)
        self._reasons[item.relative] = f"{type(error).__name__}: {error}"[:500]
        self._retryable |= isinstance(error, IntegrityError | NotFound)
        if len(self._reasons) > self._most or sum(len(name) + 16 for _, name in self._open) > _MAX_CHARACTERS:
            self.save()
            raise self._error(0, f"more than {len(self._reasons) - 1} files could not be copied")

    def settle(self, keys: set[Key]) -> None:
        """Remove files that are done; called before their batch leaves the checkpoint."""
        self._open -= keys
        self.save()

    def save(self) -> None:
        """Write the checkpoint if it has changed."""
        if self._open != self._saved:
            self._checkpoint.save([list(key) for key in sorted(self._open)], force=True)
            self._saved = set(self._open)

    def check(self, done: int) -> None:
        """Raise ``PartialFailure`` if files are left."""
        if self._open:
            raise self._error(done, f"{len(self._open)} files could not be copied, {done} were")

    def _error(self, done: int, message: str) -> PartialFailure:
        shown = dict(list(self._reasons.items())[:_SHOWN])
        named = "; ".join(f"{name}: {reason}" for name, reason in list(shown.items())[:3])
        return PartialFailure(
            f"{message}: {named}",
            done=done,
            failed=shown,
            retryable=self._retryable,
            remedy="fix the cause for each file; a retry, or clearing the task, copies only these",
        )
