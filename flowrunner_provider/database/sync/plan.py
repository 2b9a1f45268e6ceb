"""The parameters of a sync, validated before any effect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.sync.results import Drift, ReplaceBy, SyncMode
from flowrunner_provider.database.sync.source import Origin

__all__ = ["SyncPlan"]


@dataclass(frozen=True, kw_only=True)
class SyncPlan:
    """The parameters of the action ``sql.sync``.

    :param origin: the rows to read.
    :param place: distinguishes this source from another one that is synced into the same table.
    :raises ConfigError: naming the parameter to correct.
    """

    origin: Origin
    place: str
    table: str
    mode: SyncMode = "full"
    keys: Sequence[str] = ()
    watermark: str | None = None
    lookback: str | float | timedelta = 0
    column_map: Mapping[str, str | None] = field(default_factory=dict)
    schema_drift: Drift = "fail"
    replace_by: ReplaceBy = "auto"
    detect_deletes: bool = False
    soft_delete_column: str | None = None
    max_deletes: int | None = 1000
    allow_empty: bool = False
    batch_size: int = 5_000

    def __post_init__(self) -> None:
        TableName.parse(self.table)
        for name, choices in (("mode", SyncMode), ("schema_drift", Drift), ("replace_by", ReplaceBy)):
            if getattr(self, name) not in get_args(choices):
                raise _bad(name, f"{name} is {getattr(self, name)!r}", f"use one of {', '.join(get_args(choices))}")
        self._check_keys()
        self._check_watermark()
        self._check_deletes()
        if not isinstance(self.column_map, Mapping):
            raise _bad("column_map", "column_map must be an object", 'write {"source name": "table name"}')
        if not isinstance(self.batch_size, int) or not 1 <= self.batch_size <= 1_000_000:
            raise _bad(
                "batch_size", "batch_size must be between 1 and 1000000", "use a number in this range, for example 5000"
            )

    def _check_keys(self) -> None:
        keys = self.keys
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
            raise _bad("keys", "keys must be a list of column names without duplicates", 'for example ["id"]')
        if (self.mode == "full") == bool(keys):
            raise _bad(
                "keys",
                "mode 'full' takes no keys, and the other modes need them",
                "name the columns that identify a row of the table, or change the mode",
            )

    def _check_watermark(self) -> None:
        if (self.mode == "incremental") != (self.watermark is not None):
            raise _bad(
                "watermark",
                "watermark is for mode 'incremental', which needs it",
                "name a column whose values only grow",
            )
        if self.lookback and self.mode != "incremental":
            raise _bad("lookback", "lookback is for mode 'incremental'", "remove it")
        if not isinstance(self.lookback, int | float) or self.lookback < 0:
            parse_duration(self.lookback, "lookback")

    def _check_deletes(self) -> None:
        if self.detect_deletes and self.mode == "full":
            raise _bad(
                "detect_deletes", "mode 'full' replaces all rows, so there are no deletes to detect", "remove it"
            )
        if self.soft_delete_column is not None:
            Identifier(self.soft_delete_column)
            if not self.detect_deletes or self.soft_delete_column in self.keys:
                raise _bad(
                    "soft_delete_column", "soft_delete_column needs detect_deletes and cannot be a key", "correct both"
                )
        most = self.max_deletes
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
            raise _bad("max_deletes", "max_deletes must be 0 or more", "give a whole number, or null for no limit")

    def columns(self, source: Iterable[str]) -> dict[str, str]:
        """Return name in the source -> name in the table, without the columns that are mapped to null.

        :raises ConfigError: if ``column_map``, ``keys`` or ``watermark`` do not fit the source.
        """
        known = list(source)
        needed = [*self.column_map, *([self.watermark] if self.watermark is not None else [])]
        if unknown := [name for name in needed if name not in known]:
            raise _bad(
                "column_map" if unknown[0] in self.column_map else "watermark",
                f"the source has no column {unknown[0]!r}",
                f"it has {', '.join(known)}",
            )
        chosen = {name: self.column_map.get(name, name) for name in known}
        named = {name: Identifier(other).text for name, other in chosen.items() if other is not None}
        names = list(named.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _bad("column_map", f"two columns of the source are mapped to {twice[0]!r}", "map one of them to null")
        if self.soft_delete_column in names:
            raise _bad("soft_delete_column", "a column of the source is mapped to soft_delete_column", "map it to null")
        if missing := [key for key in self.keys if key not in names]:
            raise _bad("keys", f"the key {missing[0]!r} is not in the source", "name columns of the table")
        if not names:
            raise _bad("column_map", "all columns are mapped to null", "keep at least one")
        return named

    def fingerprint(self) -> str:
        """Return a digest of the work, the same in every attempt."""
        chosen = {
            name: value for name, value in vars(self).items() if name not in ("origin", "batch_size", "max_deletes")
        }
        return _digest(chosen, self._read)

    def identity(self) -> str:
        """Return a digest of what the watermark belongs to: the same rows of the same source."""
        return _digest(self.place, self._read, self.watermark, sorted(self.keys))

    @property
    def _read(self) -> list[Any]:
        return [self.origin.sql, self.origin.table, self.origin.params]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:40]


def _bad(field_name: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field_name, remedy=remedy)
