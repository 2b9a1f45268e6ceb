"""The parameters of an export, validated before anything happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.data.dataset import format_of, local_path
from flowrunner_provider.data.xlsx_writer import MOST_ROWS
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.results import ExportFormat

__all__ = ["ExportPlan"]


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What to export and where; the parameters of the action ``sql.export``.

    :raises ConfigError: naming the parameter to correct.
    """

    dest: str
    sql: str | None = None
    table: str | None = None
    parameters: Params = None
    columns: Sequence[str] | None = None
    order_by: Sequence[str] = ()
    partition_by: Sequence[str] = ()
    max_rows_per_file: int | None = None
    skip_if_empty: bool = False
    chunk_size: int = 10_000
    expected_rows: int | None = None
    format: ExportFormat = field(init=False)

    def __post_init__(self) -> None:
        path = local_path(self.dest, "dest")
        excel = path.suffix.lower() == ".xlsx"
        object.__setattr__(self, "format", "xlsx" if excel else format_of(path, "dest"))
        if excel and (self.max_rows_per_file or 0) > MOST_ROWS:
            raise ConfigError(
                f"a sheet has at most {MOST_ROWS} rows",
                field="max_rows_per_file",
                remedy="pass a smaller number such as 1000000",
            )
        if (self.sql is None) == (self.table is None) or self.sql == "":
            raise ConfigError(
                "pass either sql or table", field="sql", remedy="remove one of the two, or add the missing one"
            )
        if self.table is not None:
            TableName.parse(self.table)
            if self.parameters is not None:
                raise ConfigError(
                    "parameters are for sql", field="parameters", remedy="remove them, or pass sql instead of table"
                )
        for name in ("columns", "order_by", "partition_by"):
            self._check_names(name, getattr(self, name))
        for name, minimum in (("max_rows_per_file", 1), ("chunk_size", 1), ("expected_rows", 0)):
            value = getattr(self, name)
            if value is None and name != "chunk_size":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ConfigError(f"{name} must be {minimum} or more", field=name, remedy="pass an integer")

    def _check_names(self, name: str, value: Sequence[str] | None) -> None:
        if value is None:
            return
        if isinstance(value, str) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} must be a list of column names", field=name, remedy='pass a list such as ["id"]')
        for item in value:
            Identifier(item)
        if len(set(value)) != len(value) or (name == "columns" and not value):
            raise ConfigError(f"{name} is empty or names a column twice", field=name, remedy="name each column once")
