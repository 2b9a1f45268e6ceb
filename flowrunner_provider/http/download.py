"""One address into one file: streamed, resumed where it broke off, and under its name only when it is whole."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from flowrunner_provider.core.checkpoint import Checkpoint, fingerprint
from flowrunner_provider.core.errors import AlreadyExists, ConfigError, IntegrityError, TransientError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import filename_from_disposition, safe_component
from flowrunner_provider.core.part_file import PartFile, disk_errors
from flowrunner_provider.core.progress import Progress
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.http.client import part_token
from flowrunner_provider.http.results import Download
from flowrunner_provider.transport.http import HttpTransport, Streamed

__all__ = ["CHECKPOINT_SECONDS", "DownloadSpec", "IfExists", "download"]

CHECKPOINT_SECONDS = 3.0
"""Least time between two checkpoints: each is an fsync and a call to the state store."""

_BLOCK = 256 * 1024

IfExists = Literal["overwrite", "skip", "fail"]

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class DownloadSpec:
    """The parameters of ``http.download``, checked; ``folder`` tells that the name comes from the server."""

    endpoint: str
    save_to: Path
    folder: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    algorithm: str = ""
    checksum: str = ""
    max_bytes: int | None = None
    if_exists: IfExists = "overwrite"


@dataclass
class _State:
    """What a checkpoint holds: how many bytes are durable, and of which version of which file."""

    name: str = ""
    offset: int = 0
    total: int | None = None
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    inode: int = 0

    @property
    def validator(self) -> str:
        """For If-Range: a strong entity tag, else the date; empty when there is neither."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class _Job:
    def __init__(self, http: HttpTransport, spec: DownloadSpec, run: Run) -> None:
        self.http, self.spec, self.run = http, spec, run
        identity = fingerprint(spec.endpoint, spec.params, str(spec.save_to), http.settings.base_url)
        self.checkpoint: Checkpoint = run.checkpoint("http.download", identity)
        self.state = _State(**(self.checkpoint.state or {}))
        self.part: PartFile | None = None
        self.digest: Digest | None = None
        self.progress: Progress | None = None
        self.saved_at = run.clock.monotonic()

    @property
    def target(self) -> Path:
        return self.spec.save_to / self.state.name if self.spec.folder else self.spec.save_to

    async def work(self) -> Download:
        if self._landed():
            return self._result()
        if not self.spec.folder and (kept := self._kept()):
            return kept
        try:
            kept = await self._fetch_all()
            if kept is not None:
                return kept
            self._verify()
            self._commit()
        except (IntegrityError, AlreadyExists):
            if self.part is not None:
                self.part.discard()
            raise
        finally:
            if self.part is not None:
                self.part.close()
        return self._result()

    def _landed(self) -> bool:
        """Whether an earlier attempt was killed after the file got its name: it is known by its inode."""
        if not self.state.inode or not self.target.is_file() or self.target.stat().st_ino != self.state.inode:
            return False
        PartFile(self.target, part_token(self.run)).discard()
        return True

    def _kept(self) -> Download | None:
        """What ``if_exists`` makes of a file that is there already."""
        if self.spec.if_exists == "overwrite" or not self.target.exists():
            return None
        if self.spec.if_exists == "fail":
            raise AlreadyExists(
                f"{self.target} is there already", remedy="choose another name, or if_exists='overwrite'"
            )
        return Download(path=str(self.target), bytes=self.target.stat().st_size, skipped=True)

    async def _fetch_all(self) -> Download | None:
        """Fetch until the body is whole; a broken connection is resumed while that makes progress."""
        failures = 0
        while True:
            before = self.state.offset
            try:
                return await self._fetch()
            except TransientError as error:
                if self.part is not None:
                    self.state.offset = self.part.tell()
                failures = 1 if self.state.offset > before else failures + 1
                wait = self.run.retry.wait(error, failures, self.run.deadline)
                if wait is None:
                    self._save()
                    raise
            await apause(wait)

    async def _fetch(self) -> Download | None:
        """One request for what is missing."""
        state, spec = self.state, self.spec
        start = self._start()
        headers = {**spec.headers, "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": state.validator}
        expected = frozenset({200, 206, 416}) if start else None
        async with self.http.stream(
            "GET", spec.endpoint, params=spec.params, headers=headers, expected=expected
        ) as answer:
            if start and not self._continues(answer, start):
                start = 0
                if answer.status != 200:
                    state.offset = 0
                    self._forget()
                    return await self._fetch()
            if start == 0:
                self._begin(answer)
                if spec.folder and (kept := self._kept()):
                    return kept
            await self._write(answer, start)
        return None

    def _start(self) -> int:
        """The byte to ask for next; the last one again when all are there, as no server sends none."""
        state = self.state
        if not state.validator or not state.offset or (self.spec.folder and not state.name):
            return 0
        start = state.offset - 1 if state.offset == state.total else state.offset
        return start if self._open(start) == start else 0

    def _continues(self, answer: Streamed, start: int) -> bool:
        """Whether the answer goes on where the part ends, with the same version of the file.

        :raises IntegrityError: for another range than the one asked for.
        """
        state = self.state
        if answer.status != 206:
            return False
        if state.etag and answer.headers.get("ETag", state.etag) != state.etag:
            return False
        if answer.headers.get("Last-Modified", state.last_modified) != state.last_modified:
            return False
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start or (match[3] != "*" and state.total not in (None, int(match[3]))):
            raise IntegrityError(
                f"bytes from {start} were asked for, and Content-Range is "
                f"{answer.headers.get('Content-Range', 'missing')[:80]!r}",
                remedy="the server's ranges cannot be trusted: clear the task with resume=False",
            )
        return True

    def _forget(self) -> None:
        self.state = _State(name=self.state.name)

    def _begin(self, answer: Streamed) -> None:
        """Start from the first byte, and remember of which version."""
        if answer.status == 206:
            raise IntegrityError("a part was sent, and the whole was asked for", remedy="ask the server's owner")
        headers = answer.headers
        self.state = _State(
            name=self._name(answer) if self.spec.folder else "",
            total=answer.length,
            etag=headers.get("ETag", ""),
            last_modified=headers.get("Last-Modified", ""),
            content_type=headers.get("Content-Type", ""),
        )
        if self.spec.max_bytes is not None and (answer.length or 0) > self.spec.max_bytes:
            raise self._too_large()
        if self.part is not None and self.part.path != self.target:
            self.part.discard()
            self.part = None
        self._open(0)

    def _name(self, answer: Streamed) -> str:
        disposition = answer.headers.get("Content-Disposition", "")
        name = filename_from_disposition(disposition) or unquote(urlsplit(answer.url).path.rpartition("/")[2])
        if not name:
            raise ConfigError(
                "the server names no file", field="save_to", remedy="give the name of the file, not of a folder"
            )
        return safe_component(name)

    def _open(self, offset: int) -> int:
        failpoint("http.download.before_open")
        if self.part is None:
            self.part = PartFile(self.target, part_token(self.run))
        self.part.close()
        offset = self.part.open(offset)
        self.state.offset = offset
        self.digest = Digest(self.spec.algorithm) if self.spec.algorithm else None
        if self.digest is not None:
            for chunk in self.part.read():
                self.digest.update(chunk)
        failpoint("http.download.after_open")
        return offset

    async def _write(self, answer: Streamed, start: int) -> None:
        state = self.state
        self.progress = self.progress or self.run.progress("fetch", unit="bytes", total=state.total, start=start)
        self.progress.total, self.progress.done = state.total, start
        pending = bytearray()
        try:
            async for chunk in answer.chunks:
                pending += chunk
                if self.spec.max_bytes is not None and state.offset + len(pending) > self.spec.max_bytes:
                    raise self._too_large()
                while len(pending) >= _BLOCK:
                    block = bytes(pending[:_BLOCK])
                    del pending[:_BLOCK]
                    self._put(block)
        except TransientError:
            self._put(bytes(pending))  # good bytes: the next request asks for what follows them
            raise
        self._put(bytes(pending))
        if state.total is not None and state.offset != state.total:
            raise IntegrityError(
                f"{self._what()} has {state.offset} of {state.total} bytes", remedy="run it again from the start"
            )
        self.progress.finish()

    def _put(self, block: bytes) -> None:
        if self.part is None or not block:
            return
        self.part.write(block)
        if self.digest is not None:
            self.digest.update(block)
        self.state.offset += len(block)
        failpoint("http.download.after_block")
        if self.progress is not None:
            self.progress.advance(len(block))
        if self.run.clock.monotonic() - self.saved_at >= CHECKPOINT_SECONDS:
            self._save()

    def _save(self) -> None:
        if self.part is None or not self.state.validator:
            return
        self.part.sync()
        self.checkpoint.save(asdict(self.state), force=True)
        self.saved_at = self.run.clock.monotonic()
        failpoint("http.download.after_checkpoint")

    def _verify(self) -> None:
        if self.digest is not None and self.digest.hexdigest() != self.spec.checksum:
            raise IntegrityError(
                f"{self._what()}: the {self.spec.algorithm} is {self.digest.hexdigest()}, not {self.spec.checksum}",
                remedy="check the expected value; if it is right, the file was damaged or replaced",
            )

    def _commit(self) -> None:
        if self.part is None:
            raise ValueError("the part is not open")
        self.part.sync()
        with disk_errors(str(self.target)):
            self.state.inode = self.part.part.stat().st_ino
        self.checkpoint.save(asdict(self.state), force=True)
        failpoint("http.download.before_commit")
        self.part.commit(replace=self.spec.if_exists == "overwrite")
        failpoint("http.download.after_commit")

    def _result(self) -> Download:
        state, spec = self.state, self.spec
        return Download(
            path=str(self.target),
            bytes=state.offset,
            checksum=f"{spec.algorithm}:{spec.checksum}" if spec.algorithm else "",
            etag=state.etag,
            last_modified=state.last_modified,
            content_type=state.content_type,
        )

    def _what(self) -> str:
        return f"the file of {redact_url(self.spec.endpoint)}"

    def _too_large(self) -> IntegrityError:
        return IntegrityError(
            f"{self._what()} is larger than {self.spec.max_bytes:,} bytes", remedy="raise `max_bytes` if that is right"
        )


async def download(http: HttpTransport, spec: DownloadSpec, run: Run) -> Download:
    """Put the whole file, checked against length and checksum, under its name.

    A retry, or a connection that breaks, goes on where the bytes are durable, if the server still has the
    same version (strong ETag, or Last-Modified) and knows ranges; else it starts again.
    """
    return await _Job(http, spec, run).work()
