"""The parameters of a load, validated before anything happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.choices import BadRow, Keep, Mode, OnConflict
from flowrunner_provider.database.identifiers import Identifier, TableName

__all__ = ["LoadPlan"]


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How to load rows into a table; the parameters of the actions ``sql.load`` and ``sql.upsert``.

    :param update_columns: the columns an upsert updates in an existing row; None for all except the keys.
    :param on_conflict: what an upsert does with an existing row.

    :raises ConfigError: naming the parameter to correct.
    """

    table: str
    mode: Mode = "append"
    keys: Sequence[str] = ()
    column_map: Mapping[str, str | None] = field(default_factory=dict)
    create_table: bool = False
    keep: Keep = "error"
    expected_rows: int | None = None
    min_rows: int = 0
    on_bad_row: BadRow = "fail"
    reject_path: str | None = None
    max_failures: int = 1000
    update_columns: Sequence[str] | None = None
    on_conflict: OnConflict = "update"

    def __post_init__(self) -> None:
        TableName.parse(self.table)
        for name, choices in (("mode", Mode), ("keep", Keep), ("on_bad_row", BadRow), ("on_conflict", OnConflict)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}",
                    field=name,
                    remedy=f"use one of {', '.join(map(repr, get_args(choices)))}",
                )
        self._check_keys()
        self._check_updates()
        self._check_counts()
        self._check_rejects()

    def _check_keys(self) -> None:
        if isinstance(self.keys, str) or not all(isinstance(key, str) for key in self.keys):
            raise ConfigError("keys must be a list of column names", field="keys", remedy='pass a list such as ["id"]')
        if len(set(self.keys)) != len(self.keys):
            raise ConfigError("keys names a column twice", field="keys", remedy="name each column once")
        if (self.mode == "upsert") != bool(self.keys):
            raise ConfigError(
                "keys are required for mode='upsert' and not allowed for other modes",
                field="keys",
                remedy="pass the columns of the table that identify a row, or change the mode",
            )
        if self.keep != "error" and self.mode != "upsert":
            raise ConfigError("keep is for mode='upsert'", field="keep", remedy="remove it")

    def _check_updates(self) -> None:
        updates = self.update_columns
        if updates is None:
            return
        if isinstance(updates, str) or not all(isinstance(name, str) for name in updates) or not updates:
            raise ConfigError(
                "update_columns must be a list of column names",
                field="update_columns",
                remedy='pass a list such as ["price"]',
            )
        if self.on_conflict == "ignore" or self.mode != "upsert":
            raise ConfigError(
                "update_columns is for an upsert with on_conflict='update'",
                field="update_columns",
                remedy="remove update_columns, or use on_conflict='update'",
            )
        if set(updates) & set(self.keys) or len(set(updates)) != len(updates):
            raise ConfigError(
                "update_columns contains a key or a duplicate",
                field="update_columns",
                remedy="name each column once, without the keys",
            )

    @property
    def updates(self) -> Sequence[str] | None:
        """The ``updates`` argument of :meth:`Session.merge`."""
        return () if self.on_conflict == "ignore" else self.update_columns

    def _check_counts(self) -> None:
        for name in ("expected_rows", "min_rows", "max_failures"):
            value = getattr(self, name)
            if value is None and name == "expected_rows":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{name} must be 0 or more", field=name, remedy="pass an integer")

    def _check_rejects(self) -> None:
        if self.on_bad_row == "fail":
            if self.reject_path is not None:
                raise ConfigError(
                    "reject_path is for on_bad_row='reject'", field="reject_path", remedy="add on_bad_row='reject'"
                )
            return
        if not self.reject_path or "\0" in self.reject_path or "://" in self.reject_path:
            raise ConfigError(
                "on_bad_row='reject' needs reject_path, a file on the worker's disk",
                field="reject_path",
                remedy="pass a path such as /data/orders.rejected.jsonl",
            )
        if self.mode == "upsert":
            raise ConfigError(
                "mode='upsert' cannot set single rows aside: it merges all rows in one statement",
                field="on_bad_row",
                remedy="load into a separate table with mode='append' first, or use on_bad_row='fail'",
            )

    def columns(self, source: Sequence[str]) -> list[tuple[int, str]]:
        """Return the columns to load: the index in the source and the name in the table of each.

        :raises ConfigError: if the map does not match the source.
        """
        for name in self.column_map:
            if name not in source:
                raise ConfigError(
                    f"column_map names {name!r}, which the source does not have",
                    field="column_map",
                    remedy=f"the source has {', '.join(source)}",
                )
        named = [(place, self.column_map.get(name, name)) for place, name in enumerate(source)]
        chosen = [(place, Identifier(name).text) for place, name in named if name is not None]
        names = [name for _, name in chosen]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"two columns of the source go to {duplicates[0]!r}",
                field="column_map",
                remedy="map them to different names, or map one to null to leave it out",
            )
        if not names:
            raise ConfigError("no column is left to load", field="column_map", remedy="map fewer columns to null")
        if missing := [key for key in self.keys if key not in names]:
            raise ConfigError(
                f"the key {missing[0]!r} is not loaded",
                field="keys",
                remedy="use the names of table columns, after column_map",
            )
        if missing := [name for name in self.update_columns or () if name not in names]:
            raise ConfigError(
                f"the column {missing[0]!r} of update_columns is not loaded",
                field="update_columns",
                remedy="use the names of table columns, after column_map",
            )
        return chosen

    def fingerprint(self, source: Mapping[str, Any]) -> str:
        """Return a digest of the load; the same in every attempt."""
        chosen = ("table", "mode", "keys", "column_map", "keep", "on_bad_row")
        parts = {name: value for name, value in asdict(self).items() if name in chosen}
        if self.updates is not None:
            parts["updates"] = list(self.updates)
        text = json.dumps([parts, dict(source)], sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:40]
