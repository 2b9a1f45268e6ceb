"""A real vsftpd: no MLSD, no MFMT, and a data connection must resume the TLS session of its control connection.

Its Debian package conflicts with ProFTPD's, so it is unpacked instead of installed: :func:`install` does that once,
into ``FLOWRUNNER_TEST_CACHE`` (by default the user's cache folder).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import HOST, Server, greets, require
from tests.support.tls import Tls

__all__ = ["Vsftpd", "install", "vsftpd"]

CACHE = Path(os.environ.get("FLOWRUNNER_TEST_CACHE") or Path.home() / ".cache" / "flowrunner-tests")
PROGRAM = CACHE / "vsftpd" / "usr" / "sbin" / "vsftpd"

CONFIG = """
listen=YES
listen_address={host}
listen_port={port}
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
ftp_username=daemon
anon_root=/
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
max_clients=0
max_per_ip=0
secure_chroot_dir={run}/empty
pasv_address={host}
ssl_enable=YES
allow_anon_ssl=YES
force_anon_data_ssl=NO
force_anon_logins_ssl=NO
require_ssl_reuse=YES
implicit_ssl={implicit}
rsa_cert_file={run}/cert.pem
rsa_private_key_file={run}/key.pem
log_ftp_protocol=YES
xferlog_enable=YES
vsftpd_log_file={run}/commands.log
seccomp_sandbox=NO
"""


@dataclass(frozen=True)
class Vsftpd:
    """Where the server is; the login is anonymous. Paths on it are paths on this machine."""

    server: Server
    run: Path
    host: str = HOST

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def commands(self) -> str:
        """What clients have sent and were answered."""
        return (self.run / "commands.log").read_text(errors="replace")

    def root(self) -> Path:
        """A new, empty directory on the server: the root for one test."""
        folder = Path(tempfile.mkdtemp(dir=self.run / "data"))
        folder.chmod(0o777)  # the server works as daemon
        return folder


def install() -> None:
    """Fetch the Debian package and unpack it, unless that was done; nothing is installed."""
    if PROGRAM.is_file() or shutil.which("vsftpd", path="/usr/sbin") or shutil.which("apt-get") is None:
        return
    with tempfile.TemporaryDirectory(prefix="flowrunner-vsftpd-") as folder:
        subprocess.run(["apt-get", "download", "-qq", "vsftpd"], cwd=folder, check=False)
        for package in Path(folder).glob("vsftpd_*.deb"):  # none: its tests say so
            PROGRAM.parents[2].mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg", "-x", str(package), str(PROGRAM.parents[2])], check=True)


@contextmanager
def vsftpd(tls: Tls, *, implicit: bool = False) -> Iterator[Vsftpd]:
    """Run vsftpd for the block, in a directory of its own that is removed afterwards."""
    program = require("/usr/sbin/vsftpd", str(PROGRAM), apt="vsftpd")
    run = Path(tempfile.mkdtemp(prefix="flowrunner-vsftpd-"))
    run.chmod(0o755)
    try:
        (run / "data").mkdir()
        (run / "empty").mkdir(mode=0o555)
        shutil.copy(tls.cert_file, run / "cert.pem")
        shutil.copy(tls.key_file, run / "key.pem")

        def command(port: int) -> list[str]:
            text = CONFIG.format(host=HOST, port=port, run=run, implicit="YES" if implicit else "NO")
            (run / "vsftpd.conf").write_text(text)
            (run / "vsftpd.conf").chmod(0o600)
            return [program, str(run / "vsftpd.conf")]

        def ready(port: int) -> bool:
            return implicit or greets(port, b"220 ")

        with Server("vsftpd", command, ready=ready, log=run / "log") as server:
            yield Vsftpd(server, run)
    finally:
        shutil.rmtree(run)
