"""Download engine: one URL to one file, streamed, resumable, with its final name only once complete."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from flowrunner_provider.core.checkpoint import Checkpoint, fingerprint
from flowrunner_provider.core.errors import AlreadyExists, ConfigError, Fenced, IntegrityError, TransientError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import filename_from_disposition, safe_component
from flowrunner_provider.core.progress import Progress
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.http.choices import IfExists
from flowrunner_provider.http.client import part_token
from flowrunner_provider.http.parts import Part, part_of
from flowrunner_provider.http.results import Download
from flowrunner_provider.http.targets import Target
from flowrunner_provider.http.validator import Validator, forget, remember, remembered
from flowrunner_provider.transport.http import HttpTransport, Streamed
from flowrunner_provider.transport.http_body import BodyCut

__all__ = ["CHECKPOINT_SECONDS", "DownloadSpec", "download"]

CHECKPOINT_SECONDS = 3.0
"""Minimum time between two checkpoints; each costs an fsync and a call to the state store."""

_BLOCK = 256 * 1024

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class DownloadSpec:
    """The validated parameters of ``http.download``; with ``folder`` the server chooses the file name."""

    endpoint: str
    save_to: Target
    folder: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    algorithm: str = ""
    checksum: str = ""
    max_bytes: int | None = None
    if_exists: IfExists = "overwrite"
    only_if_changed: bool = False


@dataclass
class _State:
    """The content of a checkpoint: number of durable bytes, and the version of the file they belong to."""

    name: str = ""
    offset: int = 0
    total: int | None = None
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    inode: int = 0
    committing: bool = False

    @property
    def validator(self) -> str:
        """Value for If-Range: a strong entity tag, or the date; empty without either."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class _DownloadJob:
    def __init__(self, http: HttpTransport, spec: DownloadSpec, run: Run) -> None:
        self.http, self.spec, self.run = http, spec, run
        identity = fingerprint(spec.endpoint, spec.params, spec.save_to.shown, http.settings.base_url)
        self.checkpoint: Checkpoint = run.checkpoint("http.download", identity)
        self.state = _State(**(self.checkpoint.state or {}))
        self.durable = self.state.offset
        self.remembered_version: Validator | None = None
        self.part: Part | None = None
        self.digest: Digest | None = None
        self.progress: Progress | None = None
        self.saved_at = run.clock.monotonic()
        self.guard = FencingGuard(run)

    @property
    def target(self) -> Target:
        return self.spec.save_to.below(self.state.name) if self.spec.folder else self.spec.save_to

    async def execute(self) -> Download:
        if await self._was_committed():
            return await self._result()
        if not self.spec.folder and (existing := await self._existing_file()):
            return existing
        if self.spec.only_if_changed:
            self.remembered_version = await remembered(self.target, self._source_fingerprint())
        try:
            existing = await self._fetch_with_retries()
            if existing is not None:
                return existing
            self._verify()
            await self._commit()
        except (IntegrityError, AlreadyExists, Fenced) as error:
            if self.part is not None:
                await self.guard.clean_up(self.part, error)
            raise
        finally:
            if self.part is not None:
                await self.part.close()
        return await self._result()

    async def _was_committed(self) -> bool:
        """Return whether an earlier attempt was killed after the file got its final name."""
        state = self.state
        if not state.committing:
            return False
        part = part_of(self.target, part_token(self.run))
        if not await part.landed(state.offset, state.inode, self.spec.algorithm, self.spec.checksum):
            return False
        await part.discard()
        return True

    async def _existing_file(self) -> Download | None:
        """Apply ``if_exists`` to an existing file; None if the download should proceed."""
        if self.spec.if_exists == "overwrite":
            return None
        size = await part_of(self.target, part_token(self.run)).present()
        if size is None:
            return None
        if self.spec.if_exists == "fail":
            raise AlreadyExists(
                f"{self.target.shown} already exists", remedy="use another name, or if_exists='overwrite'"
            )
        return Download(path=self.target.shown, bytes=size, skipped=True, changed=False)

    async def _fetch_with_retries(self) -> Download | None:
        """Fetch until the body is complete; resume broken connections as long as that makes progress.

        :raises IntegrityError: if the body is cut at the same byte every time.
        """
        failures = cuts = 0
        while True:
            before = self.state.offset
            try:
                return await self._request_rest()
            except TransientError as error:
                await self._keep_received()
                failures = 1 if self.state.offset > before else failures + 1
                cuts = cuts + 1 if isinstance(error, BodyCut) and failures > 1 else int(isinstance(error, BodyCut))
                wait = self.run.retry.wait(error, failures, self.run.deadline)
                if wait is None and 1 < cuts == self.run.retry.attempts:
                    raise IntegrityError(
                        f"{error.message}; {self._describe()} was cut short {cuts} times in a row",
                        remedy="check the server and its proxies: the answer is never complete",
                    ) from error
                if wait is None:
                    await self._save_checkpoint()
                    raise
            await apause(wait)

    async def _keep_received(self) -> None:
        """After a failure, keep the received bytes; the next request asks for the rest."""
        if self.part is None:
            return
        try:
            await self.part.sync()
            self.state.offset = self.part.offset
        except TransientError:
            self.state.offset = self.durable

    async def _request_rest(self) -> Download | None:
        """Send one request for the missing bytes."""
        state, spec = self.state, self.spec
        start = await self._open_for_resume()
        headers = {**spec.headers, "Accept-Encoding": "identity"}
        expected = None
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": state.validator}
            expected = frozenset({200, 206, 416})
        elif self.remembered_version is not None:
            headers |= self.remembered_version.conditions()
            expected = frozenset({200, 206, 304})
        async with self.http.stream(
            "GET", spec.endpoint, params=spec.params, headers=headers, expected=expected
        ) as answer:
            if answer.status == 304 and self.remembered_version is not None:
                return await self._unchanged(self.remembered_version)
            if start and not self._continues(answer, start):
                start = 0
                if answer.status != 200:
                    state.offset = 0
                    self._reset_state()
                    return await self._request_rest()
            if start == 0 and (existing := await self._start_over(answer)):
                return existing
            await self._write(answer, start)
        return None

    async def _unchanged(self, remembered_version: Validator) -> Download:
        """Return the result for an unchanged file, and remove leftovers of a killed attempt."""
        await (self.part or part_of(self.target, part_token(self.run))).discard()
        return Download(
            path=self.target.shown,
            bytes=remembered_version.bytes,
            etag=remembered_version.etag,
            last_modified=remembered_version.last_modified,
            changed=False,
        )

    async def _open_for_resume(self) -> int:
        """Return the byte to request next; the last one again if all are there, because a range cannot be empty."""
        state = self.state
        if not state.validator or not state.offset or (self.spec.folder and not state.name):
            return 0
        return await self._open(state.offset - 1 if state.offset == state.total else state.offset)

    def _continues(self, answer: Streamed, start: int) -> bool:
        """Return whether the answer continues the same version of the file where the received part ends.

        :raises IntegrityError: if the range differs from the requested one.
        """
        state = self.state
        if answer.status != 206 or answer.headers.get("Content-Encoding", "identity") != "identity":
            return False  # an encoded range counts encoded bytes, the file decoded ones
        if state.etag and answer.headers.get("ETag", state.etag) != state.etag:
            return False
        if answer.headers.get("Last-Modified", state.last_modified) != state.last_modified:
            return False
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start or (match[3] != "*" and state.total not in (None, int(match[3]))):
            raise IntegrityError(
                f"bytes from {start} were requested, but Content-Range is "
                f"{answer.headers.get('Content-Range', 'missing')[:80]!r}",
                remedy="the server's ranges are unreliable: clear the task with resume=False",
            )
        return True

    def _reset_state(self) -> None:
        self.state = _State(name=self.state.name)

    async def _start_over(self, answer: Streamed) -> Download | None:
        """Start at the first byte, and remember the version."""
        if answer.status == 206:
            raise IntegrityError(
                "the server sent a range, but the complete file was requested", remedy="contact the server's owner"
            )
        headers = answer.headers
        self.state = _State(
            name=self._server_file_name(answer) if self.spec.folder else "",
            total=answer.length,
            etag=headers.get("ETag", ""),
            last_modified=headers.get("Last-Modified", ""),
            content_type=headers.get("Content-Type", ""),
        )
        if self.spec.max_bytes is not None and (answer.length or 0) > self.spec.max_bytes:
            raise self._too_large()
        if self.part is not None and self.part.target.path != self.target.path:
            await self.part.discard()
            self.part = None
        if self.spec.folder and (existing := await self._existing_file()):
            return existing
        await self._open(0)
        return None

    def _server_file_name(self, answer: Streamed) -> str:
        disposition = answer.headers.get("Content-Disposition", "")
        name = filename_from_disposition(disposition) or unquote(urlsplit(answer.url).path.rpartition("/")[2])
        if not name:
            raise ConfigError("the server sends no file name", field="save_to", remedy="add the file name to save_to")
        return safe_component(name)

    async def _open(self, offset: int) -> int:
        self.guard.check()
        failpoint("http.download.before_open")
        if self.part is None:
            self.part = part_of(self.target, part_token(self.run))
        await self.part.close()
        offset = self.state.offset = await self.part.open(offset, self.state.total)
        self.digest = Digest(self.spec.algorithm) if self.spec.algorithm else None
        if self.digest is not None and offset:
            async for chunk in self.part.read():
                self.digest.update(chunk)
        failpoint("http.download.after_open")
        return offset

    async def _write(self, answer: Streamed, start: int) -> None:
        state = self.state
        self.progress = self.progress or self.run.progress("fetch", unit="bytes", total=state.total, start=start)
        self.progress.total, self.progress.done = state.total, start
        async for chunk in answer.chunks:
            if self.spec.max_bytes is not None and state.offset + len(chunk) > self.spec.max_bytes:
                raise self._too_large()
            await self._write_chunk(chunk)
        if state.total is not None and state.offset != state.total:
            raise IntegrityError(
                f"{self._describe()} has {state.offset} of {state.total} bytes",
                remedy="retry; the download starts over",
            )
        self.progress.finish()

    async def _write_chunk(self, chunk: bytes) -> None:
        if self.part is None:
            return
        await self.part.write(chunk)
        if self.digest is not None:
            self.digest.update(chunk)
        first_block = self.state.offset // _BLOCK
        self.state.offset += len(chunk)
        if self.progress is not None:
            self.progress.advance(len(chunk))
        for _ in range(self.state.offset // _BLOCK - first_block):  # independent of the chunk sizes
            failpoint("http.download.after_block")
            if self.run.clock.monotonic() - self.saved_at >= CHECKPOINT_SECONDS:
                await self._save_checkpoint()

    async def _save_checkpoint(self) -> None:
        if self.part is None or not self.state.validator:
            return
        await self.part.sync()
        self.durable = self.state.offset
        self.checkpoint.save(asdict(self.state), force=True)
        self.saved_at = self.run.clock.monotonic()
        failpoint("http.download.after_checkpoint")

    def _verify(self) -> None:
        if self.digest is not None and self.digest.hexdigest() != self.spec.checksum:
            raise IntegrityError(
                f"{self._describe()}: the {self.spec.algorithm} is {self.digest.hexdigest()}, not {self.spec.checksum}",
                remedy="check the expected value; if it is correct, the file was damaged or replaced",
            )

    async def _commit(self) -> None:
        if self.part is None:
            raise ValueError("the part is not open")
        await self.part.sync()
        await self.part.check_size(self.state.offset)
        self.state.inode, self.state.committing = self.part.inode(), True
        self.checkpoint.save(asdict(self.state), force=True)
        if self.spec.only_if_changed:
            self.guard.check_now()  # a newer attempt may have recorded its version
            await forget(self.target)
        failpoint("http.download.before_commit")
        await self.part.commit(replace=self.spec.if_exists == "overwrite")
        failpoint("http.download.after_commit")

    def _source_fingerprint(self) -> str:
        return fingerprint(self.spec.endpoint, self.spec.params, self.http.settings.base_url)

    async def _result(self) -> Download:
        state, spec = self.state, self.spec
        if spec.only_if_changed and state.validator:
            await remember(
                self.target, self._source_fingerprint(), state.etag, state.last_modified, part_token(self.run)
            )
        return Download(
            path=self.target.shown,
            bytes=state.offset,
            checksum=f"{spec.algorithm}:{spec.checksum}" if spec.algorithm else "",
            etag=state.etag,
            last_modified=state.last_modified,
            content_type=state.content_type,
        )

    def _describe(self) -> str:
        return f"the file of {redact_url(self.spec.endpoint)}"

    def _too_large(self) -> IntegrityError:
        return IntegrityError(
            f"{self._describe()} is larger than {self.spec.max_bytes:,} bytes",
            remedy="raise `max_bytes` if this size is expected",
        )


async def download(http: HttpTransport, spec: DownloadSpec, run: Run) -> Download:
    """Download the complete file, verified by length and checksum, to its final name.

    A retry, or a broken connection, resumes at the last durable byte if the server supports ranges and still has the
    same version (strong ETag, or Last-Modified); otherwise the download starts over.
    """
    return await _DownloadJob(http, spec, run).execute()
