"""Operator that uploads files to an API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.http.choices import Mode
from flowrunner_provider.http.operators.arguments import Stores, location, mapping, one_of, positive, strings
from flowrunner_provider.http.results import UploadResult
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.items import Item, Source
    from flowrunner_provider.http.bodies import Pinned
    from flowrunner_provider.http.targets import Target
    from flowrunner_provider.http.upload import UploadSpec

__all__ = ["HttpUploadOperator"]

_Method = Literal["POST", "PUT", "PATCH"]


class HttpUploadOperator(FlowRunnerOperator):
    """On success, every file was sent completely, unchanged since it was listed, and answered with an expected status.

    A killed or retried task does not resend confirmed files. A file that was in flight is sent again with PUT; with
    POST and PATCH the retry asks ``reconcile`` whether it arrived, or repeats it if the server honours the
    ``idempotency_key``, and otherwise stops with OutcomeUnknown (see ``on_unknown``). If an earlier attempt may still
    be sending, the retry first waits for it, a few minutes with the default timeouts. Files are streamed in constant
    memory. A file that changes during its upload raises IntegrityError and its request is aborted.

    :param source: a file, a folder or a glob on any store, or a list of these, e.g. ``sftp://partner@/out/*.csv``.
    :param endpoint: appended to the connection's host; ``{name}`` is replaced by the file name. For ``presigned_put``,
        an absolute URL or a list with one URL per file; it is sent without the connection's credentials, and its query
        is masked.
    :param http_conn_id: id of an ``http`` connection. For ``presigned_put``, it supplies timeouts, proxies and the
        allowed hosts.
    :param mode: ``multipart`` (a form), ``raw`` (the file is the body) or ``presigned_put``.
    :param method: the HTTP method; by default POST for ``multipart`` and PUT otherwise.
    :param field: name of the form field that holds the file.
    :param metadata: the other fields of the form.
    :param query: query parameters; a list repeats the parameter.
    :param headers: request headers; they override the connection's headers.
    :param expected_status: statuses that count as success; by default every 2xx.
    :param select: JMESPath expression that picks what to keep of each JSON answer, e.g. ``id``.
    :param idempotency_key: True sends a separate ``Idempotency-Key`` header for each file, the same in every attempt; a
        string (for a single file) sends that value. POST becomes repeatable if the connection sets
        ``honours_idempotency_key``.
    :param reconcile: ``{"endpoint": ..., "exists_when": JMESPath}``: a GET that finds out whether a file whose answer
        was lost has arrived. ``{key}`` in the endpoint is replaced by the idempotency key, ``{name}`` by the file name.
    :param on_unknown: what to do when the outcome stays unknown: ``stop``, ``resend`` (may duplicate the upload) or
        ``skip`` (treat it as done).
    :param concurrency: number of files sent in parallel.
    :param max_files: refuse to start if more files match.
    """

    action: ClassVar[str] = "http.upload"
    template_fields: Sequence[str] = (
        "http_conn_id", "source", "endpoint", "metadata", "query", "headers", "select", "idempotency_key", "reconcile",
    )  # fmt: skip

    def __init__(
        self,
        *,
        source: str | list[str],
        endpoint: str | list[str],
        http_conn_id: str = "http_default",
        mode: Mode = "multipart",
        method: Literal["POST", "PUT", "PATCH"] | None = None,
        field: str = "file",
        metadata: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        expected_status: list[int] | None = None,
        select: str | None = None,
        idempotency_key: bool | str = False,
        reconcile: Mapping[str, str] | None = None,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        concurrency: int = 4,
        max_files: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.endpoint, self.http_conn_id = source, endpoint, http_conn_id
        self.mode, self.method, self.field, self.metadata = mode, method, field, metadata
        self.query, self.headers, self.expected_status = query, headers, expected_status
        self.select, self.idempotency_key, self.reconcile = select, idempotency_key, reconcile
        self.on_unknown, self.concurrency, self.max_files = on_unknown, concurrency, max_files

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the fields, and mask presigned signatures before Airflow displays them."""
        super().render_template_fields(context, jinja_env)
        self._mask_signatures()

    def _mask_signatures(self) -> list[str]:
        if self.mode != "presigned_put":
            return []
        from flowrunner_provider.http.upload import signatures

        hidden = signatures(self._endpoints())
        mask(hidden)
        return hidden

    def _endpoints(self) -> list[str]:
        return [self.endpoint] if isinstance(self.endpoint, str) else [str(url) for url in self.endpoint]

    async def perform(self, run: Run) -> UploadResult:
        from flowrunner_provider.http.hook import FlowRunnerHttpHook
        from flowrunner_provider.http.upload import upload, without_credentials

        hidden = self._mask_signatures()
        hook = FlowRunnerHttpHook(self.http_conn_id)
        spec = self._spec(honours_key=hook.config.honours_idempotency_key)
        async with Stores() as stores:
            files = await self._files(stores, run)
            if spec.mode == "presigned_put" and isinstance(self.endpoint, list) and len(files) != len(self._sources()):
                raise ConfigError(
                    "a list of endpoints needs a list of files", field="source", remedy="list the files one by one"
                )
            http = hook.transport(run)
            async with without_credentials(http, hidden) if spec.mode == "presigned_put" else http as transport:
                return await upload(transport, spec, files, run)

    def _sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)

    async def _files(self, stores: Stores, run: Run) -> list[Pinned]:
        from flowrunner_provider.files.items import Source, find

        for path in self._sources():
            location(path, "source")
        targets = [await stores.target(path, "source") for path in self._sources()]
        sources = [Source(target.store, target.path) for target in targets]
        most = positive(self.max_files, "max_files") or 1
        items = await find(sources, run, recursive=False, max_files=most, missing_ok=False)
        if not items:
            raise NotFound(f"no file matches {', '.join(self._sources())}", remedy="correct `source`")
        return [_pinned(targets[item.source], sources[item.source], item) for item in items]

    def _spec(self, *, honours_key: bool) -> UploadSpec:
        from flowrunner_provider.http.client import Reconcile
        from flowrunner_provider.http.upload import UploadSpec

        one_of("mode", self.mode, Mode)
        one_of("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        method = self.method or ("POST" if self.mode == "multipart" else "PUT")
        one_of("method", method, _Method)
        if self.metadata and self.mode != "multipart":
            raise ConfigError("metadata needs mode='multipart'", field="metadata", remedy="use `headers` or `query`")
        if self.mode == "presigned_put":
            self._check_presigned(method)
        reconcile = (
            from_mapping(Reconcile, mapping(self.reconcile, "reconcile"), where="reconcile") if self.reconcile else None
        )
        return UploadSpec(
            endpoints=self._endpoints(),
            mode=self.mode,
            method=method,
            params=mapping(self.query, "query"),
            headers=strings(self.headers, "headers"),
            form_field=self.field,
            metadata=mapping(self.metadata, "metadata"),
            expected=frozenset(self.expected_status) if self.expected_status else None,
            select=self.select,
            key=self.idempotency_key,
            honours_key=honours_key,
            reconcile=reconcile,
            on_unknown=self.on_unknown,
            concurrency=positive(self.concurrency, "concurrency") or 1,
        )

    def _check_presigned(self, method: str) -> None:
        from flowrunner_provider.transport.http_urls import is_absolute

        if method != "PUT":
            raise ConfigError("a presigned upload must be a PUT", field="method", remedy="omit `method`")
        if self.query:
            raise ConfigError(
                "a presigned URL already includes its query", field="query", remedy="sign the URL with this query"
            )
        if not all(is_absolute(url) for url in self._endpoints()):
            raise ConfigError(
                "a presigned URL must be absolute", field="endpoint", remedy="pass the URL as it was signed"
            )


def _pinned(target: Target, source: Source, item: Item) -> Pinned:
    from flowrunner_provider.files.store import Entry
    from flowrunner_provider.http.bodies import Pinned

    path = source.path if source.is_file else source.path_of(item.relative)
    shown = f"{target.root}{path}"
    if item.size is None:
        raise ConfigError(f"the size of {shown} is unknown", field="source", remedy="copy it to a disk first")
    name = item.relative.rpartition("/")[2]
    entry = Entry(path=path, name=name, size=item.size, modified=item.modified, version=item.version)
    return Pinned(store=target.store, path=path, shown=shown, entry=entry, size=item.size)
