"""A real nginx that serves one directory: ETag, Range, If-Range, HEAD as a real server does them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import HOST, Server, greets, require

__all__ = ["nginx"]

CONFIG = """
daemon off; worker_processes 1; pid {run}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log {run}/access.log; default_type application/octet-stream;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{ listen {host}:{port}; root {root}; autoindex on; }}
}}
"""


@contextmanager
def nginx(root: Path, directory: Path) -> Iterator[Server]:
    """Serve the files below ``root`` for the block; ``directory`` gets configuration and logs.

    Its workers must be able to read ``root``: as root they run as ``root`` too, otherwise as we do.
    """
    program = require("/usr/sbin/nginx", apt="nginx-light")
    config = directory / "nginx.conf"

    def command(port: int) -> list[str]:
        config.write_text(CONFIG.format(run=directory, host=HOST, port=port, root=root))
        return [program, "-p", str(directory), "-c", str(config), "-e", "stderr", "-g", "user root;"]

    with Server(
        "nginx",
        command,
        ready=lambda port: greets(port, b"HTTP/1.1 ", say=b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n"),
        log=directory / "nginx.log",
    ) as server:
        yield server
