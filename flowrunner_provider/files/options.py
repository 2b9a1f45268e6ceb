"""How to copy, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.core.errors import ConfigError

__all__ = ["CopiedFile", "CopyOptions", "CopyResult", "IfExists"]

IfExists = Literal["overwrite", "skip", "rename", "fail"]


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """How to copy; the parameters of ``files.copy`` say what each means."""

    move: bool = False
    recursive: bool = False
    if_exists: IfExists = "overwrite"
    verify: Literal["size", "checksum"] = "size"
    concurrency: int = 4
    preserve_times: bool = True
    max_files: int = 100_000
    missing_ok: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("if_exists", ("overwrite", "skip", "rename", "fail")),
            ("verify", ("size", "checksum")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}", field=name, remedy=f"write one of {', '.join(allowed)}"
                )
        for name, most in (("concurrency", 64), ("max_files", 10_000_000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} is {value!r}", field=name, remedy=f"write a whole number from 1 to {most}")


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """One file of the result's preview."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """What was copied, over all attempts.

    :param files: how many files were copied (or moved).
    :param bytes: their size together.
    :param skipped: how many were left alone because their target was there.
    :param dest: where they are.
    :param entries: the first of them, at most 20.
    """

    files: int
    bytes: int
    skipped: int
    dest: str
    entries: list[CopiedFile]
