"""ProFTPD's mod_sftp: a second implementation of SFTP, with other limits and other words than OpenSSH's."""

from __future__ import annotations

import getpass
import grp
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import HOST, Server, greets, require

__all__ = ["ProftpdSftp", "proftpd_sftp"]

USER, PASSWORD = "alice", "pw-canary-4711"

CONFIG = """
ServerName test
ServerType standalone
DefaultAddress {host}
Port {port}
UseIPv6 off
UseReverseDNS off
PidFile {run}/pid
ScoreboardFile {run}/scoreboard
SystemLog {run}/system.log
TransferLog none
User {user}
Group {group}
MaxInstances 100
ModulePath /usr/lib/proftpd
LoadModule mod_sftp.c
DelayEngine off
WtmpLog off
Umask 022
AuthOrder mod_auth_file.c
AuthUserFile {run}/passwd
RequireValidShell off
RootLogin on
AllowOverwrite on
AllowStoreRestart on
SFTPEngine on
SFTPLog {run}/sftp.log
SFTPHostKey {run}/host
"""


@dataclass(frozen=True)
class ProftpdSftp:
    """Where the server is and how to log in. Paths on it are paths on this machine."""

    server: Server
    host_key: str
    run: Path
    host: str = HOST
    user: str = USER
    password: str = PASSWORD

    @property
    def port(self) -> int:
        return self.server.port

    def root(self) -> Path:
        """A new, empty directory on the server: the root for one test."""
        return Path(tempfile.mkdtemp(dir=self.run / "data"))


@contextmanager
def proftpd_sftp() -> Iterator[ProftpdSftp]:
    """Run it for the block, in a directory of its own that is removed afterwards."""
    program = require("/usr/sbin/proftpd", apt="proftpd-mod-crypto")
    keygen = require("ssh-keygen", apt="openssh-client")
    run = Path(tempfile.mkdtemp(prefix="flowrunner-proftpd-"))
    run.chmod(0o755)
    try:
        (run / "data").mkdir()
        key = [keygen, "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", str(run / "host")]
        subprocess.run(key, check=True)
        hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True)
        (run / "passwd").touch(mode=0o600)
        account = f"{hashed.stdout.strip()}:{os.getuid()}:{os.getgid()}::{run}/data:/bin/sh"
        (run / "passwd").write_text(f"{USER}:{account}\n")

        def command(port: int) -> list[str]:
            group = grp.getgrgid(os.getgid()).gr_name
            text = CONFIG.format(host=HOST, port=port, run=run, user=getpass.getuser(), group=group)
            (run / "proftpd.conf").write_text(text)
            return [program, "-n", "-c", str(run / "proftpd.conf")]

        with Server("proftpd", command, ready=lambda port: greets(port, b"SSH-2.0-"), log=run / "log") as server:
            yield ProftpdSftp(server, " ".join((run / "host.pub").read_text().split()[:2]), run)
    finally:
        shutil.rmtree(run)
