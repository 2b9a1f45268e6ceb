"""Read, write, and append to small files."""

from __future__ import annotations

import base64
import codecs
import json
from typing import Any, Literal

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.results import WriteResult
from flowrunner_provider.files.session import token_of
from flowrunner_provider.files.store import Entry, Store, Upload, identity
from flowrunner_provider.files.transfer import digest_of

__all__ = ["AppendOnce", "ReadAs", "decode_content", "encode_content", "read_whole", "text_encoding", "write_once"]

ReadAs = Literal["text", "lines", "base64", "json"]
Newline = Literal["keep", "lf", "crlf"]
IfExists = Literal["overwrite", "skip", "fail"]


def text_encoding(name: str, field: str = "encoding") -> str:
    """Return the canonical name of a text encoding.

    :param field: the parameter that it was passed as.
    :raises ConfigError: if Python does not know a text encoding of that name.
    """
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, TypeError, ValueError):
        raise ConfigError(
            f"unknown encoding {name!r}", field=field, remedy="write 'utf-8', 'cp1252' or 'latin-1'"
        ) from None


async def read_whole(store: Store, path: str, max_bytes: int) -> bytes:
    """Return the content of a file as of one moment.

    :raises PermanentError: if it is larger than ``max_bytes``.
    :raises Unavailable: if it changed while it was read.
    """
    before = await store.stat(path)
    if before.is_dir:
        raise PermanentError(f"{store.where}{path} is a folder", remedy="name a file")
    data = bytearray()
    async for chunk in store.read(path, 0, max_bytes + 1):
        data += chunk
    if len(data) > max_bytes:
        raise PermanentError(
            f"{store.where}{path} has more than {max_bytes} bytes",
            remedy="raise max_bytes; or keep it a file, with files.copy or data.read_csv",
        )
    if identity(await store.stat(path)) != identity(before):
        raise Unavailable(f"{store.where}{path} changed while it was read", remedy="nothing to do: the task is retried")
    if before.size not in (None, len(data)):
        raise IntegrityError(
            f"{store.where}{path}: only {len(data)} of {before.size} bytes were received",
            remedy="check the disk of the server",
        )
    return bytes(data)


def decode_content(data: bytes, read_as: ReadAs, encoding: str, what: str) -> Any:
    """Return ``data`` in the form ``read_as``.

    :param what: the file, for messages.
    :raises PermanentError: if ``data`` is not in that encoding, or not JSON.
    """
    if read_as == "base64":
        return base64.b64encode(data).decode("ascii")
    if text_encoding(encoding) == "utf-8":
        encoding = "utf-8-sig"  # a byte order mark is not part of the text
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise PermanentError(
            f"{what} is not {encoding}: byte {error.start} cannot be decoded",
            remedy="correct encoding, or read as base64",
        ) from error
    if read_as == "text":
        return text
    if read_as == "lines":
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return lines if lines[-1] else lines[:-1]
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"{what} is not JSON: {error}", remedy="correct the file, or read it as text") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def encode_content(content: Any, encoding: str, newline: Newline) -> bytes:
    """Return the bytes of ``content``: a text as it is, any other value as JSON.

    :raises ConfigError: if it cannot be written as JSON, or not in that encoding.
    """
    try:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"content is not JSON: {error}", field="content", remedy="pass a text, or a value that JSON can represent"
        ) from error
    if newline != "keep":
        text = text.replace("\r\n", "\n").replace("\n", "\n" if newline == "lf" else "\r\n")
    try:
        return text.encode(text_encoding(encoding))
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"content has characters that {encoding} lacks, the first at position {error.start}",
            field="encoding",
            remedy="use utf-8",
        ) from error


async def write_once(store: Store, path: str, data: bytes, if_exists: IfExists, run: Run, label: str) -> WriteResult:
    """Give the file ``path`` the content ``data`` in one step."""
    checkpoint = run.checkpoint("write", fingerprint(path, if_exists, data))
    written = WriteResult(path=label, bytes=len(data), size=len(data))
    if if_exists != "overwrite":
        present = await _stat(store, path)
        if present is not None:
            same = checkpoint.state is not None and present.size in (None, len(data))
            if same and await _holds(store, path, 0, data):
                await store.forget(path, token_of(run))
                return written  # by an attempt that was killed after the commit
            return _skip_or_fail(label, present, len(data), if_exists)
        checkpoint.save(True, force=True)
    guard = FencingGuard(run)
    upload = await _upload(store, path, run, data, guard)
    try:
        guard.check_now()
        failpoint("files.write.before_commit")
        await upload.commit(replace=if_exists == "overwrite")
        failpoint("files.write.after_commit")
    except AlreadyExists:
        await upload.discard()
        return _skip_or_fail(label, await store.stat(path), len(data), if_exists)
    except BaseException as error:
        await guard.clean_up(upload, error)
        raise
    finally:
        await upload.close()
    return written


def _skip_or_fail(label: str, present: Entry, count: int, if_exists: IfExists) -> WriteResult:
    if if_exists == "fail":
        raise AlreadyExists(f"{label} already exists", remedy="delete it, or set if_exists to 'overwrite' or 'skip'")
    return WriteResult(path=label, bytes=count, size=present.size or 0, skipped=True)


async def _stat(store: Store, path: str) -> Entry | None:
    try:
        entry = await store.stat(path)
    except NotFound:
        return None
    if entry.is_dir or entry.is_link:
        kind = "a folder" if entry.is_dir else "a symbolic link"
        raise PermanentError(f"{store.where}{path} is {kind}", remedy="name a file")
    return entry


async def _holds(store: Store, path: str, offset: int, data: bytes) -> bool:
    """Return whether ``data`` is at ``offset``."""
    return b"".join([chunk async for chunk in store.read(path, offset, len(data))]) == data


async def _upload(store: Store, path: str, run: Run, data: bytes, guard: FencingGuard, base: int = 0) -> Upload:
    """Upload the first ``base`` bytes of the present file and then ``data``; synced and counted, but not committed."""
    folder = path.rpartition("/")[0]
    if folder:
        failpoint("files.write.before_mkdir")
        await store.mkdir(folder, parents=True)
    guard.check()
    failpoint("files.write.before_begin")
    upload = await store.begin(path, token_of(run), size=base + len(data))
    try:
        if base:
            async for chunk in store.read(path, 0, base):
                await upload.write(chunk)
        await upload.write(data)
        await upload.sync()
        failpoint("files.write.after_sync")
        held = await upload.size()
        if held != base + len(data):
            raise IntegrityError(
                f"{store.where}{path}: {base + len(data)} bytes were sent, but it has {held}",
                remedy="check the disk of the server",
            )
    except BaseException as error:
        await guard.clean_up(upload, error)
        await upload.close()
        raise
    return upload


class AppendOnce:
    """Appends ``data`` to a file exactly once.

    The file is replaced by one with the old bytes followed by the new ones. Before that, the length and digest of the
    old bytes are written to the checkpoint. If a retry finds the old file, it appends; if it finds the old bytes
    followed by the new ones, it is done; otherwise somebody else has written to the file, and it stops.
    """

    def __init__(self, store: Store, path: str, data: bytes, run: Run, label: str) -> None:
        self._store, self._path, self._data, self._run, self._label = store, path, data, run, label
        self._checkpoint = run.checkpoint("append", fingerprint("append", path))

    async def run(self) -> WriteResult:
        """Append, unless an earlier attempt has done so."""
        announced = self._checkpoint.state or None
        present = await _stat(self._store, self._path)
        if announced is not None:
            if announced["content"] != fingerprint(self._data):
                raise PermanentError(
                    f"{self._label}: an earlier attempt appended, or was about to append, other content",
                    remedy="remove times and try numbers from the content, or start a new run",
                )
            if await self._is_done(announced, present):
                await self._store.forget(self._path, token_of(self._run))
                return self._result(announced["base"])
        return await self._append(present)

    def _result(self, base: int) -> WriteResult:
        return WriteResult(path=self._label, bytes=len(self._data), size=base + len(self._data))

    async def _is_done(self, announced: dict[str, Any], present: Entry | None) -> bool:
        base, size = announced["base"], None if present is None else present.size
        if present is None and announced["new"]:
            return False
        if present is not None and size is not None and size >= base:
            digest = await digest_of(self._store.read(self._path, 0, base))
            if digest.hexdigest() == announced["digest"] and digest.size == base:
                if size >= base + len(self._data) and await _holds(self._store, self._path, base, self._data):
                    return True
                if size == base and not announced["new"]:
                    return False
        raise OutcomeUnknown(
            f"{self._label} was changed by somebody else since an attempt of this task was interrupted",
            reconcilable=False,
            remedy="look whether the content is in the file; then clear the task with resume=False to append it",
        )

    async def _append(self, present: Entry | None) -> WriteResult:
        store, base = self._store, 0 if present is None else present.size or 0
        if present is not None and not store.capabilities.atomic_replace:
            raise ConfigError(
                f"{store.where} cannot replace a file atomically, so a killed append could lose it",
                field="append",
                remedy="write each part to a separate file",
            )
        digest = Digest() if present is None else await digest_of(store.read(self._path, 0, base))
        if digest.size != base:
            raise Unavailable(f"{self._label} changed while it was read", remedy="nothing to do: the task is retried")
        guard = FencingGuard(self._run)
        upload = await _upload(store, self._path, self._run, self._data, guard, base)
        try:
            await self._refuse_changed(present)
        except (PermanentError, Unavailable) as error:
            await guard.clean_up(upload, error, keep=False)
            await upload.close()
            raise
        try:
            announced = {
                "base": base, "new": present is None, "digest": digest.hexdigest(), "content": fingerprint(self._data),
            }  # fmt: skip
            self._checkpoint.save(announced, force=True)
            failpoint("files.write.before_append")
            await upload.commit(replace=present is not None, modified=None)
            failpoint("files.write.after_append")
        except AlreadyExists as error:
            self._checkpoint.save({}, force=True)  # it certainly did not happen
            await upload.discard()
            raise ConnectionLost(
                f"{self._label} was created by somebody else", remedy="nothing to do: the task is retried"
            ) from error
        except BaseException as error:
            await guard.clean_up(upload, error)
            raise
        finally:
            await upload.close()
        return self._result(base)

    async def _refuse_changed(self, present: Entry | None) -> None:
        now = await _stat(self._store, self._path)
        if (now and identity(now)) != (present and identity(present)):
            raise Unavailable(f"{self._label} was changed by somebody else", remedy="append from one task at a time")
