"""Every real server starts, serves and stops, and leaves no process behind."""

from __future__ import annotations

import asyncio
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.postgres import Postgres, postgres
from tests.support.redis_server import RedisServer, redis
from tests.support.servers import Server, ServerBroken, free_port, greets, require
from tests.support.sshd import Sshd, sshd

pytestmark = pytest.mark.backend

LISTEN = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""


def python(code: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-c", code, str(port)]


def tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []


def test_postgres_serves_a_fresh_database_each_time(postgres: Postgres) -> None:
    first, second = postgres.database(), postgres.database()
    with first.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    with second.connect() as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_redis_serves(redis_server: RedisServer) -> None:
    import redis

    with redis.from_url(redis_server.url()) as client:
        assert client.incr("test_redis_serves") == 1
    with redis.Redis(port=redis_server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("x")


def test_sshd_serves_sftp_to_its_key_and_is_known(sshd: Sshd) -> None:
    import asyncssh

    async def put(root: Path) -> list[str]:
        hosts = asyncssh.import_known_hosts(sshd.known_hosts_line + "\n")
        async with (
            asyncssh.connect(
                sshd.host, sshd.port, username=sshd.user, client_keys=[str(sshd.key_file)], known_hosts=hosts
            ) as connection,
            connection.start_sftp_client() as sftp,
        ):
            async with sftp.open(f"{root}/a.txt", "wb") as file:
                await file.write(b"hello")
            return list(await sftp.listdir(str(root)))

    root = sshd.root()
    assert set(asyncio.run(put(root))) == {".", "..", "a.txt"}
    assert (root / "a.txt").read_bytes() == b"hello"
    assert sshd.root() != root


def test_nginx_serves_files_and_ranges(tmp_path: Path) -> None:
    from tests.support.nginx import nginx

    root, run = tmp_path / "root", tmp_path / "run"
    root.mkdir()
    run.mkdir()
    (root / "a.txt").write_bytes(b"0123456789")
    with nginx(root, run) as server:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/a.txt", headers={"Range": "bytes=2-4"})
        with urllib.request.urlopen(request, timeout=5) as response:
            assert (response.status, response.read()) == (206, b"234")
        processes = tree(server.pid)
    assert_gone(processes)


def test_stopping_leaves_no_process_and_no_files(tmp_path: Path) -> None:
    directories, processes = [], []
    with postgres() as cluster, redis(tmp_path) as cache, sshd() as ssh:
        for server in (cluster.server, cache.server, ssh.server):
            processes += tree(server.pid)
        directories = [cluster.server.log.parent, ssh.server.log.parent]
        assert all(directory.exists() for directory in directories)
    assert_gone(processes)
    assert not any(directory.exists() for directory in directories)


def test_a_server_that_ends_fails_with_its_log(tmp_path: Path) -> None:
    command = python("raise SystemExit('no such option')")
    broken = Server("broken", command, ready=lambda port: greets(port, b"hello"), log=tmp_path / "log")
    with pytest.raises(ServerBroken, match="no such option"):
        broken.start()


def test_a_server_that_listens_and_does_not_greet_is_not_ready(tmp_path: Path) -> None:
    server = Server(
        "rude",
        python(LISTEN),
        ready=lambda port: greets(port, b"220 "),
        log=tmp_path / "log",
        start_seconds=0.5,
    )
    with pytest.raises(ServerBroken, match="did not greet"):
        server.start()


def test_a_taken_port_is_tried_once_more(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]

        def command(port: int) -> list[str]:
            return python(LISTEN)(ports.pop() if ports else port)

        with Server("second", command, ready=lambda port: greets(port, b"hello"), log=tmp_path / "log") as server:
            assert greets(server.port, b"hello")


def test_a_deaf_server_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.servers.STOP_SECONDS", 0.3)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTEN
    with Server("deaf", python(deaf), ready=lambda port: greets(port, b"hello"), log=tmp_path / "log") as server:
        process = server._process
        assert process is not None
    assert process.returncode == -signal.SIGKILL


def test_what_is_missing_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUIRE_BACKENDS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install nothing-of-the-kind"):
        require("/no/such/program", apt="nothing-of-the-kind")
    monkeypatch.setenv("REQUIRE_BACKENDS", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        require("/no/such/program", apt="nothing-of-the-kind")
    assert require("/no/such/program", sys.executable, apt="python3") == sys.executable


def test_free_ports_differ() -> None:
    assert free_port() > 1024
