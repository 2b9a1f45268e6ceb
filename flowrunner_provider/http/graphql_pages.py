"""Pages of a GraphQL connection by the Relay cursor specification: ``first``, ``after``, ``pageInfo``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.http.graphql import GraphQLRequest, evaluate, send
from flowrunner_provider.http.paging import PagePlan, Pager, Position
from flowrunner_provider.transport.http import MAX_BYTES, HttpTransport, Response

__all__ = ["Connection", "GraphQLPager", "collect_pages"]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Location of a connection in the data, and how to request its pages.

    :param nodes_path: JMESPath of the list of nodes, relative to ``data``.
    :param page_info_path: JMESPath of its ``pageInfo``; None if there is one page.
    """

    nodes_path: str
    page_info_path: str | None = None
    after_variable: str = "after"
    first_variable: str = "first"
    page_size: int | None = None
    max_pages: int | None = None

    @classmethod
    def read(cls, nodes_path: str | None, page_info_path: str | None, **more: Any) -> Connection:
        """Return the connection; by default, the nodes are beside ``pageInfo``.

        :raises ConfigError: naming the parameter.
        """
        if not nodes_path:
            parent, dot, last = (page_info_path or "").rpartition(".")
            if last != "pageInfo":
                raise ConfigError(
                    "the path of the nodes is unknown", field="nodes_path", remedy="set the JMESPath of the nodes"
                )
            nodes_path = f"{parent}{dot}nodes"
        return cls(nodes_path=nodes_path, page_info_path=page_info_path or None, **more)


class GraphQLPager(Pager):
    """Requests one page at a time with the document itself, and checks each answer for errors.

    :raises ConfigError: for malformed paths, before any request.
    """

    def __init__(self, request: GraphQLRequest, connection: Connection) -> None:
        self.request, self.connection = request, connection
        sent = {"document": request.query, "operation": request.operation.name, "variables": dict(request.variables)}
        super().__init__(
            PagePlan(
                endpoint=request.endpoint,
                strategy="cursor",
                params=sent,
                headers=request.headers,
                records_path=f"data | {connection.nodes_path}",
                cursor_path=f"data | {connection.page_info_path or '`null`'}",
                page_size=connection.page_size,
                max_pages=connection.max_pages,
            )
        )
        compile_path(connection.nodes_path, "nodes_path")
        self._info = compile_path(f"data | {connection.page_info_path or '`null`'}", "page_info_path")

    async def fetch(self, http: HttpTransport, position: Position) -> Response:
        variables: dict[str, Any] = {}
        if self.connection.page_size is not None:
            variables[self.connection.first_variable] = self.connection.page_size
        if position is not None:
            variables[self.connection.after_variable] = position

        async def once() -> Response:
            answer = await send(
                http, self.request, repeatable=True, max_bytes=MAX_BYTES, retry=False, variables=variables
            )
            if (problem := evaluate(answer, http).problem) is not None:
                raise problem
            return answer

        return await http.run.retry.acall(once, http.run.deadline)

    def following(self, http: HttpTransport, position: Position, answer: Response, body: Any, count: int) -> Position:
        if self.connection.page_info_path is None:
            return None
        info = self._info(body)
        if not isinstance(info, dict) or not isinstance(info.get("hasNextPage"), bool):
            raise ConfigError(
                f"page_info_path {self.connection.page_info_path!r} finds no pageInfo with hasNextPage",
                field="page_info_path",
                remedy="request pageInfo { hasNextPage endCursor } in the document",
            )
        if not info["hasNextPage"]:
            return None
        cursor = info.get("endCursor")
        if not isinstance(cursor, str) or not cursor:
            raise IntegrityError(
                "there is a next page, but no endCursor",
                remedy="request pageInfo { hasNextPage endCursor } in the document",
            )
        return cursor


async def collect_pages(http: HttpTransport, pager: GraphQLPager, run: Run, max_bytes: int) -> list[dict[str, Any]]:
    """Return the nodes of all pages, in memory.

    :raises IntegrityError: if they are too large, the cursor repeats, or there are too many pages.
    """
    nodes: list[dict[str, Any]] = []
    seen: set[Position] = set()
    position: Position = None
    size, pages = 0, 0
    progress = run.progress("fetch", unit="rows")
    while True:
        if pager.plan.max_pages is not None and pages >= pager.plan.max_pages:
            raise IntegrityError(f"there are more than {pages} pages", remedy="raise `max_pages`")
        answer = await pager.fetch(http, position)
        pages += 1
        found = pager.records(answer.json(), pages)
        size += len(json.dumps(found))
        if size > max_bytes:
            raise IntegrityError(f"the nodes are larger than {max_bytes:,} bytes", remedy="use `save_to`")
        nodes += found
        progress.advance(len(found))
        position = pager.following(http, position, answer, answer.json(), len(found))
        if position is None:
            progress.finish()
            return nodes
        if position in seen:
            raise IntegrityError(
                f"the cursor after page {pages} came up before: the pages go round in a circle",
                remedy=f"check that the document uses the variable ${pager.connection.after_variable}",
            )
        seen.add(position)
