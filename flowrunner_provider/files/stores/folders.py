"""Paths in stores that have real folders and need a temporary file for each upload."""

from __future__ import annotations

from flowrunner_provider.core.names import join_inside, part_name

__all__ = ["FolderPaths", "part_of"]


class FolderPaths:
    """The paths of a store with folders.

    :param where: the name of the store in messages.
    """

    where: str

    def label(self, path: str) -> str:
        """Return ``path`` as messages show it; it may be relative to the home folder of the login."""
        return f"{self.where}{path if path.startswith('/') else f'/~/{path}'}"

    def join(self, folder: str, relative: str) -> str:
        """Return the path of ``relative`` in ``folder``; raise ``PathEscape`` if it would lead outside."""
        return join_inside(folder, relative) if folder != "/" else f"/{join_inside('', relative)}"


def part_of(path: str, token: str) -> str:
    """Return the path of the hidden temporary file beside ``path``."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{part_name(name, token)}"
