"""Which version of a file lies at a place: kept beside it, for the next conditional download.

The record names the file that it is about by size and time. It is removed before a new version gets the name and
written after that, so that it never vouches for other bytes; a kill in between costs one more download.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from flowrunner_provider.core.errors import IntegrityError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name
from flowrunner_provider.core.streams import collect
from flowrunner_provider.http.targets import Target, Writing

__all__ = ["Validator", "forget", "remember", "remembered"]

_MOST = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The version of a file that was downloaded.

    :param source: fingerprint of where it came from.
    :param bytes: the size of the file.
    :param modified: its time when it was written, as the store tells it.
    """

    source: str
    etag: str
    last_modified: str
    bytes: int
    modified: str

    def conditions(self) -> dict[str, str]:
        """The headers that ask for another version only (RFC 9110, section 13.1)."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified}


def _beside(target: Target) -> Target:
    return target.beside(f"{part_name(target.name, 'version').removesuffix('.part')}.json")


async def remembered(target: Target, source: str) -> Validator | None:
    """What is known of the file at ``target``; None if it is not there, came from elsewhere, or was changed."""
    entry, place = await target.entry(), _beside(target)
    if entry is None:
        return None
    try:
        text = await collect(place.store.read(place.path), max_bytes=_MOST, what=place.shown)
        known = Validator(**json.loads(text))
    except (NotFound, IntegrityError, ValueError, TypeError):
        return None
    return known if (known.source, known.bytes, known.modified) == (source, entry.size, str(entry.modified)) else None


async def forget(target: Target) -> None:
    """Before the file is replaced: nothing is known any more."""
    place = _beside(target)
    with suppress(NotFound):
        await place.store.delete(place.path)


async def remember(target: Target, source: str, etag: str, last_modified: str, token: str) -> None:
    """After the file was put in place: which version it is."""
    entry = await target.entry()
    if entry is None or entry.size is None:
        return
    known = Validator(
        source=source, etag=etag, last_modified=last_modified, bytes=entry.size, modified=str(entry.modified)
    )

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps(asdict(known)).encode()

    writing = Writing(_beside(target), token)
    try:
        await writing.fill(chunks())
        failpoint("http.download.before_version")
        await writing.commit()
        failpoint("http.download.after_version")
    finally:
        await writing.close()
