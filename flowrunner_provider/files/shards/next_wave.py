"""What a shard has to do next. Asking changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.errors import IntegrityError, Json, NotFound, PermanentError
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Summary, Wave

__all__ = ["RUNNING", "SUCCESS", "NextStep", "Position", "find_next"]

RUNNING, SUCCESS = "running", "success"
_FAILED = frozenset({"failed", "upstream_failed", "skipped", "removed"})


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a shard has come.

    :param wave: the number of the current wave; 0 before the first.
    :param chain: the checksum of all waves up to the current one.
    :param files: how many files the earlier waves had for this shard.
    :param copied: how many of these files it copied.
    :param bytes: the size of the copied files.
    """

    generation: str = ""
    wave: int = 0
    chain: str = ""
    files: int = 0
    copied: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any) -> Position:
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What follows a position.

    :param position: the position to continue from; reset if the plan has a new generation.
    :param wave: the next wave, if it is published.
    :param end: the summary of the plan, if there are no more waves.
    """

    position: Position
    wave: Wave | None = None
    end: Summary | None = None

    @property
    def must_wait(self) -> bool:
        """Nothing is published yet."""
        return self.wave is None and self.end is None


async def find_next(plan_folder: PlanFolder, work: str, position: Position, state: str) -> NextStep:
    """Return what follows ``position``.

    :param state: the state of the plan's task, read *before* this call; ``success`` if the plan is known to be
        complete. The end of a plan counts only after its task has succeeded: before, it may be that of an older plan.
    :raises PermanentError: if the plan failed.
    :raises NotFound: if there is no plan and none will come.
    """
    if state in _FAILED:
        raise PermanentError(
            f"there are no more files to copy: the task of the plan is {state!r}",
            remedy="fix the cause given in its log, then clear all tasks of the sync",
        )
    succeeded = state == SUCCESS
    if succeeded:
        summary: Summary | None = await plan_folder.complete(work)
    elif plan_folder.store.capabilities.visible_partials:
        return NextStep(position=position)  # a file that is still being written would look like a finished one
    else:
        summary = await plan_folder.summary()
    if summary is None or summary.work != work:
        return NextStep(position=position)
    if summary.complete and state not in (RUNNING, SUCCESS):
        return NextStep(position=position)  # an earlier plan, or one whose last attempt has not reported success yet
    if summary.generation != position.generation:
        position = Position(generation=summary.generation)
    if not summary.complete or position.wave < (summary.waves or 0):
        wave = await plan_folder.wave(summary.generation, position.wave + 1)
        if wave is not None or not summary.complete:
            return NextStep(position=position, wave=wave)
        raise NotFound(f"wave {position.wave + 1} of the plan is missing", remedy="clear all tasks of the sync")
    if succeeded and position.chain != summary.chain:
        raise IntegrityError(
            "the waves that this shard copied are not those that were planned", remedy="clear all tasks of the sync"
        )
    return NextStep(position=position, end=summary if succeeded else None)
