"""A real Redis with a password, keeping nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import HOST, Server, greets, require

__all__ = ["RedisServer", "redis"]

PASSWORD = "redis-pw"


@dataclass(frozen=True)
class RedisServer:
    """Where the server is; tests keep apart by key prefix or database number."""

    server: Server
    host: str = HOST
    password: str = PASSWORD

    @property
    def port(self) -> int:
        return self.server.port

    def url(self, database: int = 0) -> str:
        """The address in the form that ``redis.from_url`` takes."""
        return f"redis://:{self.password}@{self.host}:{self.port}/{database}"


@contextmanager
def redis(directory: Path) -> Iterator[RedisServer]:
    """Run ``redis-server`` for the block; ``directory`` gets its log."""
    program = require("redis-server", apt="redis-server")

    def command(port: int) -> list[str]:
        options = {
            "bind": HOST, "port": str(port), "requirepass": PASSWORD,
            "save": "", "appendonly": "no", "dir": str(directory),
        }  # fmt: skip
        return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]

    login = f"AUTH {PASSWORD}\r\n".encode()
    with Server(
        "redis",
        command,
        ready=lambda port: greets(port, b"+OK\r\n+PONG", say=login + b"PING\r\n"),
        log=directory / "redis.log",
    ) as server:
        yield RedisServer(server)
