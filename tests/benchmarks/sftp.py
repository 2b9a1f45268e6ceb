"""Files over SFTP from and to a real OpenSSH server: ours as a task runs it, rclone, and the pipe that is the bound.

The names ending in ``_far`` add 20 ms of round trip; there the files are fewer and smaller.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.delay import delayed
from tests.benchmarks.harness import Contender, Workload
from tests.benchmarks.http_download import scratch
from tests.support.sshd import sshd

MIB = 1024 * 1024
RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "rclone"


@contextlib.contextmanager
def scene(what: str, milliseconds: float) -> Iterator[dict[str, Any]]:
    folder = scratch()
    try:
        (folder / "source").mkdir()
        if what == "big":
            with (folder / "source" / "big.bin").open("wb") as file:
                for _ in range(256 if milliseconds else 1024):
                    file.write(os.urandom(MIB))
        else:
            for number in range(500 if milliseconds else 5000):
                path = folder / "source" / f"{number % 50:02}" / f"{number}.bin"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(os.urandom(8192))
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(sshd(shell=True))
            port = stack.enter_context(delayed(server.port, milliseconds)) if milliseconds else server.port
            known = folder / "known_hosts"
            known.write_text(server.known_hosts_for(port) + "\n")
            yield {
                "folder": str(folder),
                "port": port,
                "user": server.user,
                "key": str(server.key_file),
                "known": str(known),
                "extra": {"key_file": str(server.key_file), "host_key": server.host_key},
            }
    finally:
        shutil.rmtree(folder)


def ssh(scene: dict[str, Any]) -> list[str]:
    return [
        "ssh", "-F", "none", "-q", "-c", "aes128-gcm@openssh.com", "-p", str(scene["port"]), "-i", scene["key"],
        "-o", f"UserKnownHostsFile={scene['known']}", f"{scene['user']}@127.0.0.1",
    ]  # fmt: skip


def target(scene: dict[str, Any], *, full: bool = False) -> Path:
    path = Path(scene["folder"]) / "target"
    shutil.rmtree(path, ignore_errors=True)
    if full:
        shutil.copytree(Path(scene["folder"]) / "source", path)
    else:
        path.mkdir()
    return path


def whole(scene: dict[str, Any]) -> None:
    def tree(path: Path) -> dict[str, int]:
        return {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}

    if tree(Path(scene["folder"]) / "target") != tree(Path(scene["folder"]) / "source"):
        raise AssertionError("the target is not the source")


def pipe(scene: dict[str, Any], *, down: bool) -> Iterator[None]:
    source, to = Path(scene["folder"]) / "source", target(scene)
    pack = ["tar", "-C", str(source), "-cf", "-", "."]
    unpack = ["tar", "-C", str(to), "-xf", "-"]
    first, second = ([*ssh(scene), *pack], unpack) if down else (pack, [*ssh(scene), *unpack])
    yield
    with subprocess.Popen(first, stdout=subprocess.PIPE) as producer:
        subprocess.run(second, stdin=producer.stdout, check=True)
    yield
    whole(scene)


def rsync(scene: dict[str, Any]) -> Iterator[None]:
    to = target(scene, full=True)
    shell = " ".join(ssh(scene)[:-1])
    yield
    source = f"{scene['user']}@127.0.0.1:{scene['folder']}/source/"
    subprocess.run(["rsync", "-a", "-e", shell, source, f"{to}/"], check=True)
    yield
    whole(scene)


def rclone(scene: dict[str, Any], *, verb: str = "copy", down: bool = True, full: bool = False) -> Iterator[None]:
    to = target(scene, full=full)
    options = {
        "host": "127.0.0.1", "port": scene["port"], "user": scene["user"], "key_file": scene["key"],
        "known_hosts_file": scene["known"], "disable_hashcheck": "true", "concurrency": "64", "shell_type": "unix",
    }  # fmt: skip
    remote = ":sftp," + ",".join(f"{name}={value}" for name, value in options.items()) + ":"
    source, dest = f"{scene['folder']}/source", str(to)
    source, dest = (remote + source, dest) if down else (source, remote + dest)
    tuned = ["--config", "", "-q", "--transfers", "16", "--checkers", "16"]
    yield
    subprocess.run([RCLONE, *tuned, verb, source, dest], check=True)
    yield
    whole(scene)


def ours(scene: dict[str, Any], *, down: bool = True, full: bool = False, sync: bool = False) -> Iterator[None]:
    from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
    from tests.support.context import FileStateStore, execute, make_context

    to = target(scene, full=full)
    os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps({
        "conn_type": "sftp", "host": "127.0.0.1", "port": scene["port"], "login": scene["user"],
        "extra": scene["extra"],
    })  # fmt: skip
    source, dest = f"{scene['folder']}/source", f"{to}"
    source, dest = (f"sftp://partner@{source}", dest) if down else (source, f"sftp://partner@{dest}")
    if sync:
        operator: Any = FileSyncOperator(task_id="t", source=source, dest=dest)
    else:
        operator = FileCopyOperator(task_id="t", source=source, dest=f"{dest}/", recursive=True)
    state = FileStateStore(Path(scene["folder"]) / f"state-{os.getpid()}")
    import asyncssh  # noqa: F401 - what a worker pays once is not the transfer's cost

    yield
    execute(operator, make_context(operator, state=state))
    yield
    whole(scene)


def _workload(title: str, what: str, far: bool, reference: str, contenders: dict[str, Contender]) -> Workload:
    milliseconds = 20 if far else 0
    return Workload(
        title=f"{title}, 20 ms of round trip" if far else title,
        contenders=contenders,
        reference=reference,
        scene=partial(scene, what, milliseconds),
    )


def _all() -> dict[str, Workload]:
    made: dict[str, Workload] = {}
    sizes: dict[str, Callable[[bool], str]] = {
        "big": lambda far: "256 MiB" if far else "1 GiB",
        "tree": lambda far: f"{500 if far else 5000} files of 8 KiB",
    }
    for far in (False, True):
        suffix = "_far" if far else ""
        for what, size in sizes.items():
            for down in (True, False):
                way = "down" if down else "up"
                contenders: dict[str, Contender] = {
                    "ssh and tar": partial(pipe, down=down),
                    "rclone tuned": partial(rclone, down=down),
                    "files.copy": partial(ours, down=down),
                }
                title = f"{size(far)} {way} over SFTP"
                made[f"{what}_{way}{suffix}"] = _workload(title, what, far, "ssh and tar", contenders)
        same: dict[str, Contender] = {
            "rsync": rsync,
            "rclone sync tuned": partial(rclone, verb="sync", full=True),
            "files.sync": partial(ours, full=True, sync=True),
        }
        made[f"unchanged{suffix}"] = _workload(f"{sizes['tree'](far)} unchanged", "tree", far, "rsync", same)
    return made


WORKLOADS = _all()
