"""The engine of ``files.convert_encoding``: it converts text files of any store as streams."""

from __future__ import annotations

import asyncio
import codecs
import io
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.core.errors import ConfigError, Json, NotFound, PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.content import text_encoding
from flowrunner_provider.files.derived_results import ConvertedFile, EncodingResult
from flowrunner_provider.files.encoding.guess import Guess, guess, mark_of
from flowrunner_provider.files.items import Destination, Item, Source, find
from flowrunner_provider.files.publish import IfExists, Produce, Published, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.store import Store

__all__ = ["EncodingOptions", "convert"]

ACTION = "files.convert_encoding"

_CHUNK = 256 * 1024
_MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
_WITH_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_LOST: ContextVar[list[int]] = ContextVar("lost")


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """The options of ``files.convert_encoding``; see its parameters."""

    from_encoding: str = "auto"
    to_encoding: str = "utf-8"
    fallback_encoding: str = ""
    newline: Literal["keep", "lf", "crlf"] = "keep"
    bom: bool = False
    on_error: Literal["strict", "replace", "ignore"] = "strict"
    if_exists: IfExists = "overwrite"
    max_files: int = 10_000

    def __post_init__(self) -> None:
        one_of("newline", self.newline, ("keep", "lf", "crlf"))
        one_of("on_error", self.on_error, ("strict", "replace", "ignore"))
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        for field in ("from_encoding", "to_encoding", "fallback_encoding"):
            name = getattr(self, field)
            if (field, name) in (("from_encoding", "auto"), ("fallback_encoding", "")):
                continue
            if text_encoding(name, field) in ("idna", "punycode"):
                raise ConfigError(f"{name} is not an encoding for files", field=field, remedy="use e.g. 'cp1252'")
        if self.fallback_encoding and self.from_encoding != "auto":
            raise ConfigError(
                "fallback_encoding needs from_encoding='auto'", field="fallback_encoding", remedy="remove it"
            )
        if self.bom and self.target[0] not in _MARKS:
            raise ConfigError(f"{self.to_encoding} has no byte order mark", field="bom", remedy="remove bom")

    @property
    def target(self) -> tuple[str, bytes]:
        """The codec of the output, and the byte order mark to write."""
        name = text_encoding(self.to_encoding)
        plain = _WITH_MARK.get(name, name)
        return plain, _MARKS.get(plain, b"") if self.bom or plain != name else b""


async def convert(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str],
    run: Run,
    options: EncodingOptions,
    *,
    identity_of_work: Json = None,
) -> EncodingResult:
    """Convert every file that ``sources`` match, one after another, and publish each under its new name.

    :param dest: an open store and the path of the target file, or of a folder if it ends with ``/`` or ``sources`` can
        match several files.
    :param identity_of_work: JSON that identifies the work; a retry resumes only if it is equal.
    """
    publisher = Publisher(run, dest[0], ACTION, identity_of_work, options.if_exists, announce=False)
    froms = [Source(*source) for source in sources]
    items = await find(froms, run, recursive=False, max_files=options.max_files, missing_ok=publisher.resumed)
    if not items and not publisher.resumed:
        wanted = ", ".join(source.path for source in froms)
        raise NotFound(f"nothing matches {wanted}", remedy="correct the path")
    targets = await _targets(items, froms, dest)
    await publisher.refuse_existing(targets.values())
    progress = run.progress("convert", unit="files", total=len(items))
    lost = int(str(publisher.last[2])) if publisher.last else 0
    for item in items:
        if publisher.last is None or list(item.key) > list(publisher.last[:2]):
            produce = _producer(froms[item.source], item, options)
            before = lost

            def key(published: Published, item: Item = item, before: int = before) -> list[Json]:
                return [*item.key, before + _detail(published)[2]]

            published = await publisher.publish(targets[item.key], produce, key=key)
            lost = before + _detail(published)[2]
            if lost > before:
                run.log.warning("%s: %d bytes or characters could not be converted.", item.relative, lost - before)
        progress.advance()
    progress.finish()
    entries = [
        ConvertedFile(path=file.path, size=file.size, encoding=encoding, found_by=found_by, lost=count)
        for file in publisher.published
        if not file.skipped
        for encoding, found_by, count in [_detail(file)]
    ]
    return EncodingResult(
        files=publisher.files, bytes=publisher.bytes, skipped=publisher.skipped, lost=lost, entries=entries
    )


async def _targets(items: Sequence[Item], sources: list[Source], dest: tuple[Store, str]) -> dict[tuple[int, str], str]:
    where = Destination(*dest, sources)
    await where.resolve()
    targets = {item.key: where.target(item) for item in items}
    if len(set(targets.values())) != len(items):
        raise ConfigError("two files would get the same name", field="source", remedy="convert them in two tasks")
    own = {sources[item.source].path_of(item.relative) for item in items if sources[item.source].store is dest[0]}
    if own & set(targets.values()):
        raise ConfigError(
            "a file would replace its source, and a retry would convert it twice",
            field="dest",
            remedy="choose another folder",
        )
    return targets


def _detail(published: Published) -> tuple[str, str, int]:
    if not isinstance(published.detail, list):
        return "", "", 0
    encoding, found_by, lost = published.detail
    return str(encoding), str(found_by), int(str(lost))


def _producer(source: Source, item: Item, options: EncodingOptions) -> Produce:
    path = source.path_of(item.relative)

    async def produce(sink: Sink) -> Json:
        found = await _detect(source.store, path, options)
        lost = [0]
        _LOST.set(lost)
        converter = _Converter(found, options, path)
        await sink.write(options.target[1])
        skip = found.mark
        async for chunk in pinned(source.store, path, item.identity):
            for start in range(0, len(chunk), _CHUNK):
                piece = chunk[start : start + _CHUNK]
                await sink.write(await asyncio.to_thread(converter.feed, piece[skip:]))
                skip = max(0, skip - len(piece))
        await sink.write(converter.feed(b"", final=True))
        return [found.encoding, found.found_by, lost[0]]

    return produce


async def _detect(store: Store, path: str, options: EncodingOptions) -> Guess:
    """Determine the encoding of a file."""
    if options.from_encoding == "auto":
        return await guess(store.read(path), fallback=options.fallback_encoding, what=path)
    name = text_encoding(options.from_encoding)
    name = "utf-8" if name == "utf-8-sig" else name
    head = b"".join([chunk async for chunk in store.read(path, 0, 4)])
    marked = mark_of(head)
    return Guess(encoding=name, found_by="given", mark=marked.mark if marked and marked.encoding == name else 0)


class _Converter:
    """Converts chunks of bytes from one encoding to another.

    :param what: the file, for messages.
    """

    def __init__(self, found: Guess, options: EncodingOptions, what: str) -> None:
        errors = "strict" if options.on_error == "strict" else f"flowrunner.{options.on_error}"
        self._found, self._what, self._newline = found, what, options.newline
        self._decoder = codecs.getincrementaldecoder(found.encoding)(errors)
        self._encoding = options.target[0]
        self._encoder = codecs.getincrementalencoder(self._encoding)(errors)
        self._lines = io.IncrementalNewlineDecoder(None, translate=True)
        self._certain = bytes(sorted(set(range(256)) - set(found.doubtful)))
        self._at, self._line = found.mark, 1

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """Convert the next bytes.

        :raises PermanentError: for bytes or characters that cannot be converted, with their position.
        """
        if self._found.doubtful and (ambiguous := data.translate(None, self._certain)):
            at = self._at + data.index(ambiguous[:1])
            raise self._decode_error(
                at, "the encoding was detected from the start of the file and is ambiguous for this byte"
            )
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise self._decode_error(self._at + len(data) - len(error.object) + error.start, error.reason) from None
        self._at += len(data)
        if self._newline != "keep":
            text = self._lines.decode(text, final)
            text = text.replace("\n", "\r\n") if self._newline == "crlf" else text
        try:
            encoded = self._encoder.encode(text, final)
        except UnicodeEncodeError as error:
            line = self._line + text.count("\n", 0, error.start)
            raise PermanentError(
                f"{self._what}: line {line} contains the character U+{ord(error.object[error.start]):04X}, "
                f"which {self._encoding} cannot encode",
                remedy="convert to utf-8, or set on_error to 'replace' or 'ignore'",
            ) from None
        self._line += text.count("\n")
        return encoded

    def _decode_error(self, at: int, why: str) -> PermanentError:
        return PermanentError(
            f"{self._what} is not {self._found.encoding} ({self._found.found_by}): byte {at} cannot be decoded: {why}",
            remedy="set the right from_encoding, or set on_error to 'replace' or 'ignore'",
        )


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    _count_loss(error)
    return codecs.replace_errors(error)


def _ignore(error: UnicodeError) -> tuple[str | bytes, int]:
    _count_loss(error)
    return codecs.ignore_errors(error)


def _count_loss(error: UnicodeError) -> None:
    """Count one loss per undecodable sequence, and one per character that cannot be encoded."""
    _LOST.get()[0] += error.end - error.start if isinstance(error, UnicodeEncodeError) else 1


codecs.register_error("flowrunner.replace", _replace)
codecs.register_error("flowrunner.ignore", _ignore)
