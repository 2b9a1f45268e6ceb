"""20,000 small GETs against nginx in one task, 32 at a time; every body is parsed and counted by every contender.

Imports are not timed: ours and the official hooks import at their first use, so they make one request before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload

COUNT = 20_000
AT_ONCE = 32
FAST = "1000000/second"

_NGINX = """
worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000;
    client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
    uwsgi_temp_path {home}; scgi_temp_path {home};
    server {{
        listen 127.0.0.1:{port};
        location /x/ {{
            default_type application/json;
            return 200 '{{"path": "$uri", "state": "paid", "total": 1250}}';
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx() -> Iterator[dict[str, Any]]:
    from tests.support.servers import free_port

    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        config = Path(home, "nginx.conf")
        config.write_text(_NGINX.format(home=home, port=port))
        server = subprocess.Popen(["nginx", "-p", home, "-c", str(config), "-e", f"{home}/error.log"])
        try:
            _wait_for(port)
            yield {"port": port, "load": os.getloadavg()[0]}
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx does not listen")


def _check(number: int, body: Any) -> int:
    assert body["path"] == f"/x/{number}", body
    return 1


def _connect(scene: dict[str, Any], **options: Any) -> None:
    value = {
        "conn_type": "http",
        "host": "http://127.0.0.1",
        "port": scene["port"],
        "login": "me",
        "password": "pw-0815",
    }
    if options:
        value["extra"] = {"flowrunner": options}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(value)
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()


async def _in_workers(work: Any) -> None:
    numbers, seen = iter(range(COUNT)), 0

    async def worker() -> None:
        nonlocal seen
        for number in numbers:
            body = await work(number)
            seen += _check(number, body)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    assert seen == COUNT


def _bare(loop: str) -> Any:
    def contender(scene: dict[str, Any]) -> Iterator[None]:
        import aiohttp
        import uvloop

        async def main() -> None:
            connector = aiohttp.TCPConnector(limit=AT_ONCE)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def work(number: int) -> Any:
                    async with session.get(f"http://127.0.0.1:{scene['port']}/x/{number}") as answer:
                        return await answer.json()

                await _in_workers(work)

        yield
        if loop == "uvloop":
            uvloop.run(main())
        else:
            asyncio.run(main())

    return contender


def transport(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene, rate_limit=FAST)
    from flowrunner_provider.core.run import Run
    from flowrunner_provider.http.hook import FlowRunnerHttpHook
    from flowrunner_provider.runtime.operator import run_to_end

    run = Run.alone()
    opened = FlowRunnerHttpHook().transport(run)

    async def main() -> None:
        async with opened as http:

            async def work(number: int) -> Any:
                return (await http.request("GET", f"/x/{number}")).json()

            await _in_workers(work)

    FlowRunnerHttpHook().check()
    yield
    run_to_end(main(), run.deadline)


def batch(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene, rate_limit=FAST)
    from flowrunner_provider.http.operators import HttpBatchOperator
    from tests.support.context import FileStateStore, execute, make_context

    folder = Path(tempfile.mkdtemp())

    def task(count: int) -> tuple[Any, Any]:
        operator = HttpBatchOperator(
            task_id="t",
            items=list(range(count)),
            request={"endpoint": "/x/{item}"},
            save_to=str(folder / "out.jsonl"),
            dead_letter=str(folder / "dead.jsonl"),
        )
        return operator, make_context(operator, state=FileStateStore(folder / f"state-{count}"))

    execute(*task(1))
    operator, context = task(COUNT)
    yield
    result = execute(operator, context)
    yield
    assert (result["items"], result["done"]) == (COUNT, COUNT)
    with (folder / "out.jsonl").open() as file:
        seen = set()
        for line in file:
            row = json.loads(line)
            _check(row["index"], row["body"])
            seen.add(row["index"])
    assert len(seen) == COUNT


def official_session(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene)
    from airflow.providers.http.hooks.http import HttpAsyncHook, HttpHook

    async def main() -> None:
        async with HttpAsyncHook("GET", "http_default").session() as session:

            async def work(number: int) -> Any:
                return await (await session.run(endpoint=f"x/{number}")).json()

            await _in_workers(work)

    HttpHook("GET", "http_default").run("x/0")
    yield
    asyncio.run(main())


def official_loop(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene)
    from airflow.providers.http.hooks.http import HttpHook

    hook = HttpHook("GET", "http_default")
    hook.run("x/0")
    yield
    for number in range(COUNT):
        _check(number, hook.run(f"x/{number}").json())


WORKLOAD = Workload(
    title=f"{COUNT:,} small GETs in one task, nginx, {AT_ONCE} at a time",
    contenders={
        "aiohttp + uvloop": _bare("uvloop"),
        "our transport": transport,
        "http.batch": batch,
        "aiohttp": _bare("asyncio"),
        "HttpAsyncHook.session": official_session,
        "HttpHook.run loop": official_loop,
    },
    reference="aiohttp + uvloop",
    scene=nginx,
)
