"""The REST API: real data, strict about tokens, and as unreliable as its schedule says."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.demo.airports_api import PAGE_LIMIT, AirportsApi, Faults, load_airports

CALM = Faults(throttle=0, reset=0, cut=0)
AIRPORTS = load_airports()


def serve(api: AirportsApi, talk: Callable[[aiohttp.ClientSession, str], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        runner = web.AppRunner(api.application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        headers = {"Authorization": f"Bearer {api.token}"}
        try:
            async with aiohttp.ClientSession(headers=headers) as session:
                return await talk(session, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/airports")
        finally:
            await runner.cleanup()

    return asyncio.run(main())


async def outcome(session: aiohttp.ClientSession, url: str) -> str:
    """One request by the plainest client there is: aiohttp's own would repeat it after a reset."""

    def ask() -> str:
        split = urlsplit(url)
        connection = http.client.HTTPConnection(split.netloc, timeout=10)
        try:
            path = f"{split.path}?{split.query}"
            connection.request("GET", path, headers={"Authorization": session.headers["Authorization"]})
            reply = connection.getresponse()
            reply.read()
            return str(reply.status)
        except http.client.IncompleteRead:
            return "cut"
        except ConnectionResetError:
            return "reset"
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


def test_the_data_set_is_real_sorted_and_unique() -> None:
    codes = [airport["iata"] for airport in AIRPORTS]
    assert len(codes) > 7_000
    assert codes == sorted(set(codes))
    assert "FRA" in codes


@pytest.mark.parametrize("limit", [PAGE_LIMIT, 199, 1000])
def test_following_the_cursor_returns_every_record_once(limit: int) -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> list[Any]:
        records: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            async with session.get(url, params={"limit": str(limit), "cursor": cursor}) as reply:
                page = await reply.json()
            assert page["total"] == len(AIRPORTS)
            assert 0 < len(page["data"]) <= min(limit, PAGE_LIMIT)
            records += page["data"]
            cursor = page["next_cursor"]
        return records

    assert serve(AirportsApi(AIRPORTS, "t", CALM), talk) == AIRPORTS


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic t", "t", "Bearer ü"])
def test_a_request_without_the_token_is_refused(header: str) -> None:
    api = AirportsApi(AIRPORTS, "t", CALM)

    async def talk(session: aiohttp.ClientSession, url: str) -> int:
        async with session.get(url, headers={"Authorization": header}) as reply:
            return reply.status

    assert serve(api, talk) == 401
    assert (api.stats.unauthorized, api.stats.requests) == (1, 0)


@pytest.mark.parametrize("query", ["?cursor=%25", "?limit=x", "?limit=0", "?limit=-1", "?cursor=_w=="])
def test_an_invalid_query_is_refused(query: str) -> None:
    assert serve(AirportsApi(AIRPORTS, "t", CALM), lambda s, url: outcome(s, url + query)) == "400"


def test_faults_follow_the_schedule_and_are_counted() -> None:
    api = AirportsApi(AIRPORTS, "t", Faults(throttle=4, reset=3, cut=5, retry_after=0))

    async def talk(session: aiohttp.ClientSession, url: str) -> list[str]:
        return [await outcome(session, url) for _ in range(10)]

    expected = ["200", "200", "reset", "429", "cut", "reset", "200", "429", "reset", "cut"]
    assert serve(api, talk) == expected
    stats = api.stats
    assert (stats.requests, stats.pages, stats.throttled, stats.reset, stats.cut) == (10, 3, 2, 3, 2)


def test_a_client_that_ignores_retry_after_is_detected() -> None:
    clock = ManualClock()
    api = AirportsApi(AIRPORTS, "t", Faults(throttle=2, reset=0, cut=0, retry_after=7), clock)

    async def talk(session: aiohttp.ClientSession, url: str) -> list[Any]:
        seen: list[Any] = [await outcome(session, url)]
        async with session.get(url) as reply:
            seen.append((reply.status, reply.headers["Retry-After"]))
        clock.advance(6.9)
        seen.append(await outcome(session, url))  # too early: turned away, and the wait starts anew
        clock.advance(7.0)
        await outcome(session, url)  # the fourth, throttled by schedule
        clock.advance(7.0)
        seen.append(await outcome(session, url))
        async with session.get(url.replace("/v1/airports", "/_stats")) as reply:
            seen.append((await reply.json())["early"])
        return seen

    assert serve(api, talk) == ["200", (429, "7"), "429", "200", 1]
