"""All pages of a listing."""

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
    """The file holds every record of every page once, in the order of the API, as JSON Lines or Parquet.

    Killed or retried, it goes on at the page after the last checkpoint (every few seconds); the file appears
    under its name only when it is whole. One page is in memory at a time, at most 64 MiB of it. Parquet, and a
    store that is not this machine, cost the space of the JSON Lines on the worker's disk (``TMPDIR``) until the end
    and one more pass; a retry on another worker then starts at the first page.

    :param endpoint: the first page, appended to the connection's host.
    :param save_to: the file to write, on any store; it ends in ``.jsonl`` or ``.parquet``.
    :param strategy: how the next page is found: ``cursor`` (a value in the page becomes a parameter), ``page``
        and ``offset`` (numbers, to the first empty page), ``link_header`` (RFC 8288), ``next_url`` (an address
        in the page, on the connection's own server), ``odata`` (``@odata.nextLink``; ``@odata.count`` is checked if
        the server sends it, and ``page_size`` becomes ``Prefer: maxpagesize``).
    :param http_conn_id: an ``http`` connection.
    :param query: added to the query of each page (of the first one for ``link_header``, ``next_url`` and
        ``odata``, whose links bring it along).
    :param headers: sent with every page.
    :param method: ``POST`` for an API that is searched that way; it must only read, as pages may be asked for again.
    :param json: the body of every page; with it, cursor, number, offset and page size go into the body.
    :param records_path: JMESPath of the list of records in a page; for ``odata`` it is ``value``.
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
                "save_to must end in .jsonl or .parquet", field="save_to", remedy="convert it with data.convert"
            )
        kind: Format = "parquet" if suffix == "parquet" else "jsonl"
        one_of("strategy", self.strategy, Strategy)
        one_of("method", self.method, Literal["GET", "POST"])
        if self.json is not None and self.method != "POST":
            raise ConfigError("`json` needs method='POST'", field="method", remedy="set it, or use `query`")
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
            return await paginate(http, plan, await stores.target(self.save_to, "save_to"), run, format=kind)
