"""The far side as this machine sees it: for the local store, and for a server that runs here."""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self.root = str(root)

    def put(self, relative: str, data: bytes) -> None:
        path = self.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, relative: str) -> bytes:
        return (self.path / relative).read_bytes()

    def names(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, files in os.walk(self.path)
            for name in files
        )
