"""Multipart uploads over our own connections: parts are sent by threads, all other requests by the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TypeVar
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import IntegrityError, Rejected, TransientError
from flowrunner_provider.files.stores.object_errors import code_in, refusal
from flowrunner_provider.files.stores.s3_answers import root_of
from flowrunner_provider.files.stores.s3_body import Body
from flowrunner_provider.files.stores.s3_objects import Proof, Stored, already_exists
from flowrunner_provider.files.stores.s3_uploads import PAGE, Part, PartsPage, UnfinishedUpload
from flowrunner_provider.files.stores.s3_wire import Answer, Violation
from flowrunner_provider.files.stores.s3_wire_requests import WireRequests, connection_error, stored
from flowrunner_provider.files.stores.s3_wire_sign import query_of

__all__ = ["WireUploads"]

_RETRY_SECONDS = 300.0
"""Seconds for retries of a part here; afterwards the next attempt of the task sends it."""

_MAX_PAGE = 4 * 1024 * 1024
"""Bytes of a page; a thousand uploads with the longest keys need half of that."""

_DAMAGED = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})

T = TypeVar("T")


class WireUploads(WireRequests):
    """The requests of :class:`~.s3_uploads.S3Uploads` on one bucket."""

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        headers = {**self._settings, **({"x-amz-checksum-algorithm": algorithm} if algorithm else {})}
        answer = await self._ask(what, "POST", key, query=query_of({"uploads": ""}), headers=headers)
        upload = _extract(
            what, answer, "InitiateMultipartUpload", lambda root, namespace: _text(root, namespace, "UploadId")
        )
        return upload, answer.headers.get("x-amz-checksum-algorithm", "")

    async def unfinished(self, what: str, key: str, most: int) -> list[UnfinishedUpload]:
        parameters = {
            "uploads": "",
            "prefix": key,
            "max-uploads": str(most),
        }  # no encoding-type: Ceph does not report it
        answer = await self._ask(what, "GET", query=query_of(parameters), most=_MAX_PAGE)
        try:
            return _extract(what, answer, "ListMultipartUploads", _uploads)
        except IntegrityError:  # a server without this request answers another one
            return []

    async def parts_page(self, what: str, key: str, upload: str, after: int) -> PartsPage:
        parameters = {"uploadId": upload, "part-number-marker": str(after), "max-parts": str(PAGE)}
        answer = await self._ask(what, "GET", key, query=query_of(parameters), most=_MAX_PAGE)
        return _extract(what, answer, "ListParts", _parts)

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        query = query_of({"partNumber": str(number), "uploadId": upload})
        headers = {"x-amz-checksum-crc32": proof.crc32} if proof.crc32 else {"content-md5": proof.md5}

        async def attempt() -> Answer:
            request = await self._request(what, "PUT", key, query=query, headers=headers, data=data)
            try:
                answer = await self._blocking.ask_with_body(request, data.send_to)
            except (OSError, Violation) as error:
                raise connection_error(what, error, self.address) from None
            return answer if code_in(answer.body) in _DAMAGED else self._raise_unless_success(what, answer)

        return stored(self._raise_unless_success(what, await self._plan.acall(attempt, Deadline(_RETRY_SECONDS))))

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        is_complete: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """Complete the upload. An answer with status 200 may still contain an error."""
        headers = {"if-none-match": "*"} if create else {}
        query, data, lost = query_of({"uploadId": upload}), _completion(parts), False

        async def attempt() -> None:
            nonlocal lost
            try:
                answer = await self._answer(what, "POST", key, query=query, headers=headers, data=data, resend=False)
                if answer.status == 412:
                    if lost and await is_complete():
                        return
                    raise already_exists(what)
                if _is_error(self._raise_unless_success(what, answer)):
                    raise refusal(what, 500, code_in(answer.body))
            except (TransientError, Rejected) as error:  # such as NoSuchUpload
                lost = lost or isinstance(error, TransientError)
                if not await is_complete():
                    raise

        await self._plan.acall(attempt, Deadline(_RETRY_SECONDS))

    async def abort(self, what: str, key: str, upload: str) -> None:
        await self._ask(what, "DELETE", key, query=query_of({"uploadId": upload}))


def _extract(what: str, answer: Answer, name: str, find: Callable[[ElementTree.Element, str], T]) -> T:
    """Return what ``find`` extracts from the document of an answer.

    :param name: the operation, which the name of the root begins with.
    """
    try:
        return find(*root_of(answer.body, name))
    except (KeyError, ValueError):
        raise IntegrityError(
            f"{what}: the answer is not the document {name}Result", remedy="check the server, and proxies in between"
        ) from None


def _text(element: ElementTree.Element, namespace: str, *names: str) -> str:
    """Return the text of a descendant; raise ``KeyError`` if it is missing or empty."""
    text = element.findtext("/".join(f"{namespace}{name}" for name in names))
    if not text:
        raise KeyError(names)
    return text


def _uploads(root: ElementTree.Element, namespace: str) -> list[UnfinishedUpload]:
    uploads = []
    for row in root.iter(f"{namespace}Upload"):
        at = datetime.fromisoformat(_text(row, namespace, "Initiated"))
        by = row.findtext(f"{namespace}Initiator/{namespace}ID") or ""
        uploads.append(UnfinishedUpload(_text(row, namespace, "Key"), _text(row, namespace, "UploadId"), by, at))
    return uploads


def _parts(root: ElementTree.Element, namespace: str) -> PartsPage:
    parts = {
        int(_text(row, namespace, "PartNumber")): Part(
            _text(row, namespace, "ETag").strip('"'),
            int(_text(row, namespace, "Size")),
            row.findtext(f"{namespace}ChecksumCRC32") or "",
        )
        for row in root.iter(f"{namespace}Part")
    }
    more = root.findtext(f"{namespace}IsTruncated") == "true"
    after = int(_text(root, namespace, "NextPartNumberMarker")) if more else 0
    return PartsPage(parts, root.findtext(f"{namespace}ChecksumAlgorithm") or "", after)


def _completion(parts: Mapping[int, Part]) -> bytes:
    """Return the body of a completion, which lists the parts."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
        + (f"<ChecksumCRC32>{part.crc32}</ChecksumCRC32>" if part.crc32 else "")
        + "</Part>"
        for number, part in sorted(parts.items())
    )
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{namespace}">{rows}</CompleteMultipartUpload>'.encode()


def _is_error(answer: Answer) -> bool:
    try:
        root_of(answer.body, "CompleteMultipartUpload")
    except ValueError:
        return True
    return False
