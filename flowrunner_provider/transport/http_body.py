"""Requests and answers of the HTTP transport, and the readers that check bodies for completeness."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from flowrunner_provider.core.errors import ConnectionLost, FlowRunnerError, IntegrityError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.core.streams import decompressed
from flowrunner_provider.transport.http_errors import broken

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from yarl import URL

__all__ = ["MAX_BYTES", "NO_RATIO", "Body", "BodyCut", "BodyReader", "Call", "Response", "Streamed", "repeated"]

T = TypeVar("T")

MAX_BYTES = 64 * 1024 * 1024
"""Default limit of decoded bytes that an answer may occupy in memory."""

NO_RATIO = 2000.0
"""More than deflate can reach: no ratio limit is needed where the decoded size is limited."""

Body = bytes | AsyncIterator[bytes] | Callable[[], AsyncIterator[bytes]]
"""A request body. A stream can be sent only once, so its request is never repeated; a function returns the same stream
at every call."""


class BodyCut(ConnectionLost):
    """The connection broke in the middle of the response body."""

    def to_event(self) -> dict[str, Any]:
        """Serialise as ConnectionLost, the class that everybody else knows."""
        return {**super().to_event(), "error_type": "ConnectionLost"}


async def repeated(step: Callable[[], Awaitable[T]], run: Run) -> T:
    """Repeat ``step`` in place according to the run's retry plan.

    :raises IntegrityError: if the body was cut short every time, because that is not a network accident.
    """
    cuts = 0

    async def once() -> T:
        nonlocal cuts
        try:
            return await step()
        except BodyCut:
            cuts += 1
            raise

    try:
        return await run.retry.acall(once, run.deadline)
    except BodyCut as error:
        if 1 < cuts == run.retry.attempts:
            raise IntegrityError(
                f"{error.message}; its body was cut short {cuts} times in a row",
                remedy="check the server and its proxies: the answer is never complete",
            ) from error
        raise


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. ``headers`` is case-insensitive; ``content`` is decoded."""

    status: int
    headers: Mapping[str, str]
    url: str
    content: bytes

    def text(self) -> str:
        """Return the body as text, in the charset of the Content-Type, by default UTF-8."""
        match = re.search(r"charset=\"?([\w.:-]+)", self.headers.get("Content-Type", ""), re.IGNORECASE)
        try:
            return self.content.decode(match[1] if match else "utf-8-sig", "replace")
        except (LookupError, UnicodeError):  # an unknown charset, or a codec such as "idna" that cannot replace
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON.

        :raises IntegrityError: if it is not JSON.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise IntegrityError(
                f"the answer of {redact_url(self.url)} is not JSON ({len(self.content)} bytes of "
                f"{self.headers.get('Content-Type', 'unknown type')})",
                remedy="check the endpoint, and the Accept header",
            ) from None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer whose body is still to be read; ``length`` is its size if known."""

    status: int
    headers: Mapping[str, str]
    url: str
    length: int | None
    chunks: AsyncIterator[bytes]


@dataclass(slots=True)
class Call:
    """One request over all its hops."""

    method: str
    url: URL
    home: bool
    headers: Mapping[str, str]
    body: Body | None
    repeatable: bool
    timeout: float
    max_bytes: int | None
    expected: Collection[int] | None
    silence: float | None = None  # longest pause within the answer, seconds
    proof: Mapping[str, str] = field(default_factory=dict)  # headers from the credentials for the latest hop
    acted: bool = False  # a non-repeatable request was carried out

    @property
    def once_only(self) -> bool:
        """Whether the body is a stream that can be sent only once."""
        return isinstance(self.body, AsyncIterator)

    def expects(self, status: int) -> bool:
        return 200 <= status < 300 if self.expected is None else status in self.expected


class BodyReader:
    """Reads the response bodies of one transport.

    :param wire: exceptions that mean a broken connection.
    :param what: returns a call's method and redacted URL, for messages.
    """

    def __init__(self, wire: tuple[type[Exception], ...], what: Callable[[Call], str]) -> None:
        self._wire, self._what = wire, what

    async def plain(self, call: Call, raw: ClientResponse) -> bytes:
        """Read a body without content coding into memory; the hot path."""
        pieces, size, stream = [], 0, raw.content
        try:
            while not stream.at_eof() and (chunk := await stream.readany()):
                pieces.append(chunk)
                size += len(chunk)
                if size > (call.max_bytes or 0):
                    raise IntegrityError(
                        f"the answer to {self._what(call)} is larger than {call.max_bytes:,} bytes",
                        remedy="raise `max_bytes`, or use `save_to`",
                    )
        except self._wire as error:
            raise self._cut(call, error) from None
        self._check_length(call, raw, size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_length(self, call: Call, raw: ClientResponse, size: int) -> None:
        announced = raw.headers.get("Content-Length")
        if announced is None or call.method == "HEAD" or raw.status in (204, 304):
            return
        if announced.isascii() and announced.isdigit() and int(announced) != size:
            raise IntegrityError(
                f"the answer to {self._what(call)} has {size} of {announced} bytes",
                remedy="retry; if it persists, check the server",
            )

    async def _pieces(self, call: Call, raw: ClientResponse) -> AsyncGenerator[bytes, None]:
        """Yield the raw body; raise if it is incomplete."""
        size = 0
        try:
            while chunk := await raw.content.readany():
                size += len(chunk)
                yield chunk
        except self._wire as error:
            raise self._cut(call, error) from None
        self._check_length(call, raw, size)

    def _cut(self, call: Call, error: Exception) -> FlowRunnerError:
        found = broken(self._what(call), error, repeatable=call.repeatable)
        return BodyCut(found.message, remedy=found.remedy) if type(found) is ConnectionLost else found

    def chunks(
        self, call: Call, raw: ClientResponse, ratio: float, cap: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Return the decoded body, at most ``cap`` bytes of it (by default the call's ``max_bytes``)."""
        coding = raw.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
        pieces = self._pieces(call, raw)
        if coding in ("", "identity"):
            return _at_most(pieces, cap or call.max_bytes, lambda: self._what(call))
        known: Literal["gzip", "deflate"]
        if coding == "gzip":
            known = "gzip"
        elif coding == "deflate":
            known = "deflate"
        else:
            raise IntegrityError(
                f"the answer to {self._what(call)} has the unsupported encoding {coding[:40]!r}",
                remedy="configure the server to honour Accept-Encoding: gzip, deflate",
            )
        if call.method == "HEAD" or raw.status in (204, 304):
            return pieces
        limit = cap or call.max_bytes or 1 << 62
        return decompressed(pieces, encoding=known, max_bytes=limit, max_ratio=ratio, what=self._what(call))


async def _at_most(
    pieces: AsyncGenerator[bytes, None], cap: int | None, what: Callable[[], str]
) -> AsyncGenerator[bytes, None]:
    size = 0
    async with aclosing(pieces):
        async for chunk in pieces:
            size += len(chunk)
            if cap is not None and size > cap:
                raise IntegrityError(
                    f"the answer to {what()} is larger than {cap:,} bytes",
                    remedy="raise `max_bytes` if this size is expected",
                )
            yield chunk
