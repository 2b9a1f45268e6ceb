"""A private GnuPG home directory that exists for the length of one message, in memory where the machine allows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir, mkdtemp

__all__ = ["gnupg_home"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp chooses the name in it


@contextmanager
def gnupg_home(token: str) -> Iterator[str]:
    """Yield an empty directory that only this user may enter, and remove it afterwards.

    Each attempt has a directory of its own: one that wakes late must not remove its successor's.

    :param token: names the task. Directories that its earlier attempts left behind are removed first.
    """
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(gettempdir())
    prefix = f"flowrunner-gpg-{os.getuid()}-{token}-"
    for leftover in parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    home = mkdtemp(prefix=prefix, dir=parent)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)  # gpg-agent ends when its home is gone
