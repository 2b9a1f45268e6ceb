"""The servers of the demo in one process: REST API, SFTP server and SMTP sink, all on 127.0.0.1.

``python -m flowrunner_provider.demo.backends CONFIG`` reads :class:`Settings` as JSON, serves on free ports, and
writes :class:`Ports` to ``settings.ready`` when all three accept connections.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.demo.airports_api import AirportsApi, load_airports

if TYPE_CHECKING:
    import asyncssh

__all__ = ["HOST", "Ports", "Settings", "main", "serve"]

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the back ends.

    :param mail: folder of received messages.
    :param sftp: folder that SFTP users see as ``/``.
    :param ready: file in which to write :class:`Ports`.
    """

    token: str
    sftp_user: str
    sftp_password: str
    mail: str
    sftp: str
    ready: str

    def write(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Ports of the back ends.

    :param host_key: public key of the SFTP server, ``ssh-ed25519 AAAA...``.
    :param total: number of records that the API serves.
    """

    api: int
    sftp: int
    smtp: int
    host_key: str
    total: int

    @classmethod
    def read(cls, path: Path) -> Ports:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class MailSink:
    """An aiosmtpd handler that writes every message to ``0001.eml`` and its envelope to ``0001.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd
        """Write the message to disk, then accept it with 250."""
        self.count += 1
        envelope_file = self.folder / f"{self.count:04d}.json"
        envelope_file.write_text(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos}))
        partial = self.folder / f"{self.count:04d}.part"
        partial.write_bytes(envelope.content)
        partial.rename(partial.with_suffix(".eml"))
        return f"250 2.0.0 stored as {self.count:04d}"


async def _serve_api(settings: Settings) -> tuple[int, int]:
    from aiohttp import web

    airports = load_airports()
    runner = web.AppRunner(AirportsApi(airports, settings.token).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    return runner.addresses[0][1], len(airports)


async def _serve_smtp(settings: Settings) -> int:
    from aiosmtpd.smtp import SMTP

    sink = MailSink(Path(settings.mail))
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(sink, hostname="localhost", enable_SMTPUTF8=True), HOST, 0
    )
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _serve_sftp(settings: Settings) -> tuple[int, str]:
    import asyncssh

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (settings.sftp_user, settings.sftp_password)

    def files(channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=settings.sftp.encode())

    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        HOST, 0, server_host_keys=[key], server_factory=Login, sftp_factory=files, allow_scp=False
    )
    return server.get_port(), key.export_public_key().decode().strip()


async def serve(settings: Settings) -> Ports:
    """Start all three servers; they run as long as the event loop."""
    api, total = await _serve_api(settings)
    sftp, host_key = await _serve_sftp(settings)
    smtp = await _serve_smtp(settings)
    ports = Ports(api=api, sftp=sftp, smtp=smtp, host_key=host_key, total=total)
    ready = Path(settings.ready)
    partial = ready.with_suffix(".part")
    partial.write_text(json.dumps(asdict(ports)), encoding="utf-8")
    partial.rename(ready)
    return ports


async def _forever(settings: Settings) -> None:
    _ports = await serve(settings)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    asyncio.run(_forever(settings))


if __name__ == "__main__":
    main()
