"""Requests on single objects, and listings, over our own connections (:mod:`.s3_wire`)."""

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
from flowrunner_provider.files.stores.s3_objects import Found, Proof, Stored, already_exists
from flowrunner_provider.files.stores.s3_span import Span
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Violation, content_length
from flowrunner_provider.files.stores.s3_wire_requests import WireRequests, connection_error, stored
from flowrunner_provider.files.stores.s3_wire_sign import query_of

__all__ = ["WireObjects"]

_MAX_PAGE = 16 * 1024 * 1024
"""Bytes of a page; a thousand keys of the maximum length need a quarter of that."""

_QUERY_NAMES = {
    "Prefix": "prefix", "Delimiter": "delimiter", "MaxKeys": "max-keys", "ContinuationToken": "continuation-token",
}  # fmt: skip
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class WireObjects(WireRequests):
    """The requests of :class:`~.s3_objects.S3Objects` on one bucket."""

    async def region(self, what: str) -> str:
        async def attempt() -> str:
            answer = await self._answer(what, "HEAD")
            region = answer.headers.get("x-amz-bucket-region", "")
            if answer.status >= 300 and not (region and answer.status in (301, 307, 400, 403)):
                raise self._refused(what, answer)
            return region

        return await self._plan.acall(attempt, self._deadline())

    async def head(self, what: str, key: str) -> Found:
        headers = (await self._ask(what, "HEAD", key)).headers
        try:
            size = content_length(headers)
        except Violation:
            raise IntegrityError(f"{what}: the server reports no size", remedy="check the server") from None
        return Found(size, _parse_date(headers.get("last-modified", "")), headers.get("etag", ""))

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
        def receive_body(head: Head, read: Callable[[memoryview], int]) -> None:
            """Receive the body of a success; called in a thread."""
            size = _size(what, head, content_length(head.headers), span.at, span.left)
            if size < span.end or head.headers.get("etag", "") != version:
                raise refusal(what, 412)
            span.receive(read)

        headers = {"range": span.header, "if-match": version}
        request = await self._request(what, "GET", key, headers=headers)
        try:
            refused = await self._blocking.ask(request, receive_body)
        except (OSError, Violation) as error:
            raise connection_error(what, error, self.address) from None
        if refused is not None:
            raise self._refused(what, refused)

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        headers = {**self._settings}
        headers |= {"x-amz-checksum-crc32": proof.crc32} if proof.crc32 else {"content-md5": proof.md5}
        if create:
            return await self._create(what, key, data, {**headers, "if-none-match": "*"})
        return stored(await self._ask(what, "PUT", key, headers=headers, data=data))

    async def _create(self, what: str, key: str, data: bytes, headers: Mapping[str, str]) -> Stored:
        """Put an object only if the key is free. After a lost answer the existing object may be our own."""
        lost = False

        async def attempt() -> Stored:
            nonlocal lost
            try:
                answer = await self._answer(what, "PUT", key, headers=headers, data=data, resend=False)
                if answer.status != 412:
                    return stored(self._raise_unless_success(what, answer))
            except TransientError:
                lost = True
                raise
            if lost and await self._is_ours(what, key, data):
                return Stored("", "")
            raise already_exists(what)

        return await self._plan.acall(attempt, self._deadline())

    async def _is_ours(self, what: str, key: str, data: bytes) -> bool:
        with suppress(NotFound):
            found = await self.head(what, key)
            digest = md5(data, usedforsecurity=False).hexdigest()
            return (found.size, found.etag.strip('"')) == (len(data), digest)
        return False

    async def delete(self, what: str, key: str) -> None:
        await self._ask(what, "DELETE", key)

    async def page(self, what: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = {_QUERY_NAMES[name]: str(value) for name, value in arguments.items()}
        query = query_of({"list-type": "2", "encoding-type": "url", **parameters})
        answer = await self._ask(what, "GET", query=query, most=_MAX_PAGE)
        try:
            return page_of(answer.body)
        except ValueError as error:
            raise IntegrityError(f"{what}: {error}", remedy="check the server") from None


def _parse_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


def _size(what: str, head: Head | Answer, got: int, offset: int, wanted: int) -> int:
    """Return the size of the object; raise ``IntegrityError`` unless the answer has the requested range.

    :param got: the bytes of the answer.
    """
    if head.status == 200 and offset == 0 and got <= wanted:  # the complete object
        return got
    content_range = _RANGE.fullmatch(head.headers.get("content-range", ""))
    if head.status == 206 and content_range is not None:
        first, last, size = map(int, content_range.groups())
        if (first, last) == (offset, min(offset + wanted, size) - 1) and got == last - first + 1:
            return size
    raise IntegrityError(
        f"{what}: requested {wanted} bytes from {offset} and received others", remedy="check proxies in between"
    )
