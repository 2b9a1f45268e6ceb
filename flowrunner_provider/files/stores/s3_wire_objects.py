"""Requests on single objects, and listings, by connections of our own: see :mod:`.s3_wire`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import Any

from flowrunner_provider.core.errors import (
    IntegrityError,
    NotFound,
    Rejected,
    TransientError,
)
from flowrunner_provider.files.stores.object_errors import refusal
from flowrunner_provider.files.stores.s3_answers import page_of
from flowrunner_provider.files.stores.s3_objects import Found, Proof, Stored, taken
from flowrunner_provider.files.stores.s3_span import Span
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Violation, length_in
from flowrunner_provider.files.stores.s3_wire_requests import WireRequests, broken, stored
from flowrunner_provider.files.stores.s3_wire_sign import query_of

__all__ = ["WireObjects"]

_PAGE = 16 * 1024 * 1024
"""Bytes that a page of a listing may have: a thousand keys of the longest have a quarter."""

_QUERY = {
    "Prefix": "prefix", "Delimiter": "delimiter", "MaxKeys": "max-keys", "ContinuationToken": "continuation-token",
}  # fmt: skip
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class WireObjects(WireRequests):
    """Requests on single objects, and listings; :class:`~.s3_objects.S3Objects` says what each does."""

    async def region(self, what: str) -> str:
        async def once() -> str:
            answer = await self._answer(what, "HEAD")
            region = answer.headers.get("x-amz-bucket-region", "")
            if answer.status >= 300 and not (region and answer.status in (301, 307, 400, 403)):
                raise self._refused(what, answer)
            return region

        return await self._plan.acall(once, self._deadline())

    async def head(self, what: str, key: str) -> Found:
        headers = (await self._ask(what, "HEAD", key)).headers
        try:
            size = length_in(headers)
        except Violation:
            raise IntegrityError(f"{what}: the server does not say how long it is", remedy="look at it") from None
        return Found(size, _moment(headers.get("last-modified", "")), headers.get("etag", ""))

    async def get(self, what: str, key: str, offset: int, wanted: int, version: str) -> tuple[int, str, bytes] | None:
        headers = {"range": f"bytes={offset}-{offset + wanted - 1}"}
        if version:
            headers["if-match"] = version
        try:
            answer = await self._ask(what, "GET", key, headers=headers, most=wanted)
        except Rejected as error:
            if error.status == 416:
                return None
            raise
        etag = answer.headers.get("etag", "")
        if version and etag != version:
            raise refusal(what, 412)
        return _size(what, answer, len(answer.body), offset, wanted), etag, answer.body

    async def receive(self, what: str, key: str, span: Span, version: str) -> None:
        def take(head: Head, read: Callable[[memoryview], int]) -> None:
            """Called by a thread for a success."""
            size = _size(what, head, length_in(head.headers), span.at, span.left)
            if size < span.end or head.headers.get("etag", "") != version:
                raise refusal(what, 412)
            span.receive(read)

        headers = {"range": span.header, "if-match": version}
        request = await self._request(what, "GET", key, headers=headers)
        try:
            refused = await self._lines.ask(request, take)
        except (OSError, Violation) as error:
            raise broken(what, error) from None
        if refused is not None:
            raise self._refused(what, refused)

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        headers = {**self._settings}
        headers |= {"x-amz-checksum-crc32": proof.crc32} if proof.crc32 else {"content-md5": proof.md5}
        if create:
            return await self._create(what, key, data, {**headers, "if-none-match": "*"})
        return stored(await self._ask(what, "PUT", key, headers=headers, data=data))

    async def _create(self, what: str, key: str, data: bytes, headers: Mapping[str, str]) -> Stored:
        """The one request that cannot just be repeated: what is there after a lost answer may be our own."""
        lost = False

        async def once() -> Stored:
            nonlocal lost
            try:
                answer = await self._answer(what, "PUT", key, headers=headers, data=data, again=False)
                if answer.status != 412:
                    return stored(self._good(what, answer))
            except TransientError:
                lost = True
                raise
            if lost and await self._holds(what, key, data):
                return Stored("", "")
            raise taken(what)

        return await self._plan.acall(once, self._deadline())

    async def _holds(self, what: str, key: str, data: bytes) -> bool:
        with suppress(NotFound):
            found = await self.head(what, key)
            digest = md5(data, usedforsecurity=False).hexdigest()
            return (found.size, found.etag.strip('"')) == (len(data), digest)
        return False

    async def delete(self, what: str, key: str) -> None:
        await self._ask(what, "DELETE", key)

    async def page(self, what: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = {_QUERY[name]: str(value) for name, value in question.items()}
        query = query_of({"list-type": "2", "encoding-type": "url", **parameters})
        answer = await self._ask(what, "GET", query=query, most=_PAGE)
        try:
            return page_of(answer.body)
        except ValueError as error:
            raise IntegrityError(f"{what}: {error}", remedy="look at the server") from None


def _moment(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


def _size(what: str, head: Head | Answer, got: int, offset: int, wanted: int) -> int:
    """The size of the whole object, if what comes of it is what was asked for.

    :param got: bytes that come.
    """
    if head.status == 200 and offset == 0 and got <= wanted:  # all of it
        return got
    said = _RANGE.fullmatch(head.headers.get("content-range", ""))
    if head.status == 206 and said is not None:
        first, last, size = map(int, said.groups())
        if (first, last) == (offset, min(offset + wanted, size) - 1) and got == last - first + 1:
            return size
    raise IntegrityError(
        f"{what}: {wanted} bytes from {offset} were asked for, and others came", remedy="look at what stands between"
    )
