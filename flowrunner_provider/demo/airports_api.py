"""A paginated REST API over a public data set, with scheduled faults.

``GET /v1/airports?cursor=&limit=`` with a bearer token returns ``{"data", "next_cursor", "total"}``: the airports of
the PyPI package ``airportsdata`` (MIT, about 7,800 records), ordered by IATA code. ``GET /_stats`` returns the counters
of :class:`Stats`. Faults depend only on the number of the request, so every run has the same ones.
"""

from __future__ import annotations

import base64
import hmac
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["PAGE_LIMIT", "AirportsApi", "Faults", "Stats", "load_airports"]

PAGE_LIMIT = 200
_TIMER_TOLERANCE = 0.01  # seconds that a client's timer may be early


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Every n-th request gets the fault; 0 means never. The first that applies wins, in this order.

    :param retry_after: ``Retry-After`` of a 429, in seconds; any earlier request is counted as early.
    """

    throttle: int = 11
    reset: int = 13
    cut: int = 17
    retry_after: int = 1


@dataclass
class Stats:
    """Counters of the API.

    :param pages: complete responses.
    :param throttled: scheduled 429 responses.
    :param reset: connections reset before the reply.
    :param cut: responses shorter than their Content-Length.
    :param early: requests before the last ``Retry-After`` had passed.
    """

    requests: int = 0
    pages: int = 0
    throttled: int = 0
    reset: int = 0
    cut: int = 0
    early: int = 0
    unauthorized: int = 0


def load_airports() -> list[dict[str, Any]]:
    """Return all airports with an IATA code, sorted by it."""
    import airportsdata

    known: Mapping[str, Mapping[str, Any]] = airportsdata.load("IATA")
    return [dict(known[code]) for code in sorted(known)]


class AirportsApi:
    """Request handlers and the state of the fault schedule."""

    def __init__(
        self,
        airports: Sequence[Mapping[str, Any]],
        token: str,
        faults: Faults | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.airports = airports
        codes = [str(airport["iata"]) for airport in airports]
        self._cursors = [base64.urlsafe_b64encode(code.encode()).decode() for code in codes]
        self._begin = {"": 0} | {cursor: index for index, cursor in enumerate(self._cursors, 1)}
        self.token = token
        self.faults = faults or Faults()
        self.clock = clock
        self.stats = Stats()
        self._not_before = 0.0

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/v1/airports", self.list)
        app.router.add_get("/_stats", self.report)
        return app

    async def report(self, request: web.Request) -> web.Response:
        """``GET /_stats``."""
        from aiohttp import web

        return web.json_response(asdict(self.stats))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/airports``."""
        from aiohttp import web

        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            self.stats.unauthorized += 1
            return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})
        self.stats.requests += 1
        number, faults = self.stats.requests, self.faults
        if self.clock.monotonic() < self._not_before - _TIMER_TOLERANCE:
            self.stats.early += 1
            return self._throttle()
        if faults.throttle and number % faults.throttle == 0:
            self.stats.throttled += 1
            return self._throttle()
        if faults.reset and number % faults.reset == 0:
            self.stats.reset += 1
            return self._reset(request)
        try:
            page = self.page(request.query)
        except (ValueError, KeyError):
            return web.json_response({"error": "bad cursor or limit"}, status=400)
        body = json.dumps(page).encode()
        if faults.cut and number % faults.cut == 0:
            self.stats.cut += 1
            return await self._cut(request, body)
        self.stats.pages += 1
        return web.Response(body=body, content_type="application/json")

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return one page; the opaque ``cursor`` encodes the last code of the previous page."""
        limit = int(query.get("limit") or PAGE_LIMIT)
        if limit < 1:
            raise ValueError("limit must be positive")
        begin = self._begin[query.get("cursor", "")]
        end = begin + min(limit, PAGE_LIMIT)
        more = end < len(self.airports)
        return {
            "data": self.airports[begin:end],
            "next_cursor": self._cursors[end - 1] if more else None,
            "total": len(self.airports),
        }

    def _throttle(self) -> web.Response:
        from aiohttp import web

        self._not_before = self.clock.monotonic() + self.faults.retry_after
        return web.json_response(
            {"error": "slow down"}, status=429, headers={"Retry-After": str(self.faults.retry_after)}
        )

    @staticmethod
    def _reset(request: web.Request) -> web.Response:
        """Close with RST instead of FIN, by setting SO_LINGER to zero seconds."""
        from aiohttp import web

        if request.transport is not None:
            wire = request.transport.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        return web.Response()  # never sent

    @staticmethod
    async def _cut(request: web.Request, body: bytes) -> web.StreamResponse:
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response
