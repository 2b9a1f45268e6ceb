"""What a shard finds when it looks for its next wave; a look changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.errors import IntegrityError, Json, NotFound, PermanentError
from flowrunner_provider.files.shards.book import Book, Summary, Wave

__all__ = ["RUNNING", "SUCCESS", "Place", "Seen", "look"]

RUNNING, SUCCESS = "running", "success"
_FAILED = frozenset({"failed", "upstream_failed", "skipped", "removed"})


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a shard is.

    :param wave: the wave that it works off; 0 for none yet.
    :param chain: the checksum of the waves up to this one.
    :param files: how many files the waves before had for it.
    :param copied: how many of these it has copied.
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
    def from_json(cls, record: Any) -> Place:
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is.

    :param place: where the shard is, after all: another generation begins at its start.
    :param wave: the next one, if it is there.
    :param end: what was planned, if there is no further wave.
    """

    place: Place
    wave: Wave | None = None
    end: Summary | None = None

    @property
    def nothing(self) -> bool:
        """Not yet anything: wait."""
        return self.wave is None and self.end is None


async def look(book: Book, work: str, place: Place, state: str) -> Seen:
    """What comes after ``place``.

    :param state: of the task that makes the plan, asked for *before* this look; ``success`` where that is known.
        Only of a plan whose task has succeeded the end is believed: until then it may be that of an earlier one.
    :raises PermanentError: if the plan has failed.
    :raises NotFound: if there is no plan, and none will come.
    """
    if state in _FAILED:
        raise PermanentError(
            f"there will be no further files to copy: the task of the plan is {state!r}",
            remedy="mend what its log says; then clear the tasks of the whole sync",
        )
    over = state == SUCCESS
    if over:
        summary: Summary | None = await book.complete(work)
    elif book.store.capabilities.visible_partials:
        return Seen(place=place)  # what is being written must not be taken for what is there
    else:
        summary = await book.summary()
    if summary is None or summary.work != work:
        return Seen(place=place)
    if summary.complete and state not in (RUNNING, SUCCESS):
        return Seen(place=place)  # of an earlier plan, or of one whose last attempt has still to say that it is done
    if summary.generation != place.generation:
        place = Place(generation=summary.generation)
    if not summary.complete or place.wave < (summary.waves or 0):
        wave = await book.wave(summary.generation, place.wave + 1)
        if wave is not None or not summary.complete:
            return Seen(place=place, wave=wave)
        raise NotFound(f"wave {place.wave + 1} of the plan is gone", remedy="clear the tasks of the whole sync")
    if over and place.chain != summary.chain:
        raise IntegrityError(
            "the waves that were worked off are not those that were planned",
            remedy="clear the tasks of the whole sync",
        )
    return Seen(place=place, end=summary if over else None)
