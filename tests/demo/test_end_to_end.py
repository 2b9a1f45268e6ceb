"""The command itself, with a real Airflow: it survives, it cleans up, and it keeps its secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(240)]


class Demo:
    """The command as a child process, its output, and every process that ever belonged to it."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        self.temp = tmp_path / "temp"
        self.temp.mkdir()
        self.output = tmp_path / "output"
        argv = [sys.executable, "-P", "-m", "flowrunner_provider.demo", *options]
        env = {**os.environ, "TMPDIR": str(self.temp), "PYTHONUNBUFFERED": "1"}
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.seen: dict[int, psutil.Process] = {}
        self.foreign: set[str] = set()

    def text(self) -> str:
        return self.output.read_text()

    def look(self) -> None:
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for member in family:
            self.seen.setdefault(member.pid, member)
            try:
                sockets = member.net_connections("inet")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
            self.foreign |= listening - {"127.0.0.1"}

    def until(self, done: Callable[[], bool], seconds: float = 200) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.text()
            self.look()
            time.sleep(0.2)

    def over(self) -> bool:
        return self.process.poll() is not None

    def survivors(self) -> list[psutil.Process]:
        """Members of the family that live ten seconds later; a reused pid does not count."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=10)
        marked = [one for one in psutil.process_iter() if str(self.temp) in environment_of(one)]
        return [*alive, *marked]


def environment_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:
        return ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def begin(*options: str) -> Demo:
        started.append(Demo(tmp_path, *options))
        return started[-1]

    yield begin
    for demo in started:
        if not demo.over():
            demo.process.send_signal(signal.SIGTERM)
            demo.process.wait(30)


def test_the_pipeline_survives_and_leaves_nothing_behind(start: Callable[..., Demo]) -> None:
    demo = start("--ui")
    demo.until(lambda: "Ctrl-C stops it" in demo.text() or demo.over())
    assert "All 7 checks passed" in demo.text(), demo.text()
    assert re.search(r"http://127\.0\.0\.1:\d+/dags/recovery_pipeline +login admin +password \S+", demo.text())
    assert not demo.over()
    assert len(demo.seen) >= 6
    demo.process.send_signal(signal.SIGINT)
    demo.until(demo.over, 20)
    assert demo.process.returncode == 0, demo.text()
    assert demo.survivors() == []
    assert demo.foreign == set(), "something listens beyond loopback"
    assert list(demo.temp.iterdir()) == []


def test_no_secret_reaches_a_log_the_metadata_database_or_a_file(start: Callable[..., Demo], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    demo = start("--scratch", str(scratch))
    demo.until(demo.over)
    assert demo.process.returncode == 0, demo.text()
    handed_out = scratch / "backends.json"
    secrets = [json.loads(handed_out.read_text())[name] for name in ("token", "sftp_password")]
    spelled = [
        spelling
        for secret in secrets
        for spelling in (secret[:12], secret, quote(secret, safe=""), b64encode(secret.encode()).decode())
    ]
    hits = [
        f"{path.relative_to(scratch)}: {spelling[:4]}..."
        for path in [*scratch.rglob("*"), demo.output]
        if path.is_file() and path != handed_out
        for spelling in spelled
        if spelling.encode() in path.read_bytes()
    ]
    assert len(list(scratch.rglob("*.log"))) >= 12
    assert hits == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_during_the_run_leaves_nothing_behind(start: Callable[..., Demo], signum: signal.Signals) -> None:
    demo = start()
    demo.until(lambda: "fetch" in demo.text() or demo.over())
    assert not demo.over(), demo.text()
    assert len(demo.seen) >= 6
    demo.process.send_signal(signum)
    demo.until(demo.over, 20)
    assert demo.process.returncode == (-9 if signum == signal.SIGKILL else 130)
    assert demo.survivors() == []
    time.sleep(0.5)  # the guard removes the folder after the last process
    assert [one for one in demo.temp.iterdir() if one.name.startswith("flowrunner-demo-")] == []


def test_a_dag_import_error_is_reported_at_once(start: Callable[..., Demo], tmp_path: Path) -> None:
    broken = tmp_path / "recovery_pipeline.py"
    broken.write_text("from airflow.sdk import dag\nraise RuntimeError('sorry')\n")
    demo = start("--dag", str(broken), "--timeout", "90")
    demo.until(demo.over)
    assert demo.process.returncode == 2
    assert "does not import: RuntimeError: sorry" in demo.text()
    assert demo.survivors() == []


def test_a_run_that_takes_too_long_ends_and_keeps_its_logs(start: Callable[..., Demo]) -> None:
    demo = start("--timeout", "10")
    demo.until(demo.over)
    assert demo.process.returncode == 1
    assert "took longer than its 10 s" in demo.text()
    assert demo.survivors() == []
    assert len(list(demo.temp.glob("flowrunner-demo-*/logs/*.log"))) >= 2
