"""Multipart uploads to Google Cloud Storage: hidden objects beside the final name, composed into one.

Google's own two mechanisms do not fit. The URI of a resumable session lets anyone write, so it must not be stored. The
XML API's multipart upload has no precondition, so two writers of a new name could not be told apart.

Parts are named ``.{name}.{token}-{number}.part`` and recognised by their CRC-32C. They are composed by generation: if
another writer replaces a part, the composition fails, and the object is never wrong. Parts are removed after the
composition; buckets that forbid deletion (retention policies) cannot be written in parts. Composite objects have no
MD5, only a CRC-32C.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from flowrunner_provider.core.errors import (
    IntegrityError,
    NotFound,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name
from flowrunner_provider.files.stores.gcs_bucket import GcsBucket
from flowrunner_provider.files.stores.gcs_checksum import combined
from flowrunner_provider.files.stores.gcs_client import Resource, crc32c

__all__ = ["GcsParts"]

_SOURCES = 32
"""The most objects in one composition."""

_DIGITS = 6


@dataclass(frozen=True)
class _Part:
    key: str
    generation: str
    size: int
    checksum: int


class GcsParts:
    """The parts of one object.

    :param token: names the task.
    :param step: the length of every part but the last, in bytes.
    """

    def __init__(self, bucket: GcsBucket, key: str, token: str, step: int, at_once: int) -> None:
        self._bucket, self._key, self._token = bucket, key, token
        self._step, self.at_once = step, at_once
        self._what = f"writing {bucket.label(key)}"
        self._existing: dict[str, _Part] = {}
        self._sent: dict[int, _Part] = {}

    def length(self, number: int) -> int:
        return self._step  # a million parts are possible, so that they need not grow

    def _name(self, number: int, kind: str = "") -> str:
        folder, slash, name = self._key.rpartition("/")
        digits = f"{number:0{_DIGITS - len(kind)}d}"
        return f"{folder}{slash}{part_name(name, f'{self._token}-{kind}{digits}')}"

    async def _list(self) -> dict[str, _Part]:
        """Return the existing parts of this task and key by name."""
        prefix = self._name(0).removesuffix(f"{'0' * _DIGITS}.part")
        found: dict[str, _Part] = {}
        async for page in self._bucket.resources(prefix):
            for item in page:
                middle = item["name"].removeprefix(prefix).removesuffix(".part")
                if len(middle) == _DIGITS and middle.removeprefix("g").isdecimal():
                    found[item["name"]] = _part(item)
        return found

    async def start(self) -> None:
        self._existing = await self._list()

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        data = b"".join(pieces)
        name = self._name(number)
        checksum = await asyncio.to_thread(crc32c, data)
        existing = self._existing.get(name)
        if existing is not None and (existing.checksum, existing.size) == (checksum, len(data)):
            self._sent[number] = existing
        else:
            failpoint("gcs.before_send")
            self._sent[number] = _part(await self._bucket.upload(self._what, name, data, checksum=checksum))

    async def stored_size(self) -> int:
        existing = await self._list()
        return sum(part.size for part in self._sent.values() if existing.get(part.key) == part)

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        if tail:
            await self.send(number, tail)
        parts = [self._sent[n] for n in sorted(self._sent)]
        if not replace:
            await self._bucket.refuse_existing(self._key)
        expected = combined((part.checksum, part.size) for part in parts)
        groups = await self._compose_groups(parts)
        failpoint("gcs.before_compose")
        try:
            made = await self._compose(self._key, groups, replace=replace)
        except TransientError:
            made = await self._find_composed(expected)  # the answer may have been lost
        except IntegrityError:  # 412
            await self._bucket.refuse_existing(self._key)
            raise
        failpoint("gcs.after_compose")
        if made.checksum != expected:
            raise IntegrityError(
                f"{self._what}: the composed object does not match the sent data",
                remedy="delete the object, then retry",
            )
        await self.abort()

    async def _find_composed(self, expected: int) -> _Part:
        with suppress(NotFound):
            made = _part(await self._bucket.resource(self._key, self._what))
            if made.checksum == expected:
                return made
        raise Unavailable(f"{self._what}: no answer to the composition")

    async def _compose_groups(self, parts: Sequence[_Part]) -> Sequence[_Part]:
        """Compose parts into intermediate ones until one composition can take them all."""
        made = 0
        while len(parts) > _SOURCES:
            larger = []
            for start in range(0, len(parts), _SOURCES):
                larger.append(await self._compose(self._name(made, "g"), parts[start : start + _SOURCES]))
                made += 1
            parts = larger
        return parts

    async def _compose(self, key: str, parts: Sequence[_Part], *, replace: bool = True) -> _Part:
        body = {
            "sourceObjects": [{"name": part.key, "generation": part.generation} for part in parts],
            "destination": {"contentType": "application/octet-stream"},
        }
        try:
            answer = await self._bucket.client.request(
                self._what,
                "POST",
                f"{self._bucket.path(key)}/compose",
                params={} if replace else {"ifGenerationMatch": "0"},
                headers={"Content-Type": "application/json"},
                data=json.dumps(body).encode(),
            )
        except NotFound:
            raise Unavailable(
                f"{self._what}: its parts are gone because another attempt of the task replaced them",
                remedy="let only one task write this object; the retry uploads the parts again",
            ) from None
        return _part(answer.json())

    async def abort(self) -> None:
        failpoint("gcs.before_remove_parts")
        for name in await self._list():
            with suppress(NotFound):
                await self._bucket.remove(name)
            failpoint("gcs.after_remove_part")


def _part(item: Resource) -> _Part:
    checksum = int.from_bytes(b64decode(item["crc32c"]), "big")
    return _Part(str(item["name"]), str(item["generation"]), int(item["size"]), checksum)
