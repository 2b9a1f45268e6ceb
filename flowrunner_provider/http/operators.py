"""The HTTP actions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.http.client import Format as ResponseFormat
from flowrunner_provider.http.client import Method, Reconcile, RequestSpec, encode_body, perform_request
from flowrunner_provider.http.download import DownloadSpec, IfExists, download
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.http.pagination import paginate
from flowrunner_provider.http.paging import PagePlan, Strategy
from flowrunner_provider.http.results import Download, HttpResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["HttpDownloadOperator", "HttpPaginateOperator", "HttpRequestOperator"]

_CHECKSUM = re.compile(r"(?:([\w-]+):)?([0-9a-fA-F]{32,128})")
_LENGTHS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def _path(value: str, field: str) -> Path:
    if not value or "\0" in value or "://" in value or not Path(value).is_absolute():
        raise ConfigError(
            f"{field} must be an absolute path on the worker's disk",
            field=field,
            remedy="write /data/orders.jsonl, say",
        )
    return Path(value)


def _strings(value: Mapping[str, Any] | None, field: str) -> dict[str, str]:
    return {str(name): str(item) for name, item in _mapping(value, field).items() if item is not None}


def _mapping(value: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{field} must be a mapping", field=field, remedy=f"write {field}={{'name': 'value'}}")
    return dict(value or {})


def _positive(value: int | None, field: str) -> int | None:
    if value is not None and value < 1:
        raise ConfigError(f"{field} must be positive", field=field, remedy=f"correct {field}")
    return value


class HttpRequestOperator(FlowRunnerOperator):
    """The request was answered with an expected status, and the whole answer was read.

    Killed or retried, GET, HEAD, OPTIONS, PUT and DELETE are simply repeated. POST and PATCH are sent once: a
    retry finds out with ``reconcile`` whether the lost one was carried out, or repeats it where the server
    recognises the ``idempotency_key``, and else stops with OutcomeUnknown (``on_unknown``). One request per
    attempt besides short repetitions; a result above 16 MiB belongs into a file (``save_to``).

    :param endpoint: path and query, appended to the connection's host; an absolute URL of another server gets
        none of the connection's credentials.
    :param http_conn_id: an ``http`` connection.
    :param method: the HTTP method.
    :param query: added to the query; a list repeats its name.
    :param headers: go before the connection's own.
    :param json: the body, as JSON.
    :param data: the body, as a form (mapping) or as text; not together with ``json``.
    :param response_format: what becomes of the answer's body; ``bytes`` is base64, ``auto`` looks at its type.
    :param select: JMESPath: what to return of a JSON body.
    :param expected_status: statuses that are a success; by default all of 2xx.
    :param idempotency_key: True sends a header ``Idempotency-Key`` that is the same in every attempt; text sends
        that. It makes a POST repeatable if the connection has ``honours_idempotency_key``.
    :param reconcile: ``{"endpoint": ..., "exists_when": JMESPath}``: a GET that tells whether a POST whose answer
        was lost had been carried out; ``{key}`` in the endpoint is the idempotency key.
    :param on_unknown: when nobody can tell: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
    :param save_to: a file on the worker's disk for the body, instead of the result.
    :param max_bytes: the largest body; by default 16 MiB, or any with ``save_to``.
    """

    action: ClassVar[str] = "http.request"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "query", "headers", "json", "data", "select", "reconcile", "save_to",
        "idempotency_key",
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
        response_format: ResponseFormat = "auto",
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
        self.response_format, self.select, self.expected_status = response_format, select, expected_status
        self.idempotency_key, self.reconcile, self.on_unknown = idempotency_key, reconcile, on_unknown
        self.save_to, self.max_bytes = save_to, max_bytes

    async def perform(self, run: Run) -> HttpResult:
        hook = FlowRunnerHttpHook(self.http_conn_id)
        spec = self._spec(honours_key=hook.config.honours_idempotency_key)
        async with hook.transport(run) as http:
            return await perform_request(http, spec, run)

    def _spec(self, *, honours_key: bool) -> RequestSpec:
        body, kind = encode_body(self.json, self.data)
        headers = _strings(self.headers, "headers")
        if body is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = kind
        _check_choice("method", self.method, Method)
        _check_choice("response_format", self.response_format, ResponseFormat)
        _check_choice("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        if self.save_to is not None and self.select is not None:
            raise ConfigError("`select` and `save_to` exclude each other", field="select", remedy="give one of them")
        reconcile = (
            from_mapping(Reconcile, _mapping(self.reconcile, "reconcile"), where="reconcile")
            if self.reconcile
            else None
        )
        return RequestSpec(
            method=self.method,
            endpoint=self.endpoint,
            params=_mapping(self.query, "query"),
            headers=headers,
            body=body,
            response_format=self.response_format,
            select=self.select,
            expected=frozenset(self.expected_status) if self.expected_status else None,
            key=self.idempotency_key,
            honours_key=honours_key,
            reconcile=reconcile,
            on_unknown=self.on_unknown,
            save_to=None if self.save_to is None else _path(self.save_to, "save_to"),
            max_bytes=_positive(self.max_bytes, "max_bytes"),
        )


def _check_choice(field: str, value: str, choices: Any) -> None:
    if value not in choices.__args__:
        raise ConfigError(
            f"{field} cannot be {value!r}", field=field, remedy=f"choose one of {', '.join(choices.__args__)}"
        )


class HttpPaginateOperator(FlowRunnerOperator):
    """The file holds every record of every page once, in the order of the API, as JSON Lines.

    Killed or retried, it goes on at the page after the last checkpoint (every few seconds); the file appears
    under its name only when it is whole. One page is in memory at a time, at most 64 MiB of it.

    :param endpoint: the first page, appended to the connection's host.
    :param save_to: the file to write, on a disk that the tasks share; it ends in ``.jsonl``.
    :param strategy: how the next page is found: ``cursor`` (a value in the page becomes a parameter), ``page``
        and ``offset`` (numbers, to the first empty page), ``link_header`` (RFC 8288), ``next_url`` (an address
        in the page, on the connection's own server).
    :param http_conn_id: an ``http`` connection.
    :param query: added to the query of each page (of the first one for ``link_header`` and ``next_url``).
    :param headers: sent with every page.
    :param records_path: JMESPath of the list of records in a page.
    :param cursor_path: JMESPath of the next cursor or address; none, empty, false or 0 is the end.
    :param cursor_param: the parameter that takes the cursor.
    :param page_param: the parameter that takes the page's number.
    :param first_page: its number.
    :param offset_param: the parameter that takes the number of records before the page.
    :param page_size: how many records to ask for; not sent by default.
    :param page_size_param: the parameter that takes the page size.
    :param total_path: JMESPath of the number of all records: checked at the end, and shown as progress.
    :param stop_when: JMESPath on a page: true when it is the last.
    :param max_pages: more pages than that are an error.
    """

    action: ClassVar[str] = "http.paginate"
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "save_to", "query", "headers", "records_path", "cursor_path", "total_path",
        "stop_when",
    )  # fmt: skip

    def __init__(
        self,
        *,
        endpoint: str,
        save_to: str,
        strategy: Strategy,
        http_conn_id: str = "http_default",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        records_path: str = "@",
        cursor_path: str | None = None,
        cursor_param: str = "cursor",
        page_param: str = "page",
        first_page: int = 1,
        offset_param: str = "offset",
        page_size: int | None = None,
        page_size_param: str = "limit",
        total_path: str | None = None,
        stop_when: str | None = None,
        max_pages: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.save_to, self.strategy = http_conn_id, endpoint, save_to, strategy
        self.query, self.headers, self.records_path = query, headers, records_path
        self.cursor_path, self.cursor_param = cursor_path, cursor_param
        self.page_param, self.first_page, self.offset_param = page_param, first_page, offset_param
        self.page_size, self.page_size_param = page_size, page_size_param
        self.total_path, self.stop_when, self.max_pages = total_path, stop_when, max_pages

    async def perform(self, run: Run) -> Dataset:
        path = _path(self.save_to, "save_to")
        if path.suffix not in (".jsonl", ".ndjson"):
            raise ConfigError("save_to must end in .jsonl", field="save_to", remedy="convert it with data.convert")
        _check_choice("strategy", self.strategy, Strategy)
        plan = PagePlan(
            endpoint=self.endpoint,
            strategy=self.strategy,
            params=_mapping(self.query, "query"),
            headers=_strings(self.headers, "headers"),
            records_path=self.records_path,
            cursor_path=self.cursor_path,
            cursor_param=self.cursor_param,
            page_param=self.page_param,
            first_page=self.first_page,
            offset_param=self.offset_param,
            page_size=self.page_size,
            page_size_param=self.page_size_param,
            total_path=self.total_path,
            stop_when=self.stop_when,
            max_pages=self.max_pages,
        )
        async with FlowRunnerHttpHook(self.http_conn_id).transport(run) as http:
            return await paginate(http, plan, path, run)


class HttpDownloadOperator(FlowRunnerOperator):
    """The file holds exactly the bytes of the server's, of its announced length and the given checksum.

    Killed or retried, it goes on where the bytes were durable if the server still has the same version (ETag or
    Last-Modified) and knows ranges, and else starts again; no reader ever sees a part. Memory is constant.

    :param endpoint: appended to the connection's host; an absolute URL of another server gets none of the
        connection's credentials.
    :param save_to: a file, or a folder (it exists, or ends in ``/``) for the name that the server gives.
    :param http_conn_id: an ``http`` connection.
    :param query: added to the query.
    :param headers: go before the connection's own.
    :param checksum: the expected one, in hex, e.g. ``sha256:9f86...``; without a name its length tells the kind.
    :param max_bytes: the largest file to accept; any by default.
    :param if_exists: what to do when the file is there: ``overwrite``, ``skip`` or ``fail``.
    """

    action: ClassVar[str] = "http.download"
    template_fields: Sequence[str] = ("http_conn_id", "endpoint", "save_to", "query", "headers", "checksum")

    def __init__(
        self,
        *,
        endpoint: str,
        save_to: str,
        http_conn_id: str = "http_default",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        checksum: str | None = None,
        max_bytes: int | None = None,
        if_exists: IfExists = "overwrite",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.save_to = http_conn_id, endpoint, save_to
        self.query, self.headers, self.checksum = query, headers, checksum
        self.max_bytes, self.if_exists = max_bytes, if_exists

    async def perform(self, run: Run) -> Download:
        algorithm, checksum = _checksum(self.checksum)
        path = _path(self.save_to, "save_to")
        _check_choice("if_exists", self.if_exists, IfExists)
        spec = DownloadSpec(
            endpoint=self.endpoint,
            save_to=path,
            folder=self.save_to.endswith("/") or os.path.isdir(path),  # noqa: ASYNC240, PTH112 - one quick look
            params=_mapping(self.query, "query"),
            headers=_strings(self.headers, "headers"),
            algorithm=algorithm,
            checksum=checksum,
            max_bytes=_positive(self.max_bytes, "max_bytes"),
            if_exists=self.if_exists,
        )
        async with FlowRunnerHttpHook(self.http_conn_id).transport(run) as http:
            return await download(http, spec, run)


def _checksum(text: str | None) -> tuple[str, str]:
    if not text:
        return "", ""
    match = _CHECKSUM.fullmatch(text.strip())
    algorithm = (match[1] or _LENGTHS.get(len(match[2]), "")).lower() if match else ""
    if match is None or algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise ConfigError("the checksum cannot be read", field="checksum", remedy="write 'sha256:' and hex digits")
    if hashlib.new(algorithm, usedforsecurity=False).digest_size * 2 != len(match[2]):
        raise ConfigError(f"the checksum is no {algorithm}", field="checksum", remedy="check its length")
    return algorithm, match[2].lower()
