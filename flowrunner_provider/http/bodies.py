"""Request bodies: small ones in memory, and files streamed from any store.

A streamed body has a known length and can be sent again. It checks its files once more before its last block; if one
has changed, the far side never receives a complete request.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlencode

from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    Json,
    NotFound,
    OutcomeUnknown,
    SecurityError,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import collect
from flowrunner_provider.files.store import Entry, Store, identity
from flowrunner_provider.transport.http import HttpTransport, Response
from flowrunner_provider.transport.http_body import repeated

__all__ = [
    "FormFile",
    "Pinned",
    "StreamedBody",
    "encode_body",
    "exchange",
    "multipart",
    "pin",
    "raw",
    "streaming_seconds",
]

_BINARY = "application/octet-stream"


def encode_body(json_value: Any, data: Any) -> tuple[bytes | None, str]:
    """Return the body and its media type: JSON, a form (mapping), or text.

    :raises ConfigError: if both are given, or the value cannot be encoded.
    """
    if json_value is not None and data is not None:
        raise ConfigError("both `json` and `data` are given", field="data", remedy="use only one of them")
    if json_value is not None:
        try:
            return json.dumps(json_value, allow_nan=False).encode(), "application/json"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"`json` is not JSON: {error}", field="json", remedy="use plain JSON values") from error
    if data is None:
        return None, ""
    if isinstance(data, Mapping):
        return urlencode(dict(data), doseq=True).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    raise ConfigError("`data` must be a string or a mapping", field="data", remedy="pass a form or a string")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A file in the version that was chosen; any change is detected.

    :param shown: its path, for messages.
    """

    store: Store
    path: str
    shown: str
    entry: Entry
    size: int

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rpartition("/")[2]

    def identity(self) -> list[Json]:
        """Return what distinguishes this file, and this version of it."""
        return [self.shown, self.size, str(self.entry.modified)]

    async def check(self) -> None:
        """Raise :class:`IntegrityError` if the file has changed."""
        try:
            now = identity(await self.store.stat(self.path))
        except NotFound:
            now = None
        if now != identity(self.entry):
            raise self.changed()

    def changed(self) -> IntegrityError:
        """Return the error for a changed file."""
        return IntegrityError(
            f"{self.shown} changed while it was sent; the request was aborted",
            remedy="send the file once it is finished: wait for a done marker, or for a minimum age",
        )


async def pin(store: Store, path: str, shown: str, *, field: str) -> Pinned:
    """Return the file at ``path`` in its current version.

    :raises ConfigError: naming ``field``, if it is not a regular file.
    """
    entry = await store.stat(path)
    if entry.is_dir or entry.is_link or entry.size is None:
        what = "a folder" if entry.is_dir else "a symbolic link" if entry.is_link else "of unknown size"
        raise ConfigError(f"{shown} is {what}", field=field, remedy="use a regular file")
    return Pinned(store=store, path=path, shown=shown, entry=entry, size=entry.size)


@dataclass(frozen=True, kw_only=True)
class FormFile:
    """A file of a form.

    :param field: name of the form field.
    """

    field: str
    file: Pinned
    filename: str = ""
    content_type: str = ""


class StreamedBody:
    """Bytes and files in sequence; each call starts a new pass over them.

    :param kind: media type.
    :param boundary: bytes that no file may contain.
    """

    def __init__(self, segments: Sequence[bytes | Pinned], kind: str, boundary: bytes = b"") -> None:
        self._segments, self._boundary, self.kind = segments, boundary, kind
        self.files = [segment for segment in segments if isinstance(segment, Pinned)]
        self.length = sum(len(item) if isinstance(item, bytes) else item.size for item in segments)
        self.complete = False
        """Whether the last block of the current pass was sent: from then on, the far side may act."""
        self.failure: FlowRunnerError | None = None
        self._guard: Callable[[], None] = lambda: None

    def guarded(self, run: Run) -> Self:
        """Return this body, which sends nothing more once another attempt has taken over; see ``Effects.renew``."""
        self._guard = run.effects.renew
        return self

    def identity(self) -> list[Json]:
        """Return what distinguishes this body from another one."""
        return [item.hex() if isinstance(item, bytes) else item.identity() for item in self._segments]

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return ``given`` with length and type added."""
        kind = {} if any(name.lower() == "content-type" for name in given) else {"Content-Type": self.kind}
        return {**given, **kind, "Content-Length": str(self.length)}

    async def __call__(self) -> AsyncIterator[bytes]:
        self.complete, self.failure = False, None
        held = b""
        try:
            async for block in self._blocks():
                if held:
                    self._guard()
                    yield held
                held = block
            for file in self.files:
                await file.check()
            failpoint("http.body.before_last_block")
            self._guard()
        except FlowRunnerError as error:
            self.failure = error
            raise
        self.complete = True
        yield held

    async def _blocks(self) -> AsyncIterator[bytes]:
        for segment in self._segments:
            if isinstance(segment, bytes):
                if segment:
                    yield segment
                continue
            async for block in self._file(segment):
                yield block

    async def _file(self, file: Pinned) -> AsyncIterator[bytes]:
        left, tail = file.size, b""
        if not left:
            return
        async with aclosing(cast("Any", file.store.read(file.path, 0, left))) as chunks:
            async for chunk in chunks:
                if self._boundary:
                    if self._boundary in tail + chunk[: len(self._boundary)] or self._boundary in chunk:
                        raise SecurityError(
                            f"{file.shown} contains the boundary of the form", remedy="use another task id"
                        )
                    tail = (tail + chunk)[-len(self._boundary) :]
                left -= len(chunk)
                yield chunk
        if left:
            raise file.changed()

    def explained(self, error: FlowRunnerError) -> FlowRunnerError:
        """Return the error to raise for ``error``: nothing happened if the body was not complete."""
        if self.failure is not None:
            return self.failure
        if isinstance(error, OutcomeUnknown) and not self.complete and error.__cause__ is None:
            return ConnectionLost(
                f"{error.message.removesuffix('; it may have been carried out')}; the body was not complete yet",
                remedy="nothing to do: the retry sends it again",
            )
        return error


def raw(file: Pinned) -> StreamedBody:
    """Return a body with the bytes of a file."""
    return StreamedBody([file], mimetypes.guess_type(file.name)[0] or _BINARY)


def multipart(fields: Mapping[str, Any], files: Sequence[FormFile], boundary: str) -> StreamedBody:
    """Return a multipart form with files (RFC 7578).

    :param fields: strings, numbers, booleans; a list repeats the field, None is dropped.
    :param boundary: the same in every attempt, so that the request is identical.
    :raises ConfigError: for a value or a type that cannot be sent.
    """
    segments: list[bytes | Pinned] = []
    for name, value in fields.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None:
                text = _field_text(name, item)
                segments.append(f"{_head(boundary, name)}\r\n{text}\r\n".encode())
    for part in files:
        kind = part.content_type or mimetypes.guess_type(part.file.name)[0] or _BINARY
        if not kind.isprintable() or not kind.isascii():
            raise ConfigError(
                f"the content type of {part.file.shown} is invalid", field="files", remedy="use e.g. text/csv"
            )
        filename = _quoted(part.filename or part.file.name)
        head = f"{_head(boundary, part.field, filename)}Content-Type: {kind}\r\n\r\n"
        segments += [head.encode(), part.file, b"\r\n"]
    if any(boundary.encode() in item[len(boundary) + 4 :] for item in segments if isinstance(item, bytes)):
        raise ConfigError("a field contains the boundary of the form", field="data", remedy="use another task id")
    segments.append(f"--{boundary}--\r\n".encode())
    return StreamedBody(segments, f"multipart/form-data; boundary={boundary}", f"--{boundary}".encode())


def _head(boundary: str, name: str, filename: str | None = None) -> str:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"{named}\r\n'


def _quoted(name: str) -> str:
    """Quote as browsers do: the WHATWG's "multipart/form-data encoding algorithm"."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _field_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(
        f"the form's field {name!r} is {type(value).__name__}",
        field="data",
        remedy="use a string, or a list of strings",
    )


def streaming_seconds(http: HttpTransport, run: Run) -> float:
    """Return for how many seconds to announce a streamed body: twice the longest pause of a live exchange.

    The announcement is renewed while blocks are sent; after the last block, the answer has ``read_timeout``.
    """
    settings = http.settings
    return run.deadline.limit(2 * (run.patience + settings.connect_timeout + settings.read_timeout))


async def exchange(
    http: HttpTransport,
    run: Run,
    method: str,
    endpoint: str,
    body: StreamedBody,
    *,
    repeatable: bool,
    params: Mapping[str, Any],
    headers: Mapping[str, str],
    expected: Collection[int] | None,
    max_bytes: int,
) -> Response:
    """Send a streamed body and return the complete answer; retry in place if the request was not carried out.

    :param repeatable: whether repeating the request has no further effect.
    :raises OutcomeUnknown: if it must not be repeated and may have been carried out.
    """

    async def once() -> Response:
        answered = False
        try:
            async with http.stream(
                method,
                endpoint,
                params=params,
                headers=body.headers(headers),
                body=body.guarded(run),
                repeatable=repeatable,
                expected=expected,
                max_bytes=max_bytes,
            ) as answer:
                answered = True
                content = await collect(answer.chunks, max_bytes=max_bytes, what="the answer")
                return Response(answer.status, answer.headers, answer.url, content)
        except FlowRunnerError as error:
            if answered and not repeatable and not isinstance(error, OutcomeUnknown):
                raise OutcomeUnknown(
                    f"{error.message}; the request itself was carried out", remedy=error.remedy
                ) from error
            raise body.explained(error) from error

    return await repeated(once, run)
