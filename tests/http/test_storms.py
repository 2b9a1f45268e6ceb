"""Long bad times: a server that does nothing but throttle, on a virtual clock, and a network full of resets."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from flowrunner_provider.core import retry
from flowrunner_provider.core import run as run_module
from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import Throttled, TransientError
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.net_guard import NetPolicy
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http import batch
from flowrunner_provider.http.batch import BatchSpec, run_batch
from flowrunner_provider.http.batch_items import ItemSource
from flowrunner_provider.http.download import DownloadSpec, download
from flowrunner_provider.http.item_template import RequestTemplate
from flowrunner_provider.http.results import BatchResult, Download
from flowrunner_provider.http.targets import local_target
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings
from tests.support.chaos_proxy import Toxics
from tests.support.http_server import Blob, json_reply, throttled

RESETS = int(os.environ.get("FLOWRUNNER_RESETS", "100"))
SCOPE = ("dag", "run", "task", "-1")
ITEMS = 40
CONCURRENCY = 8


def transport(url: str, run: Run) -> HttpTransport:
    return HttpTransport(HttpSettings(base_url=url, policy=NetPolicy(home=url)), run)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("seconds", [4, 30])  # waited for in place, and handed to Airflow
def test_a_minute_of_throttling_loses_nothing_and_costs_few_requests(
    http_server, tmp_path, monkeypatch, method, seconds
):
    clock, refused, done = ManualClock(), list[float](), list[str]()

    async def advance(wait: float) -> None:
        clock.advance(wait)
        await asyncio.sleep(0)

    for module in (retry, run_module, batch):
        monkeypatch.setattr(module, "apause", advance)

    def storm(request):
        if clock.elapsed < 60:
            refused.append(clock.elapsed)
            return throttled(str(seconds))
        done.append(request.path)
        return json_reply({})

    http_server.route(method, "*", storm)
    template = RequestTemplate(method=method, endpoint="/x/{item.id}")
    spec = BatchSpec(template=template, results=tmp_path / "out.jsonl", concurrency=CONCURRENCY)
    store = MemoryStore()

    async def attempt() -> BatchResult:
        run = Run.open(store, SCOPE, clock=clock)
        async with transport(http_server.url, run) as http:
            return await run_batch(http, spec, ItemSource([{"id": number} for number in range(ITEMS)]), run)

    result = None
    while result is None:
        try:
            result = asyncio.run(attempt())
        except Throttled as error:
            clock.advance(error.retry_after or 0.0)
    assert result.done == ITEMS
    assert sorted(done) == sorted(f"/x/{number}" for number in range(ITEMS))
    assert 0 < len(refused) <= CONCURRENCY * (60 / seconds + 1)


def test_a_download_through_a_hundred_random_resets_is_whole(chaos, http_server, tmp_path):
    data = random.Random(0).randbytes(400_000)
    http_server.route("GET", "/x", Blob(data))
    proxy = chaos(http_server.host, http_server.port)
    draw = random.Random(3)
    plan = RetryPlan(attempts=2, backoff=Backoff(base=0.001, cap=0.001))
    resets = 0

    async def fetch(store: MemoryStore, number: int) -> Download:
        run = Run.open(store, SCOPE, retry=plan)
        spec = DownloadSpec(endpoint="/x", save_to=local_target(tmp_path / f"{number}.bin"))
        async with transport(f"http://{proxy.host}:{proxy.port}", run) as http:
            return await download(http, spec, run)

    number = 0
    while resets < RESETS:
        number, store, result = number + 1, MemoryStore(), None
        while result is None:
            cut = draw.choice([draw.randrange(600), draw.randrange(len(data) + 300)])
            proxy.toxics = Toxics(cut_down=cut, rst=draw.random() < 0.5, connections=draw.choice([1, 1, 2, 5]))
            resets += 1
            try:
                result = asyncio.run(fetch(store, number))
            except TransientError:
                continue
        assert (tmp_path / f"{number}.bin").read_bytes() == data
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin"}
