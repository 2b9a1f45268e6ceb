"""Checksum files beside files, as ``sha256sum`` and its relatives write them: ``orders.csv.sha256``."""

from __future__ import annotations

from flowrunner_provider.core.errors import IntegrityError, NotFound
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.content import read_whole
from flowrunner_provider.files.store import Store

__all__ = ["sidecar_line", "sidecar_of"]

_MOST = 65_536


async def sidecar_of(store: Store, path: str, label: str) -> str:
    """The checksum that a sidecar holds, in lower-case hexadecimal.

    :param path: of the sidecar.
    :param label: how messages call its file.
    """
    try:
        words = (await read_whole(store, path, _MOST)).decode("utf-8", errors="replace").split()
    except NotFound as error:
        raise NotFound(f"{label} has no sidecar {path}", remedy="write one, or switch verify_sidecar off") from error
    if not words:
        raise IntegrityError(f"the sidecar {path} is empty", remedy="write it again")
    return words[0].removeprefix("\\").lower()


def sidecar_line(digest: Digest, path: str) -> bytes:
    """What the sidecar of ``path`` holds."""
    return f"{digest.hexdigest()}  {path.rpartition('/')[2]}\n".encode()
