"""Requests on single objects, and listings, by connections of our own: see :mod:`.s3_wire`."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline
from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    Rejected,
    TimedOut,
    TransientError,
)
from flowrunner_provider.core.retry import RetryPlan, parse_retry_after
from flowrunner_provider.files.stores.object_errors import code_in, refusal
from flowrunner_provider.files.stores.s3_answers import page_of
from flowrunner_provider.files.stores.s3_client import client_errors
from flowrunner_provider.files.stores.s3_objects import Found, Proof, Stored, taken
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Violation, length_in
from flowrunner_provider.files.stores.s3_wire_lines import Lines
from flowrunner_provider.files.stores.s3_wire_place import Place
from flowrunner_provider.files.stores.s3_wire_pool import Pool
from flowrunner_provider.files.stores.s3_wire_sign import UNSIGNED, Keys, payload_of, query_of, signed, written

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.s3_ranges import Span

__all__ = ["LARGE", "Renewed", "WireObjects"]

_ASKED_EVERY = 60.0
"""Seconds; botocore renews what expires at the latest ten minutes before."""

_PAGE = 16 * 1024 * 1024
"""Bytes that a page of a listing may have: a thousand keys of the longest have a quarter."""

_SMALL = 64 * 1024
"""Bytes that an answer may have of which none are wanted."""

LARGE = 512 * 1024
"""Bytes from which a body is digested in a thread."""

_NONE: Mapping[str, str] = {}

_UNTOUCHED = {"accept-encoding": "identity", "user-agent": "airflow-provider-flowrunner"}
"""Not signed, as what stands between may change them."""

_HEADERS = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
_QUERY = {
    "Prefix": "prefix", "Delimiter": "delimiter", "MaxKeys": "max-keys", "ContinuationToken": "continuation-token",
}  # fmt: skip
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Renewed:
    """Credentials of botocore, which renews them; asked in a thread, as that may take requests of its own."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._keys: Keys | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def keys(self, what: str) -> Keys:
        """Those of now."""
        if self._keys is not None and SYSTEM_CLOCK.monotonic() < self._until:
            return self._keys
        async with self._asking:
            if self._keys is None or SYSTEM_CLOCK.monotonic() >= self._until:
                try:
                    with client_errors(what):
                        frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
                except RuntimeError:  # botocore's word for credentials that have expired as they came
                    raise CredentialExpired(f"{what}: the credentials have expired", remedy="renew them") from None
                self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
                self._until = SYSTEM_CLOCK.monotonic() + _ASKED_EVERY
            return self._keys

    def forget(self) -> None:
        """They were refused: ask before the next request."""
        self._keys = None


class WireObjects:
    """Requests on one bucket; :class:`~.s3_objects.S3Objects` says what each does.

    :param credentials: None for anonymous requests.
    :param lines: for what is large.
    :param settings: what is sent with everything that is written, as boto3 calls it.
    :param sign_bodies: over a connection that somebody could change.
    """

    def __init__(
        self,
        place: Place,
        pool: Pool,
        credentials: Renewed | None,
        plan: RetryPlan,
        *,
        lines: Lines,
        settings: Mapping[str, str],
        sign_bodies: bool,
    ) -> None:
        self.place, self._lines = place, lines
        self._pool, self._credentials, self._plan, self._sign_bodies = pool, credentials, plan, sign_bodies
        self._settings = {_HEADERS[name]: value for name, value in settings.items()}

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
            raise _broken(what, error) from None
        if refused is not None:
            raise self._refused(what, refused)

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        headers = {**self._settings}
        headers |= {"x-amz-checksum-crc32": proof.crc32} if proof.crc32 else {"content-md5": proof.md5}
        if create:
            return await self._create(what, key, data, {**headers, "if-none-match": "*"})
        return _stored(await self._ask(what, "PUT", key, headers=headers, data=data))

    async def _create(self, what: str, key: str, data: bytes, headers: Mapping[str, str]) -> Stored:
        """The one request that cannot just be repeated: what is there after a lost answer may be our own."""
        lost = False

        async def once() -> Stored:
            nonlocal lost
            try:
                answer = await self._answer(what, "PUT", key, headers=headers, data=data, again=False)
                if answer.status != 412:
                    return _stored(self._good(what, answer))
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

    def close(self) -> None:
        """End all connections."""
        self._pool.close()
        self._lines.close()

    # -- one request

    def _deadline(self) -> Deadline:
        return Deadline(2 * self._pool.server.timeout)

    async def _ask(self, what: str, method: str, key: str = "", **more: Any) -> Answer:
        """A success, after some repetitions."""

        async def once() -> Answer:
            return self._good(what, await self._answer(what, method, key, **more))

        return await self._plan.acall(once, self._deadline())

    async def _answer(
        self,
        what: str,
        method: str,
        key: str = "",
        *,
        query: str = "",
        headers: Mapping[str, str] = _NONE,
        data: bytes = b"",
        most: int = _SMALL,
        again: bool = True,
    ) -> Answer:
        """Whatever the server says.

        :param again: repeat it at once if the connection was given up by the server meanwhile.
        """
        request = await self._request(what, method, key, query=query, headers=headers, data=data)
        try:
            return await self._pool.ask(request, data, bodiless=method == "HEAD", most=most, again=again)
        except (OSError, Violation) as error:
            raise _broken(what, error) from None

    async def _request(
        self, what: str, method: str, key: str, *, query: str = "", headers: Mapping[str, str], data: bytes = b""
    ) -> bytes:
        """The head of a request, signed."""
        path = self.place.path(key)
        every = {"host": self.place.netloc, **headers}
        if self._credentials is not None:
            keys, now = await self._credentials.keys(what), SYSTEM_CLOCK.now()
            payload = await self._payload(data)
            every = signed(method, path, query, every, keys=keys, region=self.place.region, now=now, payload=payload)
        if method == "PUT":
            every["content-length"] = str(len(data))
        return written(method, path, query, {**every, **_UNTOUCHED})

    async def _payload(self, data: bytes) -> str:
        if not self._sign_bodies:
            return UNSIGNED
        return payload_of(data) if len(data) < LARGE else await asyncio.to_thread(payload_of, data)

    def _good(self, what: str, answer: Answer) -> Answer:
        if answer.status < 300:
            return answer
        raise self._refused(what, answer)

    def _refused(self, what: str, answer: Answer) -> FlowRunnerError:
        headers = answer.headers
        region = headers.get("x-amz-bucket-region", "")
        if answer.status in (301, 307):
            where = f"; it is in {region}" if region.replace("-", "").isalnum() else ""
            return ConfigError(
                f"{what}: the server sends us elsewhere ({answer.status}{where})",
                field="region_name",
                remedy="set region_name, or the endpoint_url, to where the bucket is",
            )
        wait = parse_retry_after(headers.get("retry-after"), SYSTEM_CLOCK.now())
        code, request = code_in(answer.body), headers.get("x-amz-request-id", "")
        error = refusal(what, answer.status, code, retry_after=wait, request=request)
        if isinstance(error, CredentialExpired) and self._credentials is not None:
            self._credentials.forget()
        return error


def _broken(what: str, error: Exception) -> FlowRunnerError:
    """Why there is no answer."""
    if isinstance(error, Violation):
        return IntegrityError(f"{what}: the server answered with {error}", remedy="look at what stands between")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigError(
            f"{what}: the server's certificate is not trusted",
            field="ca_bundle",
            remedy="name the CA's file as ca_bundle in the connection's flowrunner extra",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: no answer in time", remedy="raise timeout, or look at the network")
    return ConnectionLost(f"{what}: the connection failed", remedy="check host, port and network")


def _stored(answer: Answer) -> Stored:
    return Stored(answer.headers.get("etag", ""), answer.headers.get("x-amz-checksum-crc32", ""))


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
