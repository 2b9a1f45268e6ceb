"""The results of the SQL actions: small, JSON, and without values of rows (except a file's preview)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.data.dataset import Dataset

__all__ = [
    "CreateTableResult", "ExportFormat", "ExportResult", "LoadResult", "MaintainResult", "ModifyResult",
    "ProcedureResult", "SchemaCheckResult", "SchemaDifference", "StatementResult", "TransactionResult",
]  # fmt: skip

ExportFormat = Literal["jsonl", "csv", "parquet", "xlsx"]
"""The file formats, by suffix; xlsx is only written, never read back."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What happened to the rows of the source: ``rows`` is the sum of the other counts.

    :param table: with its schema.
    :param skipped: rows that a later row with the same keys replaced, or that changed nothing.
    :param rejected: rows written to ``reject_path``.
    """

    table: str
    rows: int
    inserted: int
    updated: int
    skipped: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class ExportResult(Dataset):
    """The exported rows; with one file, this is an ordinary dataset.

    :param files: one dataset per file; empty if nothing was written.
    """

    format: ExportFormat  # type: ignore[assignment]  # an Excel file is no dataset to read
    files: list[Dataset]


@dataclass(frozen=True, kw_only=True)
class ModifyResult:
    """The change.

    :param affected: the number of rows changed; with ``dry_run``, the number that match.
    """

    table: str
    operation: str
    affected: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """The outcome of one statement.

    :param rows: the number of rows it changed or, for a query, returned.
    :param undone: it was rolled back, or not run, because of an error after its savepoint.
    """

    name: str
    rows: int
    undone: bool


@dataclass(frozen=True, kw_only=True)
class TransactionResult:
    """The outcome of all statements.

    :param rows: the sum over the statements that were not undone.
    :param undone: the number of statements that were undone.
    """

    statements: list[StatementResult]
    rows: int
    undone: int


@dataclass(frozen=True, kw_only=True)
class MaintainResult:
    """What was done.

    :param tables: with their schemas.
    :param rows: the number of rows that ``truncate`` or ``drop`` removed; with ``dry_run``, would remove.
    """

    operation: str
    tables: list[str]
    rows: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class CreateTableResult:
    """The table that exists now.

    :param table: with its schema.
    :param created: False if a matching table existed.
    :param replaced: it replaced another table.
    :param columns: name -> dataset type, as requested.
    """

    table: str
    created: bool
    replaced: bool
    columns: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SchemaDifference:
    """One difference between the expected and the actual structure.

    :param change: ``added``, ``removed`` or ``changed``.
    :param what: ``table``, ``column``, ``type``, ``nullability``, ``default``, ``primary_key``, ``index`` or
        ``foreign_key``.
    :param name: the name of the column or index; empty for the table itself.
    :param expected: as the database reports it; empty if added.
    :param found: as the database reports it; empty if removed.
    """

    table: str
    change: str
    what: str
    name: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True)
class SchemaCheckResult:
    """The result of the comparison.

    :param tables: the number of tables compared.
    :param drift: whether there is a difference.
    :param differences: the first 200 differences; ``count`` is their total number.
    :param snapshot: where the structures were written; empty for nowhere.
    """

    tables: int
    drift: bool
    count: int
    differences: list[SchemaDifference]
    snapshot: str


@dataclass(frozen=True, kw_only=True)
class ProcedureResult:
    """What a call returned.

    :param outputs: name -> value of each output, as JSON types.
    :param result_sets: the rows of each result set, as objects; empty if they were saved.
    :param rows: the number of rows returned.
    :param dataset: the saved rows; null without ``save_to``.
    """

    outputs: dict[str, Any]
    result_sets: list[list[dict[str, Any]]]
    rows: int
    dataset: Dataset | None
