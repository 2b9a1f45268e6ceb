"""What the tests of the file actions share: a far side behind either store, and one way to run an action."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from tests.files.far import Disk, connection_of
from tests.support.context import execute, make_context

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))
LONG_AGO = 1_600_000_000


class Stage:
    """A folder, on this machine or on the server.

    :param disk: the same folder as this machine sees it.
    :param prefix: what comes before its path in an address.
    """

    def __init__(self, disk: Disk, prefix: str, state: Path) -> None:
        self.disk, self.prefix, self.state = disk, prefix, state

    def uri(self, relative: str = "") -> str:
        return f"{self.prefix}{self.disk.root}/{relative}"

    def put(self, *names: str, age: float = 0.0) -> None:
        """Files whose content is their name; the later, the newer."""
        for number, name in enumerate(names):
            self.disk.put(name, name.encode())
            os.utime(self.disk.path / name, (LONG_AGO + number - age, LONG_AGO + number - age))

    def run(self, operator: Any, *, fresh: bool = True, **how: Any) -> Any:
        """Run it; ``fresh`` is a task instance of its own."""
        state = self.state / (uuid.uuid4().hex if fresh else "same")
        return execute(operator, make_context(operator, state=state, **how))


def stage(kind: str, tmp_path: Path, server: Any) -> Stage:
    """A stage; ``kind`` is ``local`` or ``sftp``, whose connection is ``partner``."""
    state = tmp_path / "state"
    state.mkdir(parents=True)
    if kind == "local":
        folder = tmp_path.resolve() / "files"
        folder.mkdir()
        return Stage(Disk(folder), "", state)
    os.environ["AIRFLOW_CONN_PARTNER"] = connection_of(server)
    return Stage(Disk(server.root()), "sftp://partner@", state)
