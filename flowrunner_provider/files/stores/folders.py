"""What the stores have in common that have real folders and no way to write a file unseen."""

from __future__ import annotations

from flowrunner_provider.core.names import join_inside, part_name

__all__ = ["FolderPaths", "part_of"]


class FolderPaths:
    """How a store with folders calls what is in it.

    :param where: how messages call the store.
    """

    where: str

    def label(self, path: str) -> str:
        """How messages call ``path``, which may be relative to the login's home folder."""
        return f"{self.where}{path if path.startswith('/') else f'/~/{path}'}"

    def join(self, folder: str, relative: str) -> str:
        """The path of ``relative`` below ``folder``; ``PathEscape`` for a name that would lead elsewhere."""
        return join_inside(folder, relative) if folder != "/" else f"/{join_inside('', relative)}"


def part_of(path: str, token: str) -> str:
    """Where a file is written before it has its name: beside it, hidden."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{part_name(name, token)}"
