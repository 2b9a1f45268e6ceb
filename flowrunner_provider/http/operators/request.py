"""Operator for a single HTTP request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.http.choices import STRUCTURED, Method
from flowrunner_provider.http.choices import Format as ResponseFormat
from flowrunner_provider.http.operators.arguments import Stores, location, mapping, one_of, positive, strings
from flowrunner_provider.http.results import HttpResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.http.bodies import StreamedBody
    from flowrunner_provider.http.client import RequestSpec

__all__ = ["HttpRequestOperator"]


class HttpRequestOperator(FlowRunnerOperator):
    """On success, the server answered with an expected status and the complete answer was read.

    A killed or retried task repeats GET, HEAD, OPTIONS, PUT and DELETE. It sends POST and PATCH once: after a lost
    answer, the retry asks ``reconcile`` whether the request was carried out, or repeats it if the server honours the
    ``idempotency_key``; otherwise it stops with OutcomeUnknown (see ``on_unknown``). Each attempt sends one request,
    plus short retries in place. Results above 16 MiB must go to a file (``save_to``).

    :param endpoint: path and query, appended to the connection's host. An absolute URL of another server is sent
        without the connection's credentials.
    :param http_conn_id: id of an ``http`` connection.
    :param method: the HTTP method.
    :param query: query parameters; a list repeats the parameter.
    :param headers: request headers; they override the connection's headers.
    :param json: the request body, encoded as JSON.
    :param data: the request body, as a form (mapping) or as text. With ``files``, the other fields of the form.
    :param files: files for a multipart form, streamed from any store: field -> path, or ``{"path": ..., "filename":
        ..., "content_type": ...}``, or a list of these.
    :param body_from: a file on any store whose bytes are streamed as the request body.
    :param response_format: options to parse the body; ``auto`` uses the Content-Type. ``xml`` returns nested objects
        (``@name`` for attributes, ``#text`` for text beside them, a list for repeated tags, no entities), ``csv`` and
        ``ndjson`` a list of records, ``bytes`` base64.
    :param csv_delimiter: field separator for ``csv``, one character.
    :param select: JMESPath expression that picks the value to return from a JSON, XML, CSV or NDJSON body.
    :param expected_status: statuses that count as success; by default every 2xx.
    :param idempotency_key: True sends an ``Idempotency-Key`` header that is the same in every attempt; a string sends
        that value. POST and PATCH become repeatable if the connection sets ``honours_idempotency_key``.
    :param reconcile: ``{"endpoint": ..., "exists_when": JMESPath}``: a GET that finds out whether a request whose
        answer was lost was carried out. ``{key}`` in the endpoint is replaced by the idempotency key.
    :param on_unknown: what to do when the outcome stays unknown: ``stop``, ``resend`` (may duplicate the request) or
        ``skip`` (treat it as done).
    :param save_to: a file on any store that receives the body, e.g. ``/data/x`` or ``sftp://partner@/out/x``.
    :param max_bytes: largest accepted body; by default 16 MiB, or unlimited with ``save_to``.
    """

    action: ClassVar[str] = "http.request"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "query", "headers", "json", "data", "files", "body_from", "select",
        "reconcile", "save_to", "idempotency_key",
    )  # fmt: skip

    def __init__(
        self,
        *,
        endpoint: str,
        http_conn_id: str = "http_default",
        method: Method = "GET",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, Any] | str | None = None,
        files: Mapping[str, Any] | None = None,
        body_from: str | None = None,
        response_format: ResponseFormat = "auto",
        csv_delimiter: str = ",",
        select: str | None = None,
        expected_status: list[int] | None = None,
        idempotency_key: bool | str = False,
        reconcile: Mapping[str, str] | None = None,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        save_to: str | None = None,
        max_bytes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.method = http_conn_id, endpoint, method
        self.query, self.headers, self.json, self.data = query, headers, json, data
        self.files, self.body_from, self.csv_delimiter = files, body_from, csv_delimiter
        self.response_format, self.select, self.expected_status = response_format, select, expected_status
        self.idempotency_key, self.reconcile, self.on_unknown = idempotency_key, reconcile, on_unknown
        self.save_to, self.max_bytes = save_to, max_bytes

    async def perform(self, run: Run) -> HttpResult:
        from flowrunner_provider.http.client import perform_request
        from flowrunner_provider.http.hook import FlowRunnerHttpHook

        hook = FlowRunnerHttpHook(self.http_conn_id)
        self._check()
        async with Stores() as stores, hook.transport(run) as http:
            spec = await self._spec(stores, run, honours_key=hook.config.honours_idempotency_key)
            return await perform_request(http, spec, run)

    def _check(self) -> None:
        """Validate everything that needs no connection and no store."""
        one_of("method", self.method, Method)
        one_of("response_format", self.response_format, ResponseFormat)
        one_of("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        if self.select is not None and (self.save_to is not None or self.response_format not in {"auto", *STRUCTURED}):
            other = "save_to" if self.save_to is not None else f"response_format={self.response_format!r}"
            raise ConfigError(f"`select` cannot be combined with {other}", field="select", remedy="use one of them")
        if self.body_from is not None and not (self.json is self.data is self.files is None):
            raise ConfigError(
                "`body_from` cannot be combined with another body",
                field="body_from",
                remedy="remove `json`, `data` and `files`",
            )
        if self.files is not None and (self.json is not None or isinstance(self.data, str)):
            raise ConfigError(
                "`files` can only be combined with form fields", field="files", remedy="pass `data` as a mapping"
            )
        for field in ("save_to", "body_from"):
            if getattr(self, field) is not None:
                location(getattr(self, field), field)

    async def _body(self, stores: Stores, run: Run) -> tuple[bytes | StreamedBody | None, str]:
        from flowrunner_provider.http.bodies import FormFile, encode_body, multipart, pin, raw

        if self.body_from is not None:
            target = await stores.target(self.body_from, "body_from")
            return raw(await pin(target.store, target.path, target.shown, field="body_from")), ""
        if self.files is None:
            return encode_body(self.json, self.data)
        files = []
        for name, value in mapping(self.files, "files").items():
            for item in value if isinstance(value, list | tuple) else [value]:
                options = {"path": item} if isinstance(item, str) else strings(item, "files")
                if unknown := options.keys() - {"path", "filename", "content_type"}:
                    raise ConfigError(
                        f"files has the unknown key {min(unknown)!r}",
                        field="files",
                        remedy="use path, filename and content_type",
                    )
                target = await stores.target(options.pop("path", None), "files")
                files.append(
                    FormFile(
                        field=name, file=await pin(target.store, target.path, target.shown, field="files"), **options
                    )
                )
        fields = mapping(self.data if isinstance(self.data, Mapping) else None, "data")
        return multipart(fields, files, f"flowrunner-{run.effects.key('request')}"), ""

    async def _spec(self, stores: Stores, run: Run, *, honours_key: bool) -> RequestSpec:
        from flowrunner_provider.http.client import Reconcile, RequestSpec

        body, content_type = await self._body(stores, run)
        headers = strings(self.headers, "headers")
        if content_type and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = content_type
        reconcile = (
            from_mapping(Reconcile, mapping(self.reconcile, "reconcile"), where="reconcile") if self.reconcile else None
        )
        return RequestSpec(
            method=self.method,
            endpoint=self.endpoint,
            params=mapping(self.query, "query"),
            headers=headers,
            body=body,
            response_format=self.response_format,
            csv_delimiter=self.csv_delimiter,
            select=self.select,
            expected=frozenset(self.expected_status) if self.expected_status else None,
            key=self.idempotency_key,
            honours_key=honours_key,
            reconcile=reconcile,
            on_unknown=self.on_unknown,
            save_to=None if self.save_to is None else await stores.target(self.save_to, "save_to"),
            max_bytes=positive(self.max_bytes, "max_bytes"),
        )
