"""SFTP and SMTP back ends: reachable on loopback only, with the login and host key of this run."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from flowrunner_provider.demo.backends import Ports, Settings, serve


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("mail", "sftp/archive"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    return Settings(
        token="t",
        sftp_user="u",
        sftp_password="p",
        mail=str(tmp_path / "mail"),
        sftp=str(tmp_path / "sftp"),
        ready=str(tmp_path / "ready.json"),
    )


def play(settings: Settings, talk: Callable[[Ports], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await talk(await serve(settings))

    return asyncio.run(main())


def connect(ports: Ports, password: str = "p", key: str = "") -> Any:
    known = asyncssh.import_known_hosts(f"[127.0.0.1]:{ports.sftp} {key or ports.host_key}\n")
    return asyncssh.connect("127.0.0.1", ports.sftp, username="u", password=password, known_hosts=known)


def test_the_ready_file_holds_the_ports(settings: Settings) -> None:
    async def talk(ports: Ports) -> Ports:
        return ports

    ports = play(settings, talk)
    assert Ports.read(Path(settings.ready)) == ports
    assert ports.total > 7_000
    assert len({ports.api, ports.sftp, ports.smtp}) == 3


def test_sftp_serves_only_its_folder(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"\0\r\n data")

    async def talk(ports: Ports) -> None:
        async with connect(ports) as ssh, ssh.start_sftp_client() as sftp:
            await sftp.put(str(tmp_path / "local"), "/archive/a.part")
            await sftp.posix_rename("/archive/a.part", "/archive/a")
            with pytest.raises(asyncssh.SFTPNoSuchFile):
                await sftp.get("/../secret", str(tmp_path / "stolen"))

    play(settings, talk)
    assert (tmp_path / "sftp/archive/a").read_bytes() == b"\0\r\n data"


def test_sftp_requires_the_password_and_presents_its_host_key(settings: Settings) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()

    async def talk(ports: Ports) -> None:
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(ports, password="wrong")
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await connect(ports, key=other)

    play(settings, talk)


def test_smtp_sink_keeps_each_message(settings: Settings, tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Grüße"
    message.set_content("hello")
    message.add_attachment(b"\x00\xff\r\n", maintype="text", subtype="csv", filename="x.csv")

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.send_message(message)
            client.send_message(message)

    async def talk(ports: Ports) -> None:
        await asyncio.to_thread(send, ports.smtp)

    play(settings, talk)
    assert sorted(path.name for path in (tmp_path / "mail").iterdir()) == [
        "0001.eml",
        "0001.json",
        "0002.eml",
        "0002.json",
    ]
