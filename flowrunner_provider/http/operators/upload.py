"""Files to an API."""

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
    from flowrunner_provider.files.plan import Item, Source
    from flowrunner_provider.http.bodies import Pinned
    from flowrunner_provider.http.targets import Target
    from flowrunner_provider.http.upload import UploadSpec

__all__ = ["HttpUploadOperator"]

_METHODS = Literal["POST", "PUT", "PATCH"]


class HttpUploadOperator(FlowRunnerOperator):
    """Every file was sent whole, as it was when it was chosen, and answered with an expected status.

    Killed or retried, files that were confirmed are not sent again. One that was under way is put again with PUT;
    with POST and PATCH, ``reconcile`` tells whether it arrived, or it is repeated where the server recognises the
    ``idempotency_key``, and else stops with OutcomeUnknown (``on_unknown``). For an attempt that may still be sending
    it waits, a few minutes with the usual time-outs. Streamed with its length known, in constant memory. A file that
    changes meanwhile is an IntegrityError, and its request is broken off.

    :param source: a file, a folder or a glob on any store, or a list of these: ``sftp://partner@/out/*.csv``.
    :param endpoint: appended to the connection's host; ``{name}`` is the file's name. For ``presigned_put`` an
        absolute URL, or a list with one for each file; it gets none of the connection's credentials, and its query
        is shown nowhere.
    :param http_conn_id: an ``http`` connection; for ``presigned_put`` it brings timeouts, proxies and the hosts that
        are allowed.
    :param mode: ``multipart`` (a form), ``raw`` (the bytes are the body) or ``presigned_put``.
    :param method: by default POST for ``multipart`` and PUT for the others.
    :param field: the form's field that takes the file.
    :param metadata: the form's other fields.
    :param query: added to the query.
    :param headers: go before the connection's own.
    :param expected_status: statuses that are a success; by default all of 2xx.
    :param select: JMESPath: what to keep of each JSON answer, e.g. ``id``.
    :param idempotency_key: True sends a header ``Idempotency-Key`` for each file that is the same in every attempt;
        text (for one file) sends that. It makes a POST repeatable if the connection has ``honours_idempotency_key``.
    :param reconcile: ``{"endpoint": ..., "exists_when": JMESPath}``: a GET that tells whether a file whose answer was
        lost had arrived; ``{key}`` in the endpoint is the idempotency key, ``{name}`` the file's name.
    :param on_unknown: when nobody can tell: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
    :param concurrency: files at a time.
    :param max_files: more files than that are refused before the first is sent.
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
        """Render, and hide the signatures before the rendered fields are shown to anybody."""
        super().render_template_fields(context, jinja_env)
        self._hide()

    def _hide(self) -> list[str]:
        if self.mode != "presigned_put":
            return []
        from flowrunner_provider.http.upload import signatures

        hidden = signatures(self._endpoints())
        mask(hidden)
        return hidden

    def _endpoints(self) -> list[str]:
        return [self.endpoint] if isinstance(self.endpoint, str) else [str(each) for each in self.endpoint]

    async def perform(self, run: Run) -> UploadResult:
        from flowrunner_provider.http.hook import FlowRunnerHttpHook
        from flowrunner_provider.http.upload import upload, without_credentials

        hidden = self._hide()
        hook = FlowRunnerHttpHook(self.http_conn_id)
        spec = self._spec(honours_key=hook.config.honours_idempotency_key)
        async with Stores() as stores:
            files = await self._files(stores, run)
            if spec.mode == "presigned_put" and isinstance(self.endpoint, list) and len(files) != len(self._sources()):
                raise ConfigError("each endpoint needs a file", field="source", remedy="name the files, one by one")
            http = hook.transport(run)
            async with without_credentials(http, hidden) if spec.mode == "presigned_put" else http as transport:
                return await upload(transport, spec, files, run)

    def _sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)

    async def _files(self, stores: Stores, run: Run) -> list[Pinned]:
        from flowrunner_provider.files.plan import Source, find

        for path in self._sources():
            location(path, "source")
        targets = [await stores.target(path, "source") for path in self._sources()]
        sources = [Source(target.store, target.path) for target in targets]
        most = positive(self.max_files, "max_files") or 1
        items = await find(sources, run, recursive=False, max_files=most, missing_ok=False)
        if not items:
            raise NotFound(f"nothing matches {', '.join(self._sources())}", remedy="correct `source`")
        return [_pinned(targets[item.source], sources[item.source], item) for item in items]

    def _spec(self, *, honours_key: bool) -> UploadSpec:
        from flowrunner_provider.http.client import Reconcile
        from flowrunner_provider.http.upload import UploadSpec

        one_of("mode", self.mode, Mode)
        one_of("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        method = self.method or ("POST" if self.mode == "multipart" else "PUT")
        one_of("method", method, _METHODS)
        if self.metadata and self.mode != "multipart":
            raise ConfigError("metadata are fields of a form", field="metadata", remedy="use headers or query")
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
            raise ConfigError("a presigned upload is a PUT", field="method", remedy="leave it out")
        if self.query:
            raise ConfigError("the signature covers the query", field="query", remedy="have it signed with the URL")
        if not all(is_absolute(url) for url in self._endpoints()):
            raise ConfigError(
                "a presigned address is absolute", field="endpoint", remedy="give the URL as it was signed"
            )


def _pinned(target: Target, source: Source, item: Item) -> Pinned:
    from flowrunner_provider.files.store import Entry
    from flowrunner_provider.http.bodies import Pinned

    path = source.path if source.is_file else source.path_of(item.relative)
    shown = f"{target.root}{path}"
    if item.size is None:
        raise ConfigError(f"{shown} is of unknown size", field="source", remedy="copy it to a disk first")
    name = item.relative.rpartition("/")[2]
    entry = Entry(path=path, name=name, size=item.size, modified=item.modified, version=item.version)
    return Pinned(store=target.store, path=path, shown=shown, entry=entry, size=item.size)
