"""How an API is asked for its pages: where the first one is, and where the next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urljoin

from flowrunner_provider.core.errors import ConfigError, TargetForbidden
from flowrunner_provider.core.net_guard import same_origin, strip_query_credentials
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["PagePlan", "Pager", "Position", "Strategy", "next_link"]

Strategy = Literal["cursor", "page", "offset", "link_header", "next_url"]
Position = str | int | None
"""Where a page is: a cursor, a page number, an offset or a URL; None is the first one."""

_LINK = re.compile(r'\s*<([^>]*)>((?:\s*;\s*[\w*!#$&+.^`|~-]+\s*(?:=\s*(?:"[^"]*"|[^\s",;]+))?)*)\s*(?:,|$)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PagePlan:
    """The parameters of ``http.paginate`` that say what to ask for; see the operator for their meaning."""

    endpoint: str
    strategy: Strategy
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
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
    """The target of ``rel="next"`` in ``Link`` headers (RFC 8288)."""
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
    """Asks for one page at a time.

    :raises ConfigError: for a plan that cannot work, before anything is asked.
    """

    def __init__(self, plan: PagePlan) -> None:
        self.plan = plan
        if plan.strategy in ("cursor", "next_url") and not plan.cursor_path:
            raise ConfigError(
                f"strategy {plan.strategy!r} needs `cursor_path`",
                field="cursor_path",
                remedy="give the JMESPath of the next cursor or address in a page",
            )
        for name in ("page_size", "max_pages"):
            value = getattr(plan, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive", field=name, remedy=f"correct {name}")
        self._records = compile_path(plan.records_path, "records_path")
        self._cursor = compile_path(plan.cursor_path, "cursor_path") if plan.cursor_path else None
        self._total = compile_path(plan.total_path, "total_path") if plan.total_path else None
        self._stop = compile_path(plan.stop_when, "stop_when") if plan.stop_when else None

    async def fetch(self, http: HttpTransport, position: Position) -> Response:
        """The page at ``position``."""
        plan = self.plan
        if plan.strategy in ("link_header", "next_url") and position is not None:
            return await http.request("GET", str(position), headers=plan.headers)
        params = dict(plan.params)
        if plan.page_size is not None:
            params[plan.page_size_param] = plan.page_size
        if plan.strategy == "page":
            params[plan.page_param] = plan.first_page if position is None else position
        elif plan.strategy == "offset":
            params[plan.offset_param] = 0 if position is None else position
        elif position is not None:
            params[plan.cursor_param] = position
        return await http.request("GET", plan.endpoint, params=params, headers=plan.headers)

    def records(self, body: Any, page: int) -> list[dict[str, Any]]:
        """The records of a page.

        :raises ConfigError: when ``records_path`` does not lead to a list of objects.
        """
        found = self._records(body)
        path = self.plan.records_path
        if not isinstance(found, list):
            what = "nothing" if found is None else f"a {type(found).__name__}, not a list"
            shape = (
                f"it has the keys {', '.join(map(str, body))[:200]}" if isinstance(body, dict) else "it is no object"
            )
            raise ConfigError(
                f"records_path {path!r} finds {what} in page {page}; {shape}",
                field="records_path",
                remedy='correct it; where a page may lack the list, write "items || `[]`"',
            )
        for record in found:
            if not isinstance(record, dict):
                raise ConfigError(
                    f"records_path {path!r} finds a {type(record).__name__} in page {page}, not an object",
                    field="records_path",
                    remedy='make objects of them, e.g. "items[].{value: @}"',
                )
        return found

    def total(self, body: Any) -> int | None:
        """How many records there are in all, as the page says.

        :raises ConfigError: when ``total_path`` does not lead to a number.
        """
        if self._total is None:
            return None
        found = self._total(body)
        if isinstance(found, str) and found.isascii() and found.isdigit():
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool):
            raise ConfigError(
                f"total_path {self.plan.total_path!r} finds no whole number",
                field="total_path",
                remedy="compare it with an answer of the API",
            )
        return found

    def stops(self, body: Any) -> bool:
        """Whether ``stop_when`` says that this page is the last."""
        return self._stop is not None and bool(self._stop(body))

    def following(self, http: HttpTransport, position: Position, answer: Response, body: Any, count: int) -> Position:
        """Where the next page is; None when this was the last.

        Numbered pages end with an empty one: a server may give fewer records than it was asked for.
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
        if found in (None, "", False):
            return None
        if not isinstance(found, str | int):
            raise ConfigError(
                f"cursor_path {plan.cursor_path!r} finds a {type(found).__name__}",
                field="cursor_path",
                remedy="it must lead to text or a number",
            )
        return found if plan.strategy == "cursor" else _at_home(http, answer.url, str(found))


def _at_home(http: HttpTransport, page: str, target: str) -> str:
    """``target`` as an absolute address of the connection's own origin, without its credentials."""
    settings = http.settings
    url = urljoin(page, target)
    if not same_origin(settings.base_url, url):
        raise TargetForbidden(
            f"the next page, {redact_url(url)[:200]}, is not on the connection's server",
            remedy="give the connection the host that the API itself names, with the same scheme and port",
        )
    return strip_query_credentials(url, settings.credentials.query)
