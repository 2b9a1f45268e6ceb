"""Options of copy and sync; the parameters of the operators document them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.results import Algorithm, IfExists

__all__ = ["CopyOptions", "SyncOptions"]

_LONGEST = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """Options of a copy. ``only_new`` says whether there is a ledger; where it is, is passed to the engine."""

    move: bool = False
    after: str = "none"
    recursive: bool = False
    if_exists: IfExists = "overwrite"
    verify: Literal["size", "checksum"] = "size"
    algorithm: Algorithm = "sha256"
    verify_sidecar: bool = False
    write_sidecar: bool = False
    only_new: bool = False
    min_age: timedelta = timedelta(0)
    stable_for: timedelta = timedelta(0)
    done_marker: str | None = None
    chmod: str | None = None
    on_item_error: Literal["fail", "continue"] = "fail"
    max_failures: int = 100
    concurrency: int = 4
    preserve_times: bool = True
    max_files: int = 100_000
    max_bytes: int | None = None
    missing_ok: bool = False
    remove_empty_folders: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "if_exists", get_args(IfExists))
        _one_of(self, "verify", ("size", "checksum"))
        _one_of(self, "algorithm", get_args(Algorithm))
        _one_of(self, "on_item_error", ("fail", "continue"))
        for name, most in (("concurrency", 64), ("max_files", 10_000_000), ("max_failures", 1_000)):
            _number(self, name, 1, most)
        if self.max_bytes is not None:
            _number(self, "max_bytes", 1, 1 << 62)
        self._check_after()
        if self.stable_for > _LONGEST:
            raise ConfigError(
                "stable_for is longer than 10 minutes and would occupy a worker slot",
                field="stable_for",
                remedy="wait with files.wait and its stable_for instead",
            )
        if self.done_marker is not None and (not self.done_marker.strip(".") or "/" in self.done_marker):
            raise ConfigError(
                f"done_marker {self.done_marker!r} is not a plain file name",
                field="done_marker",
                remedy="write e.g. _SUCCESS",
            )
        # A number is refused: 0640 in YAML and 0o640 in Python are 416, which are other permission bits.
        if self.chmod is not None and not re.fullmatch(
            r"0?o?[0-7]{3,4}", self.chmod if isinstance(self.chmod, str) else ""
        ):
            raise ConfigError(
                f"chmod is {self.chmod!r}", field="chmod", remedy="write octal digits as a text, such as '0640'"
            )

    def _check_after(self) -> None:
        folder = self.after.removeprefix("move:")
        if self.after not in ("none", "delete") and (folder == self.after or not _normalized(folder).strip("/")):
            raise ConfigError(
                f"after is {self.after!r}", field="after", remedy="write none, delete, or move:<folder of the source>"
            )
        if ".." in folder.split("/") or "\0" in folder:
            raise ConfigError("after contains '..' or NUL", field="after", remedy="write e.g. move:archive/")
        if self.move and self.after not in ("none", "delete"):
            raise ConfigError("move and after are both set", field="after", remedy="remove one of them")
        if self.remove_empty_folders and self.leaves == "none":
            raise ConfigError("remove_empty_folders needs a move", field="remove_empty_folders", remedy="set move=True")

    @property
    def leaves(self) -> Literal["none", "delete", "move"]:
        """What happens to a source once its copy is verified."""
        if self.after.startswith("move:"):
            return "move"
        return "delete" if self.move or self.after == "delete" else "none"

    @property
    def archive(self) -> str:
        """The folder that sources are moved to: absolute, or relative to the folder of the source."""
        return _normalized(self.after.removeprefix("move:")) if self.leaves == "move" else ""

    @property
    def mode(self) -> int | None:
        """The permission bits of the copies."""
        return None if self.chmod is None else int(self.chmod.replace("o", ""), 8)


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """Options of a sync. ``backup_dir`` is a path in the store of ``dest``."""

    compare: Literal["size_mtime", "checksum", "name"] = "size_mtime"
    delete_extra: bool = False
    max_deletes: int = 1000
    backup_dir: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    concurrency: int = 4
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "compare", ("size_mtime", "checksum", "name"))
        for name in ("include", "exclude"):
            globs = getattr(self, name)
            if isinstance(globs, str) or not all(isinstance(glob, str) for glob in globs):
                raise ConfigError(f"{name} is {globs!r}", field=name, remedy="write a list of globs, e.g. ['*.csv']")
        _number(self, "concurrency", 1, 64)
        _number(self, "max_deletes", 0, 10_000_000)


def _normalized(folder: str) -> str:
    """Return ``folder`` without empty components and ``.``; an absolute path stays absolute."""
    return ("/" if folder.startswith("/") else "") + "/".join(
        part for part in folder.split("/") if part not in ("", ".")
    )


def _one_of(options: Any, name: str, allowed: Iterable[str]) -> None:
    if getattr(options, name) not in allowed:
        raise ConfigError(
            f"{name} is {getattr(options, name)!r}", field=name, remedy=f"write one of {', '.join(allowed)}"
        )


def _number(options: Any, name: str, least: int, most: int) -> None:
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}", field=name, remedy=f"write a whole number from {least} to {most}")
