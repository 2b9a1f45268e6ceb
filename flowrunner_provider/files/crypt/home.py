"""A private home for GnuPG, in memory where the machine has such a place, for as long as one message takes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

from flowrunner_provider.core.errors import SecurityError

__all__ = ["gnupg_home"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - the name in it is ours alone, see below


@contextmanager
def gnupg_home(token: str) -> Iterator[str]:
    """An empty folder that only this user may enter; gone afterwards.

    :param token: of the task: what a killed attempt has left there is removed by the next one.
    :raises SecurityError: if somebody else has put something there.
    """
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(gettempdir())
    home = parent / f"flowrunner-gpg-{os.getuid()}-{token}"
    with suppress(FileNotFoundError):
        found = home.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise SecurityError(f"{home} is somebody else's", remedy="remove it: keys are kept there for a moment")
        shutil.rmtree(home)
    home.mkdir(mode=0o700)  # fails if anybody was quicker
    try:
        yield str(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)  # which also ends the agent that it had
