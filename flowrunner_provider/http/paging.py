"""Pagination strategies: how to request the first and the next page of an API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urljoin

from flowrunner_provider.core.errors import ConfigError, TargetForbidden
from flowrunner_provider.core.net_guard import same_origin, strip_query_credentials
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.http.choices import Strategy
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.http.missing_cursor import check_end, is_missing, warn_of_end
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["PagePlan", "Pager", "Position", "next_link"]

Position = str | int | None
"""Position of a page: a cursor, a page number, an offset or a URL; None for the first page."""

ODATA_NEXT = '"@odata.nextLink" || "odata.nextLink"'
ODATA_COUNT = '"@odata.count" || "odata.count"'
"""OData 4.01 JSON, sections 4.5.5 and 4.5.4; the second names are those of OData 3."""

_COUNT_DIFFERS = frozenset({"$top", "$skip"})

# Possessive quantifiers prevent backtracking: spaces between two parts could belong to either.
_LINK = re.compile(
    r'\s*+<([^>]*+)>((?:\s*+;\s*+[\w*!#$&+.^`|~-]++\s*+(?:=\s*+(?:"[^"]*+"|[^\s",;]++))?+)*+)\s*+(?:,|$)'
)
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PagePlan:
    """The parameters of ``http.paginate`` that define the requests; the operator documents them."""

    endpoint: str
    strategy: Strategy
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: Literal["GET", "POST"] = "GET"
    json: Mapping[str, Any] | None = None
    records_path: str = "@"
    cursor_path: str | None = None
    cursor_param: str = "cursor"
    page_param: str = "page"
    first_page: int = 1
    offset_param: str = "offset"
    page_size: int | None = None
    page_size_param: str = "limit"
    total_path: str | None = None
    stop_when: str | None = None
    max_pages: int | None = None


def next_link(values: list[str]) -> str | None:
    """Return the target of ``rel="next"`` in ``Link`` headers (RFC 8288)."""
    for value in values:
        position = 0
        while match := _LINK.match(value, position):
            position = match.end()
            rel = _REL.search(match[2])
            if rel and "next" in (rel[1] or rel[2] or "").lower().split():
                return match[1]
            if position >= len(value):
                break
    return None


class Pager:
    """Requests one page at a time.

    :raises ConfigError: for an invalid plan, before any request.
    """

    def __init__(self, plan: PagePlan) -> None:
        self.plan = plan
        if plan.strategy in ("cursor", "next_url") and not plan.cursor_path:
            raise ConfigError(
                f"strategy {plan.strategy!r} needs `cursor_path`",
                field="cursor_path",
                remedy="set the JMESPath of the next cursor or URL in a page",
            )
        for name in ("page_size", "max_pages"):
            value = getattr(plan, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive", field=name, remedy=f"correct {name}")
        odata = plan.strategy == "odata"
        cursor = plan.cursor_path or (ODATA_NEXT if odata else None)
        counted = odata and not any(name.lower() in _COUNT_DIFFERS for name in plan.params)
        self._may_lack_total = counted and plan.total_path is None
        total = plan.total_path or (ODATA_COUNT if counted else None)
        records = "value" if odata and plan.records_path == "@" else plan.records_path
        self._records = compile_path(records, "records_path")
        self._cursor = compile_path(cursor, "cursor_path") if cursor else None
        self._total = compile_path(total, "total_path") if total else None
        self._stop = compile_path(plan.stop_when, "stop_when") if plan.stop_when else None

    async def fetch(self, http: HttpTransport, position: Position) -> Response:
        """Return the page at ``position``."""
        plan = self.plan
        if plan.strategy in ("link_header", "next_url", "odata") and position is not None:
            return await self._request(http, str(position), {}, {})
        where: dict[str, Any] = {}
        if plan.page_size is not None and plan.strategy != "odata":
            where[plan.page_size_param] = plan.page_size
        if plan.strategy == "page":
            where[plan.page_param] = plan.first_page if position is None else position
        elif plan.strategy == "offset":
            where[plan.offset_param] = 0 if position is None else position
        elif position is not None:
            where[plan.cursor_param] = position
        return await self._request(http, plan.endpoint, plan.params, where)

    async def _request(
        self, http: HttpTransport, endpoint: str, params: Mapping[str, Any], where: Mapping[str, Any]
    ) -> Response:
        """Send one request; page parameters go into the JSON body if there is one, otherwise into the query."""
        plan, headers = self.plan, dict(self.plan.headers)
        if plan.strategy == "odata" and plan.page_size is not None:
            preferred = next((name for name in headers if name.lower() == "prefer"), "Prefer")
            headers[preferred] = ", ".join(filter(None, [headers.get(preferred), f"maxpagesize={plan.page_size}"]))
        if plan.json is None:
            return await http.request(
                plan.method, endpoint, params={**params, **where}, headers=headers, repeatable=True
            )
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
        body = json.dumps({**plan.json, **where}).encode()
        return await http.request(plan.method, endpoint, params=params, headers=headers, body=body, repeatable=True)

    def records(self, body: Any, page: int) -> list[dict[str, Any]]:
        """Return the records of a page.

        :raises ConfigError: if ``records_path`` does not lead to a list of objects.
        """
        found = self._records(body)
        path = self.plan.records_path
        if not isinstance(found, list):
            what = "nothing" if found is None else f"a {type(found).__name__}, not a list"
            shape = (
                f"it has the keys {', '.join(map(str, body))[:200]}"
                if isinstance(body, dict)
                else "it is not an object"
            )
            raise ConfigError(
                f"records_path {path!r} finds {what} in page {page}; {shape}",
                field="records_path",
                remedy='correct it; if a page may lack the list, use "items || `[]`"',
            )
        for record in found:
            if not isinstance(record, dict):
                raise ConfigError(
                    f"records_path {path!r} finds a {type(record).__name__} in page {page}, not an object",
                    field="records_path",
                    remedy='convert them to objects, e.g. "items[].{value: @}"',
                )
        return found

    def total(self, body: Any) -> int | None:
        """Return the total number of records that the page announces.

        :raises ConfigError: if ``total_path`` does not lead to a number.
        """
        if self._total is None:
            return None
        found = self._total(body)
        if found is None and self._may_lack_total:
            return None
        if isinstance(found, str) and found.isascii() and found.isdigit():
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool):
            raise ConfigError(
                f"total_path {self.plan.total_path!r} finds no integer",
                field="total_path",
                remedy="compare it with an answer of the API",
            )
        return found

    def stops(self, body: Any) -> bool:
        """Return whether ``stop_when`` marks this page as the last."""
        return self._stop is not None and bool(self._stop(body))

    def following(self, http: HttpTransport, position: Position, answer: Response, body: Any, count: int) -> Position:
        """Return the position of the next page; None after the last one.

        Numbered pages end with an empty page, because a server may return fewer records than requested.
        """
        plan = self.plan
        if plan.strategy == "page":
            return (plan.first_page if position is None else int(position)) + 1 if count else None
        if plan.strategy == "offset":
            return (0 if position is None else int(position)) + count if count else None
        found: Any
        if plan.strategy == "link_header":
            getall = getattr(answer.headers, "getall", None)
            found = next_link(list(getall("Link", [])) if getall else [answer.headers.get("Link", "")])
        else:
            found = self._cursor(body) if self._cursor else None
            if found is None and position is None:
                self._check_end(http, body, count)
        if found in (None, "", False):
            return None
        if not isinstance(found, str | int):
            raise ConfigError(
                f"cursor_path {plan.cursor_path!r} finds a {type(found).__name__}",
                field="cursor_path",
                remedy="it must lead to a string or a number",
            )
        return found if plan.strategy == "cursor" else _own_url(http, answer.url, str(found))

    def _check_end(self, http: HttpTransport, body: Any, count: int) -> None:
        """Judge a first page in which ``cursor_path`` finds nothing: the end, or a misspelt path."""
        path = self.plan.cursor_path or ODATA_NEXT
        if not count or self.stops(body) or not is_missing(path, body):
            return
        check_end(path, body)
        if self.plan.cursor_path:
            warn_of_end(path, count, self.plan.page_size, http.run.log)


def _own_url(http: HttpTransport, page: str, target: str) -> str:
    """Return ``target`` as an absolute URL of the connection's origin, without its credentials."""
    settings = http.settings
    url = urljoin(page, target)
    if not same_origin(settings.base_url, url):
        raise TargetForbidden(
            f"the next page, {redact_url(url)[:200]}, is not on the connection's server",
            remedy="set the connection's host to the one that the API uses, with the same scheme and port",
        )
    return strip_query_credentials(url, settings.credentials.query)
