"""Upload engine: files to an HTTP API, streamed, each sent once over all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Effect, Intent, OnUnknown, Reconciled, Unknown
from flowrunner_provider.core.errors import (
    ConfigError,
    Fenced,
    FlowRunnerError,
    OutcomeUnknown,
    PartialFailure,
    TransientError,
    from_event,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.bodies import FormFile, Pinned, StreamedBody, exchange, multipart, raw, streaming_seconds
from flowrunner_provider.http.choices import Mode
from flowrunner_provider.http.client import Reconcile, compile_path, look_up, tolerant
from flowrunner_provider.http.results import UploadedFile, UploadResult
from flowrunner_provider.transport.http import HttpTransport, Response
from flowrunner_provider.transport.http_settings import Anonymous
from flowrunner_provider.transport.http_urls import is_absolute

__all__ = ["UploadSpec", "signatures", "upload", "without_credentials"]

_LISTED_FILES = 20
_LISTED_FAILURES = 50
_MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class UploadSpec:
    """The validated parameters of ``http.upload``; ``endpoints`` has one entry for all files, or one per file."""

    endpoints: Sequence[str]
    mode: Mode
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    form_field: str = "file"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expected: frozenset[int] | None = None
    select: str | None = None
    key: bool | str = False
    honours_key: bool = False
    reconcile: Reconcile | None = None
    on_unknown: OnUnknown = "stop"
    concurrency: int = 4


def signatures(endpoints: Iterable[str]) -> list[str]:
    """Return the parts of presigned URLs to mask: their queries, and the values in them."""
    queries = [urlsplit(url).query for url in endpoints if is_absolute(url)]
    values = [value for query in queries for _, value in parse_qsl(query)]
    return [text for text in (*queries, *values) if len(text) >= 8]


def without_credentials(http: HttpTransport, hidden: Iterable[str]) -> HttpTransport:
    """Return the same connection without credentials, for presigned URLs.

    :param hidden: additional values to redact.
    """
    settings = http.settings
    bare = replace(
        settings,
        credentials=Anonymous(),
        headers={},
        tls=replace(settings.tls, cert_file="", key_file=""),
        secrets=(*settings.secrets, *hidden),
    )
    return HttpTransport(bare, http.run)


async def upload(http: HttpTransport, spec: UploadSpec, files: Sequence[Pinned], run: Run) -> UploadResult:
    """Send every file; files that an earlier attempt has sent are skipped.

    :raises PartialFailure: if some of several files could not be sent; the retry sends only those.
    :raises IntegrityError: if a file changed while it was sent; the far side did not receive a complete request.
    """
    _check(spec, files)
    work = _Upload(http, spec, run)
    progress = run.progress("send", unit="bytes", total=sum(file.size for file in files))
    slots = asyncio.Semaphore(spec.concurrency)
    sent: dict[int, UploadedFile] = {}
    failed: dict[str, FlowRunnerError] = {}

    async def send(index: int, file: Pinned) -> None:
        async with slots:
            if any(isinstance(error, Fenced) for error in failed.values()):
                return
            try:
                sent[index] = await work.send(file, index)
            except FlowRunnerError as error:
                failed[file.shown] = error
                return
            progress.advance(file.size)

    await asyncio.gather(*(send(index, file) for index, file in enumerate(files)))
    if failed:
        raise _failure(failed, len(files), len(sent))
    progress.finish()
    entries = [sent[index] for index in sorted(sent)]
    return UploadResult(
        files=len(entries), bytes=sum(entry.bytes for entry in entries), entries=entries[:_LISTED_FILES]
    )


def _failure(failed: Mapping[str, FlowRunnerError], files: int, done: int) -> FlowRunnerError:
    errors = list(failed.values())
    fenced = next((error for error in errors if isinstance(error, Fenced)), None)
    if fenced is not None or files == 1:
        return fenced or errors[0]
    waits = [error for error in errors if isinstance(error, TransientError) and error.retry_after is not None]
    if len(waits) == len(errors):  # all failures only ask for a delay
        return max(waits, key=lambda error: error.retry_after or 0.0)
    return PartialFailure(
        f"{len(failed)} of {files} files were not sent; the first: {errors[0].message}",
        done=done,
        failed={name: error.message[:300] for name, error in list(failed.items())[:_LISTED_FAILURES]},
        retryable=any(
            isinstance(error, TransientError) or (isinstance(error, OutcomeUnknown) and error.reconcilable)
            for error in errors
        ),
        remedy="fix the listed reasons; a retry sends only the missing files",
    )


def _check(spec: UploadSpec, files: Sequence[Pinned]) -> None:
    if len({file.shown for file in files}) != len(files):
        raise ConfigError("a file is listed twice", field="source", remedy="list each file once")
    if len(spec.endpoints) not in (1, len(files)):
        raise ConfigError(
            f"there are {len(files)} files and {len(spec.endpoints)} endpoints",
            field="endpoint",
            remedy="pass one endpoint per file, in the same order",
        )
    several = len(files) > 1 and len(spec.endpoints) == 1
    if several and spec.method == "PUT" and "{name}" not in spec.endpoints[0]:
        raise ConfigError(
            "all files would be put to the same URL", field="endpoint", remedy="add {name} to it, or pass a list"
        )
    if len(files) > 1 and isinstance(spec.key, str):
        raise ConfigError(
            "several files would share one idempotency_key", field="idempotency_key", remedy="set it to True"
        )


class _Upload:
    def __init__(self, http: HttpTransport, spec: UploadSpec, run: Run) -> None:
        self._http, self._spec, self._run = http, spec, run
        self._select = compile_path(spec.select, "select") if spec.select else None
        self._exists = compile_path(spec.reconcile.exists_when, "reconcile") if spec.reconcile else None
        self._repeatable = spec.method == "PUT" or (bool(spec.key) and spec.honours_key)

    async def send(self, file: Pinned, index: int) -> UploadedFile:
        """Send one file once over all attempts."""
        spec = self._spec
        endpoint = _with_file_name(spec.endpoints[index if len(spec.endpoints) > 1 else 0], file)
        address = endpoint.partition("?")[0] if spec.mode == "presigned_put" else endpoint
        effect = Effect(
            name=f"upload.{fingerprint(file.shown)[:16]}",
            fingerprint=fingerprint(spec.mode, spec.method, address, spec.form_field, spec.metadata, file.identity()),
            seconds=streaming_seconds(self._http, self._run),
            repeatable=self._repeatable,
            on_unknown=spec.on_unknown,
        )

        async def act(intent: Intent) -> Any:
            answer = await self._exchange(file, endpoint, intent)
            shaped = tolerant(self._make_shaper(file))(answer)
            return asdict(shaped) if isinstance(shaped, UploadedFile) else shaped

        async def reconcile(intent: Intent) -> Reconciled:
            if self._exists is None or spec.reconcile is None:
                return Unknown()
            place = _with_file_name(spec.reconcile.endpoint.replace("{key}", intent.key), file)
            return await look_up(self._http, place, self._exists, self._make_shaper(file))

        failpoint("http.upload.before_file")
        answer = await self._run.effects.perform(effect, act, reconcile)
        failpoint("http.upload.after_file")
        if answer is None:
            return UploadedFile(source=file.shown, bytes=file.size, status=0, reconciled=True)
        if "unusable" in answer:
            raise from_event(answer["unusable"])
        return UploadedFile(**answer)

    async def _exchange(self, file: Pinned, endpoint: str, intent: Intent) -> Response:
        spec, headers = self._spec, dict(self._spec.headers)
        if spec.key:
            headers["Idempotency-Key"] = intent.key if spec.key is True else spec.key
        try:
            return await exchange(
                self._http,
                self._run,
                spec.method,
                endpoint,
                self._body(file, intent),
                repeatable=self._repeatable,
                params=spec.params,
                headers=headers,
                expected=spec.expected,
                max_bytes=_MAX_ANSWER_BYTES,
            )
        except OutcomeUnknown as error:
            error.effect_key = intent.key
            error.reconcilable = self._repeatable or self._exists is not None or spec.on_unknown != "stop"
            raise

    def _body(self, file: Pinned, intent: Intent) -> StreamedBody:
        spec = self._spec
        if spec.mode != "multipart":
            return raw(file)
        return multipart(spec.metadata, [FormFile(field=spec.form_field, file=file)], f"flowrunner-{intent.key}")

    def _make_shaper(self, file: Pinned) -> Callable[[Response], UploadedFile]:
        def shape(answer: Response) -> UploadedFile:
            return UploadedFile(
                source=file.shown,
                bytes=file.size,
                status=answer.status,
                etag=answer.headers.get("ETag", ""),
                answer=self._select(answer.json()) if self._select else None,
            )

        return shape


def _with_file_name(endpoint: str, file: Pinned) -> str:
    return endpoint.replace("{name}", quote(file.name, safe=""))
