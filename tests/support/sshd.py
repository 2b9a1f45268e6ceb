"""A real OpenSSH server that offers SFTP to one key."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import HOST, Server, greets, require

__all__ = ["Sshd", "sshd"]

CONFIG = """
Port {port}
ListenAddress {host}
HostKey {run}/host_ed25519
PidFile none
AuthorizedKeysFile {run}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
LogLevel VERBOSE
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""


@dataclass(frozen=True)
class Sshd:
    """Where the server is and how to log in. Paths on it are paths on this machine."""

    server: Server
    user: str
    key_file: Path
    host_key: str
    data: Path
    host: str = HOST

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def known_hosts_line(self) -> str:
        """The line of a ``known_hosts`` file that vouches for this server."""
        return self.known_hosts_for(self.port)

    def known_hosts_for(self, port: int) -> str:
        """The same for another port that leads here, e.g. the one of a chaos proxy."""
        return f"[{self.host}]:{port} {self.host_key}"

    def root(self) -> Path:
        """A new, empty directory on the server: the root for one test."""
        return Path(tempfile.mkdtemp(dir=self.data))


def _keygen(path: Path) -> None:
    keygen = require("ssh-keygen", apt="openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)


@contextmanager
def sshd(*, shell: bool = False) -> Iterator[Sshd]:
    """Run ``sshd`` for the block, in a directory of its own that is removed afterwards.

    :param shell: logins may run commands, too.
    """
    template = CONFIG.replace("ForceCommand internal-sftp\n", "") if shell else CONFIG
    program = require("/usr/sbin/sshd", apt="openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it when it runs as root
    run = Path(tempfile.mkdtemp(prefix="flowrunner-sshd-"))
    try:
        for name in ("host_ed25519", "user_ed25519"):
            _keygen(run / name)
        shutil.copy(run / "user_ed25519.pub", run / "authorized_keys")
        (run / "data").mkdir()

        def command(port: int) -> list[str]:
            (run / "sshd_config").write_text(template.format(port=port, host=HOST, run=run))
            return [program, "-D", "-e", "-f", str(run / "sshd_config")]

        with Server("sshd", command, ready=lambda port: greets(port, b"SSH-2.0-"), log=run / "log") as server:
            host_key = " ".join((run / "host_ed25519.pub").read_text().split()[:2])
            yield Sshd(server, getpass.getuser(), run / "user_ed25519", host_key, run / "data")
    finally:
        shutil.rmtree(run)
