"""A real Ceph object gateway: a monitor, a store in memory and the S3 server in front of it, within two seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.servers import HOST, Server, ServerBroken, free_port, greets, require
from tests.support.tls import Tls

__all__ = ["ACCESS_KEY", "SECRET_KEY", "S3Server", "client_of", "rgw"]

ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTEST"
FSID = "8a4b7c1e-0000-4000-8000-000000000001"

# Quick start: the two paxos lines (13 s without). It starts at all: "crc secure", as no keys are used.
CONFIG = """
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:{host}:{monitor}
ms bind ipv6 = false
ms bind msgr1 = false
public network = 127.0.0.0/8
public addr = {host}
cluster addr = {host}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
ms mon service mode = crc secure
ms mon cluster mode = crc secure
auth allow insecure global id reclaim = false
paxos propose interval = 0.02
paxos min wait = 0.01
mon tick interval = 1
osd mon report interval = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon osd full ratio = 0.995
osd failsafe full ratio = 0.999
mon osd nearfull ratio = 0.98
mon osd backfillfull ratio = 0.985
mon data avail crit = 1
mon data avail warn = 2
run dir = {run}/run
log file = {run}/$name.log
admin socket = {run}/run/$name.asok
osd class load list = *
osd class default list = *
keyring = {run}/keyring
[mon.a]
mon data = {run}/mon
[osd.0]
osd data = {run}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
[client.rgw]
rgw enable usage log = false
rgw thread pool size = 32
rgw run sync thread = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = key-1=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
"""


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server is; tests make buckets of their own."""

    server: Server
    tls_port: int = 0
    host: str = HOST

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def tls_endpoint(self) -> str:
        return f"https://localhost:{self.tls_port}"


@cache
def client_of(endpoint: str, **more: Any) -> Any:
    """A boto3 client for looking at the far side by another way."""
    import boto3
    from botocore.config import Config

    checksums = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    settings = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **checksums)
    return boto3.client("s3", endpoint_url=endpoint, config=config, **{**settings, **more})


@contextmanager
def rgw(directory: Path, tls: Tls) -> Iterator[S3Server]:
    """Run monitor, store and gateway for the block; ``directory`` gets their files."""
    names = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
    tool = {name: require(name, apt=_package(name)) for name in names}
    run, config = directory, directory / "ceph.conf"
    for folder in ("mon", "osd", "run"):
        (run / folder).mkdir()
    monitor = free_port()
    config.write_text(CONFIG.format(fsid=FSID, host=HOST, monitor=monitor, run=run))

    def call(name: str, *arguments: str) -> str:
        done = subprocess.run([tool[name], *arguments], capture_output=True, text=True, timeout=60, cwd="/")
        if done.returncode:
            raise ServerBroken(f"{name} {' '.join(arguments[:6])} failed\n{done.stderr[-2000:]}")
        return done.stdout

    conf = ("-c", str(config))
    call(
        "ceph-authtool", "--create-keyring", str(run / "keyring"), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"
    )
    call("ceph-authtool", str(run / "keyring"), "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *")
    monmap = str(run / "monmap")
    call("monmaptool", "--create", "--addv", "a", f"[v2:{HOST}:{monitor}/0]", "--fsid", FSID, monmap)
    call("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", str(run / "keyring"))

    def says(expected: str, *arguments: str) -> bool:
        done = subprocess.run(
            [tool["ceph"], *conf, "--connect-timeout", "3", *arguments], capture_output=True, text=True, timeout=30
        )
        return done.returncode == 0 and expected in done.stdout

    with ExitStack() as stack:
        stack.callback(_kill_by_pid_files, run)
        _start([tool["ceph-mon"], *conf, "-i", "a", "-f"], run / "mon.out", run / "mon.pid")
        _await(lambda: says("a", "mon", "stat"), "ceph-mon")
        call("ceph", *conf, "osd", "new", "8a4b7c1e-0000-4000-8000-0000000000aa")
        call("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", "8a4b7c1e-0000-4000-8000-0000000000aa")
        _start([tool["ceph-osd"], *conf, "-i", "0", "-f"], run / "osd.out", run / "osd.pid")
        _await(lambda: says("1 up", "osd", "stat"), "ceph-osd")
        user = ("user", "create", "--uid=t", "--display-name=t")
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        call("radosgw-admin", *conf, "-n", "client.rgw", *user, *keys)
        secure = free_port()
        pem = f"ssl_endpoint={HOST}:{secure} ssl_certificate={tls.cert_file} ssl_private_key={tls.key_file}"

        def command(port: int) -> list[str]:
            frontend = f"beast endpoint={HOST}:{port} {pem} tcp_nodelay=1"
            return [tool["radosgw"], *conf, "-n", "client.rgw", "-f", f"--rgw-frontends={frontend}"]

        gateway = Server(
            "radosgw",
            command,
            ready=lambda port: greets(port, b"HTTP/1.1 ", say=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            log=run / "radosgw.log",
            stop_signal=signal.SIGKILL,  # everything is in memory
        )
        yield S3Server(stack.enter_context(gateway), tls_port=secure)


def _package(program: str) -> str:
    known = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "radosgw": "radosgw", "radosgw-admin": "radosgw"}
    return known.get(program, "ceph-common")


def _start(command: list[str], log: Path, pid: Path) -> None:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd="/", start_new_session=True
        )
    pid.write_text(str(process.pid))


def _await(ready: Any, name: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise ServerBroken(f"{name} did not start in {seconds:g} s")
        time.sleep(0.05)


def _kill_by_pid_files(run: Path) -> None:
    for file in run.glob("*.pid"):
        pid = int(file.read_text())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
