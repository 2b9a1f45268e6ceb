"""A real ProFTPD: plain FTP with explicit TLS on one port, implicit TLS on another."""

from __future__ import annotations

import getpass
import grp
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.servers import HOST, Server, free_port, greets, require
from tests.support.tls import Tls

__all__ = ["PASSWORD", "USER", "Proftpd", "proftpd"]

USER, PASSWORD = "alice", "pw-canary-4711"

CONFIG = """
ServerName test
ServerType standalone
DefaultAddress {host}
SocketBindTight on
Port {port}
UseIPv6 off
UseReverseDNS off
PidFile {run}/pid
ScoreboardFile {run}/scoreboard
SystemLog {run}/system.log
TransferLog {run}/transfer.log
LogFormat all "%m %J"
User {user}
Group {group}
MaxInstances 100
ModulePath /usr/lib/proftpd
LoadModule mod_tls.c
DelayEngine off
WtmpLog off
<Global>
Umask 022
AuthOrder mod_auth_file.c
AuthUserFile {run}/passwd
RequireValidShell off
RootLogin on
ExtendedLog {run}/commands.log ALL all
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
TLSRSACertificateFile {run}/cert.pem
TLSRSACertificateKeyFile {run}/key.pem
TLSProtocol {protocol}
TLSLog {run}/tls.log
{more}
</Global>
TLSEngine on
TLSRequired {required}
<VirtualHost {host}>
Port {implicit}
TLSEngine on
TLSOptions UseImplicitSSL
</VirtualHost>
"""


@dataclass(frozen=True)
class Proftpd:
    """Where the server is. Paths on it are paths on this machine."""

    server: Server
    implicit_port: int
    run: Path
    host: str = HOST

    @property
    def port(self) -> int:
        """For plain FTP and explicit TLS."""
        return self.server.port

    @property
    def commands(self) -> str:
        """What clients have sent; passwords are left out by the server."""
        return (self.run / "commands.log").read_text(errors="replace")

    def connection(self, authority: Tls, *, implicit: bool = False, **options: Any) -> str:
        """An Airflow connection to it, as JSON; ``options`` are our own."""
        port = self.implicit_port if implicit else self.port
        ours = {"ca_file": str(authority.ca_file), "implicit": implicit, **options}
        whole = {"conn_type": "ftp", "host": self.host, "port": port, "login": USER, "password": PASSWORD}
        return json.dumps({**whole, "extra": {"flowrunner": ours}})

    def root(self) -> Path:
        """A new, empty directory on the server: the root for one test."""
        return Path(tempfile.mkdtemp(dir=self.run / "data"))


def _once(text: str, more: str) -> str:
    """Of a directive that is there twice ProFTPD takes the first one: leave out what ``more`` sets."""
    given = {line.split()[0] for line in more.splitlines() if line and not line.startswith("<")}
    kept, changed = [], False
    for line in text.splitlines():
        changed = changed or (bool(more) and line == more.splitlines()[0])
        if changed or not line.split() or line.split()[0] not in given:
            kept.append(line)
    return "\n".join(kept) + "\n"


@contextmanager
def proftpd(
    tls: Tls, *, more: str = "", required: str = "off", protocol: str = "TLSv1.2 TLSv1.3", cert: bytes = b""
) -> Iterator[Proftpd]:
    """Run ProFTPD for the block, in a directory of its own that is removed afterwards.

    :param more: directives for all its ports.
    :param required: whether TLS is demanded: ``off``, ``on``, ``data`` ...
    :param cert: another certificate with its key.
    """
    program = require("/usr/sbin/proftpd", apt="proftpd-mod-crypto")
    run = Path(tempfile.mkdtemp(prefix="flowrunner-proftpd-"))
    run.chmod(0o755)
    try:
        (run / "data").mkdir()
        (run / "cert.pem").write_bytes(cert or tls.cert_file.read_bytes())
        (run / "key.pem").touch(mode=0o600)
        (run / "key.pem").write_bytes(cert or tls.key_file.read_bytes())
        hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True)
        (run / "passwd").touch(mode=0o600)
        account = f"{hashed.stdout.strip()}:{os.getuid()}:{os.getgid()}::{run}/data:/bin/sh"
        (run / "passwd").write_text(f"{USER}:{account}\n")
        implicit = free_port()

        def command(port: int) -> list[str]:
            text = CONFIG.format(
                host=HOST, port=port, implicit=implicit, run=run, user=getpass.getuser(),
                group=grp.getgrgid(os.getgid()).gr_name,                more=more, required=required, protocol=protocol,
            )  # fmt: skip
            (run / "proftpd.conf").write_text(_once(text, more))
            return [program, "-n", "-c", str(run / "proftpd.conf")]

        with Server("proftpd", command, ready=lambda port: greets(port, b"220 "), log=run / "log") as server:
            yield Proftpd(server, implicit, run)
    finally:
        shutil.rmtree(run)
