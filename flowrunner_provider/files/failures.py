"""Files of a batch that could not be copied: named at the end, and the only ones that a retry does again."""

from __future__ import annotations

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, Json, NotFound, PartialFailure
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.plan import Item

__all__ = ["Failures"]

_ROOM = 40_000
_SHOWN = 20

Key = tuple[int, str]


class Failures:
    """What failed, over all attempts.

    :param identity: what must be the same for a retry to go on (JSON).
    :param most: more failures than this end the attempt.
    """

    def __init__(self, run: Run, identity: Json, most: int) -> None:
        self._checkpoint = run.checkpoint("copy.failed", fingerprint(identity))
        self.before: list[Key] = [(int(source), str(name)) for source, name in self._checkpoint.state or []]
        self._open = set(self.before)
        self._reasons: dict[str, str] = {}
        self._most, self._worth_a_retry, self._saved = most, False, set(self._open)

    def add(self, item: Item, error: FlowRunnerError) -> None:
        """A file could not be copied.

        :raises PartialFailure: when that is one too many.
        """
        self._open.add(item.key)
        self._reasons[item.relative] = f"{type(error).__name__}: {error}"[:500]
        self._worth_a_retry |= isinstance(error, IntegrityError | NotFound)
        if len(self._reasons) > self._most or sum(len(name) + 16 for _, name in self._open) > _ROOM:
            self.save()
            raise self._error(0, f"more than {len(self._reasons) - 1} files could not be copied")

    def settle(self, keys: set[Key]) -> None:
        """These are not to be done again; called before the batch that they are in is history."""
        self._open -= keys
        self.save()

    def save(self) -> None:
        """Remember what is to be done again."""
        if self._open != self._saved:
            self._checkpoint.save([list(key) for key in sorted(self._open)], force=True)
            self._saved = set(self._open)

    def check(self, done: int) -> None:
        """Raise if anything has failed and was not done since."""
        if self._open:
            raise self._error(done, f"{len(self._open)} files could not be copied, {done} were")

    def _error(self, done: int, message: str) -> PartialFailure:
        shown = dict(list(self._reasons.items())[:_SHOWN])
        named = "; ".join(f"{name}: {reason}" for name, reason in list(shown.items())[:3])
        return PartialFailure(
            f"{message}: {named}",
            done=done,
            failed=shown,
            retryable=self._worth_a_retry,
            remedy="mend what is said of each; a retry, or clearing the task, does only these",
        )
