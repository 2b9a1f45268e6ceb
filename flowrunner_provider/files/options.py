"""How to copy, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.results import IfExists

__all__ = ["CopyOptions"]


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
