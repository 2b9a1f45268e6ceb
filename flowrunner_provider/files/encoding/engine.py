"""The engine that writes texts of any store in another encoding, as streams."""

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
from flowrunner_provider.files.derived import ConvertedFile, EncodingResult
from flowrunner_provider.files.encoding.guess import Guess, guess, mark_of
from flowrunner_provider.files.plan import Destination, Item, Source, find
from flowrunner_provider.files.publish import IfExists, Produce, Published, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.store import Store

__all__ = ["EncodingOptions", "convert"]

ACTION = "files.convert_encoding"

_STEP = 256 * 1024
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
    """How to convert; the parameters of ``files.convert_encoding`` say what each means."""

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
                raise ConfigError(f"{name} is no encoding of files", field=field, remedy="write 'cp1252', say")
        if self.fallback_encoding and self.from_encoding != "auto":
            raise ConfigError("from_encoding is named", field="fallback_encoding", remedy="leave it out")
        if self.bom and self.target[0] not in _MARKS:
            raise ConfigError(f"{self.to_encoding} has no byte order mark", field="bom", remedy="leave it out")

    @property
    def target(self) -> tuple[str, bytes]:
        """What is written, and the bytes before it."""
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
    """Convert every file that ``sources`` name, one after another; on return each is whole under its new name.

    :param dest: an open store and a path: a folder if it ends with ``/`` or several files may come, else the file.
    :param identity_of_work: what must be the same for a retry to go on (JSON).
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
                run.log.warning("%s: %d places were lost.", item.relative, lost - before)
        progress.advance()
    progress.finish()
    entries = [
        ConvertedFile(path=one.path, size=one.size, encoding=encoding, found_by=found_by, lost=count)
        for one in publisher.published
        if not one.skipped
        for encoding, found_by, count in [_detail(one)]
    ]
    return EncodingResult(
        files=publisher.files, bytes=publisher.bytes, skipped=publisher.skipped, lost=lost, entries=entries
    )


async def _targets(items: Sequence[Item], sources: list[Source], dest: tuple[Store, str]) -> dict[tuple[int, str], str]:
    where = Destination(*dest, sources)
    await where.resolve()
    targets = {item.key: where.target(item) for item in items}
    if len(set(targets.values())) != len(items):
        raise ConfigError("two files would get one name", field="source", remedy="convert them in two tasks")
    own = {sources[item.source].path_of(item.relative) for item in items if sources[item.source].store is dest[0]}
    if own & set(targets.values()):
        raise ConfigError(
            "a file would replace its own source, and a retry would convert it twice",
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
        found = await _opening(source.store, path, options)
        lost = [0]
        _LOST.set(lost)
        converter = _Converter(found, options, path)
        await sink.write(options.target[1])
        skip = found.mark
        async for chunk in pinned(source.store, path, item.identity):
            for start in range(0, len(chunk), _STEP):
                piece = chunk[start : start + _STEP]
                await sink.write(await asyncio.to_thread(converter.feed, piece[skip:]))
                skip = max(0, skip - len(piece))
        await sink.write(converter.feed(b"", final=True))
        return [found.encoding, found.found_by, lost[0]]

    return produce


async def _opening(store: Store, path: str, options: EncodingOptions) -> Guess:
    """In what encoding the file is."""
    if options.from_encoding == "auto":
        return await guess(store.read(path), fallback=options.fallback_encoding, what=path)
    name = text_encoding(options.from_encoding)
    name = "utf-8" if name == "utf-8-sig" else name
    head = b"".join([chunk async for chunk in store.read(path, 0, 4)])
    marked = mark_of(head)
    return Guess(encoding=name, found_by="given", mark=marked.mark if marked and marked.encoding == name else 0)


class _Converter:
    """Bytes of one encoding in, bytes of another out.

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
        """The next bytes.

        :raises PermanentError: for what cannot be read or written, with its place.
        """
        if self._found.doubtful and (odd := data.translate(None, self._certain)):
            at = self._at + data.index(odd[:1])
            raise self._unreadable(at, "it is detected by its start alone, and reads this byte like no other")
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise self._unreadable(self._at + len(data) - len(error.object) + error.start, error.reason) from None
        self._at += len(data)
        if self._newline != "keep":
            text = self._lines.decode(text, final)
            text = text.replace("\n", "\r\n") if self._newline == "crlf" else text
        try:
            made = self._encoder.encode(text, final)
        except UnicodeEncodeError as error:
            line = self._line + text.count("\n", 0, error.start)
            raise PermanentError(
                f"{self._what}: line {line} holds the letter U+{ord(error.object[error.start]):04X}, "
                f"which {self._encoding} lacks",
                remedy="write utf-8, or set on_error to 'replace' or 'ignore'",
            ) from None
        self._line += text.count("\n")
        return made

    def _unreadable(self, at: int, why: str) -> PermanentError:
        return PermanentError(
            f"{self._what} is not {self._found.encoding} ({self._found.found_by}): byte {at} cannot be read: {why}",
            remedy="name the right from_encoding, or set on_error to 'replace' or 'ignore'",
        )


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    _count(error)
    return codecs.replace_errors(error)


def _ignore(error: UnicodeError) -> tuple[str | bytes, int]:
    _count(error)
    return codecs.ignore_errors(error)


def _count(error: UnicodeError) -> None:
    """One place for what cannot be read, one for each letter that cannot be written."""
    _LOST.get()[0] += error.end - error.start if isinstance(error, UnicodeEncodeError) else 1


codecs.register_error("flowrunner.replace", _replace)
codecs.register_error("flowrunner.ignore", _ignore)
