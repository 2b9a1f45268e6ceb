"""Checksum files beside files, as ``sha256sum`` and its relatives write them: ``orders.csv.sha256``."""

from __future__ import annotations

from flowrunner_provider.core.errors import IntegrityError, NotFound
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.content import read_whole
from flowrunner_provider.files.store import Store

__all__ = ["sidecar_line", "sidecar_of"]

_MAX_BYTES = 65_536


async def sidecar_of(store: Store, path: str, label: str) -> str:
    """Return the checksum in a sidecar, in lower-case hexadecimal.

    :param path: the path of the sidecar.
    :param label: the name of its file in messages.
    """
    try:
        words = (await read_whole(store, path, _MAX_BYTES)).decode("utf-8", errors="replace").split()
    except NotFound as error:
        raise NotFound(f"{label} has no sidecar {path}", remedy="write one, or set verify_sidecar=False") from error
    if not words:
        raise IntegrityError(f"the sidecar {path} is empty", remedy="write it again")
    return words[0].removeprefix("\\").lower()


def sidecar_line(digest: Digest, path: str) -> bytes:
    """Return the content of the sidecar of ``path``."""
    return f"{digest.hexdigest()}  {path.rpartition('/')[2]}\n".encode()
