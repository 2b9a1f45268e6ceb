"""However the command ends, its processes end too, even orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import TimedOut, Unavailable
from flowrunner_provider.demo.processes import Processes

pytestmark = pytest.mark.faults

# A child that ignores SIGTERM, and an orphaned grandchild in a session of its own.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
else:
    os.waitpid(middle, 0)
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
time.sleep(120)
"""

PARENT = f"""
import os, signal, sys, time
from pathlib import Path
from flowrunner_provider.demo.processes import Processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
with Processes(Path(sys.argv[1]), remove=Path(sys.argv[2])) as processes:
    processes.start("stubborn", [sys.executable, "-c", {STUBBORN!r}, sys.argv[1]], os.environ)
    time.sleep(120)
"""


def pids(folder: Path) -> list[int]:
    end = time.monotonic() + 20
    while len(found := [int(path.name) for path in folder.iterdir() if path.name.isdigit()]) < 2:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def gone(found: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in found):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_leaving_the_context_stops_all_processes(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("stubborn", [sys.executable, "-c", STUBBORN, str(tmp_path)], os.environ)
        found = [*pids(tmp_path), processes.guard.pid]
    assert not any(psutil.pid_exists(pid) for pid in found)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_the_death_of_the_command_stops_all_processes(signum: signal.Signals, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    argv = [sys.executable, "-c", PARENT, str(tmp_path), str(scratch)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as parent:
        found = pids(tmp_path)
        guard = psutil.Process(parent.pid).children()[0].pid
        parent.send_signal(signum)
    assert gone([*found, guard], 10)
    assert not scratch.exists()


def test_an_unexpected_exit_is_reported_with_its_last_output(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("sad", [sys.executable, "-c", "import sys; sys.exit('no disk')"], os.environ)
        with pytest.raises(Unavailable, match=r"sad ended with code 1: no disk"):
            processes.finish("sad", Deadline(20))


def test_waiting_times_out(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("slow", [sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
        with pytest.raises(TimedOut):
            processes.finish("slow", Deadline(0.3))


def test_the_files_can_be_kept(tmp_path: Path) -> None:
    for keep in (False, True):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        with Processes(tmp_path, remove=scratch) as processes:
            if keep:
                processes.keep_files()
        assert scratch.exists() is keep
