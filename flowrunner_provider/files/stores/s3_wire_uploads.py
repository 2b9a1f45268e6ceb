"""Uploads in parts by connections of our own: calls like those on small objects, parts by threads."""

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
from flowrunner_provider.files.stores.s3_objects import Proof, Stored, taken
from flowrunner_provider.files.stores.s3_uploads import PAGE, Begun, Held, Part
from flowrunner_provider.files.stores.s3_wire import Answer, Violation
from flowrunner_provider.files.stores.s3_wire_requests import WireRequests, broken, stored
from flowrunner_provider.files.stores.s3_wire_sign import query_of

__all__ = ["WireUploads"]

_WHILE = 300.0
"""Seconds within which a part is sent again; then it is the task's next attempt that does so."""

_LISTED = 4 * 1024 * 1024
"""Bytes that a page may have: a thousand uploads of the longest keys have half of them."""

_DAMAGED = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})

T = TypeVar("T")


class WireUploads(WireRequests):
    """Uploads to one bucket; :class:`~.s3_uploads.S3Uploads` says what each does."""

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        headers = {**self._settings, **({"x-amz-checksum-algorithm": algorithm} if algorithm else {})}
        answer = await self._ask(what, "POST", key, query=query_of({"uploads": ""}), headers=headers)
        upload = _read(what, answer, "InitiateMultipartUpload", lambda root, space: _text(root, space, "UploadId"))
        return upload, answer.headers.get("x-amz-checksum-algorithm", "")

    async def begun(self, what: str, key: str, most: int) -> list[Begun]:
        question = {"uploads": "", "prefix": key, "max-uploads": str(most)}  # Ceph encodes keys without saying so
        answer = await self._ask(what, "GET", query=query_of(question), most=_LISTED)
        try:
            return _read(what, answer, "ListMultipartUploads", _uploads)
        except IntegrityError:  # a server that does not know the question answers another one
            return []

    async def held(self, what: str, key: str, upload: str, after: int) -> Held:
        question = {"uploadId": upload, "part-number-marker": str(after), "max-parts": str(PAGE)}
        answer = await self._ask(what, "GET", key, query=query_of(question), most=_LISTED)
        return _read(what, answer, "ListParts", _parts)

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        query = query_of({"partNumber": str(number), "uploadId": upload})
        headers = {"x-amz-checksum-crc32": proof.crc32} if proof.crc32 else {"content-md5": proof.md5}

        async def once() -> Answer:
            request = await self._request(what, "PUT", key, query=query, headers=headers, data=data)
            try:
                answer = await self._lines.tell(request, data.give)
            except (OSError, Violation) as error:
                raise broken(what, error) from None
            return answer if code_in(answer.body) in _DAMAGED else self._good(what, answer)

        return stored(self._good(what, await self._plan.acall(once, Deadline(_WHILE))))

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        there: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """See there. A success may hold an error; what is no result is none."""
        headers = {"if-none-match": "*"} if create else {}
        query, data, lost = query_of({"uploadId": upload}), _listed(parts), False

        async def once() -> None:
            nonlocal lost
            try:
                answer = await self._answer(what, "POST", key, query=query, headers=headers, data=data, again=False)
                if answer.status == 412:
                    if lost and await there():
                        return
                    raise taken(what)
                if _is_error(self._good(what, answer)):
                    raise refusal(what, 500, code_in(answer.body))
            except (TransientError, Rejected) as error:  # such as NoSuchUpload
                lost = lost or isinstance(error, TransientError)
                if not await there():
                    raise

        await self._plan.acall(once, Deadline(_WHILE))

    async def abort(self, what: str, key: str, upload: str) -> None:
        await self._ask(what, "DELETE", key, query=query_of({"uploadId": upload}))


def _read(what: str, answer: Answer, name: str, find: Callable[[ElementTree.Element, str], T]) -> T:
    """What is found in an answer's document.

    :param name: what it is the result of.
    """
    try:
        return find(*root_of(answer.body, name))
    except (KeyError, ValueError):
        raise IntegrityError(
            f"{what}: the answer is no {name}Result", remedy="look at the server, and at what stands between"
        ) from None


def _text(element: ElementTree.Element, space: str, *names: str) -> str:
    """:raises KeyError: if there is none."""
    found = element.findtext("/".join(f"{space}{name}" for name in names))
    if not found:
        raise KeyError(names)
    return found


def _uploads(root: ElementTree.Element, space: str) -> list[Begun]:
    found = []
    for row in root.iter(f"{space}Upload"):
        at = datetime.fromisoformat(_text(row, space, "Initiated"))
        by = row.findtext(f"{space}Initiator/{space}ID") or ""
        found.append(Begun(_text(row, space, "Key"), _text(row, space, "UploadId"), by, at))
    return found


def _parts(root: ElementTree.Element, space: str) -> Held:
    parts = {
        int(_text(row, space, "PartNumber")): Part(
            _text(row, space, "ETag").strip('"'),
            int(_text(row, space, "Size")),
            row.findtext(f"{space}ChecksumCRC32") or "",
        )
        for row in root.iter(f"{space}Part")
    }
    more = root.findtext(f"{space}IsTruncated") == "true"
    after = int(_text(root, space, "NextPartNumberMarker")) if more else 0
    return Held(parts, root.findtext(f"{space}ChecksumAlgorithm") or "", after)


def _listed(parts: Mapping[int, Part]) -> bytes:
    """What a completion says of the parts."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
        + (f"<ChecksumCRC32>{part.crc32}</ChecksumCRC32>" if part.crc32 else "")
        + "</Part>"
        for number, part in sorted(parts.items())
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{rows}</CompleteMultipartUpload>'.encode()


def _is_error(answer: Answer) -> bool:
    try:
        root_of(answer.body, "CompleteMultipartUpload")
    except ValueError:
        return True
    return False
