"""Version of a downloaded file, stored beside it for the next conditional download.

The record identifies the file by size and time. It is removed before a new version gets the final name and written
afterwards, so it never describes other bytes; a kill in between costs one more download.
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

_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The version of a downloaded file.

    :param source: fingerprint of its source.
    :param bytes: size of the file.
    :param modified: its modification time when it was written, as reported by the store.
    """

    source: str
    etag: str
    last_modified: str
    bytes: int
    modified: str

    def conditions(self) -> dict[str, str]:
        """Return the headers of a conditional request (RFC 9110, section 13.1)."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified}


def _record_target(target: Target) -> Target:
    return target.beside(f"{part_name(target.name, 'version').removesuffix('.part')}.json")


async def remembered(target: Target, source: str) -> Validator | None:
    """Return the recorded version of the file; None if it is missing, from another source, or was modified."""
    entry, record = await target.entry(), _record_target(target)
    if entry is None:
        return None
    try:
        text = await collect(record.store.read(record.path), max_bytes=_MAX_BYTES, what=record.shown)
        known = Validator(**json.loads(text))
    except (NotFound, IntegrityError, ValueError, TypeError):
        return None
    return known if (known.source, known.bytes, known.modified) == (source, entry.size, str(entry.modified)) else None


async def forget(target: Target) -> None:
    """Remove the record, before the file is replaced."""
    record = _record_target(target)
    with suppress(NotFound):
        await record.store.delete(record.path)


async def remember(target: Target, source: str, etag: str, last_modified: str, token: str) -> None:
    """Record the version, after the file was put in record."""
    entry = await target.entry()
    if entry is None or entry.size is None:
        return
    known = Validator(
        source=source, etag=etag, last_modified=last_modified, bytes=entry.size, modified=str(entry.modified)
    )

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps(asdict(known)).encode()

    writing = Writing(_record_target(target), token)
    try:
        await writing.fill(chunks())
        failpoint("http.download.before_version")
        await writing.commit()
        failpoint("http.download.after_version")
    finally:
        await writing.close()
