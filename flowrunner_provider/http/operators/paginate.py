"""Operator that fetches all pages of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset, Format
from flowrunner_provider.http.choices import Strategy
from flowrunner_provider.http.operators.arguments import Stores, location, mapping, one_of, strings
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["HttpPaginateOperator"]


class HttpPaginateOperator(FlowRunnerOperator):
    """On success, the file holds every record of every page exactly once, in the API's order, as JSON Lines or Parquet.

    A killed or retried task resumes at the page after the last checkpoint (taken every few seconds); the file gets its
    final name only when it is complete. Memory holds one page of at most 64 MiB. Parquet and remote stores stage the
    records as JSON Lines on the worker's disk (``TMPDIR``) and copy them at the end; a retry on another worker then
    starts at the first page.

    :param endpoint: the first page, appended to the connection's host.
    :param save_to: the file to write, on any store; must end in ``.jsonl`` or ``.parquet``.
    :param strategy: how to find the next page: ``cursor`` (a value in the page becomes a parameter), ``page`` and
        ``offset`` (numbers, up to the first empty page), ``link_header`` (RFC 8288), ``next_url`` (a URL in the page,
        on the connection's server), ``odata`` (``@odata.nextLink``; checks ``@odata.count`` if the server sends it and
        sends ``page_size`` as ``Prefer: maxpagesize``).
    :param http_conn_id: id of an ``http`` connection.
    :param query: query parameters of every page; with ``link_header``, ``next_url`` and ``odata`` of the first page
        only, because the links include them.
    :param headers: request headers of every page; they override the connection's headers.
    :param method: use ``POST`` for APIs that search with POST. The request must be read-only, because a page may be
        requested again.
    :param json: request body of every page. If set, cursor, page number, offset and page size are put into the body.
    :param records_path: JMESPath expression for the list of records in a page; ``value`` by default for ``odata``.
    :param cursor_path: JMESPath expression for the next cursor or URL; null, empty, false or 0 ends the listing. If its
        key is not in the first page, the task logs a warning, and fails if the page announces a next one, e.g. with
        ``has_more`` or ``next``.
    :param cursor_param: name of the parameter that carries the cursor.
    :param page_param: name of the parameter that carries the page number.
    :param first_page: number of the first page.
    :param offset_param: name of the parameter that carries the number of records before the page.
    :param page_size: number of records to request per page; not sent by default.
    :param page_size_param: name of the parameter that carries the page size.
    :param total_path: JMESPath expression for the total number of records. It is compared with the number received and
        used for progress.
    :param stop_when: JMESPath expression, true on the last page.
    :param max_pages: fail if there are more pages.
    """

    action: ClassVar[str] = "http.paginate"
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "save_to", "query", "headers", "json", "records_path", "cursor_path", "total_path",
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
        method: Literal["GET", "POST"] = "GET",
        json: Mapping[str, Any] | None = None,
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
        self.method, self.json = method, json
        self.cursor_path, self.cursor_param = cursor_path, cursor_param
        self.page_param, self.first_page, self.offset_param = page_param, first_page, offset_param
        self.page_size, self.page_size_param = page_size, page_size_param
        self.total_path, self.stop_when, self.max_pages = total_path, stop_when, max_pages

    async def perform(self, run: Run) -> Dataset:
        from flowrunner_provider.http.hook import FlowRunnerHttpHook
        from flowrunner_provider.http.pagination import paginate
        from flowrunner_provider.http.paging import PagePlan

        suffix = location(self.save_to, "save_to").path.rpartition(".")[2]
        if suffix not in ("jsonl", "ndjson", "parquet"):
            raise ConfigError(
                "save_to must end in .jsonl or .parquet", field="save_to", remedy="convert the file with data.convert"
            )
        file_format: Format = "parquet" if suffix == "parquet" else "jsonl"
        one_of("strategy", self.strategy, Strategy)
        one_of("method", self.method, Literal["GET", "POST"])
        if self.json is not None and self.method != "POST":
            raise ConfigError("`json` needs method='POST'", field="method", remedy="set the method, or use `query`")
        plan = PagePlan(
            endpoint=self.endpoint,
            strategy=self.strategy,
            params=mapping(self.query, "query"),
            headers=strings(self.headers, "headers"),
            method=self.method,
            json=None if self.json is None else mapping(self.json, "json"),
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
        hook = FlowRunnerHttpHook(self.http_conn_id)
        async with Stores() as stores, hook.transport(run) as http:
            return await paginate(http, plan, await stores.target(self.save_to, "save_to"), run, format=file_format)
